"""Models and out-of-fold logits of a run that do not depend on the labels of one fold.

The model of fold k trains on the labels of all other folds. So another model of fold k, which was
trained on the same rows, may label any image for it. The model of another fold may not, since it
has learned the labels of fold k; nor may weights of a blend or views that were fitted on them.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd

from ensemble.refit import Refit
from foldblend.cli import Say
from foldblend.runs.run import Run
from foldblend.scores.rows import Rows
from pipeline.config.trust import Trust
from pipeline.predict.open import Predictor, member_runs, open_run, origin_run
from pipeline.predict.tree import Augmented, Blend, Node
from tta.policy import Policy
from tta.saved_views import saved_rows

__all__ = ["Source", "remarks_on"]


@dataclass(frozen=True)
class Others:
    """The out-of-fold rows of a repeat without those of a fold."""

    repeat: int
    fold: int
    table: pd.DataFrame
    """Their columns before the logits, by name of the image."""
    group_name: str

    @property
    def rows(self) -> Rows:
        columns = ("label", "group", "repeat", "fold")
        label_N, group_N, repeat_N, fold_N = (self.table[name].to_numpy() for name in columns)
        return Rows(label_N, group_N, repeat_N, fold_N, self.group_name)

    def logits_of(self, run: Run, table: pd.DataFrame) -> np.ndarray:
        """Return the logits of the rows from a table of image_id and logits of this repeat."""
        return run.logits(table.set_index("image_id").loc[self.table["image_id"]])


class Part(Protocol):
    """A run, TTA'd run or blend, which can leave out the labels of a fold."""

    def node(self, others: Others) -> Node:
        """Return the node in which whatever was fitted is fitted on the other folds."""
        ...

    def oof(self, others: Others) -> np.ndarray:
        """Return out-of-fold logits N x C of the other folds, float32, without offsets.

        Whatever was fitted on out-of-fold rows is fitted without the labels of the fold.
        """
        ...


@dataclass(frozen=True)
class _Plain:
    """A cross-validated run, or one with views for which nothing was fitted."""

    run: Run
    own: Node

    def node(self, others: Others) -> Node:
        return self.own

    def oof(self, others: Others) -> np.ndarray:
        rows = self.run.oof
        return others.logits_of(self.run, rows[rows["repeat"] == others.repeat])


@dataclass(frozen=True)
class _Augmented:
    """A TTA'd run whose views or their weights were chosen, for each fold on the other folds."""

    run: Run
    origin: Run
    own: Augmented

    def _policy(self, others: Others) -> Policy | None:
        for one in self.run.info["parts"]:
            if (one["repeat"], one["part"]) == (others.repeat, others.fold):
                return Policy.from_dict(one["policy"])
        return None

    def node(self, others: Others) -> Node:
        policy = self._policy(others)
        return self.own.leaf if policy is None else dataclasses.replace(self.own, policy=policy)

    def oof(self, others: Others) -> np.ndarray:
        policy = self._policy(others)
        if policy is None:
            return _Plain(self.origin, self.own.leaf).oof(others)
        num_folds = self.origin.info["num_folds"]
        folds = sorted({*others.table["fold"]})
        tables = [saved_rows(self.origin, others.repeat * num_folds + j, "oof") for j in folds]
        views = pd.concat(tables)
        logits_VNC = np.stack(
            [others.logits_of(self.origin, views[views["view"] == one]) for one in policy.views]
        )
        return policy.apply(logits_VNC, policy.views)


@dataclass(frozen=True)
class _Blended:
    """A blend, whose method is fitted again."""

    own: Blend
    parts: tuple[Part, ...]
    refit: Refit

    def node(self, others: Others) -> Node:
        return dataclasses.replace(
            self.own,
            members=tuple(part.node(others) for part in self.parts),
            parameters=self.refit.fit([part.oof(others) for part in self.parts], others.rows),
        )

    def oof(self, others: Others) -> np.ndarray:
        return self.refit.cross_fitted([part.oof(others) for part in self.parts], others.rows)


def _part_of(run: Run, node: Node) -> Part:
    if isinstance(node, Blend):
        members = zip(member_runs(run), node.members, strict=True)
        return _Blended(node, tuple(_part_of(*one) for one in members), Refit(run))
    if isinstance(node, Augmented) and run.info.get("parts"):
        if run.info["leaks"]:
            # Where folds split groups, the choice for a fold was not made without it.
            return _Plain(origin_run(run), node.leaf)
        return _Augmented(run, origin_run(run), node)
    return _Plain(run, node)


@dataclass(frozen=True)
class Source:
    """A run that gives labels, with its models."""

    run: Run
    predictor: Predictor

    @classmethod
    def open(cls, run: Run, trust: Trust, say: Say) -> Source:
        """Return a finished run with its models; raise UserError if they cannot be opened."""
        return cls(run, open_run(run, trust=trust, say=say))

    @property
    def all_frozen(self) -> bool:
        """Return whether all models are linear heads on frozen backbones."""
        return all(leaf.recipe.frozen for leaf in self.predictor.leaves.values())

    @functools.cached_property
    def _part(self) -> Part:
        return _part_of(self.run, self.predictor.root)

    def _others(self, model: int) -> Others:
        repeat, fold = divmod(model, int(self.run.info["num_folds"]))
        rows = self.run.oof
        table = rows[(rows["repeat"] == repeat) & (rows["fold"] != fold)]
        return Others(repeat, fold, table.sort_values("image_id"), self.run.group_name)

    def node_of(self, model: int) -> Node:
        """Return the node whose model of this number never saw its fold."""
        return self._part.node(self._others(model))

    def oof_without(self, model: int) -> tuple[np.ndarray, np.ndarray]:
        """Return logits N x C and labels of the other folds, which no label of the fold changes.

        The models themselves have learned those labels, as all out-of-fold rows have.
        """
        others = self._others(model)
        return self._part.oof(others), others.rows.label_N


def remarks_on(run: Run) -> list[str]:
    """Return what is done so that nothing which was fitted has seen a fold, one line each.

    Raises UserError if a member of a blend is gone.
    """
    return list(dict.fromkeys(_remarks(run)))


def _remarks(run: Run) -> list[str]:
    kind = run.info["kind"]
    if kind == "blend":
        lines = [
            f"{run.name}: its method is fitted again for each fold without the rows of that fold;"
            " the choice of method and members is that of the blend"
        ]
        return lines + [line for one in member_runs(run) for line in _remarks(one)]
    if kind == "tta" and run.info.get("parts"):
        if run.info["leaks"]:
            return [f"{run.name}: its views were chosen on all rows, so plain images are used"]
        return [f"{run.name}: each fold has the views that were chosen on the other folds"]
    return []
