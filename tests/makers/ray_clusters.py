"""Ray clusters of several nodes on this machine."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# The least that Ray takes.
MEMORY = 80 * 2**20


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Nodes:
    """A head without CPUs, and nodes with one each."""

    def __init__(self, cluster: Any, client_port: int) -> None:
        self.cluster = cluster
        self.address = str(cluster.address)
        self.client = f"ray://127.0.0.1:{client_port}"
        self.nodes: list[Any] = []

    def add(self, **more: Any) -> Any:
        node = self.cluster.add_node(num_cpus=1, object_store_memory=MEMORY, **more)
        self.nodes.append(node)
        return node

    def workers(self) -> list[int]:
        """Return the processes that work for us on the nodes; other tests have clusters too."""
        raylets = {node.all_processes["raylet"][0].process.pid for node in self.nodes}
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                name = (place / "cmdline").read_bytes()
                # The name of the program, which may have blanks, is in parentheses.
                parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if name.startswith(b"ray::Worker") and parent in raylets:
                found.append(int(place.name))
        return found

    def kill(self, node: Any) -> None:
        """Kill a node with all of its processes, as a power cut does."""
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)


@contextlib.contextmanager
def ray_nodes(num: int) -> Iterator[Nodes]:
    """Start a cluster of `num` nodes of one CPU each, and a server for clients."""
    from ray.cluster_utils import Cluster

    port = free_port()
    head = {
        "num_cpus": 0,
        "object_store_memory": MEMORY,
        "include_dashboard": False,
        "ray_client_server_port": port,
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        made = Nodes(cluster, port)
        for _ in range(num):
            made.add()
        yield made
    finally:
        cluster.shutdown()


def path_of_another(folder: Path, name: str, version: str) -> str:
    """Return a PYTHONPATH on which a distribution has another version."""
    about = folder / f"{name}-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
