"""Report sections and notes on members that hurt a blend, and on those that were dropped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ensemble.auto import Blended
from ensemble.config import BlendConfig
from ensemble.crossfit import Split
from ensemble.harm import Harm, MethodsOf, leave_out_again, leave_out_each, leave_out_of_vote
from ensemble.methods.base import Evidence, Fitted
from ensemble.methods.vote import Vote
from ensemble.singles import Singles
from ensemble.subsets import FewerMembers
from foldblend.errors import listed
from foldblend.scores.metrics import Metric
from reports.blocks import section, strips_block, table_block, text_block
from reports.text import num, signed

__all__ = ["dropped_blocks", "harm_found", "harm_note", "harm_of_vote", "harm_section"]

MOST_NAMED = 3  # in a note
HOW = {
    "vote": "The others keep their weights, in proportion.",
    "kept": (
        "Nothing is fitted again: votes keep the others' weights in proportion, a stack passes the"
        " weights of the member on to the others, and the weights of the methods and the offsets"
        " stay. With --thorough the blend is made again for each member."
    ),
    "again": "For each member the whole blend is made again from the others (--thorough).",
}
"""How a member is left out."""


def _sorted(harms: Sequence[Harm]) -> list[Harm]:
    """Return the members, most harmful first, and last those that cannot be left out."""
    return sorted(harms, key=lambda one: np.inf if one.gain is None else -one.gain.value)


def harm_note(harms: Sequence[Harm], *, can_drop: bool) -> str | None:
    """Return which members a blend is better without, and the cure, or None if there are none.

    `can_drop` is whether --drop-harmful may be passed.
    """
    found = [one for one in _sorted(harms) if one.hurts]
    if not found:
        return None
    direction = "; lower is better" if found[0].gain is not None and found[0].gain.sign < 0 else ""
    each = ", ".join(
        f"{one.name} ({signed(one.gain.interval().as_dict())}{direction})"
        for one in found[:MOST_NAMED]
        if one.gain is not None
    )
    more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    cure = "leave it out" if len(found) == 1 else "leave out the first and blend again"
    if can_drop:
        cure += ", or pass --drop-harmful"
    return f"the blend is better without {each}{more}: {cure}"


def harm_section(
    harms: Sequence[Harm],
    metric: Metric,
    note: str | None,
    *,
    how: str,
    dropped: Sequence[dict[str, Any]] = (),
    groups: str = "groups",
) -> dict[str, Any]:
    """Return the section on what the blend scores without each member.

    `how` is a key of HOW; `dropped` are blocks on what --drop-harmful did; `groups` is what groups
    are, in the plural.
    """
    rows = []
    differences = {}
    for one in _sorted(harms):
        cells = ["no blend is left", ""]
        if one.gain is not None:
            differences[f"without {one.name}"] = one.gain.interval().as_dict()
        if one.score is not None and one.gain is not None:
            cells = [num(metric.sign * one.score.value), signed(one.gain.interval().as_dict())]
        rows.append([f"without {one.name}", *cells])
    side = "above" if metric.sign > 0 else "below"
    blocks = [] if note is None else [text_block(f"{note[0].upper()}{note[1:]}.")]
    strips = strips_block(differences, xlabel="difference to the blend", line=0)
    return section(
        "The blend without each member, out of fold",
        *blocks,
        *dropped,
        *([strips] if differences else []),
        table_block(["", metric.title, "difference to the blend"], rows),
        text_block(
            f"Most harmful member first. Where a difference is {side} 0, the blend is better"
            f" without the member. Both are scored on the same {groups}. {HOW[how]} Of 40 members"
            " that change nothing, about one is named by chance."
        ),
        screen=blocks,
    )


def _is_unused(fitted: Fitted, num_members: int) -> list[bool]:
    """Return which members were chosen not to be in a method, in the order of the members."""
    used = fitted.members if isinstance(fitted, FewerMembers) else range(num_members)
    return [member not in used for member in range(num_members)]


def dropped_blocks(
    blended: Blended, names: Sequence[str], *, budget: bool
) -> tuple[list[dict[str, Any]], str]:
    """Return blocks on the members that --drop-harmful dropped from each method, and a note.

    `budget` is whether members were chosen within a budget before; then both are told together.
    """
    by = "--budget and --drop-harmful" if budget else "--drop-harmful"
    rows = []
    dropped: dict[str, list[str]] = {}
    for trial, weight in zip(blended.trials, blended.weight_S, strict=True):
        if not weight:
            continue
        final = _is_unused(trial.final, len(names))
        folds = np.array([_is_unused(part, len(names)) for part in trial.parts])
        for member in np.flatnonzero(np.any([final, *folds], axis=0)).tolist():
            times = f"{folds[:, member].sum()} of {len(folds)} folds"
            rows.append([names[member], trial.name, times, "yes" if final[member] else "no"])
            if final[member]:
                dropped.setdefault(names[member], []).append(trial.name)
    if not rows:
        note = f"{by} dropped no member"
        return [text_block(f"{note}.")], note
    explained = text_block(
        f"Dropped by {by}, from methods with a weight in the blend. Each fold's method drops"
        " members on the other folds, so the scores include this choice. A member may hurt one"
        " method and help another."
    )
    each = ", ".join(f"{name} ({listed(methods, most=9)})" for name, methods in dropped.items())
    table = table_block(["dropped", "from", "out of fold", "for the test set"], rows)
    return [explained, table], f"{by} dropped {each or 'members in some folds only'}"


def harm_found(
    evidence: Evidence,
    splits: Sequence[Split],
    blended: Blended,
    methods_of: MethodsOf,
    singles: Singles,
    config: BlendConfig,
    *,
    decide: bool,
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return the section on what the blend scores without each member, and its notes."""
    names = singles.names
    if len(names) < 2:
        return {}, []
    if config.thorough:
        harms = leave_out_again(
            evidence, blended, methods_of, names, decide=decide, prefer=config.rule
        )
    else:
        harms = leave_out_each(evidence, splits, blended, methods_of, names)
    # A member that was dropped on all rows has been left out already. What forbids fitting, such as
    # different folds, forbids dropping too.
    pairs = zip(harms, blended.chosen.final.shares, strict=True)
    left_in = [one for one, share in pairs if share]
    note = harm_note(left_in, can_drop=bool(splits) and not config.drop_harmful)
    dropped: list[dict[str, Any]] = []
    notes = [] if note is None else [note]
    if config.drop_harmful:
        dropped, what = dropped_blocks(blended, names, budget=config.budget is not None)
        notes.append(what)
    how = "again" if config.thorough else "kept"
    found = harm_section(
        harms, singles.metric, note, how=how, dropped=dropped, groups=evidence.rows.groups
    )
    return {"1_without": found}, notes


def harm_of_vote(
    fitted: Vote,
    vote_NC: np.ndarray,
    logits_MNC: Iterable[np.ndarray],
    singles: Singles,
    *,
    can_drop: bool,
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return the same for a vote in which nothing was fitted, with its members' logits.

    `can_drop` is whether --drop-harmful may be passed.
    """
    if len(singles.names) < 2:
        return {}, []
    harms = leave_out_of_vote(
        fitted, vote_NC, logits_MNC, singles.rows, singles.metric, singles.names
    )
    note = harm_note(harms, can_drop=can_drop)
    found = harm_section(harms, singles.metric, note, how="vote", groups=singles.rows.groups)
    return {"1_without": found}, [] if note is None else [note]
