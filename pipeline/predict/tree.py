"""Tree of a predictor: runs at the leaves, test-time augmentation and blends above them.

Each node turns the logits of the leaves' models into those of its own models, one per fold, as the
test tables of its run folder have them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ensemble.parameters import Parameters
from foldblend.image_columns import ImageColumns
from foldblend.runs.refit import with_refits
from foldblend.runs.rows import mean_logits
from pipeline.predict.recipe import Recipe
from pipeline.predict.weights import WeightSource
from tta.merge import mean_logit
from tta.policy import Policy

__all__ = ["Augmented", "Blend", "Leaf", "Node", "Seen", "has", "leaves_of", "needs_of", "views_of"]

Seen = Mapping[tuple[str, int], Mapping[str, np.ndarray]]
"""Logits N x C float32 of each view, by key of a leaf and number of its model."""


class Node(Protocol):
    """A run, TTA'd run or blend."""

    @property
    def name(self) -> str:
        """Name of the run."""
        ...

    @property
    def num_models(self) -> int:
        """Number of models of which it has test logits: one per fold and repeat."""
        ...

    def logits(self, seen: Seen, model: int, columns: ImageColumns | None = None) -> np.ndarray:
        """Return the logits N x C float32 of one model, as test_fold_k.parquet has them.

        Columns of the images must be given where a blend needs any (see `needs_of`).
        """
        ...

    def mean(self, logits_KNC: Sequence[np.ndarray]) -> np.ndarray:
        """Return the mean of models N x C float32, as test.parquet has it."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Leaf:
    """A cross-validated run."""

    name: str
    key: str
    """Name that no other leaf of the predictor has."""
    recipe: Recipe
    weights: WeightSource

    @property
    def num_models(self) -> int:
        return self.recipe.num_models

    def marks(self, *, refits: bool = True) -> list[Any]:
        """Return the recipe and the hashes of the weights, with those of refits or without."""
        recipe = self.recipe if refits else self.recipe.without_refits()
        indices: list[int | None] = [*recipe.models]
        indices += [None] if recipe.frozen else []
        return [recipe.as_dict(), *(self.weights.fingerprint(one) for one in indices)]

    def merged(
        self,
        seen: Seen,
        model: int,
        views: Sequence[str],
        merge: Callable[[np.ndarray], np.ndarray],
    ) -> np.ndarray:
        """Return a function of a model's logits V x N x C, with the share of the refits.

        Only refits that were predicted have a share. The model itself may be missing where they
        have all of it.
        """
        refits = [
            merge(np.stack([seen[self.key, one][view] for view in views]))
            for one in self.recipe.refits
            if (self.key, one) in seen
        ]
        found = seen.get((self.key, model))
        if found is None:
            return with_refits(np.zeros_like(refits[0]), refits, 1.0)
        own = merge(np.stack([found[view] for view in views]))
        return with_refits(own, refits, self.recipe.refit_share)

    def logits(self, seen: Seen, model: int, columns: ImageColumns | None = None) -> np.ndarray:
        """Return the mean over the run's views."""
        return self.merged(seen, model, self.recipe.views, mean_logit)

    def mean(self, logits_KNC: Sequence[np.ndarray]) -> np.ndarray:
        return mean_logits(logits_KNC)


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmented:
    """A run with test-time augmentation."""

    name: str
    leaf: Leaf
    policy: Policy

    @property
    def num_models(self) -> int:
        return self.leaf.num_models

    def logits(self, seen: Seen, model: int, columns: ImageColumns | None = None) -> np.ndarray:
        """Return the merged views."""
        views = self.policy.views
        mixed_VNC = self.leaf.merged(seen, model, views, lambda logits_VNC: logits_VNC)
        return self.policy.apply(mixed_VNC, views)

    def mean(self, logits_KNC: Sequence[np.ndarray]) -> np.ndarray:
        return mean_logits(logits_KNC)


