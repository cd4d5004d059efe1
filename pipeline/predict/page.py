"""Page of predictions: counts of classes, and images that are unsure or unlike the training ones.

It is one file without any reference to the network, as the page of a run is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import pandas as pd

from foldblend.errors import UserError, counted
from foldblend.image_values import decode_rgb
from foldblend.images import Levels, crop, read_image
from pipeline.predict.in_memory import png_of
from pipeline.predict.inputs import Inputs
from pipeline.predict.open import Predictor
from pipeline.predict.picks import Picks
from reports.figures import dots
from reports.html import render_page, thumbnail
from reports.run.first_screen import ladder
from reports.text import num, printable, span, title_of

__all__ = ["predictions_page", "training_counts"]

MOST_ROWS = 24
MOST_CLASSES = 400  # rows of the table of classes
MOST_TILES = 400  # images of the gallery by class
MOST_LEFT_OUT = 200
# A JPEG is decoded at a reduced size, but not below this, so that no thumbnail is enlarged.
HEIGHT = 112
NUM_FIRST = 8  # images of the first screen
MOST_SCORE = 1e6  # a file may hold any number, and a scale needs a sensible one
# What a page compares the score with; an exported file keeps the score alone.
KEPT_BY_NO_FILE: Mapping[str, Any] = {
    "kind": "",
    "name": "",
    "folds": (),
    "sections": (),
    "baselines": (),
}


def _picture(inputs: Inputs, index: int, levels: Levels) -> str | None:
    """Return a small copy of an image, or None if it cannot be read any more."""
    source = inputs.sources[index]
    name = inputs.ids[index]
    box = None if inputs.boxes is None else inputs.boxes[index]
    try:
        if isinstance(source, (str, os.PathLike)):
            least = (HEIGHT, HEIGHT) if box is None else None
            image = read_image(
                os.fspath(source), at_least=least, max_pixels=inputs.max_pixels, levels=levels
            )
        else:
            image = decode_rgb(name, png_of(source, name), cv2.IMREAD_COLOR, levels)
        return thumbnail(image if box is None else crop(name, image, box), height=HEIGHT)
    # The prediction is made; its page does without an image that is gone meanwhile.
    except (UserError, OSError, ValueError):
        return None


def _second(one: Mapping[str, Any], name: str) -> str:
    """Return the class beside the predicted one, which offsets per class may have overruled."""
    word = "then" if one["proba_second"] <= one["proba"] else "most probable:"
    return f"{word} {name} {one['proba_second']:.3f}"


class _Pictures:
    """Small copies of images, each made once, in threads as cv2 releases the interpreter lock."""

    def __init__(self, inputs: Inputs, wanted: Sequence[int], levels: Levels) -> None:
        each = [*dict.fromkeys(wanted)]
        with ThreadPoolExecutor() as pool:
            found = pool.map(lambda index: _picture(inputs, index, levels), each)
            self.found = dict(zip(each, found, strict=True))
        self.inputs = inputs

    def tiles(self, table: pd.DataFrame, classes: Sequence[str]) -> list[dict[str, Any]]:
        """Return what the template shows of the images of a list."""
        tiles = []
        for row in table.itertuples(index=False, name=None):
            one = dict(zip(table.columns, row, strict=True))
            second = int(one["second"])
            tiles.append(
                {
                    "src": self.found[int(one["image"])],
                    "name": printable(self.inputs.ids[int(one["image"])]),
                    "label": f"{classes[int(one['class'])]} {one['proba']:.3f}",
                    "second": "" if second < 0 else _second(one, classes[second]),
                    "odd": "" if np.isnan(one["odd"]) else f"percentile {one['odd']:.1f}",
                }
            )
        return tiles


def _report_of(predictor: Predictor) -> Mapping[str, Any]:
    """Return the report of the run, or the part of it that an exported file keeps."""
    report: Mapping[str, Any] = predictor.extras.get("report", {})
    if not report and predictor.run is not None:
        return predictor.run.report
    return report


def _score(predictor: Predictor) -> dict[str, Any] | None:
    """Return the out-of-fold score of the run as texts and strips, or None where it is unknown."""
    try:
        report = _report_of(predictor)
        headline = report["headline"]
        values = [headline["value"], headline["low"], headline["high"]]
        # The score of a single group has no interval.
        if not all(abs(one) < MOST_SCORE for one in values if one is not None):
            return None
        return {
            "value": num(headline["value"]),
            "span": span(headline),
            "metric": title_of(report),
            "interval": str(report.get("interval", "")),
            "ladder": ladder({**KEPT_BY_NO_FILE, **report}),
        }
    # Folders of earlier versions may lack the report, and a file may hold anything.
    except (OSError, LookupError, TypeError, ValueError):
        return None


def training_counts(predictor: Predictor) -> np.ndarray | None:
    """Return the number of training images of each class, C; None without the run's folder."""
    if predictor.run is None:
        return None
    oof = predictor.run.oof.drop_duplicates("image_id")
    return np.bincount(oof["label"].to_numpy(), minlength=len(predictor.classes))


def _shares(count_C: np.ndarray) -> np.ndarray:
    """Return counts in percent of their sum."""
    return np.asarray(100 * count_C / max(count_C.sum(), 1))


