"""Labels that out-of-fold predictions contradict, as lines of a file for --corrections.

Confident learning decides which labels look wrong (see reports.run.confident). It does not consider
groups, so two things are added. A property that all images of a group share, such as a person's
gender, is judged once per group, and nearly all images must disagree. Two images of a group with
each other's label are judged as a pair.

An out-of-fold prediction does not depend on the label of its image, so the share of wrong labels
that would be found can be measured. Where it is not many times the share that is reported, nothing
is reported.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from foldblend.attributes import Attribute
from foldblend.blocks import in_blocks
from foldblend.errors import counted
from foldblend.runs.ids import codes_of, is_increasing
from foldblend.scores.metrics import Metric, as_metric
from foldblend.scores.rows import Rows
from foldblend.scores.score import score_interval
from reports.run.confident import (
    NEARLY_ALL,
    Judged,
    RowsByCode,
    extreme_pairs,
    judge_pairs,
    judge_units,
    sums_by_code,
)

__all__ = ["find_suspects"]

# A limit, so that one image cannot outvote all others of its group.
LEAST_PROBA = 1e-6
# The share of wrong labels for which a note estimates how many findings are real.
SUPPOSED_WRONG = 0.01
LABEL = "label"
SWAP = "swap"


@dataclass(frozen=True)
class _Images:
    """Images once each, sorted by name, with group codes and mean probabilities over repeats."""

    image_id: pd.Series
    group: np.ndarray
    group_names: np.ndarray
    label: np.ndarray
    proba: np.ndarray
    of_row: np.ndarray
    group_name: str = "group"

    def names_of(self, rows: np.ndarray) -> list[str]:
        return [str(name) for name in self.image_id.iloc[rows]]

    @functools.cached_property
    def are_images(self) -> np.ndarray:
        """Return whether the name of each group is also that of an image, G."""
        both = self.image_id[self.image_id.isin(self.group_names)]
        return np.asarray(pd.Series(self.group_names).isin(both))


@dataclass(frozen=True)
class _Field:
    """An attribute, or the class itself, that is judged and that a correction can change."""

    name: str
    values: Sequence[str]
    of_class: np.ndarray


def _images_of(
    label_N: np.ndarray, proba_NC: np.ndarray, groups: pd.Series, image_ids: pd.Series
) -> _Images:
    if is_increasing(image_ids):
        # There is one repeat, and nothing to average.
        every = np.arange(len(image_ids))
        return _Images(image_ids, *codes_of(groups), label_N, proba_NC, every)
    of_row, names = codes_of(image_ids)
    first = np.unique(of_row, return_index=True)[1]
    # Repeats of an image are averaged, so that each image is judged once.
    proba = sums_by_code(proba_NC, of_row) / np.bincount(of_row)[:, None]
    group, group_names = codes_of(groups.iloc[first])
    return _Images(pd.Series(names), group, group_names, label_N[first], proba, of_row)


def _fields(classes: Sequence[str], attributes: Sequence[Attribute]) -> list[_Field]:
    """Return the attributes if each combination of values is one class, else the class itself."""
    codes = set(zip(*[one.of_class for one in attributes], strict=True))
    if attributes and len(codes) == len(classes) == np.prod(
        [len(one.values) for one in attributes]
    ):
        return [_Field(one.name, one.values, np.asarray(one.of_class)) for one in attributes]
    return [_Field(LABEL, classes, np.arange(len(classes)))]


def _proba_of(value_CE: np.ndarray, proba_NC: np.ndarray) -> np.ndarray:
    """Return the probabilities of values, each of which has some classes."""
    # In one order of the axes, on which the last bits of a product depend.
    proba_NE = np.maximum(np.ascontiguousarray(proba_NC) @ value_CE, LEAST_PROBA)
    proba_NE /= proba_NE.sum(axis=1, keepdims=True)
    return proba_NE


def _is_shared(value_N: np.ndarray, group_N: np.ndarray) -> bool:
    """Return whether nearly all groups have a single value.

    The share is averaged over values, so that a value which most groups have by chance does not
    decide.
    """
    several = np.bincount(group_N)[group_N] > 1
    if not several.any():
        return False
    num_values = value_N.max() + 1
    # One number for each pair is sorted much faster than pairs.
    pairs = np.unique(group_N[several] * num_values + value_N[several])
    group_U, value_U = np.divmod(pairs, num_values)
    num_E = np.bincount(value_U)
    single_E = np.bincount(value_U, np.bincount(group_U)[group_U] == 1)
    return bool((single_E[num_E > 0] / num_E[num_E > 0]).mean() >= NEARLY_ALL)


def _units(images: _Images, value_N: np.ndarray) -> np.ndarray:
    """Return the unit of each image: its group if that has a single value, else the image."""
    each = np.arange(len(value_N))
    if not _is_shared(value_N, images.group):
        return each
    num_values = value_N.max() + 1
    group_U = np.unique(images.group * num_values + value_N) // num_values
    whole_G = (np.bincount(group_U) == 1) & (np.bincount(images.group) > 1)
    # A correction whose target is also the name of an image would change that image.
    whole_G &= ~images.are_images
    unit_N = np.where(whole_G[images.group], images.group, len(whole_G) + each)
    return np.unique(unit_N, return_inverse=True)[1]


def _note(what: str, noun: str, judged: Judged) -> str:
    """Return how many labels look wrong, and how many wrong labels the check would find."""
    num = int(judged.flagged.sum())
    found = f"{num:,} of {len(judged.flagged):,} {noun} look wrong"
    power = f"{judged.detectable.mean():.0%}"
    if not judged.is_credible:
        return (
            f"{what}: not reported, because this model is too weak to judge them. {found}, but it"
            f" would find only {power} of wrong ones, so most of these would be its own mistakes."
        )
    note = f"{what}: {found}. This check finds about {power} of wrong ones"
    if not num:
        return f"{note}."
    expected = SUPPOSED_WRONG * judged.detectable.sum()
    if expected < NEARLY_ALL * num:
        return (
            f"{note}; if 1 % of the labels are wrong, about {expected:.1f} of these {num:,} are"
            " real."
        )
    # No more labels can be real than look wrong, which bounds the share of wrong labels as well.
    share = min(SUPPOSED_WRONG, num / judged.detectable.sum())
    real = f"nearly all of these {num:,} are" if num > 1 else "this one is probably"
    return f"{note}; if {100 * share:.2g} % of the labels are wrong, {real} real."


class _Search:
    """Search a data set field by field and collect findings, notes and corrected values."""

    def __init__(self, images: _Images, fields: Sequence[_Field]) -> None:
        self.images = images
        self.fields = fields
        self.code_NA = np.stack([field.of_class[images.label] for field in fields], axis=1)
        self.corrected_NA = self.code_NA.copy()
        self.rows_of_group = RowsByCode(images.group)
        self.findings: list[dict[str, Any]] = []
        self.notes: list[str] = []
        # Over all fields, because an image can be in one swap only.
        self.swapped_N = np.zeros(len(images.label), bool)

    def run(self) -> None:
        """Judge every field."""
        for number, field in enumerate(self.fields):
            present, value_N = np.unique(self.code_NA[:, number], return_inverse=True)
            # Confident learning compares a value with the other values that occur.
            if len(present) < 2:
                only = field.values[present[0]]
                self.notes.append(f"{field.name}: only {only} occurs, so it cannot be checked.")
                continue
            value_CE = field.of_class[:, None] == present
            proba_NE = in_blocks(functools.partial(_proba_of, value_CE), self.images.proba)
            unit_N = _units(self.images, value_N)
            is_shared = unit_N.max() + 1 < len(unit_N)
            if not is_shared:
                self._judge_pairs(number, present, value_N, proba_NE)
            judged = judge_units(value_N, proba_NE, unit_N)
            if not is_shared:
                # A swap explains the labels of its two images, so they are not reported again.
                flagged = judged.flagged & ~self.swapped_N
                judged = Judged(judged.best, flagged, judged.detectable)
            self.notes.append(
                _note(
                    f"{field.name} (per {self.images.group_name if is_shared else 'image'})",
                    "labels",
                    judged,
                )
            )
            rows_of_unit = RowsByCode(unit_N)
            for unit in np.flatnonzero(judged.flagged & judged.is_credible).tolist():
                rows = rows_of_unit[unit]
                best = judged.best[unit]
                given = value_N[rows[0]]
                agree = int((proba_NE[rows].argmax(axis=1) == best).sum())
                self._add(number, rows, present[given], present[best], proba_NE[rows, given], agree)

    def _judge_pairs(
        self, number: int, present: np.ndarray, value_N: np.ndarray, proba_NE: np.ndarray
    ) -> None:
        """Judge pairs of images of a group that differ only in this field."""
        within_N = self.images.group
        for code_N in np.delete(self.code_NA, number, axis=1).T:
            within_N = within_N * (code_N.max() + 1) + code_N
        within_N = np.unique(within_N, return_inverse=True)[1]
        pair_U2, gain_U = extreme_pairs(value_N, proba_NE, within_N)
        if not len(pair_U2):
            return
        judged = judge_pairs(gain_U)
        what = f"{self.fields[number].name} (pairs of images of one {self.images.group_name})"
        self.notes.append(_note(what, "exchanged labels", judged))
        order = np.argsort(-gain_U, kind="stable")
        # Rows are sorted by name, so sorting a pair puts its images in the order of names.
        flagged_U2 = np.sort(pair_U2[order[judged.flagged[order]]], axis=1)
        for pair in flagged_U2 if judged.is_credible else ():
            if not self.swapped_N[pair].any():
                self.swapped_N[pair] = True
                self._add_swap(number, pair, present[value_N[pair]], proba_NE[pair, value_N[pair]])

    def _add(
        self,
        number: int,
        rows: np.ndarray,
        given: int,
        best: int,
        proba_N: np.ndarray,
        num_agree: int = 1,
    ) -> None:
        """Add the finding that a group or an image should have another value."""
        field = self.fields[number]
        group = self.images.group[rows[0]]
        several = len(rows) > 1
        was = field.values[given]
        now = field.values[best]
        target = str(
            self.images.group_names[group] if several else self.images.image_id.iloc[rows[0]]
        )
        looks = f"{num_agree} of {len(rows)} images look {now}" if several else f"looks {now}"
        self.findings.append(
            {
                "kind": "group" if several else "picture",
                "target": target,
                "field": field.name,
                "value": now,
                "given": was,
                "suggested": now,
                "proba": float(proba_N.mean()),
                "image_ids": self.images.names_of(rows),
                "text": f"{target}: {field.name} {was}, {looks}",
            }
        )
        self.corrected_NA[rows, number] = best

    def _add_swap(
        self, number: int, pair: np.ndarray, given_2: np.ndarray, proba_2: np.ndarray
    ) -> None:
        """Add the finding that two images have each other's label.

        Two lines are written where one line could not name both images.
        """
        field = self.fields[number]
        group = int(self.images.group[pair[0]])
        target = str(self.images.group_names[group])
        stems = self._stems(pair)
        num = Counter(self._stems(self.rows_of_group[group]))
        # A line for a swap has two stems of files, separated by a blank.
        is_unique = [stem.split() == [stem] and num[stem] == 1 for stem in stems]
        if not all(is_unique) or self.images.are_images[group]:
            for row, given, best, proba in zip(pair, given_2, given_2[::-1], proba_2, strict=True):
                self._add(number, np.array([row]), given, best, np.array([proba]))
            return
        was, now = (
            " and ".join(field.values[value] for value in order)
            for order in (given_2, given_2[::-1])
        )
        self.findings.append(
            {
                "kind": SWAP,
                "target": target,
                "field": SWAP,
                "value": " ".join(stems),
                "given": was,
                "suggested": now,
                "proba": float(proba_2.mean()),
                "image_ids": self.images.names_of(pair),
                "text": (
                    f"{target}: {' and '.join(stems)} ({field.name} {was}) have each other's label"
                ),
            }
        )
        self.corrected_NA[pair, number] = given_2[::-1]

    def _stems(self, rows: np.ndarray) -> list[str]:
        return [PurePosixPath(name).stem for name in self.images.names_of(rows)]

    def corrected_labels(self) -> np.ndarray:
        """Return the class of each image after all findings are applied."""
        class_of = np.zeros([len(field.values) for field in self.fields], np.int64)
        class_of[tuple(field.of_class for field in self.fields)] = np.arange(
            len(self.fields[0].of_class)
        )
        return np.asarray(class_of[tuple(self.corrected_NA.T)])


def _summary(findings: Sequence[dict[str, Any]], images: _Images) -> str:
    kinds = Counter(one["kind"] for one in findings)
    nouns = {"group": images.group_name, SWAP: "swapped pair", "picture": "image"}
    parts = [
        counted(kinds[kind], nouns[kind]) for kind in ("group", SWAP, "picture") if kinds[kind]
    ]
    among = counted(len(images.image_id), "image")
    if len(images.group_names) < len(images.image_id):
        among = f"{counted(len(images.group_names), images.group_name)} with {among}"
    return f"{', '.join(parts) or 'none'} among {among}"


def _warning(title: str, given: dict[str, float | None], corrected: dict[str, float | None]) -> str:
    """Return both scores, and why the one on corrected labels is optimistic."""
    texts = []
    for score in (given, corrected):
        value, low, high = ("-" if one is None else f"{one:.4f}" for one in score.values())
        texts.append(f"{value} [{low}, {high}]")
    return (
        f"OOF {title} is {texts[0]} on the labels of this run and would be {texts[1]} with all of"
        " these changes. The second score is optimistic, because this model chose those labels."
        " Look at the images, keep the lines of suspects.csv that you believe, pass the file as"
        " --corrections, and compare models on the original labels too."
    )


def find_suspects(
    rows: Rows,
    proba_NC: np.ndarray,
    *,
    groups: pd.Series,
    image_ids: pd.Series,
    classes: Sequence[str],
    attributes: Sequence[Attribute],
    metric: str | Metric,
) -> dict[str, Any]:
    """Return suspected labels as plain data.

    Parameters
    ----------
    rows
        Labels, groups, repeats and folds of N out-of-fold rows.
    proba_NC
        Out-of-fold probabilities.
    groups
        Names of the groups, of which `rows` may have the numbers.
    image_ids
        Names of the images, each once per repeat.
    classes, attributes
        Names of the C classes, and the properties that they imply.
    metric
        The score of "given" and "corrected", or its name. It is taken by image, since a label that
        changes may be that of some images of a group only.

    Returns
    -------
    dict
        "findings" are the most suspicious labels first; each has the columns of a line of
        corrections (target, field, value), the names of its images, and the mean probability of
        the given label. "given" and "corrected" are the scores of the same predictions on the
        labels of the run and with all findings applied; the second one is optimistic.

    References
    ----------
    Northcutt, Jiang and Chuang 2021, "Confident learning".
    """
    images = dataclasses.replace(
        _images_of(rows.label_N, proba_NC, groups, image_ids), group_name=rows.group_name
    )
    search = _Search(images, _fields(classes, attributes))
    search.run()

    by_image = as_metric(metric).by_image

    def score(labels_N: np.ndarray) -> dict[str, float | None]:
        relabelled = dataclasses.replace(rows, label_N=labels_N)
        return score_interval(by_image, relabelled, proba_NC).as_dict()

    given = score(rows.label_N)
    notes = search.notes
    corrected = score(search.corrected_labels()[images.of_row]) if search.findings else given
    if search.findings:
        notes = [_warning(by_image.title, given, corrected), *notes]
    return {
        "summary": _summary(search.findings, images),
        "findings": sorted(search.findings, key=lambda one: one["proba"]),
        "notes": notes,
        "given": given,
        "corrected": corrected,
    }
