"""Compare blends that are chosen by the score by group with those chosen by the score by image.

    python benchmarks/by_group.py [--worlds 64] [--first-seed 500000]

Data sets come from tests/makers/worlds.py, in turn from each of its families, with one label per
group. `auto` is fitted twice on each: by macro F1 of groups, and of images. The true score is macro
F1 of groups on 3,000 new ones with as many images each, of which the logits are averaged: the mean
score of the single models of each fold. The scores that blends report are compared with it, too.
Data sets of seeds 1,000 to 1,039 were run before, to see that the program works.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
from common import Results, parser
from honesty import mean_and_error, print_families, wilson

from ensemble.auto import Trial, apply, blend_arrays
from ensemble.methods.registry import METHODS
from foldblend.scores.by_group import GROUP, IMAGE, by_group, metric_by_group
from foldblend.scores.metrics import METRICS, softmax
from foldblend.scores.score import score_interval
from tests.makers.worlds import FAMILIES, Fresh, World

NUM_NEW = 3_000
F1 = METRICS["f1_macro"]
BY_GROUP = metric_by_group(F1)


def _true_score(trial: Trial, fresh: Fresh, occurs: np.ndarray) -> float:
    """Return the mean score by group of single models on new groups, over classes that occur."""
    scores = []
    for logits_M in fresh.logits_KM:
        blended_NC = apply(trial.final, trial.offsets_C, logits_M)
        groups, proba_GC = by_group(fresh.rows, softmax(blended_NC))
        known_G = np.isin(groups.label_N, occurs)
        scores.append(F1.score(groups.label_N[known_G], proba_GC[known_G]))
    return float(np.mean(scores))


def measure(seed: int, family: str) -> dict[str, Any]:
    """Return reported and true scores by group of the blends of one data set."""
    start = time.perf_counter()
    world = World(seed, family, one_label=True)
    evidence = world.evidence()
    rows = evidence.rows
    occurs = np.unique(rows.label_N)
    fresh = world.fresh(NUM_NEW, world.num_images)
    methods = {name: one for name, one in METHODS.items() if not one.thorough}
    found: dict[str, Any] = {"family": family, "groups": rows.num_groups}
    for unit, metric in ((IMAGE, F1), (GROUP, BY_GROUP)):
        blended = blend_arrays(dataclasses.replace(evidence, metric=metric), methods)
        nested = score_interval(BY_GROUP, rows, softmax(blended.chosen.logits_NC))
        found[unit] = {
            "nested": nested.value,
            "low": nested.low,
            "high": nested.high,
            "optimism": blended.optimism,
            "target": _true_score(blended.chosen, fresh, occurs),
        }
    return found | {"seconds": round(time.perf_counter() - start, 1)}


def figures(worlds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures over some data sets."""
    groups = [one[GROUP] for one in worlds]
    inside = [
        one["low"] - one["optimism"] <= one["target"] <= one["high"] - one["optimism"]
        for one in groups
    ]
    low, high = wilson(sum(inside), len(inside))
    gains = [one[GROUP]["target"] - one[IMAGE]["target"] for one in worlds]
    return {
        "data sets": len(worlds),
        "chosen by group minus by image, true score": mean_and_error(gains),
        "nested minus true score": mean_and_error(
            [one["nested"] - one["target"] for one in groups]
        ),
        "optimism": mean_and_error([one["optimism"] for one in groups]),
        "nested less optimism minus true score": mean_and_error(
            [one["nested"] - one["optimism"] - one["target"] for one in groups]
        ),
        "true score in the interval": {
            "share": sum(inside) / len(inside),
            "low": low,
            "high": high,
        },
    }


def main() -> None:
    """Measure the data sets that the JSON file lacks, and print the figures over all."""
    cli = parser(__doc__, results="by_group.json")
    cli.set_defaults(data="simulated data sets", device="cpu")
    cli.add_argument("--worlds", type=int, default=64, help="number of simulated data sets")
    cli.add_argument("--first-seed", type=int, default=500_000, help="seed of the first data set")
    args = cli.parse_args()
    results = Results(args, device="cpu")
    each: list[dict[str, Any]] = []
    for place in range(args.worlds):
        seed = args.first_seed + place
        family = [*FAMILIES][place % len(FAMILIES)]
        if f"world {seed}" not in results:
            results.put(f"world {seed}", measure(seed, family))
        each.append(results[f"world {seed}"])
    print_families(results, each, figures)


if __name__ == "__main__":
    main()
