"""The processes that train one fold together, and what they exchange."""

from __future__ import annotations

import contextlib
import datetime
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import distributed

from foldblend.errors import UserError
from foldblend.torchrun import World
from pipeline.data.parts import Part
from pipeline.seeding import derive_seed
from pipeline.training.batch_pixels import BatchPixels

__all__ = ["Team", "backend_of", "is_lost"]

# Longer than anything that the leader does alone within a fold, such as to write to a slow disk. A
# process that dies is noticed at once: its connections close, and torchrun ends the others.
PATIENCE = datetime.timedelta(hours=2)
LOST = re.compile(
    r"Connection (closed|reset) by peer|Broken pipe|\[.*gloo/|NCCL|ncclRemoteError|ProcessGroup"
    r"|Socket closed|Timed out waiting"
)


def backend_of(device: torch.device) -> str:
    """Return what exchanges tensors: gloo in memory, NCCL between GPUs."""
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"


def is_lost(error: BaseException) -> bool:
    """Return whether an error says that another process of the team has ended.

    Examples
    --------
    >>> is_lost(RuntimeError("[../gloo/transport/tcp/pair.cc:547] Connection closed by peer"))
    True
    """
    if isinstance(error, UserError):
        return False
    return isinstance(error, torch.distributed.DistError) or (
        isinstance(error, RuntimeError) and LOST.search(str(error)) is not None
    )


