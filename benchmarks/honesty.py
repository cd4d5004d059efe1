"""Compare the score that a blend reports with its true score, on simulated data sets.

    python benchmarks/honesty.py [--worlds 300] [--thorough 30] [--first-seed 20000]

A data set (flag and keys of the JSON file: world) has 3 to 12 imbalanced classes, 40 to 300 groups
with 3 to 9 images each, and 3 to 8 models. Models differ in how well they see the classes, in
sharpness and in bias, and some are nearly blind to some classes. Errors on an image are partly
shared by all models, and partly by all images of a group. The true score is the macro F1 that the
refitted blend reaches on single models' logits of 20,000 new groups, one image each. Results are
kept after each data set, so a stopped study goes on. Data sets of seeds below 20,000 were used
while the blender was made (thresholds were chosen on those from 10,000 on). Those from 20,000 on
were run once, when it was finished.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from common import Results, parser, print_rows

from ensemble.auto import apply, blend_arrays, nested_once_more
from ensemble.methods.base import Evidence
from ensemble.methods.registry import METHODS
from foldblend.scores.metrics import METRICS, softmax
from foldblend.scores.rows import Rows
from foldblend.scores.score import Score
from folds.split import assign_folds
from tests.makers.rows import folded

NUM_NEW = 20_000
NUM_FOLDS = 5
METRIC = METRICS["f1_macro"]
Z = 1.96


class Simulation:
    """Simulated data set of a seed; `draw` returns logits of groups."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.seed = seed
        self.num_classes = int(rng.integers(3, 13))
        self.num_groups = int(rng.integers(40, 301))
        self.num_images = int(rng.integers(3, 10))
        share_C = np.exp(rng.normal(size=self.num_classes) * rng.uniform(0.2, 1.2))
        self.share_C = share_C / share_C.sum()
        self.of_group = rng.uniform(0.2, 1.2)
        self.shared = rng.uniform(0.2, 1.0)
        self.own = rng.uniform(0.4, 1.4)
        num_models = int(rng.integers(3, 9))
        num = self.num_classes
        base = rng.uniform(1.5, 4.0)
        blind_MC = np.where(rng.random((num_models, num)) < 0.1, 0.3, 1.0)
        self.signal_MC = base * rng.uniform(0.7, 1.1, size=(num_models, 1)) * blind_MC
        self.bias_MC = rng.normal(size=(num_models, num)) * rng.uniform(0, 0.8)
        self.sharpness_M = np.exp(rng.normal(size=num_models) * 0.5)

    def draw(self, num_groups: int, num_images: int, lot: int) -> Evidence:
        """Return logits of all models on some groups; another `lot` draws other groups."""
        rng = np.random.default_rng((self.seed, lot))
        num = num_groups * num_images
        group_N = np.repeat(np.arange(num_groups), num_images)
        home_N = rng.choice(self.num_classes, size=num_groups, p=self.share_C)[group_N]
        label_N = np.where(
            rng.random(num) < 0.7, home_N, rng.choice(self.num_classes, size=num, p=self.share_C)
        )
        shape = (num, self.num_classes)
        group_NC = rng.normal(size=(num_groups, self.num_classes))[group_N]
        common_NC = self.of_group * group_NC + self.shared * rng.normal(size=shape)
        truth_NC = np.eye(self.num_classes)[label_N]
        logits = []
        for signal_C, bias_C, sharpness in zip(
            self.signal_MC, self.bias_MC, self.sharpness_M, strict=True
        ):
            model_group_NC = rng.normal(size=(num_groups, self.num_classes))[group_N]
            own_NC = self.own * (0.5 * model_group_NC + rng.normal(size=shape))
            seen_NC = truth_NC * signal_C + common_NC + own_NC + bias_C
            logits.append((sharpness * seen_NC).astype(np.float32))
        return Evidence(logits, Rows.of(label_N, group_N))


def _interval(score: Score, target: float) -> dict[str, Any]:
    found = score.interval()
    return {"nested": found.value, "low": found.low, "high": found.high, "target": target}


