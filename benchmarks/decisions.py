"""Compare decision rules for quadratic kappa and for costs of errors, on simulated data sets.

    python benchmarks/decisions.py [--worlds 60] [--first-seed 110000]

A rule turns the logits of a blend into a predicted class. It is made on 40 to 300 groups and scored
on 8,000 new groups; the table has the mean gain over the most probable class, with its standard
error over data sets. Gains in cost are shares of the difference between the worst and the best
prediction. Data sets of seeds below 110,000 were used while the rules were made.

Rules
-----
offsets
    One per class, as blend.py fits them.
expected
    The lowest expected cost under the predicted probabilities (for kappa: squared distance).
both
    Offsets that are fitted to the logarithm of what is expected to be saved against the worst
    prediction, whose largest class is that of "expected".

Kinds of costs
--------------
kappa
    Quadratic kappa, for classes with an order.
ordered
    The difference of the classes, three times as much if the prediction is too low.
rare
    1, or 5 for missing one of the rarest quarter of the classes.
alarm
    1, or 5 for predicting one class wrongly.
random
    Log-normal numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from common import Results, parser, print_rows

from ensemble.crossfit import cross_fit, splits_of
from ensemble.methods.base import Evidence
from ensemble.methods.registry import METHODS
from ensemble.offsets import fit_offsets
from foldblend.scores.error_costs import mean_cost
from foldblend.scores.metrics import METRICS, Metric, log_softmax, softmax
from foldblend.scores.rows import Rows
from folds.split import assign_folds
from tests.makers.rows import folded
from tests.makers.worlds import FAMILIES, World

NUM_NEW = 8000
NUM_FOLDS = 5
METHODS_TRIED = ("soft", "stack")


class Ordered:
    """Simulated data set of classes with an order: models see a place and err around it."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng((seed, 3))
        self.seed = seed
        self.num_classes = int(rng.integers(3, 9))
        self.num_groups = int(rng.integers(40, 301))
        self.num_images = int(rng.integers(3, 10))
        share_C = np.exp(rng.normal(size=self.num_classes) * rng.uniform(0.2, 1.2))
        self.share_C = share_C / share_C.sum()
        num_models = int(rng.integers(2, 6))
        self.noise = rng.uniform(0.4, 1.2)
        self.of_group = rng.uniform(0.2, 0.7)
        self.shared = rng.uniform(0.2, 0.7)
        self.of_class = rng.uniform(0.2, 0.8)
        self.bias_MC = rng.normal(size=(num_models, self.num_classes)) * rng.uniform(0, 0.6)
        self.shift_M = rng.normal(size=num_models) * 0.2
        self.sharpness_M = np.exp(rng.normal(size=num_models) * 0.5)

    def evidence(self) -> Evidence:
        """Return out-of-fold logits."""
        drawn = self._draw(self.num_groups, self.num_images, 1)
        rows = drawn.rows
        return folded(drawn, assign_folds(rows.label_N, rows.group_N, num_folds=NUM_FOLDS, seed=0))

    def new(self) -> Evidence:
        """Return new groups of one image each."""
        return self._draw(NUM_NEW, 1, 2)

    def _draw(self, num_groups: int, num_images: int, lot: int) -> Evidence:
        rng = np.random.default_rng((self.seed, lot, 5))
        group_N = np.repeat(np.arange(num_groups), num_images)
        num = len(group_N)
        home_N = rng.choice(self.num_classes, num_groups, p=self.share_C)[group_N]
        other_N = rng.choice(self.num_classes, num, p=self.share_C)
        label_N = np.where(rng.random(num) < 0.7, home_N, other_N)
        common_N = self.of_group * rng.normal(size=num_groups)[group_N]
        common_N += self.shared * rng.normal(size=num)
        logits = []
        for bias_C, shift, sharpness in zip(
            self.bias_MC, self.shift_M, self.sharpness_M, strict=True
        ):
            own_N = 0.4 * rng.normal(size=num_groups)[group_N] + 0.7 * rng.normal(size=num)
            seen_N = label_N + self.noise * (common_N + own_N) + shift
            apart_NC = np.arange(self.num_classes) - seen_N[:, None]
            logits_NC = -(apart_NC**2) / (2.4 * self.noise**2) + np.log(self.share_C) + bias_C
            logits_NC += self.of_class * rng.normal(size=logits_NC.shape)
            logits.append((sharpness * logits_NC).astype(np.float32))
        return Evidence(logits, Rows.of(label_N, group_N))


class Unordered(World):
    """Simulated data set of one of the families of `tests.makers.worlds`, in turn."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, [*FAMILIES][seed % len(FAMILIES)])

    def new(self) -> Evidence:
        """Return new groups of one image each, with the logits of the first fold's models."""
        fresh = self.fresh(NUM_NEW)
        return Evidence(list(fresh.logits_KM[0]), fresh.rows)


def _ordered(label_N: np.ndarray, num_classes: int, rng: np.random.Generator) -> np.ndarray:
    apart_CC = np.subtract.outer(np.arange(num_classes), np.arange(num_classes))
    return np.where(apart_CC > 0, 3.0 * apart_CC, -1.0 * apart_CC)


