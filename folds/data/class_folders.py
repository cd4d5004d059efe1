"""Reader of folders whose images lie in a folder per class, with or without train/ and test/."""

from __future__ import annotations

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from foldblend.errors import UserError, counted, listed
from foldblend.tables import is_table
from folds.config import DataConfig
from folds.data.finder import is_image_file
from folds.data.generic import join_labelled
from folds.data.labelled import Labelled

__all__ = ["Tree", "images_below", "pooled", "read_class_folders", "split_folders", "tree_of"]

TRAIN = ("train", "training")
VALIDATION = ("val", "valid", "validation", "dev")
TEST = ("test", "testing")
JUNK = ("__MACOSX",)
# Words in names of folders that hold a part of a data set rather than a class.
PARTS = {
    *TRAIN,
    *VALIDATION,
    *TEST,
    *("pred", "image", "images", "imgs", "mask", "masks", "label", "labels", "annotations"),
}


@dataclass(frozen=True)
class Tree:
    """The image files below a folder."""

    root: Path
    """Folder below which the classes, or train/ and test/, lie."""
    images: tuple[str, ...]
    """Paths relative to the root, with / between folders, in sorted order."""
    others: tuple[str, ...] = ()
    """Other files that were left out."""

    def tops(self) -> dict[str, list[str]]:
        """Return the images of each folder directly below the root; "" has those in the root."""
        found: dict[str, list[str]] = {}
        for name in self.images:
            top, slash, _ = name.partition("/")
            found.setdefault(top if slash else "", []).append(name)
        return found


def _walk(folder: Path, seen: frozenset[str]) -> Iterator[str]:
    """Yield the relative paths of all files, following links to folders but not in a circle."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda one: one.name)
    for entry in found:
        # File managers leave hidden files such as .DS_Store and ._1.jpg.
        if entry.name.startswith(".") or entry.name in JUNK:
            continue
        if entry.is_dir():
            for name in _walk(folder / entry.name, seen | {real}):
                yield f"{entry.name}/{name}"
        else:
            yield entry.name


def images_below(folder: Path, suffix: str | None = None) -> Tree:
    """Return the images below a folder, at any depth; hidden files are left out.

    Raises UserError for a folder that cannot be read.
    """
    try:
        names = list(_walk(folder, frozenset()))
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}); check the path") from None
    images = sorted(name for name in names if is_image_file(folder / name, suffix))
    return Tree(folder, tuple(images), tuple(sorted({*names} - {*images})))


def _below(tree: Tree, top: str) -> Tree:
    """Return the images below one folder of a tree."""
    start = f"{top}/"
    return Tree(
        tree.root / top,
        tuple(name.removeprefix(start) for name in tree.images if name.startswith(start)),
    )


def tree_of(folder: Path, suffix: str | None = None) -> Tree:
    """Return the images below a folder, or below the only folder in it that has any.

    An archive often has one folder that holds everything.
    """
    tree = images_below(folder, suffix)
    while True:
        tops = tree.tops()
        only = next(iter(tops)) if len(tops) == 1 else ""
        if not only or only.lower() in (*TRAIN, *VALIDATION, *TEST):
            return tree
        inner = _below(tree, only)
        # A single class of flat images stays what it is, for the message.
        if "" in inner.tops():
            return tree
        tree = Tree(inner.root, inner.images, tree.others)


def split_folders(tree: Tree) -> dict[str, list[str]] | None:
    """Return the folders of each part, {"train": ..., "validation": ..., "test": ...}, or None.

    None means that the folders below the root are classes. Raises UserError where folders named
    train/ and others lie side by side, so that both readings fit, or where train/ is missing.
    """
    tops = [top for top in tree.tops() if top]
    parts = {
        name: [top for top in tops if top.lower() in names]
        for name, names in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST))
    }
    chosen = [top for found in parts.values() for top in found]
    if not chosen:
        _check_part_names(tree, tops, chosen)
        return None
    has_classes = any("" not in _below(tree, top).tops() for top in parts["train"])
    _check_part_names(tree, tops, chosen)
    if len(chosen) < len(tops):
        others = [f"{top}/" for top in tops if top not in chosen]
        if has_classes:
            raise UserError(
                f"{tree.root}: two readings fit, {listed(f'{top}/' for top in chosen)} as parts of"
                f" one data set beside {listed(others)}, or all of them as classes; pass --data"
                f" {tree.root / parts['train'][0]} (and --test), or --layout class-folders"
            )
        return None
    if not parts["train"] and not parts["validation"]:
        raise UserError(
            f"{tree.root}: has only {listed(f'{top}/' for top in tops)} and no train/; pass the"
            " folder of labelled images as --data and this one as --test"
        )
    return parts


def _check_part_names(tree: Tree, tops: list[str], chosen: list[str]) -> None:
    """Raise UserError for folders such as train_images/ or masks/, which are hardly classes.

    A single folder that is named like a part, beside others, can be a class: train/ and plane/.
    """
    if len(chosen) == len(tops):
        return
    doubtful = [top for top in tops if PARTS & {*re.split(r"[\W_]+", top.lower())}]
    if len(doubtful) > 1 or {*doubtful} - {*chosen}:
        raise UserError(
            f"{tree.root}: {listed(f'{top}/' for top in doubtful)} look like parts of a data set,"
            " not like classes; pass the folder that holds a folder per class as --data, a table"
            " of the images, or --layout class-folders if they are classes"
        )


def _class_of(tree: Tree, label_from: str) -> list[str]:
    """Return the class of each image: the name of its top folder, or of its own folder."""
    if label_from == "parent":
        return [PurePosixPath(name).parent.name for name in tree.images]
    if label_from == "auto":
        inner = {
            top: {name.split("/")[1] if name.count("/") > 1 else "" for name in names}
            for top, names in tree.tops().items()
        }
        sets = list(inner.values())
        if len(sets) > 1 and len(sets[0]) > 1 and all(one == sets[0] for one in sets):
            raise UserError(
                f"{tree.root}: two readings fit, classes {listed(sorted(inner))} (top folders) or"
                f" classes {listed(sorted(sets[0]))} (folders below each of them); pass"
                " --label-from top or --label-from parent"
            )
    return [name.partition("/")[0] for name in tree.images]


def _read_part(tree: Tree, config: DataConfig, prefix: str) -> Labelled:
    """Return the labelled images below one folder of class folders."""
    loose = tree.tops().get("", [])
    if loose and len(loose) == len(tree.images):
        tables = sorted(one for one in tree.root.iterdir() if is_table(one))
        cure = f"--data {tables[0]}" if tables else "a table of images"
        raise UserError(
            f"{tree.root}: holds {counted(len(loose), 'image')} ({listed(loose)}) but no folder per"
            f" class; put the images of each class in a folder, or pass {cure}"
        )
    warnings = []
    if loose:
        warnings.append(
            f"{tree.root}: left out {counted(len(loose), 'image')} outside the class folders:"
            f" {listed(loose)}"
        )
        tree = Tree(tree.root, tuple(name for name in tree.images if "/" in name), tree.others)
    ids = [f"{prefix}{name}" for name in tree.images]
    return Labelled(
        source=tree.root,
        image_id=ids,
        path=[tree.root / name for name in tree.images],
        word=_class_of(tree, config.label_from),
        label_where=f"{tree.root}: folder of the class",
        at=lambda row: ids[row],
        warnings=warnings,
    )


def pooled(parts: dict[str, Labelled], source: Path) -> Labelled:
    """Return labelled images of train/ and val/, by the folder's name, as one training set."""
    joined = dataclasses.replace(join_labelled([*parts.values()], source), source=source)
    if len(parts) == 1:
        return joined
    sizes = ", ".join(f"{name}/ ({len(one.image_id):,})" for name, one in parts.items())
    note = f"pooled for cross-validation: {sizes} images"
    return dataclasses.replace(joined, notes=[*joined.notes, note])


