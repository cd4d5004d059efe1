"""Run folders of twelve images and three classes, written without training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from foldblend.runs.folder import FORMAT, with_logits, write_json, write_table

CLASSES = ("cat", "dog", "owl")
GROUPS = [f"p{index // 2}" for index in range(12)]
LABELS = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2]


def write_run(
    folder: Path,
    predicted,
    *,
    label=LABELS,
    label_raw=LABELS,
    group=GROUPS,
    ids=None,
    config=None,
    shuffle=0,
    **info,
):
    """Write a finished run of three classes and one attribute; return its folder.

    `predicted` are the predicted classes, or a list of them per repeat.
    """
    ids = ids or [f"image {index:02d}" for index in range(len(label))]
    repeats = predicted if isinstance(predicted[0], list) else [predicted]
    tables = []
    for repeat, classes in enumerate(repeats):
        columns = {
            "image_id": ids,
            "group": group,
            "label": label,
            "label_raw": label_raw,
            "repeat": repeat,
            "fold": 0,
        }
        tables.append(with_logits(pd.DataFrame(columns), 3 * np.eye(3)[classes]))
    oof = pd.concat(tables).sample(frac=1, random_state=shuffle) if shuffle else pd.concat(tables)
    write_table(folder / "oof.parquet", oof)
    (folder / "config.yaml").write_text(
        yaml.safe_dump({"name": folder.name, "lr": 0.001, "tta": "none", **(config or {})})
    )
    record = {
        "format": FORMAT,
        "kind": "cv",
        "status": "done",
        "data": {"name": "zoo", "ids_hash": "z", "is_demo": False},
        "classes": list(CLASSES),
        "attributes": [{"name": "flies", "values": ["no", "yes"], "of_class": [0, 0, 1]}],
        "num_folds": 2,
        "num_repeats": len(repeats),
        "views": ["identity", "hflip"],
        "metric": "accuracy",
        "leaks": False,
        "optimistic": False,
        "has_test": False,
        "started": 1_700_000_000,
        "finished": 1_700_000_600,
        "seconds": 100.0,
    }
    write_json(folder / "run.json", record | info)
    return folder


CPU = {"processor": "Abacus 9", "gpus": []}
GPU = {"processor": "Abacus 9", "gpus": ["Big", "Small"]}


def folds(*speeds, machine=CPU):
    """Return the folds of run.json with these speeds, in images per second."""
    return [{"infer_images_per_s": speed, "environment": machine} for speed in speeds]
