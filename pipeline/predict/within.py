"""Predictor of a blend's members that fit a cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ensemble.within import vote_within
from foldblend.cli import Say
from foldblend.errors import UserError
from foldblend.scores.by_group import IMAGE
from foldblend.scores.conformal import Conformal
from foldblend.scores.coverage import Coverage, out_of_fold_coverage
from foldblend.scores.run_metric import metric_of
from pipeline.predict.open import Predictor, member_runs
from pipeline.predict.tree import Blend
from reports.text import num, span

__all__ = ["within_budget"]


def _kept(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the title of a score needs, from run.json."""
    return {
        "metric": info["metric"],
        "score_by": info.get("score_by", IMAGE),
        "group_name": info["data"].get("group_name", "group"),
    }


def within_budget(predictor: Predictor, budget: str, *, say: Say) -> Predictor:
    """Return the predictor of an unweighted soft vote of the members within a budget.

    Its out-of-fold score is shown, in which each fold's members were chosen on the other folds.

    Parameters
    ----------
    predictor
        Predictor of a blend, from its folder.
    budget
        A multiple of the cheapest member's cost, such as "2x".
    say
        Function that prints one line of the log.

    Raises
    ------
    UserError
        For anything but a blend with its members' folders, and if no member fits.
    """
    root = predictor.root
    if not isinstance(root, Blend):
        raise UserError(f"--budget {budget}: {predictor.source} is no blend; leave it out")
    if predictor.run is None:
        raise UserError(
            f"--budget {budget}: {predictor.source} lacks the members' out-of-fold rows, on which"
            " they are chosen; pass the blend's folder"
        )
    found = vote_within(predictor.run, member_runs(predictor.run), budget)
    metric = metric_of(predictor.info).title
    score = found.score
    say(
        f"--budget {budget}: soft vote of {len(found.members)} of {len(root.members)} members"
        f" ({', '.join(found.members)}) at {found.cost:.3g} times the cheapest; its own OOF"
        f" {metric} {num(score.value)} {span(score.as_dict())}"
    )
    blend = dataclasses.replace(root, parameters=found.parameters)
    temperature = found.calibration.temperature
    out_of_fold = (found.logits_NC, found.rows)

    def coverage_of(wanted: float, *, by_class: bool) -> Coverage | None:
        return out_of_fold_coverage(
            *out_of_fold, wanted, temperature=temperature, by_class=by_class
        )

    extras = {
        **predictor.extras,
        "calibration": found.calibration.as_dict(),
        "conformal": Conformal.of(*out_of_fold, temperature=temperature).as_arrays(),
        "coverage_of": coverage_of,
        # The score of the vote, not that of the blend.
        "report": {**_kept(predictor.info), "headline": score.as_dict()},
    }
    return dataclasses.replace(predictor, root=blend, extras=extras)
