"""Choice of views on simulated data sets: chosen on some groups, scored on new ones.

    python benchmarks/tta_worlds.py [--worlds 200] [--metric f1_macro]

A simulated data set has 3 to 18 imbalanced classes, 60 to 400 groups with 7 images each, and 2 to
11 views beside identity. Most of the error is common to all views of an image, and to all images of
a group. Some views help, most do not, and some harm; in every third data set none helps. The views
that `--views auto` chooses on one sample of groups are scored on a sample of 1,000 new groups, and
on a subset of these with as many groups as were used for choosing. Both rules of `--prefer` choose
among the same candidates. Rules were settled on seeds from 10,000 on; results are reported for
seeds from 0 on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from common import Results, parser, print_rows, spread

from foldblend.scores.bootstrap import bootstrap_scores
from foldblend.scores.metrics import METRICS, Metric, softmax
from foldblend.scores.rows import Rows
from folds.split import assign_folds
from tests.makers.rows import folded
from tta.choose import Fit, learned, searched
from tta.crossfit import cross_fit
from tta.policy import IDENTITY, Policy, SavedViews
from tta.rules import RULES, SCORE, SIMPLE, Candidates, Choice, decide

NUM_IMAGES = 7
NUM_NEW = 1000
NUM_FOLDS = 5
# Gains of the best single view on new groups: above the first, a data set counts as one where a
# view helps; below the second, as one where none does.
HELPS = 0.005
HOPELESS = 0.001
KINDS = {
    "useful": 0.2,
    "some classes": 0.05,
    "twin": 0.2,
    "weak": 0.25,
    "noise": 0.1,
    "biased": 0.1,
    "swapped": 0.1,
}
# One in so many data sets is cross-fitted too, since that takes longer.
EVERY = 2
# Results are kept each time that so many data sets are done.
ROUND = 10
# Labels of keys of tta_worlds.json in the printed table.
LABELS = {
    "worlds": "data sets",
    "the same on as many people": "the same, on as many new groups as were used for choosing",
    "something chosen": "share of data sets with views chosen",
    "passes": "mean forward passes",
    "where a view helps": "data sets where some view helps",
    "where none does": "data sets where no view helps",
    "chosen": "share with views chosen",
    "honesty": "gains on the cross-fitted data sets",
    "optimism": "cross-fitted gain minus gain on new groups",
    "gain": "gain on new groups",
    "score minus simple": "gain with --prefer score minus gain with --prefer simple",
    "seconds a choice": "seconds for the candidates of both rules",
}


@dataclass(frozen=True)
class View:
    """Properties of a simulated view."""

    signal_C: np.ndarray
    """Strength of the signal of each class, compared with identity."""
    noise: float
    """Standard deviation of the view's errors."""
    shared: float
    """Share of the variance of its errors that is in common with identity."""
    bias_C: np.ndarray
    """Constant error of each class."""
    order_C: np.ndarray
    """Order of the classes; a swapped view exchanges two."""


