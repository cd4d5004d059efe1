"""Data exploration: reads every image once and runs all checks of the audit on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from foldblend.cli import Say
from foldblend.errors import BadImage, UserError, counted
from foldblend.limits import MAX_PIXELS
from foldblend.words import plural
from folds.audit.adversarial import LEAST_ROWS, NUM_FOLDS, Adversarial, tell_apart
from folds.audit.exchanges import Swaps
from folds.audit.files import size_notes, suffix_notes
from folds.audit.findings import (
    Finding,
    duplicate_findings,
    lookalike_findings,
    swap_findings,
)
from folds.audit.image_facts import ImageFacts, facts_of_images
from folds.audit.lookalikes import (
    Lookalikes,
    lookalike_groups,
)
from folds.audit.statistics import STATISTICS
from folds.data.duplicates import duplicate_pairs, stacked
from folds.data.load import merge_groups
from folds.data.manifest import Manifest
from folds.data.training_only import PART

__all__ = ["Exploration", "explore"]


@dataclass(frozen=True, kw_only=True)
class Exploration:
    """Results of all checks, for the page and the terminal."""

    manifest: Manifest
    """The data without unreadable images."""
    images: pd.DataFrame
    """Training rows, test rows, and rows for training only, with the manifest's columns and "part".

    Test rows have an empty group and the label -1.
    """
    kept_N: np.ndarray
    """False for the training rows whose image could not be read."""
    statistic_NS: np.ndarray
    """Statistics of each image (see folds.audit.statistics)."""
    unreadable: tuple[str, ...]
    """Path and error of each image that could not be read."""
    findings: tuple[Finding, ...]
    adversarial: Adversarial | None
    """None if they could not be compared."""
    why_not_compared: str
    """Why training and test images could not be compared; empty if they were."""
    deep: bool
    """True if the slow checks ran: swapped labels and the same group under two names."""
    lookalikes: Lookalikes | None
    """None if the search did not run, or if every group is a single image."""
    swaps: Mapping[str, Swaps]
    """Result of the search for swapped labels, for each attribute (or class) that was searched."""
    notes: tuple[str, ...]
    """Notes on sizes and names of image files."""

    def adversarial_lines(self) -> list[str]:
        """Return sentences on whether training and test images differ, and in what."""
        if self.adversarial is None:
            return [f"Train against test: not compared, because {self.why_not_compared}."]
        result = self.adversarial
        auc = f"a classifier separates them with AUC {result.auc:.3f}"
        chance = (
            f"the {result.chance_T.min():.3f} to {result.chance_T.max():.3f} expected by chance"
        )
        if not result.differs:
            where = "within" if result.auc >= result.chance_T.min() else "below"
            return [f"Train and test look alike: {auc}, {where} {chance}."]
        lines = [f"Train and test differ: {auc}, above {chance}."]
        for index in np.argsort(-result.lost_S)[:3]:
            single = result.single_S[index]
            lines.append(
                f"  {STATISTICS[index]}: {'higher' if single > 0.5 else 'lower'} in test (AUC"
                f" {single:.3f} by itself; shuffling it costs {result.lost_S[index]:.3f} of the"
                " AUC)"
            )
        return lines


def _all_images(manifest: Manifest) -> pd.DataFrame:
    tables = [manifest.train.assign(part="train")]
    if manifest.test is not None:
        tables.append(manifest.test.assign(part="test", group="", label=-1))
    if manifest.train_only is not None:
        tables.append(manifest.train_only.assign(part=PART))
    return tables[0] if len(tables) == 1 else pd.concat(tables, ignore_index=True)


def _without(manifest: Manifest, results: list[ImageFacts | BadImage]) -> Manifest:
    """Return the manifest with readable images only; `results` are in the order of `_all_images`.

    Raises UserError with the first reason if no training image is left.
    """
    is_good_N = np.array([not isinstance(result, BadImage) for result in results])
    num_train = len(manifest.train)
    ends = np.cumsum([len(table) for table in manifest.tables])[:-1]
    good = [
        table[good_N].reset_index(drop=True)
        for table, good_N in zip(manifest.tables, np.split(is_good_N, ends), strict=True)
    ]
    if good[0].empty:
        why = str(results[0]).partition("; ")[0]
        raise UserError(
            f"{manifest.root}: none of the {num_train} training images can be read ({why});"
            " download, copy or convert them again"
        )
    return manifest.with_tables(good)


def _compared(
    images: pd.DataFrame, statistic_NS: np.ndarray, manifest: Manifest
) -> tuple[Adversarial | None, str]:
    """Return the result of adversarial validation, or None and why there is none."""
    # Images for training only may come from anywhere.
    is_asked_N = (images["part"] != PART).to_numpy()
    images = images[is_asked_N]
    statistic_NS = statistic_NS[is_asked_N]
    is_test_N = (images["part"] == "test").to_numpy().astype(np.int64)
    if manifest.test is None:
        return None, "there is no test set"
    for name, number in (("test", is_test_N.sum()), ("training", len(manifest.train))):
        if number < LEAST_ROWS:
            had = counted(int(number), "image")
            return None, f"the {name} set has only {had}, and {LEAST_ROWS} are needed"
    result = tell_apart(statistic_NS, is_test_N, images["group"].to_numpy())
    if result is None:
        groups = plural(manifest.group_name)
        return None, (
            f"the training set has too few {groups} for random draws: a draw needs at least"
            f" {LEAST_ROWS // 2} images, and must leave {NUM_FOLDS} {groups}"
        )
    return result, ""


def explore(
    manifest: Manifest,
    say: Say,
    *,
    deep: bool = True,
    merge: bool = False,
    max_pixels: int = MAX_PIXELS,
    bad: Mapping[str, BadImage] | None = None,
) -> Exploration:
    """Read every image and return the results of all checks.

    Parameters
    ----------
    manifest
        The data set.
    say
        Function that prints a line.
    deep
        Run the slow checks as well: the same group under two names, and swapped labels. They need
        groups of several images.
    merge
        Merge groups that share an image.
    max_pixels
        Most pixels of an image (--max-pixels).
    bad
        Errors of images that are known to be unusable, by path.

    Returns
    -------
    Exploration
        Results without unreadable images, which are listed.

    Raises
    ------
    UserError
        If no training image can be read.
    """
    has_groups = bool(manifest.train["group"].duplicated().any())
    images = _all_images(manifest)
    num_train = len(manifest.train)
    results = facts_of_images(
        images,
        deep=deep and has_groups,
        max_pixels=max_pixels,
        levels=manifest.levels,
        bad=bad or {},
    )
    is_good_N = np.array([not isinstance(result, BadImage) for result in results])
    manifest = _without(manifest, results)
    looks = [result for result in results if isinstance(result, ImageFacts)]
    duplicates = duplicate_pairs(stacked([look.print for look in looks]))
    if merge:
        manifest = merge_groups(
            manifest, duplicates[(duplicates < len(manifest.train)).all(axis=1)], say
        )
    images = _all_images(manifest)
    train = manifest.train
    statistic_NS = np.stack([look.statistics for look in looks])
    findings = duplicate_findings(images, duplicates, manifest.group_name)
    found = None
    swaps: dict[str, Swaps] = {}
    if deep and has_groups:
        sketched = np.array([row for row, look in enumerate(looks) if look.sketch is not None])
        place = {int(row): index for index, row in enumerate(sketched)}
        # Duplicates are reported already, and are ignored in the search for lookalikes.
        known = {(place[i], place[j]) for i, j in duplicates.tolist() if i in place and j in place}
        sketches = [look.sketch for look in looks if look.sketch is not None]
        found = lookalike_groups(sketches, train["group"].to_numpy()[sketched], known=known)
        findings += lookalike_findings(manifest, found, sketched)
        features = [look.features for look in looks if look.features is not None]
        swap_found, swaps = swap_findings(manifest, np.stack(features))
        findings += swap_found
    adversarial, why_not = _compared(images, statistic_NS, manifest)
    names = [f"{name}" for name in images["image_id"]]
    width_N, height_N = statistic_NS[:, :2].T
    return Exploration(
        manifest=manifest,
        images=images,
        kept_N=is_good_N[:num_train],
        statistic_NS=statistic_NS,
        unreadable=tuple(
            str(result).partition("; ")[0] for result in results if isinstance(result, BadImage)
        ),
        findings=tuple(findings),
        adversarial=adversarial,
        why_not_compared=why_not,
        deep=deep,
        lookalikes=found,
        swaps=swaps,
        notes=(
            *size_notes(names, width_N, height_N),
            *suffix_notes([Path(path).name for path in images["path"]]),
        ),
    )
