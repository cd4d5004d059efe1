"""Choose members within a cost budget, and report the best score at each cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from foldblend.errors import UserError, counted, listed
from foldblend.runs.costs import device_of, num_passes, picture_seconds
from foldblend.runs.run import Run
from foldblend.scores.metrics import Metric
from reports.blocks import section, strips_block, table_block, text_block
from reports.text import num, span

__all__ = ["Point", "Row", "costs_of", "frontier", "frontier_section", "within_budget"]

Subset = tuple[int, ...]
ScoreOf = Callable[[Subset], float]
"""Function from member numbers, ascending, to the score of their blend; greater is better."""

# Relative tolerance of costs: three members at 1 fit a budget of 3, however costs were rounded.
EPSILON = 1e-9


class Point(NamedTuple):
    """Members by number, ascending, with their cost and score."""

    members: Subset
    cost: float
    score: float


class Row(NamedTuple):
    """A point of score against cost as it is reported."""

    name: str
    num_members: int
    cost: float
    """In multiples of the cheapest member's cost."""
    headline: Mapping[str, float | None]
    """Score and its interval: value, low, high."""


def costs_of(runs: Sequence[Run]) -> tuple[np.ndarray, str]:
    """Return the relative inference cost of each run, and what a cost of 1 is.

    Costs are measured seconds per image if all runs were measured on the same device, and
    otherwise the number of forward passes.

    Returns
    -------
    (array M, str)
        Costs as multiples of the cheapest run's, and the cost of that run in words.

    Raises
    ------
    UserError
        For a blend whose run folder does not record its cost.
    """
    seconds = [picture_seconds(run) for run in runs]
    devices = {device_of(run) for run in runs}
    known = [one for one in seconds if one is not None]
    if len(known) == len(runs) and len(devices) == 1 and None not in devices:
        cost_M = np.array(known)
        device = devices.pop()
        return (
            cost_M / cost_M.min(),
            f"{1000 * cost_M.min():.3g} ms per image, measured on {device}",
        )
    unknown = [
        run.name
        for run, one in zip(runs, seconds, strict=True)
        if one is None or device_of(run) is None
    ]
    if unknown:
        why = f"no speed on a known device is recorded for {listed(unknown)}"
    else:
        why = f"speeds were measured on different devices: {'; '.join(sorted(map(str, devices)))}"
    passes_M = np.array([num_passes(run) for run in runs], float)
    least = int(passes_M.min())
    return (
        passes_M / least,
        f"{least} forward {'pass' if least == 1 else 'passes'} per image, counted because {why}",
    )


def within_budget(score: ScoreOf, cost_M: np.ndarray, budget: float) -> Subset:
    """Choose members greedily whose costs sum to no more than the budget.

    The first is the best member that fits. Then the member is added that gives the best score of
    those that still fit, until all of them would lower the score.

    Parameters
    ----------
    score
        Score of a subset; it is called at most M (M + 1) / 2 times.
    cost_M
        Cost of each member.
    budget
        In the units of the costs.

    Returns
    -------
    tuple of int
        Members by number, in the order in which they were chosen.

    Raises
    ------
    UserError
        If no member fits.
    """
    room = budget * (1 + EPSILON)
    taken: list[int] = []
    best = -math.inf
    while True:
        left = [
            one
            for one in range(len(cost_M))
            if one not in taken and cost_M[[*taken, one]].sum() <= room
        ]
        score_of = {one: score(tuple(sorted([*taken, one]))) for one in left}
        one = max(left, key=lambda one: (score_of[one], -cost_M[one]), default=None)
        if one is None or score_of[one] < best:
            break
        taken.append(one)
        best = score_of[one]
    if not taken:
        raise UserError(
            f"--budget {budget:g}: the cheapest member costs {cost_M.min():.3g}; pass that or more"
        )
    return tuple(taken)


