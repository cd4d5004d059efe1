"""Further views of a finished run, predicted by its saved models.

The logits of each view and fold are stored in the run folder's tta/, so that views can be merged
and chosen without further forward passes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from foldblend.cli import Say
from foldblend.cluster.cluster import Cluster, Task, opened
from foldblend.cluster.names import AUTO, LOCAL
from foldblend.errors import UserError, listed
from foldblend.plugins import parse_parts
from foldblend.runs.folder import lock_folder
from foldblend.runs.run import Run
from pipeline.config.trust import Trust
from pipeline.frozen.further_views import add_frozen_views
from pipeline.levels import once
from pipeline.view_job import view_job
from pipeline.view_model import Seen, draws_of, see_model
from tta.saved_views import (
    add_rows,
    can_see,
    check_pipelines,
    kept_views,
    models_of,
    name_of,
    note_pipelines,
    note_seconds,
    open_models,
    parts_of,
    saved_rows,
)
from tta.views.names import check_views

__all__ = ["add_views"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """The views that are to be predicted."""

    run: Run
    names: tuple[str, ...]
    todo: Mapping[int, Mapping[str, Sequence[str]]]
    """The views that each model lacks, of "oof" and "test"."""
    trust: Trust
    machine: Mapping[str, Any]
    """Settings such as device and workers."""


class _Kept:
    """The views of a run, which are written as they come, and the sum of their times."""

    def __init__(self, run: Run, say: Say) -> None:
        self.run = run
        self.say = say
        self.times: dict[str, tuple[int, float]] = {}

    def add(self, index: int, seen: Seen) -> None:
        """Write what a model has predicted."""
        for part, table in seen.tables.items():
            add_rows(self.run, index, part, table)
        for name, (num, seconds) in seen.times.items():
            before, spent = self.times.get(name, (0, 0.0))
            self.times[name] = before + num, spent + seconds
        note_seconds(self.run, self.times)
        self.say(seen.line)


def add_views(
    folder: Path,
    names: Sequence[str],
    *,
    say: Say,
    parts: str | None = None,
    trust_parts: bool = False,
    backend: str = LOCAL,
    ray_address: str = AUTO,
    **machine: Any,
) -> tuple[str, ...]:
    """Predict a run's images in further views, and return all views that the run has then.

    Each fold's model predicts the held-out images of that fold and the test set. Views that a fold
    has already are not computed again, so an interrupted call can be continued.

    Parameters
    ----------
    folder
        Folder of a finished cross-validated run.
    names
        Names of the views.
    say
        Function that prints one line of the log.
    parts, trust_parts
        Own parts that may be imported (see `tta.config.TtaConfig`).
    backend, ray_address
        Where the models predict (see `pipeline.config.run.MachineConfig`).
    machine
        Settings such as ``device`` or ``workers``.

    Returns
    -------
    tuple
        Names of all views whose logits are stored for every fold.

    Raises
    ------
    UserError
        If the models are missing, the data changed, or a view does not change images of this size.
    """
    run = open_models(folder)
    check_pipelines(run, names)
    have = kept_views(run)
    missing = [name for name in names if name not in have]
    if not missing:
        return have
    if not can_see(run):
        raise UserError(
            f"{folder}: without config.yaml only the views {listed(have, most=20)} can be used;"
            " leave the others out"
        )
    size = run.info["preprocess"]
    trust = Trust(parse_parts(parts), trust_parts)
    check_views(missing, width=size["width"], height=size["height"], flag="--views")
    with lock_folder(folder, flags=(None, None)), opened(backend, ray_address, say) as cluster:
        todo = {
            index: {
                part: _missing(saved_rows(run, index, part), names) for part in parts_of(run, index)
            }
            for index in models_of(run)
        }
        asked = _Asked(
            run=run,
            names=tuple(missing),
            todo={index: one for index, one in todo.items() if any(one.values())},
            trust=trust,
            machine=machine,
        )
        if cluster is None:
            _see_here(asked, say)
        else:
            _see_there(asked, cluster, say)
    return kept_views(run)


def _see_here(asked: _Asked, say: Say) -> None:
    """Predict the views in this process, and write them."""
    run = asked.run
    job = view_job(run, asked.names, asked.trust, say, asked.machine)
    draws = draws_of(job, asked.names)
    note_pipelines(run, asked.names)
    if run.frozen:
        add_frozen_views(run, job, asked.names, asked.trust)
        return
    kept = _Kept(run, say)
    for index, one in asked.todo.items():
        kept.add(index, see_model(run, job, index, one, draws))


def _see_there(asked: _Asked, cluster: Cluster, say: Say) -> None:
    """Predict the views on the nodes of a cluster, each model on one, and write them here."""
    run = asked.run
    cluster.check(run.path.resolve().parent, [run.path / "run.json"])
    note_pipelines(run, asked.names)
    settings = run.settings
    device = asked.machine.get("device") or str(settings.get("device", "cpu")).partition(":")[0]
    share = cluster.share(device=device, threads=settings.get("threads"))
    kept = _Kept(run, say)
    told = once(say)
    place = run.path.resolve()
    there = dataclasses.replace(asked, run=Run(place))

    def listen(kind: str, line: str) -> None:
        told(line)

    if run.frozen:
        # Each image passes through the backbone once for all folds.
        cluster.call(
            Task(
                title=f"views of {place.name}",
                name=f"{__name__}:frozen_there",
                args=(there,),
                listen=listen,
            ),
            share,
        )
        return
    cluster.map(
        [
            Task(
                title=f"views of {name_of(run, index)} of {place.name}",
                name=f"{__name__}:model_there",
                args=(there, index),
                listen=listen,
                done=functools.partial(kept.add, index),
            )
            for index in asked.todo
        ],
        share,
    )


def frozen_there(asked: _Asked, *, tell: Callable[[str, str], None]) -> None:
    """Predict the views of a frozen backbone on this node, for a command that holds the run."""

    def say(line: str) -> None:
        tell("say", line)

    job = view_job(asked.run, asked.names, asked.trust, say, asked.machine)
    draws_of(job, asked.names)
    add_frozen_views(asked.run, job, asked.names, asked.trust)


def model_there(asked: _Asked, index: int, *, tell: Callable[[str, str], None]) -> Seen:
    """Return what a model predicts on this node, for a command that holds the run."""
    run = asked.run

    def say(line: str) -> None:
        tell("say", line)

    job = view_job(run, asked.names, asked.trust, say, asked.machine)
    return see_model(run, job, index, asked.todo[index], draws_of(job, asked.names))


def _missing(rows: pd.DataFrame, names: Sequence[str]) -> list[str]:
    have = set(rows["view"])
    return [name for name in names if name not in have]
