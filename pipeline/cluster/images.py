"""Prediction of images on the nodes of a cluster, in parts that end where blocks end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from foldblend.cli import Say
from foldblend.cluster.cluster import Cluster, Task
from foldblend.errors import UserError
from pipeline.levels import once
from pipeline.predict.config import PredictConfig
from pipeline.predict.inputs import Inputs
from pipeline.predict.session import Session, open_session
from pipeline.predict.stream import Predicted

__all__ = ["predict_on"]

# Blocks of a part: a process takes some ten seconds to start.
MOST_BLOCKS = 64


def predict_on(
    cluster: Cluster,
    session: Session,
    inputs: Inputs,
    config: PredictConfig,
    *,
    first: int,
    say: Say,
) -> Iterator[Predicted]:
    """Yield the predictions of images from `first` on, block by block as `Stream.run` does.

    The images of a block are those that one process would predict together, so the bits are equal.

    Raises
    ------
    UserError
        If a node cannot predict, or an image cannot be read.
    """
    stream = session.stream
    leaves = stream.leaves.values()
    kinds = {str(leaf.recipe.device).partition(":")[0] for leaf in leaves}
    device = config.device or ("cuda" if "cuda" in kinds else "cpu")
    share = cluster.share(device=device, threads=config.threads or max(stream.threads.values()))
    source = Path(config.run).resolve()
    files = [source / "run.json" if source.is_dir() else source]
    files += [Path(one) for one in inputs.sources[:1] if isinstance(one, (str, Path))]
    cluster.check(None, files)
    there = dataclasses.replace(config, run=str(source), images=(), out=None, page=None)
    told = once(say)
    size = stream.block
    blocks = -(-(len(inputs) - first) // size)
    # Two parts for each place, so that a slow node holds up little.
    step = size * min(max(-(-blocks // (2 * cluster.room(share))), 1), MOST_BLOCKS)
    parts = [(start, min(start + step, len(inputs))) for start in range(first, len(inputs), step)]
    print_of = session.predictor.fingerprint()
    tasks = [
        Task(
            title=f"images {start:,} to {stop - 1:,}",
            name=f"{__name__}:predict_there",
            args=(there, _between(inputs, start, stop), start, stream.watched, print_of),
            listen=lambda kind, line: told(line),
        )
        for start, stop in parts
    ]
    for found in cluster.each(tasks, share):
        yield from found


def _between(inputs: Inputs, start: int, stop: int) -> Inputs:
    """Return some of the images."""
    some = slice(start, stop)
    return dataclasses.replace(
        inputs,
        ids=inputs.ids[some],
        sources=inputs.sources[some],
        boxes=None if inputs.boxes is None else inputs.boxes[some],
        groups=None,
        labels=None,
        columns=None if inputs.columns is None else inputs.columns.take([*range(start, stop)]),
    )


def predict_there(
    config: PredictConfig,
    inputs: Inputs,
    start: int,
    watched: str | None,
    fingerprint: str,
    *,
    tell: Callable[[str, Any], None],
) -> list[Predicted]:
    """Return the predictions of images on this node; the first one has the number `start`.

    Raises
    ------
    UserError
        If the models that the node sees are not those of the command, or an image cannot be read.
    """

    def say(line: str) -> None:
        tell("say", line)

    session = open_session(config.run, config, say=say)
    if session.predictor.fingerprint() != fingerprint:
        raise UserError(f"{config.run}: has other models on a node; predict on shared files")
    session.stream.watch(watched)
    skip = config.on_bad_image == "skip"
    return [_moved(one, start) for one in session.stream.run(inputs, skip=skip)]


def _moved(one: Predicted, start: int) -> Predicted:
    """Return predictions with the numbers of their images among all, and without pixels."""
    block = dataclasses.replace(
        one.block,
        start=one.block.start + start,
        good=[index + start for index in one.block.good],
        bad={index + start: error for index, error in one.block.bad.items()},
        stored={},
    )
    return dataclasses.replace(one, block=block)
