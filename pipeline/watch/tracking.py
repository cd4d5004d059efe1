"""Logging of a fold's scores, images and settings to TensorBoard and Weights & Biases.

Nothing here uses random numbers or changes a model, so a run gives exactly the same results with
and without logging.
"""

from __future__ import annotations

import hashlib
import importlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from foldblend.attributes import Attribute, attribute_view
from foldblend.cli import Say
from foldblend.errors import UserError, in_a_line, printable
from foldblend.progress import write
from foldblend.scores.metrics import METRICS
from reports.tiles import confusion_image, legible, tile

__all__ = ["Trackers", "attribute_scores", "open_trackers", "require_wandb", "tracking_id"]


class _Backend(Protocol):
    """A logging backend; images are finished when it receives them."""

    name: str

    def scalars(self, values: Mapping[str, float], step: int) -> None: ...
    def image(self, tag: str, image_HWC: np.ndarray, step: int) -> None: ...
    def hparams(self, settings: Mapping[str, Any], scores: Mapping[str, float]) -> None: ...
    def close(self, *, failed: bool) -> None: ...


class _TensorBoard:
    name = "TensorBoard"

    def __init__(self, folder: Path, purge_step: int) -> None:
        # Late, because TensorBoard takes 0.3 s to import and only training writes events.
        from torch.utils.tensorboard import summary

        from pipeline.watch.events import Events

        self._summaries = summary
        self._events = Events(folder, purge_step)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for tag, value in values.items():
            self._events.add(self._summaries.scalar(tag, value), step)

    def image(self, tag: str, image_HWC: np.ndarray, step: int) -> None:
        self._events.add(self._summaries.image(tag, image_HWC, dataformats="HWC"), step)

    def hparams(self, settings: Mapping[str, Any], scores: Mapping[str, float]) -> None:
        # torch's add_hparams would start a second run and declare the columns of the table.
        # TensorBoard uses only the first declaration that it reads; without any, it shows the
        # columns of all runs.
        # Paths may have bytes that are no UTF-8.
        plain = {
            name: value if type(value) in (int, float) else printable(str(value))
            for name, value in settings.items()
        }
        _, start, end = self._summaries.hparams(plain, {})
        for part in (start, end):
            self._events.add(part)
        self.scalars({f"hparam/{name}": value for name, value in scores.items()}, 0)

    def close(self, *, failed: bool) -> None:
        self._events.close()


def require_wandb() -> Any:
    """Return the wandb package; raise UserError if it is not installed."""
    try:
        wandb = importlib.import_module("wandb")
    except ImportError:
        wandb = None
    # A folder `wandb` with files of earlier runs can be imported as a package, but is not wandb.
    if not hasattr(wandb, "init"):
        raise UserError("--wandb: the package is not installed; pip install wandb")
    return wandb


