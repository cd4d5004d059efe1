"""Small searches of settings on a frozen backbone with random weights."""

from __future__ import annotations

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

import foldblend as fb

SPACE = "head_l2: {low: 0.01, high: 10, log: true}\ntta: [none, hflip]\n"
SMALL = {
    "backbone": "test_efficientnet",
    "pretrained": "none",
    "finetune": "head",
    "folds": 3,
    "img_size": 32,
    "threads": 1,
    "infer_engine": "torch",
    "head_l2": 0.3,
    "page": False,
}


def silent(line):
    """Print nothing."""


def study_of(output, name="s"):
    """Return the Optuna study of a journal."""
    storage = JournalStorage(JournalFileBackend(str(output / name / "journal.log")))
    return optuna.load_study(study_name=name, storage=storage)


def tuner(data, folder):
    """Return `fb.tune` with a small space, data and a frozen backbone."""
    (folder / "space.yaml").write_text(SPACE)

    def call(**settings):
        place = {"data": str(data), "output": folder / "outputs", "say": silent}
        given = {**SMALL, "space": folder / "space.yaml", "study": "s", "trials": 4}
        return fb.tune(**place | given | settings)

    return call
