"""Findings of the audit: probable faults, with the pairs of images that show them."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import pandas as pd

from foldblend.errors import counted, listed
from foldblend.words import plural
from folds.audit.exchanges import Swaps, find_swaps
from folds.audit.lookalikes import Lookalikes
from folds.audit.swaps import log_proba_of
from folds.data.duplicates import IN_TEST, TWO_GROUPS, TWO_LABELS
from folds.data.manifest import Manifest
from folds.data.training_only import PART, SAME

__all__ = [
    "CheckName",
    "Finding",
    "Severity",
    "duplicate_findings",
    "lookalike_findings",
    "swap_findings",
]


class Severity(enum.StrEnum):
    """Rank of a finding; findings are listed in this order."""

    SERIOUS = "serious"
    """Training stops, or labels or scores are wrong, until it is mended."""
    MINOR = "minor"
    """Training and scores are all right, but it deserves a look."""


class CheckName(enum.StrEnum):
    """Name of a check, by which its findings are told apart."""

    UNREADABLE = "unreadable images"
    WARNINGS = "warnings of the reader"
    TWO_GROUPS = "same image in two groups"
    TWO_LABELS = "same image with two labels"
    TWICE = "same image twice in one group"
    IN_TEST = "same image in the training and the test set"
    TRAINING_ONLY = "same image for training only and among the scored images"
    LOOKALIKES = "same group under two names"
    SWAPS = "swapped labels"
    DIFFERENCES = "differences between training and test images"
    SIZES = "image sizes"
    SUFFIXES = "file suffixes"
    SPLIT_GROUPS = "groups in several folds"
    MISSING_CLASSES = "classes missing from some folds"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A probable fault of the data."""

    check: CheckName
    """The check that found it."""

    title: str
    """The fault and its number of pairs."""
    severity: Severity
    cure: str
    """Advice on how to fix it."""
    pairs: tuple[tuple[int, int], ...] = ()
    """Two rows of the table of images for each pair; empty if the fault is not one of pairs."""
    texts: tuple[str, ...]
    """One line of text for each pair, or for each place of the fault."""

    def lines(self, *, most: int = 10) -> list[str]:
        """Return the title, at most `most` pairs and the cure."""
        if not self.pairs:
            return [f"{self.title}: {listed(self.texts)}.", f"  {self.cure}"]
        more = [f"  and {len(self.texts) - most} more"] if len(self.texts) > most else []
        return [
            f"{self.title}:",
            *[f"  {text}" for text in self.texts[:most]],
            *more,
            f"  {self.cure}",
        ]


def duplicate_findings(images: pd.DataFrame, pairs: np.ndarray, group_name: str) -> list[Finding]:
    """Return the findings on duplicates, given as pairs of rows of `images`, U x 2."""
    groups = plural(group_name)
    ids, group_N, label_N, part_N = (
        images[name].to_numpy() for name in ("image_id", "group", "label", "part")
    )
    i, j = pairs.T
    in_train = (part_N[i] == "train") & (part_N[j] == "train")
    in_test = (part_N[i] == "test") != (part_N[j] == "test")
    alone = (part_N[i] == PART) != (part_N[j] == PART)
    kinds = (
        (
            in_train & (group_N[i] != group_N[j]),
            TWO_GROUPS.replace("groups", groups),
            f"Pass --merge-duplicates to merge these {groups}, or remove one image of each pair.",
            Severity.SERIOUS,
            CheckName.TWO_GROUPS,
        ),
        (
            in_train & (label_N[i] != label_N[j]),
            TWO_LABELS,
            "Remove the image with the wrong label, or correct its label with --corrections.",
            Severity.SERIOUS,
            CheckName.TWO_LABELS,
        ),
        (
            in_train & (group_N[i] == group_N[j]) & (label_N[i] == label_N[j]),
            f"same image twice in one {group_name}, so it counts twice",
            "Remove one image of each pair, unless it is meant to count twice.",
            Severity.MINOR,
            CheckName.TWICE,
        ),
        (
            in_test,
            IN_TEST,
            "Remove these images from the training set.",
            Severity.SERIOUS,
            CheckName.IN_TEST,
        ),
        (
            alone & ~in_test,
            SAME,
            "A fold trains without them where it holds the scored image out; remove them if they"
            " are not needed.",
            Severity.MINOR,
            CheckName.TRAINING_ONLY,
        ),
    )
    return [
        Finding(
            check=check,
            title=f"{what[0].upper()}{what[1:]} ({counted(int(chosen.sum()), 'pair')})",
            severity=severity,
            cure=cure,
            pairs=tuple((int(one), int(other)) for one, other in pairs[chosen]),
            texts=tuple(f"{ids[one]} = {ids[other]}" for one, other in pairs[chosen]),
        )
        for chosen, what, cure, severity, check in kinds
        if chosen.any()
    ]