def read_class_folders(folder: Path, config: DataConfig) -> tuple[Labelled, Tree | None]:
    """Read the labelled images of class folders.

    Parameters
    ----------
    folder
        Folder of one folder per class, or of train/ and, optionally, val/ and test/ with a folder
        per class in each. Classes may have folders inside.
    config
        Settings of the data.

    Returns
    -------
    tuple[Labelled, Tree | None]
        The labelled images (train and validation are pooled), and the images below test/.

    Raises
    ------
    UserError
        For folders without classes, or folders that can be read in two ways.
    """
    tree = tree_of(folder, config.image_suffix)
    # --layout class-folders decides between two readings; folders that are all named as train/,
    # val/ and test/ have one reading only.
    as_classes = config.layout == "class-folders" and not _is_split(tree)
    parts = None if as_classes else split_folders(tree)
    if parts is None:
        found = dataclasses.replace(_read_part(tree, config, ""), source=folder)
        return _with_others(found, tree), None
    tops = [*parts["train"], *parts["validation"]]
    read = {top: _read_part(_below(tree, top), config, f"{top}/") for top in tops}
    names = tuple(name for top in parts["test"] for name in tree.tops()[top])
    test = Tree(tree.root, names) if names else None
    return _with_others(pooled(read, folder), tree), test


def _is_split(tree: Tree) -> bool:
    """Return whether all folders below the root are named as train/, val/ and test/ are."""
    tops = [top.lower() for top in tree.tops() if top]
    return bool(tops) and all(top in (*TRAIN, *VALIDATION, *TEST) for top in tops)


def _empty_folders(tree: Tree) -> list[str]:
    """Return the folders without any image at the place of classes."""
    parts = [top for top in tree.tops() if top.lower() in (*TRAIN, *VALIDATION)]
    found = []
    for base in ["", *parts]:
        full = _below(tree, base).tops() if base else tree.tops()
        found += [
            f"{base}/{one.name}/".lstrip("/")
            for one in sorted((tree.root / base).iterdir())
            if one.is_dir() and not one.name.startswith(".")
            if one.name not in full and one.name not in JUNK
        ]
    return found


def _with_others(found: Labelled, tree: Tree) -> Labelled:
    """Return the images with warnings of other files and of folders without any image."""
    empty = _empty_folders(tree)
    if empty:
        text = f"{tree.root}: folders without images are no classes: {listed(empty)}"
        found = dataclasses.replace(found, warnings=[*found.warnings, text])
    if not tree.others:
        return found
    kinds = Counter(PurePosixPath(name).suffix or "no suffix" for name in tree.others)
    shown = listed(f"{number:,} {kind}" for kind, number in kinds.most_common())
    text = f"{tree.root}: left out files that are not images: {shown} ({listed(tree.others)})"
    return dataclasses.replace(found, warnings=[*found.warnings, text])
