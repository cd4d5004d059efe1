"""Logits of linear heads on frozen backbones, whose features other runs have cached."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch

from pipeline.data.cache import MEMORY_ONLY
from pipeline.data.kept import kept_or_made
from pipeline.engines.registry import ENGINES, TORCH
from pipeline.frozen.feature_cache import fingerprint_of, keys_of, policy_of, store_of
from pipeline.job import Prepared
from pipeline.predict.inputs import Inputs
from pipeline.predict.recipe import Recipe
from pipeline.predict.stream import Stream
from pipeline.predict.tree import Seen
from tta.views.names import is_device_view

__all__ = ["cached_leaves", "seen_by_features"]


def cached_leaves(stream: Stream, run: Prepared) -> list[str]:
    """Return the keys of the leaves of a stream whose features may be in the cache.

    Crops need boxes of their own, and random views are not kept.
    """
    if run.config.machine.cache in MEMORY_ONLY:
        return []
    return [
        key
        for key, leaf in stream.leaves.items()
        if leaf.recipe.frozen
        and leaf.recipe.look.crop == "whole"
        and all(map(is_device_view, stream.views[key]))
    ]


def _engine_of(recipe: Recipe) -> str:
    return TORCH if recipe.engine not in ENGINES or 0 in recipe.on_torch else recipe.engine


class _LeafFeatures:
    """Features of a leaf's backbone, from the cache or computed."""

    def __init__(self, stream: Stream, key: str, run: Prepared) -> None:
        self.stream = stream
        self.key = key
        self.run = run
        recipe = stream.leaves[key].recipe
        net = stream.nets[key]
        state = net.weights.read(None)
        machine = run.config.machine
        policy = policy_of(
            backbone=recipe.backbone,
            kwargs=recipe.kwargs,
            weights=fingerprint_of(state),
            preprocess=recipe.preprocess.of_pixels(needs_levels=run.manifest.needs_levels),
            batch_size=recipe.batch_size,
            compute=net.compute,
            threads=recipe.threads,
            channels_last=recipe.channels_last,
            engine=_engine_of(recipe),
        )
        num_features = len(net.head(0)[0])
        self.store = store_of(machine.cache_dir, num_features, policy)

    def of(self, table: pd.DataFrame, view: str) -> np.ndarray:
        """Return N x D float32 features of a table's images in a view."""
        # The crop of the leaf, not that of the run that learns.
        whole = table.drop(columns="box", errors="ignore")
        keys = keys_of(whole, view)

        def make(todo: list[int]) -> Iterator[np.ndarray]:
            return self._computed(whole.iloc[todo], view)

        return kept_or_made(self.store, keys, make, say=self.stream.nets[self.key].say)[0]

    def _computed(self, table: pd.DataFrame, view: str) -> Iterator[np.ndarray]:
        net = self.stream.nets[self.key]
        look = self.stream.leaves[self.key].recipe.look
        inputs = Inputs(
            table["image_id"].tolist(),
            table["path"].tolist(),
            max_pixels=self.run.config.data.max_pixels,
        )
        for block in self.stream.blocks(inputs):
            if block.bad:
                raise next(iter(block.bad.values()))
            torch.set_num_threads(self.stream.threads[self.key])
            names = [inputs.ids[row] for row in block.good]
            yield net.features(block.stored[look], names, view, {})


def seen_by_features(
    stream: Stream,
    keys: Sequence[str],
    run: Prepared,
    table: pd.DataFrame,
    models: Sequence[int],
) -> Seen:
    """Return the logits of leaves' heads for all images of a table, as `Stream.seen` does.

    Features that are not in the cache are computed and join it, so that no image passes through a
    backbone twice.

    Parameters
    ----------
    stream
        The models.
    keys
        The leaves, which are among `cached_leaves`.
    run
        The run that learns, for its settings of the cache.
    table
        Images with image_id, path and content.
    models
        Numbers of the models.
    """
    seen: dict[tuple[str, int], dict[str, np.ndarray]] = {}
    for key in keys:
        net = stream.nets[key]
        features = _LeafFeatures(stream, key, run)
        for view in stream.views[key]:
            found_ND = features.of(table, view)
            torch.set_num_threads(stream.threads[key])
            for model in models:
                logits_NC = net.head_logits(model, found_ND)
                seen.setdefault((key, model), {})[view] = logits_NC
    return seen
