"""The job that trains models of a prepared run, made in the process that starts them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foldblend.cli import Say
from foldblend.runs.environment import describe_environment
from pipeline.job import Prepared, TrainingJob, job_of
from pipeline.training.gpu_cards import cards_of
from pipeline.training.gpu_share import count_memory, room_for_images
from pipeline.watch.progress import Progress

__all__ = ["training_job"]


def training_job(
    run: Prepared,
    folder: Path,
    info: Mapping[str, Any],
    *,
    key: dict[str, str],
    progress: Progress,
    say: Say,
) -> TrainingJob:
    """Return the job that trains models of a run; decodes the images that are cached.

    Parameters
    ----------
    run
        The prepared run.
    folder
        The run folder.
    info
        Its run.json.
    key
        Hashes by which a finished model is kept.
    progress
        Counts the steps of all models.
    say
        Function that prints one line of the log.
    """
    cards = cards_of(run.config.machine.device)
    memory = count_memory(run, say) if cards else None
    shared = job_of(run, folder, say=say, device_room=room_for_images(memory, cards))
    return TrainingJob(
        **vars(shared),
        memory=memory,
        fold_key=key,
        environment=describe_environment(weights=run.origin),
        progress=progress,
        padded=info["padded"],
    )
