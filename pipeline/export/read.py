"""Reading of an exported file. Nothing in it is executed or written to disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from foldblend.attributes import Attribute
from foldblend.cli import Say
from foldblend.errors import UserError, in_a_line
from foldblend.scores.calibration import Calibration
from foldblend.scores.conformal import Conformal
from foldblend.scores.coverage import Coverage
from foldblend.scores.metrics import MEAN_COST, METRICS
from pipeline.export.file import DAMAGED, FORMAT, WITHOUT_LEVELS, Archive, plain_json
from pipeline.export.layout import leaf_of, node_of
from pipeline.export.weights import FileWeights, NoWeights
from pipeline.export.write import INFO, versions
from pipeline.predict.config import READING
from pipeline.predict.open import Predictor
from pipeline.predict.reference import Reference
from pipeline.predict.tree import Leaf
from pipeline.predict.weights import WeightSource

__all__ = ["read_export"]

MOST_SHOWN = 40


def _texts(values: Any) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
        raise ValueError("a list of texts is expected")
    return values


def _checked_info(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of run.json that a file has; raise ValueError for other types."""
    info = {name: found[name] for name in INFO if name in found}
    classes = _texts(info["classes"])
    _texts(info["views"])
    if not classes or len(set(classes)) < len(classes):
        raise ValueError("classes")
    if info["kind"] not in ("cv", "tta", "blend") or info["status"] != "done":
        raise ValueError("kind or status")
    for name in ("num_folds", "num_repeats"):
        if type(info[name]) is not int or info[name] < 1:
            raise ValueError(name)
    if info["metric"] not in METRICS and info["metric"] != MEAN_COST:
        raise ValueError("metric")
    if not isinstance(info["data"]["name"], str):
        raise ValueError("data")
    answers = info.get("answers", [])
    if not isinstance(answers, list) or len(answers) not in (0, len(classes)):
        raise ValueError("answers")
    for one in info["attributes"]:
        of_class = tuple(one["of_class"])
        Attribute(name=str(one["name"]), values=tuple(_texts(one["values"])), of_class=of_class)
        if len(of_class) != len(classes):
            raise ValueError("attributes")
    return info


def _weights(archive: Archive, record: Mapping[str, Any], *, half: bool) -> WeightSource:
    """Return the weights of a leaf; raise an error where their records do not fit the file."""
    models = record["models"]
    if models is None:
        return NoWeights()
    recipe = record["recipe"]
    num = len(recipe["padded"])
    # Refits that have all of the share replace the models of the folds.
    absent = num - recipe.get("num_refits", 0) if recipe.get("refit_share", 0) == 1 else 0
    if len(models) != num - absent:
        raise ValueError("models")
    backbone = record["backbone"]
    if (backbone is None) == record["recipe"]["frozen"]:
        raise ValueError("backbone")
    for one in [*models, *([] if backbone is None else [backbone])]:
        places = list(one["shared"].values())
        for entry in [one["file"], *(place[0] for place in places)]:
            archive.sizes[entry]
        if not all(isinstance(place[1], str) and len(place) == 2 for place in places):
            raise ValueError("shared")
    return FileWeights(archive, [None] * absent + models, backbone, half=half)


def _arrays(archive: Archive, name: str) -> dict[str, np.ndarray] | None:
    entry = f"{name}.safetensors"
    if entry not in archive.sizes:
        return None
    return dict(safetensors.numpy.load(archive.read(entry)))


def _conformal(
    archive: Archive, calibration: Calibration, num_classes: int
) -> dict[str, np.ndarray] | None:
    """Return the arrays of conformal scores; raise ValueError for others."""
    arrays = _arrays(archive, "conformal")
    if arrays is None:
        return None
    if len({one.shape for one in arrays.values()}) != 1 or arrays["score"].ndim != 1:
        raise ValueError("shapes of conformal scores")
    if not all(np.isfinite(one).all() for one in arrays.values()):
        raise ValueError("conformal scores")
    for name, most in (("label", num_classes), ("model", 1 << 20), ("repeat", 1 << 20)):
        one = arrays[name]
        if one.dtype.kind not in "iu" or not len(one) or one.min() < 0 or one.max() >= most:
            raise ValueError(f"{name} of conformal scores")
    Conformal.from_arrays(arrays, temperature=calibration.temperature)
    return arrays


