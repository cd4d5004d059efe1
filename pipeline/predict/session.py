"""Models of a predictor on a device, which stay loaded for the next prediction."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foldblend.cli import Say
from foldblend.errors import UserError
from pipeline.predict.config import PredictConfig
from pipeline.predict.open import Predictor, open_predictor
from pipeline.predict.stream import Stream
from pipeline.predict.weights import FolderWeights
from pipeline.predict.within import within_budget

__all__ = ["Session", "open_session"]


@dataclass(frozen=True)
class Session:
    """A predictor with its models on a device, for any number of predictions."""

    predictor: Predictor
    stream: Stream


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return what changes when a run or file is made again."""
    try:
        about = (path / "run.json" if path.is_dir() else path).stat()
    except OSError:
        return None
    return about.st_size, about.st_mtime_ns


def open_session(path: str | Path, config: PredictConfig, *, say: Say) -> Session:
    """Return the session of a run or file; models stay loaded for the next call.

    Raises UserError if it cannot be opened.
    """
    try:
        place = Path(path).resolve()
    except (RuntimeError, OSError, ValueError):  # links in a circle, or no name of a file
        raise UserError(f"{path}: no such run; pass the folder of a finished run") from None
    machine = (config.device, config.threads, config.infer_engine)
    settings = (config.models, config.budget, *machine, config.trust)
    key = (place, str(path), _stamp(place), settings, _Lines(say))
    session = _session(*key)
    weights = [leaf.weights for leaf in session.predictor.leaves.values()]
    # A member that was made again does not change the blend's own folder.
    if any(isinstance(one, FolderWeights) and one.is_replaced() for one in weights):
        _session.cache_clear()
        session = _session(*key)
    return session


@dataclass(frozen=True)
class _Lines:
    """Function that prints lines, equal to any other, as it is no part of a session's key."""

    say: Say = dataclasses.field(compare=False)

    def __call__(self, line: str) -> None:
        self.say(line)


# The models of the last two runs stay in memory, for calls from Python with a few images each.
@functools.lru_cache(maxsize=2)
def _session(
    place: Path, given: str, stamp: object, settings: tuple[Any, ...], say: _Lines
) -> Session:
    models, budget, device, threads, engine, trust = settings
    predictor = open_predictor(given, trust=trust, say=say)
    if budget is not None:
        predictor = within_budget(predictor, budget, say=say)
    stream = Stream(
        predictor.root, models=models, device=device, threads=threads, engine=engine, say=say
    )
    return Session(predictor, stream)
