"""What people look at before they train: one look at every picture, and what it gives away."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from tqdm import tqdm

from folds.adversarial import LEAST_ROWS, Adversarial, tell_apart
from folds.duplicates import Print, duplicate_pairs, print_of, stacked
from folds.errors import BadImage, UserError, listed
from folds.images import Box, boxes_of, read_image
from folds.lookalikes import Lookalikes, Sketch, few_rows_of_groups, lookalike_groups, sketch_of
from folds.manifest import Manifest
from folds.statistics import STATISTICS, statistics_of
from folds.suspects import features_of, log_proba_of, swapped_pairs

__all__ = ["Exploration", "Finding", "explore"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that is probably wrong, and the pairs of pictures that show it."""

    title: str
    """What it is, in one line."""
    cure: str
    """What to do about it."""
    pairs: tuple[tuple[int, int], ...]
    """Rows of `Exploration.pictures`, two a line."""
    texts: tuple[str, ...]
    """What each pair is, in one line."""

    def lines(self, *, most: int = 10) -> list[str]:
        """Return the finding as text: the title, its pairs, the cure."""
        more = [f"  and {len(self.texts) - most} more"] if len(self.texts) > most else []
        return [
            f"{len(self.texts)} {self.title}:",
            *[f"  {text}" for text in self.texts[:most]],
            *more,
            f"  {self.cure}",
        ]


@dataclass(frozen=True, kw_only=True)
class Exploration:
    """Everything that was seen; the page and the terminal show it."""

    manifest: Manifest
    """Without the pictures that could not be read."""
    pictures: pd.DataFrame
    """Training rows, then test rows: image_id, path, perhaps box; group and label blank and -1 for the test set."""
    statistic_NS: np.ndarray
    """folds.statistics of each picture."""
    unreadable: tuple[str, ...]
    findings: tuple[Finding, ...]
    duplicates: np.ndarray
    """M x 2 training rows that show the same picture."""
    adversarial: Adversarial | None
    """None where there is no test set, or one too small to say."""
    lookalikes: Lookalikes | None
    """None where it was not asked for, or groups are single pictures."""

    def lines(self) -> list[str]:
        """Return all of it as text."""
        lines = (
            [f"could not read {len(self.unreadable)} pictures: {listed(self.unreadable)}"] if self.unreadable else []
        )
        for finding in self.findings:
            lines += finding.lines()
        return [*(lines or ["nothing looks wrong"]), *self.seen_lines(), *self.adversarial_lines()]

    def seen_lines(self) -> list[str]:
        """Return what the search for one person under two names was able to see."""
        found = self.lookalikes
        if found is None:
            return []
        return [
            f"groups that look like one: named from {found.least} shared features on; of {found.num_trials} groups cut "
            f"in two as a trial, {found.recall:.0%} would have been named"
        ]

    def adversarial_lines(self) -> list[str]:
        """Return whether training and test pictures can be told apart, and by what."""
        if self.adversarial is None:
            return ["train against test: no test set, or too few pictures to say"]
        result, sizes = self.adversarial, self.pictures["part"].value_counts()
        lines = [
            f"train against test, told apart by simple statistics: AUC {result.auc:.3f} ({sizes['train']:,} and "
            f"{sizes['test']:,} pictures); training pictures drawn by group: "
            f"{result.chance_D.min():.3f} to {result.chance_D.max():.3f} ({len(result.chance_D)} draws)"
        ]
        if not result.differs:
            return [*lines, "  so no difference shows"]
        for index in np.argsort(-result.lost_S)[:3]:
            alone = result.alone_S[index]
            lines.append(
                f"  by {STATISTICS[index]}: {'higher' if alone > 0.5 else 'lower'} in test (alone {alone:.3f}), "
                f"{result.lost_S[index]:.3f} of the AUC is lost without it"
            )
        return lines


@dataclass(frozen=True, slots=True)
class _Look:
    """What is kept of one picture."""

    print: Print
    statistics: np.ndarray
    features: np.ndarray | None
    sketch: Sketch | None


