"""Constants of many tests: flags of a tiny run and the folder of a real data set."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LONDON = ROOT.parent / "shared" / "data" / "london_masks"
TINY = [
    "--folds",
    "2",
    "--epochs",
    "1",
    "--img-size",
    "32",
    "--pretrained",
    "none",
    "--workers",
    "0",
    "--threads",
    "1",
]
# What auto would decide from a model, for settings that are used without one.
RATES = {"lr": 1e-3, "layer_decay": None, "drop_path": None}
# Logged images and pages take longer than the training of a tiny run.
TINY += ["--no-log-pictures", "--no-page"]
