"""Measure calibrated probabilities and sets of classes on groups that nothing was fitted on.

    python benchmarks/calibration.py [--worlds 200] [--blends 56] [--runs FOLDER ...]

Data sets (keys of the JSON file: worlds) come from tests/makers/worlds.py, in turn from each of its
families. On the out-of-fold rows of one model and of the blend of all models by `auto`, the
temperature is fitted and kept or not, and sets of classes are made for a coverage of 0.9. Both are
measured on 8,000 new groups of one image each: the probabilities on the mean of the five folds'
logits, as for a test set. Standard errors of a change of log loss are over new groups. Results are
kept after each data set, so a stopped study goes on. Seeds from 400,000 to 400,159 were used to
choose the rules; those from 500,000 on were run once they were chosen.

With --runs, finished runs are measured too. Each fold's rows are held out in turn, and all is
fitted on the other folds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import Results, parser, print_rows
from honesty import wilson

from ensemble.auto import Trial, apply, blend_arrays
from ensemble.methods.base import Evidence
from ensemble.methods.mixture import without_offsets
from ensemble.methods.registry import METHODS
from foldblend.runs.calibrated import plain_oof
from foldblend.runs.oof import oof_rows
from foldblend.runs.run import Run
from foldblend.scores.calibration import Calibration, calibrate, calibration_error
from foldblend.scores.conformal import Conformal
from foldblend.scores.coverage import out_of_fold_coverage
from foldblend.scores.held_out import outer_parts
from foldblend.scores.metrics import row_log_loss, softmax
from foldblend.scores.rows import Rows
from tests.makers.worlds import FAMILIES, NUM_FOLDS, World

NUM_NEW = 8_000
COVERAGE = 0.9
LOWEST = 0.88  # a coverage below this is counted
FEWEST = 50  # new images of a class whose coverage is measured


def _loss(label_N: np.ndarray, before_NC: np.ndarray, after_NC: np.ndarray) -> dict[str, float]:
    """Return log losses and calibration errors before and after; all rows are independent."""
    before_N = row_log_loss(label_N, before_NC)
    after_N = row_log_loss(label_N, after_NC)
    change_N = after_N - before_N
    return {
        "before": float(before_N.mean()),
        "after": float(after_N.mean()),
        "change": float(change_N.mean()),
        "error": float(change_N.std(ddof=1) / np.sqrt(len(change_N))),
        "ece before": calibration_error(label_N, before_NC),
        "ece after": calibration_error(label_N, after_NC),
    }


def _covered(label_N: np.ndarray, inside_NC: np.ndarray, few: Sequence[int]) -> dict[str, Any]:
    """Return the coverage and width of sets; that of each class without those of `few`."""
    hit_N = inside_NC[np.arange(len(label_N)), label_N]
    counts_C = np.bincount(label_N, minlength=inside_NC.shape[1])
    of_classes = [
        float(hit_N[label_N == one].mean())
        for one in np.flatnonzero(counts_C >= FEWEST).tolist()
        if one not in few
    ]
    return {
        "coverage": float(hit_N.mean()),
        "width": float(inside_NC.sum(axis=1).mean()),
        "one class": float((inside_NC.sum(axis=1) == 1).mean()),
        "of classes": [round(one, 4) for one in of_classes],
    }


def _measured(
    oof_NC: np.ndarray, rows: Rows, plain_KNC: Sequence[np.ndarray], label_N: np.ndarray
) -> dict[str, Any]:
    """Return what is measured of a run or blend on new images, one of each group."""
    found: Calibration = calibrate(oof_NC, rows)
    conformal = Conformal.of(oof_NC, rows, temperature=found.temperature)
    few = conformal.without_promise(COVERAGE, oof_NC.shape[1])
    mean_NC = np.mean(plain_KNC, axis=0)
    known = out_of_fold_coverage(oof_NC, rows, COVERAGE, temperature=found.temperature)
    assert known is not None
    return {
        "temperature": found.temperature,
        "kept": found.why_not is None,
        "log loss": _loss(label_N, softmax(mean_NC), found.proba(mean_NC)),
        "one model": _loss(label_N, softmax(plain_KNC[0]), found.proba(plain_KNC[0])),
        "sets": _covered(label_N, conformal.sets(plain_KNC, COVERAGE), few),
        "sets by class": _covered(label_N, conformal.sets(plain_KNC, COVERAGE, by_class=True), few),
        "classes without a promise": len(few),
        "known coverage": known.share.as_dict(),
        "known width": known.width,
    }


def _rounded(value: Any) -> Any:
    """Return a result with numbers of five digits, which keeps the file small."""
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def measure(seed: int, family: str, kind: str) -> dict[str, Any]:
    """Return the figures of one simulated data set, for its first model or for the blend."""
    start = time.perf_counter()
    world = World(seed, family)
    evidence = world.evidence()
    fresh = world.fresh(NUM_NEW)
    # Where the models of all folds are equal there is only one.
    models = [*fresh.logits_KM] * (NUM_FOLDS // len(fresh.logits_KM))
    label_N = fresh.rows.label_N
    if kind == "run":
        first_KNC = [logits_M[0] for logits_M in models]
        found = _measured(evidence.logits_MNC[0], evidence.rows, first_KNC, label_N)
    else:
        found = _blend(evidence, models, label_N)
    of_world = {"family": family, "classes": world.num_classes, "groups": world.num_groups}
    seconds = round(time.perf_counter() - start, 1)
    return {**of_world, **_rounded(found), "seconds": seconds}


def _blend(
    evidence: Evidence, models: Sequence[Sequence[np.ndarray]], label_N: np.ndarray
) -> dict[str, Any]:
    methods = {name: one for name, one in METHODS.items() if not one.thorough}
    chosen: Trial = blend_arrays(evidence, methods).chosen
    fitted = without_offsets(chosen.final)
    zeros_C = np.zeros(evidence.num_classes)
    plain_KNC = [apply(fitted, zeros_C, logits_M) for logits_M in models]
    found = _measured(chosen.plain(), evidence.rows, plain_KNC, label_N)
    found["offsets"] = chosen.without_offsets_NC is not None
    if found["offsets"]:
        # What a user would have without plain logits: those with offsets, calibrated as well.
        decided_KNC = [apply(chosen.final, chosen.offsets_C, logits_M) for logits_M in models]
        mean_NC = np.mean(decided_KNC, axis=0)
        calibration = calibrate(chosen.logits_NC, evidence.rows)
        found["with offsets"] = _loss(label_N, softmax(mean_NC), calibration.proba(mean_NC))
    return found


def of_run(run: Run) -> dict[str, Any]:
    """Return the figures of a finished run, each fold being measured by a fit on the others."""
    logits_NC = plain_oof(run)
    rows = oof_rows(run)
    after_NC = np.empty(logits_NC.shape)
    always_NC = np.empty(logits_NC.shape)
    kept = []
    for _, _, held, others in outer_parts(rows):
        found = calibrate(logits_NC[others], rows.take(others))
        kept.append(found.why_not is None)
        after_NC[held] = found.proba(logits_NC[held])
        always_NC[held] = softmax(logits_NC[held] / found.fitted)
    before_N = row_log_loss(rows.label_N, softmax(logits_NC))
    known = calibrate(logits_NC, rows)
    sets: dict[str, Any] = {}
    for name, by_class in (("sets", False), ("sets by class", True)):
        one = out_of_fold_coverage(
            logits_NC, rows, COVERAGE, temperature=known.temperature, by_class=by_class
        )
        assert one is not None
        sets[name] = {"coverage": one.share.as_dict(), "width": one.width}
    return {
        "images": rows.num_images,
        "groups": rows.num_groups,
        "temperature": known.temperature,
        "kept": kept,
        "log loss": float(before_N.mean()),
        "calibration error": calibration_error(rows.label_N, softmax(logits_NC)),
        "by the rule": _change(rows, before_N, after_NC),
        "with a temperature always": _change(rows, before_N, always_NC),
        **sets,
    }


def _change(rows: Rows, before_N: np.ndarray, proba_NC: np.ndarray) -> dict[str, float]:
    """Return the change of the log loss, its standard error over groups, and the new ECE."""
    change_N = row_log_loss(rows.label_N, proba_NC) - before_N
    sums_G = np.bincount(np.unique(rows.group_N, return_inverse=True)[1], change_N)
    return {
        "change": float(change_N.mean()),
        "error": float(sums_G.std(ddof=1) * np.sqrt(len(sums_G)) / len(rows)),
        "calibration error": calibration_error(rows.label_N, proba_NC),
    }


def _mean(values: Sequence[float]) -> dict[str, float]:
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
    return {"mean": float(np.mean(values)), "standard error": error}


def _share(hits: Sequence[bool]) -> dict[str, float]:
    low, high = wilson(sum(hits), len(hits))
    return {"share": sum(hits) / len(hits), "low": low, "high": high}


def _of_losses(losses: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    worse = [one["change"] > 2 * one["error"] and one["change"] > 0 for one in losses]
    return {
        "log loss before": _mean([one["before"] for one in losses]),
        "log loss after": _mean([one["after"] for one in losses]),
        "change of log loss": _mean([one["change"] for one in losses]),
        "worse by over two standard errors": _share(worse),
        "calibration error before": _mean([one["ece before"] for one in losses]),
        "calibration error after": _mean([one["ece after"] for one in losses]),
    }


def figures(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the figures of runs or blends over some data sets."""
    figures_: dict[str, Any] = {
        "worlds": len(found),
        "temperature applied": _share([one["kept"] for one in found]),
        **_of_losses([one["log loss"] for one in found]),
    }
    of_one = _of_losses([one["one model"] for one in found])
    for name in ("change of log loss", "worse by over two standard errors"):
        figures_[f"{name}, one model"] = of_one[name]
    for kind in ("sets", "sets by class"):
        coverages = [one[kind]["coverage"] for one in found]
        of_classes = [share for one in found for share in one[kind]["of classes"]]
        figures_ |= {
            f"{kind}: coverage": _mean(coverages),
            f"{kind}: coverage above 0.9": _mean([one - COVERAGE for one in coverages]),
            f"{kind}: below {LOWEST}": _share([one < LOWEST for one in coverages]),
            f"{kind}: width": _mean([one[kind]["width"] for one in found]),
            f"{kind}: of one class": _mean([one[kind]["one class"] for one in found]),
            f"{kind}: classes below 0.8": _share([one < 0.8 for one in of_classes]),
        }
    inside = [
        one["known coverage"]["low"] <= one["sets"]["coverage"] <= one["known coverage"]["high"]
        for one in found
    ]
    figures_ |= {
        "out of fold: coverage": _mean([one["known coverage"]["value"] for one in found]),
        "out of fold: width": _mean([one["known width"] for one in found]),
        "out of fold: true coverage in the interval": _share(inside),
    }
    offsets = [one for one in found if one.get("offsets")]
    if offsets:
        gains = [one["with offsets"]["after"] - one["log loss"]["after"] for one in offsets]
        figures_["log loss with offsets minus without, both calibrated"] = {
            **_mean(gains),
            "worlds": len(gains),
        }
    return figures_


