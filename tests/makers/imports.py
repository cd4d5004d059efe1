"""Tables of predictions of another library, with the table of labels that they are of."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import foldblend as fb

__all__ = ["CLASSES", "Tables", "imported", "quiet", "write_tables"]

CLASSES = ("cat", "dog", "owl")


@dataclass
class Tables:
    """Files of an import of 24 images of 8 groups, in 4 folds, and 6 test images."""

    folder: Path
    labels: pd.DataFrame
    oof: pd.DataFrame
    tests: list[pd.DataFrame]
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the import."""

    def write(self) -> dict[str, Any]:
        """Write the tables and return the arguments of `import_run` for them."""
        self.labels.to_csv(self.folder / "train.csv", index=False)
        self.oof.to_csv(self.folder / "oof.csv", index=False)
        for fold, table in enumerate(self.tests):
            table.to_csv(self.folder / f"test_fold_{fold}.csv", index=False)
        return {
            "oof": self.folder / "oof.csv",
            "labels": self.folder / "train.csv",
            "test": [self.folder / f"test_fold_{fold}.csv" for fold in range(len(self.tests))],
            "output": self.folder / "outputs",
            "name": "other",
            "group_col": "owner",
            "page": False,
            **self.settings,
        }


def _proba(ids: list[str], label_N: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    """Return probabilities that are right more often than not."""
    scores_NC = rng.normal(size=(len(ids), len(CLASSES))) + 1.5 * np.eye(len(CLASSES))[label_N]
    proba_NC = np.exp(scores_NC) / np.exp(scores_NC).sum(axis=1, keepdims=True)
    table = pd.DataFrame(proba_NC, columns=list(CLASSES))
    table.insert(0, "image_id", ids)
    return table


def write_tables(folder: Path, *, seed: int = 0) -> Tables:
    """Return tables that can be imported, for tests to change; no image file exists.

    Labels, groups and folds do not depend on the seed.
    """
    rng = np.random.default_rng(seed)
    ids = [f"pets/{index:02d}.jpg" for index in range(24)]
    group_N = np.arange(24) // 3
    label_N = np.arange(24) % 3
    labels = pd.DataFrame(
        {
            "image": ids,
            "label": [CLASSES[one] for one in label_N],
            "owner": [f"owner{one}" for one in group_N],
        }
    )
    oof = _proba(ids, label_N, rng).assign(fold=group_N % 4)
    test_ids = [f"new/{index}.jpg" for index in range(6)]
    tests = [_proba(test_ids, np.arange(6) % 3, rng) for _ in range(4)]
    return Tables(folder, labels, oof, tests)


def quiet(_: str) -> None:
    """Take a line of output, and show nothing."""


def imported(tables: Tables, **settings: Any) -> fb.Run:
    """Write the tables and return the run that is imported from them."""
    return fb.import_run(say=quiet, **{**tables.write(), **settings})
