"""Seeing a fold train: its scores, images and settings, to TensorBoard and to Weights & Biases.

Nothing here draws from a generator or touches a model, so that a run is the same to the bit with or
without it.
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
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard import summary as summaries
from tqdm import tqdm

from foldblend.attributes import Attribute, attribute_view
from foldblend.errors import UserError
from foldblend.scores.metrics import METRICS
from reports.tiles import confusion_picture, legible, tile

__all__ = ["Trackers", "attribute_scores", "open_trackers", "require_wandb", "tracking_id"]


class _Board(Protocol):
    """A logging backend, which is handed images already drawn."""

    def scalars(self, values: Mapping[str, float], step: int) -> None: ...
    def picture(self, tag: str, picture_HWC: np.ndarray, step: int) -> None: ...
    def hparams(self, settings: Mapping[str, Any], scores: Mapping[str, float]) -> None: ...
    def close(self, *, failed: bool) -> None: ...


class _TensorBoard:
    def __init__(self, folder: Path, purge_step: int) -> None:
        self._board = SummaryWriter(str(folder), purge_step=purge_step)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for tag, value in values.items():
            self._board.add_scalar(tag, value, step)
        self._board.flush()  # what a killed process leaves must reach up to its last checkpoint

    def picture(self, tag: str, picture_HWC: np.ndarray, step: int) -> None:
        self._board.add_image(tag, picture_HWC, step, dataformats="HWC")

    def hparams(self, settings: Mapping[str, Any], scores: Mapping[str, float]) -> None:
        # add_hparams would start a run of its own, and declare which columns there are: TensorBoard
        # keeps to the first declaration that it meets, but joins the columns of all runs where
        # there is none.
        plain = {
            name: value if type(value) in (int, float, str) else str(value)
            for name, value in settings.items()
        }
        _, start, end = summaries.hparams(plain, {})
        for part in (start, end):
            self._board._get_file_writer().add_summary(part)
        self.scalars({f"hparam/{name}": value for name, value in scores.items()}, 0)

    def close(self, *, failed: bool) -> None:
        self._board.close()


def require_wandb() -> Any:
    """Return the wandb package. Raises UserError where it is not installed."""
    try:
        wandb = importlib.import_module("wandb")
    except ImportError:
        wandb = None
    if not hasattr(wandb, "init"):  # a folder that wandb wrote its runs to passes for a package
        raise UserError("--wandb: the package is not installed; pip install wandb")
    return wandb


class _Wandb:
    """A run a fold; WANDB_MODE, WANDB_PROJECT and the other variables of wandb hold."""

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
                reinit="create_new",  # a run that the caller may have open stays theirs
                settings=self._wandb.Settings(console="off"),
            )
        except (
            self._wandb.errors.Error,
            ValueError,
        ) as error:  # the latter for a variable that is none of its words
            reason = " ".join(str(error).split())[:200].rstrip(".")
            raise UserError(
                f"--wandb: {reason}; run wandb login, or set WANDB_MODE=offline"
            ) from None
        # An axis of our own: wandb's only ever grows, and would drop the steps that a continued
        # fold repeats.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log({**values, "step": step})

    def picture(self, tag: str, picture_HWC: np.ndarray, step: int) -> None:
        self._run.log({tag: self._wandb.Image(picture_HWC), "step": step})

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
    """What a fold tells of itself, drawn once and told to all boards; a context manager. Without
    boards, nothing.
    """

    def __init__(
        self, boards: Sequence[_Board] = (), *, say: Callable[[str], None] = tqdm.write
    ) -> None:
        self._boards = boards
        self._say = say

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add a point to each curve; on disk when this returns."""
        for board in self._boards:
            board.scalars(values, step)

    def pictures(
        self, tag: str, images_NHWC: np.ndarray, captions: Sequence[str] | None, step: int
    ) -> None:
        """Show images, uint8, as one grid; none at all is nothing to show."""
        if len(images_NHWC) and self._boards:
            picture_HWC = tile(
                legible(images_NHWC), captions, math.ceil(math.sqrt(len(images_NHWC)))
            )
            for board in self._boards:
                board.picture(tag, picture_HWC, step)

    def confusion(
        self, tag: str, counts_CC: np.ndarray, class_names: Sequence[str], step: int
    ) -> None:
        """Show a confusion matrix, true classes down, predicted ones across."""
        if self._boards:
            picture_HWC = confusion_picture(counts_CC, class_names)
            for board in self._boards:
                board.picture(tag, picture_HWC, step)

    def hparams(self, settings: Mapping[str, Any], scores: Mapping[str, float]) -> None:
        """Add the run to the table that compares runs."""
        for board in self._boards:
            board.hparams(settings, scores)

    def close(self, *, failed: bool = False) -> None:
        """Finish writing."""
        for board in self._boards:
            board.close(failed=failed)

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(failed=kind is not None)


def open_trackers(
    folder: Path,
    *,
    run_name: str,
    fold_title: str,
    run_id: str,
    use_wandb: bool,
    purge_step: int,
    say: Callable[[str], None] = tqdm.write,
) -> Trackers:
    """Return what a fold reports to: `folder`/tb, and with `use_wandb` a run whose files are in
    `folder`/wandb.

    Points that an earlier process wrote at `purge_step` or later are replaced. Raises UserError
    where wandb is missing or refuses.
    """
    boards: list[_Board] = []
    if use_wandb:
        boards.append(_Wandb(folder, run_name=run_name, fold_title=fold_title, run_id=run_id))
    boards.append(_TensorBoard(folder / "tb", purge_step))
    return Trackers(boards, say=say)


def tracking_id(run_name: str, run_key: Mapping[str, str], index: int) -> str:
    """Return the id by which wandb knows a fold again: of the run's name and hashes and the model's
    number.
    """
    text = repr((run_name, sorted(run_key.items()), index))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def attribute_scores(
    label_N: np.ndarray, proba_NC: np.ndarray, attributes: Sequence[Attribute]
) -> dict[str, float]:
    """Return {"val/<attribute>_f1_macro": score}, as the report scores the values that classes
    imply.
    """
    return {
        f"val/{one.name}_f1_macro": METRICS["f1_macro"].score(
            *attribute_view(one, label_N, proba_NC)
        )
        for one in attributes
    }
