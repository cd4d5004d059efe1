"""torch.compile of training steps, which is tried on a batch before it is used."""

from __future__ import annotations

import contextlib
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from foldblend.errors import UserError, in_a_line
from foldblend.locks import hold
from pipeline.memory import is_out_of_memory

__all__ = ["compiles", "is_known_to_fail"]

LOCK = "foldblend.lock"
# Start of what torch adds to errors of its compiler.
HINT = " Set TORCHDYNAMO_VERBOSE"
# Backbones and devices for which compiling has failed in this process, and those whose time is
# said. Later folds need neither another failure nor another line.
_failed: set[tuple[str, str]] = set()
_said: set[tuple[str, str]] = set()


@dataclass(frozen=True, slots=True)
class _Trial:
    """Outcome of a training step of which nothing remains."""

    problem: str | None = None
    """Error on one line, None if the step worked."""
    ran_out: bool = False
    """Whether memory ran out."""


def is_known_to_fail(backbone: str, device: torch.device) -> bool:
    """Return whether this process could not compile a backbone's steps on such a device."""
    return (backbone, device.type) in _failed


def _is_caused_by_memory(error: BaseException | None) -> bool:
    """Return whether memory ran out, also where the compiler wraps the error."""
    while error is not None:
        if is_out_of_memory(error) or "CUDA out of memory" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def _undone(model: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """Restore a model's buffers and torch's random states at the end, and drop its gradients."""
    kept = [
        (module._buffers, name, one, None if one is None else one.detach().clone())
        for module in model.modules()
        for name, one in module._buffers.items()
    ]
    random = torch.get_rng_state()
    on_gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    try:
        yield
    finally:
        with torch.no_grad():
            for buffers, name, one, before in kept:
                # A forward pass may also put another tensor in a buffer's place.
                buffers[name] = one
                if one is not None and before is not None:
                    one.copy_(before)
        model.zero_grad(set_to_none=True)
        torch.set_rng_state(random)
        if on_gpu is not None:
            torch.cuda.set_rng_state(on_gpu, device)


def _try_step(step: Callable[[], object], model: torch.nn.Module, device: torch.device) -> _Trial:
    """Run a training step and undo it, and return whether it worked.

    Errors for people are raised, since they do not come from the compiler.
    """
    with _undone(model, device):
        try:
            step()
        except UserError:
            raise
        except Exception as error:  # the compiler and its programs may raise anything
            # The error itself would keep the tensors of the step alive.
            return _Trial(in_a_line(error).split(HINT)[0], _is_caused_by_memory(error))
    return _Trial()


@contextlib.contextmanager
def _one_at_a_time(say: Callable[[str], None]) -> Iterator[None]:
    """Let one process of a user compile at a time, so that the others find its result on disk."""
    with contextlib.ExitStack() as stack:
        # Without the lock, each process compiles for itself.
        with contextlib.suppress(OSError, UserError, ImportError):
            from torch._inductor.runtime.cache_dir_utils import cache_dir

            folder = Path(cache_dir())
            folder.mkdir(parents=True, exist_ok=True)
            wait = "waiting for another process that compiles its training steps"
            stack.enter_context(hold(folder / LOCK, wait=lambda: say(wait)))
        yield


def compiles(
    model: torch.nn.Module,
    step: Callable[[bool], object],
    halve: Callable[[], bool],
    *,
    backbone: str,
    device: torch.device,
    say: Callable[[str], None],
) -> bool:
    """Return whether compiled training steps work here, after a trial; say so.

    The trial leaves weights, buffers, gradients and torch's random states as they were.

    Parameters
    ----------
    model
        The model that the step trains.
    step
        Computes the gradients of a batch, compiled or not.
    halve
        Makes the step need less memory, and returns False where it cannot.
    backbone
        Name of the model, for which a failure is remembered in this process.
    device
        The device of the model.
    say
        Writes a line to the log.
    """
    key = (backbone, device.type)
    with _one_at_a_time(say):
        start = time.perf_counter()
        while (trial := _try_step(lambda: step(True), model, device)).ran_out and halve():
            pass
    if trial.problem is None:
        if key not in _said:
            say(f"training steps are compiled ({time.perf_counter() - start:.0f} s)")
        _said.add(key)
        return True
    # If the step fails without the compiler as well, the real one has a better message.
    plain = _try_step(lambda: step(False), model, device)
    if plain.problem is None or plain.ran_out:
        _failed.add(key)
        say(
            f"torch.compile does not work here ({trial.problem}); training goes on without it"
            + _cure()
        )
    return False


def _cure() -> str:
    """Return what helps where the headers of Python are missing, "" elsewhere."""
    if (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return ""
    return (
        ": the compiler needs Python.h, so install the headers of this Python (python3-dev), or"
        " pass --compile off"
    )
