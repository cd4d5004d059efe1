"""Completion of a run: its final files, with the share of its refits, and its report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foldblend.cli import Say
from foldblend.runs.folder import write_json, write_section
from foldblend.runs.run import Run
from foldblend.runs.schema import read_info
from pipeline.assemble import assemble, finish_record
from pipeline.begin import write_inputs
from pipeline.config.trust import Trust, own_parts
from pipeline.fold_files import fold_tables
from pipeline.job import Prepared
from pipeline.labels.section import labels_section
from pipeline.predict.compare import add_reference
from pipeline.predict.weights import FolderWeights
from pipeline.soup_section import soup_section
from reports.run.screen import finish
from tta.report import view_section

__all__ = ["complete_run"]


def complete_run(
    run: Prepared,
    folder: Path,
    info: dict[str, Any],
    before: Mapping[str, Any],
    refit: dict[str, Any] | None,
    *,
    intact: bool,
    say: Say,
) -> None:
    """Write the final files of a run, with the share of its refits, and its report.

    Parameters
    ----------
    run
        The prepared run.
    folder
        The run folder, locked by the caller.
    info
        Its run.json with the finished folds; the rest is added.
    before
        The run.json that was there when the command began.
    refit
        The refits that have a share; None for none.
    intact
        Whether the files of a finished run are as it left them.
    say
        Function that prints one line of the log.
    """
    info.pop("refit", None)
    if refit is not None:
        info["refit"] = refit
    if read_info(folder).get("refit") != refit:
        # The test logits change. If the process is killed among their files, the same command goes
        # on, and no other takes them for finished.
        write_json(folder / "run.json", {**info, "status": "running"})
    # Also for a finished run: the forms of submissions and spreadsheets do not identify it.
    assemble(folder, run.manifest, run.num_models, fold_tables(folder, info), info)
    if intact:
        write_inputs(run, folder)
    finish_record(run, folder, info, before)
    # Its parts were typed in this command, or checked.
    trust = Trust(frozenset(name for _, name in own_parts(run.config)))
    add_reference(FolderWeights(folder), trust=trust, held=True, say=say)
    if len(run.views) > 1:
        write_section(folder, "views", view_section(Run(folder)))
    if run.chosen is not None:
        write_section(folder, "search", run.chosen.section)
    if run.labels is not None and (told := labels_section(run, folder)) is not None:
        write_section(folder, "labels", told)
    if run.config.train.soup:
        write_section(folder, "soup", soup_section(run, info["folds"]))
    output = run.config.output
    finish(Run(folder), page=output.page, report=output.report, say=say)
