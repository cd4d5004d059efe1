"""Speeds and room of a cluster, for plans."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from foldblend.cluster.cluster import Cluster, Task
from pipeline.cluster.settings import share_of_run
from pipeline.job import Prepared
from pipeline.plan.estimate import Speed
from pipeline.plan.measure import speed_of

__all__ = ["room_for", "speed_on"]


def room_for(cluster: Cluster, run: Prepared) -> int:
    """Return how many models of a run the nodes train at the same time."""
    return cluster.room(share_of_run(cluster, run.config.machine))


def speed_on(cluster: Cluster, run: Prepared, *, learns: bool) -> Speed:
    """Measure the seconds per image of a prepared run on a node (see `speed_of`)."""
    task = Task(title="the measurement", name=f"{__name__}:speed_there", args=(run, learns))
    found: Speed = cluster.call(task, share_of_run(cluster, run.config.machine))
    return found


def speed_there(run: Prepared, learns: bool, *, tell: Callable[[str, Any], None]) -> Speed:
    """Measure the seconds per image of a prepared run on this node; nothing is told."""
    return speed_of(run, learns=learns)
