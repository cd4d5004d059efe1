"""Checks of the audit: what each found, over how much, and how sensitive it is."""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from foldblend.errors import counted
from foldblend.words import plural
from folds.audit.exchanges import Swaps
from folds.audit.files import size_line
from folds.audit.findings import CheckName, Finding
from folds.audit.lookalikes import LEAST_GROUPS, Lookalikes
from folds.data.training_only import PART

if TYPE_CHECKING:
    from folds.audit.exploration import Exploration

__all__ = ["Check", "Outcome", "checks_of", "fine_line", "lookalike_line", "swap_line"]

# With a smaller share of found test cases, "none found" means nothing.
LEAST_RECALL = 0.1
SAME_IMAGE = "the same image "

Found = Collection[CheckName]
"""The checks that have a finding."""


class Outcome(enum.StrEnum):
    """Result of a check."""

    FINE = "fine"
    """It ran and found nothing."""
    FOUND = "found"
    """It found something, which is among the findings."""
    NOT_MADE = "not made"
    """It did not run."""
    UNABLE = "unable"
    """It ran, but on these images it cannot tell."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check of the audit."""

    what: str
    """The fault that it looks for."""
    outcome: Outcome
    text: str
    """Over how much it ran and how sensitive it is, or why it did not run."""
    line: str = ""
    """A whole sentence for the terminal, where the name among the fine checks is not enough."""


def lookalike_line(found: Lookalikes, group_name: str, num_groups: int) -> str:
    """Return what the search for one group under two names found, and how sensitive it is."""
    what = f"Same {group_name} under two names"
    groups = plural(group_name)
    if not found.num_trials:
        if num_groups < LEAST_GROUPS:
            return f"{what}: not checked; there are only {num_groups} {groups}."
        return f"{what}: not checked; the images have too few details to compare."
    cases = f"{found.recall:.0%} of {found.num_trials:,} test cases"
    result = counted(len(found.pairs), "pair") if len(found.pairs) else "none"
    if found.recall < LEAST_RECALL and not len(found.pairs):
        return f"{what}: none found, but this check cannot work on these images (it found {cases})."
    return f"{what}: {result} found. This check found {cases} ({groups} split in two)."


def swap_line(name: str, found: Swaps) -> str:
    """Return what the search for swapped labels found, and its error rates."""
    what = f"Swapped {name} labels"
    if not found.num_trials:
        return f"{what}: not checked; there are too few images."
    cases = f"{found.recall:.0%} of {found.num_trials:,} test cases"
    if not found.finds_enough:
        return (
            f"{what}: none reported, because this check cannot work on these images (it found only"
            f" {cases})."
        )
    if not found.beats_chance:
        likely = counted(found.num_likely, "pair")
        return (
            f"{what}: none reported, because this check makes too many mistakes on these images"
            f" ({likely} found, and about {found.expected:.1f} expected by chance)."
        )
    if not len(found.pairs):
        return f"{what}: none found. This check found {cases} (two labels exchanged)."
    return (
        f"{what}: {counted(len(found.pairs), 'pair')} found; about {found.expected:.1f} would be"
        f" expected by chance. This check found {cases} (two labels exchanged)."
    )


def _of_line(what: str, line: str, outcome: Outcome) -> Check:
    return Check(what, outcome, line.partition(": ")[2], line)


def _lookalike_outcome(found: Lookalikes) -> Outcome:
    if not found.num_trials:
        return Outcome.NOT_MADE
    if len(found.pairs):
        return Outcome.FOUND
    return Outcome.FINE if found.recall >= LEAST_RECALL else Outcome.UNABLE


def _swap_outcome(found: Swaps) -> Outcome:
    if not found.num_trials:
        return Outcome.NOT_MADE
    if not found.is_usable:
        return Outcome.UNABLE
    return Outcome.FOUND if len(found.pairs) else Outcome.FINE


def _searches(seen: Exploration, found_by: Found) -> list[Check]:
    """Return the two slow searches: one group under two names, and swapped labels."""
    group = seen.manifest.group_name
    what = f"the same {group} under two names"
    if not seen.deep or seen.lookalikes is None:
        why = " (--quick)" if not seen.deep else f", because every image is a separate {group}"
        # One line for both.
        line = f"Not checked{why}: {what}, swapped labels."
        text = f"not checked{why}."
        return [
            Check(what, Outcome.NOT_MADE, text, line),
            Check("swapped labels", Outcome.NOT_MADE, text),
        ]
    found = seen.lookalikes
    line = lookalike_line(found, group, seen.manifest.train["group"].nunique())
    checks = [_of_line(what, line, _lookalike_outcome(found))]
    for name, swaps in seen.swaps.items():
        line = swap_line(name, swaps)
        checks.append(_of_line(f"swapped {name} labels", line, _swap_outcome(swaps)))
    if not seen.swaps:
        line = f"Swapped labels: not checked; all images of a {group} have the same label."
        checks.append(_of_line("swapped labels", line, Outcome.NOT_MADE))
    return checks


