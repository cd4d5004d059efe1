"""Test-time augmentation of a finished run, with the models that this package trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foldblend.cli import Say
from foldblend.flags import from_settings
from foldblend.runs.run import Run
from tta.config import TtaConfig
from tta.stage import augment_run

__all__ = ["run_tta"]


def _add_views(folder: Path, names: Sequence[str], *, say: Say, **machine: Any) -> object:
    from pipeline.view_logits import add_views  # torch, which merging and choosing do without

    return add_views(folder, names, say=say, **machine)


def run_tta(run: str | Path | Run, *, say: Say = print, **settings: Any) -> Run:
    """Show a finished run's images to its models in more views, and write the merged predictions as
    a new run.

    Parameters
    ----------
    run
        A cross-validated run, or its folder.
    say
        Where progress goes.
    settings
        Fields of `tta.config.TtaConfig`, spelt as the flags of run_tta.py: `views`, `merge`,
        `budget`, `name` ...

    Returns
    -------
    Run
        The new run, beside the old one. Its out-of-fold predictions are cross-fitted.

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