class SimulatedData:
    """A simulated data set, given by its seed; `draw` returns groups of it."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.seed = seed
        self.num_classes = int(rng.integers(3, 19))
        self.num_groups = int(rng.integers(60, 401))
        share_C = np.exp(rng.normal(size=self.num_classes) * rng.uniform(0.3, 1.2))
        self.share_C = share_C / share_C.sum()
        self.strength = rng.uniform(1.5, 4.5)
        self.sharpness = rng.uniform(0.7, 2.5)
        self.group_error = rng.uniform(0.2, 1.2)
        self.image_error = rng.uniform(0.3, 1.2)
        self.view = rng.uniform(0.1, 0.8)
        odds = np.array(list(KINDS.values())) * (
            1 if rng.random() < 2 / 3 else np.arange(len(KINDS)) > 1
        )
        kinds = rng.choice(list(KINDS), size=rng.integers(2, 12), p=odds / odds.sum())
        self.names = ("identity", *(f"{kind} {place}" for place, kind in enumerate(kinds)))
        self.views = [self._view("identity", rng), *(self._view(kind, rng) for kind in kinds)]

    def _view(self, kind: str, rng: np.random.Generator) -> View:
        num = self.num_classes
        signal_C = np.ones(num)
        noise = self.view
        shared = 0.9
        bias_C = np.zeros(num)
        order_C = np.arange(num)
        if kind == "useful":
            signal_C = signal_C * rng.uniform(0.97, 1.03)
            shared = rng.uniform(0, 0.7)
        elif kind == "some classes":
            signal_C = np.where(rng.random(num) < 0.5, 1.1, 0.7)
            shared = rng.uniform(0, 0.7)
        elif kind == "twin":
            shared = rng.uniform(0.97, 1)
        elif kind == "weak":
            signal_C = signal_C * rng.uniform(0.4, 0.9)
            noise = noise * rng.uniform(1, 1.5)
        elif kind == "noise":
            signal_C = np.zeros(num)
            noise = rng.uniform(0.5, 3)
            shared = 0.0
        elif kind == "biased":
            bias_C = rng.normal(size=num) * self.strength * rng.uniform(0, 0.4)
        elif kind == "swapped":
            one, other = rng.choice(num, 2, replace=False)
            order_C[[one, other]] = other, one
        return View(signal_C, noise, shared, bias_C, order_C)

    def draw(self, num_groups: int, sample: int) -> SavedViews:
        """Return the logits of so many groups in every view; other samples have other groups."""
        rng = np.random.default_rng((self.seed, sample))
        num = num_groups * NUM_IMAGES
        group_N = np.repeat(np.arange(num_groups), NUM_IMAGES)
        home_N = rng.choice(self.num_classes, size=num_groups, p=self.share_C)[group_N]
        label_N = np.where(
            rng.random(num) < 0.7, home_N, rng.choice(self.num_classes, size=num, p=self.share_C)
        )
        truth_NC = self.strength * np.eye(self.num_classes)[label_N]

        def errors(group_error: float, image_error: float) -> np.ndarray:
            of_groups_NC = rng.normal(size=(num_groups, self.num_classes))[group_N]
            return group_error * of_groups_NC + image_error * rng.normal(
                size=(num, self.num_classes)
            )

        common_NC = errors(self.group_error, self.image_error)
        first_NC = errors(0.7, 0.7)
        logits = []
        for place, view in enumerate(self.views):
            of_view_NC = errors(0.7, 0.7)
            mixed_NC = (
                np.sqrt(view.shared) * first_NC + np.sqrt(1 - view.shared) * of_view_NC
                if place
                else first_NC
            )
            seen_NC = (
                (truth_NC * view.signal_C + common_NC)[:, view.order_C]
                + view.noise * mixed_NC
                + view.bias_C
            )
            logits.append(self.sharpness * seen_NC)
        return SavedViews(
            self.names, np.stack(logits).astype(np.float32), Rows.of(label_N, group_N)
        )


def gain(
    metric: Metric, new: SavedViews, policy: Policy, num_groups: int | None = None
) -> tuple[float, float]:
    """Return a policy's gain over identity on new groups, and its bootstrap standard error."""
    if policy == IDENTITY:
        return 0.0, 0.0
    if num_groups is not None:
        new = new.take(np.flatnonzero(new.rows.group_N < num_groups))
    proba = [softmax(one.apply(new.logits_VNC, new.names)) for one in (policy, IDENTITY)]
    sign = metric.sign
    value, before = (sign * metric.score(new.rows.label_N, one) for one in proba)
    resamples, others = (
        bootstrap_scores(metric, new.rows.label_N, one, new.rows.group_N) for one in proba
    )
    return value - before, float((resamples - others).std())


