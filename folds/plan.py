"""The folds of a run: made or taken from a file, told beside the even share."""

from __future__ import annotations

import numpy as np

from folds.audit import audit_lines
from folds.config import SplitConfig
from folds.errors import UserError, listed
from folds.fold_file import read_fold_file
from folds.load import Say
from folds.manifest import Manifest
from folds.split import SPLITTERS, assign_folds, rare_classes

__all__ = ["plan_folds"]

NUM_FOLDS = 5


def _fold_map(split: SplitConfig, manifest: Manifest) -> np.ndarray:
    """Return the fold of each row, repeats x N, read from --fold-file or made on raw labels."""
    if split.fold_file is not None:
        fold_RN = read_fold_file(
            split.fold_file, manifest.train, flag="--fold-file", leaks=SPLITTERS[split.split].leaks
        )
        for flag, given, found in (
            ("--folds", split.folds, int(fold_RN.max()) + 1),
            ("--repeats", split.repeats, len(fold_RN)),
        ):
            if given not in (None, found):
                raise UserError(f"{flag} {given}: --fold-file {split.fold_file} has {found}; leave the flag out")
        return fold_RN
    label_N, group_N, id_N = (manifest.train[name].to_numpy() for name in ("label_raw", "group", "image_id"))
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


def plan_folds(split: SplitConfig, manifest: Manifest, say: Say) -> np.ndarray:
    """Return the fold of each row, repeats x N, and say how even it is and what is amiss with it.

    Folds are made on raw labels, so that corrected and raw runs share them. Raises UserError for folds
    that cannot be made, or a file's that do not fit.
    """
    label_N, group_N = (manifest.train[name].to_numpy() for name in ("label_raw", "group"))
    leaks = SPLITTERS[split.split].leaks
    if leaks:
        say(f"WARNING: --split {split.split} lets a group into several folds; its score is not honest.")
    fold_RN = _fold_map(split, manifest)
    for repeat, fold_N in enumerate(fold_RN):
        lines = audit_lines(label_N, group_N, fold_N, classes=manifest.classes, leaks=leaks)
        say("\n".join([f"folds of repeat {repeat}:" if len(fold_RN) > 1 else "folds:", *lines]))
    num_folds = int(fold_RN.max()) + 1
    rare = rare_classes(label_N, group_N, num_folds=num_folds)
    if rare:
        named = listed(f"{manifest.classes[label]!r} ({count})" for label, count in rare.items())
        say(
            f"warning: {len(rare)} classes have fewer groups than the {num_folds} folds, "
            f"so some folds lack them: {named}"
        )
    return fold_RN
