"""What is probably wrong with a data set, each finding with the pairs of images that show it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import pandas as pd

from foldblend.errors import counted
from folds.audit.lookalikes import Lookalikes
from folds.audit.swaps import log_proba_of, swapped_pairs
from folds.data.duplicates import IN_TEST, TWO_GROUPS, TWO_LABELS
from folds.data.manifest import Manifest

__all__ = ["Finding", "duplicate_findings", "lookalike_findings", "swap_findings"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that is probably wrong."""

    title: str
    """How often, and what it is."""
    cure: str
    """What to do about it."""
    pairs: tuple[tuple[int, int], ...]
    """Rows of the table of images, two a line."""
    texts: tuple[str, ...]
    """What each pair is, in one line."""

    def lines(self, *, most: int = 10) -> list[str]:
        """Return the finding as text: the title, its pairs, the cure."""
        more = [f"  and {len(self.texts) - most} more"] if len(self.texts) > most else []
        return [
            f"{self.title}:",
            *[f"  {text}" for text in self.texts[:most]],
            *more,
            f"  {self.cure}",
        ]


def duplicate_findings(pictures: pd.DataFrame, pairs: np.ndarray) -> list[Finding]:
    """Return the findings on pairs M x 2 of rows of `images` that show the same image."""
    ids, group_N, label_N, part_N = (
        pictures[name].to_numpy() for name in ("image_id", "group", "label", "part")
    )
    i, j = pairs.T
    in_train = (part_N[i] == "train") & (part_N[j] == "train")
    kinds = (
        (
            in_train & (group_N[i] != group_N[j]),
            TWO_GROUPS,
            "Pass --merge-duplicates to make such groups one, or remove one image of each pair.",
        ),
        (
            in_train & (label_N[i] != label_N[j]),
            TWO_LABELS,
            "Remove one, or mend the label with --corrections.",
        ),
        (
            in_train & (group_N[i] == group_N[j]) & (label_N[i] == label_N[j]),
            "the same within one group, so they count twice",
            "Remove one of each pair, unless they are meant to count twice.",
        ),
        (part_N[i] != part_N[j], IN_TEST, "Take them out of the training set."),
    )
    return [
        Finding(
            title=f"{counted(int(chosen.sum()), 'pair')} of images: {what}",
            cure=cure,
            pairs=tuple((int(one), int(other)) for one, other in pairs[chosen]),
            texts=tuple(f"{ids[one]} = {ids[other]}" for one, other in pairs[chosen]),
        )
        for chosen, what, cure in kinds
        if chosen.any()
    ]


def lookalike_findings(train: pd.DataFrame, found: Lookalikes, rows: np.ndarray) -> list[Finding]:
    """Return the finding on groups that look like one; `rows` are the training rows that were
    searched.
    """
    pairs = rows[found.pairs]
    group_N = train["group"].to_numpy()
    if not len(pairs):
        return []
    texts = [
        f"{group_N[i]} ~ {group_N[j]} ({count} features shared)"
        for (i, j), count in zip(pairs, found.matches_M, strict=True)
    ]
    return [
        Finding(
            title=(
                f"{counted(len(pairs), 'pair')} of groups: look like one person (patient, product)"
                " under two names"
            ),
            cure=(
                "If they are one, give them one name, or their folds leak. (Images of one place"
                " look alike, too.)"
            ),
            pairs=tuple((int(i), int(j)) for i, j in pairs),
            texts=tuple(texts),
        )
    ]


def _targets(manifest: Manifest) -> dict[str, tuple[np.ndarray, tuple[str, ...]]]:
    """Return {name: (value of each row, value names)} of what varies within groups.

    That is attributes; and the class, unless they decide it.
    """
    label_N = manifest.train["label"].to_numpy()
    found = {
        one.name: (np.asarray(one.of_class)[label_N], one.values) for one in manifest.attributes
    }
    told_apart = (
        {*zip(*(one.of_class for one in manifest.attributes), strict=True)} if found else set()
    )
    if len(told_apart) < manifest.num_classes:
        found["class"] = (label_N, manifest.classes)
    group_N = manifest.train["group"].to_numpy()
    return {
        name: (value_N, values)
        for name, (value_N, values) in found.items()
        if (pd.Series(value_N).groupby(group_N).nunique() > 1).any()
    }


def swap_findings(manifest: Manifest, feature_NF: np.ndarray) -> list[Finding]:
    """Return findings on images of one group that look as if they had each other's label.

    `feature_NF` are folds.audit.swaps.features_of the training rows. Each text ends in the line for
    --corrections, where names allow one.
    """
    group_N = manifest.train["group"].to_numpy()
    ids = manifest.train["image_id"].to_numpy()
    findings = []
    for name, (value_N, values) in _targets(manifest).items():
        pairs = swapped_pairs(log_proba_of(feature_NF, value_N, group_N), value_N, group_N)
        texts = []
        for i, j in pairs:
            one, other = (PurePosixPath(ids[row]).stem for row in (i, j))
            line = f"{group_N[i]},swap,{one} {other}"
            is_line = len(line.split()) == 2 and line.count(",") == 2 and '"' not in line
            said = (
                f"{group_N[i]}: {one} is labelled {values[value_N[i]]}, {other}"
                f" {values[value_N[j]]}"
            )
            texts.append(f"{said}  ({line})" if is_line else said)
        if texts:
            findings.append(
                Finding(
                    title=(
                        f"{counted(len(texts), 'pair')} of images of one group: may have each"
                        f" other's {name}"
                    ),
                    cure="Look at them; the line in brackets is what --corrections takes.",
                    pairs=tuple((int(i), int(j)) for i, j in pairs),
                    texts=tuple(texts),
                )
            )
    return findings
