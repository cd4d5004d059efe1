"""Make the report section on the images that a blend repairs and breaks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from foldblend.errors import counted
from reports.blocks import images_block, section, text_block

__all__ = ["changed_section"]

MOST_IMAGES = 24  # of each set


def changed_section(
    image_id_N: np.ndarray,
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
    image_id_N, label_N
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
    noun = "image" if len(np.unique(image_id_N)) == len(image_id_N) else "prediction"
    blocks = []
    for title, rows in (("Repaired", repaired), ("Broken", broken)):
        # The blend's most confident predictions first; ties keep the order of the rows.
        surest = rows[np.argsort(-proba_NC[rows, blend_N[rows]], kind="stable")]
        # An image with several repeats is shown once.
        _, first = np.unique(image_id_N[surest], return_index=True)
        shown = surest[np.sort(first)][:MOST_IMAGES]
        images = [
            (
                str(image_id_N[row]),
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
