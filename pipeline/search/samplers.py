"""Samplers of Optuna by name, with options as text."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from foldblend.errors import UserError, did_you_mean, in_a_line, listed, require, shown
from pipeline.search.space import Choices, Space
from pipeline.seeding import derive_seed

__all__ = ["sampler_maker"]

REFUSED = {
    "CmaEsSampler": "its state in the storage is a pickle, which can run code when it is read",
    "PartialFixedSampler": "settings are fixed by flags",
    "BaseSampler": "it proposes nothing",
    "BaseGASampler": "it proposes nothing",
}
# Their proposals are places in one sequence, which belongs to one seed.
SEQUENCES = ("QMCSampler", "GridSampler")


def sampler_maker(name: str, options: Mapping[str, str], space: Space) -> Callable[[int], Any]:
    """Return a function that makes the sampler of the n-th trial.

    Each trial has a sampler with a seed of its own, so that the proposals depend only on the trials
    before: a search that goes on proposes what an unbroken one would.

    Parameters
    ----------
    name
        Class of `optuna.samplers`.
    options
        Its keyword arguments as text.
    space
        The space of the search, which GridSampler needs.

    Raises
    ------
    UserError
        For an unknown sampler or option, or a value that the sampler refuses.
    """
    from optuna import samplers

    known = [one for one in samplers.__all__ if one.endswith("Sampler") and one not in REFUSED]
    require(
        name not in REFUSED,
        f"--optuna-sampler {name}: is refused: {REFUSED.get(name)}; pass another",
    )
    require(
        name in known,
        f"--optuna-sampler {shown(name)}: no such sampler{did_you_mean(name, known)}"
        f"; Optuna has {listed(known, most=20)}",
    )
    made_by = getattr(samplers, name)
    accepted = inspect.signature(made_by).parameters
    for option in options:
        require(
            option in accepted,
            f"--optuna-options {option}: {name} has no such option{did_you_mean(option, accepted)}",
        )
    given = {option: _value(option, text) for option, text in options.items()}
    seed = given.pop("seed", 0)
    require(isinstance(seed, int), f"--optuna-options seed={seed}: pass a whole number")
    if name == "GridSampler":
        given.setdefault("search_space", _grid(space))

    def make(number: int) -> Any:
        own = seed if name in SEQUENCES else derive_seed("search", seed, number) % 2**32
        with warnings.catch_warnings():
            # Optuna will move some arguments; a message would come before the line of an error.
            warnings.simplefilter("ignore", FutureWarning)
            return made_by(**given, **({"seed": own} if "seed" in accepted else {}))

    try:
        _try_out(make, space)
    except Exception as error:
        words = ",".join(f"{option}={text}" for option, text in options.items())
        flags = f"--optuna-sampler {name}" + (f" --optuna-options {words}" if words else "")
        raise UserError(
            f"{flags}: cannot propose settings of this space ({in_a_line(error)}); pass others, or"
            " change the space"
        ) from None
    return make


def _try_out(make: Callable[[int], Any], space: Space) -> None:
    """Propose settings of a study in memory, which shows whether the options suit the space."""
    import optuna

    study: Any = optuna.create_study(sampler=make(0))
    # A sampler calls it after its last settings; Optuna's own is for `optimize` only.
    study.stop = lambda: None
    for number in range(2):
        trial = study.ask(space.distributions())
        study.tell(trial, float(number))


def _value(option: str, text: str) -> Any:
    """Return the value of an option: a number, true, false, null or a word."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    plain = value is None or isinstance(value, (bool, int, float, str))
    require(plain, f"--optuna-options {option}={text}: pass a number, true, false or a word")
    return value


def _grid(space: Space) -> dict[str, list[Any]]:
    ranges = [name for name, one in space.of.items() if not isinstance(one, Choices)]
    require(
        not ranges,
        f"--optuna-sampler GridSampler: {listed(ranges)} are ranges; write lists of values",
    )
    return {name: [*one.values] for name, one in space.of.items() if isinstance(one, Choices)}