def _look(path: str, box: Box | None, want_features: bool, want_sketch: bool) -> _Look | BadImage:
    try:
        image = read_image(path, box)
    except BadImage as error:
        return error
    return _Look(
        print_of(image),
        statistics_of(image, Path(path).stat().st_size),
        features_of(image) if want_features else None,
        sketch_of(image) if want_sketch else None,
    )


def _all_pictures(manifest: Manifest) -> pd.DataFrame:
    train = manifest.train.assign(part="train")
    if manifest.test is None:
        return train
    test = manifest.test.assign(part="test", group="", label=-1)
    return pd.concat([train, test], ignore_index=True)


def _duplicate_findings(pictures: pd.DataFrame, pairs: np.ndarray) -> list[Finding]:
    """Return the findings on pairs of rows that show the same picture."""
    ids, group_N, label_N = (pictures[name].to_numpy() for name in ("image_id", "group", "label"))
    part_N = pictures["part"].to_numpy()
    i, j = pairs.T
    in_train = (part_N[i] == "train") & (part_N[j] == "train")
    kinds = (
        (
            in_train & (group_N[i] != group_N[j]),
            "pairs of pictures are the same under two groups, so they leak between folds",
            "Pass --merge-duplicates to make such groups one, or remove one picture of each pair.",
        ),
        (
            in_train & (label_N[i] != label_N[j]),
            "pairs of pictures are the same with two labels, of which one is wrong",
            "Remove one, or mend the label with --corrections.",
        ),
        (
            in_train & (group_N[i] == group_N[j]) & (label_N[i] == label_N[j]),
            "pairs of pictures of one group are the same, so they count twice",
            "Remove one of each pair, unless they are meant to count twice.",
        ),
        (
            part_N[i] != part_N[j],
            "pairs of a training and a test picture are the same, so the test score will flatter",
            "Take them out of the training set.",
        ),
    )
    return [
        Finding(
            title=title,
            cure=cure,
            pairs=tuple((int(one), int(other)) for one, other in pairs[chosen]),
            texts=tuple(f"{ids[one]} = {ids[other]}" for one, other in pairs[chosen]),
        )
        for chosen, title, cure in kinds
        if chosen.any()
    ]


def _lookalike_finding(train: pd.DataFrame, found: Lookalikes, rows: np.ndarray) -> list[Finding]:
    pairs = rows[found.pairs]
    if not len(pairs):
        return []
    group_N = train["group"].to_numpy()
    return [
        Finding(
            title="pairs of groups look like one person (patient, product) under two names",
            cure="If they are one, give them one name, or their folds leak. (Pictures of one place look alike, too.)",
            pairs=tuple((int(i), int(j)) for i, j in pairs),
            texts=tuple(
                f"{group_N[i]} ~ {group_N[j]} ({count} features shared)"
                for (i, j), count in zip(pairs, found.matches_M, strict=True)
            ),
        )
    ]


def _targets(manifest: Manifest) -> dict[str, tuple[np.ndarray, tuple[str, ...]]]:
    """Return {name: (value of each row, value names)} of what varies within groups: attributes, else the class."""
    label_N = manifest.train["label"].to_numpy()
    found = {one.name: (np.asarray(one.of_class)[label_N], one.values) for one in manifest.attributes}
    found = found or {"label": (label_N, manifest.classes)}
    group_N = manifest.train["group"].to_numpy()
    return {
        name: (value_N, values)
        for name, (value_N, values) in found.items()
        if (pd.Series(value_N).groupby(group_N).nunique() > 1).any()
    }