def _outcome(name: CheckName, found_by: Found) -> Outcome:
    return Outcome.FOUND if name in found_by else Outcome.FINE


def _unreadable(seen: Exploration, found_by: Found) -> list[Check]:
    num_read = counted(len(seen.images) + len(seen.unreadable), "image")
    outcome = _outcome(CheckName.UNREADABLE, found_by)
    return [Check("unreadable images", outcome, f"none of {num_read}.")]


def _duplicates(seen: Exploration, found_by: Found) -> list[Check]:
    """Return the comparisons of all images with each other."""
    group = seen.manifest.group_name
    size_of = seen.images["part"].value_counts()
    among = f"none among {counted(size_of['train'], 'image')}"
    kinds = [
        (
            CheckName.TWO_GROUPS,
            f"in two {plural(group)}",
            f"{among}, also resized or recompressed.",
        ),
        (CheckName.TWO_LABELS, "with two labels", f"{among}."),
        (CheckName.TWICE, f"twice in one {group}", f"{among}."),
    ]
    if "test" in size_of:
        over = f"none of {counted(size_of['test'], 'test image')}."
        kinds.append((CheckName.IN_TEST, "in the training and the test set", over))
    if PART in size_of:
        over = f"none of {counted(size_of[PART], 'image')}."
        where = "for training only and among the scored images"
        kinds.append((CheckName.TRAINING_ONLY, where, over))
    return [
        Check(f"{SAME_IMAGE}{where}", _outcome(name, found_by), over) for name, where, over in kinds
    ]


def _differences(seen: Exploration, found_by: Found) -> list[Check]:
    what = "differences between training and test images"
    line = seen.adversarial_lines()[0]
    if CheckName.DIFFERENCES in found_by:
        return [Check(what, Outcome.FOUND, "")]
    is_made = seen.adversarial is not None
    return [_of_line(what, line, Outcome.FINE if is_made else Outcome.NOT_MADE)]


def _files(seen: Exploration, found_by: Found) -> list[Check]:
    sizes = size_line(*seen.statistic_NS[:, :2].T)
    num = counted(len(seen.images), "file")
    return [
        Check(
            "very different or very small image sizes", _outcome(CheckName.SIZES, found_by), sizes
        ),
        Check(
            "letter case of file suffixes",
            _outcome(CheckName.SUFFIXES, found_by),
            f"one in {num}.",
        ),
    ]


# In the order in which they are listed.
CHECKS: Sequence[Callable[[Exploration, Found], list[Check]]] = (
    _unreadable,
    _duplicates,
    _searches,
    _differences,
    _files,
)


def _folds(seen: Exploration, fold_RN: np.ndarray, found_by: Found) -> list[Check]:
    """Return the checks of the folds."""
    train = seen.manifest.train
    group = seen.manifest.group_name
    num_groups = counted(train["group"].nunique(), group)
    num_classes = train["label_raw"].nunique()
    num_folds = counted(int(fold_RN.max()) + 1, "fold")
    return [
        Check(
            f"{plural(group)} in several folds",
            _outcome(CheckName.SPLIT_GROUPS, found_by),
            f"none of {num_groups} in {num_folds}.",
        ),
        Check(
            "classes missing from some folds",
            _outcome(CheckName.MISSING_CLASSES, found_by),
            f"none of {num_classes:,}.",
        ),
    ]


def checks_of(seen: Exploration, fold_RN: np.ndarray, findings: Sequence[Finding]) -> list[Check]:
    """Return all checks in the order in which they are listed.

    Parameters
    ----------
    seen
        Results of the exploration.
    fold_RN
        Fold of each training row in each repeat.
    findings
        All findings.
    """
    found_by = {one.check for one in findings}
    checks = [check for make in CHECKS for check in make(seen, found_by)]
    return [*checks, *_folds(seen, fold_RN, found_by)]


def fine_line(checks: Sequence[Check]) -> str:
    """Return the line of the terminal on what was checked without a finding; empty if nothing was.

    Examples
    --------
    >>> names = ["odd sizes", "the same image in two people", "the same image with two labels"]
    >>> fine_line([Check(name, Outcome.FINE, "") for name in names])
    'Checked, nothing found: odd sizes; the same image in two people or with two labels.'
    """
    fine = [check.what for check in checks if check.outcome is Outcome.FINE]
    same = [name.removeprefix(SAME_IMAGE) for name in fine if name.startswith(SAME_IMAGE)]
    names = []
    for name in fine:
        if not name.startswith(SAME_IMAGE):
            names.append(name)
        elif name == f"{SAME_IMAGE}{same[0]}":
            first = ", ".join(same[:-1])
            names.append(f"{SAME_IMAGE}{first}{' or ' * (len(same) > 1)}{same[-1]}")
    return f"Checked, nothing found: {'; '.join(names)}." if names else ""
