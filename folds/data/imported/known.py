"""The labelled data that imported predictions are compared with: a table, a folder or a run."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from foldblend.errors import UserError, listed
from foldblend.files import exists, home, is_file
from foldblend.flags import flag_name
from foldblend.runs.check import NEEDED_TO_BUILD_ON, finished_run
from foldblend.runs.folder import PICTURES, csv_bytes, ids_hash
from foldblend.runs.rows import labels_of_test
from foldblend.runs.run import TEST_GROUPS, TEST_LABELS, Run
from foldblend.runs.submission import SubmissionForm
from foldblend.runs.tables import ROW_COLUMNS
from foldblend.scores.metrics import is_ordered
from foldblend.tables import TextTable
from folds.config import LAYOUTS, DataConfig
from folds.data.assemble import assemble, form_of
from folds.data.demo import DEMO_NOTE
from folds.data.generic import read_labelled_table
from folds.data.image_table import ImageTable
from folds.data.manifest import Manifest
from folds.data.recognise import layout_of
from folds.data.source import load_manifest

__all__ = ["KnownData", "read_known"]

FLAG = "--labels"
DEMO = "demo"


@dataclass(frozen=True, kw_only=True)
class KnownData:
    """Labelled images, classes, groups and test images, as a trained run on the data has them."""

    source: str
    """What was read, for messages."""
    train: pd.DataFrame
    """image_id, group, label and label_raw, sorted by image_id."""
    classes: tuple[str, ...]
    record: Mapping[str, Any]
    """The keys of run.json that describe the data."""
    test_ids: list[str] | None = None
    """Test images in their order, where they are known."""
    test_labels: bytes | None = None
    """Content of test_labels.csv."""
    test_groups: bytes | None = None
    """Content of test_groups.csv."""
    submission: SubmissionForm | None = None
    pictures: bytes | None = None
    """Content of the table of the image files."""
    fold_RN: np.ndarray | None = None
    """Folds of the rows of `train` in each repeat, where they are known."""
    leaks: bool = False
    """Whether these folds split groups."""
    id_column: str = "image_id"
    """Name of the column of images in the data's table."""
    further: tuple[str, ...] = ()
    """Further columns of the data's table, which tables of predictions may have too."""
    notes: tuple[str, ...] = ()
    """For the report."""
    found: tuple[str, ...] = field(default=())
    """For the log only."""

    @property
    def group_name(self) -> str:
        return str(self.record["data"]["group_name"])

    @property
    def groups(self) -> np.ndarray:
        """The group of each row of `train`, N."""
        return self.train["group"].to_numpy()

    def without(self, alone: Container[str]) -> KnownData:
        """Return the data without images that are for training only, and so never held out."""
        kept_N = np.array([name not in alone for name in self.train["image_id"]])
        train = self.train[kept_N].reset_index(drop=True)
        fold_RN = None if self.fold_RN is None else self.fold_RN[:, kept_N]
        data = {**self.record["data"], **_sizes(train)}
        return dataclasses.replace(
            self, train=train, fold_RN=fold_RN, record={**self.record, "data": data}
        )

    def form(self, test_ids: list[str] | None, config: DataConfig) -> SubmissionForm | None:
        """Return the form of the submission, which --sample-submission may give."""
        return form_of(config, test_ids, self.classes, self.submission)


def read_known(text: str, config: DataConfig, table: TextTable | None = None) -> KnownData:
    """Read the data that predictions are of, without opening an image.

    Parameters
    ----------
    text
        A table, a folder of images, the folder of a run, or "demo".
    config
        Settings of the data.
    table
        Content of the table, where it is no file.

    Raises
    ------
    UserError
        With the file and line, for data that cannot be used.
    """
    path = home(text)
    if table is not None:
        return _of_table(path, config, table)
    if exists(path) and path.is_dir() and is_file(path / "run.json"):
        return _of_run(path, config)
    if text != DEMO and layout_of(path, text, FLAG, config) == "table":
        return _of_table(path, config, None)
    return _of_manifest(load_manifest(dataclasses.replace(config, data=text)), config)


def _of_table(path: Path, config: DataConfig, table: TextTable | None) -> KnownData:
    """Return the data of a table, whose images need not exist."""
    labelled = read_labelled_table(path, config, table=table)
    # The name of a file that is there tells whether outer blanks are a part of it.
    ids = [
        name if is_file(Path(file)) else name.strip()
        for name, file in zip(labelled.image_id, labelled.path, strict=True)
    ]
    labelled = dataclasses.replace(labelled, image_id=ids)
    lines: dict[str, list[str]] = {}
    for row, name in enumerate(ids):
        lines.setdefault(name, []).append(labelled.at(row))
    twice = next((name for name, at in lines.items() if len(at) > 1), None)
    if twice is not None:
        raise UserError(
            f"{path}: image {twice!r} occurs more than once ({listed(lines[twice])}); keep one row"
        )
    # The sample's ids are compared with the test images once these are known.
    found = assemble(
        labelled, dataclasses.replace(config, sample_submission=None), reading=LAYOUTS["table"]
    )
    return _of_manifest(_manifest_of(found), config, id_column=labelled.id_column)


