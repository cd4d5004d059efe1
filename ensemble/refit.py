"""Refit a blend that was made before fitted methods were kept, from its members."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.align import Aligned, align
from ensemble.columns import BlendColumns, read_for
from ensemble.config import BlendConfig, read_blend_file
from ensemble.find import BLENDED, check_members, member_record
from ensemble.methods.base import Evidence, Fitted, Method
from ensemble.methods.mixture import MIXTURE, Mixture
from ensemble.methods.registry import method_of, weighted_vote
from ensemble.parameters import Parameters
from ensemble.parameters_file import PARAMETERS
from ensemble.singles import Singles
from ensemble.subsets import of_members
from ensemble.threads import one_thread
from foldblend.errors import UserError, listed
from foldblend.image_columns import names_of
from foldblend.runs.check import finished_run
from foldblend.runs.run import Run
from foldblend.scores.held_out import group_parts, outer_parts
from foldblend.scores.metrics import Metric
from foldblend.scores.rows import Rows
from foldblend.scores.run_metric import metric_of

__all__ = ["Refit", "agrees", "refitted"]

# Relative and absolute difference of numbers that another machine, whose sums are rounded
# differently, may compute. Summaries are rounded to 4 digits.
CLOSE = 1e-5
CLOSE_SUMMARY = 1e-3


def agrees(now: Any, then: Any) -> bool:
    """Return whether a summary of a fitted method is the one that a blend.yaml has.

    Keys that only one of them has are of another version of foldblend.

    Examples
    --------
    >>> agrees({"vote": "soft", "weights": [0.5]}, {"vote": "soft", "weights": [0.5000001]})
    True
    >>> agrees({"vote": "soft"}, {"vote": "log"})
    False
    """
    if isinstance(now, Mapping) and isinstance(then, Mapping):
        return all(agrees(value, then[name]) for name, value in now.items() if name in then)
    if isinstance(now, (list, tuple)) and isinstance(then, (list, tuple)):
        return len(now) == len(then) and all(map(agrees, now, then))
    if isinstance(now, float) and isinstance(then, (int, float)):
        return math.isclose(now, then, rel_tol=CLOSE_SUMMARY, abs_tol=CLOSE_SUMMARY)
    return bool(now == then)


def _again(folder: Path) -> str:
    """Return the command that makes a blend again in its folder."""
    where = folder.resolve()
    return (
        f"python blend.py --config {folder / 'blend.yaml'} --output {where.parent} --name"
        f" {where.name}"
    )


def _found(run: Run) -> tuple[str, Mapping[str, Any], np.ndarray]:
    """Return the method, the summary of the fitted one and the offsets that blend.yaml has."""
    try:
        found = run.settings["found"]
        method = str(found["method"])
        offsets_C = np.asarray(found["offsets"], float)
        fitted = dict(found["fitted"])
        whole = offsets_C.shape == (len(run.classes),) and bool(np.isfinite(offsets_C).all())
    except (LookupError, TypeError, ValueError):
        whole = False
    if not whole:
        raise UserError(
            f"{run.path / 'blend.yaml'}: absent, damaged or without the fitted method, so the blend"
            " cannot be refitted; make it again from its runs"
        )
    return method, fitted, offsets_C


def _members(run: Run, config: BlendConfig) -> list[Run]:
    """Return the members of a blend, which must be the same as when it was made."""
    gone = [path for path in config.runs if not (Path(path) / "run.json").is_file()]
    if gone:
        raise UserError(
            f"{run.path}: it has no {PARAMETERS} and cannot be refitted, because"
            f" {listed(gone, most=9)} {'is' if len(gone) == 1 else 'are'} gone; put these run"
            " folders back, or blend other runs"
        )
    members = [finished_run(path, needed=BLENDED) for path in config.runs]
    check_members(run.path / "blend.yaml", members, [member_record(one) for one in members])
    return members


def _method(name: str, summary: Mapping[str, Any], config: BlendConfig) -> Method:
    """Return the method that a summary is of, with its weights and the members it uses.

    Raises LookupError, TypeError or ValueError for a summary that blend.py does not write.
    """
    if name == MIXTURE:
        return _mixture(summary[MIXTURE], config)
    method = method_of(name)
    if config.weights is not None:
        return replace(method, fit=weighted_vote(name, config.weights))
    # Members are chosen by --budget and --drop-harmful.
    return of_members(method, tuple(summary["members"])) if "members" in summary else method


def _mixture(summaries: Sequence[Mapping[str, Any]], config: BlendConfig) -> Method:
    """Return the method that fits the parts of a mixture and keeps its weights and offsets."""
    names = tuple(str(one["method"]) for one in summaries)
    methods = [_method(name, one, config) for name, one in zip(names, summaries, strict=True)]
    weights = tuple(float(one["weight"]) for one in summaries)
    offsets_SC = np.array([one["offsets"] for one in summaries], float)

    def fit(evidence: Evidence) -> Fitted:
        return Mixture(names, tuple(one.fit(evidence) for one in methods), weights, offsets_SC)

    return Method("mean of several methods", fit)


def _fit(method: Method, aligned: Aligned, metric: Metric, columns: BlendColumns | None) -> Fitted:
    """Fit the method on all rows, as `ensemble.combine.combine` does for the test set."""
    if not method.fits:
        zeros_C = np.zeros(len(aligned.runs[0].classes))
        none_N = np.empty(0, int)
        return method.fit(
            Evidence([zeros_C[None]] * len(aligned.members), Rows.of(none_N, none_N), metric)
        )
    rows = Singles(aligned, metric, blend="").rows
    of_rows = None if columns is None else columns.rows
    return method.fit(Evidence(list(aligned.oof()), rows, metric, of_rows))


class Refit:
    """The method of a blend, to be fitted again on some rows.

    The method itself, the members that --budget or --drop-harmful left, and the weights of a mean
    of several methods are those of the blend.
    """

    def __init__(self, run: Run) -> None:
        """Take a blend; raise UserError if its blend.yaml is damaged."""
        self.name, summary, offsets_C = _found(run)
        self.zeros_C = np.zeros_like(offsets_C)
        config = read_blend_file(run.path / "blend.yaml")
        try:
            self.method = _method(self.name, summary, config)
        except (LookupError, TypeError, ValueError):
            raise UserError(
                f"{run.path / 'blend.yaml'}: its fitted method, {self.name}, is unknown or damaged;"
                f" make the blend again: {_again(run.path)}"
            ) from None
        self.metric = metric_of(run.info)

    # One thread makes sums the same on any number of cores.
    @one_thread()
    def fit(self, logits_MNC: Sequence[np.ndarray], rows: Rows) -> Parameters:
        """Return the method fitted on the members' logits of these rows, without offsets."""
        fitted = self.method.fit(Evidence(list(logits_MNC), rows.coded(), self.metric))
        return Parameters(self.name, fitted, self.zeros_C, self.method.of_shares).plain()

    def cross_fitted(self, logits_MNC: Sequence[np.ndarray], rows: Rows) -> np.ndarray:
        """Return blended logits N x C, each row by the method fitted on other groups.

        Rows of a single fold are split into halves of groups.
        """
        if len(np.unique(rows.fold_N)) < 2:
            rows = rows.in_folds(group_parts(rows.label_N, rows.group_N, num_parts=2))
        found_NC = np.full(logits_MNC[0].shape, np.nan, np.float32)
        for _, _, held_N, other_N in outer_parts(rows):
            fitted = self.fit([one[other_N] for one in logits_MNC], rows.take(other_N))
            found_NC[held_N] = fitted.apply(one[held_N] for one in logits_MNC)
        return found_NC


