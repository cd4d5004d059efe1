"""From aligned members to one prediction: what is combined how, and what the report will say of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ensemble.align import Aligned
from ensemble.auto import Blended, apply, blend_arrays, nested_once_more
from ensemble.budget import Row, frontier_section, parse_budget
from ensemble.choose import Score
from ensemble.config import AUTO, BlendConfig
from ensemble.method import Evidence, Fitted, Method
from ensemble.methods import METHODS, weighted_vote
from ensemble.nested import splits_of
from ensemble.sections import errors_section, methods_section
from ensemble.subsets import frontier_rows, within
from ensemble.vote import POOLS
from folds.errors import UserError
from pipeline.store import with_logits
from reports.blocks import comparison_block, section
from reports.bootstrap import percentile_interval
from reports.metrics import METRICS, softmax
from reports.summary import compare_row, with_differences

__all__ = ["Blend", "combine", "methods_to_try"]

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Blend:
    """What becomes of members: logits out of fold, test tables of each fold's models, and how they came about."""

    logits_NC: np.ndarray
    tests: list[pd.DataFrame]
    method: str
    fitted: Fitted
    offsets_C: np.ndarray
    sections: dict[str, dict[str, Any]]
    notes: list[str] = field(default_factory=list)


def methods_to_try(config: BlendConfig, *, same_folds: bool, num_members: int) -> dict[str, Method]:
    """Return the methods that a blend is made by or chooses from. Raises UserError where one may not be fitted."""
    name = config.method
    if config.weights is not None:
        name = "soft" if name == AUTO else name
        return {name: Method(METHODS[name].what, weighted_vote(name, config.weights), fits=False)}
    may_fit = same_folds or config.allow_different_folds
    fits = f"--budget {config.budget}" if config.budget is not None else f"--method {name}"
    if not may_fit and (config.budget is not None or (name != AUTO and METHODS[name].fits)):
        raise UserError(
            f"{fits}: members have different folds, so what is fitted on one's rows has seen others' people; vote "
            "(--method soft), or pass --allow-different-folds"
        )
    if name != AUTO:
        return {name: METHODS[name]}
    found = {
        key: one for key, one in METHODS.items() if (config.thorough or not one.thorough) and (may_fit or not one.fits)
    }
    if num_members == 1:  # what weighs members against each other has nothing to do
        return {key: one for key, one in found.items() if key in ("soft", "tempered", "stack", "trees")}
    return found


def _streams(config: BlendConfig, methods: Mapping[str, Method]) -> bool:
    """Return whether nothing is fitted or chosen, so that members need never be in memory together."""
    named = config.method != AUTO or config.weights is not None
    return named and set(methods) <= set(POOLS) and config.budget is None


def _names(aligned: Aligned) -> list[str]:
    names = [run.name for run in aligned.runs]
    return [name if names.count(name) == 1 else str(run.path) for name, run in zip(names, aligned.runs, strict=True)]