def frontier(score: ScoreOf, cost_M: np.ndarray) -> list[Point]:
    """Return the points of score against cost that nothing as cheap or cheaper equals.

    Three kinds of subsets are scored, which takes about M^2 / 2 scores:

    - each single member,
    - the 2, 3, ..., M cheapest members,
    - the best member, to which members are added one after the other, each time the one that
      raises the score most for its cost, until none raises it.

    Parameters
    ----------
    score
        Score of a subset.
    cost_M
        Cost of each member.

    Returns
    -------
    list of Point
        Cheapest first; both cost and score rise from point to point.
    """
    everyone = range(len(cost_M))
    score_of: dict[Subset, float] = {}

    def scored(members: Sequence[int]) -> float:
        key = tuple(sorted(members))
        if key not in score_of:
            score_of[key] = score(key)
        return score_of[key]

    def gain(one: int) -> float:
        return (scored([*taken, one]) - scored(taken)) / float(cost_M[one])

    cheapest = sorted(everyone, key=lambda one: (cost_M[one], -scored([one])))
    paths = [[one] for one in everyone] + [cheapest[:place] for place in everyone[2:]] + [cheapest]
    taken = [max(everyone, key=lambda one: (scored([one]), -cost_M[one]))]
    while left := [one for one in everyone if one not in taken]:
        one = max(left, key=gain)
        if gain(one) <= 0:
            break
        taken = [*taken, one]
        paths.append(taken)
    points = [Point(tuple(sorted(one)), float(cost_M[one].sum()), scored(one)) for one in paths]
    kept: list[Point] = []
    for point in sorted(points, key=lambda point: (point.cost, -point.score, len(point.members))):
        if not kept or point.score > kept[-1].score:
            kept.append(point)
    return kept


def _times(cost: float) -> str:
    """Return a cost as text for --budget, rounded up so that members of this cost fit."""
    return f"{math.ceil(cost * (1 - EPSILON) * 100) / 100:g}x"


def _advice(rows: Sequence[Row], metric: Metric) -> str:
    """Return the best row in words, and the cheapest that scores within its interval."""
    sign = metric.sign

    def value(row: Row) -> float:
        found = row.headline["value"]
        return -math.inf if found is None else sign * found

    best = max(rows, key=lambda row: (value(row), -row.cost))
    score = f"{metric.title} {num(best.headline['value'])} {span(best.headline)}"
    advice = f"Best score: {best.name}, {score}, at a cost of {_times(best.cost)}."
    end = best.headline["low" if sign > 0 else "high"]
    inside = [
        row for row in rows if row.cost < best.cost and end is not None and value(row) >= sign * end
    ]
    if not inside:
        return f"{advice} Nothing cheaper scores within this interval."
    least = min(inside, key=lambda row: row.cost)
    return (
        f"{advice} The cheapest that scores within this interval: {least.name},"
        f" {num(least.headline['value'])}, at {_times(least.cost)} ({least.cost / best.cost:.0%} of"
        " that cost)."
    )


def frontier_section(
    rows: Sequence[Row],
    *,
    metric: Metric,
    unit: str,
    num_images: int,
    num_groups: int,
    how: str,
    group_name: str = "group",
) -> dict[str, Any]:
    """Return the report section of score against cost: advice, a table and a plot.

    Parameters
    ----------
    rows
        Points of score against cost. A row is best at its cost if nothing cheaper scores as much.
    metric
        The metric of the scores.
    unit
        What a cost of 1 is, from `costs_of`.
    num_images, num_groups
        What the scores are over.
    how
        Sentences on how members were chosen, for the caption.
    group_name
        What a group is, in the singular.
    """
    rows = sorted(rows, key=lambda row: row.cost)
    sign = metric.sign
    best = -math.inf
    cells = []
    for row in rows:
        value = row.headline["value"]
        better = value is not None and sign * value > best
        best = sign * value if value is not None and better else best
        shown = [str(row.num_members), _times(row.cost), num(value), span(row.headline)]
        cells.append([row.name, *shown, "yes" if better else "no"])
    over = f"out of fold, {counted(num_images, 'image')} of {counted(num_groups, group_name)}"
    blocks: list[dict[str, Any]] = [
        text_block(_advice(rows, metric)),
        table_block(["", "members", "cost", metric.title, "95 % interval", "best so far"], cells),
        strips_block(
            {f"{row.name}, {_times(row.cost)}": row.headline for row in rows},
            xlabel=f"{metric.title}, the cheapest first",
        ),
        text_block(
            f"{metric.title} against cost, {over}. {how} A cost of 1x is {unit}; --budget takes"
            " multiples of it."
        ),
    ]
    return section("Score against cost", *blocks)
