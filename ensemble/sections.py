"""Make the report sections of a blend: members, correlated errors, methods compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ensemble.auto import SCORE, SIMPLE, Blended, Trial
from ensemble.methods.registry import method_of
from foldblend.scores.metrics import Metric
from foldblend.scores.score import Score
from reports.blocks import comparison_block, section, table_block, text_block
from reports.text import num, signed, span

__all__ = ["errors_section", "members_section", "methods_section", "verdict_sentence"]


def verdict_sentence(
    difference: Mapping[str, float | None],
    best_single: str,
    *,
    metric: Metric,
    num_groups: int,
    times_cost: float,
    groups: str = "groups",
) -> str:
    """Return in words whether a blend is better than the best single run.

    Parameters
    ----------
    difference
        The score of the blend minus that of the run: value, low, high, in the metric's own units.
    best_single
        Name of the run.
    metric
        The metric of the scores.
    num_groups
        Number of groups that the interval is over.
    times_cost
        Cost of the blend, in multiples of the run's.
    groups
        What groups are, in the plural.

    Returns
    -------
    str
        A sentence in the form of a report's notes: a small letter first, no full stop.

    Examples
    --------
    >>> from foldblend.scores.metrics import METRICS
    >>> facts = {"metric": METRICS["f1_macro"], "num_groups": 80, "times_cost": 2}
    >>> sentence = verdict_sentence({"value": 0.03, "low": 0.01, "high": 0.05}, "a", **facts)
    >>> sentence.partition(" (")[0]
    'the blend is better than a alone, the best single run'
    """
    ends = [float(end) for end in (difference["low"], difference["high"]) if end is not None]
    worst, best = sorted(metric.sign * end for end in ends)
    if worst > 0:
        relation = "better than"
    elif best < 0:
        relation = "worse than"
    else:
        relation = "no better than"
    unclear = worst <= 0 <= best
    limit = f", as far as these {num_groups:,} {groups} can show" if unclear else ""
    direction = "; lower is better" if metric.sign < 0 else ""
    return (
        f"the blend is {relation} {best_single} alone, the best single run{limit} (difference"
        f" {signed(difference)}{direction}), at {times_cost:.3g} times the cost"
    )


def members_section(
    rows: Sequence[Mapping[str, Any]], verdict: str | None, *, groups: str = "groups"
) -> dict[str, Any]:
    """Return the section that compares the members and, in the last row, the blend.

    The verdict on the blend follows as a full sentence, unless that is None. `groups` is what
    groups are, in the plural.
    """
    verdict_blocks = [] if verdict is None else [text_block(f"{verdict[0].upper()}{verdict[1:]}.")]
    closing = []
    if len(rows) > 2:
        closing = [
            text_block(
                "The best single run was picked on these same rows, so its score is slightly"
                f" optimistic. Differences compare both scores on the same {groups} (paired)."
            )
        ]
    return section(
        "Single runs and the blend, out of fold",
        # The comparison stays the first block, where readers of report.json find it.
        comparison_block(rows),
        *verdict_blocks,
        *closing,
        screen=verdict_blocks,
    )


def errors_section(names: Sequence[str], wrong_MN: np.ndarray) -> dict[str, Any] | None:
    """Return the section on how correlated the members' errors are, or None for one member.

    `wrong_MN` is true where a member is wrong on a row. The correlation is that of two binary
    variables (phi).
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
        "Correlation of the members' errors, out of fold",
        table_block(
            ["", "error rate", "mean correlation", "highest correlation", "with"],
            rows,
        ),
        text_block(
            f"Of {num_rows:,} rows, {everyone:.1%} are wrong in every member, so that choosing"
            f" among members cannot correct them; {someone:.1%} are wrong in at least one."
            " The less the errors are correlated, the more a blend can gain."
        ),
    )


def _row(trial: Trial, label: str, best_single: Score, metric: Metric) -> list[str]:
    """Return name, score, interval, difference to the best single run, and in-sample score."""
    nested = trial.nested.interval().as_dict()
    return [
        label,
        num(nested["value"]),
        span(nested),
        signed(trial.nested.minus(best_single).interval().as_dict()),
        num(metric.sign * trial.in_sample),
    ]


def _rows(blended: Blended, best_single: Score, metric: Metric) -> list[list[str]]:
    """Return a row for each method; if their mean was taken, also their weights and its row."""
    chosen = blended.chosen
    if blended.is_choice:
        labels = [
            f"{trial.label} (chosen)" if trial is chosen else trial.label
            for trial in blended.trials
        ]
        pairs = zip(blended.trials, labels, strict=True)
        return [_row(trial, label, best_single, metric) for trial, label in pairs]
    rows = []
    for trial, weight in zip(blended.trials, blended.weight_S, strict=True):
        name, *scores = _row(trial, trial.name, best_single, metric)
        rows.append([name, f"{weight:.2f}" if weight else "", *scores])
    name, *scores = _row(chosen, "mean (chosen)", best_single, metric)
    return [*rows, [name, "1.00", *scores]]


