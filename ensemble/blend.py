"""A blend: runs in, a run folder like any other out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import tyro
import yaml

from ensemble.align import align_oof, check_same_data, find_members, rows_of_member
from ensemble.vote import soft_vote
from folds.errors import UserError, listed
from pipeline.config import check_name
from pipeline.derived import open_derived, write_derived
from pipeline.report import write_report, write_section
from pipeline.reporting import (
    check_metric,
    check_rows_once,
    oof_arrays,
)
from pipeline.store import (
    PICTURES,
    Run,
    file_hash,
    lock_folder,
    with_logits,
    write_bytes,
)
from reports.blocks import comparison_block, section
from reports.metrics import METRICS, mean_score, softmax
from reports.summary import compare
from reports.text import table

__all__ = ["BlendConfig", "blend"]

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class BlendConfig:
    """What goes into a blend and where it is written."""

    runs: tyro.conf.Positional[tuple[str, ...]] = ()
    """Run folders, such as outputs/*; what is no finished run is skipped."""
    weights: Annotated[tuple[float, ...] | None, tyro.conf.arg(metavar="W [W ...]")] = None
    """One weight a run, in the order given; default: equal."""
    dataset: str | None = None
    """Blend the runs of this data set, where there are runs of several."""
    include_blends: bool = False
    """Take in earlier blends too."""
    output: str | None = None
    """Folder of the blend; default: the first run's."""
    name: str | None = None
    """Name of the blend; default: blend_ and a hash of members and weights."""
    allow_optimistic: bool = False
    """Take in runs whose epochs were chosen on the rows that are scored (--select best); the blend is marked so too."""
    overwrite: bool = False
    """Replace a blend of that name."""
    page: bool = True
    """Draw report.html too."""
    metric: str = "f1_macro"
    """The score that counts; see run_cv.py --help."""

    def __post_init__(self) -> None:
        check_metric(self.metric)
        check_name(self.name)
        if self.weights is not None and not (min(self.weights) >= 0 and 0 < sum(self.weights) < np.inf):
            raise UserError(f"--weights {listed(self.weights, most=9)}: pass numbers of 0 or more, one of them above 0")


def _weighted(members: list[Run], weights: Sequence[float] | None) -> list[tuple[Run, float]]:
    """Return (run, weight), sorted by name so that the order of arguments does not matter."""
    if weights is not None and len(weights) != len(members):
        names = listed((run.name for run in members), most=20)
        raise UserError(
            f"--weights: {len(weights)} given for {len(members)} runs; pass one each, in this order: {names}"
        )
    pairs = list(zip(members, weights or [1.0] * len(members), strict=True))
    return sorted(pairs, key=lambda pair: (pair[0].name, str(pair[0].path)))


def _finite_logits(run: Run, table: pd.DataFrame) -> np.ndarray:
    """Return the logits of a table that is indexed by image_id (last)."""
    logits = run.logits(table)
    if not np.isfinite(logits).all():
        bad = table.index.get_level_values("image_id")[~np.isfinite(logits).all(axis=1)]
        raise UserError(f"{run.path}: logits of {listed(bad)} are not finite; leave the run out or run it again")
    return logits


def _oof_logits(run: Run, rows: pd.DataFrame) -> np.ndarray:
    return _finite_logits(run, rows_of_member(run, rows))


def _test_logits(run: Run, table: pd.DataFrame | None, ids: pd.Series) -> np.ndarray:
    assert table is not None
    return _finite_logits(run, table.set_index("image_id").loc[ids])


def _test_tables(members: list[tuple[Run, float]]) -> list[pd.DataFrame]:
    """Return the blended test logits of each fold's models, or of the runs' means where folds differ in number.

    The vote is taken among single models and averaged over folds afterwards, as it is taken out of
    fold, because means over folds are smoother than what the vote is scored on.
    """
    first = members[0][0]
    assert first.test is not None
    ids = first.test["image_id"]
    for run, _ in members[1:]:
        assert run.test is not None
        check_rows_once(run.test["image_id"], ids, f"{run.path}/test.parquet beside {first.path}")
    weights = [weight for _, weight in members]
    columns = ids.to_frame()
    num_folds = {run.info["num_test_folds"] for run, _ in members}
    if len(num_folds) > 1:
        return [with_logits(columns, soft_vote((_test_logits(run, run.test, ids) for run, _ in members), weights))]
    return [
        with_logits(
            columns,
            soft_vote((_test_logits(run, run.test_fold(fold), ids) for run, _ in members), weights),
        )
        for fold in range(num_folds.pop())
    ]


def _member_lines(members: list[tuple[Run, float]], skipped: list[tuple[Path, str]]) -> list[str]:
    total = sum(weight for _, weight in members)
    lines = table(
        ["in the blend", "kind", "weight"],
        [[run.name, run.info["kind"], f"{weight / total:.3f}"] for run, weight in members],
    )
    return lines + [f"skipped {path}: {why}" for path, why in skipped]


def _comparison(folder: Path, members: list[tuple[Run, float]], metric: str) -> list[dict[str, Any]]:
    """Return the single runs beside the blend, each against the best of them."""
    blended = Run(folder)
    arrays = oof_arrays(blended)
    chosen = METRICS[metric]
    names = [run.name for run, _ in members] + [folder.name]
    labels = {run: run.name if names.count(run.name) == 1 else str(run.path) for run, _ in members}
    proba_of = {labels[run]: softmax(_oof_logits(run, blended.oof)) for run, _ in members}
    sign = 1 if chosen.greater_is_better else -1
    best = max(proba_of, key=lambda name: sign * mean_score(chosen, arrays.label_N, proba_of[name], arrays.repeat_N))
    return compare(
        label_N=arrays.label_N,
        group_N=arrays.group_N,
        repeat_N=arrays.repeat_N,
        proba_of=proba_of | {folder.name: arrays.proba_NC},
        against=best,
        attributes=blended.attributes,
        metric=metric,
    )


def blend(runs: Sequence[str | Path | Run], *, say: Say = print, **settings: Any) -> Run:
    """Soft-vote the runs (or their folders) and return the blend, itself a run.

    Settings are those of BlendConfig. Nothing is fitted (weights are given or equal), so the
    blend's out-of-fold score is as honest as its members'. Raises UserError.
    """
    config = BlendConfig(runs=tuple(str(getattr(run, "path", run)) for run in runs), **settings)
    found, skipped = find_members(config.runs, include_blends=config.include_blends)
    members = _weighted(check_same_data(found, dataset=config.dataset), config.weights)
    for line in _member_lines(members, skipped):
        say(line)
    record = [
        {"name": run.name, "weight": weight, "oof": file_hash(run.path / "oof.parquet"), "run_key": run.info["run_key"]}
        for run, weight in members
    ]
    key = hashlib.blake2b(json.dumps(record, sort_keys=True).encode(), digest_size=16).hexdigest()
    first = members[0][0]
    beside = first.path.parent if first.path.name else first.path.resolve().parent
    folder = Path(config.output or beside) / (config.name or f"blend_{key[:8]}")
    rows, same_folds = align_oof([run for run, _ in members])
    notes = [] if same_folds else ["members have different folds: scores of voting stand, fitted blends would leak"]
    if first.info["data"]["is_demo"]:
        notes.append("the embedded demo set of drawn faces: this score proves plumbing, not quality")
    without_test = [run.name for run, _ in members if not run.info["has_test"]]
    if without_test:
        notes.append(f"no test logits, since {listed(without_test)} have none")
    optimistic = [run.name for run, _ in members if run.info.get("optimistic")]
    if optimistic and not config.allow_optimistic:
        raise UserError(
            f"{listed(optimistic)}: epochs were chosen on the rows that are scored (--select best), so a blend's score "
            "would be no honest one; leave them out or pass --allow-optimistic"
        )
    if optimistic:
        notes.append(f"OPTIMISTIC: epochs of {listed(optimistic)} were chosen on the very rows that are scored")
    leaky = [run.name for run, _ in members if run.info["leaks"]]
    if leaky:
        notes.append(f"groups leak between the folds of {listed(leaky)}: this score is not honest")
    # Everything is computed before the first file is written: an error leaves nothing behind.
    logits = soft_vote((_oof_logits(run, rows) for run, _ in members), [weight for _, weight in members])
    tests = [] if without_test else _test_tables(members)
    if 0 < len(tests) < max(run.info["num_test_folds"] for run, _ in members):
        notes.append("members differ in the number of folds: test logits are a vote of their means")
    with lock_folder(folder):
        open_derived(folder, "blend", {"blend": key}, overwrite=config.overwrite)
        info = {
            "kind": "blend",
            "run_key": {"blend": key},
            "members": record,
            "leaks": bool(leaky),
            "optimistic": bool(optimistic),
            "views": [],
            "metric": config.metric,
            "about": f"soft vote of {len(members)} runs: "
            + ", ".join(f"{run.name} x {weight:g}" for run, weight in members),
            "notes": notes,
        }
        pictures = next((run.path / PICTURES for run, _ in members if (run.path / PICTURES).is_file()), None)
        write_derived(folder, first, info, rows, logits, tests, {}, pictures=pictures)
        write_bytes(
            folder / "blend.yaml",
            yaml.safe_dump({"method": "soft-vote", "metric": config.metric, "members": record}, sort_keys=False),
        )
        singles = comparison_block(_comparison(folder, members, config.metric))
        title = "Single runs beside the blend, out of fold; differences to the best of them"
        write_section(folder, "members", section(title, singles))
        say("\n" + write_report(Run(folder), page=config.page))
        say(f"report: {folder / ('report.html' if config.page else 'report.txt')}")
    return Run(folder)
