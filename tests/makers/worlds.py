"""Simulated data sets ("worlds") whose true scores are known, in families that differ in one thing.

A world has 3 to 12 imbalanced classes, 40 to 300 groups with 3 to 9 images each, and 3 to 8 models.
Models differ in how well they see the classes, in sharpness and in bias, and some are nearly blind
to some classes. Errors on an image are partly shared by all models, and partly by all images of a
group. Each family but the first changes one part of this towards real data; FAMILIES says which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.methods.base import Evidence
from foldblend.scores.rows import Rows
from folds.split import assign_folds
from tests.makers.rows import folded

__all__ = ["FAMILIES", "NUM_FOLDS", "Fresh", "World"]

NUM_FOLDS = 5
FAMILIES = {
    "plain": "as described above",
    "uneven": "sharpness and blind classes of varying strength",
    "averaged": "out-of-fold rows of one model each, test rows of five, so that averaging helps",
    "noisy": "0 to 3 % of the labels are wrong",
    "unequal": "groups of unequal size",
    "shifted": "new groups come from a slightly shifted distribution",
    "copies": "most members are near copies of a few",
    "mixed": "all of these at once",
}


@dataclass(frozen=True, slots=True)
class Fresh:
    """New groups with the logits of the models of each fold."""

    logits_KM: Sequence[Sequence[np.ndarray]]
    """For each fold's models the logits N x C of every member."""
    rows: Rows


