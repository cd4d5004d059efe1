"""Explanations of mistakes for the report: where the model looked, as explain.json has it.

`report.py --explain` makes them (see `pipeline.explain`); here they are shown, without torch.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from foldblend.cli import program
from foldblend.errors import UserError, counted
from foldblend.runs.oof import OofArrays, oof_arrays
from foldblend.runs.run import Run
from reports.run.explain_file import EXPLAIN, ExplainInfo, HeatInfo, read_explain, unpacked
from reports.run.first_screen import worst_classes
from reports.run.gallery import Predictions
from reports.run.summary import scores_of_classes

__all__ = ["HINT", "METHODS", "Explanations", "Heat", "explanations_of", "rows_to_explain"]

MOST_MISTAKES = 100
# Bytes of maps in a page, as data URIs.
EMBED_BYTES = 1_500_000
PNG = "data:image/png;base64,"
# Height of a map in the page, where it is drawn smoothly.
HEIGHT = 28
# Colour of a map, and its opacity where most speaks for the class; the page shows the image in grey
# below it, so that a single colour can be told from the image's own.
COLOUR_RGB = (255, 96, 0)
MOST_OPAQUE = 185

HINT = (
    "A hint only, no proof of a cause: the orange parts raised the score of the class in this"
    " model. They do not say why, and a model may be right or wrong for reasons that no map shows."
)
METHODS = {
    "layer": "gradient x activation of the layer {layer} (HiResCAM), by Captum {captum}",
    "occlusion": "the score's fall where a window is covered (occlusion), by Captum {captum}",
}
"""Text of a report on each method."""


@dataclass(frozen=True, slots=True)
class Heat:
    """A map that a page shows over an image."""

    label: int
    """Number of the class."""
    uri: str
    """PNG as a data URI: orange where something speaks for the class, elsewhere transparent."""
    is_empty: bool
    """Whether nothing speaks for the class anywhere."""


@dataclass(frozen=True, slots=True)
class Explanations:
    """Explanations that a report shows."""

    maps: Mapping[int, tuple[Heat, Heat]]
    """Maps for the predicted and the true class, by row of oof.parquet."""
    method: str
    """How the maps were made, and of which run's models; "" if there are none."""
    hint: str
    note: str
    """How many mistakes have maps, or why none are shown."""

    def at(self, place_of: Mapping[int, int]) -> Explanations:
        """Return those of the rows of a gallery, by their places in it."""
        maps = {place_of[row]: pair for row, pair in self.maps.items() if row in place_of}
        return dataclasses.replace(self, maps=maps)

    @property
    def data(self) -> dict[str, Any] | None:
        """Return what the script of a page needs, None without maps.

        A map is a PNG in base64, "" where nothing speaks for the class.
        """
        if not self.maps:
            return None
        maps = {
            str(row): ["" if one.is_empty else one.uri.removeprefix(PNG) for one in pair]
            for row, pair in self.maps.items()
        }
        return {"maps": maps, "hint": self.hint, "method": self.method}


def rows_to_explain(run: Run, arrays: OofArrays | None = None) -> np.ndarray:
    """Return the rows of oof.parquet whose mistakes a report shows first, most confident first.

    These are the first hundred mistakes of the gallery and the images of the worst classes.
    """
    arrays = arrays or oof_arrays(run)
    predicted_N = arrays.proba_NC.argmax(axis=1)
    wrong = np.flatnonzero(predicted_N != arrays.rows.label_N)
    # The gallery sorts by thousandths, and rows that are alike stay in their order.
    confidence = np.rint(arrays.proba_NC[wrong, predicted_N[wrong]] * 1000)
    order = wrong[np.argsort(-confidence, kind="stable")]
    per_class = scores_of_classes(arrays.rows, predicted_N, run.classes)
    shown = Predictions(run.oof["image_id"].to_numpy(), arrays.rows, arrays.proba_NC)
    worst = [row for one in worst_classes({"per_class": per_class}, shown) for row in one.rows]
    return order[(np.arange(len(order)) < MOST_MISTAKES) | np.isin(order, worst)]


