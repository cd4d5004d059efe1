"""Explanations of mistakes for the report: where the model looked, as explain.json has it.

`report.py --explain` makes them (see `pipeline.explain`); here they are read, without torch.
"""

# `from __future__ import annotations` would hide Required from __required_keys__.
import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import cv2
import numpy as np

from foldblend.cli import program
from foldblend.errors import UserError, counted
from foldblend.files import exists
from foldblend.runs.broken import BrokenRun
from foldblend.runs.checked import between, filled, length
from foldblend.runs.folder import write_json
from foldblend.runs.info import MOST_MODELS
from foldblend.runs.oof import OofArrays, oof_arrays
from foldblend.runs.run import Run
from foldblend.runs.schema import read_checked
from reports.run.first_screen import worst_classes
from reports.run.gallery import Predictions
from reports.run.summary import scores_of_classes

__all__ = [
    "EXPLAIN",
    "HINT",
    "METHODS",
    "ExplainInfo",
    "Explanations",
    "Heat",
    "MapInfo",
    "SourceInfo",
    "explanations_of",
    "packed",
    "read_explain",
    "rows_to_explain",
    "write_explain",
]

EXPLAIN = "explain.json"
MOST_MISTAKES = 100
# More maps, or larger ones, are not read.
MOST_MAPS = 2_000
MOST_SIDE = 64
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

Name = Annotated[str, filled()]
Label = Annotated[int, between(0, 1_000_000_000)]
Side = Annotated[int, between(1, MOST_SIDE)]
Share = Annotated[float, between(0, 1)]


class HeatInfo(TypedDict):
    """Evidence for a class at each position of an image."""

    label: Label
    """Number of the class."""
    height: Side
    width: Side
    heat: str
    """Values from 0 to 255, row by row, one byte each, in base64."""


class MapInfo(TypedDict):
    """The explanation of one out-of-fold prediction."""

    image_id: Name
    repeat: Annotated[int, between(0, MOST_MODELS)]
    predicted: HeatInfo
    true: HeatInfo


class SourceInfo(TypedDict):
    """The run whose models are explained: the run itself, or a member of a blend."""

    name: Name
    oof: str
    """Hash of its oof.parquet."""
    models: str
    """Hash of its weights and of how images are prepared for them."""


class ExplainInfo(TypedDict, total=False):
    """Content of explain.json."""

    format: Literal[1]
    """Raised when maps are made differently, so that earlier ones are made again."""
    oof: str
    """Hash of the run's oof.parquet."""
    of: SourceInfo
    captum: Name
    """Version of Captum."""
    method: Literal["layer", "occlusion"]
    layer: Name | None
    area: Annotated[list[Share], length(4, 4)]
    """Part of each image that the model sees: left, top, right and bottom as shares of its crop."""
    maps: Annotated[list[MapInfo], length(0, MOST_MAPS)]


NEEDED = ("format", "oof", "of", "captum", "method", "layer", "area", "maps")


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


def packed(heat_HW: np.ndarray, label: int) -> HeatInfo:
    """Return a map of uint8 for explain.json.

    Examples
    --------
    >>> packed(np.array([[0, 255]], np.uint8), 2)
    {'label': 2, 'height': 1, 'width': 2, 'heat': 'AP8='}
    """
    height, width = heat_HW.shape
    data = base64.b64encode(np.ascontiguousarray(heat_HW, np.uint8).tobytes()).decode()
    return {"label": label, "height": height, "width": width, "heat": data}


