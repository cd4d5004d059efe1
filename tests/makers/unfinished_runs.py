"""Run folders as a run leaves them while it is running, without training."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from foldblend.runs.folder import file_hash, write_json, write_table
from foldblend.runs.run import Run
from tests.makers.synthetic_runs import NUM_FOLDS, write_synthetic_run

__all__ = ["EPOCHS", "NOW", "add_epochs", "finish_fold", "finish_run", "write_unfinished_run"]

EPOCHS = 4
NOW = 1_800_000_000.0
"""The time at which logs were written last."""


def write_unfinished_run(
    folder: Path, *, done: int = 2, epochs: int = 1, num_people: int = 40, **info: Any
) -> Path:
    """Write a run with some finished folds and one in training, and return its folder.

    Parameters
    ----------
    folder
        The run folder.
    done
        Number of finished folds, which took 100 seconds each.
    epochs
        Epochs of the next fold, of 20 seconds each; 0: it is not begun.
    num_people
        Number of people, with seven images each.
    info
        Further keys of run.json.
    """
    whole = write_synthetic_run(folder, num_people=num_people)
    oof = Run(whole).oof
    record = json.loads((whole / "run.json").read_text())
    for name in ("finished", "seconds", "about", "notes", "folds"):
        del record[name]
    record |= {"status": "running", "started": round(NOW) - 1000, **info}
    write_json(whole / "run.json", record)
    (whole / "oof.parquet").unlink()
    for fold in range(NUM_FOLDS):
        (whole / f"fold_{fold}" / "log.csv").unlink()
        (whole / f"fold_{fold}").rmdir()
    write_table(whole.with_name(f".{whole.name}-rows.parquet"), oof)
    settings = {
        "name": folder.name,
        "output": str(folder.parent),
        "backbone": "test_resnet",
        "finetune": "full",
        "epochs": EPOCHS,
        "select": "last",
        "lr": 0.001,
    }
    (whole / "config.yaml").write_text(yaml.safe_dump(settings))
    for fold in range(done):
        finish_fold(whole, fold)
    if epochs:
        add_epochs(whole, done, epochs)
    return whole


def add_epochs(folder: Path, fold: int, epochs: int) -> None:
    """Write the log of a fold after some epochs."""
    epoch = np.arange(epochs)
    log = pd.DataFrame(
        {
            "epoch": epoch,
            "lr": 0.001,
            "train_loss": 2.5 * 0.8**epoch + 0.02 * fold,
            "images_per_s": 50.0,
            "seconds": 20.0 * (epoch + 1),
            "val_log_loss": 2.6 * 0.8**epoch + 0.01 * fold + 0.05 * epoch / EPOCHS,
            "val_f1_macro": 0.7 - 0.5 * 0.6**epoch - 0.01 * fold,
        }
    )
    file = folder / f"fold_{fold}" / "log.csv"
    write_table(file, log)
    os.utime(file, (NOW, NOW))


def finish_fold(folder: Path, fold: int) -> None:
    """Write the rows and done.json of a fold."""
    add_epochs(folder, fold, EPOCHS)
    rows = _rows(folder)
    name = f"fold_{fold}/oof.parquet"
    write_table(folder / name, rows[rows["fold"] == fold].reset_index(drop=True))
    done = {
        "repeat": 0,
        "fold": fold,
        "run_key": {},
        "files": {name: file_hash(folder / name)},
        "score": 0.5,
        "seconds": 100.0,
    }
    write_json(folder / f"fold_{fold}" / "done.json", done)


def finish_run(folder: Path) -> None:
    """Finish all folds and write the results."""
    for fold in range(NUM_FOLDS):
        finish_fold(folder, fold)
    rows = _rows(folder)
    write_table(folder / "oof.parquet", rows)
    record = json.loads((folder / "run.json").read_text())
    write_json(folder / "run.json", record | {"status": "done", "finished": round(NOW)})


def _rows(folder: Path) -> pd.DataFrame:
    """Return the rows of all folds, which are kept beside the run folder."""
    # Of a path, pyarrow takes none that is no UTF-8.
    return pd.read_parquet(
        io.BytesIO(folder.with_name(f".{folder.name}-rows.parquet").read_bytes())
    )