def best_single(metric: Metric, new: SavedViews) -> float:
    """Return the gain on new groups of the single view that helps most, merged with identity."""
    sign = metric.sign
    pairs = [IDENTITY, *(Policy(("identity", name)) for name in new.names[1:])]
    proba = [softmax(policy.apply(new.logits_VNC, new.names)) for policy in pairs]
    before, *after = (sign * metric.score(new.rows.label_N, one) for one in proba)
    return max(after) - before


class Compared:
    """Candidates of a simulated data set, searched once for each set of rows."""

    def __init__(self, saved: SavedViews, metric_name: str) -> None:
        self.search = searched(saved, metric=metric_name)
        self.known: dict[bytes, Candidates] = {}

    def choice(self, rows_N: np.ndarray, rule: str) -> Choice:
        """Return the choice of a rule on these rows."""
        key = rows_N.tobytes()
        if key not in self.known:
            self.known[key] = self.search.compared(rows_N)
        return decide(self.known[key], rule)

    def fit(self, rule: str) -> Fit:
        """Return the function from rows to the choice of a rule."""
        return lambda rows_N: self.choice(rows_N, rule)


def measure(seed: int, metric_name: str) -> dict[str, Any]:
    """Return the views that each rule chooses on a simulated data set, and their gains."""
    data = SimulatedData(seed)
    metric = METRICS[metric_name]
    saved = data.draw(data.num_groups, 1)
    new = data.draw(NUM_NEW, 2)
    compared = Compared(saved, metric_name)
    rows_N = np.arange(len(saved.rows.label_N))
    start = time.perf_counter()
    choices = {rule: compared.choice(rows_N, rule) for rule in RULES}
    result: dict[str, Any] = {
        "classes": data.num_classes,
        "people": data.num_groups,
        "views": len(data.names),
        "seconds": round(time.perf_counter() - start, 2),
        "best single view": best_single(metric, new),
        "mean of all": gain(metric, new, Policy(data.names))[0],
    }
    for name in ("view", "class"):
        policy = learned(saved, saved.names, name)(rows_N).policy
        result[f"all, weights per {name}"] = gain(metric, new, policy)[0]
    for rule, choice in choices.items():
        gained, error = gain(metric, new, choice.policy)
        result[rule] = {
            "chosen": str(choice.policy),
            "passes": choice.policy.passes,
            "gain": gained,
            "standard error": error,
            "as many people": gain(metric, new, choice.policy, data.num_groups),
        }
        if seed % EVERY == 0:
            result[rule] |= honesty(saved, choice.policy, metric, compared.fit(rule))
    return result


def honesty(saved: SavedViews, policy: Policy, metric: Metric, fit: Fit) -> dict[str, float]:
    """Return the in-sample and the cross-fitted gain; a report has the second one."""
    fold_N = assign_folds(saved.rows.label_N, saved.rows.group_N, num_folds=NUM_FOLDS, seed=0)
    crossed = cross_fit(folded(saved, fold_N), fit)
    sign = metric.sign
    both = [policy.apply(saved.logits_VNC, saved.names), crossed.logits_NC]
    before = metric.score(saved.rows.label_N, softmax(saved.logits_VNC[0]))
    in_sample, cross_fitted = (
        sign * (metric.score(saved.rows.label_N, softmax(one)) - before) for one in both
    )
    return {"in sample": in_sample, "cross-fitted": cross_fitted}


def averaged(values: Any) -> dict[str, float]:
    """Return the mean over data sets and its standard error."""
    value_T = np.asarray(values, float)
    error = value_T.std(ddof=1) / np.sqrt(len(value_T)) if len(value_T) > 1 else np.nan
    return {"mean": float(value_T.mean()), "standard error": float(error)}


