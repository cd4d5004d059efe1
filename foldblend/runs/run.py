"""Reading of a finished run from its folder."""

from __future__ import annotations

import functools
import html
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from foldblend.attributes import Attribute
from foldblend.errors import UserError, listed
from foldblend.reading import read_yaml_file
from foldblend.runs.estimator import Estimator
from foldblend.runs.folder import (
    FORMAT,
    file_hash,
    ids_hash,
    logit_columns,
    read_csv_as_text,
    read_json,
    read_table,
)
from foldblend.runs.info import RunInfo
from foldblend.runs.submission import SubmissionForm, read_form
from foldblend.scores.metrics import TITLES, is_ordered
from foldblend.words import plural

__all__ = ["TEST_LABELS", "Run"]

TEST_LABELS = "test_labels.csv"


@dataclass(frozen=True)
class Run(Estimator):
    """A finished run, TTA'd run or blend on disk; tables are read on first access.

    Neither torch nor the images are needed, except to predict. `predict`, `predict_proba` and
    `score` make it a fitted classifier of images, which scikit-learn can use.

    Examples
    --------
    >>> run = fb.load(outputs / "alpha")
    >>> run.classes[:2], run.oof.shape, run.test.shape
    (('worn, male, <30', 'worn, male, 30-59'), (84, 24), (42, 19))
    >>> run.report["headline"].keys()
    dict_keys(['value', 'low', 'high'])
    """

    path: Path
    """Folder of the run."""

    def __repr__(self) -> str:
        """Return path, score and size on one line, or only the path of an unfinished run."""
        try:
            facts = self._facts()
        except (UserError, LookupError, TypeError, ValueError, AttributeError):
            return f"Run({str(self.path)!r})"
        return (
            f"Run({str(self.path)!r}:"
            f" {'; '.join(f'{name} {value}' for name, value in facts.items())})"
        )

    def _repr_html_(self) -> str:
        """Return the same facts as an HTML table, which notebooks show."""
        try:
            facts = self._facts()
        except (UserError, LookupError, TypeError, ValueError, AttributeError):
            facts = {}
        cells = [(html.escape(name), html.escape(value)) for name, value in facts.items()]
        rows = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in cells)
        return f"<table><caption>{html.escape(str(self.path))}</caption>{rows}</table>"

    def _facts(self) -> dict[str, str]:
        """Return the score and size of the run as text, by name."""
        report = self.report
        data = self.info["data"]
        head = report["headline"]
        spelt = [
            "none" if one is None else f"{one:.4f}"
            for one in (head["value"], head["low"], head["high"])
        ]
        return {
            "OOF " + TITLES[report["metric"]]: f"{spelt[0]} [{spelt[1]}, {spelt[2]}]",
            "data": str(data["name"]),
            "images": f"{report['num_images']:,} of {report['num_groups']:,} {self.groups}",
            "classes": str(len(self.classes)),
            "folds": (
                str(self.info["num_folds"])
                + (f" x {n}" if (n := self.info["num_repeats"]) > 1 else "")
            ),
        }

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @functools.cached_property
    def info(self) -> RunInfo:
        """Content of run.json: status, kind, data, classes and more (see `foldblend.runs.info`)."""
        info = read_json(self.path / "run.json")
        if not isinstance(info, dict) or info.get("format") != FORMAT:
            raise UserError(
                f"{self.path}/run.json: format is not {FORMAT}; run it again with this version"
            )
        return cast("RunInfo", info)

    @functools.cached_property
    def settings(self) -> dict[Any, Any]:
        """Settings of the run (config.yaml) or blend (blend.yaml); empty if they cannot be read."""
        file = next(
            (
                file
                for name in ("config", "blend")
                if (file := self.path / f"{name}.yaml").is_file()
            ),
            None,
        )
        try:
            settings = {} if file is None else read_yaml_file(file, cure="run it again")
        except UserError:
            settings = {}
        return settings if isinstance(settings, dict) else {}

    @property
    def frozen(self) -> bool:
        """Return whether the models are linear heads on one frozen backbone."""
        return self.settings.get("finetune") == "head"

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.info["classes"])

    @property
    def group_name(self) -> str:
        """Name of a group in the singular, such as "patient"."""
        return str(self.info["data"].get("group_name") or "group")

    @property
    def groups(self) -> str:
        """Name of groups in the plural, such as "patients"."""
        return plural(self.group_name)

    @property
    def ordered(self) -> bool:
        """True if the classes have an order, or if the run does not record whether they do."""
        # Runs of earlier versions may have been scored by quadratic kappa.
        return is_ordered(self.classes, bool(self.info.get("ordered", True)))

    @property
    def submission(self) -> SubmissionForm | None:
        """Form of submission.csv, or None where the run records none."""
        return read_form(self.path, self.info)

    @property
    def test_labels(self) -> pd.DataFrame | None:
        """Labels of test images: image_id, label, class and maybe group; None without any."""
        file = self.path / TEST_LABELS
        return read_csv_as_text(file).astype({"label": int}) if file.is_file() else None

    @functools.cached_property
    def ids_hash(self) -> str:
        """Hash of the names of the labelled images; equal for runs on the same data set."""
        known = self.info["data"].get("train_ids_hash")
        # Runs of earlier versions, and those made by other programs, may lack it.
        if known is None:
            file = self.path / "oof.parquet"
            ids = read_table(file, columns=["image_id"])["image_id"]
            if ids.isna().any():
                raise UserError(
                    f"{file}: {int(ids.isna().sum())} rows have no image_id; run it again"
                )
            known = ids_hash(map(str, ids.unique()))
        return str(known)

    def table_hash(self, name: str) -> str:
        """Return the hash of the parquet file of a table, such as "test".

        Raises UserError if the file is missing.
        """
        file = self.path / f"{name}.parquet"
        if not file.is_file():
            raise UserError(f"{file}: no such file; run it again, or leave this run out")
        return file_hash(file)

    @functools.cached_property
    def oof_hash(self) -> str:
        """Hash of oof.parquet, which identifies the run in blends."""
        return self.table_hash("oof")

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        return tuple(
            Attribute(
                name=item["name"],
                values=tuple(item["values"]),
                of_class=tuple(item["of_class"]),
                ordered=bool(item.get("ordered", False)),
            )
            for item in self.info["attributes"]
        )

    @functools.cached_property
    def oof(self) -> pd.DataFrame:
        """Out-of-fold rows: image_id, group, label, label_raw, repeat, fold, logit_0, ..."""
        return read_table(self.path / "oof.parquet")

    @functools.cached_property
    def test(self) -> pd.DataFrame | None:
        """Test rows: image_id, logit_0, ... (mean over folds), or None without a test set."""
        return read_table(self.path / "test.parquet") if self.info.get("has_test") else None

    def test_fold(self, fold: int) -> pd.DataFrame:
        """Return the test rows predicted by the model of one fold: image_id, logit_0, ..."""
        return read_table(self.path / f"test_fold_{fold}.parquet")

    @property
    def report(self) -> dict[str, Any]:
        """Content of report.json."""
        return dict(read_json(self.path / "report.json"))

    def logits(self, table: pd.DataFrame) -> np.ndarray:
        """Return the logits of a table of this run, N x C float32.

        Raises UserError if a logit column is missing.
        """
        absent = set(logit_columns(len(self.classes))) - set(table.columns)
        if absent:
            raise UserError(f"{self.path}: a table lacks {listed(sorted(absent))}; run it again")
        return table[logit_columns(len(self.classes))].to_numpy(np.float32)
