"""Writing of runs that are made from logits: blends, TTA'd runs and imported runs.

Their folders have the same files as those of cross-validated runs. Nothing here needs torch.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from foldblend.ahead import ahead
from foldblend.errors import UserError
from foldblend.files import check_writable, write_bytes
from foldblend.runs.calibrated import PLAIN_OOF, PLAIN_TEST
from foldblend.runs.environment import describe_environment
from foldblend.runs.folder import (
    COLUMNS,
    FORMAT,
    PICTURES,
    SECTIONS,
    check_there,
    clear_folder,
    file_hash,
    is_empty,
    logit_columns,
    sweep,
    table_hashes,
    write_json,
    write_section,
    write_table,
)
from foldblend.runs.learned_test import runs_that_learned_tests
from foldblend.runs.rows import group_name_of, mean_over_folds, order_of, write_submission
from foldblend.runs.run import TEST_GROUPS, TEST_LABELS, Run
from foldblend.runs.search import searches_of
from foldblend.runs.submission import SubmissionForm

__all__ = ["KINDS", "Content", "Derived", "open_derived", "write_content", "write_derived"]

KINDS = {
    "cv": "a cross-validated run",
    "blend": "a blend",
    "tta": "a TTA'd run",
    "import": "an imported run",
}
"""Kinds of runs in words."""
# Sections that earlier versions wrote under these names; a report would show them twice.
FORMER_SECTIONS = ("5_harm",)


def open_derived(
    folder: Path, kind: str, run_key: Mapping[str, str], *, overwrite: bool, look: bool = False
) -> None:
    """Prepare the folder of a derived run; replace another run only with `overwrite`.

    Parameters
    ----------
    folder
        Folder of the run, which need not exist.
    kind
        Kind of the run: "blend", "tta" or "import".
    run_key
        Hashes that identify the run; a run of the same key may be written again.
    overwrite
        Whether to clear the folder of a run of the same kind but of another key.
    look
        Check only and change nothing. Errors are then raised before the work starts.

    Raises
    ------
    UserError
        If the folder has other files or another run, or cannot be written.
    """
    if look:
        check_writable(folder)
    if not (folder / "run.json").is_file():
        if folder.exists() and not is_empty(folder):
            raise UserError(
                f"{folder}: exists and is not a run folder; pass another --name, or remove"
                " it if it is what is left of a run"
            )
        return
    info = Run(folder).info
    if info.get("kind") != kind:
        what = KINDS.get(info.get("kind", ""), "of another kind")
        raise UserError(f"{folder}: is {what}; pass another --name")
    if info.get("run_key") == run_key:
        return
    if not overwrite:
        others = "predictions" if kind == "import" else "runs"
        raise UserError(
            f"{folder}: was made from other {others} or settings; pass another --name or"
            " --overwrite"
        )
    if not look:
        clear_folder(folder)


@dataclass(frozen=True, kw_only=True)
class Content:
    """Tables and further content of a run made from logits, before it is written."""

    info: Mapping[str, Any]
    """Keys of run.json; they take precedence."""
    rows: pd.DataFrame
    """The columns of oof.parquet before the logits."""
    logits_NC: np.ndarray
    """Out-of-fold logits of the rows."""
    tests: Sequence[pd.DataFrame] = ()
    """Test table of each fold: image_id and logits."""
    of_shares: bool = False
    """Whether to average the folds' test probabilities, not logits (see `mean_over_folds`)."""
    plain_NC: np.ndarray | None = None
    """Out-of-fold logits without offsets per class; None if `logits_NC` has no offsets."""
    plain_tests: Sequence[pd.DataFrame] = ()
    """The tables of `tests` without offsets; none if these have no offsets."""
    sections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Sections of the report, by name."""
    pictures: bytes | None = None
    """Content of the table of the image files, such as that of one of the runs."""
    files: Mapping[str, bytes | str] = field(default_factory=dict)
    """Content of further files, by file name; text as UTF-8."""


@dataclass(frozen=True, kw_only=True)
class Derived(Content):
    """Content of a run made from other runs' logits, before it is written."""

    like: Run
    """A run on the same data, from which run.json takes the classes and the metric."""
    members: Sequence[Run] = ()
    """Runs that it is made of (default: `like`).

    The first that records what a group is, a form of the submission, or labels of test images
    passes it on.
    """


def write_derived(folder: Path, made: Derived) -> Run:
    """Write a run folder, except its report, and return the run.

    If the folder already has the same run, its start and end times are kept.
    """
    sweep(folder)
    members = made.members or (made.like,)
    form = next((found for one in members if (found := one.submission) is not None), None)
    # Members are read before the first file is written: a broken one may yet be left out.
    labels = _test_labels(members)
    passed_on = {**_test_groups(members), **_columns(members)}
    record = {
        **{name: made.like.info[name] for name in ("classes", "answers", "attributes", "metric")},
        **_passed_on(members),
    }
    made = replace(made, files={**passed_on, **made.files})
    return write_content(folder, made, record, form=form, test_labels=labels)


