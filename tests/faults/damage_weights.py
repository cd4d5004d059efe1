"""Damage to weights, checkpoints, caches and exported files."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.faults.damage_tables import bytes_cases
from tests.faults.judge import Case

__all__ = ["weight_cases"]

FILES: dict[str, tuple[str, tuple[str, ...]]] = {
    "outputs/full/fold_0/best.safetensors": ("full", ("predict", "tta", "export")),
    "outputs/full/fold_1/best.safetensors": ("full", ("predict", "tta", "export")),
    "outputs/full/reference.safetensors": ("full", ("predict", "export")),
    "outputs/frozen/backbone.safetensors": ("frozen", ("predict frozen", "tta", "export")),
    "outputs/frozen/fold_1/best.safetensors": ("frozen", ("predict", "tta", "export")),
    "outputs/frozen/refit_0/best.safetensors": ("frozen", ("predict", "tta", "export")),
    "outputs/frozen/reference.safetensors": ("frozen", ("predict frozen", "export")),
    "outputs/both/parameters.safetensors": ("both", ("predict both", "export both")),
    "outputs/half/fold_1/last.ckpt": ("half", ("resume half",)),
    "model.zip": ("model.zip", ("predict file",)),
}
CACHES = {
    "features": ("again frozen",),
    "pictures": ("again full", "tta full"),
    "checked-1": ("again full", "audit"),
}


def cache_files(base: Path) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return the files of the cache with the commands that read them."""
    return {
        str(file.relative_to(base)): ("cache", jobs)
        for folder, jobs in CACHES.items()
        for file in sorted((base / "cache" / folder).rglob("*"))
        if file.is_file()
    }


def weight_cases(base: Path) -> Iterator[Case]:
    """Yield damaged bytes of all of them, and checkpoints that are damaged with sense."""
    yield from bytes_cases(FILES, "weights", base)
    yield from bytes_cases(cache_files(base), "cache", base)
    for what, change in CHECKPOINTS.items():
        yield Case(
            id=f"outputs/half/fold_1/last.ckpt: {what}",
            kind="weights",
            job="resume half",
            prepare=lambda stage, change=change: _edit(stage, change),
            names=("last.ckpt",),
        )


def _edit(stage: Path, change: Callable[[Any], Any]) -> None:
    import torch

    file = stage / "outputs/half/fold_1/last.ckpt"
    saved = change(torch.load(file, weights_only=True))
    torch.save(saved, file)


def _with_tensors(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a change of all floating tensors within nested dicts and lists."""

    def walk(value: Any) -> Any:
        import torch

        if isinstance(value, torch.Tensor) and value.is_floating_point() and value.ndim:
            return change(value)
        if isinstance(value, dict):
            return type(value)((key, walk(one)) for key, one in value.items())
        return type(value)(map(walk, value)) if isinstance(value, list | tuple) else value

    return walk


def _without_first(saved: Any) -> Any:
    return {key: saved[key] for key in list(saved)[1:]}


def _in_model(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Any], Any]:
    """Return a change of the first dict of tensors that a checkpoint has."""

    def edit(saved: Any) -> Any:
        import torch

        for key, value in saved.items():
            if isinstance(value, dict) and any(
                isinstance(one, torch.Tensor) for one in value.values()
            ):
                return {**saved, key: change(value)}
        return saved

    return edit


CHECKPOINTS: dict[str, Callable[[Any], Any]] = {
    "weights are NaN": _with_tensors(lambda one: one * float("nan")),
    "weights are infinite": _with_tensors(lambda one: one + float("inf")),
    "weights have other shapes": _with_tensors(lambda one: one[:1]),
    "weights are 64 bit": _with_tensors(lambda one: one.double()),
    "weights are changed": _with_tensors(lambda one: one + 0.01),
    "is a list": lambda saved: list(saved.values()),
    "is empty": lambda _: {},
    "is a number": lambda _: 3,
    "lacks its first key": _without_first,
    "model lacks a weight": _in_model(_without_first),
    "model has one more": _in_model(lambda model: {**model, "more": next(iter(model.values()))}),
    "values are words": lambda saved: dict.fromkeys(saved, "word"),
    "values are None": lambda saved: dict.fromkeys(saved),
    "numbers are negative": lambda saved: {
        key: -7 if isinstance(value, int | float) else value for key, value in saved.items()
    },
    "numbers are huge": lambda saved: {
        key: 10**12 if isinstance(value, int | float) else value for key, value in saved.items()
    },
}


class Evil:
    """An object that leaves a mark where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what pickle calls."""
        return (exec, ("import os; open(os.environ['FAULT_MARKER'], 'a').write('unpickled\\n')",))


def evil_pickle(file: Path, *, in_zip: bool = False) -> None:
    """Write a pickle that leaves a mark, plain or as torch.save writes it."""
    data = pickle.dumps({"state_dict": Evil(), "model": Evil()})
    if not in_zip:
        file.write_bytes(data)
        return
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("archive/data.pkl", data)
        made.writestr("archive/version", "3\n")
        made.writestr("archive/byteorder", "little")
