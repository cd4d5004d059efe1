"""Labels that out-of-fold predictions contradict, as lines for a file of corrections.

cleanlab, an optional extra, decides (see reports.run.confident); groups add what it cannot know.
What all images of a group share, such as a person's gender, is judged once a group, and nearly
all of its images must disagree. Two images of one group that have each other's label are judged
as a pair. And as a label has no part in its own out-of-fold prediction, it can be measured how many
wrong labels would be named: where that is not many times the share that is named, nothing is.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from foldblend.attributes import Attribute
from foldblend.scores.metrics import METRICS
from foldblend.scores.rows import Rows
from foldblend.scores.score import score_of
from reports.run.confident import (
    NEARLY_ALL,
    Judged,
    extreme_pairs,
    judge_pairs,
    judge_units,
    sums_by_code,
)

__all__ = ["find_suspects"]

LEAST_PROBA = 1e-6  # keeps one image from outvoting all the others of its group
LABEL = "label"
SWAP = "swap"


@dataclass(frozen=True)
class _Pictures:
    """Each image once, in the order of its name; groups as codes, probabilities averaged over
    repeats.
    """

    image_id: np.ndarray
    group: np.ndarray
    group_names: np.ndarray
    label: np.ndarray
    proba: np.ndarray
    of_row: np.ndarray
    ids: frozenset[str]

    def named(self, rows: np.ndarray) -> list[str]:
        return [str(name) for name in self.image_id[rows]]


@dataclass(frozen=True)
class _Field:
    """What is judged and a correction can set: an attribute, or the class itself."""

    name: str
    values: Sequence[str]
    of_class: np.ndarray


def _pictures(
    label_N: np.ndarray, proba_NC: np.ndarray, group_N: np.ndarray, image_id_N: np.ndarray
) -> _Pictures:
    image_id, first, of_row = np.unique(image_id_N, return_index=True, return_inverse=True)
    group_names, group = np.unique(group_N[first], return_inverse=True)
    proba = sums_by_code(proba_NC, of_row) / np.bincount(of_row)[:, None]
    return _Pictures(
        image_id, group, group_names, label_N[first], proba, of_row, frozenset(image_id)
    )


def _fields(classes: Sequence[str], attributes: Sequence[Attribute]) -> list[_Field]:
    """Return the attributes where each combination of their values is one class, else the class
    itself.
    """
    codes = set(zip(*[one.of_class for one in attributes], strict=True))
    if attributes and len(codes) == len(classes) == np.prod(
        [len(one.values) for one in attributes]
    ):
        return [_Field(one.name, one.values, np.asarray(one.of_class)) for one in attributes]
    return [_Field(LABEL, classes, np.arange(len(classes)))]


def _is_shared(value_P: np.ndarray, group_P: np.ndarray) -> bool:
    """Return whether the images of a group share one value: nearly all groups that have it have
    no other.

    That share is averaged over values, so that one which most groups have alone by chance does not
    decide.
    """
    several = np.bincount(group_P)[group_P] > 1
    if not several.any():
        return False
    group_M, value_M = np.unique(np.stack([group_P[several], value_P[several]]), axis=1)
    num_V = np.bincount(value_M)
    alone_V = np.bincount(value_M, np.bincount(group_M)[group_M] == 1)
    return bool((alone_V[num_V > 0] / num_V[num_V > 0]).mean() >= NEARLY_ALL)


def _units(pictures: _Pictures, value_P: np.ndarray) -> np.ndarray:
    """Return the number of each image's unit: its group where that shares one value, else the
    image itself.
    """
    each = np.arange(len(value_P))
    if not _is_shared(value_P, pictures.group):
        return each
    group_M, _ = np.unique(np.stack([pictures.group, value_P]), axis=1)
    whole_G = (np.bincount(group_M) == 1) & (np.bincount(pictures.group) > 1)
    # Of an image's name, the reader of corrections would take the image.
    whole_G &= np.array([name not in pictures.ids for name in pictures.group_names])
    unit_P = np.where(whole_G[pictures.group], pictures.group, len(whole_G) + each)
    return np.unique(unit_P, return_inverse=True)[1]


def _note(what: str, wrong: str, judged: Judged) -> str:
    """Return what could be seen at all, as a sentence."""
    named = f"{int(judged.named.sum()):,} of {len(judged.named):,}"
    power = f"{judged.would.mean():.0%}"
    if judged.is_credible:
        note = f"{what}: had {wrong}, {power} would have been named; {named} are."
        if judged.named.any():
            note += (
                f" If one in a hundred is wrong, expect {judged.would.sum() / 100:.1f} of these"
                " to be."
            )
        return note
    return (
        f"{what}: left out. {named} would be named, but had {wrong}, only {power} would be. Labels"
        " are rarely wrong more often than one in ten, so most of these would be the model's own"
        " mistakes."
    )


class _Search:
    """The search of one data set: findings, notes and corrected values gather field by field."""

    def __init__(self, pictures: _Pictures, fields: Sequence[_Field]) -> None:
        self.pictures = pictures
        self.fields = fields
        self.code_PF = np.stack([field.of_class[pictures.label] for field in fields], axis=1)
        self.corrected_PF = self.code_PF.copy()
        self.findings: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self.swapped_P = np.zeros(
            len(pictures.label), bool
        )  # in any field: an image can be in one swap
        self.stems = [
            PurePosixPath(name).stem for name in pictures.named(np.arange(len(pictures.label)))
        ]
        self.num_stems = Counter(zip(pictures.group.tolist(), self.stems, strict=True))

    def run(self) -> None:
        """Judge every field."""
        for number, field in enumerate(self.fields):
            present, value_P = np.unique(self.code_PF[:, number], return_inverse=True)
            if len(present) < 2:
                self.notes.append(
                    f"{field.name}: only {field.values[present[0]]} occurs, so nothing can be told."
                )
                continue
            value_CV = field.of_class[:, None] == present
            proba_PV = np.maximum(self.pictures.proba @ value_CV, LEAST_PROBA)
            proba_PV /= proba_PV.sum(axis=1, keepdims=True)
            unit_P = _units(self.pictures, value_P)
            is_shared = unit_P.max() + 1 < len(unit_P)
            if not is_shared:
                self._judge_pairs(number, present, value_P, proba_PV)
            judged = judge_units(value_P, proba_PV, unit_P)
            if not is_shared:  # what a swap explains is said
                judged = Judged(judged.best, judged.named & ~self.swapped_P, judged.would)
            self.notes.append(
                _note(
                    f"{field.name}, by {'group' if is_shared else 'picture'}",
                    "one been wrong",
                    judged,
                )
            )
            for unit in np.flatnonzero(judged.named & judged.is_credible):
                rows = np.flatnonzero(unit_P == unit)
                best = judged.best[unit]
                given = value_P[rows[0]]
                agree = int((proba_PV[rows].argmax(axis=1) == best).sum())
                self._add(number, rows, present[given], present[best], proba_PV[rows, given], agree)

    def _judge_pairs(
        self, number: int, present: np.ndarray, value_P: np.ndarray, proba_PV: np.ndarray
    ) -> None:
        """Judge pairs of images of one group that differ in this field alone."""
        others = np.delete(self.code_PF, number, axis=1)
        within_P = np.unique(
            np.column_stack([self.pictures.group, others]), axis=0, return_inverse=True
        )[1].ravel()
        pair_M2, gain_M = extreme_pairs(value_P, proba_PV, within_P)
        if not len(pair_M2):
            return
        judged = judge_pairs(gain_M)
        what = f"{self.fields[number].name}, by pairs of a group's images"
        self.notes.append(_note(what, "their labels been exchanged", judged))
        order = np.argsort(-gain_M, kind="stable")
        named_M2 = np.sort(pair_M2[order[judged.named[order]]], axis=1)  # in the order of names
        for pair in named_M2 if judged.is_credible else ():
            if not self.swapped_P[pair].any():
                self.swapped_P[pair] = True
                self._add_swap(number, pair, present[value_P[pair]], proba_PV[pair, value_P[pair]])

    def _add(
        self,
        number: int,
        rows: np.ndarray,
        given: int,
        best: int,
        proba_R: np.ndarray,
        num_agree: int = 1,
    ) -> None:
        """Add the finding that a group's images, or one image, should have another value."""
        field = self.fields[number]
        group = self.pictures.group[rows[0]]
        several = len(rows) > 1
        was = field.values[given]
        now = field.values[best]
        target = str(
            self.pictures.group_names[group] if several else self.pictures.image_id[rows[0]]
        )
        says = f"{num_agree} of {len(rows)} images say {now}" if several else f"looks {now}"
        self.findings.append(
            {
                "kind": "group" if several else "picture",
                "target": target,
                "field": field.name,
                "value": now,
                "given": was,
                "suggested": now,
                "proba": float(proba_R.mean()),
                "image_ids": self.pictures.named(rows),
                "text": f"{target}: {field.name} {was}, {says}",
            }
        )
        self.corrected_PF[rows, number] = best

    def _add_swap(
        self, number: int, pair: np.ndarray, given_2: np.ndarray, proba_2: np.ndarray
    ) -> None:
        """Add the finding that two images have each other's label, as two lines where one cannot
        be written.
        """
        field = self.fields[number]
        group = self.pictures.group[pair[0]]
        target = str(self.pictures.group_names[group])
        stems = [self.stems[row] for row in pair]
        is_plain = [stem.split() == [stem] and self.num_stems[group, stem] == 1 for stem in stems]
        if not all(is_plain) or target in self.pictures.ids:
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
                "image_ids": self.pictures.named(pair),
                "text": (
                    f"{target}: {' and '.join(stems)} ({field.name} {was}) have each other's label"
                ),
            }
        )
        self.corrected_PF[pair, number] = given_2[::-1]

    def corrected_labels(self) -> np.ndarray:
        """Return the images' classes with all findings applied."""
        class_of = np.zeros([len(field.values) for field in self.fields], np.int64)
        class_of[tuple(field.of_class for field in self.fields)] = np.arange(
            len(self.fields[0].of_class)
        )
        return np.asarray(class_of[tuple(self.corrected_PF.T)])


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _summary(findings: Sequence[dict[str, Any]], pictures: _Pictures) -> str:
    kinds = Counter(one["kind"] for one in findings)
    nouns = {"group": "group", SWAP: "swapped pair"}
    parts = [
        _counted(kinds[kind], nouns.get(kind, kind))
        for kind in ("group", SWAP, "picture")
        if kinds[kind]
    ]
    among = _counted(len(pictures.image_id), "image")
    if len(pictures.group_names) < len(pictures.image_id):
        among = f"{_counted(len(pictures.group_names), 'group')} (people) with {among}"
    return f"{', '.join(parts) or 'none'} among {among}"


