"""Findings of the audit that are not pairs of images: files, folds, and train against test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from foldblend.errors import counted
from foldblend.words import plural
from folds.audit.findings import CheckName, Finding, Severity
from folds.data.manifest import Manifest
from folds.evenness import class_counts

if TYPE_CHECKING:
    from folds.audit.exploration import Exploration

__all__ = ["difference_findings", "file_findings", "fold_findings", "num_split_groups"]

# Check and advice by the first words of a note of `folds.audit.files`.
NOTES = {
    "Images of": (
        CheckName.SIZES,
        "All images become one size for training: look whether the smallest show enough.",
    ),
    "Images with": (
        CheckName.SIZES,
        "Look at these images: so few pixels are often an icon or a damaged file.",
    ),
    "File suffixes": (
        CheckName.SUFFIXES,
        "They are read alike here; other programs may pass over some of them.",
    ),
}


def file_findings(
    unreadable: Sequence[str], warnings: Sequence[str], notes: Sequence[str]
) -> list[Finding]:
    """Return the findings on images that cannot be read, warnings of the reader, and odd files.

    Parameters
    ----------
    unreadable
        Path and error of each image that cannot be read.
    warnings
        Warnings of the reader.
    notes
        Notes of `folds.audit.files`.
    """
    findings = []
    if unreadable:
        findings.append(
            Finding(
                check=CheckName.UNREADABLE,
                title=f"{counted(len(unreadable), 'image')} cannot be read",
                severity=Severity.SERIOUS,
                cure="Restore these files; --on-bad-image skip trains without them.",
                texts=tuple(unreadable),
            )
        )
    if warnings:
        findings.append(
            Finding(
                check=CheckName.WARNINGS,
                title=f"{counted(len(warnings), 'warning')} while the data were read",
                severity=Severity.MINOR,
                cure="Look whether this is what you expect of these data.",
                texts=tuple(one.rstrip(".") for one in warnings),
            )
        )
    for note in notes:
        title, _, text = note.rstrip(".").partition(": ")
        check, cure = next(one for start, one in NOTES.items() if title.startswith(start))
        findings.append(
            Finding(check=check, title=title, severity=Severity.MINOR, cure=cure, texts=(text,))
        )
    return findings


def num_split_groups(group_N: np.ndarray, fold_RN: np.ndarray) -> int:
    """Return the number of groups with images in several folds of one repeat.

    Examples
    --------
    >>> num_split_groups(np.array(["a", "a", "b"]), np.array([[0, 1, 1], [0, 0, 1]]))
    1
    """
    folds_RG = [pd.Series(fold_N).groupby(group_N).nunique() for fold_N in fold_RN]
    return int((np.array(folds_RG) > 1).any(axis=0).sum())


def fold_findings(manifest: Manifest, fold_RN: np.ndarray) -> list[Finding]:
    """Return the findings on groups in several folds, and on classes that a fold lacks."""
    train = manifest.train
    label_N = train["label_raw"].to_numpy()
    group_N = train["group"].to_numpy()
    name = manifest.group_name
    groups = plural(name)
    findings = []
    num_split = num_split_groups(group_N, fold_RN)
    if num_split:
        findings.append(
            Finding(
                check=CheckName.SPLIT_GROUPS,
                title=f"{counted(num_split, name)} in several folds, so scores will be too high",
                severity=Severity.SERIOUS,
                cure=f"Choose a --split (or a --fold-file) that keeps {groups} whole.",
                texts=(f"{num_split:,} of {counted(len(np.unique(group_N)), name)}",),
            )
        )
    count_RKC = np.stack([class_counts(label_N, one, manifest.num_classes) for one in fold_RN])
    occurs = np.flatnonzero(count_RKC[0].sum(axis=0))
    lacking = [label for label in occurs if not count_RKC[:, :, label].all()]
    if lacking:
        texts = [
            f"{manifest.classes[label]} ({counted(len(set(group_N[label_N == label])), name)})"
            for label in lacking
        ]
        num = len(lacking)
        findings.append(
            Finding(
                check=CheckName.MISSING_CLASSES,
                title=f"{num:,} class{'es are' if num > 1 else ' is'} missing from some folds",
                severity=Severity.MINOR,
                cure=f"Use fewer --folds, or add {groups} of these classes.",
                texts=tuple(texts),
            )
        )
    return findings


def difference_findings(seen: Exploration) -> list[Finding]:
    """Return the finding, if any, that training and test images differ."""
    if seen.adversarial is None or not seen.adversarial.differs:
        return []
    first, *others = seen.adversarial_lines()
    return [
        Finding(
            check=CheckName.DIFFERENCES,
            title=first.rstrip("."),
            severity=Severity.SERIOUS,
            cure="The cross-validated score may not hold on the test set: compare their images.",
            texts=tuple(one.strip() for one in others),
        )
    ]
