"""Compare rules that stop configurations early, on simulated data sets.

    python benchmarks/halving.py [--datasets 500] [--metric f1_macro] [--groups 80 2700]

Each data set has a log-uniform number of people, 5 folds, and a portfolio of 4 to 12 configurations
with drawn learning curves and costs (tests/makers/portfolios.py).
Each rule of RULES races the configurations. Then the best one with all folds is chosen, and those
with all folds are blended greedily, both on the out-of-fold rows. Both are scored on 3,000 new
people, whose scores are the true ones:

- regret: the true score of the truly best configuration minus that of the chosen one
- blend: the true score of the blend minus that of a blend of all configurations
- vote: the true score of the plain mean of those with all folds, minus the same blend
- time: the cost of the folds that were evaluated, as a share of all folds

The standard errors by which a race decides, and the estimate of the selection optimism, are
compared with the truth too. Other kinds of races have other configurations:

- `--kind search`: 20 to 60 similar ones; the estimate of the selection optimism
- `--kind pruning`: 50 that differ, one after the other, as in a search. A configuration stops after
  a fold in which it is clearly worse than the best finished one so far.
- `--kind pruning-similar`: the same with 50 similar ones
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from common import Results, parser, print_rows
from portfolio_board import Board, error_of_lead, optimism
from threadpoolctl import threadpool_limits

from foldblend.scores.metrics import METRICS, Metric
from foldblend.scores.race import NONE, PAIRED, PLAIN, RULES, clear_losers, race
from foldblend.scores.score import Gain
from tests.makers.portfolios import NUM_FOLDS, Portfolio

NUM_TRIALS = 50
# Results are kept each time that so many data sets are done.
ROUND = 20
MEAN = ("mean", "standard error")
THRESHOLDS = (1.0, 1.5, 2.0, 2.5, 3.0)
SAME_TIME = f"all folds of some, in the time of {PAIRED}"


@dataclass(frozen=True)
class Rule:
    """A rule of a race, and what it stops."""

    name: str | None
    """A key of RULES in `foldblend.scores.race`; None for clear losers by `errors`."""
    errors: float = 0.0
    rounds: int | None = None
    keeps_helpful: bool = False

    def stop(self, leads: Sequence[Gain]) -> list[int]:
        """Return the places to stop."""
        if self.name is not None:
            return RULES[self.name](leads)
        return clear_losers(leads, errors=self.errors)


COMPARED = {
    "all folds": Rule(NONE),
    "plain halving": Rule(PLAIN),
    "plain halving, first fold only": Rule(PLAIN, rounds=1),
    PAIRED: Rule(PAIRED, keeps_helpful=True),
    "paired, first two folds only": Rule(PAIRED, keeps_helpful=True, rounds=2),
    **{
        f"paired, {errors:g} errors": Rule(None, errors, keeps_helpful=True)
        for errors in THRESHOLDS
    },
    **{f"paired, {errors:g} errors, none kept": Rule(None, errors) for errors in THRESHOLDS},
}


def measure(seed: int, metric: Metric, groups: tuple[int, int]) -> dict[str, Any]:
    """Return what each rule makes of a portfolio."""
    portfolio = Portfolio(seed, groups=groups)
    board = Board(portfolio, metric)
    num = portfolio.num_configurations
    found: dict[str, Any] = {}
    total = NUM_FOLDS * board.cost_M.sum()
    finished: dict[str, tuple[int, ...]] = {}
    for name, rule in COMPARED.items():
        raced = race(
            num,
            NUM_FOLDS,
            lambda *_: True,
            board.leads,
            rule=rule.stop,
            rounds=rule.rounds,
            keep=board.helpful if rule.keeps_helpful else None,
        )
        finished[name] = raced.finished
        share = sum(board.cost_M[one] for one, _ in raced.steps) / total
        found[name] = board.outcome(raced.finished, share)
    share_M = board.cost_M / board.cost_M.sum()
    some = in_time(share_M, found[PAIRED]["time"], np.random.default_rng(seed))
    found[SAME_TIME] = board.outcome(some, share_M[some].sum())
    found["optimism"] = optimism(board, finished[PAIRED])
    found["errors of leads"] = error_of_lead(board)
    return found


def in_time(share_M: np.ndarray, share: float, rng: np.random.Generator) -> list[int]:
    """Return random configurations, at least one, whose share of the time has this mean.

    They are taken in random order. The first one for which the time would not suffice is taken in
    as many cases as the share of its time that is left, so that no time stays unused on average.
    """
    some: list[int] = []
    left = share
    for one in rng.permutation(len(share_M)).tolist():
        if share_M[one] > left:
            some += [one] if rng.random() < left / share_M[one] else []
            break
        some.append(one)
        left -= share_M[one]
    return some or [int(share_M.argmin())]


def measure_search(seed: int, metric: Metric, groups: tuple[int, int]) -> dict[str, Any]:
    """Return the optimism of the best of many similar configurations."""
    board = Board(Portfolio(seed, groups=groups, search=True), metric)
    return {"optimism": optimism(board, range(len(board.tables)))}


def measure_pruning(
    seed: int, metric: Metric, groups: tuple[int, int], *, similar: bool
) -> dict[str, Any]:
    """Return what a search finds with and without pruning, one trial after the other."""
    portfolio = Portfolio(seed, groups=groups, search=similar, num_configurations=NUM_TRIALS)
    board = Board(portfolio, metric)
    finished: list[int] = []
    cost = 0.0
    for trial in range(NUM_TRIALS):
        num_folds = 1
        while num_folds < NUM_FOLDS and not is_pruned(board, finished, trial, num_folds):
            num_folds += 1
        cost += num_folds * board.cost_M[trial]
        if num_folds == NUM_FOLDS:
            finished.append(trial)
    best = board.best(range(NUM_TRIALS))
    truth_M = board.true_M
    regret = truth_M.max() - truth_M[board.best(finished)]
    without = truth_M.max() - truth_M[best]
    return {
        "pruning": {
            "regret": regret,
            "regret without pruning": without,
            "regret minus that without pruning": regret - without,
            "time": cost / (NUM_FOLDS * board.cost_M.sum()),
            "best of all folds stopped": float(best not in finished),
            "truly best stopped": float(int(truth_M.argmax()) not in finished),
            "finished": len(finished),
        }
    }


def is_pruned(board: Board, finished: Sequence[int], trial: int, num_folds: int) -> bool:
    """Return whether a trial stops after some folds, as `pipeline/search/pruner.py` decides."""
    if not finished:
        return False
    return 1 in clear_losers(board.leads([board.best(finished), trial], num_folds))


def averaged(values: Sequence[float]) -> dict[str, float]:
    """Return the mean over data sets and its standard error."""
    value_T = np.asarray(values, float)
    error = value_T.std(ddof=1) / np.sqrt(len(value_T)) if len(value_T) > 1 else np.nan
    return {"mean": float(value_T.mean()), "standard error": float(error)}


def figures(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures over all data sets, under their keys in halving.json."""
    result: dict[str, Any] = {"data sets": len(found)}
    for name in found[0]:
        values = [one[name] for one in found]
        if name in FIGURES:
            result[name] = FIGURES[name](values)
        elif isinstance(values[0], dict):
            result[name] = {key: averaged([one[key] for one in values]) for key in values[0]}
    return result