def figures(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures over all simulated data sets, under their keys in tta_worlds.json."""
    best_T = np.array([one["best single view"] for one in found])
    rest = ("mean of all", "all, weights per view", "all, weights per class")
    gain_of = {rule: np.array([one[rule]["gain"] for one in found]) for rule in RULES}
    return {
        "worlds": len(found),
        **{rule: figures_of([one[rule] for one in found], best_T) for rule in RULES},
        "score minus simple": averaged(gain_of[SCORE] - gain_of[SIMPLE]),
        "without choosing": {name: float(np.mean([one[name] for one in found])) for name in rest},
        "seconds a choice": spread([one["seconds"] for one in found], 2),
    }


def figures_of(found: list[dict[str, Any]], best_T: np.ndarray) -> dict[str, Any]:
    """Return the figures of one rule; `best_T` is the gain of the best single view."""
    gain_T, error_T, passes_T = (
        np.array([one[name] for one in found]) for name in ("gain", "standard error", "passes")
    )
    taken_T = np.array([one["chosen"] != "identity" for one in found])
    as_many = np.array([one["as many people"] for one in found])
    helps_T = best_T > HELPS
    hopeless_T = best_T < HOPELESS
    crossed = [one for one in found if "cross-fitted" in one]
    names = ("in sample", "cross-fitted", "gain")
    return {
        "gain": {**averaged(gain_T), **spread(gain_T.tolist(), 4)},
        "worse by more than one standard error": float((gain_T < -error_T).mean()),
        "the same on as many people": float((as_many[:, 0] < -as_many[:, 1]).mean()),
        "worse at all": float((gain_T < 0).mean()),
        "something chosen": float(taken_T.mean()),
        "passes": float(passes_T.mean()),
        "where a view helps": {
            "worlds": int(helps_T.sum()),
            "chosen": float(taken_T[helps_T].mean()),
            "gain": float(gain_T[helps_T].mean()),
            "best single view": float(best_T[helps_T].mean()),
        },
        "where none does": {
            "worlds": int(hopeless_T.sum()),
            "chosen": float(taken_T[hopeless_T].mean()),
            "gain": float(gain_T[hopeless_T].mean()),
        },
        "honesty": {
            "worlds": len(crossed),
            **{name: float(np.mean([one[name] for one in crossed])) for name in names},
        },
        "optimism": averaged([one["cross-fitted"] - one["gain"] for one in crossed]),
    }


def measured(seeds: range, metric_name: str) -> Iterator[dict[str, Any]]:
    """Yield the figures so far each time that further data sets are measured."""
    found = []
    for seed in seeds:
        found.append(measure(seed, metric_name))
        if len(found) % ROUND == 0 or seed == seeds[-1]:
            yield {**figures(found), "each": found}


def table_rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the rows of the printed table."""
    rows = []
    for key, value in result.items():
        label = LABELS.get(key, key)
        if key in RULES:
            rows += [(f"{key}: {name}", shown) for name, shown in table_rows(value)]
        elif isinstance(value, dict):
            cells = (f"{LABELS.get(name, name)} {one:.4g}" for name, one in value.items())
            rows.append((label, ", ".join(cells)))
        elif key != "each":
            rows.append((label, f"{value:.4g}"))
    return rows


def main() -> None:
    """Simulate the data sets, unless the JSON file has the results, and print the figures."""
    cli = parser(__doc__, results="tta_worlds.json")
    # This is part of the keys of tta_worlds.json.
    cli.set_defaults(data="drawn worlds", device="cpu")
    cli.add_argument("--worlds", type=int, default=200, help="number of simulated data sets")
    cli.add_argument("--first-seed", type=int, default=0)
    cli.add_argument("--metric", default="f1_macro", choices=list(METRICS))
    args = cli.parse_args()
    results = Results(args, device="cpu")
    seeds = range(args.first_seed, args.first_seed + args.worlds)
    name = f"{args.metric}, both rules, seeds {seeds[0]} to {seeds[-1]}"
    result = results.in_rounds(name, lambda: measured(seeds, args.metric))
    print_rows(name, table_rows(result))


if __name__ == "__main__":
    main()
