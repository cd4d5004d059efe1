"""Export of a finished run, TTA'd run or blend into one file."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from foldblend.cli import Say
from foldblend.errors import UserError, counted
from foldblend.files import check_writable, is_file
from foldblend.flags import from_settings
from foldblend.images import AS_BEFORE
from foldblend.plugins import parse_parts
from foldblend.progress import write
from foldblend.runs.calibrated import plain_oof
from foldblend.runs.oof import oof_rows
from foldblend.runs.run import Run
from foldblend.scores.coverage import LEVELS, out_of_fold_coverage
from pipeline.config.trust import NOTHING, OwnPartError, Trust
from pipeline.device import threads_restored
from pipeline.export.card import Card, licence_texts, model_card
from pipeline.export.config import ExportConfig
from pipeline.export.file import FORMAT, WITHOUT_LEVELS, WITHOUT_REFITS, write_archive
from pipeline.export.half import Loss, measure
from pipeline.export.layout import all_leaves, plain_node
from pipeline.export.prepare import Prepared, prepare
from pipeline.export.target import target_file, target_folder, write_folder
from pipeline.export.weights import Packed
from pipeline.predict.compare import add_reference, main_leaf
from pipeline.predict.open import Predictor, open_predictor
from pipeline.predict.tree import Blend, Leaf
from pipeline.predict.weights import FolderWeights

__all__ = ["INFO", "export_model", "versions"]

# Keys of run.json that prediction and its reports need. Others, such as command lines and paths of
# the machine, stay there.
INFO = (
    "format",
    "kind",
    "status",
    "name",
    "data",
    "classes",
    "answers",
    "ordered",
    "attributes",
    "submission",
    "num_folds",
    "num_repeats",
    "metric",
    "score_by",
    "group_pool",
    "costs",
    "leaks",
    "optimistic",
    "views",
    "passes",
    "picture_seconds",
    "device",
    "preprocess",
    "about",
    "notes",
)
REPORT = (
    "metric",
    "score_by",
    "group_name",
    "headline",
    "interval",
    "num_images",
    "num_groups",
    "scores",
)
# Module and function that write each further format.
EXTRAS = {
    "onnx": ("pipeline.export.onnx_graph", "write_onnx"),
    "timm": ("pipeline.export.timm_folder", "write_timm"),
}
DISTRIBUTIONS = {
    "foldblend": "foldblend",
    "torch": "torch",
    "timm": "timm",
    "opencv": "opencv-python-headless",
}


def versions() -> dict[str, str]:
    """Return the versions of what decides logits."""
    found = {}
    for name, distribution in DISTRIBUTIONS.items():
        try:
            found[name] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


def _conformal(predictor: Predictor, prepared: Prepared) -> Mapping[str, np.ndarray] | None:
    """Return the arrays of the conformal scores, of the exported models only."""
    found = predictor.conformal
    if found is None:
        return None
    arrays = found.as_arrays()
    root = predictor.root
    if isinstance(root, Blend) and root.of_means:
        return arrays
    kept = next(iter(prepared.models.values()))
    if not {*range(root.num_models)} - {*kept} or max(kept) >= root.num_models:
        return arrays
    number = {model: place for place, model in enumerate(kept)}
    rows = [place for place, model in enumerate(arrays["model"].tolist()) if model in number]
    arrays = {name: values[rows] for name, values in arrays.items()}
    arrays["model"][:] = [number[model] for model in arrays["model"].tolist()]
    return arrays


def _coverages(predictor: Predictor) -> list[dict[str, Any]]:
    """Return the coverage of sets of classes out of fold, for some wanted coverages."""
    run = predictor.run
    assert run is not None
    logits_NC = plain_oof(run)
    rows = oof_rows(run)
    temperature = predictor.calibration.temperature
    found = []
    for by_class in (False, True):
        for wanted in LEVELS:
            one = out_of_fold_coverage(
                logits_NC, rows, wanted, temperature=temperature, by_class=by_class
            )
            if one is not None:
                found.append({"wanted": wanted, "by_class": by_class, **one.as_dict()})
    return found


def _reference(
    predictor: Predictor, config: ExportConfig, say: Say
) -> Mapping[str, np.ndarray] | None:
    """Return the arrays with which new images are compared with those of the training.

    They belong to the model of fold 0, which the file may lack.
    """
    leaf = main_leaf(predictor.root)
    if 0 not in (leaf.recipe.models if config.models is None else config.models):
        return None
    weights = leaf.weights
    assert isinstance(weights, FolderWeights)
    found = add_reference(weights, named=predictor.source, say=say)
    return None if found is None else found.as_arrays()


def _format(leaves: Iterable[Leaf]) -> int:
    """Return the lowest format whose versions can read a file with these leaves."""
    recipes = [leaf.recipe for leaf in leaves]
    if any(recipe.num_refits for recipe in recipes):
        return FORMAT
    has_levels = any(recipe.preprocess.levels != AS_BEFORE for recipe in recipes)
    return WITHOUT_REFITS if has_levels else WITHOUT_LEVELS


def _entries(
    predictor: Predictor,
    prepared: Prepared,
    config: ExportConfig,
    texts: Mapping[str, str],
    arrays: Mapping[str, Mapping[str, np.ndarray] | None],
) -> Iterator[tuple[str, bytes]]:
    """Yield the entries of a file, one model at a time."""
    run = predictor.run
    assert run is not None
    for name, text in texts.items():
        # The file's own name may be no UTF-8.
        yield name, text.encode(errors="backslashreplace")
    leaves = all_leaves(prepared.root)
    packed = Packed(half=config.half)
    records: list[dict[str, Any]] = []
    for number, (key, leaf) in enumerate(leaves.items()):
        record: dict[str, Any] = {"name": leaf.name, "recipe": leaf.recipe.as_dict()}
        record |= {"models": None, "backbone": None}
        if key in prepared.models:
            yield from packed.leaf(leaf, number, prepared.models[key], record)
        records.append(record)
    blends: dict[str, bytes] = {}
    numbers = {key: number for number, key in enumerate(leaves)}
    tree = plain_node(prepared.root, numbers, blends)
    yield from blends.items()
    for name, one in arrays.items():
        if one is not None:
            yield f"{name}.safetensors", safetensors.numpy.save(dict(one))
    report = run.report
    reading = {name: value for name, value in predictor.settings.items() if name != "image_root"}
    model = {
        "format": _format(leaves.values()),
        "versions": versions(),
        "half": config.half,
        "folds": None if config.models is None else list(config.models),
        "info": {name: run.info[name] for name in INFO if name in run.info},  # type: ignore[literal-required]
        "report": {name: report[name] for name in REPORT if name in report},
        "tree": tree,
        "leaves": records,
        "extras": {
            "calibration": predictor.calibration.as_dict(),
            "reading": reading,
            "coverages": _coverages(predictor),
        },
    }
    yield "model.json", (json.dumps(model, indent=1, allow_nan=False) + "\n").encode()


def _opened(path: Path, say: Say, trust: Trust, *, needs_run: bool) -> Predictor:
    """Return the predictor of a run; raise UserError for one that cannot be exported."""
    if needs_run and is_file(path):
        raise UserError(f"{path}: is a file, maybe an exported one; pass the folder of a run")
    try:
        # A file cannot carry code, so nothing is gained by importing it.
        return open_predictor(path, trust=NOTHING if needs_run else trust, say=say)
    except OwnPartError as error:
        if not needs_run:
            raise
        what = str(error).partition(" is code of its own")[0]
        raise UserError(
            f"{what} is code of its own, which a file cannot carry; keep the run folder"
        ) from None


@threads_restored()
def export_model(
    run: str | Path | Run,
    to: str | Path | None = None,
    *,
    say: Say = write,
    **settings: Any,
) -> Path | None:
    """Write a finished run, TTA'd run or blend into one file, which predicts without the folder.

    Parameters
    ----------
    run
        The run, or its folder.
    to
        File to write; None with `onnx` or `timm` only.
    say
        Function that prints one line of the log.
    settings
        Settings by keyword, spelt as the flags of export_model.py (fields of
        `pipeline.export.config.ExportConfig`): `half`, `folds`, `overwrite`, `onnx`, `timm` ...

    Returns
    -------
    Path | None
        The file.

    Raises
    ------
    UserError
        For an unfinished run, a member that is gone, or a run that uses your own code.

    Examples
    --------
    >>> file = fb.export_model(outputs / "alpha", outputs / "alpha.zip", say=silent)
    >>> file.name
    'alpha.zip'
    """
    folder = run.path if isinstance(run, Run) else Path(run)
    given = None if to is None else str(to)
    config = from_settings(ExportConfig, {**settings, "run": str(folder), "to": given})
    path = None if config.to is None else target_file(config.to, overwrite=config.overwrite)
    folders = {
        name: target_folder(place, flag=f"--{name}", overwrite=config.overwrite)
        for name, place in (("onnx", config.onnx), ("timm", config.timm))
        if place is not None
    }
    trust = Trust(parse_parts(config.parts), config.trust_parts)
    predictor = _opened(folder, say, trust, needs_run=path is not None)
    if path is not None:
        _write_file(path, predictor, config, say)
    for name, target in folders.items():
        module, function = EXTRAS[name]
        write_folder(target, predictor, getattr(importlib.import_module(module), function), say)
    return path


def _write_file(path: Path, predictor: Predictor, config: ExportConfig, say: Say) -> None:
    """Write the exported file."""
    prepared = prepare(predictor.root, config.models)
    check_writable(path.parent, flag="--to")
    half = measure(predictor, device=config.device, say=say) if config.half else None
    if half is not None:
        said = half.sentence() if isinstance(half, Loss) else f"not measured ({half})"
        say(f"--half: {said}")
    card = Card(predictor, prepared, path.name, half)
    texts = {"README.md": model_card(card), **licence_texts(card)}
    arrays = {
        "conformal": _conformal(predictor, prepared),
        "reference": _reference(predictor, config, say),
    }
    needed = _size_of_weights(predictor, prepared) // (2 if config.half else 1)
    write_archive(path, _entries(predictor, prepared, config, texts, arrays), needed=needed)
    _say_done(path, prepared, predictor, say)


def _size_of_weights(predictor: Predictor, prepared: Prepared) -> int:
    """Return the bytes of the weights of the models that are exported."""
    found = 0
    for key, models in prepared.models.items():
        leaf = predictor.leaves[key]
        assert isinstance(leaf.weights, FolderWeights)
        found += leaf.weights.num_bytes(models)
    return found


def _size_of(folders: Sequence[Path]) -> int:
    return sum(
        file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file()
    )


def _say_done(path: Path, prepared: Prepared, predictor: Predictor, say: Say) -> None:
    """Report the size of a file, and that of the folders that it replaces."""
    num = sum(map(len, prepared.models.values()))
    folders = {leaf.weights.folder for leaf in predictor.leaves.values()}  # type: ignore[attr-defined]
    before = _size_of([*{one.resolve() for one in {*folders, predictor.source}}])
    size = path.stat().st_size
    say(
        f"{path}: {counted(num, 'model')}, {size / 1e6:,.1f} MB"
        f" (the folders have {before / 1e6:,.1f} MB)"
    )
