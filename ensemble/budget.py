"""What a blend costs to deploy: members within a budget, and the frontier of score against cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from foldblend.errors import UserError, listed
from foldblend.runs.costs import device_of, num_passes, picture_seconds
from foldblend.runs.run import Run
from foldblend.scores.metrics import Metric
from reports.blocks import lines_block, section, table_block, text_block
from reports.text import num, span

__all__ = ["Point", "Row", "costs_of", "frontier", "frontier_section", "within_budget"]

Subset = tuple[int, ...]
ScoreOf = Callable[[Subset], float]
"""Numbers of members, ascending -> their score together; greater is better."""

EPSILON = 1e-9  # of a cost: three members at 1 fit a budget of 3, however their costs were rounded


class Point(NamedTuple):
    """Members, ascending, with their cost and score."""

    members: Subset
    cost: float
    score: float


class Row(NamedTuple):
    """A point as it is reported."""

    name: str
    num_members: int
    cost: float
    """Times the cheapest member's."""
    headline: Mapping[str, float | None]
    """Score and its interval: value, low, high."""


def costs_of(runs: Sequence[Run]) -> tuple[np.ndarray, str]:
    """Return what a test image costs with each run, M, the cheapest's being 1, and what that 1
    is, in words.

    Measured seconds where all runs have them, from one device; else forward passes. Raises
    UserError for a blend that does not know its cost.
    """
    seconds = [picture_seconds(run) for run in runs]
    devices = {device_of(run) for run in runs}
    known = [one for one in seconds if one is not None]
    if len(known) == len(runs) and len(devices) == 1 and None not in devices:
        cost_M = np.array(known)
        device = devices.pop()
        return (
            cost_M / cost_M.min(),
            f"{1000 * cost_M.min():.3g} ms an image, measured on {device}",
        )
    unknown = [
        run.name
        for run, one in zip(runs, seconds, strict=True)
        if one is None or device_of(run) is None
    ]
    if unknown:
        why = f"for {listed(unknown)} no speed on a known device is recorded"
    else:
        why = f"speeds were measured on different devices: {'; '.join(sorted(map(str, devices)))}"
    passes_M = np.array([num_passes(run) for run in runs], float)
    least = int(passes_M.min())
    return (
        passes_M / least,
        f"{least} forward {'pass' if least == 1 else 'passes'} an image, as counted ({why})",
    )


def within_budget(score: ScoreOf, cost_M: np.ndarray, budget: float) -> Subset:
    """Return members whose costs sum to no more than the budget, in the order in which they were
    taken.

    First the best that fits, then whichever gives the best score of those that still fit, while
    none lowers it. Asks for M (M + 1) / 2 scores at most. Raises UserError where nothing fits.
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
    """Return the points that nothing cheaper or as cheap reaches, cheapest first.

    They are of: each member alone; the two, three, .. cheapest and all together; and the best with
    what adds most to the score for its cost, one after the other, while anything adds. Asks for
    about M^2 / 2 scores.
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
    """Return a cost as --budget takes it: rounded up, so that what costs so much fits."""
    return f"{math.ceil(cost * (1 - EPSILON) * 100) / 100:g}x"


def _advice(rows: Sequence[Row], metric: Metric) -> str:
    """Return which row is best, and the cheapest that cannot be told from it by its interval."""
    sign = metric.sign

    def value(row: Row) -> float:
        found = row.headline["value"]
        return -math.inf if found is None else sign * found

    best = max(rows, key=lambda row: (value(row), -row.cost))
    score = f"{metric.title} {num(best.headline['value'])} {span(best.headline)}"
    said = f"Best: {best.name}, {score}, at {_times(best.cost)}."
    end = best.headline["low" if sign > 0 else "high"]
    inside = [
        row for row in rows if row.cost < best.cost and end is not None and value(row) >= sign * end
    ]
    if not inside:
        return f"{said} Nothing cheaper scores within its interval."
    least = min(inside, key=lambda row: row.cost)
    return (
        f"{said} The cheapest that scores within its interval: {least.name},"
        f" {num(least.headline['value'])}, at {_times(least.cost)}, {least.cost / best.cost:.0%} of"
        " the cost."
    )


def frontier_section(
    rows: Sequence[Row], *, metric: Metric, unit: str, num_images: int, num_groups: int, how: str
) -> dict[str, Any]:
    """Return score against cost as a section of a report: what to deploy, a table and a plot.

    `rows` are points of a frontier, `unit` is what a cost of 1 is, from `costs_of`; `how` says how
    members were chosen for the rows that score them. A row is on the frontier if nothing cheaper
    scores as much.
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
    ends = {end: [row.headline[end] for row in rows] for end in ("value", "low", "high")}
    n = f"{num_images:,} images of {num_groups:,} groups, out of fold"
    blocks: list[dict[str, Any]] = [
        text_block(_advice(rows, metric)),
        table_block(["", "members", "cost", metric.title, "95 % interval", "frontier"], cells),
        lines_block(
            [row.cost for row in rows],
            {metric.title: ends["value"], "95 % interval, low": ends["low"], "high": ends["high"]},
            xlabel="cost, times the cheapest member's",
            ylabel=metric.title,
            caption=(
                f"{metric.title} against cost, {n}; {how}. A cost of 1x is {unit}; --budget takes"
                " such numbers."
            ),
        ),
    ]
    return section("Score against cost", *blocks)
