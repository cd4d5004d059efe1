"""A checkpoint that does not fit, or has values that are not finite, is never a dead end."""

import contextlib
import copy
import math
import shutil

import numpy as np
import pytest
import torch

from foldblend.errors import UserError
from pipeline.cv import cross_validate
from pipeline.job import NotFiniteLogitsError
from pipeline.training import fold_training
from pipeline.training.checkpoint import CHECKPOINT, Checkpoints
from pipeline.training.finite import NotFiniteError
from pipeline.training.fit import Fit
from pipeline.training.saved_state import Course, MisfitError, check_course
from tests.pipeline.test_resume import config_of, run_until, same
from tests.pipeline.test_training_options import Plain, batches, fit_of

KINDS = {
    "adamw": {},
    "ema": {"model_ema": True, "sched": "onecycle"},
    "mean": {"average_last": 1, "sched": "plateau", "opt": "lion", "epochs": 2},
    "adafactor": {"opt": "adafactor", "epochs": 2},
    "momentum": {"opt": "sgd", "sched": "step"},
}
LOADER = batches(4, 8)


class StopError(BaseException):
    """Raised to stop after some steps."""


def saved_state(**flags):
    """Return the state of a fit in the middle of its first epoch."""
    fit = fit_of(Plain(), LOADER, **flags)
    taken = []

    def after_step():
        taken.append(1)
        if len(taken) == 2:
            raise StopError

    with pytest.raises(StopError):
        list(fit.epochs(LOADER, after_step=after_step))
    return copy.deepcopy(fit.state_dict())


def paths(value, here=()):
    """Yield the path of every value, leaf or not, in nested mappings and lists."""
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, one in items:
        yield (*here, key)
        yield from paths(one, (*here, key))


def changed(state, path, change):
    """Return a copy with one value replaced by change(value), or deleted if that is StopError."""
    copied = copy.deepcopy(state)
    inner = copied
    for key in path[:-1]:
        inner = inner[key]
    value = change(inner[path[-1]])
    if value is StopError:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return copied


def unfinite(value):
    if isinstance(value, torch.Tensor):
        return torch.full_like(value, math.nan) if value.is_floating_point() else value.double()
    return math.nan


def reshaped(value):
    return value.reshape(1, -1)[:, :1] if isinstance(value, torch.Tensor) else [value]


CHANGES = {
    "missing": lambda _: StopError,
    "none": lambda _: None,
    "text": lambda _: "x",
    "list": lambda _: [1, 2],
    "mapping": lambda _: {},
    "tensor": lambda _: torch.ones(3, 1, 2),
    "not finite": unfinite,
    "another shape": reshaped,
    "negative": lambda value: -value if isinstance(value, int) and value else -5,
    "huge": lambda _: 10**30,
}


def goes_on(state, **flags):
    """Train a fit from a state to its end."""
    fit = fit_of(Plain(), LOADER, **flags)
    fit.load_state_dict(state)
    left = LOADER[fit.step :]
    for _ in fit.epochs(left):
        left = LOADER
    return fit


@pytest.mark.parametrize(
    ("kind", "every"),
    [("adamw", 7), ("mean", 7), *(pytest.param(one, 1, marks=pytest.mark.slow) for one in KINDS)],
)
def test_a_state_is_continued_from_or_refused_and_never_fails_otherwise(kind, every):
    flags = KINDS[kind]
    state = saved_state(**flags)
    assert goes_on(copy.deepcopy(state), **flags).is_done
    refused = 0
    cases = [(path, change) for path in paths(state) for change in CHANGES.values()][::every]
    for path, change in cases:
        # A learning rate of 1e30 is one that was asked for.
        with contextlib.suppress(NotFiniteError):
            try:
                goes_on(changed(state, path, change), **flags)
            except MisfitError:
                refused += 1
    assert refused > 0.4 * len(cases)


@pytest.mark.parametrize("part", ["model", "optimizer", "average"])
def test_values_that_are_not_finite_are_refused_wherever_they_are(part):
    flags = KINDS["ema"]
    state = saved_state(**flags)
    found = [
        path
        for path in paths(state)
        if path[0] == part
        and isinstance(value := at(state, path), torch.Tensor)
        and value.is_floating_point()
    ]
    assert found
    for path in found:
        with pytest.raises(MisfitError, match="not finite"):
            goes_on(changed(state, path, unfinite), **flags)


def at(state, path):
    for key in path:
        state = state[key]
    return state


def test_a_mask_that_is_infinite_from_the_start_is_no_fault():
    class Masked(Plain):
        def __init__(self):
            super().__init__()
            self.register_buffer("mask", torch.tensor([0.0, -math.inf]))

    fit = fit_of(Masked(), LOADER)
    assert fit.is_finite()
    fit_of(Masked(), LOADER).load_state_dict(copy.deepcopy(fit.state_dict()))
    fit.model.linear.bias.data[0] = math.inf
    assert not fit.is_finite()
    with pytest.raises(MisfitError, match="not finite"):
        fit_of(Masked(), LOADER).load_state_dict(fit.state_dict())