@dataclass(frozen=True, kw_only=True, slots=True)
class Blend:
    """A blend of other nodes."""

    name: str
    members: tuple[Node, ...]
    parameters: Parameters
    of_means: bool
    """Whether members' means over folds are blended, because they differ in the number of folds."""

    @property
    def num_models(self) -> int:
        return 1 if self.of_means else self.members[0].num_models

    @property
    def used(self) -> tuple[bool, ...]:
        """Return whether each member has a share; the others are never run."""
        return tuple(share > 0 for share in self.parameters.fitted.shares)

    @property
    def has_offsets(self) -> bool:
        """Return whether the decision rule moves the logits, so that they are not plain."""
        return self.parameters.has_offsets

    def logits(self, seen: Seen, model: int, columns: ImageColumns | None = None) -> np.ndarray:
        """Return the blended logits."""
        return self.applied(self.parameters, seen, model, columns)

    def plain(self, seen: Seen, model: int, columns: ImageColumns | None = None) -> np.ndarray:
        """Return the blended logits without offsets, from which probabilities are made."""
        return self.applied(self.parameters.plain(), seen, model, columns)

    def applied(
        self, parameters: Parameters, seen: Seen, model: int, columns: ImageColumns | None = None
    ) -> np.ndarray:
        """Return the logits of the members as these parameters blend them."""
        return parameters.apply(self._members(seen, model, columns), columns).astype(np.float32)

    def _members(
        self, seen: Seen, model: int, columns: ImageColumns | None
    ) -> Iterator[np.ndarray]:
        shape = next(iter(next(iter(seen.values())).values())).shape
        for member, used in zip(self.members, self.used, strict=True):
            if not used:
                yield np.zeros(shape, np.float32)
            elif self.of_means:
                each = [one for one in range(member.num_models) if has(member, seen, one)]
                yield member.mean([member.logits(seen, one, columns) for one in each])
            else:
                yield member.logits(seen, model, columns)

    def mean(self, logits_KNC: Sequence[np.ndarray]) -> np.ndarray:
        return mean_logits(logits_KNC, of_shares=self.parameters.of_shares)


def has(node: Node, seen: Seen, model: int) -> bool:
    """Return whether the leaves' logits that a model of a node needs were predicted."""
    if isinstance(node, Blend):
        used = [one for one, is_used in zip(node.members, node.used, strict=True) if is_used]
        if node.of_means:
            return all(any(has(one, seen, k) for k in range(one.num_models)) for one in used)
        return all(has(one, seen, model) for one in used)
    leaf = node.leaf if isinstance(node, Augmented) else node
    assert isinstance(leaf, Leaf)
    replaced = leaf.recipe.refit_share == 1 and (leaf.key, leaf.num_models) in seen
    return (leaf.key, model) in seen or replaced


def needs_of(node: Node) -> dict[str, str]:
    """Return the columns of images that the blends of a node need: their kinds by their names."""
    if not isinstance(node, Blend):
        return {}
    found = dict(node.parameters.fitted.needs)
    for member, used in zip(node.members, node.used, strict=True):
        found |= needs_of(member) if used else {}
    return found


def leaves_of(node: Node) -> dict[str, Leaf]:
    """Return the leaves that have a share in a node, by key."""
    if isinstance(node, Leaf):
        return {node.key: node}
    if isinstance(node, Augmented):
        return {node.leaf.key: node.leaf}
    assert isinstance(node, Blend)
    found: dict[str, Leaf] = {}
    for member, used in zip(node.members, node.used, strict=True):
        found |= leaves_of(member) if used else {}
    return found


def views_of(node: Node) -> dict[str, dict[str, None]]:
    """Return the views that each leaf must predict, by key of the leaf, each view once."""
    if isinstance(node, Leaf):
        return {node.key: dict.fromkeys(node.recipe.views)}
    if isinstance(node, Augmented):
        return {node.leaf.key: dict.fromkeys(node.policy.views)}
    assert isinstance(node, Blend)
    found: dict[str, dict[str, None]] = {}
    for member, used in zip(node.members, node.used, strict=True):
        for key, views in (views_of(member) if used else {}).items():
            found[key] = found.get(key, {}) | views
    return found
