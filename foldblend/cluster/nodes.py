"""Nodes of a cluster: what each has, and whether it can work on a run."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foldblend.cluster import probe
from foldblend.drafts import draft_folder
from foldblend.errors import UserError, counted, in_a_line

__all__ = ["SAME", "Node", "Share", "check_nodes", "nodes_of", "room_of", "share_of", "token_in"]

# Seconds in which a node must start a process and look at its files.
PATIENCE = 90.0
FLAG = "--backend ray"
SAME = "install the same versions on all nodes"
SHARED = "a path that all nodes share"


@dataclass(frozen=True, slots=True)
class Node:
    """A node that is alive."""

    id: str
    address: str
    cpus: int
    gpus: int

    @property
    def title(self) -> str:
        return f"node {self.address}"


@dataclass(frozen=True, slots=True)
class Share:
    """CPUs and GPUs of a node that one model takes."""

    cpus: int
    gpus: int

    def __str__(self) -> str:
        cpus = counted(self.cpus, "CPU")
        return f"{counted(self.gpus, 'GPU')} and {cpus}" if self.gpus else cpus


def nodes_of(ray: Any) -> list[Node]:
    """Return the nodes of a cluster that are alive."""
    return [
        Node(
            one["NodeID"],
            one["NodeManagerAddress"],
            int(one["Resources"].get("CPU", 0)),
            int(one["Resources"].get("GPU", 0)),
        )
        for one in ray.nodes()
        if one["Alive"]
    ]


def share_of(nodes: Sequence[Node], *, device: str, threads: int | None) -> Share:
    """Return what a model takes: a GPU with its part of the CPUs, or all CPUs of the least node.

    Parameters
    ----------
    nodes
        The nodes.
    device
        auto, cuda or cpu; auto is a GPU where any node has one.
    threads
        CPU threads of a model; None: as many as the node has for it.

    Raises
    ------
    UserError
        If no node has it.
    """
    if device not in ("auto", "cuda", "cpu"):
        raise UserError(
            f"--device {device}: with {FLAG}, a model gets the GPU that is free; pass cuda or cpu"
        )
    with_gpus = [one for one in nodes if one.gpus]
    if device == "cuda" and not with_gpus:
        raise UserError("--device cuda: no node of the cluster has a GPU; pass --device cpu")
    if with_gpus and device != "cpu":
        cpus = min(one.cpus // one.gpus for one in with_gpus)
        return Share(max(cpus, 1), 1)
    most = max((one.cpus for one in nodes), default=0)
    if most == 0:
        raise UserError(f"{FLAG}: no node of the cluster has CPUs; add a node with some")
    if threads is not None and threads > most:
        raise UserError(
            f"--threads {threads}: no node of the cluster has so many CPUs; pass at most {most}"
        )
    return Share(threads or min(one.cpus for one in nodes if one.cpus), 0)


def room_of(nodes: Sequence[Node], share: Share) -> int:
    """Return how many models have room on nodes at the same time."""
    return sum(
        min(one.gpus // share.gpus if share.gpus else one.cpus, one.cpus // share.cpus)
        for one in nodes
    )


@dataclass(frozen=True, slots=True)
class _Token:
    """A file that this process writes, and the files that nodes write beside it in answer."""

    file: Path
    secret: str

    def answer(self, node: Node) -> Path:
        return self.file.with_name(node.id)


@contextlib.contextmanager
def token_in(folder: Path) -> Iterator[_Token]:
    """Write a token into a folder for as long as the block lasts."""
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        # Its lock keeps it from a command that sweeps the folder meanwhile.
        with draft_folder(folder / "node") as draft:
            token = _Token(draft.absolute() / "token", secrets.token_hex(8))
            token.file.write_text(token.secret, encoding="utf-8")
            yield token
    finally:
        # The run makes them, if there is one. Another command may use them already.
        with contextlib.suppress(OSError):
            for one in made:
                one.rmdir()


def check_nodes(ray: Any, folder: Path | None, files: Sequence[Path]) -> None:
    """Check that all nodes have our versions and see our files, before anything is trained.

    Parameters
    ----------
    ray
        Ray, connected.
    folder
        Folder of results, which every node must read and write; None: nodes write nothing.
    files
        Files that every node must see.

    Raises
    ------
    UserError
        For the first node that cannot work on the run.
    """
    # A node may lack foldblend, so that the module goes there as source.
    ray.cloudpickle.register_pickle_by_value(probe)
    look = ray.remote(num_cpus=0, max_retries=0)(probe.look)
    paths = [str(file.absolute()) for file in files]
    ours = probe.versions()
    with contextlib.ExitStack() as stack:
        stack.callback(ray.cloudpickle.unregister_pickle_by_value, probe)
        token = None if folder is None else stack.enter_context(token_in(folder))
        asked = []
        for node in nodes_of(ray):
            of_node = None if token is None else (str(token.file), str(token.answer(node)))
            there = look.options(scheduling_strategy=_only_on(node))
            asked.append((node, there.remote(of_node, paths)))
        for node, one in asked:
            try:
                found = ray.get(one, timeout=PATIENCE)
            except ray.exceptions.RayError as error:
                if node not in nodes_of(ray):
                    continue  # it has just died, and nothing will be placed there
                raise UserError(
                    f"{FLAG}: {node.title} did not answer ({in_a_line(error)}); mend it or take it"
                    " out of the cluster"
                ) from None
            other = probe.difference(ours, found["versions"], "this machine")
            if other is not None:
                raise UserError(f"{FLAG}: {node.title} {other}; {SAME}")
            if token is not None:
                _check_shared(node, found, token, folder)
            for file, size in zip(files, found["files"], strict=True):
                if size != file.stat().st_size:
                    raise UserError(
                        f"{file}: {node.title} does not see this file; put it under {SHARED}"
                    )


def _only_on(node: Node) -> Any:
    """Return Ray's strategy that places a task on a node."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node.id, soft=False)


def _check_shared(node: Node, found: Mapping[str, Any], token: _Token, folder: Path | None) -> None:
    """Raise UserError if a node does not read and write the folder of results."""
    if found["token"] == token.secret and token.answer(node).exists():
        return
    why = f" ({found['problem']})" if found["problem"] else ""
    raise UserError(
        f"--output {folder}: {node.title} does not share this folder{why}; pass {SHARED}"
    )