class _Singles:
    """The members one after the other: their scores beside the blend's, and where they are wrong."""

    def __init__(self, aligned: Aligned, metric: str) -> None:
        rows = aligned.rows
        self.shared: dict[str, Any] = {
            "label_N": rows["label"].to_numpy(),
            "group_N": pd.factorize(rows["group"], sort=True)[0],
            "repeat_N": rows["repeat"].to_numpy(),
            "attributes": aligned.runs[0].attributes,
            "metric": metric,
        }
        self.names, self.metric = _names(aligned), METRICS[metric]
        self.found: list[tuple[dict[str, Any], np.ndarray]] = []
        self.wrong_MN = np.empty((len(self.names), len(rows)), bool)

    def watched(self, logits: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the members' logits on, having looked at each."""
        for place, logits_NC in enumerate(logits):
            self.look(place, logits_NC)
            yield logits_NC

    def look(self, place: int, logits_NC: np.ndarray) -> None:
        self.wrong_MN[place] = logits_NC.argmax(axis=1) != self.shared["label_N"]
        self.found.append(compare_row(name=self.names[place], proba_NC=softmax(logits_NC), **self.shared))

    @property
    def best(self) -> tuple[str, Score]:
        """The member that scores best, and its score."""
        sign = 1 if self.metric.greater_is_better else -1

        def value(row: Mapping[str, Any]) -> float:
            found = row["headline"]["value"]
            return -np.inf if found is None else sign * found

        row, resamples_R = max(self.found, key=lambda one: value(one[0]))
        return row["name"], Score(value(row), sign * resamples_R)

    def sections(self, name: str, logits_NC: np.ndarray) -> dict[str, dict[str, Any]]:
        blend = compare_row(name=name, proba_NC=softmax(logits_NC), **self.shared)
        rows = with_differences([*self.found, blend], self.best[0])
        title = "Single runs beside the blend, out of fold; differences to the best of them"
        found = {"1_members": section(title, comparison_block(rows))}
        errors = errors_section(self.names, self.wrong_MN)
        return found | ({} if errors is None else {"2_errors": errors})


def _tests(aligned: Aligned, fitted: Fitted, offsets_C: np.ndarray) -> list[pd.DataFrame]:
    """Return the test logits of each fold's models, or of their means where members differ in the number of folds.

    What was fitted on single models is applied to single models; the mean over folds, which is smoother, comes after.
    """
    if aligned.test_ids is None:
        return []
    ids = aligned.test_ids.to_frame("image_id")
    return [with_logits(ids, apply(fitted, offsets_C, aligned.test(fold))) for fold in aligned.test_folds]


def _frontier(
    evidence: Evidence, splits: Sequence[Any], singles: _Singles, blended: Blended, cost_M: np.ndarray, unit: str
) -> dict[str, Any]:
    """Return the section of score against cost, with this blend among the soft votes."""
    rows = frontier_rows(evidence, splits, cost_M, singles.names)
    chosen = blended.chosen
    sign, runs = (1 if singles.metric.greater_is_better else -1), np.flatnonzero(chosen.final.shares)
    headline = percentile_interval(sign * blended.nested.value, sign * blended.nested.resamples_R).as_dict()
    rows.append(Row("this blend", len(runs), float(cost_M[runs].sum()), headline))
    return frontier_section(
        rows,
        metric=singles.metric,
        unit=unit,
        num_images=int((evidence.repeat_N == evidence.repeat_N[0]).sum()),
        num_groups=len(np.unique(evidence.group_N)),
        how="soft votes of members that were chosen on other people",
    )


def combine(aligned: Aligned, config: BlendConfig, *, name: str, costs: tuple[np.ndarray, str], say: Say) -> Blend:
    """Return the blend of aligned members by the method asked for, or the one chosen. Raises UserError."""
    methods = methods_to_try(config, same_folds=aligned.same_folds, num_members=len(aligned.members))
    singles = _Singles(aligned, config.metric)
    if _streams(config, methods):
        [(method, one)] = methods.items()
        zeros_C = np.zeros(len(aligned.runs[0].classes))
        none_N = np.empty(0, int)
        no_rows = Evidence([zeros_C[None]] * len(aligned.members), none_N, none_N, none_N)
        fitted = one.fit(no_rows)
        logits_NC = fitted(singles.watched(aligned.oof()))
        sections = singles.sections(name, logits_NC.astype(np.float32))
        return Blend(logits_NC, _tests(aligned, fitted, zeros_C), method, fitted, zeros_C, sections)
    shared = singles.shared
    evidence = Evidence(
        list(singles.watched(aligned.oof())), shared["label_N"], shared["group_N"], shared["repeat_N"], config.metric
    )
    fold_N, (cost_M, unit) = aligned.rows["fold"].to_numpy(), costs
    may_fit = aligned.same_folds or config.allow_different_folds
    decide = may_fit and (config.method == AUTO or methods[config.method].fits)
    if config.budget is not None:
        methods = {key: within(one, cost_M, parse_budget(config.budget)) for key, one in methods.items()}
    try:
        blended = blend_arrays(evidence, fold_N, methods, decide=decide, say=say)
        again = config.thorough and len(methods) > 1
        once_more = nested_once_more(evidence, fold_N, methods, decide=decide, say=say) if again else None
        splits = splits_of(evidence, fold_N) if len(aligned.members) > 1 and may_fit else []
    except ValueError as error:
        raise UserError(f"{name}: {error}; pass --method soft, which fits nothing") from None
    chosen, best = blended.chosen, singles.best
    sections = singles.sections(name, blended.logits_NC)
    sections["3_methods"] = methods_section(blended, best[1], best[0], singles.metric, once_more)
    if splits:
        sections["4_costs"] = _frontier(evidence, splits, singles, blended, cost_M, unit)
    fits = METHODS[chosen.name].fits or chosen.offsets_C.any() or config.budget is not None
    notes = ["out-of-fold rows are by what was fitted on other people"] if fits else []
    if len(methods) > 1:
        notes = [f"out-of-fold rows are by what was fitted, and chosen among {len(methods)} methods, on other people"]
    return Blend(
        blended.logits_NC, _tests(aligned, chosen.final, chosen.offsets_C), chosen.name, chosen.final, chosen.offsets_C,
        sections, notes,
    )  # fmt: skip
