"""The folds of a run, made or read from a file, with their terminal lines and warnings."""

from __future__ import annotations

import numpy as np

from foldblend.cli import Say
from foldblend.errors import UserError, counted, listed
from foldblend.words import plural
from folds.config import SplitConfig
from folds.data.manifest import Manifest
from folds.evenness import audit_lines, evenness_line
from folds.fold_file import read_fold_file
from folds.split import SPLITTERS, assign_folds, rare_classes

__all__ = ["fold_lines", "fold_map", "fold_warnings", "plan_folds"]

DEFAULT_FOLDS = 5


def fold_map(split: SplitConfig, manifest: Manifest) -> np.ndarray:
    """Return the fold of each row in each repeat, R x N, read from --fold-file or made.

    Folds are made from the original labels, so that runs with and without corrections share folds.
    Raises UserError for folds that cannot be made, and for a file that does not fit the data.
    """
    if split.fold_file is not None:
        fold_RN = read_fold_file(
            split.fold_file,
            manifest.train,
            flag="--fold-file",
            leaks=SPLITTERS[split.split].leaks,
            group_name=manifest.group_name,
        )
        for flag, given, found in (
            ("--folds", split.folds, int(fold_RN.max()) + 1),
            ("--repeats", split.repeats, len(fold_RN)),
        ):
            if given not in (None, found):
                raise UserError(
                    f"{flag} {given}: --fold-file {split.fold_file} has {found}; leave {flag} out"
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
                num_folds=split.folds or DEFAULT_FOLDS,
                seed=split.split_seed,
                repeat=repeat,
                split=split.split,
                id_N=id_N,
                group_name=manifest.group_name,
            )
            for repeat in range(split.repeats or 1)
        ]
    )


def fold_lines(split: SplitConfig, manifest: Manifest, fold_RN: np.ndarray) -> list[str]:
    """Return the table of the folds of the first repeat, and one line for each further repeat."""
    label_N, group_N = (manifest.train[name].to_numpy() for name in ("label_raw", "group"))
    leaks = SPLITTERS[split.split].leaks
    lines = ["Folds of repeat 0:" if len(fold_RN) > 1 else "Folds:"]
    lines += audit_lines(
        label_N,
        group_N,
        fold_RN[0],
        classes=manifest.classes,
        groups=plural(manifest.group_name),
        leaks=leaks,
    )
    for repeat, fold_N in enumerate(fold_RN[1:], start=1):
        lines.append(f"Repeat {repeat}: {evenness_line(label_N, group_N, fold_N, leaks=leaks)}")
    return lines


def fold_warnings(split: SplitConfig, manifest: Manifest, fold_RN: np.ndarray) -> list[str]:
    """Return warnings on groups in several folds and on classes that some folds lack."""
    label_N, group_N = (manifest.train[name].to_numpy() for name in ("label_raw", "group"))
    groups = plural(manifest.group_name)
    warnings = []
    if SPLITTERS[split.split].leaks:
        warnings.append(
            f"warning: --split {split.split} leaks {groups} between folds; its score is probably"
            " too high."
        )
    num_folds = int(fold_RN.max()) + 1
    rare = rare_classes(label_N, group_N, num_folds=num_folds)
    if rare:
        names = listed(
            f"{manifest.classes[label]!r} ({counted(count, manifest.group_name)})"
            for label, count in rare.items()
        )
        warnings.append(
            f"warning: classes with fewer {groups} than the {num_folds} folds are missing from"
            f" some folds: {names}"
        )
    return warnings


def plan_folds(split: SplitConfig, manifest: Manifest, say: Say) -> np.ndarray:
    """Return the folds as `fold_map` does, and print their table and warnings."""
    fold_RN = fold_map(split, manifest)
    say(
        "\n".join([*fold_lines(split, manifest, fold_RN), *fold_warnings(split, manifest, fold_RN)])
    )
    return fold_RN
