"""Soft vote of a blend's members that fit a cost, chosen and scored as any blend is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.align import align
from ensemble.auto import blend_arrays
from ensemble.budget import costs_of
from ensemble.candidates import choosing_members, why_not_fit
from ensemble.config import BlendConfig
from ensemble.methods.base import Evidence
from ensemble.methods.registry import METHODS
from ensemble.parameters import Parameters
from ensemble.threads import one_thread
from foldblend.errors import UserError
from foldblend.runs.run import Run
from foldblend.scores.calibration import Calibration, calibrate
from foldblend.scores.intervals import Interval
from foldblend.scores.rows import Rows
from foldblend.scores.run_metric import metric_of

__all__ = ["WithinBudget", "vote_within"]

SOFT = "soft"


@dataclass(frozen=True, slots=True)
class WithinBudget:
    """An unweighted soft vote of some members of a blend."""

    parameters: Parameters
    members: tuple[str, ...]
    """Names of the members that vote."""
    cost: float
    """As a multiple of the cheapest member's."""
    unit: str
    """What a cost of 1 is."""
    score: Interval
    """Out-of-fold score, each fold with the members that were chosen on the other folds."""
    calibration: Calibration
    logits_NC: np.ndarray
    """Its out-of-fold logits."""
    rows: Rows
    """Labels, groups, repeats and folds of these logits."""


# One thread makes sums the same on any number of cores.
@one_thread()
def vote_within(blend: Run, members: Sequence[Run], budget: str) -> WithinBudget:
    """Return the soft vote of the members of a blend that fit a budget.

    Parameters
    ----------
    blend
        The blend, whose metric decides.
    members
        Its members, in the blend's order.
    budget
        A multiple of the cheapest member's cost, such as "2x".

    Raises
    ------
    UserError
        If no member fits, or folds are missing that choosing needs.
    """
    config = BlendConfig(method=SOFT, budget=budget)
    aligned = align(members, intersect=True)
    why_not = why_not_fit(aligned, config)
    if why_not is not None:
        raise UserError(f"--budget {budget}: members cannot be chosen: {why_not}; leave it out")
    cost_M, unit = costs_of(members)
    rows = aligned.coded_rows
    evidence = Evidence(list(aligned.oof()), rows, metric_of(blend.info))
    methods = choosing_members({SOFT: METHODS[SOFT]}, config, cost_M)
    chosen = blend_arrays(evidence, methods, decide=False).chosen
    used = np.flatnonzero(chosen.final.shares)
    return WithinBudget(
        Parameters(SOFT, chosen.final, np.zeros(evidence.num_classes), of_shares=False),
        tuple(members[place].name for place in used.tolist()),
        float(cost_M[used].sum()),
        unit,
        chosen.nested.interval(),
        calibrate(chosen.logits_NC, rows),
        chosen.logits_NC,
        rows,
    )
