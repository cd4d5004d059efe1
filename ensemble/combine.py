"""Combine aligned members into one prediction, with its notes and report sections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from ensemble.align import Aligned
from ensemble.auto import Blended, apply, blend_arrays, nested_once_more
from ensemble.budget import Row, frontier_section
from ensemble.candidates import (
    choosing_members,
    methods_to_try,
    num_parts,
    optimism_marks,
    streams,
    why_not_fit,
)
from ensemble.columns import BlendColumns
from ensemble.columns_section import columns_section
from ensemble.config import AUTO, BlendConfig
from ensemble.crossfit import Split, splits_of
from ensemble.harm_section import harm_found, harm_of_vote
from ensemble.methods.base import Evidence, Fitted, Method
from ensemble.methods.mixture import without_offsets
from ensemble.methods.vote import Vote
from ensemble.sections import methods_section
from ensemble.singles import Singles
from ensemble.subsets import frontier_rows
from ensemble.threads import one_thread
from foldblend.image_columns import ImageColumns
from foldblend.runs.folder import with_logits
from foldblend.scores.metrics import Metric
from foldblend.scores.rows import Rows

__all__ = ["Blend", "combine"]


@dataclass(frozen=True, slots=True)
class Blend:
    """Result of a blend: its logits, the fitted method, and its notes and report sections."""

    logits_NC: np.ndarray
    """Out of fold."""
    tests: list[pd.DataFrame]
    """Test logits of each fold's models."""
    method: str
    fitted: Fitted
    offsets_C: np.ndarray
    sections: dict[str, dict[str, Any]]
    fits: bool
    """Whether anything was fitted."""
    of_shares: bool
    """Whether logits are logs of vote shares; then folds are averaged as shares."""
    notes: list[str] = field(default_factory=list)
    """What a reader of the score must know."""
    plain_NC: np.ndarray | None = None
    """Out-of-fold logits without offsets; None if there are no offsets."""
    plain_tests: list[pd.DataFrame] = field(default_factory=list)
    """Test logits of each fold's models without offsets; none if there are no offsets."""


def _tests(
    aligned: Aligned, fitted: Fitted, offsets_C: np.ndarray, columns: ImageColumns | None = None
) -> list[pd.DataFrame]:
    """Return the blended test logits of each fold's models.

    The method was fitted on outputs of single models, so it is applied to single models. The mean
    over folds, which is smoother, is taken after that. Where members differ in the number of folds
    there is one table, the blend of their means.
    """
    if aligned.test_ids is None:
        return []
    ids = aligned.test_ids.to_frame("image_id")
    return [
        with_logits(ids, apply(fitted, offsets_C, aligned.test(fold), columns))
        for fold in aligned.test_folds
    ]


def _frontier(
    evidence: Evidence,
    splits: Sequence[Split],
    singles: Singles,
    blended: Blended,
    cost_M: np.ndarray,
    unit: str,
) -> dict[str, Any]:
    """Return the section of score against cost, with soft votes and this blend as points."""
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
        group_name=evidence.rows.group_name,
        how=(
            "Each point is an unweighted soft vote of the members that fit a cost budget, chosen by"
            " cross-validation. Its name lists the members chosen on all rows. 'This blend' uses"
            f" {chosen.label}."
        ),
    )


# One thread makes sums the same on any number of cores.
@threadpool_limits.wrap(limits=1)
def _voted(
    aligned: Aligned,
    singles: Singles,
    cost_M: np.ndarray,
    name: str,
    method: Method,
    *,
    can_drop: bool,
) -> Blend:
    """Return a vote in which nothing is fitted; members are read one after the other.

    `can_drop` is whether --drop-harmful may be passed.
    """
    zeros_C = np.zeros(len(aligned.runs[0].classes))
    none_N = np.empty(0, int)
    fitted = method.fit(Evidence([zeros_C[None]] * len(aligned.members), Rows.of(none_N, none_N)))
    exact_NC = fitted(singles.watched(aligned.oof()))
    # The run folder holds float32, and these scores must equal those of its report.
    rows = singles.compared(exact_NC.astype(np.float32))
    verdict, better = singles.verdict(rows, fitted.shares, cost_M)
    assert isinstance(fitted, Vote)
    sections = singles.sections(rows, verdict, shares=fitted.shares, logits_NC=exact_NC)
    harm, harm_notes = harm_of_vote(fitted, exact_NC, aligned.oof(), singles, can_drop=can_drop)
    logits_NC = exact_NC.astype(np.float32)
    del exact_NC  # twice the memory
    return Blend(
        logits_NC,
        _tests(aligned, fitted, zeros_C),
        name,
        fitted,
        zeros_C,
        sections | harm,
        fits=False,
        of_shares=method.of_shares,
        notes=[*_unless_better(verdict, better=better), *harm_notes],
    )


def _unless_better(verdict: str | None, *, better: bool) -> list[str]:
    return [] if verdict is None or better else [verdict]


def _notes(fits: bool, blended: Blended, *, marked: bool, groups: str) -> list[str]:
    """Return notes on how the rows were predicted, and on the optimism of choosing the method.

    A score that is `marked` as optimistic or leaking gets no corrected estimate. `groups` is what
    groups are, in the plural.
    """
    notes = []
    if fits:
        notes.append("each out-of-fold prediction uses methods fitted on the other folds")
    if len(blended.trials) > 1 and not marked:
        num = len(blended.trials)
        choice = (
            f"the method was chosen among {num} on"
            if blended.is_choice
            else f"the weights of the {num} methods come from"
        )
        notes.append(
            f"{choice} these same {groups}, which"
            f" makes the score optimistic by about {blended.optimism:.3f} on average: expect about"
            f" {blended.expected.interval().value:.3f}"
        )
    return notes


