"""Compare rules that stop configurations early, on simulated portfolios.

    python benchmarks/halving.py [--worlds 500] [--metric f1_macro] [--groups 80 2700]

A simulated portfolio (flag and keys of the JSON file: world) has 4 to 12 configurations with drawn
learning curves and costs, 5 folds, and a log-uniform number of people (tests/makers/portfolios.py).
Each rule of RULES races the configurations. Then the best one with all folds is chosen, and those
with all folds are blended greedily, both on the out-of-fold rows. Both are scored on 3,000 new
people, whose scores are the true ones:

- regret: the true score of the truly best configuration minus that of the chosen one
- blend: the true score of the blend minus that of a blend of all configurations
- vote: the true score of the plain mean of those with all folds, minus the same blend
- time: the cost of the folds that were evaluated, as a share of all folds

The standard errors by which a race decides, and the estimate of the selection optimism, are
compared with the truth too; --search draws 20 to 60 similar configurations instead, for the latter.
Rules were settled on seeds from 20,000 on; results are reported for seeds from 0 on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from common import Results, parser, print_rows
from threadpoolctl import threadpool_limits

from ensemble.methods.greedy import greedy_picks
from foldblend.scores.intervals import jackknife_error
from foldblend.scores.metrics import METRICS, Metric
from foldblend.scores.optimism import selection_optimism
from foldblend.scores.race import NONE, PAIRED, PLAIN, RULES, clear_losers, leads_of_scores, race
from foldblend.scores.score import Gain, Score, left_out_score
from tests.makers.portfolios import NUM_FOLDS, Portfolio

NUM_NEW = 3000
NUM_PICKS = 15
# Results are kept each time that so many portfolios are done.
ROUND = 20
MEAN = ("mean", "standard error")
OUTCOMES = ("regret", "blend", "vote", "time", "best stopped", "finished")
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


class Board:
    """Scores of a portfolio's configurations, each computed once."""

    def __init__(self, portfolio: Portfolio, metric: Metric) -> None:
        self.metric = metric
        self.cost_M = portfolio.cost_M
        self.rows, self.tables = portfolio.draw(portfolio.num_groups, 1)
        self.new, self.new_tables = portfolio.draw(NUM_NEW, 2)
        # Out-of-fold scores are over the classes that occur, so true ones must be too.
        occurs_N = np.isin(self.new.label_N, np.unique(self.rows.label_N))
        self.new = self.new.take(occurs_N)
        self.new_tables = [proba_NC[occurs_N] for proba_NC in self.new_tables]
        self.until = [np.flatnonzero(self.rows.fold_N <= fold) for fold in range(NUM_FOLDS)]
        self.true_M = np.array([self.true(proba_NC) for proba_NC in self.new_tables])
        self.kept: dict[tuple[Any, ...], Any] = {}

    def true(self, proba_NC: np.ndarray) -> float:
        """Return the score on new people; greater is better."""
        return self.metric.sign * self.metric.score(self.new.label_N, proba_NC)

    def score(self, one: int, num_folds: int) -> Score:
        """Return the score of a configuration on its first folds."""
        at = self.until[num_folds - 1]
        key = "score", one, num_folds
        if key not in self.kept:
            found = left_out_score(self.metric, self.rows.take(at), self.tables[one][at])
            self.kept[key] = found
        return self.kept[key]

    def leads(self, configurations: Sequence[int], num_folds: int) -> list[Gain]:
        """Return the leads of the best configuration."""
        return leads_of_scores([self.score(one, num_folds) for one in configurations])

    def helpful(self, configurations: Sequence[int], num_folds: int) -> list[int]:
        """Return what `foldblend.scores.race.helpful` would."""
        best = self.best(configurations, num_folds)
        others = [(place, one) for place, one in enumerate(configurations) if one != best]
        alone = self.score(best, num_folds).value
        return [place for place, one in others if self.mean(best, one, num_folds) > alone]

    def mean(self, one: int, other: int, num_folds: int) -> float:
        """Return the score of the mean of two configurations."""
        key = "mean", min(one, other), max(one, other), num_folds
        if key not in self.kept:
            at = self.until[num_folds - 1]
            mean_NC = (self.tables[one][at] + self.tables[other][at]) / 2
            value = self.metric.score(self.rows.label_N[at], mean_NC)
            self.kept[key] = self.metric.sign * value
        return self.kept[key]

    def best(self, configurations: Sequence[int], num_folds: int = NUM_FOLDS) -> int:
        """Return the configuration with the best score."""
        return max(configurations, key=lambda one: self.score(one, num_folds).value)

    def blend(self, configurations: Sequence[int]) -> float:
        """Return the true score of a greedy blend."""
        used = tuple(sorted(configurations))
        key = "blend", *used
        if key not in self.kept:
            proba_MNC = np.stack([self.tables[one] for one in used])
            picks, _ = greedy_picks(
                proba_MNC, self.rows.label_N, num_picks=NUM_PICKS, metric=self.metric
            )
            total_NC = np.sum([self.new_tables[used[place]] for place in picks], axis=0)
            self.kept[key] = self.true(total_NC / NUM_PICKS)
        return self.kept[key]

    def outcome(self, finished: Sequence[int], share: float) -> dict[str, float]:
        """Return what became of a race."""
        best = int(self.true_M.argmax())
        blend_of_all = self.blend(range(len(self.tables)))
        vote_NC = np.mean([self.new_tables[one] for one in finished], axis=0)
        return {
            "regret": self.true_M[best] - self.true_M[self.best(finished)],
            "blend": self.blend(finished) - blend_of_all,
            "vote": self.true(vote_NC) - blend_of_all,
            "time": share,
            "best stopped": float(best not in finished),
            "finished": len(finished),
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
    some = in_time(share_M, found[PAIRED]["time"], np.random.default_rng(seed).permutation(num))
    found[SAME_TIME] = board.outcome(some, share_M[some].sum())
    found["optimism"] = optimism(board, finished[PAIRED])
    found["errors of leads"] = error_of_lead(board)
    return found


def in_time(share_M: np.ndarray, most: float, order: np.ndarray) -> list[int]:
    """Return the configurations that can be evaluated on all folds in a share of the time."""
    some: list[int] = []
    for one in order.tolist():
        if share_M[some].sum() + share_M[one] <= most:
            some.append(one)
    return some or [int(share_M.argmin())]


def optimism(board: Board, finished: Sequence[int]) -> dict[str, float]:
    """Return the optimism of the best score, in truth and as estimated in two ways.

    The error of the truly best configuration is subtracted, because its score is not too high by
    choice.
    """
    score_M = np.array([board.score(one, NUM_FOLDS).value for one in range(len(board.tables))])
    chosen = board.best(finished)
    best = int(board.true_M.argmax())
    error_M = score_M - board.true_M
    tables = [board.tables[one] for one in finished]
    estimated = selection_optimism(board.metric, board.rows, tables)
    crossed_NC = np.empty_like(board.tables[0])
    for fold in range(NUM_FOLDS):
        held_N = board.rows.fold_N == fold
        others = board.rows.label_N[~held_N]
        values = [board.metric.sign * board.metric.score(others, one[~held_N]) for one in tables]
        crossed_NC[held_N] = tables[int(np.argmax(values))][held_N]
    crossed = board.metric.sign * board.metric.score(board.rows.label_N, crossed_NC)
    return {
        "true": error_M[chosen] - error_M[best],
        "estimated": estimated.value,
        "standard error": estimated.error,
        "cross-fitted": score_M[chosen] - crossed,
    }


def error_of_lead(board: Board) -> dict[str, float]:
    """Return the lead of one configuration over another on the first fold, and its true value."""
    labels = np.unique(board.rows.label_N[board.until[0]])
    at = np.flatnonzero((board.new.fold_N == 0) & np.isin(board.new.label_N, labels))
    scores = [board.score(one, 1) for one in (0, 1)]
    truths = [
        left_out_score(board.metric, board.new.take(at), board.new_tables[one][at])
        for one in (0, 1)
    ]
    lead, truth = (one.minus(other) for one, other in (scores, truths))
    return {
        "lead": lead.value,
        "error": jackknife_error(lead.left_out_G),
        "true": truth.value,
        "error of the true one": jackknife_error(truth.left_out_G),
    }


def measure_search(seed: int, metric: Metric, groups: tuple[int, int]) -> dict[str, Any]:
    """Return the optimism of the best of many similar configurations."""
    board = Board(Portfolio(seed, groups=groups, search=True), metric)
    return {"optimism": optimism(board, range(len(board.tables)))}


def averaged(values: Sequence[float]) -> dict[str, float]:
    """Return the mean over portfolios and its standard error."""
    value_T = np.asarray(values, float)
    error = value_T.std(ddof=1) / np.sqrt(len(value_T)) if len(value_T) > 1 else np.nan
    return {"mean": float(value_T.mean()), "standard error": float(error)}


def figures(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures over all portfolios, under their keys in halving.json."""
    result: dict[str, Any] = {"worlds": len(found)}
    for name in found[0]:
        values = [one[name] for one in found]
        if name in FIGURES:
            result[name] = FIGURES[name](values)
        elif isinstance(values[0], dict):
            result[name] = {key: averaged([one[key] for one in values]) for key in OUTCOMES}
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


def measured(
    seeds: range, metric: Metric, groups: tuple[int, int], *, search: bool
) -> Iterator[dict[str, Any]]:
    """Yield the figures so far each time that further portfolios are measured."""
    found = []
    start = time.perf_counter()
    of_one = measure_search if search else measure
    for seed in seeds:
        found.append(of_one(seed, metric, groups))
        if len(found) % ROUND == 0 or seed == seeds[-1]:
            seconds = round((time.perf_counter() - start) / len(found), 2)
            yield {**figures(found), "seconds a world": seconds}


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
    """Simulate the portfolios, unless the JSON file has the results, and print the figures."""
    cli = parser(__doc__, results="halving.json")
    cli.set_defaults(data="simulated portfolios", device="cpu")
    cli.add_argument("--worlds", type=int, default=500, help="number of simulated portfolios")
    cli.add_argument("--first-seed", type=int, default=0)
    cli.add_argument("--metric", default="f1_macro", choices=list(METRICS))
    cli.add_argument("--groups", type=int, nargs=2, default=(80, 2700), help="range of people")
    cli.add_argument("--search", action="store_true", help="many similar configurations")
    args = cli.parse_args()
    results = Results(args, device="cpu")
    seeds = range(args.first_seed, args.first_seed + args.worlds)
    low, high = args.groups
    kind = "search" if args.search else "rules"
    name = f"{kind}, {args.metric}, {low} to {high} people, seeds {seeds[0]} to {seeds[-1]}"
    metric = METRICS[args.metric]
    with threadpool_limits(1):
        result = results.in_rounds(
            name, lambda: measured(seeds, metric, (low, high), search=args.search)
        )
    print_rows(name, table_rows(result))


if __name__ == "__main__":
    main()