class Team:
    """The processes that train a fold together, as one of them sees them.

    All of them make the same calls in the same order. Each has the whole model, and computes the
    gradients of its own part of each batch.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.part = Part(world.rank, world.size)
        self.is_stopped = False
        """Whether Ctrl-C was pressed since the last step."""

    def heed_stop(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed meanwhile."""
        if self.is_stopped:
            raise KeyboardInterrupt

    @staticmethod
    def join(world: World, store: Any, backend: str) -> Team:
        """Return the team, once all processes of it have called this."""
        distributed.init_process_group(
            backend,
            store=distributed.PrefixStore("team", store),
            rank=world.rank,
            world_size=world.size,
            timeout=PATIENCE,
        )
        return Team(world)

    @staticmethod
    def leave() -> None:
        """Close the connections to the others."""
        distributed.destroy_process_group()

    @property
    def leads(self) -> bool:
        """Return whether this process is the one that writes files and prints lines."""
        return self.world.rank == 0

    @property
    def size(self) -> int:
        return self.world.size

    def wrap(self, model: torch.nn.Module) -> torch.nn.Module:
        """Return the forward pass of a model whose gradients are the mean of all processes'.

        The weights of the leader are copied to the others.
        """
        device = next(model.parameters()).device
        # Otherwise torch sorts gradients anew after the first step. With three processes, the order
        # in which the parts of a gradient are added depends on its place, so that a fold that
        # continues would have other bits.
        return torch.nn.parallel.DistributedDataParallel(
            model,
            device_ids=[device] if device.type == "cuda" else None,
            find_unused_parameters=True,
        )

    def seed(self, place: Sequence[int]) -> None:
        """Seed torch's generators for dropout in one step.

        Each process drops other units, and none of their generators need be saved.
        """
        torch.manual_seed(derive_seed("torch", *place, self.world.rank))

    def own_pixels(
        self,
        prepare: BatchPixels,
        images: torch.Tensor,
        labels: torch.Tensor,
        label_N: np.ndarray,
        place: tuple[int, ...],
        share_NC: np.ndarray | None,
        batch_size: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the pixels and targets of this process's part of a step.

        What looks at a whole batch, such as CutMix, gets the images of all processes. Its result is
        that of one process.

        Parameters
        ----------
        prepare
            Prepares batches.
        images, labels
            The part that this process has loaded.
        label_N, place, share_NC
            Labels, place and shares of the whole step, as `prepare` takes them.
        batch_size
            Images of one forward pass of all processes.
        """
        num = len(label_N)
        own_N = self.part.rows(num, batch_size)
        if not prepare.sees_batch:
            own_NC = None if share_NC is None else share_NC[own_N]
            return prepare(images, labels, label_N[own_N], place, own_NC)
        images = self._whole(images, num, batch_size)
        labels = torch.from_numpy(label_N).to(labels.device, non_blocking=True)
        pixels, target = prepare(images, labels, label_N, place, share_NC)
        rows = torch.from_numpy(own_N).to(pixels.device, non_blocking=True)
        return pixels[rows], target[rows]

    def _whole(self, own: torch.Tensor, num: int, batch_size: int) -> torch.Tensor:
        """Return the rows of a step in their order, of which each process has its own."""
        rows = [Part(rank, self.size).rows(num, batch_size) for rank in range(self.size)]
        most = max(map(len, rows))
        # All processes send as much; only a step of a tiny fold has parts that differ.
        filled = torch.cat([own, own.new_zeros(most - len(own), *own.shape[1:])])
        found = [torch.empty_like(filled) for _ in rows]
        distributed.all_gather(found, filled)
        parts = [one[: len(of_one)] for one, of_one in zip(found, rows, strict=True)]
        order = torch.from_numpy(np.argsort(np.concatenate(rows)))
        return torch.cat(parts)[order.to(own.device)]

    @staticmethod
    def check_gradients(model: torch.nn.Module) -> None:
        """Raise UserError if a weight got no gradient: those of the others were then not exchanged.

        torch itself says so in the next step only.
        """
        for name, one in model.named_parameters():
            if one.requires_grad and one.grad is None:
                raise UserError(
                    f"--backbone: its weight {name} has no part in the output of a step, so that"
                    " processes cannot exchange gradients; run python run_cv.py without torchrun"
                )

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """Return the sum of a value over all processes."""
        total = value.clone()
        distributed.all_reduce(total)
        return total

    def from_leader(self, value: Any = None) -> Any:
        """Return what the leader passes here, which the others need not have."""
        box = [value]
        distributed.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    @torch.no_grad()
    def share_state(self, model: torch.nn.Module) -> None:
        """Copy the leader's weights and buffers to the others, whose batch norm has seen less."""
        kinds: dict[torch.dtype, list[torch.Tensor]] = {}
        for value in model.state_dict().values():
            if isinstance(value, torch.Tensor):
                kinds.setdefault(value.dtype, []).append(value.detach())
        for values in kinds.values():
            flat = torch.cat([one.reshape(-1) for one in values])
            distributed.broadcast(flat, src=0)
            for one, new in zip(values, flat.split([one.numel() for one in values]), strict=True):
                one.copy_(new.view(one.shape))

    def rows_of_all(self, own_VNC: np.ndarray | None, num: int, batch_size: int) -> np.ndarray:
        """Return the logits V x N x C of `num` rows, of which each process has its batches.

        None stands for no batch. Every process gets all rows, each once.
        """
        found: list[Any] = [None] * self.size
        distributed.all_gather_object(found, own_VNC)
        places = [Part(rank, self.size).of_table(num, batch_size) for rank in range(self.size)]
        return joined(found, places)


def joined(parts: Sequence[np.ndarray | None], places: Sequence[np.ndarray]) -> np.ndarray:
    """Return logits V x N x C from parts of their rows, each of which must come exactly once.

    Examples
    --------
    >>> parts = [np.zeros((1, 2, 1)), np.ones((1, 1, 1))]
    >>> joined(parts, [np.array([0, 2]), np.array([1])])[0, :, 0].tolist()
    [0.0, 1.0, 0.0]
    """
    num = sum(map(len, places))
    times_N = np.bincount(np.concatenate(places), minlength=num)
    assert (times_N == 1).all(), "rows that no process or several have predicted"
    first = next(one for one in parts if one is not None)
    found_VNC = np.full((first.shape[0], num, first.shape[2]), np.nan, first.dtype)
    for one, rows in zip(parts, places, strict=True):
        if one is not None:
            found_VNC[:, rows] = one
    return found_VNC


def unsynced(forward: Any, *, is_last: bool) -> contextlib.AbstractContextManager[Any]:
    """Return the context of one of several passes, at the last of which gradients are exchanged."""
    return contextlib.nullcontext() if is_last else forward.no_sync()
