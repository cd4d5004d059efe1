"""Public functions that predict images, and what `Run.predict` and its kin call."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from foldblend.cli import Say
from foldblend.drafts import LONGEST_NAME
from foldblend.errors import UserError, listed
from foldblend.files import check_writable, home, is_file
from foldblend.flags import from_settings
from foldblend.progress import lines_to, write
from foldblend.runs.run import Run
from foldblend.scores.metrics import softmax
from foldblend.scores.rows import Rows
from foldblend.scores.run_metric import metric_of
from foldblend.scores.score import score_of
from pipeline.device import threads_restored
from pipeline.predict.config import PredictConfig
from pipeline.predict.inputs import Images, Inputs, each_once, read_inputs
from pipeline.predict.run import Prediction, predict_session
from pipeline.predict.session import Session, open_session
from pipeline.predict.tree import needs_of

__all__ = ["check_out", "open_inputs", "predict", "score_images"]

# Settings that say what is written, or what tables have besides the class.
OF_TABLES = ("out", "page", "overwrite", "resume", "safe_csv", "unsure", "coverage", "coverage_by")
# Names such as 007 or NA stay texts.
TEXTS = dict.fromkeys(("image_id", "group", "class", "classes"), str)
READERS: dict[str, Callable[[str], pd.DataFrame]] = {
    ".csv": lambda path: pd.read_csv(path, dtype=TEXTS, keep_default_na=False),
    ".parquet": lambda path: pd.read_parquet(io.BytesIO(Path(path).read_bytes())),
    ".jsonl": lambda path: pd.read_json(path, lines=True, dtype=TEXTS, precise_float=True),
}


def check_out(config: PredictConfig) -> None:
    """Raise UserError for a file that cannot be written or must not be replaced."""
    for flag, path in config.written:
        try:
            is_there = path.exists()
            is_short = len(os.fsencode(path.name)) <= LONGEST_NAME
            is_place = is_short and (not is_there or path.is_file())
            folders = Path(os.path.realpath(path)).parents
        except (OSError, ValueError):  # the name is too long, or links go in a circle
            is_place = False
        if not is_place:
            raise UserError(f"{flag} {path}: no file can be written there; pass a file in a folder")
        if is_there and not config.overwrite:
            raise UserError(f"{flag} {path}: is there already; pass --overwrite, or another file")
        # With --overwrite a slip would destroy the tables of a run, or the images.
        if any(is_file(folder / "run.json") for folder in folders):
            raise UserError(f"{flag} {path}: is in the folder of a run; pass a file elsewhere")
        read = [config.run, *config.images]
        if is_there and any(is_file(home(one)) and home(one).samefile(path) for one in read):
            raise UserError(f"{flag} {path}: is read by this command; pass another file")
        check_writable(path.absolute().parent, flag=flag)


def open_inputs(config: PredictConfig, images: Images, *, say: Say) -> tuple[Session, Inputs]:
    """Return the models of a run, and the images as the run's settings read them."""
    session = open_session(config.run, config, say=say)
    predictor = session.predictor
    reading = config.reading(predictor.settings)
    inputs = read_inputs(images, reading, predictor.classes, needs_of(predictor.root))
    # A column that only the run's settings name may be absent.
    if config.group_col is not None and inputs.groups is None:
        raise UserError(f"--group-col {config.group_col}: no table of images has it; correct it")
    if not len(inputs):
        raise UserError("IMAGES: there are none in it; pass a table with at least one row")
    no_text = [name for name in inputs.ids if not _is_text(name)]
    if no_text:
        shown = listed(name.encode(errors="replace").decode() for name in no_text)
        raise UserError(f"{shown}: the name is not UTF-8 text, so no table can hold it; rename it")
    return session, inputs


