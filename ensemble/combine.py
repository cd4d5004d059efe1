"""From aligned members to one prediction: what is combined how, and what the report will say of
it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from ensemble.align import Aligned
from ensemble.auto import Blended, apply, blend_arrays, nested_once_more
from ensemble.budget import Row, frontier_section
from ensemble.config import AUTO, BlendConfig, parse_budget
from ensemble.crossfit import Split, splits_of
from ensemble.methods.base import Evidence, Fitted, Method
from ensemble.methods.registry import METHODS, weighted_vote
from ensemble.methods.vote import POOLS
from ensemble.sections import errors_section, methods_section
from ensemble.subsets import frontier_rows, within
from foldblend.cli import Say
from foldblend.errors import UserError, listed
from foldblend.runs.folder import with_logits
from foldblend.scores.metrics import METRICS, Metric, softmax
from foldblend.scores.rows import Rows
from foldblend.scores.score import Score, Scored, score_prediction
from reports.blocks import comparison_block, section
from reports.run.summary import with_differences
from reports.text import signed

__all__ = ["Blend", "combine", "flattered", "methods_to_try", "why_not_fit"]


@dataclass(frozen=True, slots=True)
class Blend:
    """What becomes of members: logits out of fold, test tables of each fold's models, and how they
    came about.
    """

    logits_NC: np.ndarray
    tests: list[pd.DataFrame]
    method: str
    fitted: Fitted
    offsets_C: np.ndarray
    sections: dict[str, dict[str, Any]]
    fits: bool
    """Whether anything of it was fitted."""
    of_shares: bool
    """Whether its logits are shares of votes, which folds' models have as a mean of shares."""
    notes: list[str] = field(default_factory=list)


def why_not_fit(aligned: Aligned, config: BlendConfig) -> str | None:
    """Return why nothing may be fitted on these members' rows, or None."""
    if not aligned.same_folds and not config.allow_different_folds:
        return (
            "members have different folds, so what is fitted on one's rows has seen others' people;"
            " vote (--method soft), or pass --allow-different-folds"
        )
    if aligned.test_folds == [None]:
        return (
            "members differ in the number of test folds, so their test logits are means, which are"
            " smoother than what is fitted; vote (--method soft), or leave one kind out"
        )
    if aligned.tests_are_means:
        means = listed(run.name for run in aligned.runs if run.info.get("test_is_mean"))
        return (
            f"test logits of {means} are means over folds, smoother than what is fitted; vote"
            " (--method soft)"
        )
    if _num_parts(aligned) < 2:
        return (
            "members have too few folds or groups to fit on some and score on others; vote"
            " (--method soft)"
        )
    return None


def flattered(aligned: Aligned, *, fits: bool) -> dict[str, bool]:
    """Return the marks of a blend, which `fits` or not, whose score is no honest one: its members',
    or its own.
    """
    return {
        "leaks": (
            any(run.info["leaks"] for run in aligned.runs) or (fits and not aligned.same_folds)
        ),
        "optimistic": any(run.info.get("optimistic") for run in aligned.runs),
    }


def _num_parts(aligned: Aligned) -> int:
    """Return in how many parts people can be held out."""
    by_repeat = aligned.rows.groupby("repeat")
    return int(min(by_repeat["fold"].nunique().min(), by_repeat["group"].nunique().min()))


def methods_to_try(
    config: BlendConfig, *, why_not: str | None, num_members: int
) -> dict[str, Method]:
    """Return the methods that a blend is made by or chooses from, voting alone if there is a reason
    `why_not` to fit.

    Raises UserError where a method was named that may not be fitted.
    """
    name = config.method
    if config.weights is not None:
        name = "soft" if name == AUTO else name
        return {name: replace(METHODS[name], fit=weighted_vote(name, config.weights))}
    asked = f"--budget {config.budget}" if config.budget is not None else f"--method {name}"
    if why_not is not None and (config.budget is not None or (name != AUTO and METHODS[name].fits)):
        raise UserError(f"{asked}: {why_not}")
    if name != AUTO:
        return {name: METHODS[name]}
    found = {key: one for key, one in METHODS.items() if config.thorough or not one.thorough}
    if num_members == 1:  # what weighs members against each other has nothing to do
        found = {
            key: one for key, one in found.items() if key in ("soft", "tempered", "stack", "trees")
        }
    return {key: one for key, one in found.items() if why_not is None or not one.fits}


def _streams(config: BlendConfig, methods: Mapping[str, Method]) -> bool:
    """Return whether nothing is fitted or chosen, so that members need never be in memory
    together.
    """
    named = config.method != AUTO or config.weights is not None
    return named and set(methods) <= set(POOLS) and config.budget is None