def _why_chosen(blended: Blended, metric: Metric, prefer: str, groups: str) -> str:
    chosen = blended.chosen
    best = max(blended.trials, key=lambda trial: trial.nested.value)
    if not blended.is_choice:
        over = metric.sign * (chosen.nested.value - best.nested.value)
        of_means = (
            " Scores for this are of means over repeats, since a submission averages models too."
            if blended.of_means
            else ""
        )
        return (
            "Chosen: the mean of the methods' probabilities. The weight of a method is the share of"
            f" bootstrap samples of {groups} in which it scores best; shares below 2 % count as 0."
            f"{of_means} On simulated data such a mean scores better on new {groups}, on average,"
            f" than the method with the best score here, {best.name}, from which it differs by"
            f" {over:+.4f}."
        )
    why = "It has the best score."
    if prefer == SCORE and len(blended.trials) > 1:
        why = f"No other method scores best in 2 % of bootstrap samples of {groups}."
    elif best is not chosen:
        why = (
            "It is the simplest method within one standard error of the best: it scores"
            f" {best.nested.value - chosen.nested.value:.4f} below {best.name}, whose standard"
            f" error is {best.nested.error:.4f}."
        )
    return f"Chosen: {chosen.name} ({method_of(chosen.name).what}). {why}"


def _optimism(blended: Blended, metric: Metric, groups: str) -> str:
    chosen = blended.chosen
    soft = next((trial for trial in blended.trials if trial.name == "soft"), chosen)
    over = chosen.nested.value - soft.nested.value
    more = ""
    if chosen is not soft and blended.optimism > over:
        more = (
            ", which is more than its gain over the unweighted soft vote"
            f" ({metric.sign * over:+.4f})"
        )
    expected = blended.expected.interval()
    if blended.is_choice:
        choice = f"The method was chosen among {len(blended.trials)}"
    else:
        choice = "The weights of the methods were found"
    return (
        f"{choice} on the same {groups} that score the blend,"
        f" so its score is optimistic: by about {blended.optimism:.3f} {metric.title} on average"
        f" (bootstrap estimate){more}. The scores above are not corrected for this; corrected,"
        f" expect about {expected.value:.3f} [{expected.low:.3f}, {expected.high:.3f}]. How lucky"
        " this particular choice was cannot be estimated."
    )


def _decision_rule(blended: Blended, groups: str, prefer: str) -> str | None:
    """Return which methods use offsets and why, or None if no offsets were fitted."""
    used = [
        trial
        for trial, weight in zip(blended.trials, blended.weight_S, strict=True)
        if weight and any(trial.offsets_gain)
    ]
    if not used:
        return None
    with_offsets = [trial for trial in used if trial.offsets_C.any()]
    if not with_offsets:
        gained, error = used[0].offsets_gain
        return (
            "Decision rule: the most probable class. One offset per class would change the score"
            f" of {used[0].name} by {gained:+.4f} on held-out {groups} (standard error"
            f" {error:.4f}), which is not enough to use offsets."
        )
    if prefer == SIMPLE:
        gained, error = with_offsets[0].offsets_gain
        return (
            "Decision rule: one offset per class is added to the log-probabilities. Offsets are"
            f" used because they gain {gained:+.4f} on held-out {groups} (standard error"
            f" {error:.4f})."
        )
    each = ", ".join(f"{trial.name} {trial.strength:.2f}" for trial in with_offsets)
    return (
        "Decision rule: one offset per class is added to the log-probabilities. Offsets are"
        f" multiplied by the share of bootstrap samples in which they raise the score on held-out"
        f" {groups}: {each}."
    )


def methods_section(
    blended: Blended,
    best_single: Score,
    name: str,
    metric: Metric,
    once_more: Score | None,
    *,
    prefer: str = SCORE,
    groups: str = "groups",
) -> dict[str, Any]:
    """Return the section that compares the methods, and explains the choice.

    `name` is that of the best single run, whose score every method is compared with; `once_more`
    is the score of the whole procedure with the choice of the method cross-validated too; `prefer`
    is how the choice was made; `groups` is what groups are, in the plural.
    """
    weight = [] if blended.is_choice else ["weight"]
    header = [*weight, "nested CV", "95 % interval", f"difference to {name}"]
    rows = _rows(blended, best_single, metric)
    # The screen shows the difference without its interval, and no in-sample score.
    short = [[*row[:-2], row[-2].split(" ")[0]] for row in rows]
    sentences = [
        "In-sample: scored on the rows that the method was fitted on, so too high. Nested CV: each"
        " fold is predicted by the method fitted on the other folds. Differences to the best"
        f" single run, {name}, compare both on the same {groups}."
    ]
    if len(blended.trials) > 1:
        sentences += [
            _why_chosen(blended, metric, prefer, groups),
            _optimism(blended, metric, groups),
        ]
    if once_more is not None:
        sentences.append(
            "With the choice of the method cross-validated too (--thorough), the whole procedure"
            f" scores {once_more.interval()}."
        )
    rule = _decision_rule(blended, groups, prefer)
    if rule is not None:
        sentences.append(rule)
    return section(
        "Blending methods compared (nested cross-validation)",
        table_block(["", *header, "in-sample"], rows),
        *map(text_block, sentences),
        screen=[table_block(["method", *weight, "score", *header[-2:]], short)],
    )
