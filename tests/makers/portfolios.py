"""Simulated portfolios: configurations with learning curves and costs, on faces with masks.

A person has seven images: five with a mask, one without, and one with the mask worn wrongly. With
gender and age, in the shares of the mask competition, these are 18 classes, of which the rarest has
0.4 % of the images. A configuration sees them as well as its learning curve says at its number of
epochs. Its errors are partly those of all configurations, partly those of its family, and partly
its own, and a part of each is common to all images of a person.
"""

from __future__ import annotations

import numpy as np

from foldblend.scores.metrics import softmax
from foldblend.scores.rows import Rows

__all__ = ["NUM_FOLDS", "Portfolio"]

NUM_FOLDS = 5
STATE_OF_IMAGE = np.array([0, 0, 0, 0, 0, 1, 2])
PEOPLE = np.array([549, 410, 83, 732, 817, 109]) / 2700
"""Shares of people: men and women of three ages."""
NUM_FAMILIES = 3
EPOCHS = (1, 3, 6, 12, 24)
BROKEN = 0.05
"""Share of configurations that do not learn, for example because the learning rate is too high."""
# Logits of a class are sums of the logits of its mask state (3), gender (2) and age (3).
ATTRIBUTES_X = np.repeat([0, 1, 2], [3, 2, 3])
CLASSES_XC = np.concatenate(
    [
        np.repeat(np.eye(3), 6, axis=1),
        np.tile(np.repeat(np.eye(2), 3, axis=1), 3),
        np.tile(np.eye(3), 6),
    ]
).astype(np.float32)


class Portfolio:
    """Configurations of a seed; `draw` returns their predictions for a sample of people."""

    def __init__(
        self,
        seed: int,
        *,
        groups: tuple[int, int] = (80, 2700),
        search: bool = False,
        num_configurations: int | None = None,
    ) -> None:
        """Draw learning curves, costs and the difficulty of the data.

        Parameters
        ----------
        seed
            Seed of the portfolio.
        groups
            Range of the number of people, log-uniform.
        search
            Draw 20 to 60 similar configurations, such as those of a search on frozen features,
            instead of 4 to 12 that differ.
        num_configurations
            Their number, if it is not drawn.
        """
        rng = np.random.default_rng(seed)
        self.seed = seed
        self.num_groups = int(np.exp(rng.uniform(*np.log(groups))))
        num = int(rng.integers(20, 61) if search else rng.integers(4, 13))
        num = num_configurations or num
        self.num_configurations = num
        clear_A = np.array([rng.uniform(3, 6), rng.uniform(2.5, 5), rng.uniform(1.5, 4)])
        self.clear_X = clear_A[ATTRIBUTES_X]
        spread = rng.uniform(0.02, 0.2)
        epochs_M = rng.choice(EPOCHS, num)
        pace_M = np.exp(rng.normal(np.log(3), 0.5, num))
        top_M = 1 + spread * rng.normal(size=num)
        quality_M = top_M * (1 - 0.5 * np.exp(-epochs_M / pace_M))
        quality_M = np.where(rng.random(num) < BROKEN, 0.2 * quality_M, quality_M)
        self.cost_M = np.exp(rng.normal(0, 0.5, num)) * epochs_M
        """Cost of a fold, in any unit."""
        self.family_M = rng.integers(NUM_FAMILIES, size=num)
        of_fold = rng.uniform(0, 0.04)
        common = rng.uniform(0.4, 0.9)
        family = (1 - common) * rng.uniform(0.1, 0.6)
        if search:
            quality_M = 1 + 0.3 * spread * rng.normal(size=num)
            of_fold = 0.0
            common = 0.9
            family = 0.05
        self.quality_MK = quality_M[:, None] + of_fold * rng.normal(size=(num, NUM_FOLDS))
        """How well the model of each fold sees the classes."""
        # Of the variance of errors: common to all configurations, to a family, and of one only.
        self.share_of_errors = np.array([common, family, 1 - common - family])
        self.of_group = rng.uniform(0.3, 0.7)

    def draw(self, num_groups: int, sample: int) -> tuple[Rows, list[np.ndarray]]:
        """Return rows of so many people, and the probabilities of each configuration.

        Rows of a fold are predicted by the models of this fold. Another sample has other people.
        """
        rng = np.random.default_rng((self.seed, sample))
        person_G = rng.choice(len(PEOPLE), num_groups, p=PEOPLE)
        group_N = np.repeat(np.arange(num_groups), len(STATE_OF_IMAGE))
        label_N = np.tile(STATE_OF_IMAGE, num_groups) * len(PEOPLE) + person_G[group_N]
        fold_N = (rng.permutation(num_groups) % NUM_FOLDS)[group_N]
        truth_NX = CLASSES_XC.T[label_N] * self.clear_X.astype(np.float32)

        def errors() -> np.ndarray:
            of_group_GX = rng.normal(size=(num_groups, len(ATTRIBUTES_X)))
            # How a mask is worn differs from image to image, while age and gender do not.
            of_group_GX[:, ATTRIBUTES_X == 0] *= 0.5
            of_image_NX = rng.normal(size=truth_NX.shape)
            return np.asarray(
                np.sqrt(self.of_group) * of_group_GX[group_N]
                + np.sqrt(1 - self.of_group) * of_image_NX,
                np.float32,
            )

        of_all, of_family, of_one = np.sqrt(self.share_of_errors).astype(np.float32)
        common_NX = of_all * errors()
        families = [of_family * errors() for _ in range(NUM_FAMILIES)]
        tables = []
        for quality_K, family in zip(self.quality_MK, self.family_M, strict=True):
            seen_NX = quality_K.astype(np.float32)[fold_N, None] * truth_NX
            seen_NX += common_NX + families[family] + of_one * errors()
            tables.append(softmax(1.2 * (seen_NX @ CLASSES_XC)))
        return Rows.of(label_N, group_N, fold_N=fold_N, group_name="person"), tables