class _Wandb:
    """One W&B run per fold; WANDB_MODE, WANDB_PROJECT and the other variables are respected."""

    name = "W&B"

    def __init__(self, folder: Path, *, run_name: str, fold_title: str, run_id: str) -> None:
        self._wandb = require_wandb()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._run = self._wandb.init(
                project=os.environ.get("WANDB_PROJECT", "foldblend"),
                group=run_name,
                name=f"{run_name}/{fold_title}",
                id=run_id,
                resume="allow",
                dir=str(folder),
                # A run that the caller has open stays unchanged.
                reinit="create_new",
                settings=self._wandb.Settings(console="off"),
            )
        except (self._wandb.errors.Error, ValueError) as error:
            # ValueError: an environment variable of wandb has an invalid value.
            reason = " ".join(str(error).split())[:200].rstrip(".")
            raise UserError(
                f"--wandb: {reason}; run wandb login, or set WANDB_MODE=offline"
            ) from None
        # The built-in step of wandb can only grow, so it would drop the steps that a continued fold
        # repeats. A separate metric is used as the x axis instead.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log({**values, "step": step})

    def image(self, tag: str, image_HWC: np.ndarray, step: int) -> None:
        self._run.log({tag: self._wandb.Image(image_HWC), "step": step})

    def hparams(self, settings: Mapping[str, Any], scores: Mapping[str, float]) -> None:
        kept = (int, float, str, bool, type(None))
        plain = {
            name: value if type(value) in kept else str(value) for name, value in settings.items()
        }
        self._run.config.update(plain, allow_val_change=True)
        self._run.summary.update({f"hparam/{name}": value for name, value in scores.items()})

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class Trackers:
    """All logging backends of a fold, as a context manager; with none, nothing is logged.

    Images are drawn once and passed to every backend. A backend whose files cannot be written is
    given up, because training is worth more than its curves.
    """

    def __init__(self, backends: Sequence[_Backend] = (), say: Say = write) -> None:
        self._backends = [*backends]
        self._say = say

    def _each(self, do: Callable[[_Backend], None]) -> None:
        for backend in [*self._backends]:
            try:
                do(backend)
            except OSError as error:
                self._backends.remove(backend)
                _say_lost(self._say, backend.name, error)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add a point to each curve; it is on disk when this returns."""
        self._each(lambda backend: backend.scalars(values, step))

    def images(
        self, tag: str, images_NHWC: np.ndarray, captions: Sequence[str] | None, step: int
    ) -> None:
        """Show uint8 images as one grid; without images, show nothing."""
        if len(images_NHWC) and self._backends:
            grid_HWC = tile(legible(images_NHWC), captions, math.ceil(math.sqrt(len(images_NHWC))))
            self._each(lambda backend: backend.image(tag, grid_HWC, step))

    def confusion(
        self, tag: str, counts_CC: np.ndarray, class_names: Sequence[str], step: int
    ) -> None:
        """Show a confusion matrix with true classes as rows and predicted ones as columns."""
        if self._backends:
            image_HWC = confusion_image(counts_CC, class_names)
            self._each(lambda backend: backend.image(tag, image_HWC, step))

    def hparams(self, settings: Mapping[str, Any], scores: Mapping[str, float]) -> None:
        """Add settings and scores to the table that compares runs."""
        self._each(lambda backend: backend.hparams(settings, scores))

    def close(self, *, failed: bool = False) -> None:
        """Close all backends; `failed` marks the run as failed."""
        self._each(lambda backend: backend.close(failed=failed))

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(failed=kind is not None)


def _say_lost(say: Say, name: str, error: OSError) -> None:
    why = error.strerror or in_a_line(error)
    say(f"warning: {name}: its log cannot be written ({why}); training goes on without it")


def open_trackers(
    folder: Path,
    *,
    run_name: str,
    fold_title: str,
    run_id: str,
    use_wandb: bool,
    purge_step: int,
    say: Say = write,
) -> Trackers:
    """Open the logging backends of a fold.

    Parameters
    ----------
    folder
        Folder of the fold. TensorBoard writes to its subfolder ``tb``, W&B to ``wandb``.
    run_name, fold_title, run_id
        Names in W&B, and the id by which it continues a run.
    use_wandb
        Whether to log to W&B as well.
    purge_step
        Points that an earlier process logged for this step or later are replaced.
    say
        Function that gets a line if the log of TensorBoard cannot be written.

    Raises
    ------
    UserError
        If wandb is not installed or cannot start a run.
    """
    backends: list[_Backend] = []
    if use_wandb:
        backends.append(_Wandb(folder, run_name=run_name, fold_title=fold_title, run_id=run_id))
    try:
        backends.append(_TensorBoard(folder / "tb", purge_step))
    except OSError as error:
        _say_lost(say, _TensorBoard.name, error)
    return Trackers(backends, say)


def tracking_id(run_name: str, run_key: Mapping[str, str], index: int) -> str:
    """Return the id by which W&B continues a fold, from run name, hashes and model number.

    Examples
    --------
    >>> tracking_id("run", {"data": "1"}, 0) == tracking_id("run", {"data": "1"}, 1)
    False
    """
    text = repr((run_name, sorted(run_key.items()), index))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def attribute_scores(
    label_N: np.ndarray, proba_NC: np.ndarray, attributes: Sequence[Attribute]
) -> dict[str, float]:
    """Return the macro F1 of each attribute, with keys "val/<attribute>_f1_macro".

    As in the report, the values of an attribute follow from the classes.
    """
    return {
        f"val/{one.name}_f1_macro": METRICS["f1_macro"].score(
            *attribute_view(one, label_N, proba_NC)
        )
        for one in attributes
    }
