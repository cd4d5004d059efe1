"""Stream of predictions: images are read, decoded and predicted block by block.

Memory does not grow with the number of images: there are two blocks at a time, the one that the
models see and the next one, which threads decode meanwhile.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foldblend.cli import Say
from foldblend.errors import BadImage, UserError
from foldblend.image_columns import ImageColumns
from foldblend.images import Box
from pipeline.data.crop import box_finder
from pipeline.data.preprocess import Preprocess
from pipeline.device import num_cores
from pipeline.predict.compute import compute_for
from pipeline.predict.in_memory import file_of
from pipeline.predict.inputs import Inputs
from pipeline.predict.nets import Features, Net
from pipeline.predict.recipe import Look
from pipeline.predict.reference import look_of
from pipeline.predict.tree import Blend, Node, Seen, has, leaves_of, views_of

__all__ = ["Block", "Predicted", "Stream", "block_size"]

# Most images of a block, in which the batches of several runs are full; if the least common
# multiple of their sizes is larger, a block is the largest of their batches.
MOST = 1024
# Most images that a thread decodes in a row.
TOGETHER = 8


@dataclass(frozen=True)
class Block:
    """Decoded images of a block."""

    start: int
    """Number of the first image."""
    size: int
    good: list[int]
    """Numbers of the images that can be used."""
    bad: dict[int, BadImage]
    stored: Mapping[Look, np.ndarray]
    """The good images at the stored size of each look, N x H x W x 3 uint8."""
    look_N3: np.ndarray
    """Brightness (0 to 1), width and height of the good images."""


@dataclass(frozen=True)
class Predicted:
    """Predictions of a block."""

    block: Block
    logits_NC: np.ndarray
    """Logits of the good images with the decision rule, float32; the mean over models."""
    plain_NC: np.ndarray
    """Logits without offsets, of which probabilities are made; the same object without any."""
    plain_KNC: np.ndarray
    """Logits without offsets of each model."""
    features_ND: np.ndarray | None = None
    """Features of the good images, where `Stream.watched` asks for them."""


def block_size(batches: Sequence[int]) -> int:
    """Return the number of images of a block, so that the batches of all runs are full.

    Examples
    --------
    >>> block_size([64]), block_size([64, 48]), block_size([64, 63])
    (64, 192, 64)
    """
    common = math.lcm(*batches)
    return common if common <= MOST else max(batches)


class _Decoder:
    """Decodes images for all looks, in threads, one block ahead of the models."""

    def __init__(self, inputs: Inputs, looks: Sequence[Look], pool: ThreadPoolExecutor) -> None:
        self.inputs = inputs
        self.pool = pool
        self.looks = looks
        self.sizes = [
            Preprocess(
                width=one.width,
                height=one.height,
                mean=(),
                std=(),
                decode=one.decode,
                **dataclasses.asdict(one.levels),
            )
            for one in looks
        ]
        self.boxes: list[Callable[[str], Box | None]] = [
            box_finder(one.crop, one.crop_share, one.levels) for one in looks
        ]
        if any(one.crop == "box" for one in looks) and inputs.boxes is None:
            raise UserError(
                "--box-cols: the run was trained on boxes; pass a table of images with the columns"
                " of their boxes"
            )

    def _one(self, index: int, folder: Path) -> list[Any] | BadImage:
        """Return an image as each look has it, and brightness and size, or the error."""
        source = self.inputs.sources[index]
        try:
            path, is_written = file_of(source, self.inputs.ids[index], folder)
            found: list[np.ndarray] = []
            size = (0, 0)
            for look, pixels, box_of in zip(self.looks, self.sizes, self.boxes, strict=True):
                own = self.inputs.boxes[index] if self.inputs.boxes is not None else None
                box = own if look.crop == "box" else box_of(path)
                if look.crop == "box" and box is None:
                    raise BadImage(f"{path}: has no box", "write its box into the table")
                checked = bool(found) or is_written
                image, size = pixels.load_with_size(
                    path, box, checked=checked, max_pixels=self.inputs.max_pixels
                )
                found.append(image)
            about = look_of(found[0], size)
            if is_written:
                Path(path).unlink()
            return [*found, about]
        except BadImage as error:
            return error

    def _some(self, indices: range, folder: Path) -> list[list[Any] | BadImage]:
        return [self._one(index, folder) for index in indices]

    def submit(self, start: int, stop: int, folder: Path) -> list[Future[Any]]:
        """Let the threads decode a block."""
        together = min(max((stop - start) // (2 * num_cores()), 1), TOGETHER)
        return [
            self.pool.submit(self._some, range(first, min(first + together, stop)), folder)
            for first in range(start, stop, together)
        ]

    def block(self, start: int, waiting: Sequence[Future[Any]]) -> Block:
        """Return a block when its images are decoded."""
        results = [one for some in waiting for one in some.result()]
        good = [index for index, one in enumerate(results) if not isinstance(one, BadImage)]
        stored = {}
        for place, (look, pixels) in enumerate(zip(self.looks, self.sizes, strict=True)):
            width, height = pixels.stored_size
            images = np.empty((len(good), height, width, 3), np.uint8)
            for row, index in enumerate(good):
                images[row] = results[index][place]
            stored[look] = images
        look_N3 = np.array([results[index][-1] for index in good]).reshape(-1, 3)
        bad = {start + i: one for i, one in enumerate(results) if isinstance(one, BadImage)}
        return Block(start, len(results), [start + index for index in good], bad, stored, look_N3)


class Stream:
    """Models of a predictor, ready to predict blocks of images.

    Parameters
    ----------
    root
        The node whose logits are predicted.
    models
        Numbers of the models (folds) to use; None: all.
    device, threads
        See `pipeline.predict.compute.compute_for`.
    engine
        Engine of the forward passes; None: that of each run.
    also
        Further nodes, for whose leaves and views `seen` returns logits as well.
    say
        Function that prints one line of the log.
    """

    def __init__(
        self,
        root: Node,
        *,
        models: Sequence[int] | None = None,
        device: str | None = None,
        threads: int | None = None,
        engine: str | None = None,
        also: Sequence[Node] = (),
        say: Say,
    ) -> None:
        self.root = root
        self.leaves = leaves_of(root)
        self.views = views_of(root)
        for node in also:
            self.leaves |= leaves_of(node)
            for key, views in views_of(node).items():
                self.views[key] = self.views.get(key, {}) | views
        self.watched: str | None = None
        said: dict[str, None] = {}

        def once(line: str) -> None:
            if line not in said:
                said[line] = None
                say(line)

        self.nets: dict[str, Net] = {}
        for key, leaf in self.leaves.items():
            recipe = leaf.recipe
            if engine is not None:
                recipe = dataclasses.replace(recipe, engine=engine, on_torch=())
            compute = compute_for(recipe, device=device, threads=threads, say=once)
            self.nets[key] = Net(recipe, leaf.weights, compute, once)
        self.threads = {key: threads or leaf.recipe.threads for key, leaf in self.leaves.items()}
        self.models = {
            # A chosen fold's model predicts alone: refits have trained on its held-out rows.
            key: (
                [*leaf.recipe.models]
                if models is None
                else [index for index in range(leaf.num_models) if index in models]
            )
            for key, leaf in self.leaves.items()
        }
        for key in self.leaves if models is not None else ():
            for index in self.models[key]:
                # Where refits replace the models of the folds, a file lacks these.
                self.leaves[key].weights.fingerprint(index)
        most = max(leaf.num_models for leaf in self.leaves.values())
        for key, chosen in self.models.items():
            if not chosen or any(index >= most for index in models or ()):
                num = self.leaves[key].num_models
                raise UserError(
                    f"--folds {','.join(map(str, models or ()))}: {self.leaves[key].name} has"
                    f" {num} models, numbered from 0; pass smaller numbers"
                )

    def leave_out(self, keys: Sequence[str]) -> None:
        """Let `seen` leave out these leaves, whose logits the caller has already."""
        for key in keys:
            del self.leaves[key]
            del self.nets[key]

    def watch(self, key: str | None) -> None:
        """Return the features of the first model of a leaf with each block, None for none."""
        self.watched = key
        for name, net in self.nets.items():
            net.watches = name == key
            net.seen_ND = None

    @property
    def has_offsets(self) -> bool:
        """Return whether the decision rule moves logits, so that plain ones differ."""
        return isinstance(self.root, Blend) and self.root.has_offsets

    @property
    def looks(self) -> list[Look]:
        """Return the settings that make stored pixels, each once."""
        return [*dict.fromkeys(leaf.recipe.look for leaf in self.leaves.values())]

    @property
    def block(self) -> int:
        """Number of images of a block."""
        return block_size([leaf.recipe.batch_size for leaf in self.leaves.values()])

    def seen(self, block: Block, ids: Sequence[str], features: Features | None = None) -> Seen:
        """Return the logits of the leaves' models for the good images of a block.

        `ids` are the names of these images; `features` receives those of frozen backbones.
        """
        known: Features = {} if features is None else features
        seen: dict[tuple[str, int], dict[str, np.ndarray]] = {}
        for key, net in self.nets.items():
            torch.set_num_threads(self.threads[key])
            stored = block.stored[self.leaves[key].recipe.look]
            for model in self.models[key]:
                seen[key, model] = net.logits(model, stored, ids, [*self.views[key]], known)
        return seen

    def predict(
        self, block: Block, ids: Sequence[str], columns: ImageColumns | None = None
    ) -> Predicted:
        """Return the predictions of the good images of a block.

        `ids` are their names, and `columns` what blends learn from besides (see `needs_of`).
        """
        features: Features = {}
        seen = self.seen(block, ids, features)
        watched = None
        if self.watched is not None:
            net = self.nets[self.watched]
            watched = net.seen_ND
            if watched is None:
                torch.set_num_threads(self.threads[self.watched])
                stored = block.stored[self.leaves[self.watched].recipe.look]
                watched = net.penultimate(stored, ids, features)
            net.seen_ND = None
        every = [k for k in range(self.root.num_models) if has(self.root, seen, k)]
        logits_KNC = [self.root.logits(seen, k, columns) for k in every]
        mean_NC = self.root.mean(logits_KNC)
        if not (isinstance(self.root, Blend) and self.root.has_offsets):
            return Predicted(block, mean_NC, mean_NC, np.stack(logits_KNC), watched)
        plain_KNC = [self.root.plain(seen, k, columns) for k in every]
        return Predicted(block, mean_NC, self.root.mean(plain_KNC), np.stack(plain_KNC), watched)

    def blocks(self, inputs: Inputs, *, first: int = 0) -> Iterator[Block]:
        """Yield the decoded images block by block, from image `first` on."""
        size = self.block
        starts = [*range(first, len(inputs), size)]
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="foldblend-")))
            pool = stack.enter_context(ThreadPoolExecutor(num_cores()))
            decoder = _Decoder(inputs, self.looks, pool)

            def ahead(place: int) -> list[Future[Any]]:
                if place >= len(starts):
                    return []
                start = starts[place]
                return decoder.submit(start, min(start + size, len(inputs)), folder)

            # Where the models use all cores, decoding beside them would slow both down.
            spare = any(net.compute.is_cuda for net in self.nets.values())
            spare |= max(self.threads.values()) < num_cores()
            waiting = ahead(0)
            try:
                for place, start in enumerate(starts):
                    following = ahead(place + 1) if spare else []
                    block = decoder.block(start, waiting)
                    waiting = following
                    yield block
                    if not spare:
                        waiting = ahead(place + 1)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def run(self, inputs: Inputs, *, first: int = 0, skip: bool = False) -> Iterator[Predicted]:
        """Yield the predictions of all images, block by block.

        Raises BadImage for an image that cannot be read, unless it is to be left out (`skip`).
        """
        for block in self.blocks(inputs, first=first):
            if block.bad and not skip:
                raise next(iter(block.bad.values()))
            if block.good:
                columns = None if inputs.columns is None else inputs.columns.take(block.good)
                yield self.predict(block, [inputs.ids[index] for index in block.good], columns)
            else:
                num = next(iter(self.leaves.values())).recipe.num_classes
                none_NC = np.empty((0, num), np.float32)
                yield Predicted(block, none_NC, none_NC, none_NC[None])