def write_content(
    folder: Path,
    made: Content,
    record: Mapping[str, Any],
    *,
    form: SubmissionForm | None,
    test_labels: bytes | None,
) -> Run:
    """Write a run folder, except its report, and return the run.

    Parameters
    ----------
    folder
        The run folder, locked and opened by the caller (see `open_derived`).
    made
        What is written.
    record
        Keys of run.json on the data; those of `made.info` take precedence.
    form
        Form of the submission.
    test_labels
        Content of test_labels.csv, or None without labels of test images.
    """
    before: Mapping[str, Any] = Run(folder).info if (folder / "run.json").is_file() else {}
    record = {
        **record,
        **({} if form is None else {"submission": form.record()}),
        "format": FORMAT,
        "name": folder.name,
        "num_folds": int(made.rows["fold"].nunique()),
        "num_repeats": int(made.rows["repeat"].nunique()),
        "num_test_folds": len(made.tests),
        "has_test": bool(made.tests),
        "started": before.get("started", round(time.time())),
        **made.info,
    }
    # run.json is written first, so that an interrupted folder is recognised as a run.
    write_json(folder / "run.json", record | {"status": "running"})
    _write(folder, "env.json", describe_environment())
    if made.pictures is not None:
        _write(folder, PICTURES, made.pictures)
    _write(folder, "folds.csv", made.rows[["image_id", "group", "label", "repeat", "fold"]])
    _write_logits(folder, "oof.parquet", made.rows, made.logits_NC)
    num_classes = made.logits_NC.shape[1]
    _write_plain(folder, made, num_classes)
    files = [(f"test_fold_{fold}.parquet", test) for fold, test in enumerate(made.tests)]
    for _ in ahead(lambda file: _write(folder, *file), files):
        pass
    if made.tests:
        mean = mean_over_folds(made.tests, logit_columns(num_classes), of_shares=made.of_shares)
        _write(folder, "test.parquet", mean)
        check_there(folder)
        write_submission(folder, mean, record["answers"], form)
        if test_labels is None:
            (folder / TEST_LABELS).unlink(missing_ok=True)
        else:
            _write(folder, TEST_LABELS, test_labels)
    _write_sections(folder, made.sections)
    for name, content in made.files.items():
        _write(folder, name, content)
    check_there(folder)
    finished = before.get("finished", round(time.time()))
    hashes = {"folds_hash": file_hash(folder / "folds.csv"), "files": table_hashes(folder)}
    ended = {"status": "done", "finished": finished, **hashes}
    _write(folder, "run.json", record | ended)
    return Run(folder)


def _write_sections(folder: Path, sections: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the sections, and remove those that an earlier version wrote under other names.

    A section that a user added stays, whatever its name is.
    """
    for name in FORMER_SECTIONS:
        if name not in sections:
            (folder / SECTIONS / f"{name}.json").unlink(missing_ok=True)
    for name, one in sections.items():
        check_there(folder)
        write_section(folder, name, one)


def _write(
    folder: Path, name: str, content: pd.DataFrame | Mapping[str, Any] | bytes | str
) -> None:
    """Write a file of the run; raise UserError if the folder was removed meanwhile."""
    check_there(folder)
    if isinstance(content, pd.DataFrame):
        write_table(folder / name, content)
    elif isinstance(content, Mapping):
        write_json(folder / name, dict(content))
    else:
        write_bytes(folder / name, content)


def _write_logits(folder: Path, name: str, rows: pd.DataFrame, logits_NC: np.ndarray) -> None:
    """Write a table of out-of-fold logits, without a copy of all of them."""
    check_there(folder)
    write_table(folder / name, rows, logits_NC)


def _write_plain(folder: Path, made: Content, num_classes: int) -> None:
    """Write the tables of logits without offsets, or remove those of a former run."""
    if made.plain_NC is None:
        (folder / PLAIN_OOF).unlink(missing_ok=True)
    else:
        _write_logits(folder, PLAIN_OOF, made.rows, made.plain_NC)
    if not made.plain_tests:
        (folder / PLAIN_TEST).unlink(missing_ok=True)
        return
    columns = logit_columns(num_classes)
    mean = mean_over_folds(made.plain_tests, columns, of_shares=made.of_shares)
    _write(folder, PLAIN_TEST, mean)


def _passed_on(members: Sequence[Run]) -> dict[str, Any]:
    """Return keys of run.json that some members may lack."""
    says = any("ordered" in one.info for one in members)
    searches = searches_of(members)
    learned = runs_that_learned_tests(members)
    data = dict(members[0].info["data"])
    named = any("group_name" in one.info["data"] for one in members)
    return {
        **({"ordered": order_of(members)} if says else {}),
        **({"searches": searches} if searches else {}),
        **({"test_learned_by": learned} if learned else {}),
        "data": data | ({"group_name": group_name_of(members)} if named else {}),
    }


def _test_labels(members: Sequence[Run]) -> bytes | None:
    """Return the labels of test images of the first member that has them, as it has them.

    Raises BrokenRun if they cannot be read.
    """
    run = next((one for one in members if one.test_labels is not None), None)
    return None if run is None else run.tables.data(TEST_LABELS)


def _test_groups(members: Sequence[Run]) -> dict[str, bytes]:
    """Return test_groups.csv, by its name, of the first member that has it."""
    run = next((one for one in members if one.test_groups is not None), None)
    return {} if run is None else {TEST_GROUPS: run.tables.data(TEST_GROUPS)}


def _columns(members: Sequence[Run]) -> dict[str, bytes]:
    """Return columns.parquet, by its name, of the first member that has it."""
    run = next((one for one in members if one.has(COLUMNS)), None)
    return {} if run is None else {COLUMNS: run.tables.data(COLUMNS)}
