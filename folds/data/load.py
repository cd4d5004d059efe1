"""Loading of a run's data: reads labels, decodes every image once and reports duplicates."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Container, MutableMapping, Sequence

import numpy as np

from foldblend.cli import Say
from foldblend.errors import BadImage, UserError, counted, listed
from foldblend.image_checks import Checked, check_images
from foldblend.image_values import Values
from folds.config import DataConfig
from folds.data.duplicates import (
    IN_TEST,
    describe_pairs,
    duplicate_pairs,
    equal_pairs,
    merged_groups,
    prints_of,
)
from folds.data.manifest import Manifest
from folds.data.pixel_range import (
    levels_asked,
    with_levels,
    with_test_values,
)
from folds.data.source import load_manifest
from folds.data.training_only import (
    ids_for_training_only,
    joined,
    taken_apart,
    with_groups_held_with,
)
from folds.data.unlabelled import with_unlabelled

__all__ = ["load_data", "merge_groups"]


def load_data(
    config: DataConfig,
    say: Say,
    known: Container[bytes] = (),
    *,
    fold_file: str | None = None,
    remembered: MutableMapping[bytes, Values] | None = None,
    unlabelled: str | None = None,
) -> tuple[Manifest, str]:
    """Return the manifest with readable images only, and the hash of labels and pixels.

    Parameters
    ----------
    config
        Settings of the data.
    say
        Function that prints a line.
    known
        Keys of images that were decoded before and are not decoded again (see foldblend.images).
    fold_file
        File of folds; its rows of fold -1 are for training only.
    remembered
        Values of images that an earlier run found; new ones are added (see `check_images`).
    unlabelled
        Images without labels, as for `with_unlabelled`; None for none.

    Returns
    -------
    tuple[Manifest, str]
        The tables of the manifest have an additional column `content`, the hash of each image file.
        The hash does not depend on images for training only, or without labels.

    Raises
    ------
    UserError
        For data that cannot be used, and for unreadable images unless on_bad_image is "skip".
    """
    manifest = load_manifest(config)
    for line in manifest.found:
        say(line)
    for warning in manifest.warnings:
        say(f"warning: {warning}")
    for note in manifest.notes:
        say(note)
    alone = ids_for_training_only(manifest, fold_file, say)
    manifest = joined(manifest)
    asked = levels_asked(config)
    check = functools.partial(
        check_images, known=known, max_pixels=config.max_pixels, remembered=remembered
    )
    results = check(manifest.train, levels=asked)
    manifest = _readable(manifest, results, skip=config.on_bad_image == "skip", say=say)
    good = [one for one in results if isinstance(one, Checked)]
    content = [one.content for one in good]
    manifest = dataclasses.replace(manifest, train=manifest.train.assign(content=content))
    manifest = with_levels(manifest, config, good, say)
    manifest = taken_apart(manifest, alone)
    content = manifest.train["content"].tolist()
    groups = manifest.train["group"].to_numpy()
    manifest = _with_duplicates(manifest, content, config.merge_duplicates, say)
    test_good = _check_test(manifest, check)
    manifest = with_test_values(manifest, test_good, say)
    test_content = [one.content for one in test_good]
    if manifest.test is not None:
        manifest = dataclasses.replace(manifest, test=manifest.test.assign(content=test_content))
    manifest, seen = with_groups_held_with(manifest, groups, say)
    tested = {*test_content}
    in_both = [
        name for name, one in zip(manifest.train["image_id"], content, strict=True) if one in tested
    ]
    if in_both:
        say(
            f"warning: {IN_TEST} ({counted(len(in_both), 'image')}): {listed(in_both)}; remove"
            " them from the training set"
        )
    if in_both or seen:
        manifest = _without_seen_labels(manifest, {*content, *seen}, say)
    if unlabelled is not None:
        manifest = with_unlabelled(manifest, unlabelled, config, groups, check=check, say=say)
    digest = hashlib.blake2b(manifest.labels_hash().encode(), digest_size=16)
    for one in [*content, *test_content]:
        digest.update(one.encode())
    return manifest, digest.hexdigest()


def _without_seen_labels(manifest: Manifest, trained: set[str], say: Say) -> Manifest:
    """Return the manifest without labels of test images that are also in the training set.

    A score on these images would not be one of unseen images.
    """
    assert manifest.test is not None
    if "label" not in manifest.test:
        return manifest
    seen_N = manifest.test["content"].isin(trained) & (manifest.test["label"] >= 0)
    if not seen_N.any():
        return manifest
    label_N = manifest.test["label"].where(~seen_N, -1)
    note = (
        f"labels of {counted(int(seen_N.sum()), 'test image')} that the training set has, too, are"
        " not used for the score on the test set"
    )
    return _noted(
        dataclasses.replace(manifest, test=manifest.test.assign(label=label_N)), note, say
    )


def _noted(manifest: Manifest, note: str, say: Say) -> Manifest:
    """Print a warning, and return the manifest with it among the notes for the report."""
    say(f"warning: {note}")
    return dataclasses.replace(manifest, notes=(*manifest.notes, note))


def _readable(
    manifest: Manifest, results: Sequence[Checked | BadImage], *, skip: bool, say: Say
) -> Manifest:
    """Return the manifest without the training images that cannot be used.

    Raises UserError for such images unless `skip` is set, and if no image is left.
    """
    bad = [result for result in results if isinstance(result, BadImage)]
    if not bad:
        return manifest
    more = f" ({len(bad) - 1} more like it)" if len(bad) > 1 else ""
    if not skip:
        raise UserError(f"{bad[0]}{more}")
    every = manifest.train
    train = every[[isinstance(one, Checked) for one in results]].reset_index(drop=True)
    problems = [one.problem for one in bad]
    if train.empty:
        raise UserError(f"{problems[0]}{more}; no training image is left, so fetch them again")
    manifest = _noted(
        dataclasses.replace(manifest, train=train),
        f"skipped {counted(len(bad), 'unreadable image')}: {listed(problems)}",
        say,
    )
    gone = sorted({*every["label"]} - {*train["label"]})
    if gone:
        names = listed([repr(manifest.classes[label]) for label in gone])
        who = f"class {names} has" if len(gone) == 1 else f"classes {names} have"
        left = "is left out" if len(gone) == 1 else "are left out"
        note = f"{who} no readable image and {left} of training and of the scores"
        manifest = _noted(manifest, note, say)
    num_gone = every["group"].nunique() - train["group"].nunique()
    if num_gone:
        manifest = _noted(
            manifest, f"{counted(num_gone, manifest.group_name)} without a readable image", say
        )
    return manifest


def _check_test(
    manifest: Manifest, check: Callable[..., list[Checked | BadImage]]
) -> list[Checked]:
    """Return the checked test images. Raises UserError if one of them cannot be used."""
    if manifest.test is None:
        return []
    results = check(manifest.test, levels=manifest.levels)
    bad = [result for result in results if isinstance(result, BadImage)]
    if bad:
        # Test images are never skipped, because a submission needs every row.
        more = f" ({len(bad) - 1} more like it)" if len(bad) > 1 else ""
        raise UserError(f"{bad[0].for_test()}{more}")
    return [result for result in results if isinstance(result, Checked)]


def _with_duplicates(manifest: Manifest, content: list[str], merge: bool, say: Say) -> Manifest:
    """Warn of images in two groups or with two labels, and merge groups if `merge` is set.

    Without `merge` only identical files are found; near duplicates need every image decoded again.
    """
    train = manifest.train
    pairs = duplicate_pairs(prints_of(train, manifest.levels)) if merge else equal_pairs(content)
    lines = describe_pairs(pairs, train)
    for line in lines:
        say(f"warning: {line}")
    if not merge:
        if lines:
            say("pass --merge-duplicates to merge groups that share an image")
        return manifest
    return merge_groups(manifest, pairs, say)


def merge_groups(manifest: Manifest, pairs: np.ndarray, say: Say) -> Manifest:
    """Return the manifest with groups merged that pairs of training rows, U x 2, connect."""
    train = manifest.train
    group_N = merged_groups(train["group"].to_numpy(), pairs)
    before = counted(int(train["group"].nunique()), manifest.group_name)
    note = f"--merge-duplicates: {before} became {len(set(group_N)):,}"
    say(note)
    return dataclasses.replace(
        manifest, train=train.assign(group=group_N), notes=(*manifest.notes, note)
    )