def _print(title: str, found: Mapping[str, Any]) -> None:
    rows = [
        (
            key.replace("worlds", "data sets"),
            ", ".join(f"{name} {number:.4g}" for name, number in value.items())
            if isinstance(value, dict)
            else value,
        )
        for key, value in found.items()
    ]
    print_rows(title, rows)


def main() -> None:
    """Measure the data sets that the JSON file lacks, and print the figures over all."""
    cli = parser(__doc__, results="calibration.json")
    # The name of the data is a part of the keys of the JSON file.
    cli.set_defaults(data="simulated", device="cpu")
    cli.add_argument("--worlds", type=int, default=200, help="number of simulated data sets")
    cli.add_argument("--blends", type=int, default=56, help="data sets of which a blend is made")
    cli.add_argument("--first-seed", type=int, default=500_000, help="seed of the first data set")
    cli.add_argument("--runs", nargs="*", type=Path, default=(), help="finished runs")
    args = cli.parse_args()
    results = Results(args, device="cpu")
    for folder in args.runs:
        run = Run(folder)
        name = f"run {run.name}, {run.info['data']['name']}"
        if name not in results:
            results.put(name, _rounded(of_run(run)))
    for kind, num in (("run", args.worlds), ("blend", args.blends)):
        each: list[dict[str, Any]] = []
        for place in range(num):
            seed = args.first_seed + place
            name = f"world {seed}, {kind}"
            if name not in results:
                family = [*FAMILIES][place % len(FAMILIES)]
                results.put(name, measure(seed, family, kind))
            each.append(results[name])
        for family in FAMILIES:
            of_family = [one for one in each if one["family"] == family]
            if of_family:
                results.put(f"{family}, {kind}", figures(of_family))
        if each:
            results.put(f"all, {kind}", figures(each))
            _print(f"all, {kind}", results[f"all, {kind}"])


if __name__ == "__main__":
    main()
