"""Lines on the checks of the audit: what was found fine, and how sensitive the searches are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from foldblend.errors import counted
from foldblend.words import plural
from folds.audit.exchanges import Swaps
from folds.audit.lookalikes import LEAST_GROUPS, Lookalikes
from folds.data.manifest import Manifest

if TYPE_CHECKING:
    from folds.audit.exploration import Exploration

__all__ = ["NO_PROBLEMS", "check_lines", "lookalike_line", "swap_line"]

NO_PROBLEMS = "No problems found by the checks that ran."
# With a smaller share of found test cases, "none found" means nothing.
LEAST_RECALL = 0.1


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


def _fine(seen: Exploration) -> list[str]:
    """Return the names of the checks that ran and found nothing."""
    group = seen.manifest.group_name
    titles = " ".join(finding.title for finding in seen.findings).lower()
    notes = " ".join(seen.notes)
    names = [] if seen.unreadable else ["unreadable images"]
    duplicates = [f"in two {plural(group)}", "with two labels", f"twice in one {group}"]
    if seen.manifest.test is not None:
        duplicates.append("in the training and the test set")
    fine = [where for where in duplicates if f"same image {where}" not in titles]
    if fine:
        names.append(f"the same image {', '.join(fine[:-1])}{' or ' * (len(fine) > 1)}{fine[-1]}")
    lookalikes = seen.lookalikes
    if lookalikes is not None and lookalikes.recall >= LEAST_RECALL and not len(lookalikes.pairs):
        names.append(f"the same {group} under two names")
    names += [
        f"swapped {name} labels"
        for name, swaps in seen.swaps.items()
        if swaps.is_usable and not len(swaps.pairs)
    ]
    if seen.adversarial is not None and not seen.adversarial.differs:
        names.append("differences between training and test images")
    if "Images" not in notes:
        names.append("very different or very small image sizes")
    if "suffixes" not in notes:
        names.append("letter case of file suffixes")
    return names


def _searched(
    manifest: Manifest, deep: bool, found: Lookalikes | None, swaps: Mapping[str, Swaps]
) -> list[str]:
    """Return sentences on the two slow searches, or on why they did not run."""
    group = manifest.group_name
    if not deep:
        return [f"Not checked (--quick): the same {group} under two names, swapped labels."]
    if found is None:
        return [
            f"Not checked, because every image is a separate {group}: the same {group} under two"
            " names, swapped labels."
        ]
    lines = [lookalike_line(found, group, manifest.train["group"].nunique())]
    lines += [swap_line(name, one) for name, one in swaps.items()]
    if not swaps:
        lines.append(f"Swapped labels: not checked; all images of a {group} have the same label.")
    return lines


def check_lines(seen: Exploration) -> list[str]:
    """Return what was checked without a finding, and how sensitive the searches are."""
    fine = _fine(seen)
    lines = [f"Checked, nothing found: {'; '.join(fine)}."] if fine else []
    return [*lines, *_searched(seen.manifest, seen.deep, seen.lookalikes, seen.swaps)]
