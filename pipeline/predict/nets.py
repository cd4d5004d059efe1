"""Models of a run on a device: from stored images to the logits of each view."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from foldblend.cli import Say
from foldblend.errors import UserError
from pipeline.device import Compute
from pipeline.engines.forward import Forward
from pipeline.engines.heads import NoLastLayer
from pipeline.engines.registry import ENGINES
from pipeline.engines.spec import Spec, graphs_in, spec_of
from pipeline.infer import View, features_of, filled, logits_of
from pipeline.memory import Chunks
from pipeline.models.attribute_head import make_join
from pipeline.models.backbones import build_model
from pipeline.predict.drawn import DrawnViews
from pipeline.predict.recipe import Recipe
from pipeline.predict.weights import State, WeightSource
from tta.views.names import is_device_view, view_of

__all__ = ["Features", "Net"]

IDENTITY = "identity"
# Bytes of a run's models up to which all stay in memory; larger ones are read for each block.
KEPT_BYTES = 2**30
Features = dict[tuple[str, Any, int, str, str], np.ndarray]
"""Features of a block of images, by backbone, preprocessing, batch size, engine and view."""


class Net:
    """The models of a cross-validated run."""

    def __init__(self, recipe: Recipe, weights: WeightSource, compute: Compute, say: Say) -> None:
        self.recipe = recipe
        self.weights = weights
        self.compute = compute
        self.say = say
        self.chunks = Chunks(say)
        self._loaded: int | None = None
        self._kept: dict[int, torch.nn.Module] = {}
        self._forwards: dict[int, Forward] = {}
        self.watches = False
        """Whether the features of the first model's unchanged images are kept as `seen_ND`."""
        self.seen_ND: np.ndarray | None = None
        self._heads: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.drawn = DrawnViews(recipe)
        # The user's own random numbers stay as they are.
        with torch.random.fork_rng(devices=[]):
            self.model = self._built()
        self.backbone = weights.fingerprint(None) if recipe.frozen else ""

    def _built(self) -> torch.nn.Module:
        recipe = self.recipe
        join = make_join(recipe.attributes, recipe.ordinal) if recipe.attributes else None
        model: Any = build_model(
            recipe.backbone,
            num_classes=recipe.num_classes,
            kwargs=recipe.kwargs,
            weights=None,
            join=join,
        )
        if recipe.frozen:
            model.reset_classifier(0)
            self._fill(model, self.weights.read(None))
        made: torch.nn.Module = model.eval().to(
            device=self.compute.device, memory_format=self.compute.memory_format
        )
        return made

    def _fill(self, model: torch.nn.Module, state: State) -> None:
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            why = str(error).splitlines()[0]
            raise UserError(
                f"backbone {self.recipe.backbone}: the weights do not fit ({why}); use the version"
                " of timm that made the run"
            ) from None

    def use(self, index: int) -> torch.nn.Module:
        """Return the module of a model; it stays in memory while those of the run are small."""
        if self.recipe.frozen:
            return self.model
        if index in self._kept:
            return self._kept[index]
        tensors = self.model.state_dict().values()
        size = sum(one.numel() * one.element_size() for one in tensors)
        if self.recipe.engine in ENGINES:
            # The engine has the weights once more.
            size *= 2
        if (len(self._kept) + 1) * size <= KEPT_BYTES:
            model = copy.deepcopy(self.model)
            self._fill(model, self.weights.read(index))
            self._kept[index] = model
            return model
        # Large models take turns in one module.
        if self._loaded != index:
            self._fill(self.model, self.weights.read(index))
            self._loaded = index
        return self.model

    def forward(self, index: int) -> Forward:
        """Return the forward pass of a model by the engine of the run."""
        model = self.use(index)
        made = self._forwards.get(index)
        if made is None or made.model is not model or not self._stays(index):
            # The forward pass of a large model goes when the next model takes its turn.
            if not self._stays(index):
                self._forwards.clear()
            made = Forward(
                model, self.recipe.preprocess, self.compute, self._spec(index), say=self.say
            )
            self._forwards[index] = made
        return made

    def _stays(self, index: int) -> bool:
        """Return whether a model stays in memory."""
        return self.recipe.frozen or index in self._kept

    def _spec(self, index: int) -> Spec | None:
        recipe = self.recipe
        if recipe.engine not in ENGINES or index in recipe.on_torch:
            return None
        return spec_of(
            recipe.engine,
            backbone=recipe.backbone,
            kwargs=recipe.kwargs,
            num_classes=recipe.num_classes,
            attributes=recipe.attributes,
            ordinal=recipe.ordinal,
            frozen=recipe.frozen,
            preprocess=recipe.preprocess,
            batch_size=recipe.batch_size,
            threads=torch.get_num_threads(),
            folder=graphs_in(),
        )

    def head(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return weight D x C and bias C of a linear head, in float64."""
        if index not in self._heads:
            state = self.weights.read(index)
            found = {
                name.rpartition(".")[2]: value.double().numpy() for name, value in state.items()
            }
            self._heads[index] = np.ascontiguousarray(found["weight"].T), found["bias"]
        return self._heads[index]

    def head_logits(self, index: int, features_ND: np.ndarray) -> np.ndarray:
        """Return the logits N x C float32 of a linear head on features of a frozen backbone."""
        weight_DC, bias_C = self.head(index)
        return np.asarray(features_ND.astype(np.float64) @ weight_DC + bias_C, np.float32)

    def _batches(
        self,
        model: Forward,
        stored_NHWC: np.ndarray,
        ids: Sequence[str],
        view: str | None,
        *,
        pad: bool,
    ) -> list[tuple[torch.Tensor, int]]:
        """Return batches on the device with their numbers of images, cropped for the model."""
        size = self.recipe.batch_size
        found = []
        for start in range(0, len(stored_NHWC), size):
            part = stored_NHWC[start : start + size]
            images = (
                self.recipe.preprocess.crop(part)
                if view is None
                else self.drawn.images(part, ids[start : start + size], view)
            )
            whole = torch.from_numpy(np.ascontiguousarray(images))
            batch = filled(model, whole, size if pad else None)
            found.append((batch.to(self.compute.device), len(part)))
        return found

    @torch.inference_mode()
    def logits(
        self,
        index: int,
        stored_NHWC: np.ndarray,
        ids: Sequence[str],
        views: Sequence[str],
        features: Features,
    ) -> dict[str, np.ndarray]:
        """Return the N x C float32 logits of each view of a block of images.

        Parameters
        ----------
        index
            Number of the model.
        stored_NHWC
            Images at the stored size, uint8.
        ids
            Names of the images, from which random views are seeded.
        views
            Names of the views.
        features
            Features of a frozen backbone on this block, which other models and runs share.
        """
        if self.recipe.frozen:
            return {
                view: self.head_logits(index, self.features(stored_NHWC, ids, view, features))
                for view in views
            }
        model = self.forward(index)
        on_device = [view for view in views if is_device_view(view)]
        pad = self.recipe.padded[index]
        found: dict[str, np.ndarray] = {}
        if on_device:
            seen = [view_of(view) for view in on_device]
            batches = self._batches(model, stored_NHWC, ids, None, pad=pad)
            if self.watches and index == 0 and IDENTITY in on_device:
                place = on_device.index(IDENTITY)
                logits_VNC, watched = self._watched(model, batches, seen)
                kept = torch.cat(watched[place :: len(seen)])
                # A padded last batch has more rows than images.
                self.seen_ND = np.asarray(kept.cpu().numpy()[: len(stored_NHWC)])
            else:
                logits_VNC = self._pass(model, batches, seen)
            found |= dict(zip(on_device, logits_VNC, strict=True))
        for view in [view for view in views if view not in on_device]:
            batches = self._batches(model, stored_NHWC, ids, view, pad=pad)
            found[view] = self._pass(model, batches, [view_of(IDENTITY)])[0]
        return found

    def _pass(
        self,
        model: Forward,
        batches: Sequence[tuple[torch.Tensor, int]],
        views: Sequence[View],
        seen: list[torch.Tensor] | None = None,
    ) -> np.ndarray:
        """Return the logits V x N x C of batches; `seen` gets the features of each view."""

        def forward(images: torch.Tensor) -> torch.Tensor:
            num = len(seen or ())
            try:
                return logits_of(
                    model, images, self.recipe.preprocess, self.compute, views, seen=seen
                )
            except RuntimeError:
                # If memory ran out, the images come again in smaller parts.
                if seen is not None:
                    del seen[num:]
                raise

        found = [
            torch.cat(self.chunks.map(images, forward), dim=1)[:, :num] for images, num in batches
        ]
        return torch.cat(found, dim=1).cpu().numpy()

    def penultimate(
        self, stored_NHWC: np.ndarray, ids: Sequence[str], known: Features
    ) -> np.ndarray:
        """Return the features N x D float32 before the last linear layer of the first model.

        Raises UserError for a model that has no single linear layer at its end.
        """
        if self.recipe.frozen:
            return self.features(stored_NHWC, ids, IDENTITY, known)
        with torch.inference_mode():
            model = self.forward(0)
            batches = self._batches(model, stored_NHWC, ids, None, pad=self.recipe.padded[0])
            _, features = self._watched(model, batches, [view_of(IDENTITY)])
        # A padded last batch has more rows than images.
        return np.asarray(torch.cat(features).cpu().numpy()[: len(stored_NHWC)])

    def _watched(
        self,
        model: Forward,
        batches: Sequence[tuple[torch.Tensor, int]],
        views: Sequence[View],
    ) -> tuple[np.ndarray, list[torch.Tensor]]:
        """Return logits V x N x C, and the features of each part of a batch in each view."""
        seen: list[torch.Tensor] = []
        try:
            return self._pass(model, batches, views, seen), seen
        except NoLastLayer:
            raise UserError(f"{self.recipe.backbone} does not end in one linear layer") from None

    @torch.inference_mode()
    def features(
        self, stored_NHWC: np.ndarray, ids: Sequence[str], view: str, known: Features
    ) -> np.ndarray:
        """Return the features N x D float32 of a frozen backbone in a view, if known those."""
        recipe = self.recipe
        key = (self.backbone, recipe.preprocess, recipe.batch_size, recipe.engine, view)
        if key not in known:
            drawn = not is_device_view(view)
            see = view_of(IDENTITY if drawn else view)

            model = self.forward(0)

            def forward(images: torch.Tensor) -> torch.Tensor:
                return features_of(model, images, recipe.preprocess, self.compute, see)

            batches = self._batches(model, stored_NHWC, ids, view if drawn else None, pad=True)
            found = [
                torch.cat(self.chunks.map(images, forward))[:num].cpu().numpy()
                for images, num in batches
            ]
            known[key] = np.concatenate(found)
        return known[key]
