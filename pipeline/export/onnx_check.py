"""Check of ONNX graphs against the models that they were made from, on images."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from foldblend.cli import Say
from foldblend.errors import BadImage, UserError, counted
from foldblend.files import is_file
from foldblend.reading import open_regular
from foldblend.scores.metrics import softmax
from pipeline.export.onnx_build import as_pixels, session
from pipeline.predict.inputs import Inputs
from pipeline.predict.open import Predictor
from pipeline.predict.recipe import Look, Recipe
from pipeline.predict.stream import Stream
from pipeline.predict.tree import Augmented, Leaf, views_of
from pipeline.predict.weights import FolderWeights

__all__ = ["CLOSE", "Checker", "Pixels", "accepted", "pixels_of"]

CLOSE = 1e-4
"""Largest difference of a logit, or of a probability."""
NUM_IMAGES = 100
BATCH = 32


Pixels = tuple[Look, int, int]
"""What makes the pixels of an input: look, and width and height after the centre crop."""


def pixels_of(recipe: Recipe) -> Pixels:
    """Return what makes the pixels of a recipe's models."""
    return recipe.look, recipe.preprocess.width, recipe.preprocess.height


def images_of(predictor: Predictor) -> Inputs | None:
    """Return up to 100 images of the run, test images first, or None where none is left."""
    for leaf in predictor.leaves.values():
        if not isinstance(leaf.weights, FolderWeights):
            continue
        file = leaf.weights.folder / "pictures.parquet"
        if not is_file(file):
            continue
        with open_regular(file) as opened:
            table = pd.read_parquet(opened)
        is_test = table["part"] == "test"
        table = pd.concat([table[is_test], table[~is_test]])
        there = (place for place, path in enumerate(table["path"]) if is_file(Path(path)))
        table = table.iloc[[*itertools.islice(there, NUM_IMAGES)]]
        if len(table):
            boxes = table["box"].tolist() if "box" in table else None
            return Inputs(table["image_id"].tolist(), table["path"].tolist(), boxes)
    return None


class Checker:
    """The predictions of a predictor on images, with which graphs are compared."""

    def __init__(self, predictor: Predictor, say: Say) -> None:
        self.predictor = predictor
        # Mixed precision on a GPU is no measure for a graph in float32.
        self.stream = Stream(predictor.root, device="cpu", say=say)
        inputs = images_of(predictor)
        self.stored: Mapping[Look, np.ndarray] = {}
        self.ids: list[str] = []
        if inputs is None:
            say("--onnx: the run's images are gone; graphs are checked on random noise")
        else:
            try:
                self._read(inputs)
            except BadImage as error:
                say(f"--onnx: {error.problem}; graphs are checked on random noise")
        kind = "of the run"
        if not self.ids:
            self._noise()
            kind = "of random noise"
        self.what = f"{counted(len(self.ids), 'image')} {kind}"
        self._seen: dict[tuple[str, int], dict[str, np.ndarray]] = {}
        self._features: Any = {}

    def _read(self, inputs: Inputs) -> None:
        found: dict[Look, list[np.ndarray]] = {look: [] for look in self.stream.looks}
        ids = []
        for block in self.stream.blocks(inputs):
            ids += [inputs.ids[place] for place in block.good]
            for look, images in block.stored.items():
                found[look].append(images)
        if ids:
            self.stored = {look: np.concatenate(images) for look, images in found.items()}
            self.ids = ids

    def _noise(self) -> None:
        rng = np.random.default_rng(0)
        self.ids = [f"noise {number}" for number in range(NUM_IMAGES)]
        self.stored = {
            look: rng.integers(256, size=(NUM_IMAGES, look.height, look.width, 3), dtype=np.uint8)
            for look in self.stream.looks
        }

    def _pixels(self, leaf: Leaf) -> np.ndarray:
        return as_pixels(leaf.recipe.preprocess.crop(self.stored[leaf.recipe.look]))

    def _logits(self, key: str, model: int) -> dict[str, np.ndarray]:
        """Return the logits of all views of a model, computed once."""
        if (key, model) not in self._seen:
            net = self.stream.nets[key]
            stored = self.stored[self.stream.leaves[key].recipe.look]
            views = [*self.stream.views[key]]
            self._seen[key, model] = net.logits(model, stored, self.ids, views, self._features)
        return self._seen[key, model]

    def _run(self, file: Path, pixels: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Return the outputs of a graph; the first batch is a single image."""
        graph = session(file)
        found = []
        for rows in self._batches():
            found.append(graph.run(None, {name: one[rows] for name, one in pixels.items()}))
        return [np.concatenate(one) for one in zip(*found, strict=True)]

    def _batches(self) -> Iterator[slice]:
        yield slice(0, 1)
        for start in range(1, len(self.ids), BATCH):
            yield slice(start, min(start + BATCH, len(self.ids)))

    def model(self, node: Leaf | Augmented, index: int, file: Path) -> float:
        """Return the largest difference between the logits of a model and of its graph."""
        (key,) = views_of(node)
        wanted_NC = node.logits({(key, index): self._logits(key, index)}, index)
        (found_NC,) = self._run(file, {"pixels": self._pixels(self.stream.leaves[key])})
        return _largest(found_NC - wanted_NC)

    def ensemble(self, names: Mapping[Pixels, str], file: Path) -> float:
        """Return the largest difference between the predictor's logits and those of its graph.

        `names` are the names of the inputs, by what makes their pixels.
        """
        root = self.predictor.root
        leaves = self.stream.leaves
        seen = {
            (key, model): self._logits(key, model)
            for key, models in self.stream.models.items()
            for model in models
        }
        pixels = {names[pixels_of(leaf.recipe)]: self._pixels(leaf) for leaf in leaves.values()}
        every = range(root.num_models)
        wanted_NC = root.mean([root.logits(seen, one) for one in every])
        plain = getattr(root, "plain", root.logits)
        proba_NC = softmax(
            root.mean([plain(seen, one) for one in every]) / self.predictor.calibration.temperature
        )
        logits_NC, found_NC = self._run(file, pixels)
        return max(_largest(logits_NC - wanted_NC), _largest(found_NC - proba_NC))


def accepted(found: float, file: Path) -> float:
    """Return a difference that is small enough; else remove the file and raise UserError."""
    if found <= CLOSE:
        return found
    for one in (file, file.with_name(f"{file.name}.data")):
        one.unlink(missing_ok=True)
    raise UserError(
        f"{file}: its logits differed by {found:.2g} from those of predict.py, more than"
        f" {CLOSE:g}, so it was removed; use predict.py, or leave --onnx out"
    )


def _largest(difference: np.ndarray) -> float:
    # A logit that is no number differs from all.
    return float(np.nan_to_num(np.abs(difference), nan=np.inf).max(initial=0.0))