def _is_text(name: str) -> bool:
    """Return whether a name can be written; names of files may have any bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _configured(run: str | Path | Run, settings: dict[str, Any]) -> PredictConfig:
    path = run if isinstance(run, (str, Path)) else run.path
    return from_settings(PredictConfig, {**settings, "run": str(path)})


@threads_restored()
def predict(
    run: str | Path | Run, images: Images, *, say: Say = write, **settings: Any
) -> pd.DataFrame:
    """Predict the classes of images with the models of a finished run, TTA'd run or blend.

    Parameters
    ----------
    run
        The run, its folder, or a file of `export_model`.
    images
        A file, folder, table or pattern of images, a data frame, an array, a PIL image, or a
        sequence of paths, arrays and PIL images. Arrays are height x width x 3 (RGB) or height x
        width, uint8 or uint16.
    say
        Function that prints one line of the log.
    settings
        Settings of predict.py, spelt as its flags: ``folds``, ``budget``, ``unsure``,
        ``coverage``, ``on_bad_image``, ``out`` ...

    Returns
    -------
    pd.DataFrame
        One row per image, in their order: image_id, class, proba (the calibrated probability of
        the class) and proba_CLASS for each class; unsure, classes and group where they are asked
        for. In a sequence of paths, without ``out``, paths may be repeated. With ``out`` the table
        is written to a file as well; ``page`` writes a page of images.

    Raises
    ------
    UserError
        If the run cannot be opened, or an image cannot be read.

    Examples
    --------
    >>> table = fb.predict(outputs / "alpha", f"{data}/eval/images", say=silent)
    >>> table.shape, list(table.columns[:4])
    ((42, 22), ['image_id', 'class', 'proba', 'odd'])
    """
    config = _configured(run, settings)
    check_out(config)
    # A file names each image once.
    images, names = each_once(images) if config.out is None else (images, None)
    with lines_to(say):
        session, inputs = open_inputs(config, images, say=say)
        table = predict_session(session, inputs, config, say=say)
    if table is None:
        assert config.out is not None
        table = READERS[Path(config.out).suffix.lower()](config.out)
    if names is not None:
        table = pd.DataFrame({"image_id": names}).merge(table, on="image_id")
    return table


def _codes(labels: Sequence[Any], info: Any) -> np.ndarray:
    """Return the class of each label, given as names of classes or as values of a submission.

    Raises UserError for labels that are neither.
    """
    names = {str(name): code for code, name in enumerate(info["classes"])}
    answers = {str(value): code for code, value in enumerate(info.get("answers", ()))}
    words = [str(one) for one in labels]
    known = names if {*words} <= {*names} else answers | names
    unknown = sorted({*words} - {*known})
    if unknown:
        raise UserError(
            f"labels {listed(unknown)}: no classes of the run; pass some of {listed(names, most=5)}"
        )
    return np.array([known[one] for one in words], np.int64)


def _own_labels(inputs: Inputs) -> np.ndarray:
    """Return the labels that were read with the images; raise UserError if any is missing."""
    if inputs.labels is None:
        raise UserError(
            "images: no labels of the run's classes with them; pass labels, or label_col with the"
            " column that has them"
        )
    label_N = np.asarray(inputs.labels, np.int64)
    if (label_N < 0).any():
        names = [inputs.ids[index] for index in np.flatnonzero(label_N < 0).tolist()]
        raise UserError(f"{listed(names)}: labels are no classes of the run; correct them")
    return label_N


@threads_restored()
def score_images(
    run: str | Path | Run,
    images: Images,
    labels: Sequence[Any] | None = None,
    *,
    say: Say = write,
    **settings: Any,
) -> float:
    """Return the score of a run's predictions of images, by the metric of the run.

    Parameters
    ----------
    run, images, settings
        As for `predict`; settings of its table, such as ``out`` and ``coverage``, are refused.
    labels
        Class of each image, by name or as in a submission. None: those of the column of labels in
        a table (``label_col``), or of folders that are named as the classes.
    say
        Function that prints one line of the log.

    Raises
    ------
    UserError
        For labels that are no classes, images without a label, and settings of tables.
    """
    # A score needs no comparison with the training images.
    config = _configured(run, {**settings, "odd": False})
    for field in dataclasses.fields(PredictConfig):
        if field.name in OF_TABLES and getattr(config, field.name) != field.default:
            raise UserError(f"{field.name}: a score has no table; leave it out, or call fb.predict")
    images, names = each_once(images)
    with lines_to(say):
        session, inputs = open_inputs(config, images, say=say)
        info = session.predictor.info
        label_N = _own_labels(inputs) if labels is None else _codes(labels, info)
        num = len(inputs) if names is None else len(names)
        if len(label_N) != num:
            raise UserError(f"labels: {len(label_N)} for {num} images; pass one per image")
        kept_N, logits_NC, _ = Prediction(session, inputs, config, say=say).logits()
    if names is not None:
        # The row of logits of each image, for those that could be read.
        place = {inputs.ids[index]: row for row, index in enumerate(kept_N.tolist())}
        kept_N = np.array([row for row, name in enumerate(names) if name in place], np.int64)
        logits_NC = logits_NC[[place[names[row]] for row in kept_N]]
    # No groups are known of these images.
    metric = metric_of(info).by_image
    rows = Rows.of(label_N[kept_N], np.arange(len(kept_N)))
    # As reports score a run: by the logits with the decision rule.
    score = score_of(metric, rows, softmax(logits_NC), resampled=False)
    return float(score.sign * score.value)
