"""Synthetic people with several images of each kind of mask, for tests of leaks."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from folds.data.demo_faces import draw_image, make_person
from folds.data.labels import MASKS

__all__ = ["draw_people"]


def draw_people(folder: Path, *, num_people: int, num_shots: int) -> pd.DataFrame:
    """Draw people into a folder, and return file, person, mask, stratum and shot of each image.

    The competition has one wrongly worn mask and one bare face per person. Here, every kind of
    image of a person can be on both sides of a split.
    """
    rows = []
    for person in range(num_people):
        rng = np.random.default_rng(person)
        stratum = person % 6
        who = make_person(rng, male=stratum < 3, age=(24, 45, 68)[stratum % 3])
        for mask, kind in enumerate(MASKS):
            for shot in range(num_shots):
                file = folder / f"{person:02d}_{mask}_{shot}.png"
                small = cv2.resize(
                    draw_image(who, rng, mask=kind), (96, 128), interpolation=cv2.INTER_AREA
                )
                cv2.imwrite(str(file), cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
                rows.append(
                    {
                        "file": str(file),
                        "person": f"p{person:02d}",
                        "mask": mask,
                        "stratum": stratum,
                        "shot": shot,
                    }
                )
    return pd.DataFrame(rows)