def _warning(title: str, given: dict[str, float | None], corrected: dict[str, float | None]) -> str:
    """Return why the score on corrected labels is not to be believed, with both scores."""
    texts = []
    for score in (given, corrected):
        value, low, high = ("-" if one is None else f"{one:.4f}" for one in score.values())
        texts.append(f"{value} [{low}, {high}]")
    return (
        f"OOF {title} is {texts[0]} on the labels as given and would be {texts[1]} with all of"
        " these applied. The second flatters: this model chose those labels. Look at the images,"
        " keep those lines of suspects.csv that you believe, pass it as --corrections, and compare"
        " models on the labels as given too."
    )


def find_suspects(
    rows: Rows,
    proba_NC: np.ndarray,
    *,
    image_id_N: np.ndarray,
    classes: Sequence[str],
    attributes: Sequence[Attribute],
    metric: str,
) -> dict[str, Any]:
    """Return findings about labels as plain data, or {"skipped": why} where cleanlab is not
    installed.

    Probabilities are out of fold, N x C; an image has a row a repeat. A finding has the columns of
    a line of corrections (target, field, value), the images concerned, and the mean probability
    of the label as given; the surest come first. "given" and "corrected" score the same predictions
    on the labels as given and with all findings applied, which flatters.
    """
    try:
        import cleanlab  # noqa: F401
    except ImportError:
        return {"skipped": "not looked for, as cleanlab is not installed; pip install cleanlab"}
    pictures = _pictures(rows.label_N, proba_NC, rows.group_N, image_id_N)
    search = _Search(pictures, _fields(classes, attributes))
    search.run()

    def score(labels_N: np.ndarray) -> dict[str, float | None]:
        relabelled = dataclasses.replace(rows, label_N=labels_N)
        return score_of(METRICS[metric], relabelled, proba_NC).interval().as_dict()

    given = score(rows.label_N)
    notes = search.notes
    corrected = score(search.corrected_labels()[pictures.of_row]) if search.findings else given
    if search.findings:
        notes = [_warning(METRICS[metric].title, given, corrected), *notes]
    return {
        "summary": _summary(search.findings, pictures),
        "findings": sorted(search.findings, key=lambda one: one["proba"]),
        "notes": notes,
        "given": given,
        "corrected": corrected,
    }
