"""Run folders of any size with random logits, to test without training."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from foldblend.runs.folder import FORMAT, PICTURES, ids_hash, with_logits, write_json, write_table
from folds.data.labels import AGES, ATTRIBUTES, CLASSES, GENDERS
from folds.split import assign_folds

__all__ = ["random_logits", "write_synthetic_run"]

FILES = (*[f"mask{number}" for number in range(1, 6)], "incorrect_mask", "normal")
# Shares of the age classes among the people of the competition.
AGE_ODDS = (0.474, 0.455, 0.071)
NUM_FOLDS = 5


def random_logits(label_N: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Return logits N x 18 with noise on each attribute, least on the mask and most on age.

    Axis Y is the values of one attribute.
    """
    logits_NC = np.zeros((len(label_N), len(CLASSES)))
    for attribute, ease in zip(ATTRIBUTES, (3.0, 1.8, 0.9), strict=True):
        of_class = np.asarray(attribute.of_class)
        seen_NY = rng.normal(size=(len(label_N), len(attribute.values)))
        seen_NY[np.arange(len(label_N)), of_class[label_N]] += ease * strength
        logits_NC += 1.5 * ease * seen_NY[:, of_class]
    return logits_NC


def write_synthetic_run(
    folder: Path,
    *,
    num_people: int,
    num_test: int = 0,
    paths: Sequence[Path] = (),
    names: Sequence[str] | None = None,
    strength: float = 1.0,
    seed: int = 0,
    one_class: bool = False,
) -> Path:
    """Write a finished run on the competition's classes and return its folder.

    Parameters
    ----------
    folder
        Folder of the run.
    num_people
        Number of people, with seven images each.
    num_test
        Number of test images.
    paths
        Image files, which the rows use in turn.
    names
        Names of the classes (default: the competition's).
    strength
        How much the logits depend on the labels.
    seed
        Seed of the logits; people and folds do not depend on it.
    one_class
        Whether all images of a person have one class, which they have not in the competition.
    """
    # A separate generator, so that runs with different seeds have the same rows and folds.
    people_rng = np.random.default_rng(0)
    rng = np.random.default_rng((1, seed))
    genders = people_rng.integers(len(GENDERS), size=num_people)
    ages = people_rng.choice(len(AGES), size=num_people, p=AGE_ODDS)
    groups = [
        f"{index:06d}_{GENDERS[genders[index]]}_Asian_{20 * ages[index] + 25}"
        for index in range(num_people)
    ]
    masks = np.zeros(7, int) if one_class else np.array([0] * 5 + [1, 2])
    rows = pd.DataFrame(
        {
            "image_id": [f"{group}/{file}.jpg" for group in groups for file in FILES],
            "group": np.repeat(groups, len(FILES)),
            "label": (6 * masks + (3 * genders + ages)[:, None]).ravel(),
        }
    )
    fold_N = assign_folds(
        rows["label"].to_numpy(), rows["group"].to_numpy(), num_folds=NUM_FOLDS, seed=0
    )
    rows = rows.assign(label_raw=rows["label"], repeat=0, fold=fold_N).sort_values(
        "image_id", ignore_index=True
    )
    folder.mkdir(parents=True)
    write_table(
        folder / "oof.parquet",
        with_logits(rows, random_logits(rows["label"].to_numpy(), strength, rng)),
    )
    write_table(folder / "folds.csv", rows[["image_id", "group", "label", "repeat", "fold"]])
    test_ids = pd.DataFrame(
        {"image_id": [f"{people_rng.bytes(20).hex()}.jpg" for _ in range(num_test)]}
    )
    if num_test:
        test_label_N = rng.integers(len(CLASSES), size=num_test)
        models = [random_logits(test_label_N, strength, rng) for _ in range(NUM_FOLDS)]
        for fold, logits in enumerate(models):
            write_table(folder / f"test_fold_{fold}.parquet", with_logits(test_ids, logits))
        write_table(folder / "test.parquet", with_logits(test_ids, np.mean(models, axis=0)))
    if paths:
        shown = [str(paths[index % len(paths)]) for index in range(len(rows))]
        write_table(
            folder / PICTURES,
            pd.DataFrame({"part": "train", "image_id": rows["image_id"], "path": shown}),
        )
    for fold in range(NUM_FOLDS):
        (folder / f"fold_{fold}").mkdir()
        epoch = np.arange(8)
        loss = 2.5 * 0.8**epoch + 0.02 * fold
        score = 0.7 - 0.5 * 0.6**epoch - 0.01 * fold
        log = pd.DataFrame({"epoch": epoch, "train_loss": loss, "val_f1_macro": score})
        write_table(folder / f"fold_{fold}" / "log.csv", log)
    write_json(
        folder / "run.json",
        {
            "format": FORMAT,
            "kind": "cv",
            "status": "done",
            "name": folder.name,
            "run_key": {"configuration": f"synthetic {strength} {seed}"},
            "data": {
                "name": "synthetic",
                "train_ids_hash": ids_hash(rows["image_id"]),
                "is_demo": False,
            },
            "classes": list(names or CLASSES),
            "answers": list(range(len(CLASSES))),
            "attributes": [
                {"name": one.name, "values": list(one.values), "of_class": list(one.of_class)}
                for one in ATTRIBUTES
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
            "finished": round(time.time()),
            "seconds": 1.0,
            "folds": [],
        },
    )
    return folder
