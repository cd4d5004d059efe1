"""Specification of what an engine runs: an architecture, its input and its threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foldblend.attributes import Attribute
from foldblend.plugins import is_custom, is_downloaded
from pipeline.data.cache import MEMORY_ONLY, cache_root
from pipeline.data.preprocess import Preprocess
from pipeline.engines.registry import ENGINES, ROWS, TORCH

__all__ = ["Spec", "graphs_in", "spec_of"]


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Describe what an engine is to run."""

    engine: str
    architecture: str
    """Text that no other architecture has: backbone, its keywords, its head, mean and deviation."""
    shape: tuple[int, int, int, int]
    """Shape of every batch: images, 3, height and width."""
    batch_size: int
    """Images of a batch of torch at inference."""
    preprocess: Preprocess
    """Standardises pixels, which is part of the graph."""
    threads: int
    folder: Path | None = None
    """Folder in which graphs are kept; None: only in memory."""


def graphs_in(cache: str = "auto", cache_dir: str | None = None) -> Path | None:
    """Return the folder in which graphs are kept, None where nothing is kept on disk.

    `cache` and `cache_dir` are the values of --cache and --cache-dir.
    """
    return None if cache in MEMORY_ONLY else cache_root(cache_dir) / "graphs"


def spec_of(
    engine: str,
    *,
    backbone: str,
    kwargs: Mapping[str, Any],
    num_classes: int,
    attributes: Sequence[Attribute],
    ordinal: str | None,
    frozen: bool,
    preprocess: Preprocess,
    batch_size: int,
    threads: int,
    folder: Path | None,
) -> Spec | None:
    """Return what an engine is to run, None for torch.

    Parameters
    ----------
    engine
        Name of the engine.
    backbone, kwargs
        The backbone, and the keywords that build it.
    num_classes
        Number of classes.
    attributes, ordinal
        Attributes whose heads are joined, and which of them are ordered; () and None for one head.
    frozen
        Whether the model ends in features, without its head.
    preprocess
        Size of the images, mean and deviation.
    batch_size
        Images of a batch at inference; graphs have smaller ones (`ROWS`).
    threads
        Number of CPU threads.
    folder
        Folder in which graphs are kept, None to keep them in memory only.
    """
    if engine == TORCH:
        return None
    head = None if frozen else (num_classes, [*attributes], ordinal)
    # The source of a user's own backbone may change while its name stays.
    changes = is_custom(backbone) or is_downloaded(backbone)
    return Spec(
        engine=engine,
        architecture=repr(
            (backbone, sorted(kwargs.items()), head, preprocess.mean, preprocess.std)
        ),
        preprocess=preprocess,
        shape=(
            ROWS if ENGINES[engine].is_graph else batch_size,
            3,
            preprocess.height,
            preprocess.width,
        ),
        batch_size=batch_size,
        threads=threads,
        folder=None if changes else folder,
    )