def figures_of_optimism(found: list[dict[str, float]]) -> dict[str, Any]:
    """Return the mean optimism, true and estimated, and how far the estimates are off."""
    true_T = np.array([one["true"] for one in found])
    result: dict[str, Any] = {"true": averaged(true_T)}
    for name in ("estimated", "cross-fitted"):
        value_T = np.array([one[name] for one in found])
        result[name] = {
            **averaged(value_T),
            "bias": averaged(value_T - true_T),
            "root mean squared error": float(np.sqrt(((value_T - true_T) ** 2).mean())),
        }
    return result


def figures_of_errors(found: list[dict[str, float]]) -> dict[str, float]:
    """Return how well standard errors of leads on one fold fit to how far the leads are off."""
    lead_T, error_T, true_T, error_of_true_T = np.array([list(one.values()) for one in found]).T
    off_T = np.abs(lead_T - true_T)
    both_T = np.hypot(error_T, error_of_true_T)
    return {
        "root mean square of leads minus true ones": float(np.sqrt((off_T**2).mean())),
        "root mean square of errors": float(np.sqrt((both_T**2).mean())),
        "more than 1.96 errors off": float((off_T > 1.96 * both_T).mean()),
        "more than 3 errors off": float((off_T > 3 * both_T).mean()),
    }


FIGURES = {"optimism": figures_of_optimism, "errors of leads": figures_of_errors}
Measure = Callable[[int, Metric, tuple[int, int]], dict[str, Any]]
KINDS: dict[str, Measure] = {
    "rules": measure,
    "search": measure_search,
    "pruning": functools.partial(measure_pruning, similar=False),
    "pruning-similar": functools.partial(measure_pruning, similar=True),
}


def measured(
    seeds: range, metric: Metric, groups: tuple[int, int], of_one: Measure
) -> Iterator[dict[str, Any]]:
    """Yield the figures so far each time that further data sets are measured."""
    found = []
    start = time.perf_counter()
    for seed in seeds:
        found.append(of_one(seed, metric, groups))
        if len(found) % ROUND == 0 or seed == seeds[-1]:
            seconds = round((time.perf_counter() - start) / len(found), 2)
            yield {**figures(found), "seconds per data set": seconds}


def table_rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the rows of the printed table."""
    return [(key, _shown(value)) for key, value in result.items()]


def _shown(value: Any) -> str:
    if not isinstance(value, dict):
        return f"{value:.4g}"
    if "mean" in value:
        rest = [f"{key} {_shown(one)}" for key, one in value.items() if key not in MEAN]
        return ", ".join([f"{value['mean']:.4f} ({value['standard error']:.4f})", *rest])
    return "; ".join(f"{key} {_shown(one)}" for key, one in value.items())


def main() -> None:
    """Simulate the data sets, unless the JSON file has the results, and print the figures."""
    cli = parser(__doc__, results="halving.json")
    cli.set_defaults(data="simulated portfolios", device="cpu")
    cli.add_argument("--datasets", type=int, default=500, help="number of simulated data sets")
    cli.add_argument("--first-seed", type=int, default=0)
    cli.add_argument("--metric", default="f1_macro", choices=list(METRICS))
    cli.add_argument("--groups", type=int, nargs=2, default=(80, 2700), help="range of people")
    cli.add_argument("--kind", default="rules", choices=list(KINDS))
    args = cli.parse_args()
    results = Results(args, device="cpu")
    seeds = range(args.first_seed, args.first_seed + args.datasets)
    low, high = args.groups
    name = f"{args.kind}, {args.metric}, {low} to {high} people, seeds {seeds[0]} to {seeds[-1]}"
    metric = METRICS[args.metric]
    with threadpool_limits(1):
        result = results.in_rounds(
            name, lambda: measured(seeds, metric, (low, high), KINDS[args.kind])
        )
    print_rows(name, table_rows(result))


if __name__ == "__main__":
    main()