def _manifest_of(found: ImageTable) -> Manifest:
    """Return the data as a Manifest, without a look at the image files."""
    train = pd.DataFrame(
        {
            "image_id": np.asarray(found.image_id, dtype=object),
            "path": [str(one) for one in found.path],
            "group": np.asarray(found.group, dtype=object),
            "label": np.asarray(found.label, dtype=np.int64),
        }
    )
    test = None
    if found.test is not None:
        rows = [(name, str(path)) for name, path in found.test]
        test = pd.DataFrame(rows, columns=["image_id", "path"]).assign(**found.test_extra)
        twice = test.loc[test["image_id"].duplicated(), "image_id"]
        if len(twice):
            raise UserError(f"{found.root}: test image {listed(twice)} occurs more than once")
    return Manifest(
        name=found.name,
        root=found.root,
        train=train.assign(label_raw=train["label"]).sort_values("image_id", ignore_index=True),
        test=test,
        classes=tuple(found.classes),
        answers=tuple(found.answers),
        attributes=tuple(found.attributes),
        warnings=tuple(found.warnings),
        notes=tuple(found.notes),
        found=tuple(found.found),
        group_name=found.group_name,
        ordered=found.ordered,
        submission=found.submission,
    )


def _sizes(train: pd.DataFrame) -> dict[str, Any]:
    """Return the entries of run.json that follow from the labelled images."""
    return {
        "train_ids_hash": ids_hash(train["image_id"]),
        "num_images": len(train),
        "num_groups": int(train["group"].nunique()),
    }


def _of_manifest(
    manifest: Manifest, config: DataConfig, *, id_column: str = "image_id"
) -> KnownData:
    train = manifest.train
    record = {
        "data": {
            "name": manifest.name,
            **_sizes(train),
            "group_name": manifest.group_name,
            "is_demo": manifest.is_demo,
        },
        "classes": list(manifest.classes),
        "answers": list(manifest.answers),
        "ordered": is_ordered(manifest.classes, manifest.ordered),
        "attributes": [dataclasses.asdict(attribute) for attribute in manifest.attributes],
    }
    labels = labels_of_test(manifest.test, manifest.classes)
    columns = (config.label_col, config.group_col, *(config.attribute_cols or "").split(","))
    return KnownData(
        source=str(manifest.root),
        train=train[["image_id", "group", "label", "label_raw"]],
        classes=manifest.classes,
        record=record,
        test_ids=None if manifest.test is None else manifest.test["image_id"].tolist(),
        test_labels=None if labels is None else csv_bytes(labels),
        test_groups=_test_groups(manifest.test),
        submission=manifest.submission,
        pictures=_pictures(manifest),
        id_column=id_column,
        further=tuple(name.strip() for name in columns if name),
        notes=(*manifest.notes, *([DEMO_NOTE] if manifest.is_demo else [])),
        found=(*manifest.found, *(f"warning: {one}" for one in manifest.warnings)),
    )


def _test_groups(test: pd.DataFrame | None) -> bytes | None:
    known = test is not None and "group" in test
    return csv_bytes(test[["image_id", "group"]]) if test is not None and known else None


def _pictures(manifest: Manifest) -> bytes | None:
    """Return the table of the image files, with which pages show images; None if one is absent."""
    tables = [manifest.train.assign(part="train")]
    if manifest.test is not None:
        tables.append(manifest.test.assign(part="test"))
    table = pd.concat(tables, ignore_index=True)[["part", "image_id", "path"]]
    if not all(is_file(Path(path)) for path in table["path"]):
        return None
    file = io.BytesIO()
    table.assign(path=[str(Path(path).resolve()) for path in table["path"]]).to_parquet(
        file, index=False
    )
    return file.getvalue()


def _of_run(path: Path, config: DataConfig) -> KnownData:
    """Return the data of a finished run, with its folds."""
    default = DataConfig(data=config.data)
    idle = [
        flag_name(one.name)
        for one in dataclasses.fields(DataConfig)
        if one.name not in ("sep", "encoding", "max_rows", "sample_submission")
        and getattr(config, one.name) != getattr(default, one.name)
    ]
    if idle:
        raise UserError(
            f"{listed(idle)}: without effect, as {FLAG} {path} is a run; leave the flag out"
        )
    run = finished_run(path, needed=NEEDED_TO_BUILD_ON)
    rows = run.table("oof", ROW_COLUMNS).sort_values(["repeat", "image_id"], ignore_index=True)
    train = rows.loc[rows["repeat"] == 0, ["image_id", "group", "label", "label_raw"]]
    names = ("classes", "answers", "attributes", "ordered")
    data = {"group_name": run.group_name, **run.info["data"], "train_ids_hash": run.ids_hash}
    return KnownData(
        source=str(path),
        train=train.reset_index(drop=True),
        classes=run.classes,
        record={"data": data, **{name: run.info[name] for name in names if name in run.info}},  # type: ignore[literal-required]
        test_ids=None if run.test is None else run.test["image_id"].tolist(),
        test_labels=run.tables.data(TEST_LABELS) if run.has(TEST_LABELS) else None,
        test_groups=run.tables.data(TEST_GROUPS) if run.has(TEST_GROUPS) else None,
        submission=run.submission,
        pictures=_pictures_of(run),
        # Numbers of a blend's folds may have gaps.
        fold_RN=np.unique(rows["fold"], return_inverse=True)[1].reshape(-1, len(train)),
        leaks=bool(run.info["leaks"]),
        notes=_notes_of(run),
    )


def _notes_of(run: Run) -> tuple[str, ...]:
    """Return the notes of a run that are on its data."""
    return tuple(one for one in run.info.get("notes", ()) if one == DEMO_NOTE)


def _pictures_of(run: Run) -> bytes | None:
    return run.tables.data(PICTURES) if is_file(run.path / PICTURES) else None
