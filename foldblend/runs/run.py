"""Reading of a finished run from its folder."""

from __future__ import annotations

import dataclasses
import functools
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from foldblend.attributes import Attribute
from foldblend.errors import UserError, listed, shown
from foldblend.files import is_file
from foldblend.reading import read_yaml_file
from foldblend.runs.broken import BrokenRun
from foldblend.runs.estimator import Estimator
from foldblend.runs.folder import (
    file_hash,
    ids_hash,
    logit_columns,
    with_logits,
)
from foldblend.runs.info import RunInfo
from foldblend.runs.refit import num_refits, refit_share, with_refits
from foldblend.runs.report_info import NEEDED, ReportInfo
from foldblend.runs.schema import read_checked, read_info
from foldblend.runs.submission import SubmissionForm, read_form
from foldblend.runs.tables import TableReader, check_rows_once
from foldblend.runs.unchecked import note_unchecked
from foldblend.scores.metrics import TITLES, is_ordered
from foldblend.words import plural

__all__ = ["TEST_GROUPS", "TEST_LABELS", "Run"]

TEST_LABELS = "test_labels.csv"
TEST_GROUPS = "test_groups.csv"


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
        return read_info(self.path)

    @functools.cached_property
    def hashes(self) -> dict[str, str]:
        """Hashes of tables by file name, as the run recorded them when it was finished."""
        if self.info.get("status") != "done":
            return {}
        models = [*self.info.get("folds", ()), *self.info.get("refit", {}).get("models", ())]
        of_folds = (one.get("files", {}) for one in models)
        return {name: one for files in of_folds for name, one in files.items()} | {
            **({"folds.csv": self.info["folds_hash"]} if "folds_hash" in self.info else {}),
            **self.info.get("files", {}),
        }

    @functools.cached_property
    def tables(self) -> TableReader:
        """Reader of the tables of the run folder, which checks what it reads."""
        absent = [name for name in ("classes", "num_folds", "num_repeats") if name not in self.info]
        if absent:
            raise BrokenRun(
                f"{self.path}/run.json: lacks {listed(absent)}; run it again", self.path
            )
        return TableReader(self.path, self.info, self.hashes)

    def with_hashes(self, hashes: Mapping[str, str]) -> TableReader:
        """Return a reader that compares further tables with these hashes, by file name."""
        return dataclasses.replace(self.tables, hashes={**self.hashes, **hashes})

    def table(
        self, name: str, columns: Sequence[str] | None = None, *, unique: bool = True
    ) -> pd.DataFrame:
        """Return a table of the run folder (see `foldblend.runs.tables.TableReader.read`).

        Raises BrokenRun if it is absent, has changed, or is no such table.
        """
        self._note_unchecked(name)
        return self.tables.read(name, columns, unique=unique)

    def table_and_logits(
        self, name: str, columns: Sequence[str], *, unique: bool = True
    ) -> tuple[pd.DataFrame, np.ndarray]:
        """Return columns of a table and its logits, N x C float32, of one reading (see `table`)."""
        self._note_unchecked(name)
        return self.tables.read_logits(name, columns, unique=unique)

    def _note_unchecked(self, name: str) -> None:
        if self.info.get("status") == "done" and f"{name}.parquet" not in self.hashes:
            note_unchecked(self.path)

    def has(self, name: str) -> bool:
        """Return whether the run has a file that not all runs have.

        It has a file that run.json records even where the file is gone, so that reading it is an
        error.
        """
        return name in self.hashes or is_file(self.path / name)

    def check_unchanged(self, name: str) -> None:
        """Raise BrokenRun if a file is not the one that run.json records, where it records one."""
        if name in self.hashes:
            self.tables.data(name)

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
    def num_test_folds(self) -> int:
        """Number of test tables of single models, from 0 on."""
        known = self.info.get("num_test_folds")
        # Runs of other programs may not say.
        return len([*self.path.glob("test_fold_*.parquet")]) if known is None else known

    @property
    def submission(self) -> SubmissionForm | None:
        """Form of submission.csv, or None where the run records none."""
        record = self.info.get("submission")
        return None if record is None else read_form(record, self.tables)

    @property
    def test_labels(self) -> pd.DataFrame | None:
        """Labels of test images: image_id, label, class and maybe group; None without any."""
        if not self.has(TEST_LABELS):
            return None
        table = self.tables.text_table(TEST_LABELS, ["image_id", "label"])
        # At most 9 digits, so that no number overflows.
        good = table["label"].str.fullmatch(r"\d{1,9}")
        label = pd.to_numeric(table["label"].where(good)).fillna(len(self.classes))
        odd = table.loc[label >= len(self.classes), "label"]
        if len(odd):
            raise self.tables.broken(
                TEST_LABELS,
                f"label must be from 0 to {len(self.classes) - 1}, not {shown(odd.iloc[0])}; run"
                " it again",
            )
        twice = table.loc[table["image_id"].duplicated(), "image_id"]
        if len(twice):
            raise self.tables.broken(TEST_LABELS, f"lists {listed(twice)} twice; run it again")
        return table.assign(label=label.astype(int))

    @property
    def test_groups(self) -> pd.DataFrame | None:
        """Groups of test images: image_id and group; None where they are not known."""
        if not self.has(TEST_GROUPS):
            return None
        table = self.tables.text_table(TEST_GROUPS, ["image_id", "group"])
        twice = table.loc[table["image_id"].duplicated(), "image_id"]
        if len(twice):
            raise self.tables.broken(TEST_GROUPS, f"lists {listed(twice)} twice; run it again")
        return table

    @functools.cached_property
    def ids_hash(self) -> str:
        """Hash of the names of the labelled images; equal for runs on the same data set."""
        known = self.info["data"].get("train_ids_hash")
        # Runs of earlier versions, and those made by other programs, may lack it.
        if known is None:
            ids = self.table("oof", ["image_id"])["image_id"]
            known = ids_hash(map(str, ids.unique()))
        return str(known)

    def table_hash(self, name: str) -> str:
        """Return the hash of the parquet file of a table, such as "test".

        It is the recorded one, with which the file is compared whenever it is read. Raises
        BrokenRun if the file is missing.
        """
        file = self.path / f"{name}.parquet"
        if not is_file(file):
            raise BrokenRun(f"{file}: no such file; run it again, or leave this run out", self.path)
        return self.hashes.get(file.name) or file_hash(file)

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
        return self.table("oof")

    @functools.cached_property
    def test(self) -> pd.DataFrame | None:
        """Test rows: image_id, logit_0, ... (mean over folds), or None without a test set."""
        return self.table("test") if self.info.get("has_test") else None

    def refit_logits(self, ids: pd.Series, file: str) -> list[np.ndarray]:
        """Return the test logits N x C of each refit, for a table of a fold with these ids.

        `file` names the table of the fold in an error. Raises BrokenRun for other images.
        """
        found = []
        for index in range(num_refits(self.info)):
            table, logits_NC = self.table_and_logits(f"test_refit_{index}", ["image_id"])
            if not table["image_id"].equals(ids):
                raise BrokenRun(
                    f"{self.path}/test_refit_{index}.parquet: has other images than {file}; run it"
                    " again",
                    self.path,
                )
            found.append(logits_NC)
        return found

    def test_fold(self, fold: int) -> pd.DataFrame:
        """Return the test rows predicted by the model of one fold: image_id, logit_0, ...

        Refits have their share in the logits (see `foldblend.runs.refit`).

        Raises BrokenRun if it has other images than `test`.
        """
        table = self.table(f"test_fold_{fold}")
        if self.test is not None and not table["image_id"].equals(self.test["image_id"]):
            file = self.path / f"test_fold_{fold}.parquet"
            try:
                check_rows_once(table["image_id"], self.test["image_id"], str(file))
            except UserError as error:
                raise BrokenRun(error, self.path) from None
        refits = self.refit_logits(table["image_id"], f"test_fold_{fold}.parquet")
        if not refits:
            return table
        mixed_NC = with_refits(self.logits(table), refits, refit_share(self.info))
        return with_logits(table[["image_id"]], mixed_NC)

    @property
    def report(self) -> dict[str, Any]:
        """Content of report.json.

        Raises BrokenRun if it is absent or damaged.
        """
        # This imports what reads command lines.
        from foldblend.cli import program

        cure = f"write it again: {program('report.py')} {self.path}"
        file = self.path / "report.json"
        return dict(read_checked(file, ReportInfo, needed=NEEDED, folder=self.path, cure=cure))

    def logits(self, table: pd.DataFrame) -> np.ndarray:
        """Return the logits of a table of this run, N x C float32.

        Raises UserError if a logit column is missing.
        """
        absent = set(logit_columns(len(self.classes))) - set(table.columns)
        if absent:
            raise UserError(f"{self.path}: a table lacks {listed(sorted(absent))}; run it again")
        return table[logit_columns(len(self.classes))].to_numpy(np.float32)
