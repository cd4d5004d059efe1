"""Loading of a run's data: reads labels, decodes every image once and reports duplicates."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Container

import numpy as np

from foldblend.cli import Say
from foldblend.errors import BadImage, UserError, counted, listed
from foldblend.images import check_images
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
from folds.data.source import load_manifest

__all__ = ["load_data", "merge_groups"]


def load_data(config: DataConfig, say: Say, known: Container[bytes] = ()) -> tuple[Manifest, str]:
    """Return the manifest with readable images only, and the hash of labels and pixels.

    Parameters
    ----------
    config
        Settings of the data.
    say
        Function that prints a line.
    known
        Keys of images that were decoded before and are not decoded again (see foldblend.images).

    Returns
    -------
    tuple[Manifest, str]
        The tables of the manifest have an additional column `content`, the hash of each image file.

    Raises
    ------
    UserError
        For data that cannot be used, and for unreadable images unless on_bad_image is "skip".
    """
    skip = config.on_bad_image == "skip"
    manifest = load_manifest(config)
    for warning in manifest.warnings:
        say(f"warning: {warning}")
    for note in manifest.notes:
        say(note)
    results = check_images(manifest.train, known)
    bad = [result for result in results if isinstance(result, BadImage)]
    if bad and not skip:
        more = f" ({len(bad) - 1} more like it)" if len(bad) > 1 else ""
        raise UserError(f"{bad[0]}{more}")
    if bad:
        say(f"warning: skipped {counted(len(bad), 'unreadable image')}: {listed(bad)}")
        good = [not isinstance(result, BadImage) for result in results]
        manifest = dataclasses.replace(manifest, train=manifest.train[good].reset_index(drop=True))
    content = [str(one) for one in results if not isinstance(one, BadImage)]
    manifest = dataclasses.replace(manifest, train=manifest.train.assign(content=content))
    manifest = _with_duplicates(manifest, content, config.merge_duplicates, say)
    test_results = [] if manifest.test is None else check_images(manifest.test, known)
    for result in test_results:
        # Test images are never skipped, because a submission needs every row.
        if isinstance(result, BadImage):
            raise UserError(str(result).replace(" or pass --on-bad-image skip", ""))
    if manifest.test is not None:
        manifest = dataclasses.replace(
            manifest, test=manifest.test.assign(content=[*map(str, test_results)])
        )
    tested = {*map(str, test_results)}
    in_both = [
        name for name, one in zip(manifest.train["image_id"], content, strict=True) if one in tested
    ]
    if in_both:
        say(
            f"warning: {IN_TEST} ({counted(len(in_both), 'image')}): {listed(in_both)}; remove"
            " them from the training set"
        )
    digest = hashlib.blake2b(manifest.labels_hash().encode(), digest_size=16)
    for result in [*results, *test_results]:
        digest.update(str(result).encode() if not isinstance(result, BadImage) else b"")
    return manifest, digest.hexdigest()


def _with_duplicates(manifest: Manifest, content: list[str], merge: bool, say: Say) -> Manifest:
    """Warn of images in two groups or with two labels, and merge groups if `merge` is set.

    Without `merge` only identical files are found; near duplicates need every image decoded again.
    """
    train = manifest.train
    pairs = duplicate_pairs(prints_of(train)) if merge else equal_pairs(content)
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
    note = f"--merge-duplicates: {train['group'].nunique()} groups became {len(set(group_N))}"
    say(note)
    return dataclasses.replace(
        manifest, train=train.assign(group=group_N), notes=(*manifest.notes, note)
    )
