"""Selection of the data source: a table, a folder, a user's reader or the demo set."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from foldblend.errors import UserError, in_a_line, listed
from foldblend.files import exists, home
from foldblend.flags import flag_name, flags_of
from foldblend.plugins import is_custom, load_custom
from folds.config import LAYOUTS, DataConfig
from folds.data.assemble import assemble, form_of, given_test, with_test
from folds.data.class_folders import (
    TEST,
    TRAIN,
    VALIDATION,
    Tree,
    images_below,
    pooled,
    read_class_folders,
)
from folds.data.corrections import apply_corrections
from folds.data.demo import make_demo
from folds.data.extra_csv import check_extra, with_extra
from folds.data.generic import checked_table, read_labelled_table
from folds.data.layout import find_layout_root, layout_table, read_layout, relabel_for_training
from folds.data.manifest import ImageTable, Manifest, build_manifest
from folds.data.recognise import layout_of, metadata_files
from folds.data.test_set import TestSet, Training, read_test_set, test_of_tree
from folds.data.training_only import joined, taken_apart

__all__ = ["check_source", "load_manifest"]

CHANNEL = "SM_CHANNEL_TRAIN"
CHANNEL_FLAG = f"${CHANNEL}"
DATA_FOLDER = "the data folder here; pass --data demo for the embedded set"


def _place(config: DataConfig, environ: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the path of the data and the flag that gave it; None means the demo set.

    It is that of --csv or --data, else of $SM_CHANNEL_TRAIN, else data/.
    """
    if config.csv is not None and config.data is not None:
        raise UserError("--csv and --data: two data sets are given; pass one")
    if config.csv is not None:
        return config.csv, "--csv"
    if config.data == "demo":
        return None
    if config.data is not None:
        return config.data, "--data"
    if environ.get(CHANNEL):
        return environ[CHANNEL], CHANNEL_FLAG
    return ("data", DATA_FOLDER) if Path("data").is_dir() else None


def _read_table(path: Path, config: DataConfig) -> ImageTable:
    return assemble(read_labelled_table(path, config), config, reading=LAYOUTS["table"])


def _read_metadata(path: Path, config: DataConfig) -> ImageTable:
    """Read Hugging Face's imagefolder with metadata.csv, in the folder or in train/ and test/."""
    files = metadata_files(path)
    # Its column of paths has a fixed name, which other tables need not have.
    named = config
    if config.image_col == DataConfig().image_col:
        named = dataclasses.replace(config, image_col="file_name")
    test_file = next((file for name, file in files.items() if name.lower() in TEST), None)
    parts = {name: file for name, file in files.items() if file != test_file}
    if not parts:
        raise UserError(f"{path}: has metadata of a test set only; pass the training set as --data")
    read = {
        name: read_labelled_table(file, named, prefix=f"{name}/" if name else "")
        for name, file in parts.items()
    }
    tree = None if "" in files else _test_without_metadata(path, config, files)

    def test_of(training: Training) -> TestSet:
        if tree is not None:
            return test_of_tree(tree, config, training, depth=1)
        return read_test_set(str(test_file), named, training, flag="--data")

    has_test = tree is not None or test_file is not None
    return assemble(
        pooled(read, path),
        config,
        reading=LAYOUTS["metadata"],
        test_of=test_of if has_test else None,
    )


def _test_without_metadata(
    path: Path, config: DataConfig, files: Mapping[str, Path]
) -> Tree | None:
    """Return the images of a test/ beside a train/ with metadata, or None.

    Raises UserError for images in another part that has no metadata.
    """
    tree = images_below(path, config.image_suffix)
    bare = {top: names for top, names in tree.tops().items() if top and top not in files}
    for top in bare:
        if top.lower() in (*TRAIN, *VALIDATION):
            raise UserError(f"{path / top}: has images but no metadata.csv; add one or move them")
    names = [name for top, found in bare.items() if top.lower() in TEST for name in found]
    return Tree(path, tuple(names)) if names else None


def _read_class_folders(path: Path, config: DataConfig) -> ImageTable:
    found, tree = read_class_folders(path, config)
    reading = LAYOUTS["class-folders"]
    if tree is None:
        return assemble(found, config, reading=reading)
    return assemble(
        found,
        config,
        reading=reading,
        test_of=lambda training: test_of_tree(tree, config, training, depth=1),
    )


def _read_mask(path: Path, config: DataConfig) -> ImageTable:
    root = find_layout_root(path)
    if root is None:
        raise UserError(f"{path}: --layout mask needs train/train.csv there or above it")
    table = layout_table(root, name=config.data_name, skip_missing=config.on_bad_image == "skip")
    if config.group_name is not None:
        table = dataclasses.replace(table, group_name=config.group_name)
    given = given_test(config)
    test = None
    if given is not None:
        training = Training(classes=table.classes, files=frozenset(table.path))
        test = read_test_set(given[0], config, training, flag=given[1])
    return with_test(table, config, test)