def _swap_findings(manifest: Manifest, feature_NF: np.ndarray) -> list[Finding]:
    train = manifest.train
    group_N, ids = train["group"].to_numpy(), train["image_id"].to_numpy()
    findings = []
    for name, (value_N, values) in _targets(manifest).items():
        pairs = swapped_pairs(log_proba_of(feature_NF, value_N, group_N), value_N, group_N)
        if len(pairs):
            stems = [[PurePosixPath(ids[row]).stem for row in pair] for pair in pairs]
            texts = [
                f"{group_N[i]}: {one} is labelled {values[value_N[i]]}, {other} {values[value_N[j]]}"
                f"  ({group_N[i]},swap,{one} {other})"
                for (i, j), (one, other) in zip(pairs, stems, strict=True)
            ]
            findings.append(
                Finding(
                    title=f"groups look as if two pictures had each other's {name}",
                    cure="Look at them; the line in brackets is what --corrections takes.",
                    pairs=tuple((int(i), int(j)) for i, j in pairs),
                    texts=tuple(texts),
                )
            )
    return findings


def _without(manifest: Manifest, is_good_N: np.ndarray) -> Manifest:
    """Return the manifest without some of its training, then test, rows."""
    num_train = len(manifest.train)
    train = manifest.train[is_good_N[:num_train]].reset_index(drop=True)
    if train.empty:
        raise UserError(f"{manifest.root}: none of the {num_train} training pictures can be read")
    test = None if manifest.test is None else manifest.test[is_good_N[num_train:]].reset_index(drop=True)
    return dataclasses.replace(manifest, train=train, test=test)


def _look_at_all(pictures: pd.DataFrame, *, deep: bool, has_groups: bool) -> list[_Look | BadImage]:
    is_train = (pictures["part"] == "train").to_numpy()
    is_sketched = np.zeros(len(pictures), bool)
    if deep and has_groups:
        is_sketched[few_rows_of_groups(pictures["group"].to_numpy()[is_train])] = True
    with ThreadPoolExecutor() as pool:  # cv2 and hashlib release the interpreter lock
        looks = pool.map(_look, pictures["path"], boxes_of(pictures), is_train & deep & has_groups, is_sketched)
        return list(tqdm(looks, total=len(pictures), desc="looking at pictures", unit="", disable=None))


def explore(manifest: Manifest, *, deep: bool = True) -> Exploration:
    """Look at every picture once and return what it gives away.

    `deep` also looks for one person under two names and for swapped labels, where groups have several
    pictures. Unreadable pictures are listed and left out; raises UserError where no other is left.
    """
    pictures = _all_pictures(manifest)
    has_groups = bool(manifest.train["group"].duplicated().any())
    results = _look_at_all(pictures, deep=deep, has_groups=has_groups)
    is_good_N = np.array([not isinstance(result, BadImage) for result in results])
    manifest, pictures = _without(manifest, is_good_N), pictures[is_good_N].reset_index(drop=True)
    looks = [result for result in results if isinstance(result, _Look)]
    train = manifest.train
    statistic_NS = np.stack([look.statistics for look in looks])
    duplicates = duplicate_pairs(stacked([look.print for look in looks]))
    findings = _duplicate_findings(pictures, duplicates)
    found = None
    if deep and has_groups:
        sketched = np.array([row for row, look in enumerate(looks) if look.sketch is not None])
        found = lookalike_groups([looks[row].sketch for row in sketched], train["group"].to_numpy()[sketched])
        findings += _lookalike_finding(train, found, sketched)
        features = np.stack([look.features for look in looks if look.features is not None])
        findings += _swap_findings(manifest, features)
    is_test_N = (pictures["part"] == "test").to_numpy().astype(np.int64)
    adversarial = None
    if min(is_test_N.sum(), len(train)) >= LEAST_ROWS:
        adversarial = tell_apart(statistic_NS, is_test_N, pictures["group"].to_numpy())
    return Exploration(
        manifest=manifest,
        pictures=pictures,
        statistic_NS=statistic_NS,
        unreadable=tuple(str(result) for result in results if isinstance(result, BadImage)),
        findings=tuple(findings),
        duplicates=duplicates[(duplicates < len(train)).all(axis=1)],
        adversarial=adversarial,
        lookalikes=found,
    )
