"""Exported file as a run: what it holds of the run's folder, and its predictions."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pandas as pd

from foldblend.errors import UserError
from foldblend.runs.info import RunInfo
from foldblend.runs.run import Run
from pipeline.export.read import read_export
from pipeline.predict.open import Predictor

__all__ = ["ExportedRun", "load_export"]


@dataclass(frozen=True, repr=False)
class ExportedRun(Run):
    """A run in a file of `export_model`: it predicts, but has no tables of rows.

    Examples
    --------
    >>> file = fb.export_model(outputs / "alpha", output / "model.zip", say=silent)
    >>> run = fb.load(file)
    >>> run.classes == fb.load(outputs / "alpha").classes
    True
    """

    @functools.cached_property
    def _predictor(self) -> Predictor:
        return read_export(self.path, say=lambda line: None)

    def __getstate__(self) -> dict[str, Any]:
        # Another process reads the file again.
        return {"path": self.path}

    @property
    def name(self) -> str:
        return self._predictor.name

    @functools.cached_property
    def info(self) -> RunInfo:
        """The part of run.json that prediction needs."""
        return cast("RunInfo", dict(self._predictor.info))

    @functools.cached_property
    def settings(self) -> dict[Any, Any]:
        """Settings with which the images of the training were read."""
        return dict(self._predictor.settings)

    @property
    def report(self) -> dict[str, Any]:
        """The part of report.json that the model card has."""
        return dict(self._predictor.extras.get("report", {}))

    def _no_rows(self, what: str) -> UserError:
        return UserError(f"{self.path}: an exported file has no {what}; load the run's folder")

    @functools.cached_property
    def oof(self) -> pd.DataFrame:
        """Raise UserError: the rows are in the run's folder."""
        raise self._no_rows("out-of-fold rows")

    @functools.cached_property
    def test(self) -> pd.DataFrame | None:
        """Raise UserError: the rows are in the run's folder."""
        raise self._no_rows("test rows")

    def test_fold(self, fold: int) -> pd.DataFrame:
        """Raise UserError: the rows are in the run's folder."""
        raise self._no_rows("test rows")


def load_export(path: str | Path) -> ExportedRun:
    """Return the run in an exported file, after a check of the whole file.

    Raises UserError if it is damaged or no exported file.
    """
    run = ExportedRun(Path(path))
    run.info  # noqa: B018 - reads the file
    return run
