"""Reader of the test set: a table, a folder or a pattern of file names."""

from __future__ import annotations

import dataclasses
import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foldblend.errors import UserError, counted, listed
from foldblend.files import exists, home, is_file
from foldblend.tables import is_table
from folds.config import DataConfig
from folds.data.class_folders import TEST, Tree, tree_of
from folds.data.finder import is_image_file
from folds.data.generic import (
    IMAGE_COLUMNS,
    box_columns,
    boxes_in,
    column_in,
    given_root,
    images_of,
    read_user_table,
)
from folds.data.image_table import Cells
from folds.data.labelled import class_codes, spelt

__all__ = ["TestSet", "Training", "metadata_in", "read_test_set", "test_of_tree"]

METADATA = tuple(f"metadata{suffix}" for suffix in (".csv", ".jsonl", ".parquet"))
PATTERN = "*?["


@dataclass(frozen=True, kw_only=True)
class TestSet:
    """Test images, in the order of their table or of their names."""

    __test__ = False  # pytest would collect a class of this name

    source: str
    """What was read, for messages."""
    image_id: Sequence[str]
    path: Sequence[Path]
    id_column: str = "image"
    extra: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Further columns: `label` (class or -1), `group` and `box`."""
    columns: Mapping[str, Cells] = field(default_factory=dict)
    """Texts of the columns of the table."""
    notes: Sequence[str] = ()
    found: Sequence[str] = ()
    """Sentences on what was recognised, for the log."""

    def with_groups(self, groups: Sequence[str]) -> TestSet:
        """Return the test set with the group of each image."""
        return dataclasses.replace(self, extra={**self.extra, "group": groups})


@dataclass(frozen=True, kw_only=True)
class Training:
    """The part of the training set that the reader of test images needs."""

    classes: Sequence[str]
    label_column: str = "label"
    folder: Path | None = None
    """Folder of the training table, where earlier versions looked for test images."""
    files: frozenset[Path] = frozenset()
    """The labelled images."""


def metadata_in(folder: Path) -> Path | None:
    """Return the metadata file of a folder as Hugging Face's imagefolder has it, or None.

    Raises UserError if there are several.
    """
    files = [folder / name for name in METADATA if (folder / name).is_file()]
    if len(files) > 1:
        raise UserError(f"{folder}: has {listed(file.name for file in files)}; keep one")
    return files[0] if files else None


def _known_labels(
    words: Sequence[str], classes: Sequence[str], config: DataConfig, source: str
) -> tuple[dict[str, list[int]], list[str]]:
    """Return {"label": class or -1 of each image}, and sentences; {} if they are no truth.

    Many tables of test images have a column that only shows the form of a submission.
    """
    read = spelt(words, classes, config)
    codes = class_codes(read, classes)
    known = [code for code in codes if code >= 0]
    given = set(read) - {""}
    if given and not known:
        return {}, [
            f"{source}: labels such as {next(iter(sorted(given)))!r} are not classes of the"
            " training set, so there is no score on the test set"
        ]
    if not known:
        return {}, []
    if len(given) == 1:
        return {}, [f"{source}: all labels are {given.pop()!r}, so they are not used for a score"]
    unknown = [word for word, code in zip(read, codes, strict=True) if code < 0 and word]
    more = f"; not a class of the training set: {listed(dict.fromkeys(unknown))}" if unknown else ""
    text = f"{source}: {counted(len(known), 'label')} kept for a score at the end{more}"
    return {"label": codes}, [text]


def _of_table(file: Path, config: DataConfig, training: Training) -> TestSet:
    """Return the test images of a table."""
    table = read_user_table(file, config)
    asked = config.test_image_col or config.image_col
    default = "" if config.test_image_col else "image"
    column = column_in(table, asked, default, IMAGE_COLUMNS)
    flag = "--test-image-col" if config.test_image_col else "--image-col"
    boxes = [("--box-cols", name) for name in box_columns(config)]
    given = [("--test-group-col", one) for one in (config.test_group_col,) if one is not None]
    table.check_columns([(flag, column), *given, *boxes])
    own = given_root(config.test_image_root, "--test-image-root")
    roots = [*(own or given_root(config.image_root, "--image-root")), table.file.parent]
    cure = "remove one" if own else "pass --test-image-root with the folder of the test images"
    images = images_of(table, column, roots, config, cure=cure)
    notes = list(images.notes)
    found = [] if column == asked else [f"{file}: column {column!r} taken as the image"]
    # Earlier versions looked beside the training table only. A mixture of both folders would be
    # a guess, so that folder counts only if it has all the images and the others have none. It
    # does not count if the images are those of the training set, which have equal names then.
    if training.folder is not None and not own and len(images.missing) == len(images.ids):
        there = images_of(table, column, [training.folder], config, cure=cure)
        if not there.missing and not training.files & {*there.paths}:
            images = there
            notes = [*there.notes, f"{file}: the test images are in {training.folder}"]
    extra: dict[str, Sequence[Any]] = dict(boxes_in(table, config))
    labels = training.label_column
    if labels in table.cells.columns and labels != column:
        words = table.cells[labels].tolist()
        truth, texts = _known_labels(words, training.classes, config, str(file))
        extra |= truth
        found += texts
    by = config.test_group_col or config.group_col
    if by in table.cells.columns:
        groups = spelt(table.cells[by].tolist(), (), config)
        # An image whose group is not known is a group of its own.
        pairs = zip(groups, images.ids, strict=True)
        extra["group"] = [group or image_id for group, image_id in pairs]
    return TestSet(
        source=str(file),
        image_id=images.ids,
        path=images.paths,
        id_column=column,
        extra=extra,
        columns={name: table.cells[name].to_numpy() for name in map(str, table.cells)},
        notes=notes,
        found=found,
    )


def test_of_tree(tree: Tree, config: DataConfig, training: Training, *, depth: int) -> TestSet:
    """Return the images below a folder; folders named as the classes give their labels.

    `depth` is the number of folders above a class in the paths, such as 1 for test/cat/1.jpg.

    Raises UserError for folders of which only some are named as classes.
    """
    tops = [
        parts[depth] if len(parts) > depth + 1 else ""
        for parts in (name.split("/") for name in tree.images)
    ]
    if config.label_from == "parent":
        tops = [name.split("/")[-2] if name.count("/") > depth else "" for name in tree.images]
    folders = sorted({*tops} - {""})
    names = spelt(folders, training.classes, config)
    codes = dict(zip(folders, class_codes(names, training.classes), strict=True))
    known = [one for one in folders if codes[one] >= 0]
    extra: dict[str, Sequence[Any]] = {}
    found = []
    if folders and not known:
        found = [
            f"{tree.root}: folders {listed(folders)} are not classes of the training set, so there"
            " are no labels for a score"
        ]
    if known:
        unknown = [one for one in folders if one not in known]
        if unknown:
            raise UserError(
                f"{tree.root}: {listed(f'{one}/' for one in unknown)} is not a class of the"
                f" training set, but {listed(f'{one}/' for one in known)} is; rename or remove it"
            )
        extra = {"label": [codes.get(top, -1) for top in tops]}
        num = sum(code >= 0 for code in extra["label"])
        found = [f"{tree.root}: {counted(num, 'label')} of test images kept for a score at the end"]
    return TestSet(
        source=str(tree.root),
        image_id=list(tree.images),
        path=[tree.root / name for name in tree.images],
        extra=extra,
        found=found,
    )


def _of_pattern(text: str, config: DataConfig, flag: str) -> Tree:
    """Return the images that a pattern such as test/*.jpg fits."""
    parts = Path(text).parts
    # Folders that exist under a name such as images[1] are no patterns.
    is_fixed = [
        exists(Path(*parts[: index + 1])) or not any(one in part for one in PATTERN)
        for index, part in enumerate(parts)
    ]
    root = Path(*parts[: is_fixed.index(False)])
    text = str(Path(glob.escape(str(root)), *parts[is_fixed.index(False) :]))
    files = sorted(
        path
        for path in glob.glob(text, recursive=True)  # noqa: PTH207
        if Path(path).is_file() and not Path(path).name.startswith(".")
    )
    images = [path for path in files if is_image_file(Path(path), config.image_suffix)]
    if not images:
        raise UserError(f"{flag} {text}: no image fits the pattern; correct it")
    return Tree(root, tuple(Path(path).relative_to(root).as_posix() for path in images))


def read_test_set(text: str, config: DataConfig, training: Training, *, flag: str) -> TestSet:
    """Read the test images from a table, a folder (with or without class folders) or a pattern.

    Parameters
    ----------
    text
        The value of --test or --test-csv.
    config
        Settings of the data.
    training
        The training set, for labels of test images and for the place of images.
    flag
        The flag that gave the text, for messages.

    Raises
    ------
    UserError
        If nothing can be read there.
    """
    path = home(text)
    if exists(path) and path.is_dir() and flag != "--test-csv":
        file = metadata_in(path)
        if file is not None:
            return _of_table(file, config, dataclasses.replace(training, folder=None))
        tree = tree_of(path, config.image_suffix)
        if not tree.images:
            raise UserError(f"{text} ({flag}): no image in this folder; check the path")
        tops = tree.tops()
        named = [top for top in tops if top.lower() in TEST]
        if named and not set(named) & set(training.classes):
            # The whole data set was passed: of its parts, only test/ is the test set.
            names = [name for top in named for name in tops[top]]
            return test_of_tree(Tree(tree.root, tuple(names)), config, training, depth=1)
        return test_of_tree(tree, config, training, depth=0)
    if is_file(path) and not is_table(path) and is_image_file(path, config.image_suffix):
        return test_of_tree(Tree(path.parent, (path.name,)), config, training, depth=0)
    if not exists(path) and any(one in text for one in PATTERN) and flag != "--test-csv":
        return test_of_tree(_of_pattern(str(path), config, flag), config, training, depth=0)
    return _of_table(path, config, training)
