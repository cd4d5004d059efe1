"""Make the report section on the images that a blend repairs and breaks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from foldblend.errors import counted
from foldblend.runs.ids import is_increasing
from reports.blocks import images_block, section, text_block

__all__ = ["changed_section"]

MOST_IMAGES = 24  # of each set


def changed_section(
    image_ids: pd.Series,
    label_N: np.ndarray,
    single_N: np.ndarray,
    proba_NC: np.ndarray,
    *,
    classes: Sequence[str],
    single: str,
) -> dict[str, Any]:
    """Return the section on images that only the blend or only its best member predicts right.

    Parameters
    ----------
    image_ids, label_N
        Name and true class of each row.
    single_N
        Class that the best single run predicts.
    proba_NC
        Probabilities of the blend.
    classes
        Names of the classes.
    single
        Name of the run.
    """
    blend_N = proba_NC.argmax(axis=1)
    repaired = np.flatnonzero((single_N != label_N) & (blend_N == label_N))
    broken = np.flatnonzero((single_N == label_N) & (blend_N != label_N))
    # With repeats, an image has several predictions, and each row is one of them.
    noun = "image" if is_increasing(image_ids) or image_ids.is_unique else "prediction"
    blocks = []
    for title, rows in (("Repaired", repaired), ("Broken", broken)):
        # The blend's most confident predictions first; ties keep the order of the rows.
        surest = rows[np.argsort(-proba_NC[rows, blend_N[rows]], kind="stable")]
        # An image with several repeats is shown once.
        names = image_ids.iloc[surest]
        shown = surest[~names.duplicated().to_numpy()][:MOST_IMAGES]
        images = [
            (
                str(image_ids.iloc[row]),
                f"{classes[label_N[row]]}; {single}: {classes[single_N[row]]}"
                if title == "Repaired"
                else f"{classes[label_N[row]]}; blend: {classes[blend_N[row]]}",
            )
            for row in shown
        ]
        more = f", the first {len(images)} shown" if len(images) < len(rows) else ""
        if images:
            blocks.append(images_block(f"{title}: {counted(len(rows), noun)}{more}", images))
    sentence = (
        f"Of {counted(len(label_N), noun)}, the blend repairs {len(repaired):,} that {single} gets"
        f" wrong, and breaks {len(broken):,} that it gets right. Each image has its true class"
        " first."
    )
    return section(f"Images that differ from {single}, out of fold", text_block(sentence), *blocks)