def _rare(label_N: np.ndarray, num_classes: int, rng: np.random.Generator) -> np.ndarray:
    cost_CC = 1 - np.eye(num_classes)
    num_rows_C = np.bincount(label_N, minlength=num_classes)
    cost_CC[np.argsort(num_rows_C)[: max(1, num_classes // 4)]] *= 5
    return cost_CC


def _alarm(label_N: np.ndarray, num_classes: int, rng: np.random.Generator) -> np.ndarray:
    cost_CC = 1 - np.eye(num_classes)
    cost_CC[:, rng.integers(num_classes)] *= 5
    return cost_CC


def _random(label_N: np.ndarray, num_classes: int, rng: np.random.Generator) -> np.ndarray:
    shape = (num_classes, num_classes)
    return (1 - np.eye(num_classes)) * np.exp(rng.normal(size=shape))


Costs = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
KINDS: dict[str, tuple[type[Ordered] | type[Unordered], Costs | None]] = {
    "kappa": (Ordered, None),
    "ordered": (Ordered, _ordered),
    "rare": (Unordered, _rare),
    "alarm": (Unordered, _alarm),
    "random": (Unordered, _random),
}


def expected_logits(logits_NC: np.ndarray, cost_CC: np.ndarray) -> np.ndarray:
    """Return the logarithm of what each class is expected to save against the worst prediction."""
    saved_NC = softmax(logits_NC) @ (cost_CC.max(axis=1, keepdims=True) - cost_CC)
    return np.log(np.maximum(saved_NC, 1e-9 * saved_NC.max(axis=1, keepdims=True)))


def _gains(
    evidence: Evidence, new: Evidence, metric: Metric, cost_CC: np.ndarray, unit: float
) -> dict[str, dict[str, float]]:
    """Return the gain of each rule on new groups, for each method."""
    splits = splits_of(evidence)
    found = {}
    for name in METHODS_TRIED:
        fitted = cross_fit(evidence, splits, {name: METHODS[name]})[name]
        plain = fitted.logits_NC.astype(float), fitted.final(new.logits_MNC)
        expected = tuple(expected_logits(logits_NC, cost_CC) for logits_NC in plain)

        def score(logits_NC: np.ndarray) -> float:
            return metric.sign * metric.score(new.rows.label_N, softmax(logits_NC)) / unit

        def moved(pair: tuple[np.ndarray, ...]) -> np.ndarray:
            seen_NC, new_NC = pair
            return log_softmax(new_NC) + fit_offsets(seen_NC, evidence.rows, metric=metric)

        before = score(plain[1])
        found[name] = {
            "offsets": score(moved(plain)) - before,
            "expected": score(expected[1]) - before,
            "both": score(moved(expected)) - before,
        }
    return found


def measure(kind: str, seed: int) -> dict[str, dict[str, float]]:
    """Return the gains of each rule on a data set, for each method."""
    maker, costs = KINDS[kind]
    world = maker(seed)
    evidence = world.evidence()
    num = world.num_classes
    if costs is None:
        apart_CC = np.subtract.outer(np.arange(num), np.arange(num))
        return _gains(evidence, world.new(), METRICS["kappa_quadratic"], apart_CC**2.0, 1.0)
    cost_CC = costs(evidence.rows.label_N, num, np.random.default_rng((seed, 99)))
    unit = float(np.ptp(cost_CC, axis=1).mean())
    return _gains(evidence, world.new(), mean_cost(cost_CC), cost_CC, unit)


def figures(each: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Return mean and standard error of each gain, and of "both" minus "offsets"."""
    found: dict[str, Any] = {"data sets": len(each)}
    for method in METHODS_TRIED:
        values = {rule: np.array([one[method][rule] for one in each]) for rule in each[0][method]}
        values["both minus offsets"] = values["both"] - values["offsets"]
        for rule, value in values.items():
            error = value.std(ddof=1) / np.sqrt(len(value))
            found[f"{method}, {rule}"] = [round(float(one), 4) for one in (value.mean(), error)]
    return found


def main() -> None:
    """Measure the kinds that the JSON file lacks, and print the gains."""
    cli = parser(__doc__, results="decisions.json")
    cli.set_defaults(data="simulated data sets", device="cpu")
    cli.add_argument("--worlds", type=int, default=60, help="simulated data sets of each kind")
    cli.add_argument("--first-seed", type=int, default=110_000, help="seed of the first data set")
    args = cli.parse_args()
    results = Results(args, device="cpu")
    seeds = range(args.first_seed, args.first_seed + args.worlds)
    for kind in KINDS:
        name = f"{kind}, seeds {seeds[0]} to {seeds[-1]}"
        if name not in results:
            results.put(name, figures([measure(kind, seed) for seed in seeds]))
        rows = [
            (key, "{:+.4f} ({:.4f})".format(*value) if isinstance(value, list) else str(value))
            for key, value in results[name].items()
        ]
        print_rows(name, rows)


if __name__ == "__main__":
    main()
