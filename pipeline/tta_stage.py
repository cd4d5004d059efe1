"""Test-time augmentation of a finished run: more views, merged or chosen on other people's rows, as another run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import tyro

from folds.errors import did_you_mean, require
from folds.load import Say
from pipeline.config import check_name
from pipeline.derived import open_derived, write_derived
from pipeline.report import write_report
from pipeline.reporting import oof_arrays
from pipeline.store import PICTURES, Run, file_hash, lock_folder, read_table, rows_like, with_logits, write_table
from reports.blocks import section, text_block
from reports.metrics import METRICS, softmax
from reports.summary import compare
from tta.choose import Choice, learned, searched
from tta.crossfit import CrossFit, Part, cross_fit, cross_fit_path
from tta.evaluate import effects
from tta.harm import cost_block, effect_rows, harm_blocks, pictures_per_second, simple_policies
from tta.learn import WEIGHTINGS
from tta.merge import MERGES
from tta.policy import IDENTITY, Policy, SavedViews
from tta.views import parse_views

__all__ = ["AUTO_VIEWS", "TtaConfig", "augment_run"]

AUTO_VIEWS = (
    "hflip,scale:1.1,scale:1.2,scale:0.9,rotate:5,rotate:-5,xshift:0.05,xshift:-0.05,yshift:0.05,yshift:-0.05,"
    "brightness:1.2,brightness:0.8,contrast:1.2,gamma:0.8,hflip*scale:1.1"
)

THIS = "this run"
BUDGET = 4
MOST_STEPS = 16  # of a curve
EFFECTS = "effects.csv"


@dataclass(frozen=True, kw_only=True, slots=True)
class TtaConfig:
    """Which run is seen again, in which views, and what becomes of them."""

    run: tyro.conf.Positional[str] = ""
    """Folder of a finished run."""
    views: str = "auto"
    """Views such as hflip,scale:1.15 (see docs/tta.md), all of which are merged; auto chooses few of many, and of
    all that were saved before."""
    merge: str | None = None
    """mean (of log-probabilities), prob, entropy; view and class learn weights per view, per class and view. Left
    out: mean for given views, and with auto whatever is best."""
    budget: int | None = None
    """Most forward passes of a policy that --views auto may choose; 4 if left out."""
    name: str | None = None
    """Name of the run that is written beside; <run>_tta if left out."""
    overwrite: bool = False
    """Replace a run of that name that was made of other views."""
    page: bool = True
    """Draw report.html too."""
    device: str | None = None
    """cuda, cuda:1, cpu; as in training if left out."""
    workers: Annotated[int | None, tyro.conf.arg(aliases=["-j"])] = None
    """Processes that read pictures; as in training if left out."""

    def __post_init__(self) -> None:
        known = [*MERGES, *WEIGHTINGS]
        if self.merge is not None:
            near = did_you_mean(self.merge, known)
            require(self.merge in known, f"--merge {self.merge}: unknown{near}; pass {', '.join(known)}")
        if self.budget is not None:
            require(self.budget >= 1, f"--budget {self.budget}: pass 1 or more")
            require(self.views == "auto", f"--budget {self.budget}: is for --views auto; given views are all merged")
        check_name(self.name)
        parse_views(AUTO_VIEWS if self.views == "auto" else self.views, "--views")

    @property
    def search(self) -> dict[str, Any]:
        """Settings of the search."""
        merges = tuple(name for name in MERGES if self.merge in (None, name))
        weightings = tuple(name for name in WEIGHTINGS if self.merge in (None, name))
        # Learned weights are of the mean; asked for alone, they have views chosen for the mean.
        return {"budget": self.budget or BUDGET, "merges": merges or ("mean",), "weightings": weightings}


def _saved(run: Run, names: Sequence[str]) -> SavedViews:
    """Return the out-of-fold logits of a run's views, in the order of its rows."""
    num_folds = run.info["num_folds"]
    files = [run.path / "tta" / f"oof_fold_{index}.parquet" for index in range(num_folds * run.info["num_repeats"])]
    views = pd.concat([read_table(file).assign(repeat=index // num_folds) for index, file in enumerate(files)])
    logits_VNC = np.stack([run.logits(rows_like(views[views["view"] == name], run.oof)) for name in names])
    columns = [run.oof[name].to_numpy() for name in ("label", "group", "repeat")]
    return SavedViews(tuple(names), logits_VNC, *columns)


def _test_tables(run: Run, names: Sequence[str], policy: Policy) -> list[pd.DataFrame]:
    """Return each fold's test logits under a policy: it was fitted on single models, so each model's by itself."""
    tables = []
    for index in range(run.info["num_test_folds"]):
        views = read_table(run.path / "tta" / f"test_fold_{index}.parquet")
        ids = views.loc[views["view"] == "identity", "image_id"]
        stack = [run.logits(views[views["view"] == name].set_index("image_id").loc[ids]) for name in names]
        tables.append(with_logits(ids.to_frame(), policy.apply(np.stack(stack), names)))
    return tables


def _decide(saved: SavedViews, fold_N: np.ndarray, config: TtaConfig, metric: str) -> CrossFit:
    """Return logits of every row, by what other people's rows decided where there is anything to decide."""
    if config.views == "auto":
        return cross_fit(saved, fold_N, searched(saved, metric=metric, **config.search))
    merge = config.merge or "mean"
    if merge in WEIGHTINGS:
        return cross_fit(saved, fold_N, learned(saved, saved.names, merge))
    policy = Policy(saved.names, merge) if len(saved.names) > 1 else IDENTITY
    return CrossFit(policy.apply(saved.logits_VNC, saved.names), (), Choice(policy))


def _part_line(part: Part) -> str:
    return f"repeat {part.repeat} fold {part.fold}: {part.choice}"


def _costs(run: Run, saved: SavedViews, config: TtaConfig) -> tuple[str, dict[int, np.ndarray]]:
    """Return how views are added one by one, and the logits of 1, 2, .. passes."""
    if config.views == "auto":
        search = searched(saved, metric=run.info["metric"], **config.search)
        budget = min(config.search["budget"], len(saved.names))
        steps = cross_fit_path(saved, run.oof["fold"].to_numpy(), search.path, budget)
        return "the greedy best so many views, found on other folds", dict(enumerate(steps, 1))
    merge = MERGES.get(config.merge or "mean", MERGES["mean"])
    return "views in the order given", {
        num: merge(saved.logits_VNC[:num]) for num in range(1, min(len(saved.names), MOST_STEPS) + 1)
    }


def _harm(run: Run, saved: SavedViews, found: CrossFit, config: TtaConfig) -> tuple[dict[str, Any], pd.DataFrame]:
    """Return what every view and what was decided gains, harms and costs: a section, and a table of all classes."""
    from pipeline.view_logits import view_seconds  # torch

    arrays, metric, seconds = oof_arrays(run), METRICS[run.info["metric"]], view_seconds(run)
    shared = {
        "label_N": arrays.label_N,
        "group_N": arrays.group_N,
        "repeat_N": arrays.repeat_N,
        "attributes": run.attributes,
        "metric": run.info["metric"],
    }
    policies = simple_policies(saved.names)
    logits_of = {name: one.apply(saved.logits_VNC, saved.names) for name, one in policies.items()}
    rows = effects(
        logits_of | {THIS: found.logits_NC},
        {name: one.passes for name, one in policies.items()} | {THIS: found.final.policy.passes},
        classes=run.classes,
        **shared,
    )
    how, steps = _costs(run, saved, config)
    proba_of = {str(num): softmax(logits_NC) for num, logits_NC in steps.items()}
    curve = compare(proba_of=proba_of, against="1", **shared)
    speed_of = {name: pictures_per_second(one, seconds) for name, one in policies.items()}
    speed_of[THIS] = pictures_per_second(found.final.policy, seconds)
    title = "Test-time augmentation, out of fold; differences to the plain picture"
    blocks = [
        text_block(f"For the test set, decided on all rows: {found.final}."),
        *(text_block(_part_line(part)) for part in found.parts),
        *harm_blocks(rows, metric=metric, speed_of=speed_of, detail=THIS),
        cost_block(curve, metric=metric, seconds_of_view=seconds, how=how),
    ]
    return section(title, *blocks), pd.DataFrame(effect_rows(rows))


def augment_run(config: TtaConfig, *, say: Say = print) -> Run:
    """Add views to a run, decide what to make of them, and write that as a run beside it; return it.

    Out-of-fold rows are cross-fitted: what holds for a fold was chosen or learned on the others. Raises UserError.
    """
    from pipeline.view_logits import add_views  # torch

    folder = Path(config.run)
    auto = config.views == "auto"
    names = parse_views(AUTO_VIEWS if auto else config.views, "--views")
    machine = {name: getattr(config, name) for name in ("device", "workers") if getattr(config, name) is not None}
    have = add_views(folder, names, if_possible=auto, say=say, **machine)
    run, names = Run(folder), have if auto else names
    saved = _saved(run, names)
    found = _decide(saved, run.oof["fold"].to_numpy(), config, run.info["metric"])
    say(f"decided: {found.final}")
    decided = {"views": list(names), "merge": config.merge, "auto": auto, "budget": config.budget}
    of = {"name": run.name, "oof": file_hash(folder / "oof.parquet")}
    key = hashlib.blake2b(json.dumps([decided, of], sort_keys=True).encode(), digest_size=16).hexdigest()
    written = folder.resolve().parent / (config.name or f"{run.name}_tta")
    tests = _test_tables(run, names, found.final.policy) if run.info["has_test"] else []
    harm, table = _harm(run, saved, found, config)
    info = {
        "kind": "tta",
        "run_key": {"tta": key},
        "of": of,
        "tta": decided,
        "policy": found.final.policy.as_dict(),
        "parts": [
            {"repeat": one.repeat, "fold": one.fold, "policy": one.choice.policy.as_dict()} for one in found.parts
        ],
        "views": list(found.final.policy.views),
        "leaks": run.info["leaks"],
        "optimistic": run.info.get("optimistic", False),
        "about": f"{run.name} with test-time augmentation, {found.final.policy}; {run.info.get('about', '')}",
        "notes": [
            *run.info.get("notes", ()),
            *(["out-of-fold rows are by what was decided on other folds"] if found.parts else []),
        ],
    }
    with lock_folder(written):
        open_derived(written, "tta", info["run_key"], overwrite=config.overwrite)
        pictures = folder / PICTURES
        rows = run.oof[["image_id", "group", "label", "label_raw", "repeat", "fold"]]
        made = write_derived(
            written, run, info, rows, found.logits_NC, tests, {"tta": harm},
            pictures=pictures if pictures.is_file() else None,
        )  # fmt: skip
        write_table(written / EFFECTS, table)
        say("\n" + write_report(made, page=config.page))
        say(f"report: {written / ('report.html' if config.page else 'report.txt')}")
    return made
