"""The space of a search: which settings vary, and over which values, read from a YAML file."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from foldblend.errors import UserError, did_you_mean, listed, require, shown
from foldblend.flags import aliases_of, flag_name, flags_of
from foldblend.reading import read_yaml_file
from pipeline.config.run import RunConfig
from pipeline.config.settings import flatten, replace
from pipeline.search.fixed import FIXED

__all__ = ["Choices", "Range", "Space", "read_space"]

MOST_FLAGS = 100
MOST_CHOICES = 1000
# Settings that are tried to see whether a value that fails alone is possible with other values.
NUM_COMBINED = 200
RANGE_KEYS = ("low", "high", "step", "log")

Value = bool | int | float | str | None


@dataclass(frozen=True, slots=True)
class Choices:
    """A setting that is one of some values."""

    values: tuple[Value, ...]

    def samples(self) -> list[Value]:
        """Return values that show whether the flag accepts all."""
        return [*self.values]

    def draw(self, rng: np.random.Generator) -> Value:
        """Return a random value."""
        return self.values[int(rng.integers(len(self.values)))]

    def holds(self, value: object) -> bool:
        """Return whether a value is one of the choices."""
        return any(type(value) is type(one) and value == one for one in self.values)

    def record(self) -> list[Value]:
        """Return the choices as JSON."""
        return [*self.values]


@dataclass(frozen=True, slots=True)
class Range:
    """A setting that is a number from `low` to `high`."""

    low: float
    high: float
    step: float | None
    log: bool
    integer: bool
    text: bool
    """Whether the flag takes text, so that the number becomes one."""

    def samples(self) -> list[Value]:
        """Return values that show whether the flag accepts all: both ends."""
        return [self.value(self.low), self.value(self.high)]

    def draw(self, rng: np.random.Generator) -> Value:
        """Return a random value."""
        ends = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        drawn = float(rng.uniform(*ends))
        number = min(max(math.exp(drawn) if self.log else drawn, self.low), self.high)
        if self.step is not None:
            number = self.low + self.step * round((number - self.low) / self.step)
        return self.value(number)

    def value(self, number: float) -> Value:
        """Return the value of the setting for a number of Optuna."""
        plain = int(number) if self.integer else float(number)
        return f"{plain:.6g}" if self.text else plain

    def number(self, value: object) -> float | None:
        """Return the number of a value of the setting, or None if it is outside of the range."""
        try:
            number = float(value) if isinstance(value, (str, int, float)) else math.nan
        except ValueError:
            return None
        # NaN is not inside either.
        if not self.low <= number <= self.high or (self.integer and number != int(number)):
            return None
        steps = 0.0 if self.step is None else (number - self.low) / self.step
        return number if math.isclose(steps, round(steps), abs_tol=1e-9) else None

    def holds(self, value: object) -> bool:
        """Return whether a value is in the range."""
        return not isinstance(value, bool) and self.number(value) is not None

    def record(self) -> dict[str, Any]:
        """Return the range as JSON."""
        more = {} if self.step is None else {"step": self.step}
        return {"low": self.low, "high": self.high, "log": self.log, **more}


@dataclass(frozen=True, slots=True)
class Space:
    """The settings that vary in a search, by the name of the setting."""

    of: Mapping[str, Choices | Range]

    def record(self) -> dict[str, Any]:
        """Return the space as JSON, by which a study that goes on recognises it."""
        return {name: one.record() for name, one in sorted(self.of.items())}

    def defaults(self, config: RunConfig) -> dict[str, Value] | None:
        """Return the settings of the command if all of them are in the space, otherwise None."""
        given = flatten(config)
        values = {name: given[name] for name in self.of}
        return values if all(one.holds(values[name]) for name, one in self.of.items()) else None

    def distributions(self) -> dict[str, Any]:
        """Return the distributions of Optuna."""
        return {name: _distribution(one) for name, one in self.of.items()}

    def params(self, settings: Mapping[str, Value]) -> dict[str, Any]:
        """Return the parameters of a trial of Optuna that has these settings."""
        return {
            name: one.number(settings[name]) if isinstance(one, Range) else settings[name]
            for name, one in self.of.items()
        }

    def settings(self, params: Mapping[str, Any]) -> dict[str, Value]:
        """Return the settings of a trial from its parameters.

        Raises UserError if they are not of this space, as in a storage that another program wrote.
        """
        found = {}
        for name, one in self.of.items():
            value = params.get(name)
            if isinstance(one, Range):
                known = isinstance(value, (int, float)) and one.low <= value <= one.high
                require(known, f"{flag_name(name)} {shown(value)}: is not in the space")
                found[name] = one.value(typing.cast("float", value))
            else:
                require(one.holds(value), f"{flag_name(name)} {shown(value)}: is not in the space")
                found[name] = typing.cast("Value", value)
        return found


def _distribution(one: Choices | Range) -> Any:
    from optuna import distributions

    if isinstance(one, Choices):
        return distributions.CategoricalDistribution(one.values)
    if one.integer:
        step = 1 if one.step is None else int(one.step)
        return distributions.IntDistribution(int(one.low), int(one.high), log=one.log, step=step)
    return distributions.FloatDistribution(one.low, one.high, log=one.log, step=one.step)


def _accept(config: RunConfig) -> None:
    """Accept any settings."""


def read_space(
    file: Path, config: RunConfig, *, check: Callable[[RunConfig], None] = _accept
) -> Space:
    """Return the space of a YAML file, whose values are checked with the settings of the command.

    Parameters
    ----------
    file
        A mapping from names of settings to a list of values or to {low, high, step, log}.
    config
        The settings of the command, which hold where the space does not say otherwise.
    check
        Raises UserError for settings that are refused, beyond what the configuration refuses.

    Raises
    ------
    UserError
        In one line with the file: for an unknown setting, one that must not vary, a range without
        values, or a value that the setting refuses.
    """
    found = read_yaml_file(file, cure="check --space")
    require(
        isinstance(found, dict) and bool(found),
        f"{file}: has no setting to search; write lines such as `img_size: [128, 192]`",
    )
    try:
        space = Space(dict(_parsed(found)))
        _check_values(space, config, check)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    return space


def _parsed(found: Mapping[Any, Any]) -> Iterator[tuple[str, Choices | Range]]:
    require(len(found) <= MOST_FLAGS, f"has {len(found)} settings, and at most {MOST_FLAGS} vary")
    known = flags_of(RunConfig)
    words = {
        alias.lstrip("-").replace("-", "_"): name for alias, name in aliases_of(RunConfig).items()
    }
    hints = _hints()
    seen: set[str] = set()
    for key, value in found.items():
        spelt = str(key).lstrip("-").replace("-", "_")
        name = words.get(spelt, spelt)
        require(name in known, f"unknown setting {shown(str(key))!r}{did_you_mean(spelt, known)}")
        require(name not in FIXED, f"{name}: cannot vary, since {FIXED.get(name)}; leave it out")
        require(name not in seen, f"{name}: is there twice; leave one out")
        seen.add(name)
        yield name, _one(name, value, hints[name], whole=known[name].whole)


def _hints() -> dict[str, Any]:
    """Return the annotation of each setting, without None."""
    hints: dict[str, Any] = {}
    for group in dataclasses.fields(RunConfig):
        if dataclasses.is_dataclass(group.default_factory):
            hints |= typing.get_type_hints(group.default_factory)
    return {name: _without_none(hint) for name, hint in hints.items()}


def _without_none(hint: Any) -> Any:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return next(one for one in typing.get_args(hint) if one is not type(None))
    return hint


def _one(name: str, value: Any, hint: Any, *, whole: bool) -> Choices | Range:
    if isinstance(value, dict):
        return _range(name, value, hint, integer=whole or hint is int)
    require(
        isinstance(value, list),
        f"{name}: write a list of values such as [a, b], or {{low: 1, high: 10}}",
    )
    require(bool(value), f"{name}: has no value; write at least one")
    require(len(value) <= MOST_CHOICES, f"{name}: has over {MOST_CHOICES:,} values")
    plain = [one for one in value if one is None or isinstance(one, (bool, int, float, str))]
    require(
        len(plain) == len(value), f"{name}: a value must be a word, a number, true, false or null"
    )
    made = tuple(_plain(one, hint) for one in value)
    twice = [one for place, one in enumerate(made) if one in made[:place]]
    require(not twice, f"{name}: has {shown(twice[0]) if twice else ''} twice; leave one out")
    return Choices(made)


def _plain(value: Value, hint: Any) -> Value:
    """Return a value as the setting has it, as far as this needs no check."""
    if hint is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if typing.get_origin(hint) is Literal and isinstance(value, bool):
        return "on" if value else "off"
    if hint in (int, float) and isinstance(value, str):
        try:
            return hint(value)
        except ValueError:
            return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def _number(name: str, key: str, value: Any) -> float:
    try:
        number = float(value) if isinstance(value, (int, float, str)) else math.nan
    except ValueError:
        number = math.nan
    good = math.isfinite(number) and not isinstance(value, bool)
    require(good, f"{name}: {key} must be a number, not {shown(value)}")
    return number


def _range(name: str, value: Mapping[Any, Any], hint: Any, *, integer: bool) -> Range:
    require(hint in (int, float, str), f"{name}: is no number; write a list of its values")
    for key in map(str, value):
        near = did_you_mean(key, RANGE_KEYS)
        require(key in RANGE_KEYS, f"{name}: unknown key {shown(key)!r}{near}")
    absent = [key for key in ("low", "high") if key not in value]
    require(not absent, f"{name}: lacks {listed(absent)}; write {{low: 1, high: 10}}")
    low = _number(name, "low", value["low"])
    high = _number(name, "high", value["high"])
    step = None if value.get("step") is None else _number(name, "step", value["step"])
    log = value.get("log", False)
    require(isinstance(log, bool), f"{name}: log must be true or false, not {shown(log)}")
    require(low < high, f"{name}: low {low:g} must be below high {high:g}")
    require(not log or low > 0, f"{name}: a range with log must be above 0, not from {low:g}")
    require(
        step is None or 0 < step <= high - low, f"{name}: step must be above 0, up to high - low"
    )
    require(step is None or not log, f"{name}: has both step and log; leave one out")
    numbers = [low, high, *([] if step is None else [step])]
    require(
        not integer or all(one == int(one) for one in numbers),
        f"{name}: takes whole numbers; write low, high and step without decimals",
    )
    return Range(low, high, step, log, integer, hint is str)


def _check_values(space: Space, config: RunConfig, check: Callable[[RunConfig], None]) -> None:
    """Raise UserError for a value that no combination of the space makes possible."""
    rng = np.random.default_rng(0)
    drawn: Sequence[dict[str, Value]] = [
        {name: one.draw(rng) for name, one in space.of.items()} for _ in range(NUM_COMBINED)
    ]
    for name, one in space.of.items():
        for value in one.samples():
            error = _refusal(config, {name: value}, check)
            if error is not None and all(
                _refusal(config, {**others, name: value}, check) is not None for others in drawn
            ):
                raise error


def _refusal(
    config: RunConfig, settings: Mapping[str, Value], check: Callable[[RunConfig], None]
) -> UserError | None:
    """Return the error of the settings, or None."""
    try:
        check(replace(config, **settings))
    except UserError as error:
        return error
    return None
