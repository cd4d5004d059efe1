"""Predictions of groups from those of their images, collected block by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd

from foldblend.scores.by_group import MEAN, TINY, by_group
from foldblend.scores.metrics import softmax
from foldblend.scores.rows import Rows
from pipeline.predict.answers import Answers

__all__ = ["GroupSums", "Groups", "PooledGroups", "groups_of_run"]


class Groups(Protocol):
    """Images with their groups, and the table of what is predicted of the groups."""

    def add(self, groups: Sequence[str], logits_NC: np.ndarray, plain_NC: np.ndarray) -> None:
        """Add images with their groups: logits with and without offsets per class."""
        ...

    def table(self, answers: Answers) -> pd.DataFrame | None:
        """Return one row per group, or None without groups."""
        ...


class GroupSums:
    """Groups whose images' logits are averaged; only their sums are kept."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[np.ndarray, np.ndarray, int]] = {}

    def add(self, groups: Sequence[str], logits_NC: np.ndarray, plain_NC: np.ndarray) -> None:
        """Add images with their groups."""
        names, code_N = np.unique(np.asarray(groups, dtype=object), return_inverse=True)
        logits_GC, plain_GC = np.zeros((2, len(names), logits_NC.shape[1]))
        np.add.at(logits_GC, code_N, logits_NC)
        np.add.at(plain_GC, code_N, plain_NC)
        nothing = (0.0, 0.0, 0)
        for name, *sums in zip(names, logits_GC, plain_GC, np.bincount(code_N), strict=True):
            before = self.found.get(name, nothing)
            logits_C, plain_C, num = (old + new for old, new in zip(before, sums, strict=True))
            self.found[name] = (logits_C, plain_C, int(num))

    def table(self, answers: Answers) -> pd.DataFrame | None:
        """Return one row per group, by the mean logits of its images; None without groups."""
        if not self.found:
            return None
        num_G = np.array([num for _, _, num in self.found.values()])
        logits_GC, plain_GC = (
            np.stack([one[place] for one in self.found.values()]) / num_G[:, None]
            for place in (0, 1)
        )
        return _table(answers, [*self.found], num_G, logits_GC, plain_GC)


class PooledGroups:
    """Groups whose images are pooled in another way, which needs all images at once."""

    def __init__(self, pool: str) -> None:
        self.pool = pool
        self.names: list[str] = []
        self.logits: list[np.ndarray] = []
        self.plain: list[np.ndarray] = []

    def add(self, groups: Sequence[str], logits_NC: np.ndarray, plain_NC: np.ndarray) -> None:
        """Add images with their groups."""
        self.names += groups
        self.logits.append(logits_NC)
        self.plain.append(plain_NC)

    def table(self, answers: Answers) -> pd.DataFrame | None:
        """Return one row per group, by the pooled probabilities of its images."""
        if not self.names:
            return None
        unknown_N = np.zeros(len(self.names), np.int64)
        rows = Rows.of(unknown_N, np.asarray(self.names, dtype=object))
        groups, decided_GC = by_group(rows, softmax(np.concatenate(self.logits)), self.pool)
        calibrated_NC = answers.calibration.proba(np.concatenate(self.plain))
        proba_GC = by_group(rows, calibrated_NC, self.pool)[1]
        num_G = np.unique(rows.group_N, return_counts=True)[1]
        # Answers divide by the temperature, with which these probabilities were made already.
        plain_GC = answers.calibration.temperature * np.log(np.maximum(proba_GC, TINY))
        logits_GC = np.log(np.maximum(decided_GC, TINY))
        return _table(answers, groups.group_N.tolist(), num_G, logits_GC, plain_GC)


def _table(
    answers: Answers,
    names: Sequence[str],
    num_G: np.ndarray,
    logits_GC: np.ndarray,
    plain_GC: np.ndarray,
) -> pd.DataFrame:
    table = answers.table(names, logits_GC, plain_GC).rename(columns={"image_id": "group"})
    table.insert(1, "images", num_G)
    return table


def groups_of_run(info: Mapping[str, Any]) -> Groups:
    """Return what collects groups as a run pools them, by its run.json."""
    pool = info.get("group_pool", MEAN)
    return GroupSums() if pool == MEAN else PooledGroups(pool)
