"""Weights in an exported file: each distinct tensor once, however many models share it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import safetensors
import safetensors.torch
import torch

from foldblend.errors import UserError, in_a_line
from pipeline.export.file import DAMAGED, Archive
from pipeline.predict.tree import Leaf
from pipeline.predict.weights import State

__all__ = ["FileWeights", "NoWeights", "Packed", "halved", "restored"]

Place = list[str]
"""Name of an entry, and of a tensor in it."""

LARGEST = torch.finfo(torch.float16).max


def halved(state: State) -> State:
    """Return weights for storage in half the size.

    Tensors of two or more axes become float16 if their values fit. Others, such as biases and
    statistics of batch norm, need little space and stay as they are; float64 becomes float32.

    Examples
    --------
    >>> found = halved({"weight": torch.ones(2, 2), "bias": torch.ones(2, dtype=torch.float64)})
    >>> found["weight"].dtype, found["bias"].dtype
    (torch.float16, torch.float32)
    """
    found = {}
    for name, tensor in state.items():
        kept = tensor.float() if tensor.dtype == torch.float64 else tensor
        fits = kept.dtype == torch.float32 and kept.ndim >= 2
        if fits and (not kept.numel() or kept.abs().max() <= LARGEST):
            kept = kept.half()
        found[name] = kept
    return found


def restored(state: State) -> State:
    """Return weights of `halved` as float32."""
    return {
        name: tensor.float() if tensor.dtype == torch.float16 else tensor
        for name, tensor in state.items()
    }


class Packed:
    """Packs the weights of models, and remembers which tensors it has packed already."""

    def __init__(self, *, half: bool) -> None:
        self.half = half
        self._places: dict[bytes, Place] = {}

    def _pack(self, entry: str, state: State) -> tuple[dict[str, Any], bytes]:
        """Return the record of a model and its safetensors entry, which has new tensors only."""
        own: State = {}
        shared: dict[str, Place] = {}
        # The names are sorted because safetensors reads them in no certain order, and of equal
        # tensors the first one is kept.
        for name, tensor in sorted((halved(state) if self.half else state).items()):
            plain = tensor.detach().cpu().contiguous()
            found = hashlib.blake2b(f"{plain.dtype} {tuple(plain.shape)}".encode())
            found.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
            place = self._places.setdefault(found.digest(), [entry, name])
            if place == [entry, name]:
                own[name] = plain
            else:
                shared[name] = place
        return {"file": entry, "shared": shared}, safetensors.torch.save(own)

    def leaf(
        self, leaf: Leaf, number: int, models: Sequence[int], record: dict[str, Any]
    ) -> Iterator[tuple[str, bytes]]:
        """Yield the entries of a run's models, and describe them in its `record`."""
        backbone: list[int | None] = [None] if leaf.recipe.frozen else []
        found = []
        for index in [*backbone, *models]:
            name = "backbone" if index is None else f"fold_{index}"
            if index is not None and index in leaf.recipe.refits:
                name = f"refit_{leaf.recipe.refits.index(index)}"
            entry = f"weights/{number}/{name}.safetensors"
            one, content = self._pack(entry, leaf.weights.read(index))
            found.append(one)
            yield entry, content
        record["backbone"] = found.pop(0) if backbone else None
        record["models"] = found


class FileWeights:
    """Weights in an exported file.

    Parameters
    ----------
    archive
        The file.
    models, backbone
        Records of the models (None: refits replace it), and of the frozen backbone that they
        share; see `Packed`.
    half
        Whether the tensors were made smaller by `halved`.
    """

    def __init__(
        self,
        archive: Archive,
        models: Sequence[Mapping[str, Any] | None],
        backbone: Mapping[str, Any] | None,
        *,
        half: bool,
    ) -> None:
        self.archive = archive
        self.models = models
        self.backbone = backbone
        self.half = half

    def _record(self, index: int | None) -> Mapping[str, Any]:
        record = self.backbone if index is None else self.models[index]
        if record is None:
            raise UserError(
                f"{self.archive.path}: has no models of the folds, which models of all rows"
                " replace; leave --folds out, or pass the folder of the run"
            )
        return record

    def fingerprint(self, index: int | None) -> str:
        """Return a hash of the weights of a model, or of the shared frozen backbone for None."""
        record = self._record(index)
        own = {name: [record["file"], name] for name in self._names(record["file"])}
        text = json.dumps([self.archive.digest, sorted((own | record["shared"]).items())])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def _names(self, entry: str) -> list[str]:
        """Return the names of the tensors of an entry."""
        return [*self._tensors(entry)]

    def _tensors(self, entry: str) -> State:
        try:
            return dict(safetensors.torch.load(self.archive.read(entry)))
        except UserError:
            raise
        except Exception as error:  # a hostile entry may fail in any way
            raise UserError(
                f"{self.archive.path}: {entry} cannot be used ({in_a_line(error)}); {DAMAGED}"
            ) from None

    def read(self, index: int | None) -> State:
        """Return the weights of a model, or of the shared frozen backbone for None."""
        record = self._record(index)
        state = self._tensors(record["file"])
        # Each entry is read once, and one at a time.
        for entry in sorted({place[0] for place in record["shared"].values()}):
            there = self._tensors(entry)
            wanted = [
                (name, place[1]) for name, place in record["shared"].items() if place[0] == entry
            ]
            absent = [name for _, name in wanted if name not in there]
            if absent:
                raise UserError(f"{self.archive.path}: {entry} lacks {absent[0][:60]!r}; {DAMAGED}")
            state |= {name: there[stored] for name, stored in wanted}
        return restored(state) if self.half else state


class NoWeights:
    """Weights of a member of a blend that has no share, which are left out of exported files."""

    def fingerprint(self, index: int | None) -> str:
        """Return a text that is the same for all of them."""
        return f"none {index}"

    def read(self, index: int | None) -> State:
        """Raise UserError, since there are none."""
        raise UserError(f"model {index}: its weights were not exported, because it has no share")
