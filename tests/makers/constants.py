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
# Logged images and pages take longer than the training of a tiny run.
TINY += ["--no-log-pictures", "--no-page"]
