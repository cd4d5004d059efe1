"""A table of small images with columns that blends may learn from: age, site and others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image

__all__ = ["NUM_PATIENTS", "make_table"]

NUM_PATIENTS = 24
PER_PATIENT = 2
CLASSES = ("cat", "dog", "owl")


def _draw(file: Path, rng: np.random.Generator, label: int) -> None:
    pixels = rng.integers(0, 120, (24, 24, 3))
    pixels[..., label] += 60
    PIL.Image.fromarray(pixels.astype(np.uint8)).save(file)


def _rows(folder: Path, part: str, num_patients: int, seed: int) -> pd.DataFrame:
    """Draw the images of a part, and return their table; the site often follows the class."""
    rng = np.random.default_rng(seed)
    rows = []
    for patient in range(num_patients):
        label = int(rng.integers(3))
        site = "abc"[label if rng.random() < 0.75 else int(rng.integers(3))]
        age = float(np.round(40 + 10 * label + rng.normal() * 8, 1))
        for image in range(PER_PATIENT):
            name = f"{part}_{patient}_{image}.png"
            _draw(folder / name, rng, label)
            rows.append(
                {
                    "image": name,
                    "label": CLASSES[label],
                    "patient": f"{part}{patient}",
                    "age": "" if rng.random() < 0.2 else str(age),
                    "site": "" if rng.random() < 0.1 else site,
                    "visit": f"2024-01-{1 + patient:02d}",
                    "note": f"seen by {rng.integers(10**6)}",
                    "row": str(len(rows)),
                }
            )
    return pd.DataFrame(rows)


def make_table(folder: Path, *, seed: int = 0, num_patients: int = NUM_PATIENTS) -> Path:
    """Write images, table.csv and test.csv, and return table.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    _rows(folder, "train", num_patients, seed).to_csv(folder / "table.csv", index=False)
    of_test = _rows(folder, "test", 8, seed + 1).drop(columns=["label", "patient"])
    # In another order of rows and columns than the labelled images.
    of_test = of_test[[*of_test.columns[::-1]]].iloc[::-1]
    of_test.to_csv(folder / "test.csv", index=False)
    return folder / "table.csv"