# One thread makes sums the same on any number of cores.
@one_thread()
def refitted(run: Run) -> Parameters:
    """Fit the method of a blend again on all rows of its members, as its blend.yaml records it.

    The method is not chosen again, and offsets per class are those of blend.yaml.

    Raises
    ------
    UserError
        If members are gone or have changed, or if the result is not that of the blend.
    """
    name, summary, offsets_C = _found(run)
    config = read_blend_file(run.path / "blend.yaml")
    members = _members(run, config)
    try:
        method = _method(name, summary, config)
    except (LookupError, TypeError, ValueError):
        raise UserError(
            f"{run.path / 'blend.yaml'}: its fitted method, {name}, is unknown or damaged, so the"
            f" blend cannot be refitted; make it again: {_again(run.path)}"
        ) from None
    aligned = align(members, intersect=config.intersect)
    columns = None
    if config.meta_cols is not None:
        columns = read_for(aligned, names_of(config.meta_cols))
    fitted = _fit(method, aligned, metric_of(run.info), columns)
    parameters = Parameters(name, fitted, offsets_C, method.of_shares)
    same = agrees(fitted.as_dict(), summary)
    if same and run.test is not None and aligned.test_ids is not None:
        folds = map(aligned.test, aligned.test_folds)
        of_test = None if columns is None else columns.test
        made = parameters.table(aligned.test_ids, folds, of_test)
        same = made["image_id"].equals(run.test["image_id"]) and np.allclose(
            run.logits(made), run.logits(run.test), rtol=CLOSE, atol=CLOSE
        )
    if not same:
        raise UserError(
            f"{run.path}: it has no {PARAMETERS}, and fitted again on its members it gives other"
            f" logits; make it again: {_again(run.path)}"
        )
    return parameters
