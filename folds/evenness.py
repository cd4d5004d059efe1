"""Terminal lines on how even the folds are: a table and the deviation from the even share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from foldblend.errors import counted
from folds.balance import lower_bound, objective, profiles_of
from folds.kfold import codes_of

__all__ = ["audit_lines", "balance_lines", "class_counts", "evenness_line", "unevenness"]


def class_counts(label_N: np.ndarray, fold_N: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the number of images of each fold and class, K x C."""
    count_KC = np.zeros((int(fold_N.max()) + 1, num_classes), np.int64)
    np.add.at(count_KC, (fold_N, label_N), 1)
    return count_KC


def unevenness(label_N: np.ndarray, whole_N: np.ndarray, fold_N: np.ndarray) -> tuple[float, float]:
    """Return the objective of `folds.balance` for a split, and a lower bound on any split's.

    `whole_N` is what the split keeps whole: the group of each row, or a different value for every
    row if the split ignores groups.
    """
    label_N = codes_of(label_N)
    count_KC = class_counts(label_N, fold_N, int(label_N.max()) + 1)
    value = objective(np.column_stack([count_KC, count_KC.sum(axis=1)]))
    return value, lower_bound(profiles_of(label_N, codes_of(whole_N)), len(count_KC))


def audit_lines(
    label_N: np.ndarray,
    group_N: np.ndarray,
    fold_N: np.ndarray,
    *,
    classes: Sequence[str],
    groups: str = "groups",
    leaks: bool = False,
) -> list[str]:
    """Return a table of the folds, at most 80 columns wide, followed by `balance_lines`.

    The table has the groups, images and classes of each fold, and their even shares; `groups` is
    what groups are, in the plural.
    """
    count_KC = class_counts(label_N, fold_N, len(classes))
    occurs = np.flatnonzero(count_KC.sum(axis=0))
    groups_K = [len(set(group_N[fold_N == fold].tolist())) for fold in range(len(count_KC))]
    num_groups = len(set(group_N.tolist()))
    rows = [("fold", groups, "images", "classes")]
    rows += [
        (
            str(fold),
            f"{num:,}",
            f"{count.sum():,}",
            f"{np.count_nonzero(count)} of {len(occurs)}",
        )
        for fold, (num, count) in enumerate(zip(groups_K, count_KC, strict=True))
    ]
    rows.append(
        (
            "even share",
            f"{num_groups / len(count_KC):,.1f}",
            f"{len(label_N) / len(count_KC):,.1f}",
            "",
        )
    )
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return lines + balance_lines(label_N, group_N, fold_N, classes=classes, leaks=leaks)


def balance_lines(
    label_N: np.ndarray,
    group_N: np.ndarray,
    fold_N: np.ndarray,
    *,
    classes: Sequence[str],
    leaks: bool = False,
) -> list[str]:
    """Return a sentence on the least even class and one on how even the folds are overall."""
    count_KC = class_counts(label_N, fold_N, len(classes))
    occurs = np.flatnonzero(count_KC.sum(axis=0))
    share_C = count_KC[:, occurs].mean(axis=0)
    off_KC = np.abs(count_KC[:, occurs] - share_C)
    worst = int((off_KC.max(axis=0) / share_C).argmax())
    fold = int(off_KC[:, worst].argmax())
    held = int(count_KC[fold, occurs[worst]])
    return [
        f"Least even class: {classes[occurs[worst]]!r}, {counted(held, 'image')} in fold {fold}"
        f" (even share {share_C[worst]:,.1f}).",
        evenness_line(label_N, group_N, fold_N, leaks=leaks),
    ]


def evenness_line(
    label_N: np.ndarray, group_N: np.ndarray, fold_N: np.ndarray, *, leaks: bool = False
) -> str:
    """Return a sentence on how far the folds are from the most even split that is possible."""
    value, bound = unevenness(label_N, np.arange(len(label_N)) if leaks else group_N, fold_N)
    if value <= bound + 1e-9:
        return "Folds are as even as they can be."
    # The objective sums squared relative deviations over the folds and, as columns, the classes
    # that occur and the fold's size. Its mean has a root that reads as a percentage.
    num_cells = (int(fold_N.max()) + 1) * (len(np.unique(label_N)) + 1)
    off, least = (f"{np.sqrt(one / num_cells):.1%}" for one in (value, bound))
    if off == least:
        return "Folds are nearly as even as they can be."
    text = f"Class counts of the folds are {off} off the even share (root mean square)"
    return f"{text}; no split can be below {least}." if bound > 0 else f"{text}."
