"""Write predictions of another library as a run folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from foldblend.cli import Say
from foldblend.errors import listed
from foldblend.flags import from_settings
from foldblend.progress import write
from foldblend.runs.derived import Content, open_derived, write_content
from foldblend.runs.folder import lock_folder, with_logits
from foldblend.runs.run import TEST_GROUPS, Run
from foldblend.scores.by_group import GROUP, scored_by_group
from foldblend.spreadsheets import safe_csv
from folds.data.imported.beside import differences
from folds.data.imported.check import Imported, read_imported
from folds.data.imported.tables import Table
from folds.data.imported.values import PROBABILITIES
from folds.import_config import ImportConfig
from reports.blocks import section, table_block, text_block
from reports.run.screen import finish

__all__ = ["import_run"]

SECTION = "1_imported"


def import_run(
    oof: Table,
    labels: Table | Run,
    *,
    test: Table | Sequence[Table] = (),
    say: Say = write,
    **settings: Any,
) -> Run:
    """Write predictions of another library as a run folder, and return the run.

    It can be blended, reported on and compared like other runs. Its models are not there, so it
    predicts no new images. No image is opened.

    Parameters
    ----------
    oof
        Out-of-fold predictions, a file or a DataFrame: one row per image (and `repeat`), a column
        per class with the name of the class, and the `fold` in which the image was held out.
    labels
        The labelled images: a table, a folder, "demo", or a run on the same data.
    test
        Predictions of the test images, one table for each fold, or one with their mean. With a
        mean only, the run can be voted on, but nothing that is fitted is applied to it.
    say
        Function that is called with lines of progress and with the report.
    settings
        The settings of import_run.py, spelt like its flags: ``name``, ``kind``, ``folds``,
        ``label_col``, ``group_col`` ...

    Returns
    -------
    Run
        The imported run.

    Raises
    ------
    UserError
        With the file and line, if predictions do not fit the data; nothing is written then.

    Examples
    --------
    >>> import pandas as pd
    >>> alpha = fb.load(outputs / "alpha")
    >>> oof = alpha.oof[["image_id", "fold"]]
    >>> oof = oof.join(pd.DataFrame(alpha.logits(alpha.oof), columns=list(alpha.classes)))
    >>> same = fb.import_run(oof, alpha, kind="logits", name="same", output=outputs, say=silent)
    >>> same.info["kind"], bool((same.logits(same.oof) == alpha.logits(alpha.oof)).all())
    ('import', True)
    """
    tables = [test] if isinstance(test, (str, Path, pd.DataFrame)) else list(test)
    labels = labels.path if isinstance(labels, Run) else labels
    frames = {
        name: one
        for name, one in (("oof", oof), ("labels", labels))
        if isinstance(one, pd.DataFrame)
    }
    config = from_settings(
        ImportConfig,
        {
            **settings,
            "oof": "oof" if "oof" in frames else oof,
            "labels": "labels" if "labels" in frames else labels,
            "test": tuple(
                f"test {place}" if isinstance(one, pd.DataFrame) else str(one)
                for place, one in enumerate(tables)
            ),
        },
    )
    with safe_csv(config.safe_csv):
        return _import(config, oof, labels, tables, say)


def _import(
    config: ImportConfig, oof: Table, labels: Table, tests: Sequence[Table], say: Say
) -> Run:
    """Import the predictions of `config`, whose files may be DataFrames instead."""
    assert config.name is not None
    folder = Path(config.output) / config.name
    # Everything is read and checked before the first file is written.
    found = read_imported(config, oof, labels, tests)
    for line in [*found.known.found, *(f"warning: {one}" for one in found.warnings)]:
        say(line)
    for line in differences(folder.parent, folder.name, found.known, found.fold_RN):
        say(f"warning: {line}")
    key = {"import": _key(found, config)}
    open_derived(folder, "import", key, overwrite=config.overwrite, look=True)
    with lock_folder(folder):
        open_derived(folder, "import", key, overwrite=config.overwrite)
        run = _write(folder, found, config, key)
        finish(run, page=config.page, report=config.report, say=say)
    return run


def _key(found: Imported, config: ImportConfig) -> str:
    """Return a hash of everything that decides the run: rows, logits, classes and settings."""
    known = found.known
    digest = hashlib.blake2b(digest_size=16)
    form = known.form(found.test_ids, config.data)
    settings = [
        dict(known.record),
        known.train.to_numpy().tolist(),
        found.fold_RN.tolist(),
        found.test_ids,
        found.made.values,
        config.metric,
        config.score_by,
        config.group_pool,
        config.optimistic,
        None if form is None else form.record(),
        None if form is None else form.ids,
    ]
    digest.update(json.dumps(settings, sort_keys=True, default=int).encode())
    for logits in (found.oof_RNC, *found.tests):
        digest.update(np.ascontiguousarray(logits).tobytes())
    digest.update((known.test_labels or b"") + (known.test_groups or b""))
    return digest.hexdigest()


def _write(folder: Path, found: Imported, config: ImportConfig, run_key: dict[str, str]) -> Run:
    """Write the run folder, except its report."""
    known = found.known
    form = known.form(found.test_ids, config.data) if found.tests else None
    names = [Path(one).name for one in found.files]
    what = f"{found.made.values} of {listed(names, most=9)}"
    ids = None if found.test_ids is None else pd.DataFrame({"image_id": found.test_ids})
    notes = _notes(found)
    mean = {"imported_means": [folder.name]} if found.is_mean else {}
    raised = found.made.floor
    info: dict[str, Any] = {
        "kind": "import",
        "run_key": run_key,
        "imported": {
            "files": found.files,
            "values": found.made.values,
            "raised": found.made.num_raised,
            **({} if raised is None else {"floor": raised}),
        },
        "imported_runs": [folder.name],
        "test_is_mean": found.is_mean,
        **mean,
        "leaks": known.leaks,
        "optimistic": config.optimistic,
        "views": [],
        "metric": config.metric,
        **(scored_by_group(config.group_pool) if config.score_by == GROUP else {}),
        "about": f"imported {what}, data {known.record['data']['name']}",
        "notes": [*notes, *found.warnings, *known.notes],
        "passes": found.num_models,
        "picture_seconds": None,
        "device": None,
        "seconds": None,
    }
    data = {**known.record["data"], "num_test": 0 if ids is None else len(ids)}
    content = Content(
        info=info,
        rows=found.rows,
        logits_NC=found.oof_RNC.reshape(-1, len(known.classes)),
        tests=[] if ids is None else [with_logits(ids, one) for one in found.tests],
        # Zeros of one fold's probabilities would decide a mean of logarithms.
        of_shares=found.made.values == PROBABILITIES,
        sections={SECTION: _section(found, config, notes)},
        pictures=known.pictures,
        files={TEST_GROUPS: known.test_groups} if found.tests and known.test_groups else {},
    )
    return write_content(
        folder,
        content,
        {**known.record, "data": data},
        form=form,
        test_labels=known.test_labels if found.tests else None,
    )


def _notes(found: Imported) -> list[str]:
    """Return notes on what was changed, and on what cannot be done with the run."""
    notes = []
    if found.is_mean:
        notes.append(
            f"test predictions are the mean over folds ({Path(found.files[1]).name}): they are"
            " voted on, and nothing fitted on single models (weights, temperatures, offsets) is"
            " applied to them; import one file per fold to allow it"
        )
    if found.made.note is not None:
        notes.append(found.made.note)
    return notes


def _section(found: Imported, config: ImportConfig, notes: Sequence[str]) -> dict[str, Any]:
    """Return the section of the report on where predictions come from."""
    num = len(found.known.train)
    rows = [[found.files[0], "out of fold", f"{num:,}"]]
    tested = "test, mean over folds" if found.is_mean else "test, fold {}"
    num_test = 0 if found.test_ids is None else len(found.test_ids)
    rows += [
        [file, tested.format(place), f"{num_test:,}"] for place, file in enumerate(found.files[1:])
    ]
    text = (
        f"The files have {found.made.values}. Labels are those of {found.known.source}. The models"
        " are not here, so new images cannot be predicted."
    )
    return section(
        "Imported predictions",
        text_block(text),
        table_block(["file", "predictions", "images"], rows),
        *(text_block(f"{note[0].upper()}{note[1:]}.") for note in notes),
    )