def _unpacked(one: HeatInfo) -> np.ndarray:
    """Return the values of a map, H x W uint8; raise ValueError for another number of them."""
    try:
        data = base64.b64decode(one["heat"], validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("heat: must be base64") from None
    if len(data) != one["height"] * one["width"]:
        raise ValueError(f"heat: must be {one['height'] * one['width']} values, not {len(data)}")
    return np.frombuffer(data, np.uint8).reshape(one["height"], one["width"])


def write_explain(folder: Path, info: ExplainInfo) -> None:
    """Write explain.json into a run folder, whole or not at all."""
    write_json(folder / EXPLAIN, info)


def read_explain(folder: Path) -> ExplainInfo | None:
    """Return the checked content of explain.json, or None if there is none.

    Raises BrokenRun if it is damaged.
    """
    file = folder / EXPLAIN
    if not exists(file):
        return None
    cure = f"{program('report.py')} {folder} --explain makes it again"
    info: ExplainInfo = read_checked(file, ExplainInfo, needed=NEEDED, folder=folder, cure=cure)
    left, top, right, bottom = info["area"]
    if not (left < right and top < bottom):
        raise BrokenRun(f"{file}: area: must be left, top, right, bottom; {cure}", folder)
    for place, one in enumerate(info["maps"]):
        for side in (one["predicted"], one["true"]):
            try:
                _unpacked(side)
            except ValueError as error:
                raise BrokenRun(f"{file}: maps[{place}].{error}; {cure}", folder) from None
    return info


def explanations_of(run: Run) -> Explanations | None:
    """Return the explanations in a run folder that fit the run, or None if it has none.

    Damaged or outdated ones are not shown; `note` says so then.
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
    maps = _maps_by_row(run, info)
    num = len(info["maps"])
    note = f"Of {counted(num, 'mistake')}, the opened image shows where the model looked."
    if len(maps) < num:
        note = (
            f"Of {len(maps):,} mistakes, the opened image shows where the model looked (of {num:,}"
            f" in {EXPLAIN}, up to {EMBED_BYTES / 1e6:g} MB)."
        )
    method = METHODS[info["method"]].format(
        layer=(info["layer"] or "").removeprefix("backbone."), captum=info["captum"]
    )
    if info["of"]["name"] != run.name:
        method += f"; of the models of {info['of']['name']}"
    return Explanations(maps, method[:1].upper() + method[1:] + ".", HINT, note)


def _maps_by_row(run: Run, info: ExplainInfo) -> dict[int, tuple[Heat, Heat]]:
    """Return the maps of rows of the run, in the order of the file, up to EMBED_BYTES."""
    arrays = oof_arrays(run)
    label_N = arrays.rows.label_N
    predicted_N = arrays.proba_NC.argmax(axis=1)
    names = zip(run.oof["image_id"].tolist(), arrays.rows.repeat_N.tolist(), strict=True)
    row_of = {name: row for row, name in enumerate(names)}
    found: dict[int, tuple[Heat, Heat]] = {}
    used = 0
    for one in info["maps"]:
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


def _drawn(one: HeatInfo, area: list[float]) -> Heat:
    """Return a map as an image of one colour, the more opaque the more speaks for the class."""
    heat_HW = _unpacked(one)
    # The grid covers the part that the model sees; the rest of the image says nothing.
    left, top, right, bottom = area
    height = HEIGHT
    # A grid has about the proportions of the image, and the page stretches it to them.
    width = max(round(HEIGHT * heat_HW.shape[1] / heat_HW.shape[0]), 1)
    x1, x2 = round(left * width), max(round(right * width), round(left * width) + 1)
    y1, y2 = round(top * height), max(round(bottom * height), round(top * height) + 1)
    inner = cv2.resize(heat_HW, (x2 - x1, y2 - y1), interpolation=cv2.INTER_CUBIC)
    whole = np.zeros((max(y2, height), max(x2, width)), np.uint8)
    whole[y1:y2, x1:x2] = inner
    colour = np.zeros((*whole.shape, 4), np.uint8)
    colour[..., :3] = COLOUR_RGB[::-1]
    colour[..., 3] = np.rint(whole * (MOST_OPAQUE / 255))
    data = cv2.imencode(".png", colour, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1]
    uri = PNG + base64.b64encode(data.tobytes()).decode()
    return Heat(one["label"], uri, not heat_HW.any())