def lookalike_findings(manifest: Manifest, found: Lookalikes, rows: np.ndarray) -> list[Finding]:
    """Return the finding, if any, on groups that look the same.

    `rows` are the training rows that were searched.
    """
    name = manifest.group_name
    pairs = rows[found.pairs]
    group_N = manifest.train["group"].to_numpy()
    if not len(pairs):
        return []
    texts = [
        f"{group_N[i]} ~ {group_N[j]} ({count} shared features)"
        for (i, j), count in zip(pairs, found.matches_U, strict=True)
    ]
    return [
        Finding(
            check=CheckName.LOOKALIKES,
            title=f"Possibly the same {name} under two names ({counted(len(pairs), 'pair')})",
            severity=Severity.SERIOUS,
            cure=(
                f"If both are the same {name}, give them one name; otherwise they leak between"
                " folds. Images of one place can look alike, too."
            ),
            pairs=tuple((int(i), int(j)) for i, j in pairs),
            texts=tuple(texts),
        )
    ]


def _targets(manifest: Manifest) -> dict[str, tuple[np.ndarray, tuple[str, ...]]]:
    """Return {name: (value of each row, value names)} of attributes that vary in groups.

    The class is added unless the attributes determine it.
    """
    label_N = manifest.train["label"].to_numpy()
    found = {
        one.name: (np.asarray(one.of_class)[label_N], one.values) for one in manifest.attributes
    }
    combinations = (
        {*zip(*(one.of_class for one in manifest.attributes), strict=True)} if found else set()
    )
    if len(combinations) < manifest.num_classes:
        found["class"] = (label_N, manifest.classes)
    group_N = manifest.train["group"].to_numpy()
    return {
        name: (value_N, values)
        for name, (value_N, values) in found.items()
        if (pd.Series(value_N).groupby(group_N).nunique() > 1).any()
    }


def swap_findings(
    manifest: Manifest, feature_ND: np.ndarray
) -> tuple[list[Finding], dict[str, Swaps]]:
    """Return findings on images of a group that seem to have each other's label.

    Parameters
    ----------
    manifest
        The data set.
    feature_ND
        `folds.audit.swaps.features_of` each training row.

    Returns
    -------
    tuple
        The findings, and the result of the search for each attribute (or the class) that varies
        within groups. Each text ends with a line for the --corrections file, unless names with
        blanks or commas rule that out.
    """
    group_N = manifest.train["group"].to_numpy()
    ids = manifest.train["image_id"].to_numpy()
    findings = []
    found = {}
    for name, (value_N, values) in _targets(manifest).items():
        swaps = find_swaps(log_proba_of(feature_ND, value_N, group_N), value_N, group_N)
        found[name] = swaps
        texts = []
        for i, j in swaps.pairs:
            one, other = (PurePosixPath(ids[row]).stem for row in (i, j))
            line = f"{group_N[i]},swap,{one} {other}"
            # A swap line is split at commas and blanks, so names with either cannot be written.
            is_line = len(line.split()) == 2 and line.count(",") == 2 and '"' not in line
            text = (
                f"{group_N[i]}: {one} is labelled {values[value_N[i]]}, {other}"
                f" {values[value_N[j]]}"
            )
            texts.append(f"{text}  ({line})" if is_line else text)
        if texts:
            findings.append(
                Finding(
                    check=CheckName.SWAPS,
                    title=(
                        f"Possibly swapped {name} labels within a {manifest.group_name}"
                        f" ({counted(len(texts), 'pair')})"
                    ),
                    severity=Severity.SERIOUS,
                    cure=(
                        f"About {swaps.expected:.1f} would be expected by chance, so look at the"
                        " images. To correct a pair, add its line in brackets to the --corrections"
                        " file."
                    ),
                    pairs=tuple((int(i), int(j)) for i, j in swaps.pairs),
                    texts=tuple(texts),
                )
            )
    return findings, found
