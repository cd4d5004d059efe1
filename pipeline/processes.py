"""Checks of what several processes of torchrun cannot do, before anything is written."""

from __future__ import annotations

import torch

from foldblend.cluster.names import LOCAL
from foldblend.errors import counted, require
from foldblend.torchrun import World
from pipeline.config.run import RunConfig
from pipeline.config.train import FIND

__all__ = ["check_processes"]

FLAG = "--nproc-per-node"
WITHOUT = "run python run_cv.py without torchrun"


def check_processes(config: RunConfig, world: World) -> None:
    """Raise UserError for settings that the processes of torchrun cannot train a fold with.

    Settings that are not decided yet are passed over.
    """
    if world.size == 1:
        return
    train = config.train
    size = world.size
    machine = config.machine
    require(
        world.local_size == size,
        f"torchrun --nnodes: {size} processes on several machines, but images and run folder are"
        f" those of one; pass {FLAG} alone, and other folds to the other machines (--only-folds)",
    )
    if train.batch_size is not None:
        batch = train.batch_size
        near = -(-batch // size) * size
        require(
            batch % size == 0,
            f"--batch-size {batch}: {size} processes ({FLAG} {size}) cannot take equal parts of it;"
            f" pass --batch-size {near}, or a {FLAG} that divides {batch}",
        )
    require(
        not train.frozen,
        f"--finetune head with torchrun: features and heads are computed by one process; {WITHOUT}",
    )
    require(
        not train.soup,
        f"--soup with torchrun: its seeds are trained by one process each; {WITHOUT}",
    )
    require(
        train.lr != FIND,
        f"--lr {FIND} with torchrun: the test of rates is made by one process; pass --lr auto or a"
        " number",
    )
    require(
        machine.backend == LOCAL,
        f"--backend {machine.backend} with torchrun: it starts processes on the nodes of a cluster"
        f" itself; {WITHOUT}",
    )
    parallel = machine.parallel_folds
    require(
        parallel in ("auto", "1"),
        f"--parallel-folds {parallel} with torchrun: all {size} processes train one fold; leave it"
        " out",
    )
    _check_device(machine.device, size)


def _check_device(device: str, size: int) -> None:
    """Raise UserError unless each process has a device of its own."""
    require(
        not device.startswith("cuda:"),
        f"--device {device} with torchrun: each process takes its own GPU; pass --device cuda, and"
        " choose GPUs with CUDA_VISIBLE_DEVICES",
    )
    if device == "cuda":
        num = torch.cuda.device_count()
        require(
            not num or size <= num,
            f"{FLAG} {size}: this machine has {counted(num, 'CUDA device')}; pass {FLAG} {num}, or"
            " --device cpu",
        )
