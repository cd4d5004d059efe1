"""The file explain.json of a run folder: maps of where models looked, checked when it is read."""

# `from __future__ import annotations` would hide Required from __required_keys__.
import base64
import binascii
from pathlib import Path
from typing import Annotated, Literal, TypedDict

import numpy as np

from foldblend.cli import program
from foldblend.files import exists
from foldblend.runs.broken import BrokenRun
from foldblend.runs.checked import between, filled, length
from foldblend.runs.folder import write_json
from foldblend.runs.info import MOST_MODELS
from foldblend.runs.schema import read_checked

__all__ = [
    "EXPLAIN",
    "ExplainInfo",
    "HeatInfo",
    "MapInfo",
    "SourceInfo",
    "packed",
    "read_explain",
    "unpacked",
    "write_explain",
]

EXPLAIN = "explain.json"
# More maps, or larger ones, are not read.
MOST_MAPS = 2_000
MOST_SIDE = 64

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


def unpacked(one: HeatInfo) -> np.ndarray:
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
                unpacked(side)
            except ValueError as error:
                raise BrokenRun(f"{file}: maps[{place}].{error}; {cure}", folder) from None
    return info