def _names(aligned: Aligned, blend: str) -> list[str]:
    """Return the members' names, or paths where two, or one and the blend, have one name."""
    names = [*(run.name for run in aligned.runs), blend]
    return [
        name if names.count(name) == 1 else str(run.path)
        for name, run in zip(names, aligned.runs, strict=False)
    ]


class _Singles:
    """The members one after the other: their scores beside the blend's, and where they are
    wrong.
    """

    def __init__(self, aligned: Aligned, metric: str, *, blend: str) -> None:
        rows = aligned.rows
        group_N = pd.factorize(rows["group"], sort=True)[0]
        self.rows = Rows(
            rows["label"].to_numpy(), group_N, rows["repeat"].to_numpy(), rows["fold"].to_numpy()
        )
        self.attributes = aligned.runs[0].attributes
        self.blend = blend
        self.names = _names(aligned, blend)
        self.metric_name = metric
        self.metric = METRICS[metric]
        self.found: list[Scored] = []
        self.wrong_MN = np.empty((len(self.names), len(rows)), bool)

    def watched(self, logits: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the members' logits on, having looked at each."""
        for place, logits_NC in enumerate(logits):
            self.look(place, logits_NC)
            yield logits_NC

    def look(self, place: int, logits_NC: np.ndarray) -> None:
        self.wrong_MN[place] = logits_NC.argmax(axis=1) != self.rows.label_N
        self.found.append(self._scored(self.names[place], logits_NC))

    @property
    def best(self) -> tuple[int, Score]:
        """The place of the member that scores best, and its score."""

        def value(place: int) -> float:
            found = self.found[place].score.value
            return found if np.isfinite(found) else -np.inf

        place = max(range(len(self.found)), key=value)
        return place, self.found[place].score

    def _scored(self, name: str, logits_NC: np.ndarray) -> Scored:
        proba_NC = softmax(logits_NC)
        return score_prediction(
            name, self.rows, proba_NC, attributes=self.attributes, metric=self.metric_name
        )

    def beside(self, logits_NC: np.ndarray) -> list[dict[str, Any]]:
        """Return a row each of the members and, last, of the blend, whose logits are N x C."""
        return with_differences([*self.found, self._scored(self.blend, logits_NC)], self.best[0])

    def sections(self, rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Return the members beside the blend, as `beside` says, and how alike their errors are."""
        title = "Single runs beside the blend, out of fold; differences to the best of them"
        found = {"1_members": section(title, comparison_block(rows))}
        errors = errors_section(self.names, self.wrong_MN)
        return found | ({} if errors is None else {"2_errors": errors})

    def verdict(
        self, rows: list[dict[str, Any]], shares: Sequence[float], cost_M: np.ndarray
    ) -> list[str]:
        """Return a note where the blend is no better than a member alone, for all that is known,
        and what it costs.
        """
        name = self.names[self.best[0]]
        found = rows[-1]["difference"]
        if len(self.names) < 2 or found is None or found["low"] is None:
            return []
        sign = self.metric.sign
        worst, best = sorted(sign * found[end] for end in ("low", "high"))
        if worst > 0:
            return []
        what = "cannot be told from" if best >= 0 else "is worse than"
        times = cost_M[np.flatnonzero(shares)].sum() / cost_M[self.best[0]]
        return [
            f"the blend {what} {name} alone, the best single run on these people "
            f"({signed(found)}), at {times:.3g} times its cost"
        ]


def _tests(aligned: Aligned, fitted: Fitted, offsets_C: np.ndarray) -> list[pd.DataFrame]:
    """Return the test logits of each fold's models, or of their means where members differ in the
    number of folds.

    What was fitted on single models is applied to single models; the mean over folds, which is
    smoother, comes after.
    """
    if aligned.test_ids is None:
        return []
    ids = aligned.test_ids.to_frame("image_id")
    return [
        with_logits(ids, apply(fitted, offsets_C, aligned.test(fold)))
        for fold in aligned.test_folds
    ]


def _frontier(
    evidence: Evidence,
    splits: Sequence[Split],
    singles: _Singles,
    blended: Blended,
    cost_M: np.ndarray,
    unit: str,
) -> dict[str, Any]:
    """Return the section of score against cost, with this blend among the soft votes."""
    rows = frontier_rows(evidence, splits, cost_M, singles.names)
    chosen = blended.chosen
    runs = np.flatnonzero(chosen.final.shares)
    headline = chosen.nested.interval().as_dict()
    rows.append(Row("this blend", len(runs), float(cost_M[runs].sum()), headline))
    return frontier_section(
        rows,
        metric=singles.metric,
        unit=unit,
        num_images=evidence.rows.num_images,
        num_groups=evidence.rows.num_groups,
        how=(
            "scores of soft votes whose members are chosen within a cost on other people, named by"
            f" what all people choose; this blend is by {chosen.label}"
        ),
    )


def _voted(
    aligned: Aligned, singles: _Singles, cost_M: np.ndarray, name: str, method: Method
) -> Blend:
    """Return a vote in which nothing is fitted, members looked at one after the other."""
    zeros_C = np.zeros(len(aligned.runs[0].classes))
    none_N = np.empty(0, int)
    fitted = method.fit(Evidence([zeros_C[None]] * len(aligned.members), Rows.of(none_N, none_N)))
    logits_NC = fitted(singles.watched(aligned.oof()))
    rows = singles.beside(logits_NC.astype(np.float32))
    return Blend(
        logits_NC,
        _tests(aligned, fitted, zeros_C),
        name,
        fitted,
        zeros_C,
        singles.sections(rows),
        fits=False,
        of_shares=method.of_shares,
        notes=singles.verdict(rows, fitted.shares, cost_M),
    )


def _notes(fits: bool, blended: Blended, metric: Metric, *, honest: bool) -> list[str]:
    """Return how out-of-fold rows came about, and what that flatters where they are `honest` in the
    first place.
    """
    notes = ["out-of-fold rows are by what was fitted on other people"] if fits else []
    if len(blended.trials) > 1 and honest:
        notes.append(
            f"the method was chosen among {len(blended.trials)} on these very people, which"
            f" flatters such scores by about {blended.flatters:.3f} on average: expect about"
            f" {blended.expected.interval().value:.3f}"
        )
    return notes


def _left_undone(aligned: Aligned, config: BlendConfig, why_not: str | None) -> list[str]:
    """Return what --method auto could not do."""
    if config.method != AUTO or config.weights is not None:
        return []
    if why_not is not None:
        return [f"plain votes only: {why_not}"]
    if config.thorough and _num_parts(aligned) < 3:
        return [
            "too few folds or groups to nest once more: how much choosing flatters was not measured"
        ]
    return []


@threadpool_limits.wrap(
    limits=1
)  # sums the same on any number of cores; what is parallel has threads of its own
def combine(
    aligned: Aligned, config: BlendConfig, *, name: str, costs: tuple[np.ndarray, str], say: Say
) -> Blend:
    """Return the blend of aligned members by the method asked for, or the one chosen. Raises
    UserError.
    """
    assert config.metric is not None
    why_not = why_not_fit(aligned, config)
    methods = methods_to_try(config, why_not=why_not, num_members=len(aligned.members))
    singles = _Singles(aligned, config.metric, blend=name)
    if _streams(config, methods):
        return _voted(aligned, singles, costs[0], *methods.popitem())
    evidence = Evidence(list(singles.watched(aligned.oof())), singles.rows, config.metric)
    cost_M, unit = costs
    decide = why_not is None and (config.method == AUTO or methods[config.method].fits)
    if config.budget is not None:
        methods = {
            key: within(one, cost_M, parse_budget(config.budget)) for key, one in methods.items()
        }
    blended = blend_arrays(evidence, methods, decide=decide, say=say)
    again = config.thorough and len(methods) > 1 and why_not is None and _num_parts(aligned) > 2
    once_more = nested_once_more(evidence, methods, decide=decide, say=say) if again else None
    chosen = blended.chosen
    place, best = singles.best
    rows = singles.beside(chosen.logits_NC)
    sections = singles.sections(rows)
    sections["3_methods"] = methods_section(
        blended, best, singles.names[place], singles.metric, once_more
    )
    if len(aligned.members) > 1 and why_not is None:
        sections["4_costs"] = _frontier(
            evidence, splits_of(evidence), singles, blended, cost_M, unit
        )
    fits = methods[chosen.name].fits or bool(chosen.offsets_C.any())
    return Blend(
        chosen.logits_NC,
        _tests(aligned, chosen.final, chosen.offsets_C),
        chosen.name,
        chosen.final,
        chosen.offsets_C,
        sections,
        fits=fits,
        of_shares=methods[chosen.name].of_shares,
        notes=[
            *singles.verdict(rows, chosen.final.shares, cost_M),
            *_notes(
                fits,
                blended,
                singles.metric,
                honest=not any(flattered(aligned, fits=fits).values()),
            ),
            *_left_undone(aligned, config, why_not),
        ],
    )
