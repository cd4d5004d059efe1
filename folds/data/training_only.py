"""Images for training only: they join the training rows of every fold and are never scored.

They are rows of fold -1 in a file of folds, and the rows of --extra-csv.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Container, Mapping

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from foldblend.cli import Say
from foldblend.errors import UserError, counted, listed
from foldblend.levels import Levels
from folds.data.duplicates import IN_TEST, Prints, duplicate_pairs, equal_pairs, prints_of
from folds.data.manifest import Manifest
from folds.fold_file import training_only_rows

__all__ = [
    "PART",
    "SAME",
    "groups_held_with",
    "ids_for_training_only",
    "joined",
    "look_alikes",
    "taken_apart",
    "with_groups_held_with",
]

PART = "training only"
"""Name of these images where they stand in one table with the training and test images."""
SAME = "same image for training only and among the scored images"


def joined(manifest: Manifest) -> Manifest:
    """Return the manifest with the images for training only among the others.

    Checks and corrections are then those of all labelled images; `taken_apart` undoes it.
    """
    if manifest.train_only is None:
        return manifest
    train = manifest.labelled
    return dataclasses.replace(
        manifest, train=train.sort_values("image_id", ignore_index=True), train_only=None
    )


def taken_apart(manifest: Manifest, ids: Container[str]) -> Manifest:
    """Return the manifest with the images of these ids for training only.

    Raises UserError if no other image is left.
    """
    is_alone = np.array([name in ids for name in manifest.train["image_id"]], bool)
    if not is_alone.any():
        return manifest
    if is_alone.all():
        raise UserError(
            f"{manifest.root}: all images are for training only, so none would be scored; give at"
            " least two groups a fold of 0 or more"
        )
    return dataclasses.replace(
        manifest,
        train=manifest.train[~is_alone].reset_index(drop=True),
        train_only=manifest.train[is_alone].reset_index(drop=True),
    )


def ids_for_training_only(manifest: Manifest, fold_file: str | None, say: Say) -> set[str]:
    """Return the images for training only: those of --extra-csv, and those of fold -1.

    Raises UserError for a file in which no image has a fold to be held out in.
    """
    extra = set() if manifest.train_only is None else {*manifest.train_only["image_id"]}
    if fold_file is None:
        return extra
    known = manifest.labelled["image_id"]
    found = training_only_rows(fold_file, known, flag="--fold-file")
    absent = found[~found.isin(known)]
    if len(absent):
        say(
            f"{fold_file} (--fold-file): {counted(len(absent), 'image')} of fold -1 (training"
            f" only) that the data do not have: {listed(absent)}"
        )
    return extra | ({*found} & {*known})


def look_alikes(tables: Mapping[str, pd.DataFrame], levels: Levels) -> dict[str, np.ndarray]:
    """Return a number for each image of each table; images that look the same have one number."""
    prints = [prints_of(table, levels) for table in tables.values()]
    every = Prints(
        **{
            name.name: np.concatenate([getattr(one, name.name) for one in prints])
            for name in dataclasses.fields(Prints)
        }
    )
    content_N = np.concatenate([table["content"].to_numpy() for table in tables.values()])
    pairs = np.concatenate([duplicate_pairs(every), equal_pairs(content_N)])
    num = len(content_N)
    links = sparse.coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), (num, num))
    part_N = connected_components(links, directed=False)[1]
    ends = np.cumsum([len(table) for table in tables.values()])[:-1]
    return dict(zip(tables, np.split(part_N, ends), strict=True))


def _joined_groups(group: pd.Series, part_N: np.ndarray) -> np.ndarray:
    """Return a number for each image; groups that share an image, or look the same, have one.

    `part_N` has one number for images that look the same.
    """
    code_N, names = pd.factorize(group)
    part_N = np.unique(part_N, return_inverse=True)[1] + len(names)
    num = int(part_N.max()) + 1
    links = sparse.coo_array((np.ones(len(code_N)), (code_N, part_N)), (num, num))
    return np.asarray(connected_components(links, directed=False)[1][code_N])


def groups_held_with(
    train: pd.DataFrame,
    group_before_N: np.ndarray,
    alone: pd.DataFrame,
    part_N: np.ndarray,
    alone_part_N: np.ndarray,
) -> tuple[list[tuple[str, ...]], list[str]]:
    """Return the groups of `train` that each image of `alone` is held out with, and equal images.

    Parameters
    ----------
    train
        The scored images.
    group_before_N
        Their groups before groups were merged.
    alone
        Images that are never scored, with their groups before that.
    part_N, alone_part_N
        Numbers of the images of both; images that look the same have one number.
    """
    group_N = train["group"].to_numpy()
    names = train["image_id"].to_numpy()
    rows_of_part: dict[int, list[int]] = defaultdict(list)
    for row, part in enumerate(part_N.tolist()):
        rows_of_part[part].append(row)
    # Images of a group for training only share whatever is held out with one of them.
    held_with: dict[str, set[str]] = defaultdict(set)
    for before, after in zip(group_before_N, group_N, strict=True):
        held_with[before].add(after)
    same = []
    for name, group, part in zip(
        alone["image_id"], alone["group"], alone_part_N.tolist(), strict=True
    ):
        for row in rows_of_part[part]:
            held_with[group].add(group_N[row])
            same.append(f"{name} = {names[row]}")
    # Groups that share an image are held out together, also if only one of them has scored images.
    together_N = _joined_groups(alone["group"], alone_part_N)
    of_joined: dict[int, set[str]] = defaultdict(set)
    for number, group in zip(together_N.tolist(), alone["group"], strict=True):
        of_joined[number] |= held_with[group]
    return [tuple(sorted(of_joined[number])) for number in together_N.tolist()], same


def with_groups_held_with(
    manifest: Manifest, group_before_N: np.ndarray, say: Say
) -> tuple[Manifest, set[str]]:
    """Return the manifest with the groups that each image for training only is held out with.

    Images are compared as by --merge-duplicates: an image that was saved again leaks as well.

    Parameters
    ----------
    manifest
        The data, with the column `content` in all tables.
    group_before_N
        Group of each row of `train` before groups were merged.
    say
        Receives notes and warnings, which the manifest has as well.

    Returns
    -------
    tuple
        The manifest, and the hashes of the test images that are also for training only.
    """
    alone = manifest.train_only
    if alone is None:
        return manifest, set()
    tables = {"train": manifest.train, "alone": alone}
    if manifest.test is not None:
        tables["test"] = manifest.test
    parts = look_alikes(tables, manifest.levels)
    merged = dict(zip(group_before_N, manifest.train["group"].to_numpy(), strict=True))
    groups, same = groups_held_with(
        manifest.train, group_before_N, alone, parts["train"], parts["alone"]
    )
    lines = [_count_line(manifest, groups)]
    unscored = sorted({*alone["label"]} - {*manifest.train["label"]})
    if unscored:
        classes = listed(repr(manifest.classes[label]) for label in unscored)
        lines.append(f"warning: class {classes} has images for training only, and is not scored")
    if same:
        lines.append(
            f"warning: {SAME} ({counted(len(same), 'pair')}): {listed(same)}; left out of training"
            " where the scored image is held out"
        )
    tested = {*parts.get("test", np.array([], int)).tolist()}
    in_test = alone["image_id"][[part in tested for part in parts["alone"].tolist()]]
    if len(in_test):
        lines.append(
            f"warning: {IN_TEST} ({counted(len(in_test), 'image')}, for training only):"
            f" {listed(in_test)}; remove them from the training set"
        )
    for line in lines:
        say(line)
    own = alone["group"].map(lambda group: merged.get(group, group))
    seen = {*parts["alone"].tolist()}
    hashes = (
        set()
        if manifest.test is None
        else {*manifest.test["content"][[part in seen for part in parts["test"].tolist()]]}
    )
    told = (line.removeprefix("warning: ") for line in lines)
    return dataclasses.replace(
        manifest,
        train_only=alone.assign(group=own, held_with=pd.Series(groups, dtype=object)),
        notes=(*manifest.notes, *told),
    ), hashes


def _count_line(manifest: Manifest, groups: list[tuple[str, ...]]) -> str:
    """Return the sentence on how many images are for training only."""
    num = sum(bool(one) for one in groups)
    what = f"{counted(len(groups), 'image')} {'is' if len(groups) == 1 else 'are'}"
    line = f"{what} for training only and never scored"
    if not num:
        return line
    share, are = ("shares", "is") if num == 1 else ("share", "are")
    shares = f"{share} a {manifest.group_name} with scored images or {are} the same as one"
    which = f"it {shares}, and" if len(groups) == 1 else f"{num:,} of them, which {shares},"
    return f"{line}; {which} {are} left out of training where these are held out"