def explanations_of(run: Run, shown: Collection[str] | None = None) -> Explanations | None:
    """Return the explanations in a run folder that fit the run, or None if it has none.

    Damaged or outdated ones are not shown; `note` says so then.

    Parameters
    ----------
    run
        The run.
    shown
        Names of the images that the page has thumbnails of, as a map is drawn over one. Default:
        all.
    """
    try:
        info = read_explain(run.path)
    except UserError as error:
        return Explanations({}, "", HINT, f"Explanations are not shown: {error}.")
    if info is None:
        return None
    if info["oof"] != run.oof_hash:
        again = f"{program('report.py')} {run.path} --explain"
        note = (
            f"Explanations are not shown: {EXPLAIN} is of earlier predictions of this run; {again}"
            " makes it again."
        )
        return Explanations({}, "", HINT, note)
    maps = _maps_by_row(run, info, shown)
    num = len(info["maps"])
    note = f"Of {counted(num, 'mistake')}, the opened image shows where the model looked."
    if len(maps) < num:
        note = (
            f"Of {counted(len(maps), 'mistake')}, the opened image shows where the model looked (of"
            f" {num:,} in {EXPLAIN}: those with a thumbnail, up to {EMBED_BYTES / 1e6:g} MB)."
        )
    method = METHODS[info["method"]].format(
        layer=(info["layer"] or "").removeprefix("backbone."), captum=info["captum"]
    )
    if info["of"]["name"] != run.name:
        method += f"; of the models of {info['of']['name']}"
    return Explanations(maps, method[:1].upper() + method[1:] + ".", HINT, note)


def _maps_by_row(
    run: Run, info: ExplainInfo, shown: Collection[str] | None
) -> dict[int, tuple[Heat, Heat]]:
    """Return the maps of rows with shown images, in the order of the file, up to EMBED_BYTES."""
    arrays = oof_arrays(run)
    label_N = arrays.rows.label_N
    predicted_N = arrays.proba_NC.argmax(axis=1)
    names = zip(run.oof["image_id"].tolist(), arrays.rows.repeat_N.tolist(), strict=True)
    row_of = {name: row for row, name in enumerate(names)}
    found: dict[int, tuple[Heat, Heat]] = {}
    used = 0
    for one in info["maps"]:
        if shown is not None and one["image_id"] not in shown:
            continue
        row = row_of.get((one["image_id"], one["repeat"]))
        given = (one["predicted"]["label"], one["true"]["label"])
        # The file may be of another program, or was changed by hand.
        if row is None or given != (int(predicted_N[row]), int(label_N[row])):
            continue
        pair = (_drawn(one["predicted"], info["area"]), _drawn(one["true"], info["area"]))
        used += sum(len(heat.uri) for heat in pair)
        if used > EMBED_BYTES:
            break
        found[row] = pair
    return found


def _pixels(low: float, high: float, size: int) -> slice:
    """Return the pixels of a part of a side, at least one.

    >>> _pixels(0.25, 0.75, 8), _pixels(0.99, 1, 8)
    (slice(2, 6, None), slice(7, 8, None))
    """
    first = min(round(low * size), size - 1)
    return slice(first, max(round(high * size), first + 1))


def _drawn(one: HeatInfo, area: Sequence[float]) -> Heat:
    """Return a map as an image of one colour, the more opaque the more speaks for the class."""
    heat_HW = unpacked(one)
    # The grid covers the part that the model sees; the rest of the image says nothing.
    left, top, right, bottom = area
    # A grid has about the proportions of the image, and the page stretches it to them.
    whole = np.zeros(
        (HEIGHT, max(round(HEIGHT * heat_HW.shape[1] / heat_HW.shape[0]), 1)), np.uint8
    )
    seen = whole[_pixels(top, bottom, whole.shape[0]), _pixels(left, right, whole.shape[1])]
    seen[:] = cv2.resize(heat_HW, seen.shape[::-1], interpolation=cv2.INTER_CUBIC)
    colour = np.zeros((*whole.shape, 4), np.uint8)
    colour[..., :3] = COLOUR_RGB[::-1]
    colour[..., 3] = np.rint(whole * (MOST_OPAQUE / 255))
    data = cv2.imencode(".png", colour, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1]
    uri = PNG + base64.b64encode(data.tobytes()).decode()
    return Heat(one["label"], uri, not heat_HW.any())