def _coverages(
    records: Sequence[Mapping[str, Any]], num_classes: int
) -> dict[tuple[float, bool], Coverage]:
    """Return the coverages out of fold in a file; raise ValueError for impossible ones."""
    found = {}
    for one in records:
        shares = [one["wanted"], *(part for part in one["share"].values() if part is not None)]
        if not all(type(part) in (int, float) and 0 <= part <= 1 for part in shares):
            raise ValueError("shares of coverages")
        if type(one["width"]) not in (int, float) or not 0 <= one["width"] <= num_classes:
            raise ValueError("width of coverages")
        if type(one["by_class"]) is not bool:
            raise ValueError("by_class of coverages")
        found[float(one["wanted"]), one["by_class"]] = Coverage.from_dict(one)
    return found


def _reference(archive: Archive) -> dict[str, np.ndarray] | None:
    """Return the arrays of the reference of images; raise ValueError for others."""
    arrays = _arrays(archive, "reference")
    if arrays is None:
        return None
    found = Reference.from_arrays(arrays)
    size, axes = found.axes_DX.shape
    fits = found.mean_D.shape == (size,) and found.rows_NX.shape[1:] == (axes,)
    if not fits or found.distance_N.ndim != 1 or found.look_3X.shape[0] != 3:
        raise ValueError("shapes of the reference")
    if not all(one.dtype.kind == "f" and np.isfinite(one).all() for one in arrays.values()):
        raise ValueError("values of the reference")
    return arrays


def _reading(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that images are read with; none of them names a place or code."""
    return {
        name: value
        for name, value in found.items()
        if name in READING
        and name != "image_root"
        and (value is None or isinstance(value, (str, bool)))
    }


def _check_format(path: Path, model: Mapping[str, Any]) -> None:
    """Raise UserError for a file of another format."""
    found = model["format"]
    if type(found) is int and WITHOUT_LEVELS <= found <= FORMAT:
        return
    by = "".join(one for one in str(model["versions"]["foldblend"]) if one.isalnum() or one in ".+")
    raise UserError(
        f"{path}: has format {str(found)[:MOST_SHOWN]}, and this version reads format {FORMAT} and"
        f" older; install foldblend {by[:MOST_SHOWN]}, which wrote it, or export the run again"
    )


def _say_versions(path: Path, found: Mapping[str, Any], say: Say) -> None:
    """Say which other versions of libraries made a file."""
    here = versions()
    other = [
        f"{name} {str(found[name])[:MOST_SHOWN]} (here {here[name]})"
        for name in here
        if name != "foldblend" and name in found and found[name] != here[name]
    ]
    if other:
        say(f"{path}: exported with {', '.join(other)}; logits may differ in the last digits")


def _predictor(archive: Archive, say: Say) -> Predictor:
    model = plain_json(archive.read("model.json"))
    _check_format(archive.path, model)
    info = _checked_info(model["info"])
    half = model["half"] is True
    num_classes = len(info["classes"])
    leaves: list[Leaf] = []
    for number, record in enumerate(model["leaves"]):
        weights = _weights(archive, record, half=half)
        leaves.append(leaf_of(record, number, weights, num_classes))
    root = node_of(model["tree"], leaves, archive.read, num_classes)
    calibration = Calibration.from_dict(model["extras"]["calibration"])
    extras: dict[str, Any] = {
        "calibration": calibration.as_dict(),
        "reading": _reading(model["extras"]["reading"]),
        "half": half,
        # Files of earlier versions lack them.
        "coverages": _coverages(model["extras"].get("coverages", []), num_classes),
        "folds": model["folds"],
        "report": dict(model["report"]),
    }
    conformal = _conformal(archive, calibration, num_classes)
    for name, arrays in (("conformal", conformal), ("reference", _reference(archive))):
        if arrays is not None:
            extras[name] = arrays
    predictor = Predictor(root=root, source=archive.path, info=info, extras=extras)
    for leaf in predictor.leaves.values():
        if isinstance(leaf.weights, NoWeights):
            raise ValueError(f"{leaf.name} has no weights")
    _say_versions(archive.path, model["versions"], say)
    return predictor


def read_export(path: str | Path, *, say: Say) -> Predictor:
    """Return the predictor of a file of export_model.py.

    Weights are read when they are needed, those of one model at a time.

    Raises
    ------
    UserError
        If a byte of the file has changed, it is of another version, or it describes anything but
        models of timm, built-in views and parameters.
    """
    archive = Archive(Path(path))
    try:
        return _predictor(archive, say)
    except (RecursionError, MemoryError):
        raise UserError(f"{path}: model.json is nested too deeply; do not use this file") from None
    # Its hash is right, so it was written so: a hostile file may fail in any way.
    except UserError as error:
        if str(error).startswith(str(path)):
            raise
        raise UserError(f"{path}: {error}; do not use this file") from None
    except Exception as error:
        raise UserError(
            f"{path}: model.json cannot be used ({in_a_line(error)}); {DAMAGED}"
        ) from None
