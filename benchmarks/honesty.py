"""Compare the score that a blend reports with its true score, on simulated data sets.

    python benchmarks/honesty.py [--worlds 320] [--thorough 16] [--first-seed 200000]

Data sets (flags and keys of the JSON file: worlds) come from tests/makers/worlds.py, in turn from
each of its families. The true score is the macro F1 that the blend, fitted on all out-of-fold rows,
reaches on 8,000 new groups of one image each: as the mean score of the single models of each fold
("target"), and as the score of their mean ("target of the mean"). Compared are the mean of the
methods that `auto` makes, the simplest method within one standard error (--prefer simple), the
method with the best nested score, the soft vote, and the method that is best on the new groups,
which only a simulation knows. Results are kept after each data set, so a stopped study goes on.
Data sets of seeds below 20,000 and from 100,000 to 199,999 were used while the blender was made.
Those from 200,000 on were run once, when it was finished.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from common import Results, parser, print_rows

from ensemble.auto import SIMPLE, Trial, apply, blend_cross_fitted, nested_once_more
from ensemble.crossfit import cross_fit, splits_of
from ensemble.methods.registry import METHODS
from foldblend.scores.metrics import METRICS, softmax
from foldblend.scores.score import Score
from tests.makers.worlds import FAMILIES, Fresh, World

NUM_NEW = 8_000
METRIC = METRICS["f1_macro"]
Z = 1.96
AUTO = "auto"
BEST = "best method of the data set"


class Truth:
    """True scores of fitted blends on new groups."""

    def __init__(self, fresh: Fresh, occurs: np.ndarray) -> None:
        # The reported score is over the classes that occur, so the true one must be too.
        self.at = np.flatnonzero(np.isin(fresh.rows.label_N, occurs))
        self.label_N = fresh.rows.label_N[self.at]
        self.logits_KM = fresh.logits_KM

    def of(self, trial: Trial) -> dict[str, float]:
        """Return the mean score of single models, and the score of their mean."""
        models = [
            apply(trial.final, trial.offsets_C, logits_M)[self.at] for logits_M in self.logits_KM
        ]
        single = [METRIC.score(self.label_N, softmax(one)) for one in models]
        together = METRIC.score(self.label_N, softmax(np.mean(models, axis=0)))
        return {"target": float(np.mean(single)), "target of the mean": together}


def _reported(score: Score) -> dict[str, float]:
    found = score.interval()
    return {"nested": found.value, "low": found.low, "high": found.high}


def measure(seed: int, family: str, *, thorough: bool) -> dict[str, Any]:
    """Return reported and true scores of a data set, for each way to make a blend."""
    start = time.perf_counter()
    world = World(seed, family)
    evidence = world.evidence()
    truth = Truth(world.fresh(NUM_NEW), np.unique(evidence.rows.label_N))
    methods = {name: one for name, one in METHODS.items() if not one.thorough}
    splits = splits_of(evidence)
    found = cross_fit(evidence, splits, methods)
    auto = blend_cross_fitted(evidence, splits, found)
    earlier = {name: one for name, one in found.items() if name != "single"}
    simple = blend_cross_fitted(evidence, splits, earlier, prefer=SIMPLE)
    targets = [truth.of(trial) for trial in simple.trials]
    best = max(range(len(targets)), key=lambda place: targets[place]["target"])
    argmax = max(range(len(targets)), key=lambda place: simple.trials[place].nested.value)
    soft = [trial.name for trial in simple.trials].index("soft")
    result: dict[str, Any] = {
        "family": family,
        "classes": world.num_classes,
        "groups": world.num_groups,
        "models": world.num_models,
        AUTO: {
            **_reported(auto.chosen.nested),
            **truth.of(auto.chosen),
            "optimism": auto.optimism,
            "in-sample": auto.chosen.in_sample,
            "weights": {
                trial.name: round(float(weight), 3)
                for trial, weight in zip(auto.trials, auto.weight_S, strict=True)
                if weight
            },
        },
        SIMPLE: {
            **_reported(simple.chosen.nested),
            **targets[simple.trials.index(simple.chosen)],
            "optimism": simple.optimism,
            "method": simple.chosen.label,
        },
        "argmax": {**_reported(simple.trials[argmax].nested), **targets[argmax]},
        "soft": {**_reported(simple.trials[soft].nested), **targets[soft]},
        BEST: {**targets[best], "method": simple.trials[best].name},
    }
    if thorough:
        result["once more"] = nested_once_more(evidence, methods).value
    return result | {"seconds": round(time.perf_counter() - start, 1)}


def wilson(hits: int, num: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of hits (Wilson 1927)."""
    share = hits / num
    term = Z**2 / num
    middle = share + term / 2
    half = Z * np.sqrt(share * (1 - share) / num + term / (4 * num))
    return (middle - half) / (1 + term), (middle + half) / (1 + term)


