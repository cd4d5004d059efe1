"""Training of one model from its checkpoint, or anew where that is of no use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from foldblend.errors import shown
from foldblend.failures import device_failure
from pipeline.job import NotFiniteLogitsError, TrainingJob
from pipeline.memory import OutOfMemory, is_out_of_memory
from pipeline.training.saved_state import MisfitError

__all__ = ["not_used", "trained"]


class Training(Protocol):
    """A model in training, at its start or as its checkpoint has it."""

    def run(self) -> dict[str, Any]:
        """Train the remaining steps and return done.json."""
        ...


def trained(
    job: TrainingJob, title: str, file: Path, make: Callable[[], Training]
) -> dict[str, Any]:
    """Train a model, from its checkpoint if it has one, and return its done.json.

    A checkpoint that cannot be continued from, or ends in logits that are not finite, is removed:
    the same command would fail again. Raises UserError for what the device cannot do.

    Parameters
    ----------
    job
        The job.
    title
        Name of the model in the log.
    file
        Its checkpoint.
    make
        Returns the model at the start of its training, or as its checkpoint has it.
    """
    try:
        return _from_checkpoint(job, title, file, make)
    except RuntimeError as error:
        failure = device_failure(error, device=f"--device {job.compute.device}")
        if failure is None:
            raise
        if is_out_of_memory(error):
            raise OutOfMemory(str(failure)) from error
        raise failure from error


def _from_checkpoint(
    job: TrainingJob, title: str, file: Path, make: Callable[[], Training]
) -> dict[str, Any]:
    """Train a model from its checkpoint, or from its start if that cannot be continued from."""
    try:
        return make().run()
    except NotFiniteLogitsError:
        _remove(job, file)
        raise
    except MisfitError as error:
        job.say(not_used(title, file, shown(str(error))))
    _remove(job, file)
    return make().run()


def _remove(job: TrainingJob, file: Path) -> None:
    if job.writes:
        file.unlink(missing_ok=True)


def not_used(title: str, file: Path, why: str) -> str:
    """Return the line on a checkpoint that is not used."""
    return f"{title}: {file} is removed ({why}), so the fold starts from the beginning"
