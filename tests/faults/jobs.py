"""The commands that cases run, what each may write, and how its result is read."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tests.faults.base import DATA, EXPLAIN, FINETUNED, FROZEN, HALF

__all__ = ["JOBS", "Job", "reads"]

ALL_RUNS = ("outputs/full", "outputs/frozen", "outputs/frozen_tta", "outputs/half", "outputs/both")
Result = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A command line with the paths that it may write and the result that it leaves."""

    command: str
    argv: tuple[str, ...]
    writes: tuple[str, ...]
    """Paths below the stage; everything else must stay as it is."""
    result: Callable[[Path], Result]
    runs: tuple[str, ...] = ()
    """Runs that it reads."""
    is_many: bool = False
    """Whether a bad run is to be named and left out, rather than an error."""


def _logits(folder: str, *names: str) -> Callable[[Path], Result]:
    def read(stage: Path) -> Result:
        tables = {name: pd.read_parquet(stage / folder / name) for name in names or TABLES}
        return {name: table.to_dict("list") for name, table in tables.items()}

    return read


TABLES = ("oof.parquet", "test.parquet")


def _csv(name: str) -> Callable[[Path], Result]:
    def read(stage: Path) -> Result:
        return {"rows": pd.read_csv(stage / name, dtype=str).fillna("").to_dict("records")}

    return read


def _board(stage: Path) -> Result:
    """Return the scores of the runs of a leaderboard."""
    boards = json.loads((stage / "board.json").read_text())["boards"]
    return {
        f"{board['data']} {row['name']}": (row["headline"], row["test"])
        for board in boards
        for row in board["rows"]
    }


def _report(run: str) -> Callable[[Path], Result]:
    def read(stage: Path) -> Result:
        report = json.loads((stage / "outputs" / run / "report.json").read_text())
        return {"scores": report.get("scores", report.get("headline"))}

    return read


def _maps(stage: Path) -> Result:
    """Return the maps of the mistakes of a run."""
    return {"maps": json.loads((stage / "outputs" / "full" / "explain.json").read_text())["maps"]}


def _weights(stage: Path) -> Result:
    """Return the checksums of the weights in an exported file."""
    with zipfile.ZipFile(stage / "x.zip") as file:
        members = {one.filename: one.CRC for one in file.infolist()}
    return {name: crc for name, crc in members.items() if name.endswith(".safetensors")}


def _nothing(_: Path) -> Result:
    return {}


def _resume(run: str, argv: list[str], *more: str) -> Job:
    return Job(
        command="run_cv",
        argv=(*argv, *more),
        writes=(f"outputs/{run}", "cache"),
        result=_logits(f"outputs/{run}"),
        runs=(run,),
    )


def _tta(run: str, views: str) -> Job:
    return Job(
        command="run_tta",
        argv=(f"outputs/{run}", "--views", views, "--no-page", "--name", "t2"),
        writes=("outputs/t2", f"outputs/{run}/tta", f"outputs/{run}/.lock", "cache"),
        result=_logits("outputs/t2"),
        runs=(run,),
    )


def _blend(*words: str, runs: tuple[str, ...], is_many: bool = False) -> Job:
    return Job(
        command="blend",
        argv=(*words, "--name", "b2", "--no-page"),
        writes=("outputs/b2",),
        result=_logits("outputs/b2"),
        runs=runs,
        is_many=is_many,
    )


REFERENCE = "reference.safetensors"
# The last is kept by a prediction that was interrupted, to be continued.
PREDICTED = ("p.csv", "p_by_group.csv", ".p.csv.partial")


def _predict(run: str, *, runs: tuple[str, ...] = ()) -> Job:
    read = runs or (Path(run).name,)
    return Job(
        command="predict",
        argv=(run, "data/test.csv", "--out", "p.csv"),
        # What images are compared with is computed again where it cannot be read.
        writes=(
            *PREDICTED,
            "cache",
            *[f"outputs/{one}/{REFERENCE}" for one in read],
        ),
        result=_csv("p.csv"),
        runs=read,
    )


def _export(run: str, *, runs: tuple[str, ...] = ()) -> Job:
    return Job(
        command="export_model",
        argv=(f"outputs/{run}", "--to", "x.zip"),
        writes=("x.zip", *[f"outputs/{one}/{REFERENCE}" for one in runs or (run,)]),
        result=_weights,
        runs=runs or (run,),
    )


def _report_job(run: str) -> Job:
    names = ("report.json", "report.txt", "predictions.csv", ".lock", "report.html")
    return Job(
        command="report",
        argv=(f"outputs/{run}", "--no-page"),
        writes=tuple(f"outputs/{run}/{name}" for name in names),
        result=_report(run),
        runs=(run,),
    )


JOBS: dict[str, Job] = {
    "resume full": _resume("full", FINETUNED),
    "resume frozen": _resume("frozen", FROZEN),
    "resume half": _resume("half", HALF),
    "again full": _resume("full", FINETUNED, "--no-resume"),
    "again frozen": _resume("frozen", FROZEN, "--no-resume"),
    "tta full": _tta("full", "hflip,vflip"),
    "tta frozen": _tta("frozen", "hflip"),
    "blend two": _blend(
        "outputs/full",
        "outputs/frozen",
        "--method",
        "soft",
        runs=("full", "frozen"),
        is_many=True,
    ),
    "blend all": _blend(
        *ALL_RUNS,
        "--method",
        "soft",
        runs=("full", "frozen", "frozen_tta", "half", "both"),
        is_many=True,
    ),
    "blend config": _blend("--config", "outputs/both/blend.yaml", runs=("both", "full", "frozen")),
    "columns of two": _blend(
        "outputs/full",
        "outputs/frozen",
        "--meta-cols",
        "age,site",
        "--method",
        "stack-columns",
        runs=("full", "frozen"),
        is_many=True,
    ),
    "board": Job(
        command="leaderboard",
        argv=(*ALL_RUNS, "--no-page", "--json", "board.json"),
        writes=("board.json",),
        result=_board,
        runs=("full", "frozen", "frozen_tta", "half", "both"),
        is_many=True,
    ),
    "report full": _report_job("full"),
    "report frozen_tta": _report_job("frozen_tta"),
    "report both": _report_job("both"),
    "explain full": Job(
        command="report",
        argv=(*EXPLAIN,),
        writes=(*_report_job("full").writes, "outputs/full/explain.json"),
        result=_maps,
        runs=("full",),
    ),
    "predict full": _predict("outputs/full"),
    "predict frozen": _predict("outputs/frozen"),
    "predict frozen_tta": _predict("outputs/frozen_tta", runs=("frozen_tta", "frozen")),
    "predict both": _predict("outputs/both", runs=("both", "full", "frozen")),
    "predict file": _predict("model.zip", runs=("model.zip",)),
    "export full": _export("full"),
    "export both": _export("both", runs=("both", "full", "frozen")),
    "audit": Job(
        command="run_audit",
        argv=(*DATA, "--folds", "2", "--quick"),
        writes=("audit_train.html", "cache"),
        result=_nothing,
    ),
    "audit folds": Job(
        command="run_audit",
        argv=(*DATA, "--fold-file", "outputs/full", "--quick"),
        writes=("audit_train.html", "cache"),
        result=_nothing,
        runs=("full",),
    ),
}


def reads(run: str, *, only: tuple[str, ...] = ()) -> list[str]:
    """Return the names of the jobs that read a run, or of those whose name starts like `only`."""
    return [
        name
        for name, job in JOBS.items()
        if run in job.runs and not name.startswith("again") and (not only or name.startswith(only))
    ]