def mean_and_error(off: Sequence[float]) -> dict[str, float]:
    """Return the mean over data sets, and its standard error."""
    error = float(np.std(off, ddof=1) / np.sqrt(len(off))) if len(off) > 1 else 0.0
    return {"mean": float(np.mean(off)), "standard error": error}


def figures(worlds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures over some data sets; their names are keys of the JSON file."""
    found: dict[str, Any] = {"worlds": len(worlds)}
    for name in (SIMPLE, "argmax", "soft", BEST):
        for target in ("target", "target of the mean"):
            gains = [one[AUTO][target] - one[name][target] for one in worlds]
            found[f"{AUTO} minus {name}, {target}"] = mean_and_error(gains)
    for name in (AUTO, SIMPLE, "soft"):
        off = [one[name]["nested"] - one[name]["target"] for one in worlds]
        found[f"{name}: nested minus target"] = mean_and_error(off)
        optimism = [one[name].get("optimism", 0.0) for one in worlds]
        if any(optimism):
            found[f"{name}: optimism"] = mean_and_error(optimism)
            rest = [each - over for each, over in zip(off, optimism, strict=True)]
            found[f"{name}: nested less optimism minus target"] = mean_and_error(rest)
        inside = [
            one[name]["low"] - over <= one[name]["target"] <= one[name]["high"] - over
            for one, over in zip(worlds, optimism, strict=True)
        ]
        low, high = wilson(sum(inside), len(worlds))
        found[f"{name}: target in the interval"] = {
            "share": sum(inside) / len(worlds),
            "low": low,
            "high": high,
        }
    off = [one[AUTO]["in-sample"] - one[AUTO]["target"] for one in worlds]
    found[f"{AUTO}: in-sample minus target"] = mean_and_error(off)
    again = [one for one in worlds if "once more" in one]
    if len(again) > 1:
        off = [one["once more"] - one[AUTO]["target"] for one in again]
        found["nested once more minus target"] = {**mean_and_error(off), "worlds": len(again)}
    return found


# Words of keys of honesty.json, and what the printed table has for them.
LABELS = {
    "nested once more": "choice cross-validated too, nested",
    "target": "true score",
    "worlds": "data sets",
    SIMPLE: "--prefer simple",
    "argmax": "method with the best nested score",
}


def _label(key: str) -> str:
    for words, shown in LABELS.items():
        key = key.replace(words, shown)
    return key


def print_families(
    results: Results,
    worlds: Sequence[dict[str, Any]],
    figures_of: Callable[[list[dict[str, Any]]], dict[str, Any]],
    *,
    label: Callable[[str], str] = str,
) -> None:
    """Store and print the figures over all data sets, and over those of each family."""
    parts = {family: [one for one in worlds if one["family"] == family] for family in FAMILIES}
    for title, some in {"all": [*worlds], **parts}.items():
        if not some:
            continue
        results.put(title, figures_of(some))
        rows = [
            (
                label(key),
                ", ".join(f"{one} {number:.4g}" for one, number in value.items())
                if isinstance(value, dict)
                else value,
            )
            for key, value in results[title].items()
        ]
        print_rows(title, rows)


def main() -> None:
    """Measure the data sets that the JSON file lacks, and print the figures over all."""
    cli = parser(__doc__, results="honesty.json")
    # The name of the data is a part of the keys of honesty.json.
    cli.set_defaults(data="drawn worlds", device="cpu")
    cli.add_argument("--worlds", type=int, default=320, help="number of simulated data sets")
    cli.add_argument(
        "--thorough",
        type=int,
        default=16,
        help="number of data sets on which the choice of the methods is cross-validated too",
    )
    cli.add_argument("--first-seed", type=int, default=200_000, help="seed of the first data set")
    args = cli.parse_args()
    results = Results(args, device="cpu")
    each: list[dict[str, Any]] = []
    for place in range(args.worlds):
        seed = args.first_seed + place
        family = [*FAMILIES][place % len(FAMILIES)]
        if f"world {seed}" not in results:
            results.put(f"world {seed}", measure(seed, family, thorough=place < args.thorough))
        each.append(results[f"world {seed}"])
    print_families(results, each, figures, label=_label)


if __name__ == "__main__":
    main()