class World:
    """Simulated data set of a family and a seed; its groups are drawn by `evidence` and `fresh`."""

    def __init__(self, seed: int, family: str = "plain", *, one_label: bool = False) -> None:
        assert family in FAMILIES, family
        # Whether all images of a group have one label, which most of them have otherwise.
        self.one_label = one_label
        rng = np.random.default_rng(seed)
        self.seed = seed
        self.family = family
        self.num_classes = int(rng.integers(3, 13))
        self.num_groups = int(rng.integers(40, 301))
        self.num_images = int(rng.integers(3, 10))
        share_C = np.exp(rng.normal(size=self.num_classes) * rng.uniform(0.2, 1.2))
        self.share_C = share_C / share_C.sum()
        self.of_group = rng.uniform(0.2, 1.2)
        self.shared = rng.uniform(0.2, 1.0)
        self.own = rng.uniform(0.4, 1.4)
        num_models = int(rng.integers(3, 9))
        num = self.num_classes
        base = rng.uniform(1.5, 4.0)
        blind_MC = np.where(rng.random((num_models, num)) < 0.1, 0.3, 1.0)
        self.signal_MC = base * rng.uniform(0.7, 1.1, size=(num_models, 1)) * blind_MC
        self.bias_MC = rng.normal(size=(num_models, num)) * rng.uniform(0, 0.8)
        self.sharpness_M = np.exp(rng.normal(size=num_models) * 0.5)
        # What families add is drawn from a generator of its own, so that the first family has the
        # data that benchmarks/honesty.py has had from the beginning.
        more = np.random.default_rng((seed, 7))
        self.copy_of_M = np.arange(num_models)
        self.apart = 1.0
        self.of_fold = 0.0
        self.wrong = 0.0
        self.spread_of_sizes = 0.0
        self.shift = 0.0
        if self._has("uneven"):
            self.sharpness_M = np.exp(more.normal(size=num_models) * more.uniform(0.2, 1.2))
            is_blind_MC = more.random((num_models, num)) < more.uniform(0, 0.3)
            blind_MC = np.where(is_blind_MC, more.uniform(0, 0.9, (num_models, num)), 1.0)
            self.signal_MC = base * more.uniform(0.5, 1.1, size=(num_models, 1)) * blind_MC
        if self._has("averaged"):
            self.of_fold = more.uniform(0.3, 0.8)
        if self._has("noisy"):
            self.wrong = more.uniform(0, 0.03)
        if self._has("unequal"):
            self.spread_of_sizes = more.uniform(0.4, 1.2)
        if self._has("shifted"):
            self.shift = more.uniform(0.02, 0.08)
        if self._has("copies"):
            self.copy_of_M = more.integers(0, max(1, num_models // 3), num_models)
            self.apart = more.uniform(0.1, 0.4)
            self.signal_MC = self.signal_MC[self.copy_of_M]
            self.bias_MC = self.bias_MC[self.copy_of_M]
            self.sharpness_M = self.sharpness_M[self.copy_of_M]

    def _has(self, part: str) -> bool:
        return self.family in (part, "mixed")

    @property
    def num_models(self) -> int:
        return len(self.signal_MC)

    def draw(self, num_groups: int, num_images: int, lot: int) -> Evidence:
        """Return logits of one model per member on some groups; another lot has other groups."""
        fresh = self._draw(num_groups, num_images, lot, num_folds=1)
        return Evidence(list(fresh.logits_KM[0]), fresh.rows)

    def evidence(self) -> Evidence:
        """Return out-of-fold logits: each fold's rows come from that fold's models."""
        num_folds = NUM_FOLDS if self.of_fold else 1
        drawn = self._draw(self.num_groups, self.num_images, 1, num_folds=num_folds)
        fold_N = assign_folds(drawn.rows.label_N, drawn.rows.group_N, num_folds=NUM_FOLDS, seed=0)
        at = np.arange(len(fold_N))
        logits = [
            np.stack(of_folds)[fold_N, at] if num_folds > 1 else of_folds[0]
            for of_folds in zip(*drawn.logits_KM, strict=True)
        ]
        return folded(Evidence(logits, drawn.rows), fold_N)

    def fresh(self, num_groups: int, num_images: int = 1) -> Fresh:
        """Return new groups, with the logits of five models per member where these differ."""
        num_folds = NUM_FOLDS if self.of_fold else 1
        return self._draw(num_groups, num_images, 2, num_folds=num_folds, shift=self.shift)

    def _draw(
        self, num_groups: int, num_images: int, lot: int, *, num_folds: int, shift: float = 0.0
    ) -> Fresh:
        rng = np.random.default_rng((self.seed, lot))
        more = np.random.default_rng((self.seed, lot, 7))
        size_G = np.full(num_groups, num_images)
        if self.spread_of_sizes and num_images > 1:
            factor_G = np.exp(more.normal(size=num_groups) * self.spread_of_sizes)
            size_G = np.maximum(1, np.round(num_images * factor_G / factor_G.mean())).astype(int)
        share_C = self.share_C * np.exp(shift * more.normal(size=self.num_classes))
        share_C = share_C / share_C.sum()
        num = int(size_G.sum())
        group_N = np.repeat(np.arange(num_groups), size_G)
        home_N = rng.choice(self.num_classes, size=num_groups, p=share_C)[group_N]
        label_N = np.where(
            rng.random(num) < 0.7, home_N, rng.choice(self.num_classes, size=num, p=share_C)
        )
        if self.one_label:
            label_N = home_N
        shape = (num, self.num_classes)
        group_NC = rng.normal(size=(num_groups, self.num_classes))[group_N]
        common_NC = self.of_group * group_NC + self.shared * rng.normal(size=shape)
        common_NC = (1 + shift) * common_NC + shift * more.normal(size=self.num_classes)
        truth_NC = np.eye(self.num_classes)[label_N]
        errors: list[np.ndarray] = []
        for _ in range(self.num_models):
            model_group_NC = rng.normal(size=(num_groups, self.num_classes))[group_N]
            errors.append(0.5 * model_group_NC + rng.normal(size=shape))
        rest = np.sqrt(1 - self.apart**2)
        logits_KM: list[list[np.ndarray]] = [[] for _ in range(num_folds)]
        for member, source in enumerate(self.copy_of_M):
            error_NC = errors[member]
            if self.apart < 1:
                error_NC = rest * errors[source] + self.apart * error_NC
            for logits_M in logits_KM:
                of_model_NC = error_NC
                if self.of_fold:
                    # The variance of an error does not change, only how much of it folds share.
                    alone_NC = np.sqrt(1.25) * more.normal(size=shape)
                    of_model_NC = (
                        np.sqrt(1 - self.of_fold) * error_NC + np.sqrt(self.of_fold) * alone_NC
                    )
                own_NC = self.own * of_model_NC
                seen_NC = (
                    truth_NC * self.signal_MC[member] + common_NC + own_NC + self.bias_MC[member]
                )
                logits_M.append((self.sharpness_M[member] * seen_NC).astype(np.float32))
        if self.wrong:
            other_N = (label_N + more.integers(1, self.num_classes, num)) % self.num_classes
            label_N = np.where(more.random(num) < self.wrong, other_N, label_N)
        return Fresh(logits_KM, Rows.of(label_N, group_N))
