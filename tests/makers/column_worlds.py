"""Simulated data sets ("worlds") whose images have columns, with the best use of these known.

A column is drawn from the class of a group, and the models know nothing of it. So the best use of
it is Bayes' rule: the log-probability of a class rises by the log of how likely the cell is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ensemble.methods.base import Evidence
from foldblend.image_columns import ImageColumns
from tests.makers.worlds import World

__all__ = ["KINDS", "ColumnWorld"]

NUM_SITES = 4
MOST_IMAGES = 4
EMPTY = 0.15

# A function from the class of each group and a generator to the cells, and their log-likelihood for
# each class.
Draw = Callable[[np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]


def _site(rng: np.random.Generator, num_classes: int) -> Draw:
    """Return a site with other shares of the classes than other sites."""
    share_CX = rng.dirichlet(np.full(NUM_SITES, 0.7), size=num_classes)

    def draw(label_G: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        site_G = np.array([rng.choice(NUM_SITES, p=share_CX[one]) for one in label_G])
        names = np.array([f"site {one}" for one in site_G], object)
        return names, np.log(np.maximum(share_CX[:, site_G], 1e-12)).T

    return draw


def _age(rng: np.random.Generator, num_classes: int) -> Draw:
    """Return an age that is higher in some classes."""
    mean_C = 1.5 * (rng.random(num_classes) < 0.4)
    mean_C[rng.integers(num_classes)] = 1.5

    def draw(label_G: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        age_G = mean_C[label_G] + rng.normal(size=len(label_G))
        return 50 + 12 * age_G, -0.5 * (age_G[:, None] - mean_C) ** 2

    return draw


def _curved(rng: np.random.Generator, num_classes: int) -> Draw:
    """Return an age that is neither low nor high in some classes, which no linear model finds."""
    spread_C = np.where(rng.random(num_classes) < 0.5, 0.4, 1.5)
    first = rng.integers(num_classes)
    spread_C[first] = 0.4
    spread_C[(first + 1) % num_classes] = 1.5

    def draw(label_G: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        age_G = spread_C[label_G] * rng.normal(size=len(label_G))
        return 50 + 12 * age_G, -0.5 * (age_G[:, None] / spread_C) ** 2 - np.log(spread_C)

    return draw


def _unrelated(draw: Draw) -> Draw:
    """Return the same column, of the class of another group."""

    def shuffled(label_G: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        values_G, log_GC = draw(rng.permutation(label_G), rng)
        return values_G, np.zeros_like(log_GC)

    return shuffled


def _drawn(kind: str, rng: np.random.Generator, num_classes: int) -> Mapping[str, Draw]:
    site = _site(rng, num_classes)
    age = _age(rng, num_classes)
    if kind == "curved":
        return {"age": _curved(rng, num_classes)}
    if kind == "noise":
        return {"site": _unrelated(site), "age": _unrelated(age)}
    return {name: draw for name, draw in (("site", site), ("age", age)) if kind in (name, "both")}


KINDS = {
    "site": "one of four sites, each with other shares of the classes",
    "age": "an age that is 1.5 standard deviations higher in some classes",
    "both": "both, with 15 % of the cells empty",
    "curved": "an age that is neither low nor high in some classes",
    "noise": "a site and an age that have nothing to do with the class",
}


@dataclass(frozen=True, slots=True)
class ColumnWorld:
    """A world of a kind of columns, with this number of groups, each of a single class."""

    seed: int
    kind: str
    num_groups: int

    @property
    def _world(self) -> World:
        world = World(self.seed, one_label=True)
        world.num_groups = self.num_groups
        world.num_images = min(world.num_images, MOST_IMAGES)
        return world

    def _with_columns(self, evidence: Evidence, lot: int) -> tuple[Evidence, np.ndarray]:
        """Return evidence with columns, and what they add to log-probabilities N x C at best."""
        num_classes = evidence.num_classes
        drawn = _drawn(self.kind, np.random.default_rng((self.seed, 11)), num_classes)
        rng = np.random.default_rng((self.seed, 12, lot))
        first_G, code_N = np.unique(evidence.rows.group_N, return_index=True, return_inverse=True)[
            1:
        ]
        label_G = evidence.rows.label_N[first_G]
        best_NC = np.zeros((len(code_N), num_classes))
        values = {}
        for name, draw in drawn.items():
            values_G, log_GC = draw(label_G, rng)
            empty_G = rng.random(len(label_G)) < (EMPTY if self.kind == "both" else 0)
            values_G[empty_G] = np.nan if values_G.dtype.kind == "f" else ""
            best_NC += np.where(empty_G[:, None], 0.0, log_GC)[code_N]
            values[name] = values_G[code_N]
        return replace(evidence, columns=ImageColumns(values)), best_NC

    def evidence(self) -> Evidence:
        """Return out-of-fold logits with columns."""
        return self._with_columns(self._world.evidence(), 1)[0]

    def fresh(self, num_groups: int) -> tuple[Evidence, np.ndarray]:
        """Return new groups, and what their columns add to log-probabilities at best."""
        drawn = self._world.fresh(num_groups)
        return self._with_columns(Evidence(list(drawn.logits_KM[0]), drawn.rows), 2)