READERS: dict[str, Callable[[Path, DataConfig], ImageTable]] = {
    "table": _read_table,
    "class-folders": _read_class_folders,
    "metadata": _read_metadata,
    "mask": _read_mask,
}
# Settings of the test set, which the demo set has already.
TEST_FLAGS = (
    "test",
    "test_csv",
    "test_image_root",
    "test_image_col",
    "test_group_col",
    "sample_submission",
)


def load_manifest(
    config: DataConfig | None = None, *, environ: Mapping[str, str] = os.environ
) -> Manifest:
    """Load the data set that the settings select, or the demo set if they select none.

    Label corrections are applied, then `old_from` and `drop_ages`, which change the labels for
    training only.

    Parameters
    ----------
    config
        Settings of the data.
    environ
        Environment variables, of which $SM_CHANNEL_TRAIN may give the folder of the data.

    Returns
    -------
    Manifest
        The checked data set.

    Raises
    ------
    UserError
        If the data are missing or cannot be used.
    """
    config = config or DataConfig()
    manifest = with_extra(_read(config, environ), config)
    if config.corrections is not None:
        alone = () if manifest.train_only is None else {*manifest.train_only["image_id"]}
        manifest = taken_apart(apply_corrections(joined(manifest), config.corrections), alone)
    return relabel_for_training(manifest, old_from=config.old_from, drop_ages=config.drop_ages)


def _read(config: DataConfig, environ: Mapping[str, str]) -> Manifest:
    """Return the data set with its original labels."""
    if config.dataset is not None:
        if config.csv is not None:
            raise UserError("--csv and --dataset: two data sets are given; pass one")
        return _from_reader(config.dataset, config)
    place = _place(config, environ)
    if place is None:
        _check_flags(config, "mask", "the demo set")
        for name in TEST_FLAGS:
            if getattr(config, name) is not None:
                raise UserError(
                    f"{flag_name(name)}: the demo set has a test set already; pass your data as"
                    " --data, or leave the flag out"
                )
        return read_layout(make_demo(), name=config.data_name or "demo", is_demo=True)
    text, flag = place
    path = home(text)
    layout = layout_of(path, text, flag, config)
    _check_flags(config, layout, f"{text}, read as {LAYOUTS[layout]}")
    return build_manifest(READERS[layout](path, config))


def check_source(config: DataConfig, *, environ: Mapping[str, str] = os.environ) -> None:
    """Raise UserError for what can be told from the table alone, before slow imports.

    These are a path that does not exist, and flags and columns that do not fit a table.
    """
    check_extra(config)
    place = None if config.dataset is not None else _place(config, environ)
    if place is None:
        return
    text, flag = place
    path = home(text)
    if exists(path) and path.is_dir() and flag != "--csv":
        return
    layout = layout_of(path, text, flag, config)
    _check_flags(config, layout, f"{text}, read as {LAYOUTS[layout]}")
    if layout == "table":
        checked_table(path, config)


def _check_flags(config: DataConfig, layout: str, what: str) -> None:
    """Raise UserError for flags without effect on data of this layout."""
    default = DataConfig()
    idle = [
        (flag_name(name), about.layouts)
        for name, about in flags_of(DataConfig).items()
        if about.layouts
        and layout not in about.layouts
        and getattr(config, name) not in (getattr(default, name), about.before)
    ]
    if idle:
        flags = listed(name for name, _ in idle)
        layouts = " or ".join(LAYOUTS[one] for one in idle[0][1])
        leave = "leave the flag out"
        cure = f"pass a table as --data, or {leave}" if "table" in idle[0][1] else leave
        raise UserError(f"{flags}: only for {layouts}, not for {what}; {cure}")


def _from_reader(name: str, config: DataConfig) -> Manifest:
    """Return the data set that the user's reader makes from the settings."""
    if not is_custom(name):
        raise UserError(f"--dataset {name}: pass your reader as module:name; see examples/")
    try:
        manifest = load_custom(name, "--dataset")(config)
    except UserError:
        # The reader's message for users is shown as it is.
        raise
    except Exception as error:  # A user's reader may raise anything.
        raise UserError(f"--dataset {name}: failed ({in_a_line(error)}); see examples/") from None
    if not isinstance(manifest, Manifest):
        raise UserError(
            f"--dataset {name}: returns a {type(manifest).__name__}; return the Manifest of"
            " build_manifest (see examples/)"
        )
    ids = None if manifest.test is None else manifest.test["image_id"].tolist()
    return dataclasses.replace(
        manifest,
        name=config.data_name or manifest.name,
        group_name=config.group_name or manifest.group_name,
        submission=form_of(config, ids, manifest.classes, manifest.submission),
    )
