"""Simulated worlds of models: what a blend says it scores, against what it scores on people nobody
has seen.

    python benchmarks/honesty.py [--worlds 300] [--thorough 30] [--first-seed 20000]

A world has 3 to 12 imbalanced classes, 40 to 300 people with 3 to 9 images each, and 3 to 8
models. A model sees the classes with a strength of its own; what is wrong about an image is partly
wrong in all models, and partly in all images of a person; models differ in sharpness, in what
they favour, and some see nothing in some classes. The target is the macro F1 that the refitted
blend reaches on single models' logits of 20,000 fresh people, one image each. Kept a world at a
time, so a stopped study goes on. Worlds of seeds below 20,000 were looked at while the blender was
made (thresholds were chosen on those from 10,000 on); those from there on were run once, when it
was done.
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

NUM_FRESH = 20_000
NUM_FOLDS = 5
METRIC = METRICS["f1_macro"]
Z = 1.96


class World:
    """A world by seed; `draw` gives people of it."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.seed = seed
        self.num_classes = int(rng.integers(3, 13))
        self.num_people = int(rng.integers(40, 301))
        self.num_pictures = int(rng.integers(3, 10))
        share_C = np.exp(rng.normal(size=self.num_classes) * rng.uniform(0.2, 1.2))
        self.share_C = share_C / share_C.sum()
        self.person = rng.uniform(0.2, 1.2)
        self.shared = rng.uniform(0.2, 1.0)
        self.own = rng.uniform(0.4, 1.4)
        num_models = int(rng.integers(3, 9))
        num = self.num_classes
        base = rng.uniform(1.5, 4.0)
        blind_MC = np.where(rng.random((num_models, num)) < 0.1, 0.3, 1.0)
        self.signal_MC = base * rng.uniform(0.7, 1.1, size=(num_models, 1)) * blind_MC
        self.bias_MC = rng.normal(size=(num_models, num)) * rng.uniform(0, 0.8)
        self.sharpness_M = np.exp(rng.normal(size=num_models) * 0.5)

    def draw(self, num_people: int, num_pictures: int, lot: int) -> Evidence:
        """Return that many people's logits by every model; other lots are other people."""
        rng = np.random.default_rng((self.seed, lot))
        num = num_people * num_pictures
        group_N = np.repeat(np.arange(num_people), num_pictures)
        home_N = rng.choice(self.num_classes, size=num_people, p=self.share_C)[group_N]
        label_N = np.where(
            rng.random(num) < 0.7, home_N, rng.choice(self.num_classes, size=num, p=self.share_C)
        )
        shape = (num, self.num_classes)
        person_NC = rng.normal(size=(num_people, self.num_classes))[group_N]
        common_NC = self.person * person_NC + self.shared * rng.normal(size=shape)
        truth_NC = np.eye(self.num_classes)[label_N]
        logits = []
        for signal_C, bias_C, sharpness in zip(
            self.signal_MC, self.bias_MC, self.sharpness_M, strict=True
        ):
            of_person_NC = rng.normal(size=(num_people, self.num_classes))[group_N]
            own_NC = self.own * (0.5 * of_person_NC + rng.normal(size=shape))
            seen_NC = truth_NC * signal_C + common_NC + own_NC + bias_C
            logits.append((sharpness * seen_NC).astype(np.float32))
        return Evidence(logits, Rows.of(label_N, group_N))


def _interval(score: Score, target: float) -> dict[str, Any]:
    found = score.interval()
    return {"nested": found.value, "low": found.low, "high": found.high, "target": target}


def measure(seed: int, *, thorough: bool) -> dict[str, Any]:
    """Return what a world's blend says, of the method taken and of the plain soft vote, and what is
    true.
    """
    start = time.perf_counter()
    world = World(seed)
    drawn = world.draw(world.num_people, world.num_pictures, 1)
    fresh = world.draw(NUM_FRESH, 1, 2)
    evidence = folded(
        drawn, assign_folds(drawn.rows.label_N, drawn.rows.group_N, num_folds=NUM_FOLDS, seed=0)
    )
    methods = {name: one for name, one in METHODS.items() if not one.thorough}
    blended = blend_arrays(evidence, methods)

    def target(place: int) -> float:
        trial = blended.trials[place]
        # Classes of the people at hand: the score is over those that occur in its truth.
        at = np.isin(fresh.rows.label_N, evidence.rows.label_N)
        logits_NC = apply(trial.final, trial.offsets_C, fresh.logits_MNC)
        return METRIC.score(fresh.rows.label_N[at], softmax(logits_NC[at]))

    chosen = blended.trials.index(blended.chosen)
    soft = [*methods].index("soft")
    result = {
        "classes": world.num_classes,
        "people": world.num_people,
        "models": len(world.signal_MC),
        "method": blended.chosen.name,
        "offsets": bool(blended.chosen.offsets_C.any()),
        "chosen": _interval(blended.chosen.nested, target(chosen)),
        "in-sample": blended.chosen.in_sample,
        "flatters": blended.flatters,
        "soft": _interval(blended.trials[soft].nested, target(soft)),
    }
    if thorough:
        result["once more"] = nested_once_more(evidence, methods).value
    return result | {"seconds": round(time.perf_counter() - start, 1)}


def wilson(hits: int, num: int) -> tuple[float, float]:
    """Return the 95 % interval of a share, Wilson 1927."""
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
    """Return what is said of all worlds together."""
    found: dict[str, Any] = {"worlds": len(worlds)}
    for name in ("chosen", "chosen, less what it says that flatters", "soft"):
        place = name.partition(",")[0]
        nested, low, high, target = np.array([[*one[place].values()] for one in worlds]).T
        if place != name:
            said = np.array([one["flatters"] for one in worlds])
            nested = nested - said
            low = low - said
            high = high - said
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
    said = np.array([one["flatters"] for one in worlds])
    found["flatters, as reported"] = _errors(said)
    found["chosen: nested minus target, per unit of what it says that flatters"] = _slope(
        said, np.array([one["chosen"]["nested"] for one in worlds]) - target
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


def main() -> None:
    """Measure the worlds that are missing and print what is said of all."""
    cli = parser(__doc__, results="honesty.json")
    cli.set_defaults(data="drawn worlds", device="cpu")
    cli.add_argument("--worlds", type=int, default=300)
    cli.add_argument(
        "--thorough", type=int, default=30, help="worlds in which the choice is nested once more"
    )
    cli.add_argument("--first-seed", type=int, default=20_000)
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
            key,
            ", ".join(f"{one} {number:.4g}" for one, number in value.items())
            if isinstance(value, dict)
            else value,
        )
        for key, value in results["all"].items()
    ]
    print_rows("honesty", rows)


if __name__ == "__main__":
    main()
