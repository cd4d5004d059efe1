"""The folds of a run: made or taken from a file, told beside the even share."""

from __future__ import annotations

import numpy as np

from foldblend.cli import Say
from foldblend.errors import UserError, listed
from folds.config import SplitConfig
from folds.data.manifest import Manifest
from folds.evenness import audit_lines
from folds.fold_file import read_fold_file
from folds.split import SPLITTERS, assign_folds, rare_classes

__all__ = ["fold_lines", "fold_map", "fold_warnings", "plan_folds"]

NUM_FOLDS = 5


def fold_map(split: SplitConfig, manifest: Manifest) -> np.ndarray:
    """Return the fold of each row, repeats x N, read from --fold-file or made on raw labels.

    Raw, so that corrected and raw runs share folds. Raises UserError for folds that cannot be made,
    or a file's that do not fit.
    """
    if split.fold_file is not None:
        fold_RN = read_fold_file(
            split.fold_file, manifest.train, flag="--fold-file", leaks=SPLITTERS[split.split].leaks
        )
        for flag, given, found in (
            ("--folds", split.folds, int(fold_RN.max()) + 1),
            ("--repeats", split.repeats, len(fold_RN)),
        ):
            if given not in (None, found):
                raise UserError(
                    f"{flag} {given}: --fold-file {split.fold_file} has {found}; leave the flag out"
                )
        return fold_RN
    label_N, group_N, id_N = (
        manifest.train[name].to_numpy() for name in ("label_raw", "group", "image_id")
    )
    return np.stack(
        [
            assign_folds(
                label_N,
                group_N,
                num_folds=split.folds or NUM_FOLDS,
                seed=split.split_seed,
                repeat=repeat,
                split=split.split,
                id_N=id_N,
            )
            for repeat in range(split.repeats or 1)
        ]
    )


def fold_lines(split: SplitConfig, manifest: Manifest, fold_RN: np.ndarray) -> list[str]:
    """Return how even the folds are, repeat by repeat."""
    label_N, group_N = (manifest.train[name].to_numpy() for name in ("label_raw", "group"))
    lines = []
    for repeat, fold_N in enumerate(fold_RN):
        lines.append(f"folds of repeat {repeat}:" if len(fold_RN) > 1 else "folds:")
        leaks = SPLITTERS[split.split].leaks
        lines += audit_lines(label_N, group_N, fold_N, classes=manifest.classes, leaks=leaks)
    return lines


def fold_warnings(split: SplitConfig, manifest: Manifest, fold_RN: np.ndarray) -> list[str]:
    """Return what is amiss with the folds: groups in several of them, classes that some of them
    lack.
    """
    label_N, group_N = (manifest.train[name].to_numpy() for name in ("label_raw", "group"))
    warnings = []
    if SPLITTERS[split.split].leaks:
        warnings.append(
            f"WARNING: --split {split.split} lets a group into several folds; its score is not"
            " honest."
        )
    num_folds = int(fold_RN.max()) + 1
    rare = rare_classes(label_N, group_N, num_folds=num_folds)
    if rare:
        named = listed(f"{manifest.classes[label]!r} ({count})" for label, count in rare.items())
        warnings.append(
            f"warning: classes with fewer groups than the {num_folds} folds, so that some folds"
            f" lack them: {named}"
        )
    return warnings


def plan_folds(split: SplitConfig, manifest: Manifest, say: Say) -> np.ndarray:
    """Return the fold of each row, repeats x N, and say how even it is and what is amiss; raises as
    `fold_map`.
    """
    fold_RN = fold_map(split, manifest)
    say(
        "\n".join([*fold_lines(split, manifest, fold_RN), *fold_warnings(split, manifest, fold_RN)])
    )
    return fold_RN
