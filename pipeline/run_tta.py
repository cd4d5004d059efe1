"""Test-time augmentation of a finished run with its own models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foldblend.cli import Say
from foldblend.flags import from_settings
from foldblend.progress import write
from foldblend.runs.run import Run
from tta.config import TtaConfig
from tta.stage import augment_run

__all__ = ["run_tta"]


def _add_views(folder: Path, names: Sequence[str], *, say: Say, **further: Any) -> object:
    # Merging and choosing views need no torch, which takes seconds to import.
    from pipeline.view_logits import add_views

    return add_views(folder, names, say=say, **further)


def run_tta(run: str | Path | Run, *, say: Say = write, **settings: Any) -> Run:
    """Predict further views of a finished run's images, and write the merged run.

    Each image is predicted in each view by the models of the run, and the predictions are merged.

    Parameters
    ----------
    run
        A cross-validated run, or its folder.
    say
        Function that prints one line of the log.
    settings
        Settings by keyword, spelt as the flags of run_tta.py (fields of `tta.config.TtaConfig`):
        `views`, `merge`, `budget`, `name` ...

    Returns
    -------
    Run
        The new run, in the same output folder. Its out-of-fold predictions are cross-fitted.

    Raises
    ------
    UserError
        For an unfinished run, changed data, or an unknown view.

    Examples
    --------
    >>> flipped = fb.run_tta(outputs / "beta", views="hflip", name="turned", page=False, say=silent)
    >>> flipped.info["kind"], flipped.info["views"]
    ('tta', ['identity', 'hflip'])
    """
    folder = run.path if isinstance(run, Run) else run
    config = from_settings(TtaConfig, {**settings, "run": str(folder)})
    return augment_run(config, add_views=_add_views, say=say)
