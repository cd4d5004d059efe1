"""Effect of weights of half the size, measured on out-of-fold rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from foldblend.cli import Say
from foldblend.errors import UserError
from foldblend.progress import Task
from foldblend.runs.run import Run
from foldblend.scores.metrics import TITLES, softmax
from foldblend.scores.run_metric import metric_of
from pipeline.export.weights import halved, restored
from pipeline.predict.inputs import Inputs
from pipeline.predict.nets import Net
from pipeline.predict.open import Predictor
from pipeline.predict.stream import Stream
from pipeline.predict.tree import Blend, Leaf, leaves_of, views_of
from pipeline.predict.weights import State, WeightSource

__all__ = ["HalfWeights", "Loss", "measure"]

# Images that are predicted twice; more would change the figures little.
MOST_IMAGES = 5000


class HalfWeights:
    """Weights as they are after storage in half the size."""

    def __init__(self, whole: WeightSource) -> None:
        self.whole = whole

    def fingerprint(self, index: int | None) -> str:
        """Return a hash of the weights of a model, or of the shared frozen backbone for None."""
        return f"half {self.whole.fingerprint(index)}"

    def read(self, index: int | None) -> State:
        """Return the weights of a model, or of the shared frozen backbone for None."""
        return restored(halved(self.whole.read(index)))


@dataclass(frozen=True, slots=True)
class Loss:
    """Difference between weights of 32 and 16 bits on out-of-fold rows of the first repeat."""

    num_images: int
    metric: str
    """Name of the metric."""
    whole: float
    """Score with the weights of the run."""
    half: float
    """Score with weights of half the size."""
    num_changed: int
    """Images whose class differs."""
    proba: float
    """Largest change of a probability."""

    def sentence(self) -> str:
        """Return the difference in words."""
        share = self.num_changed / self.num_images
        return (
            f"on {self.num_images:,} out-of-fold images, {TITLES[self.metric]} is {self.half:.4f}"
            f" with weights of 16 bits and {self.whole:.4f} with those of 32 bits;"
            f" {self.num_changed} images ({share:.2%}) get another class, and no probability"
            f" changes by more than {self.proba:.2g}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, for JSON."""
        return dataclasses.asdict(self)


def _sources(run: Run, ids: pd.Index) -> Inputs:
    """Return the images of out-of-fold rows; raise UserError if one is gone."""
    table = run.table("pictures")
    table = table[table["part"] == "train"].set_index("image_id").reindex(ids)
    gone = [path for path in table["path"] if not isinstance(path, str) or not Path(path).is_file()]
    if gone:
        raise UserError(f"{gone[0]}: no such image")
    boxes = None
    if "box" in table:
        boxes = [None if box is None else tuple(box) for box in table["box"]]
    return Inputs(list(ids), list(table["path"]), boxes)


def _logits(
    leaf: Leaf, views: Mapping[str, None], ids: pd.Index, device: str | None, say: Say
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the out-of-fold logits N x C of each view: first of whole, then of half weights."""
    run = Run(leaf.weights.folder)  # type: ignore[attr-defined]
    inputs = _sources(run, ids)
    fold_N = run.oof[run.oof["repeat"] == 0].set_index("image_id")["fold"].loc[ids].to_numpy()
    stream = Stream(leaf, device=device, say=say)
    net = stream.nets[leaf.key]
    nets = [net, Net(leaf.recipe, HalfWeights(leaf.weights), net.compute, say)]
    shape = (len(ids), leaf.recipe.num_classes)
    found = [{view: np.empty(shape, np.float32) for view in views} for _ in nets]
    with Task("compare weights", len(ids), unit="images") as task:
        # Fold by fold, so that the weights of a model are loaded once.
        for fold in np.unique(fold_N):
            rows = np.flatnonzero(fold_N == fold).tolist()
            boxes = inputs.boxes
            part = Inputs(
                [inputs.ids[row] for row in rows],
                [inputs.sources[row] for row in rows],
                None if boxes is None else [boxes[row] for row in rows],
            )
            for block in stream.blocks(part):
                if block.bad:
                    raise next(iter(block.bad.values()))
                torch.set_num_threads(stream.threads[leaf.key])
                stored = block.stored[leaf.recipe.look]
                names = [part.ids[index] for index in block.good]
                for one, logits in zip(nets, found, strict=True):
                    for view, logits_NC in one.logits(
                        int(fold), stored, names, [*views], {}
                    ).items():
                        logits[view][[rows[index] for index in block.good]] = logits_NC
                task.add(block.size)
    yield from found


def measure(predictor: Predictor, *, device: str | None, say: Say) -> Loss | str:
    """Return what weights of half the size change, or why it cannot be measured.

    Each image of the first repeat is predicted by the models that it was held out from, with both
    kinds of weights; blends are applied as they are to new images.

    Parameters
    ----------
    predictor
        Predictor of a run folder.
    device
        Device to use; None for that of the run.
    say
        Function that prints one line of the log.
    """
    run = predictor.run
    assert run is not None
    root = predictor.root
    oof = run.oof[run.oof["repeat"] == 0].set_index("image_id")
    step = -(-len(oof) // MOST_IMAGES)
    oof = oof.iloc[::step]
    views = views_of(root)
    seen: list[dict[tuple[str, int], dict[str, np.ndarray]]] = [{}, {}]
    try:
        for key, leaf in leaves_of(root).items():
            both = _logits(leaf, views[key], oof.index, device, say)
            for one, logits in zip(seen, both, strict=True):
                # The rows of all folds take the place of one model's.
                one[key, 0] = logits
    except (UserError, KeyError) as error:
        return " ".join(str(error).split())
    metric = metric_of(run.info)
    label_N = oof["label"].to_numpy()
    logits_SNC = [root.logits(one, 0) for one in seen]
    plain_SNC = logits_SNC
    if isinstance(root, Blend) and root.has_offsets:
        plain_SNC = [root.plain(one, 0) for one in seen]
    proba_SNC = [predictor.calibration.proba(one) for one in plain_SNC]
    score_S = [float(metric.score(label_N, softmax(one))) for one in logits_SNC]
    changed_N = logits_SNC[0].argmax(axis=1) != logits_SNC[1].argmax(axis=1)
    return Loss(
        num_images=len(oof),
        metric=run.info["metric"],
        whole=score_S[0],
        half=score_S[1],
        num_changed=int(changed_N.sum()),
        proba=float(np.abs(proba_SNC[0] - proba_SNC[1]).max()),
    )
