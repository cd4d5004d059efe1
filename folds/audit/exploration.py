"""What people look at before they train: one look at every image, and what it gives away."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from foldblend.cli import Say
from foldblend.errors import BadImage, UserError, counted, listed
from foldblend.images import Box, boxes_of, crop, read_image
from folds.audit.adversarial import LEAST_ROWS, Adversarial, tell_apart
from folds.audit.findings import Finding, duplicate_findings, lookalike_findings, swap_findings
from folds.audit.lookalikes import (
    Lookalikes,
    Sketch,
    few_rows_of_groups,
    lookalike_groups,
    sketch_of,
)
from folds.audit.statistics import STATISTICS, statistics_of
from folds.audit.swaps import features_of
from folds.data.duplicates import Print, duplicate_pairs, print_of, stacked
from folds.data.load import merge_groups
from folds.data.manifest import Manifest

__all__ = ["Exploration", "explore"]


@dataclass(frozen=True, kw_only=True)
class Exploration:
    """Everything that was seen; the page and the terminal show it."""

    manifest: Manifest
    """Without the images that could not be read."""
    pictures: pd.DataFrame
    """Training rows, then test rows: image_id, path, perhaps box; group and label blank and -1 for
    the test set.
    """
    kept_N: np.ndarray
    """Whether each training row that was looked at could be read."""
    statistic_NS: np.ndarray
    """folds.audit.statistics of each image."""
    unreadable: tuple[str, ...]
    findings: tuple[Finding, ...]
    adversarial: Adversarial | None
    """None where there is no test set, or too few images or groups to say."""
    deep: bool
    """Whether swaps and people under two names were looked for."""
    lookalikes: Lookalikes | None
    """None where it was not asked for, or groups are single images."""

    def lines(self) -> list[str]:
        """Return all of it as text."""
        lines = []
        if self.unreadable:
            lines.append(
                f"{counted(len(self.unreadable), 'image')}: cannot be read:"
                f" {listed(self.unreadable)}"
            )
        for finding in self.findings:
            lines += finding.lines()
        if not lines and not self.manifest.warnings:
            lines.append("nothing looks wrong in what was searched")
        return [*lines, *self.seen_lines(), *self.adversarial_lines()]

    def seen_lines(self) -> list[str]:
        """Return what was not searched, and what the search for one person under two names could
        see.
        """
        if not self.deep:
            return ["not searched (--quick): one person under two names, swapped labels"]
        found = self.lookalikes
        if found is None:
            return [
                "not searched, for every image is a group of its own: people under two names,"
                " swapped labels"
            ]
        if not found.num_trials:
            return ["one person under two names: too few groups or features to say"]
        return [
            f"one person under two names: named from {found.least} shared features on. Of"
            f" {found.num_trials:,} groups cut in two as a trial, {found.recall:.0%} would have"
            " been named"
        ]

    def adversarial_lines(self) -> list[str]:
        """Return whether training and test images can be told apart, and by what."""
        if self.adversarial is None:
            return ["train against test: no test set, or too few images or groups to say"]
        result = self.adversarial
        sizes = self.pictures["part"].value_counts()
        lines = [
            f"train against test, told apart by simple statistics: AUC {result.auc:.3f}"
            f" ({sizes['train']:,} and {sizes['test']:,} images). By chance alone, from training"
            f" images drawn by group: {result.chance_D.min():.3f} to {result.chance_D.max():.3f}"
            f" ({len(result.chance_D)} draws)"
        ]
        if not result.differs:
            return [*lines, "  so no difference shows beyond chance"]
        for index in np.argsort(-result.lost_S)[:3]:
            alone = result.alone_S[index]
            lines.append(
                f"  by {STATISTICS[index]}: {'higher' if alone > 0.5 else 'lower'} in test (alone"
                f" {alone:.3f}), {result.lost_S[index]:.3f} of the AUC is lost when it is shuffled"
            )
        return lines


@dataclass(frozen=True, slots=True)
class _Look:
    """What is kept of one image."""

    print: Print
    statistics: np.ndarray
    features: np.ndarray | None
    sketch: Sketch | None


def _look(path: str, box: Box | None, want_features: bool, want_sketch: bool) -> _Look | BadImage:
    try:
        whole = read_image(path)
        image = whole if box is None else crop(path, whole, box)
    except BadImage as error:
        return error
    return _Look(
        print_of(image),
        statistics_of(image, Path(path).stat().st_size / (whole.shape[0] * whole.shape[1])),
        features_of(image) if want_features else None,
        sketch_of(image) if want_sketch else None,
    )


def _all_pictures(manifest: Manifest) -> pd.DataFrame:
    train = manifest.train.assign(part="train")
    if manifest.test is None:
        return train
    test = manifest.test.assign(part="test", group="", label=-1)
    return pd.concat([train, test], ignore_index=True)


def _look_at_all(pictures: pd.DataFrame, *, deep: bool) -> list[_Look | BadImage]:
    is_train = (pictures["part"] == "train").to_numpy()
    is_sketched = np.zeros(len(pictures), bool)
    if deep:
        is_sketched[few_rows_of_groups(pictures["group"].to_numpy()[is_train])] = True
    with ThreadPoolExecutor() as pool:  # cv2 and hashlib release the interpreter lock
        looks = pool.map(_look, pictures["path"], boxes_of(pictures), is_train & deep, is_sketched)
        return list(
            tqdm(looks, total=len(pictures), desc="looking at images", unit="", disable=None)
        )


def _without(manifest: Manifest, is_good_N: np.ndarray) -> Manifest:
    """Return the manifest without some of its training, then test, rows."""
    num_train = len(manifest.train)
    train = manifest.train[is_good_N[:num_train]].reset_index(drop=True)
    if train.empty:
        raise UserError(
            f"{manifest.root}: none of the {num_train} training images can be read; fetch them"
            " again"
        )
    test = (
        None
        if manifest.test is None
        else manifest.test[is_good_N[num_train:]].reset_index(drop=True)
    )
    return dataclasses.replace(manifest, train=train, test=test)


def explore(manifest: Manifest, say: Say, *, deep: bool = True, merge: bool = False) -> Exploration:
    """Look at every image once and return what it gives away.

    `deep` also looks for one person under two names and for swapped labels, where groups have
    several images; `merge` makes groups that share an image one. Unreadable images are listed
    and left out; raises UserError where no other is left.
    """
    has_groups = bool(manifest.train["group"].duplicated().any())
    pictures = _all_pictures(manifest)
    num_train = len(manifest.train)
    results = _look_at_all(pictures, deep=deep and has_groups)
    is_good_N = np.array([not isinstance(result, BadImage) for result in results])
    manifest = _without(manifest, is_good_N)
    looks = [result for result in results if isinstance(result, _Look)]
    duplicates = duplicate_pairs(stacked([look.print for look in looks]))
    if merge:
        manifest = merge_groups(
            manifest, duplicates[(duplicates < len(manifest.train)).all(axis=1)], say
        )
    pictures = _all_pictures(manifest)
    train = manifest.train
    statistic_NS = np.stack([look.statistics for look in looks])
    findings = duplicate_findings(pictures, duplicates)
    found = None
    if deep and has_groups:
        sketched = np.array([row for row, look in enumerate(looks) if look.sketch is not None])
        place = {int(row): index for index, row in enumerate(sketched)}
        known = {(place[i], place[j]) for i, j in duplicates.tolist() if i in place and j in place}
        sketches = [look.sketch for look in looks if look.sketch is not None]
        found = lookalike_groups(sketches, train["group"].to_numpy()[sketched], known=known)
        findings += lookalike_findings(train, found, sketched)
        findings += swap_findings(
            manifest, np.stack([look.features for look in looks if look.features is not None])
        )
    is_test_N = (pictures["part"] == "test").to_numpy().astype(np.int64)
    enough = min(is_test_N.sum(), len(train)) >= LEAST_ROWS
    return Exploration(
        manifest=manifest,
        pictures=pictures,
        kept_N=is_good_N[:num_train],
        statistic_NS=statistic_NS,
        unreadable=tuple(
            str(result).partition("; ")[0] for result in results if isinstance(result, BadImage)
        ),
        findings=tuple(findings),
        adversarial=(
            tell_apart(statistic_NS, is_test_N, pictures["group"].to_numpy()) if enough else None
        ),
        deep=deep,
        lookalikes=found,
    )
