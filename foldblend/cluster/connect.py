"""Connection to a Ray cluster that exists, and an answer within seconds where there is none."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from foldblend.cluster.names import AUTO, CLIENT, FLAG, check_address
from foldblend.errors import UserError, in_a_line

__all__ = ["connected", "head_answers"]

# Seconds in which a cluster must answer. Ray itself tries for minutes.
PATIENCE = 5.0
# What is asked of the head of a cluster, and of its server for clients.
SERVICES = {False: "/grpc.health.v1.Health/Check", True: "/ray.rpc.RayletDriver/ClusterInfo"}
VARIABLE = "RAY_ADDRESS"
CURE = "start a cluster (ray start --head), or pass the address of one that runs"


def _ray() -> Any:
    """Import Ray. Raises UserError where it is not installed."""
    # Read when Ray is imported; nothing is to be sent to its makers unasked.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Where a connection is lost, Ray must not join another cluster that it finds.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    try:
        import ray
    except ImportError:
        raise UserError(
            "--backend ray: needs Ray; pip install 'foldblend[ray]', or leave the flag out"
        ) from None
    _silence()
    return ray


def _silence() -> None:
    """Let Ray print no pages of a lost node's state to standard output, where a table may go.

    The command says in one line that the node was lost. Ray has no setting for it.
    """
    from ray._private import worker

    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = lambda *_, **__: None


def _named(address: str) -> tuple[str, str]:
    """Return the address that auto stands for, and what names it, for messages.

    It is $RAY_ADDRESS, else the cluster of this machine. Raises UserError where there is none.
    """
    asked = os.environ.get(VARIABLE, "") if address == AUTO else address
    source = f"${VARIABLE}" if address == AUTO else FLAG
    if asked not in ("", AUTO):
        check_address(asked, source)
        return asked, source
    # Ray has no public function that finds the cluster of this machine without joining it.
    from ray._private.services import canonicalize_bootstrap_address

    try:
        found = canonicalize_bootstrap_address(AUTO)
    except (ConnectionError, ValueError):
        found = None
    if found is None:
        raise UserError(f"{FLAG} {AUTO}: no Ray cluster runs on this machine; {CURE}")
    return str(found), f"{FLAG} {AUTO}"


def _problem(address: str) -> str | None:
    """Return why no Ray cluster answers at an address, or None if one does: it speaks gRPC."""
    import grpc

    is_client = address.startswith(CLIENT)
    channel = grpc.insecure_channel(
        address.removeprefix(CLIENT), options=[("grpc.enable_http_proxy", 0)]
    )
    try:
        call = channel.unary_unary(SERVICES[is_client])
        call(b"", timeout=PATIENCE, wait_for_ready=True)
    except grpc.RpcError as error:
        code = error.code()
        if code == grpc.StatusCode.NOT_FOUND and is_client:
            return None  # a server for clients that knows none of ours yet
        if code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE):
            return f"nothing answered within {PATIENCE:.0f} s"
        return "what answers there is no Ray cluster"
    finally:
        channel.close()
    return None


def head_answers(ray: Any) -> bool:
    """Return whether the head of the cluster that this process is connected to answers."""
    if ray.util.client.ray.is_connected():
        return True  # Ray watches the connection of a client itself
    return _problem(ray.get_runtime_context().gcs_address) is None


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _sigterm() -> Iterator[Callable[[], object]]:
    """Return a function that takes SIGTERM back from Ray, which prints its stack and exits.

    In the block the signal then ends the command as Ctrl-C does, so that no process is left on a
    node. A handler of the caller's own is kept.
    """
    before = signal.getsignal(signal.SIGTERM)
    if before is None or threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    ours = _interrupt if before is signal.SIG_DFL else before
    try:
        yield lambda: signal.signal(signal.SIGTERM, ours)
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """Connect to a cluster and return Ray's module; the connection of a caller is used and kept.

    Parameters
    ----------
    address
        auto, host:port, or ray://host:port for a cluster that this machine is no part of.

    Raises
    ------
    UserError
        If Ray is not installed, nothing answers, or the cluster has another version.
    """
    ray = _ray()
    if ray.is_initialized():
        yield ray
        return
    asked, source = _named(address)
    problem = _problem(asked)
    if problem is not None:
        raise UserError(f"{source} {asked}: {problem}; {CURE}")
    with _sigterm() as take:
        try:
            ray.init(address=asked, log_to_driver=False, logging_level="ERROR")
        except Exception as error:
            why = in_a_line(error)
            raise UserError(
                f"{source} {asked}: the cluster cannot be joined ({why}); install the same versions"
                " of Ray and Python here and there"
            ) from None
        try:
            take()
            yield ray
        finally:
            ray.shutdown()
