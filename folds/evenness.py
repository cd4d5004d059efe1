"""What a person wants to know of a split before an hour of training: how even it is, and where
not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from foldblend.errors import counted
from folds.balance import lower_bound, objective, profiles_of
from folds.kfold import codes_of

__all__ = ["audit_lines", "balance_lines", "class_counts", "unevenness"]


def class_counts(label_N: np.ndarray, fold_N: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the images of each fold and class, K x C."""
    count_KC = np.zeros((int(fold_N.max()) + 1, num_classes), np.int64)
    np.add.at(count_KC, (fold_N, label_N), 1)
    return count_KC


def unevenness(label_N: np.ndarray, whole_N: np.ndarray, fold_N: np.ndarray) -> tuple[float, float]:
    """Return the objective of `folds.balance` for N rows, and a value that no split can be below.

    `whole_N` is what the split keeps whole: the groups, or the rows themselves.
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
    leaks: bool = False,
) -> list[str]:
    """Return lines on a split of N rows: groups, images and classes a fold beside the even share.

    Then those of `balance_lines`.
    """
    count_KC = class_counts(label_N, fold_N, len(classes))
    occurs = np.flatnonzero(count_KC.sum(axis=0))
    groups_K = [len(set(group_N[fold_N == fold].tolist())) for fold in range(len(count_KC))]
    num_groups = len(set(group_N.tolist()))
    rows = [("fold", "groups", "images", "classes")]
    rows += [
        (
            str(fold),
            f"{groups:,}",
            f"{count.sum():,}",
            f"{np.count_nonzero(count)} of {len(occurs)}",
        )
        for fold, (groups, count) in enumerate(zip(groups_K, count_KC, strict=True))
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
    """Return the class that is spread worst, and how far the whole is from the best possible."""
    count_KC = class_counts(label_N, fold_N, len(classes))
    occurs = np.flatnonzero(count_KC.sum(axis=0))
    share_C = count_KC[:, occurs].mean(axis=0)
    off_KC = np.abs(count_KC[:, occurs] - share_C)
    worst = int((off_KC.max(axis=0) / share_C).argmax())
    fold = int(off_KC[:, worst].argmax())
    held = count_KC[fold, occurs[worst]]
    lines = [
        f"worst class: {classes[occurs[worst]]!r}, {counted(int(held), 'image')} in fold {fold} "
        f"where the even share is {share_C[worst]:,.1f}"
    ]
    value, bound = unevenness(label_N, np.arange(len(label_N)) if leaks else group_N, fold_N)
    best = "the least possible" if value <= bound + 1e-9 else f"no split is below {bound:.6f}"
    lines.append(f"unevenness (squared relative deviations, summed) {value:.6f}: {best}")
    return lines