def _left_undone(aligned: Aligned, config: BlendConfig, why_not: str | None) -> list[str]:
    """Return notes on what --method auto or --thorough could not do."""
    if config.method != AUTO or config.weights is not None:
        return []
    # The notes on the rows say why imported means are voted on.
    if why_not is not None:
        return [] if aligned.imported_means else [f"only votes were tried: {why_not}"]
    if config.thorough and num_parts(aligned) < 3:
        return [
            f"too few folds or {aligned.groups} to cross-validate the choice of the method"
            " (--thorough): its optimism was not measured"
        ]
    return []


def combine(
    aligned: Aligned,
    config: BlendConfig,
    *,
    metric: Metric,
    name: str,
    costs: tuple[np.ndarray, str],
    columns: BlendColumns | None = None,
) -> Blend:
    """Blend aligned members by the given method, or by the best of several.

    Parameters
    ----------
    aligned
        The members and their rows.
    config
        The settings.
    metric
        The metric that is decided (see `decide_metric`).
    name
        Name of the blend in tables.
    costs
        Cost of each member, M, and what a cost of 1 is (see `costs_of`).
    columns
        Columns of the images that methods may learn from.

    Raises
    ------
    UserError
        If the method or the budget does not go with these members.
    """
    why_not = why_not_fit(aligned, config)
    methods = methods_to_try(
        config,
        why_not=why_not,
        num_members=len(aligned.members),
        only_soft=bool(aligned.imported_means),
    )
    singles = Singles(aligned, metric, blend=name)
    if streams(config, methods):
        can_drop = why_not is None and config.weights is None
        return _voted(aligned, singles, costs[0], *methods.popitem(), can_drop=can_drop)
    return _fitted(aligned, config, methods, singles, costs, why_not, columns)


# Parallel parts start threads themselves.
@one_thread()
def _fitted(
    aligned: Aligned,
    config: BlendConfig,
    tried: dict[str, Method],
    singles: Singles,
    costs: tuple[np.ndarray, str],
    why_not: str | None,
    columns: BlendColumns | None,
) -> Blend:
    """Return a blend for which methods or members are chosen, or a method is fitted.

    `why_not` is why methods must not be fitted; the other parameters are those of `combine`.
    """
    evidence = Evidence(
        list(singles.watched(aligned.oof())),
        singles.rows,
        singles.metric,
        None if columns is None else columns.rows,
    )
    of_test = None if columns is None else columns.test
    cost_M, unit = costs
    decide = why_not is None and (config.method == AUTO or tried[config.method].fits)
    methods = choosing_members(tried, config, cost_M)
    blended = blend_arrays(evidence, methods, decide=decide, prefer=config.rule)
    # Without a held-out part, two parts must remain to cross-fit within.
    again = config.thorough and len(methods) > 1 and why_not is None and num_parts(aligned) > 2
    once_more = (
        nested_once_more(evidence, methods, decide=decide, prefer=config.rule) if again else None
    )
    chosen = blended.chosen
    place, best = singles.best
    rows = singles.compared(chosen.logits_NC)
    verdict, better = singles.verdict(rows, chosen.final.shares, cost_M)
    sections = singles.sections(
        rows, verdict, shares=chosen.final.shares, logits_NC=chosen.logits_NC
    )
    sections["3_methods"] = methods_section(
        blended,
        best,
        singles.names[place],
        singles.metric,
        once_more,
        prefer=config.rule,
        groups=aligned.groups,
    )
    if columns is not None:
        sections["3_methods_columns"] = columns_section(evidence, blended, columns, config.rule)
    # Members within a budget are chosen by fitting, so they need the same conditions.
    if len(aligned.members) > 1 and why_not is None:
        sections["4_costs"] = _frontier(
            evidence, splits_of(evidence), singles, blended, cost_M, unit
        )
    harm, harm_notes = harm_found(
        evidence,
        splits_of(evidence) if why_not is None else [],
        blended,
        lambda left: choosing_members(tried, config, cost_M[list(left)]),
        singles,
        config,
        decide=decide,
    )
    sections |= harm
    plain_NC = chosen.without_offsets_NC
    zeros_C = np.zeros_like(chosen.offsets_C)
    used = [trial for trial, weight in zip(blended.trials, blended.weight_S, strict=True) if weight]
    fits = any(methods[trial.name].fits or trial.offsets_C.any() for trial in used)
    return Blend(
        chosen.logits_NC,
        _tests(aligned, chosen.final, chosen.offsets_C, of_test),
        chosen.name,
        chosen.final,
        chosen.offsets_C,
        sections,
        fits=fits,
        of_shares=blended.is_choice and methods[chosen.name].of_shares,
        notes=[
            *_unless_better(verdict, better=better),
            *harm_notes,
            *_notes(
                fits,
                blended,
                marked=any(optimism_marks(aligned, fits=fits).values()),
                groups=aligned.groups,
            ),
            *_left_undone(aligned, config, why_not),
        ],
        plain_NC=plain_NC,
        plain_tests=(
            []
            if plain_NC is None
            else _tests(aligned, without_offsets(chosen.final), zeros_C, of_test)
        ),
    )
