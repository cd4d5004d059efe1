"""Run folders of millions of rows with random logits, written block by block."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.csv
import pyarrow.parquet

from foldblend.runs.folder import FORMAT, file_hash, table_hashes, with_logits, write_json
from folds.data.labels import AGES, ATTRIBUTES, CLASSES, GENDERS
from tests.makers.synthetic_runs import AGE_ODDS, random_logits

__all__ = ["write_big_run"]

IMAGES = 7  # of each group
NUM_FOLDS = 5
BLOCK = 50_000  # groups, or images of the test set, that are in memory at a time
STARTED = 1_700_000_000


def _rows(num_groups: int) -> Iterator[pd.DataFrame]:
    """Yield the out-of-fold rows, sorted by image_id; they are the same for every run."""
    masks = np.array([0] * 5 + [1, 2])
    for start in range(0, num_groups, BLOCK):
        rng = np.random.default_rng((0, start))
        group_G = np.arange(start, min(start + BLOCK, num_groups))
        genders = rng.integers(len(GENDERS), size=len(group_G))
        ages = rng.choice(len(AGES), size=len(group_G), p=AGE_ODDS)
        label_N = (6 * masks + (3 * genders + ages)[:, None]).ravel()
        names = [f"{group:08d}" for group in group_G]
        yield pd.DataFrame(
            {
                "image_id": [f"{name}/{image}.jpg" for name in names for image in range(IMAGES)],
                "group": np.repeat(names, IMAGES),
                "label": label_N,
                "label_raw": label_N,
                "repeat": 0,
                "fold": np.repeat(rng.integers(NUM_FOLDS, size=len(group_G)), IMAGES),
            }
        )


def _tests(num_test: int) -> Iterator[pd.DataFrame]:
    for start in range(0, num_test, BLOCK):
        numbers = range(start, min(start + BLOCK, num_test))
        yield pd.DataFrame({"image_id": [f"test/{number:08d}.jpg" for number in numbers]})


class _Parquet:
    """A parquet file that is written in row groups."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.writer: pyarrow.parquet.ParquetWriter | None = None

    def add(self, table: pd.DataFrame) -> None:
        made = pyarrow.Table.from_pandas(table, preserve_index=False)
        if self.writer is None:
            self.writer = pyarrow.parquet.ParquetWriter(self.file, made.schema)
        self.writer.write_table(made)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def _write_oof(folder: Path, num_groups: int, strength: float, seed: int) -> str:
    """Write oof.parquet and folds.csv, and return the hash of the names of the images."""
    digest = hashlib.blake2b(b"[", digest_size=16)
    oof = _Parquet(folder / "oof.parquet")
    before = ""
    with (folder / "folds.csv").open("wb") as folds:
        for number, rows in enumerate(_rows(num_groups)):
            rng = np.random.default_rng((1, seed, number))
            oof.add(with_logits(rows, random_logits(rows["label"].to_numpy(), strength, rng)))
            columns = rows[["image_id", "group", "label", "repeat", "fold"]]
            columns.to_csv(folds, index=False, header=not number)
            # As `ids_hash`, which has all names in memory.
            digest.update((before + json.dumps([*rows["image_id"]])[1:-1]).encode())
            before = ", "
    oof.close()
    digest.update(b"]")
    return digest.hexdigest()


def _write_tests(folder: Path, num_test: int, strength: float, seed: int) -> None:
    names = ("test", *(f"test_fold_{fold}" for fold in range(NUM_FOLDS)))
    mean, *models = (_Parquet(folder / f"{name}.parquet") for name in names)
    for number, ids in enumerate(_tests(num_test)):
        rng = np.random.default_rng((2, seed, number))
        label_N = np.random.default_rng((3, number)).integers(len(CLASSES), size=len(ids))
        logits = [random_logits(label_N, strength, rng).astype(np.float32) for _ in models]
        for model, one in zip(models, logits, strict=True):
            model.add(with_logits(ids, one))
        mean.add(with_logits(ids, np.mean(logits, axis=0, dtype=np.float64)))
    for one in (mean, *models):
        one.close()


def write_big_run(
    folder: Path,
    *,
    num_groups: int,
    num_test: int = 0,
    strength: float = 1.0,
    seed: int = 0,
    has_attributes: bool = True,
) -> Path:
    """Write a finished run on the competition's classes in bounded memory; return its folder.

    Parameters
    ----------
    folder
        Folder of the run.
    num_groups
        Number of groups, with seven images each.
    num_test
        Number of test images.
    strength
        How much the logits depend on the labels.
    seed
        Seed of the logits; images, labels and folds do not depend on it.
    has_attributes
        Whether the classes are combinations of attributes.
    """
    folder.mkdir(parents=True)
    digest = _write_oof(folder, num_groups, strength, seed)
    if num_test:
        _write_tests(folder, num_test, strength, seed)
    write_json(
        folder / "run.json",
        {
            "format": FORMAT,
            "kind": "cv",
            "status": "done",
            "name": folder.name,
            "run_key": {"configuration": f"big {strength} {seed}"},
            "data": {
                "name": "drawn",
                "train_ids_hash": digest,
                "num_images": IMAGES * num_groups,
                "num_test": num_test,
                "is_demo": False,
            },
            "classes": list(CLASSES),
            "answers": list(range(len(CLASSES))),
            "attributes": [
                {"name": one.name, "values": list(one.values), "of_class": list(one.of_class)}
                for one in (ATTRIBUTES if has_attributes else ())
            ],
            "num_folds": NUM_FOLDS,
            "num_repeats": 1,
            "num_test_folds": NUM_FOLDS if num_test else 0,
            "has_test": num_test > 0,
            "leaks": False,
            "optimistic": False,
            "views": ["identity"],
            "metric": "f1_macro",
            "about": f"random logits, seed {seed}",
            "notes": ["no model: the logits are random"],
            "started": STARTED,
            "finished": STARTED + 1,
            "seconds": 1.0,
            "folds": [],
            "folds_hash": file_hash(folder / "folds.csv"),
            "files": table_hashes(folder),
        },
    )
    return folder
