"""What a blend's report says beyond that of any run: members, their errors, methods, and what
choosing flatters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ensemble.auto import Blended, Trial
from ensemble.methods.registry import METHODS
from foldblend.scores.metrics import Metric
from foldblend.scores.score import Score
from reports.blocks import section, table_block, text_block
from reports.text import num, signed, span

__all__ = ["errors_section", "methods_section"]


def errors_section(names: Sequence[str], wrong_MN: np.ndarray) -> dict[str, Any] | None:
    """Return how correlated the members' errors are, from whether each is wrong on each row; None
    for one member.

    The correlation is of two binary variables (phi). Members whose errors are alike have little to
    tell each other.
    """
    if len(names) < 2:
        return None
    centred_MN = wrong_MN - wrong_MN.mean(axis=1, keepdims=True)
    length_M = np.sqrt((centred_MN**2).sum(axis=1))
    scale_MM = np.outer(length_M, length_M)
    phi_MM = np.divide(
        centred_MN @ centred_MN.T, scale_MM, out=np.zeros_like(scale_MM), where=scale_MM > 0
    )
    np.fill_diagonal(phi_MM, -np.inf)
    nearest_M = phi_MM.argmax(axis=1)
    np.fill_diagonal(phi_MM, 0.0)
    rows = [
        [
            name,
            f"{wrong_MN[one].mean():.3f}",
            f"{phi_MM[one].sum() / (len(names) - 1):.2f}",
            f"{phi_MM[one, nearest_M[one]]:.2f}",
            names[nearest_M[one]],
        ]
        for one, name in enumerate(names)
    ]
    num_rows = wrong_MN.shape[1]
    everyone, someone = (float(one.mean()) for one in (wrong_MN.all(axis=0), wrong_MN.any(axis=0)))
    return section(
        "How alike the members' errors are, out of fold",
        table_block(
            ["", "wrong", "correlation with the others", "with the nearest", "which is"], rows
        ),
        text_block(
            f"Of {num_rows:,} rows, {everyone:.1%} are wrong in every member, which no choice among"
            f" them can mend, and {someone:.1%} in at least one."
        ),
    )


def _row(trial: Trial, chosen: Trial, best_single: Score, metric: Metric) -> list[str]:
    nested = trial.nested.interval().as_dict()
    sign = metric.sign
    return [
        f"{trial.label} (taken)" if trial is chosen else trial.label,
        num(sign * trial.in_sample),
        num(nested["value"]),
        span(nested),
        signed(trial.nested.minus(best_single).interval().as_dict()),
    ]


def _said(blended: Blended, metric: Metric, once_more: Score | None) -> list[str]:
    """Return in sentences why this method was taken, and by how much its score flatters."""
    sign = metric.sign
    chosen = blended.chosen
    best = max(blended.trials, key=lambda trial: trial.nested.value)
    lines = []
    if len(blended.trials) > 1:
        short = best.nested.value - chosen.nested.value
        why = (
            "has the best score"
            if best is chosen
            else (
                "is the simplest within one standard error of the best: "
                f"{short:.4f} below {best.name}, whose standard error is {best.nested.error:.4f}"
            )
        )
        lines.append(f"Taken: {chosen.name} ({METHODS[chosen.name].what}). It {why}.")
        soft = next((trial for trial in blended.trials if trial.name == "soft"), chosen)
        over = chosen.nested.value - soft.nested.value
        more = f", which is more than its gain over the plain soft vote ({sign * over:+.4f})"
        unlucky = more if chosen is not soft and blended.flatters > over else ""
        expected = blended.expected.interval()
        lines.append(
            f"Choosing among {len(blended.trials)} methods on the same people flatters the chosen"
            f" one's score: by about {blended.flatters:.3f} {metric.title} on average over such"
            f" choices, as resamples of people say{unlucky}; how lucky this one was they cannot"
            " say. It is not taken off the scores above; less that, expect about"
            f" {expected.value:.3f} [{expected.low:.3f}, {expected.high:.3f}]."
        )
    if once_more is not None:
        lines.append(
            "Nested once more, with the choice itself made on other people, the whole procedure"
            f" scores {once_more.interval()}."
        )
    gained, error = chosen.offsets_gain
    if chosen.offsets_C.any():
        lines.append(
            "Decision rule: an offset a class, added to log-probabilities, kept because it gains "
            f"{gained:+.4f} on other people (standard error {error:.4f})."
        )
    elif gained or error:
        lines.append(
            "Decision rule: the likeliest class. Offsets a class would change the score by "
            f"{gained:+.4f} on other people (standard error {error:.4f}), which is not enough."
        )
    return lines


def methods_section(
    blended: Blended, best_single: Score, name: str, metric: Metric, once_more: Score | None
) -> dict[str, Any]:
    """Return all methods side by side: in-sample, nested with interval, and minus the best single
    run, paired.
    """
    header = [
        "",
        "in-sample",
        "nested",
        "95 % interval",
        f"minus {name}, the best single run, paired",
    ]
    rows = [_row(trial, blended.chosen, best_single, metric) for trial in blended.trials]
    return section(
        "Methods: fitted on some people's rows, scored on others'",
        table_block(header, rows),
        *map(text_block, _said(blended, metric, once_more)),
    )