def _count_table(
    classes: Sequence[str], count_C: np.ndarray, train_C: np.ndarray | None
) -> dict[str, Any]:
    """Return the table of images by class, the most frequent first where there are too many."""
    chosen = _chosen(count_C, MOST_CLASSES)
    share_C = _shares(count_C)
    header = ["class", "images", "share"]
    rows = [[classes[code], f"{count_C[code]:,}", f"{share_C[code]:.1f} %"] for code in chosen]
    if train_C is not None:
        header += ["share in training", "difference"]
        of_train_C = _shares(train_C)
        for row, code in zip(rows, chosen, strict=True):
            # Adding 0 turns a rounded -0.0 into 0.0.
            more = round(float(share_C[code] - of_train_C[code]), 1) + 0.0
            row += [f"{of_train_C[code]:.1f} %", f"{more:+.1f}"]
    return {"header": header, "rows": rows, "hidden": len(classes) - len(chosen)}


def _chosen(count_C: np.ndarray, most: int) -> list[int]:
    """Return the most frequent classes in the order of their numbers."""
    return sorted(np.argsort(-count_C, kind="stable")[:most].tolist())


def _figure(
    classes: Sequence[str], count_C: np.ndarray, train_C: np.ndarray | None
) -> dict[str, Any]:
    """Return dots of the shares of classes; the title says the largest difference to training."""
    chosen = _chosen(count_C, MOST_ROWS)
    share_C = _shares(count_C)
    series = {"these images": share_C[chosen].tolist()}
    caption = f"Predicted classes (n = {counted(int(count_C.sum()), 'image')})"
    most = int(share_C.argmax())
    title = f"{classes[most]} is the most frequent class, {share_C[most]:.1f} % of the images"
    if train_C is not None:
        of_train_C = _shares(train_C)
        series["training images"] = of_train_C[chosen].tolist()
        caption += f" beside the classes in training (n = {train_C.sum():,})"
        most = int(np.abs(share_C - of_train_C).argmax())
        title = (
            f"Largest difference: {classes[most]} is {share_C[most]:.1f} % of these images,"
            f" {of_train_C[most]:.1f} % in training"
        )
    if len(chosen) < len(classes):
        caption += f"; the {MOST_ROWS} most frequent of {len(classes)}"
    svg = dots([classes[code] for code in chosen], series, xlabel="% of images")
    return {"svg": svg, "title": title, "caption": f"{caption}."}


def _sheets(picks: Picks) -> tuple[list[tuple[int, pd.DataFrame]], int]:
    """Return the images of each class that occurs, and the number of classes not shown."""
    occurs = np.flatnonzero(picks.count_C)
    if not len(occurs):
        return [], 0
    shown = [code for code in _chosen(picks.count_C, MOST_TILES) if picks.count_C[code]]
    each = int(np.clip(MOST_TILES // len(shown), 1, picks.most))
    return [(code, picks.of_class(code).head(each)) for code in shown], len(occurs) - len(shown)


def predictions_page(
    predictor: Predictor,
    inputs: Inputs,
    picks: Picks,
    *,
    lines: Sequence[str] | None,
    bad: Mapping[int, str],
) -> str:
    """Return the page as HTML.

    Parameters
    ----------
    predictor
        What predicted.
    inputs
        The images; the few that are shown are read again.
    picks
        The predictions.
    lines
        Sentences on how the images differ from the training images; None if they were not
        compared.
    bad
        Why images were left out, by their number.
    """
    classes = [printable(one) for one in predictor.classes]
    train_C = training_counts(predictor)
    sheets, hidden = _sheets(picks)
    tables = [picks.unsure, picks.odd, *(table for _, table in sheets)]
    wanted = [int(index) for table in tables for index in table["image"]]
    # Members of a blend may differ in this; the page shows one image of each.
    levels = next(iter(predictor.leaves.values())).recipe.preprocess.levels
    pictures = _Pictures(inputs, wanted, levels)
    gallery = [
        {
            "name": classes[code],
            "text": counted(int(picks.count_C[code]), "image"),
            "tiles": pictures.tiles(table, classes),
        }
        for code, table in sheets
    ]
    left_out = [
        f"{printable(inputs.ids[index])}: {printable(why)}" for index, why in sorted(bad.items())
    ]
    unsure = pictures.tiles(picks.unsure, classes)
    return render_page(
        "predictions.html",
        scripts=("glossary.js",),
        title=f"Predictions of {printable(predictor.name)}",
        num_images=counted(int(picks.count_C.sum()), "image"),
        source=printable(predictor.source),
        score=_score(predictor),
        lines=None if lines is None else [f"{one[:1].upper()}{one[1:]}." for one in lines],
        counts=_count_table(classes, picks.count_C, train_C),
        figure=_figure(classes, picks.count_C, train_C),
        first=unsure[:NUM_FIRST],
        unsure=unsure,
        odd=pictures.tiles(picks.odd, classes),
        sheets=gallery,
        hidden_classes=hidden,
        left_out=left_out[:MOST_LEFT_OUT],
        num_left_out=len(left_out),
    )
