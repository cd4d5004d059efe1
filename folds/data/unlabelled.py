"""Images without labels, which models of a finished run label for training (--unlabelled)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from foldblend.cli import Say
from foldblend.errors import BadImage, UserError, counted, listed
from foldblend.files import exists, home
from foldblend.image_checks import Checked
from foldblend.levels import AS_BEFORE
from folds.config import DataConfig
from folds.data.assemble import with_groups
from folds.data.manifest import Manifest, check_files
from folds.data.test_set import PATTERN, Training, read_test_set
from folds.data.training_only import groups_held_with, look_alikes

__all__ = ["TEST_SET", "with_unlabelled"]

TEST_SET = "test"
FLAG = "--unlabelled"


def _read(text: str, config: DataConfig, manifest: Manifest) -> pd.DataFrame:
    """Return the images of a table, folder or pattern; labels there are left out."""
    training = Training(
        classes=manifest.classes,
        label_column=config.label_col,
        files=frozenset(manifest.train["path"]),
    )
    if not exists(home(text)) and not any(one in text for one in PATTERN):
        raise UserError(f"{text} ({FLAG}): does not exist; correct the path")
    if home(text).is_dir():
        # A folder has no columns.
        config = dataclasses.replace(config, test_group_col=None)
    found = with_groups(read_test_set(text, config, training, flag=FLAG), config)
    columns = {name: one for name, one in found.extra.items() if name != "label"}
    table = pd.DataFrame(
        {"image_id": [*found.image_id], "path": [str(path) for path in found.path], **columns}
    )
    if table.empty:
        raise UserError(f"{text} ({FLAG}): has no image; pass a folder or table with images")
    twice = table.loc[table["image_id"].duplicated(), "image_id"]
    if len(twice):
        raise UserError(f"{text} ({FLAG}): {listed(twice)} occurs more than once; keep one row")
    check_files(table, f"{text} ({FLAG})")
    return table


def _readable(
    table: pd.DataFrame, results: Sequence[Checked | BadImage], *, skip: bool, say: Say
) -> pd.DataFrame:
    """Return the images that can be read; none of the others is needed for anything.

    Raises UserError for such images unless `skip` is set, and if no image is left.
    """
    bad = [one for one in results if isinstance(one, BadImage)]
    if not bad:
        return table
    more = f" ({len(bad) - 1} more like it)" if len(bad) > 1 else ""
    if not skip:
        raise UserError(f"{bad[0]}{more}")
    if len(bad) == len(table):
        raise UserError(f"{FLAG}: {bad[0].problem}{more}; no image is left, so pass other images")
    problems = listed(one.problem for one in bad)
    say(f"{FLAG}: skipped {counted(len(bad), 'unreadable image')}: {problems}")
    readable = [isinstance(one, Checked) for one in results]
    return table[readable].reset_index(drop=True)


def with_unlabelled(
    manifest: Manifest,
    text: str,
    config: DataConfig,
    group_before_N: np.ndarray,
    *,
    check: Callable[..., list[Checked | BadImage]],
    say: Say,
) -> Manifest:
    """Return the manifest with images without labels, and the groups that each is held out with.

    An image that is a duplicate of a scored one, or shares a group with one, tells something of
    it, and so it is left out of training wherever that image is held out.

    Parameters
    ----------
    manifest
        The data, with the column `content` in all tables.
    text
        A table, folder or pattern, or "test" for the test set.
    config
        Settings of the data.
    group_before_N
        Group of each row of `train` before groups were merged.
    check
        Function of a table and its levels that decodes its images.
    say
        Receives a line.

    Raises
    ------
    UserError
        If there are no such images, or one cannot be used.
    """
    if text == TEST_SET:
        if manifest.test is None:
            raise UserError(
                f"{FLAG} {TEST_SET}: the data have no test set; pass --test, or a folder or table"
                f" of images to {FLAG}"
            )
        names = ("image_id", "path", "content", "box", "group")
        table = manifest.test[[name for name in names if name in manifest.test]]
    else:
        table = _read(text, config, manifest)
        results = check(table, levels=manifest.levels)
        table = _readable(table, results, skip=config.on_bad_image == "skip", say=say)
        good = [one for one in results if isinstance(one, Checked)]
        table = table.assign(content=[one.content for one in good])
        needs = manifest.levels != AS_BEFORE and any(one.values is not None for one in good)
        manifest = dataclasses.replace(manifest, needs_levels=manifest.needs_levels or needs)
    if "box" in manifest.train and "box" not in table:
        raise UserError(
            f"{text} ({FLAG}): has no boxes, which the labelled images have (--box-cols); pass a"
            " table with these columns"
        )
    # An image whose group is not known is a group of its own, which no training image has.
    if "group" not in table:
        table = table.assign(group=[f"unlabelled {name}" for name in table["image_id"]])
    parts = look_alikes({"train": manifest.train, "others": table}, manifest.levels)
    groups, same = groups_held_with(
        manifest.train, group_before_N, table, parts["train"], parts["others"]
    )
    num = sum(bool(one) for one in groups)
    say(
        f"{FLAG}: {counted(len(table), 'image')};"
        + (
            f" {num:,} of them share a {manifest.group_name} with scored images or are the same as"
            " one, and are left out where these are held out"
            if num
            else " none is the same as a scored image"
        )
        + (f" ({listed(same)})" if same else "")
    )
    return dataclasses.replace(
        manifest, unlabelled=table.assign(held_with=pd.Series(groups, dtype=object))
    )