def test_the_log_of_a_checkpoint_is_checked():
    model = Plain().state_dict()
    good = vars(Course(rows=[{"epoch": 0, "lr": 0.1}], best_score=0.5, best_state=dict(model)))
    assert check_course(good, model, epochs=2).rows == good["rows"]
    assert check_course(vars(Course()), model, epochs=2) == Course()
    for path in paths(good):
        for name, change in CHANGES.items():
            try:
                check_course(changed(good, path, change), model, epochs=2)
            except MisfitError:
                continue
            # Any number may be a score or a rate, and no epoch need be logged.
            assert path[0] in ("rows", *vars(Course())), (path, name)
    for wrong in (None, [], {"rows": []}, {**good, "more": 1}):
        with pytest.raises(MisfitError):
            check_course(wrong, model, epochs=2)


def test_a_state_that_is_not_worth_keeping_removes_the_checkpoint(tmp_path):
    checkpoints = Checkpoints(tmp_path, {"configuration": "a"}, every=0)
    checkpoints.save({"never": 1})
    assert checkpoints.file.is_file()
    checkpoints.save_if_due(lambda: None)
    assert not checkpoints.file.exists()
    assert checkpoints.load() is None
    assert checkpoints.problem is None
    checkpoints.file.write_bytes(b"nothing")
    assert checkpoints.load() is None
    assert checkpoints.problem is not None


def edit_checkpoint(file, change):
    """Rewrite a checkpoint, with a valid checksum."""
    payload = torch.load(file, weights_only=True)
    checkpoints = Checkpoints(file.parent, payload["run_key"], every=0)
    change(payload["state"])
    checkpoints.save(payload["state"])


def spoil(state):
    state["fit"]["model"]["conv_stem.weight"][0] = math.nan


def shrink(state):
    state["fit"]["model"] = {"conv_stem.weight": torch.ones(1)}


def mislead(state):
    for one in state["fit"]["optimizer"]["state"].values():
        one["exp_avg"] = one["exp_avg"].reshape(-1)[:1].repeat(1)
        one.pop("exp_avg_sq")


def unlog(state):
    del state["course"]["rows"]


@pytest.mark.parametrize("change", [spoil, shrink, mislead, unlog])
def test_a_fold_starts_again_from_such_a_checkpoint(change, tiny_layout, tmp_path, monkeypatch):
    config = config_of(tiny_layout, tmp_path, epochs=1)
    run_until(config, monkeypatch, 2)
    folder = tmp_path / "a"
    whole_file = tmp_path / "whole.ckpt"
    file = folder / "fold_0" / CHECKPOINT
    shutil.copy(file, whole_file)
    edit_checkpoint(file, change)
    said = []
    made = cross_validate(config, say=said.append)
    lines = [line for line in said if "starts from the beginning" in line]
    assert len(lines) == 1
    assert f"fold 0: {file} is removed (" in lines[0]
    assert not list(tmp_path.glob(f"a/**/{CHECKPOINT}"))
    whole = cross_validate(config_of(tiny_layout, tmp_path / "w", epochs=1), say=lambda _: None)
    same(made, whole)


def test_logits_that_are_not_finite_leave_no_checkpoint(tiny_layout, tmp_path, monkeypatch):
    config = config_of(tiny_layout, tmp_path, epochs=1)

    def fails(*_, **__):
        raise NotFiniteLogitsError("fold 0: the logits are not finite")

    with monkeypatch.context() as patch:
        patch.setattr(fold_training, "write_fold", fails)
        with pytest.raises(UserError, match="not finite"):
            cross_validate(config, say=lambda _: None)
    assert not list(tmp_path.rglob(CHECKPOINT))
    assert len(cross_validate(config, say=lambda _: None).oof)


def test_weights_that_are_not_finite_are_not_saved(tiny_layout, tmp_path, monkeypatch):
    config = config_of(tiny_layout, tmp_path, epochs=1)
    step = Fit._train_step

    def explodes(self, *args):
        step(self, *args)
        next(self.model.parameters()).data[0] = math.inf

    with monkeypatch.context() as patch:
        patch.setattr(Fit, "_train_step", explodes)
        with pytest.raises(UserError, match="not finite"):
            cross_validate(config, say=lambda _: None)
    assert not list(tmp_path.rglob(CHECKPOINT))
    same_again = cross_validate(config, say=lambda _: None)
    assert np.isfinite(same_again.logits(same_again.oof)).all()


def test_a_fold_is_not_begun_without_room_for_its_files(tiny_layout, tmp_path, monkeypatch):
    config = config_of(tiny_layout, tmp_path, epochs=1)
    monkeypatch.setattr("foldblend.failures.free_bytes", lambda _: 5000)
    taken = []
    monkeypatch.setattr(Fit, "_train_step", lambda *_: taken.append(1))
    with pytest.raises(UserError, match=r"fold_0: its files need at least .*, and 5 kB are free"):
        cross_validate(config, say=lambda _: None)
    assert not taken