def measure(seed: int, *, thorough: bool) -> dict[str, Any]:
    """Return reported and true scores of a data set, for the chosen method and the soft vote."""
    start = time.perf_counter()
    simulation = Simulation(seed)
    drawn = simulation.draw(simulation.num_groups, simulation.num_images, 1)
    new = simulation.draw(NUM_NEW, 1, 2)
    evidence = folded(
        drawn, assign_folds(drawn.rows.label_N, drawn.rows.group_N, num_folds=NUM_FOLDS, seed=0)
    )
    methods = {name: one for name, one in METHODS.items() if not one.thorough}
    blended = blend_arrays(evidence, methods)

    def target(place: int) -> float:
        trial = blended.trials[place]
        # The reported score is over the classes that occur, so the true one must be too.
        at = np.isin(new.rows.label_N, evidence.rows.label_N)
        logits_NC = apply(trial.final, trial.offsets_C, new.logits_MNC)
        return METRIC.score(new.rows.label_N[at], softmax(logits_NC[at]))

    chosen = blended.trials.index(blended.chosen)
    soft = [*methods].index("soft")
    result = {
        "classes": simulation.num_classes,
        "people": simulation.num_groups,
        "models": len(simulation.signal_MC),
        "method": blended.chosen.name,
        "offsets": bool(blended.chosen.offsets_C.any()),
        "chosen": _interval(blended.chosen.nested, target(chosen)),
        "in-sample": blended.chosen.in_sample,
        "optimism": blended.optimism,
        "soft": _interval(blended.trials[soft].nested, target(soft)),
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


def _errors(off: np.ndarray) -> dict[str, float]:
    return {"mean": float(off.mean()), "standard error": float(off.std(ddof=1) / np.sqrt(len(off)))}


def _slope(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Return the slope of the line of least squares."""
    apart = x - x.mean()
    slope = float(apart @ y / (apart @ apart))
    rest = y - y.mean() - slope * apart
    return {
        "slope": slope,
        "standard error": float(np.sqrt(rest @ rest / (len(x) - 2) / (apart @ apart))),
    }


def figures(worlds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures over all data sets.

    Their names are keys of the JSON file.
    """
    found: dict[str, Any] = {"worlds": len(worlds)}
    for name in ("chosen", "chosen, minus the estimated optimism", "soft"):
        place = name.partition(",")[0]
        nested, low, high, target = np.array([[*one[place].values()] for one in worlds]).T
        if place != name:
            optimism = np.array([one["optimism"] for one in worlds])
            nested = nested - optimism
            low = low - optimism
            high = high - optimism
        hits = int(((low <= target) & (target <= high)).sum())
        bounds = wilson(hits, len(worlds))
        found[f"{name}: nested minus target"] = _errors(nested - target)
        found[f"{name}: target in the interval"] = {
            "share": hits / len(worlds),
            "low": bounds[0],
            "high": bounds[1],
        }
    target = np.array([one["chosen"]["target"] for one in worlds])
    found["chosen: in-sample minus target"] = _errors(
        np.array([one["in-sample"] for one in worlds]) - target
    )
    found["chosen minus soft, both targets"] = _errors(
        target - np.array([one["soft"]["target"] for one in worlds])
    )
    optimism = np.array([one["optimism"] for one in worlds])
    found["estimated optimism"] = _errors(optimism)
    found["chosen: nested minus target, per unit of estimated optimism"] = _slope(
        optimism, np.array([one["chosen"]["nested"] for one in worlds]) - target
    )
    again = [one for one in worlds if "once more" in one]
    if len(again) > 1:
        once_more = np.array([one["once more"] - one["chosen"]["target"] for one in again])
        found["nested once more minus target"] = {**_errors(once_more), "worlds": len(again)}
        once = np.array([one["chosen"]["nested"] - one["chosen"]["target"] for one in again])
        found["the same worlds: chosen, nested minus target"] = _errors(once)
    names = sorted({one["method"] for one in worlds})
    found["taken"] = {name: sum(one["method"] == name for one in worlds) for name in names}
    found["taken"]["with offsets"] = sum(one["offsets"] for one in worlds)
    return found


# Words of keys of honesty.json, and what the printed table has for them.
LABELS = {
    "nested once more": "choice cross-validated too, nested",
    "the same worlds": "the same data sets",
    "target": "true score",
    "taken": "method chosen",
    "worlds": "data sets",
}


def _label(key: str) -> str:
    for words, shown in LABELS.items():
        key = key.replace(words, shown)
    return key


def main() -> None:
    """Measure the data sets that the JSON file lacks, and print the figures over all."""
    cli = parser(__doc__, results="honesty.json")
    # The name of the data is a part of the keys of honesty.json.
    cli.set_defaults(data="drawn worlds", device="cpu")
    cli.add_argument("--worlds", type=int, default=300, help="number of simulated data sets")
    cli.add_argument(
        "--thorough",
        type=int,
        default=30,
        help="number of data sets on which the choice of the method is cross-validated too",
    )
    cli.add_argument("--first-seed", type=int, default=20_000, help="seed of the first data set")
    args = cli.parse_args()
    results = Results(args, device="cpu")
    each = []
    for place in range(args.worlds):
        seed = args.first_seed + place
        if f"world {seed}" not in results:
            results.put(f"world {seed}", measure(seed, thorough=place < args.thorough))
        each.append(results[f"world {seed}"])
    results.put("all", figures(each))
    rows = [
        (
            _label(key),
            ", ".join(f"{one} {number:.4g}" for one, number in value.items())
            if isinstance(value, dict)
            else value,
        )
        for key, value in results["all"].items()
    ]
    print_rows("honesty", rows)


if __name__ == "__main__":
    main()
