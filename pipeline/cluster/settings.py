"""Machine settings of a run, decided on the machine that is to train it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from foldblend.cli import quiet
from foldblend.cluster.cluster import Cluster, Task, opened
from foldblend.cluster.nodes import Share
from pipeline.config.run import MachineConfig
from pipeline.machine import MOST_WORKERS, resolve_machine

__all__ = ["decide_machine", "share_of_run"]


def share_of_run(cluster: Cluster, config: MachineConfig) -> Share:
    """Return what a model takes of a node, with settings that are decided or not."""
    return cluster.share(device=config.device, threads=config.threads)


def decide_machine(config: MachineConfig) -> dict[str, Any]:
    """Return the machine settings whose `auto` can be decided, on a node with --backend ray.

    Raises UserError for a device that is not there.
    """
    with opened(config.backend, config.ray_address, quiet) as cluster:
        if cluster is None:
            return resolve_machine(config)
        share = share_of_run(cluster, config)
        asked = dataclasses.replace(
            config,
            device="cuda" if share.gpus else "cpu",
            threads=config.threads or share.cpus,
            # On the CPU a thread loads images.
            workers=min(MOST_WORKERS, share.cpus)
            if config.workers is None and share.gpus
            else config.workers,
        )
        if not share.gpus:
            return resolve_machine(asked)
        task = Task(title="settings", name=f"{__name__}:resolve_here", args=(asked,))
        return dict(cluster.call(task, share))


def resolve_here(config: MachineConfig, *, tell: Callable[..., object]) -> dict[str, Any]:
    """Return the decided settings of a node, in which the GPU that it has been given is cuda."""
    return resolve_machine(dataclasses.replace(config, device=torch.device(config.device).type))
