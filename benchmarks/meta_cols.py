"""Measure what stacks gain by columns of the images (--meta-cols) on new groups.

    python benchmarks/meta_cols.py [--worlds 20] [--first-seed 150000] [--groups 60 400]

Data sets are simulated (tests/makers/column_worlds.py; one is called a world there): the site or
the age of a group depends on its class, or has nothing to do with it ("noise"), and models know
nothing of either. For each kind of columns, number of groups and seed, stack and trees are fitted
without and with columns, and scored on 4,000 new groups. "best" is the method without columns after
Bayes' rule with the true law of the columns, which no method can know. Gains are of log loss and of
macro F1, with the mean, the standard error over data sets, the worst data set, and in how many of
them the columns were used. Results are kept after each data set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from common import Results, parser, print_rows
from threadpoolctl import threadpool_limits

from ensemble.methods.registry import METHODS, WITH_COLUMNS, WITHOUT
from foldblend.scores.metrics import METRICS, log_softmax, softmax
from tests.makers.column_worlds import KINDS, ColumnWorld

NUM_FRESH = 4000
METRIC = METRICS["f1_macro"]
SCORES = ("log loss", "macro F1")


def _scores(logits_NC: np.ndarray, label_N: np.ndarray) -> dict[str, float]:
    """Return the mean log-probability of the true class, and macro F1; greater is better."""
    log_N = log_softmax(logits_NC)[np.arange(len(label_N)), label_N]
    return {
        "log loss": float(log_N.mean()),
        "macro F1": METRIC.score(label_N, softmax(logits_NC)),
    }


def measure(seed: int, kind: str, num_groups: int) -> dict[str, Any]:
    """Return the scores of each method without columns, with them, and at best."""
    world = ColumnWorld(seed, kind, num_groups)
    evidence = world.evidence()
    fresh, best_NC = world.fresh(NUM_FRESH)
    # Nothing can be learned about classes without rows.
    at = np.isin(fresh.rows.label_N, evidence.rows.label_N)
    fresh = fresh.take(at)
    found: dict[str, Any] = {"classes": evidence.num_classes, "members": len(evidence.logits_MNC)}
    for name, method in WITH_COLUMNS.items():
        plain_NC = fresh.answer(METHODS[WITHOUT[name]].fit(evidence))
        fitted = method.fit(evidence)
        label_N = fresh.rows.label_N
        found[name] = {
            "without": _scores(plain_NC, label_N),
            "with": _scores(fresh.answer(fitted), label_N),
            "best": _scores(log_softmax(plain_NC) + best_NC[at], label_N),
            "used": bool(fitted.needs),
        }
    return found


def figures(each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the gains of each method over the data sets of one kind and size."""
    found: dict[str, Any] = {"worlds": len(each)}
    for name in WITH_COLUMNS:
        scores = [one[name] for one in each]
        about: dict[str, Any] = {"used in": sum(one["used"] for one in scores)}
        for score in SCORES:
            gains = [one["with"][score] - one["without"][score] for one in scores]
            best = [one["best"][score] - one["without"][score] for one in scores]
            about[score] = {
                "gain": float(np.mean(gains)),
                "standard error": float(np.std(gains, ddof=1) / np.sqrt(len(gains))),
                "worst": float(np.min(gains)),
                "worlds that lose": int(np.sum(np.array(gains) < 0)),
                "best": float(np.mean(best)),
            }
        found[name] = about
    return found


def _cells(about: Mapping[str, Any], score: str) -> str:
    one = about[score]
    return (
        f"{one['gain']:+.4f} ({one['standard error']:.4f}) of {one['best']:+.4f}, worst"
        f" {one['worst']:+.4f}"
    )


# One thread makes sums the same on any number of cores.
@threadpool_limits.wrap(limits=1)
def main() -> None:
    """Measure the data sets that the JSON file lacks, and print the gains."""
    cli = parser(__doc__, results="meta_cols.json")
    # The name of the data is a part of the keys of the JSON file.
    cli.set_defaults(data="simulated data sets", device="cpu")
    cli.add_argument("--worlds", type=int, default=20, help="number of data sets of each kind")
    cli.add_argument("--first-seed", type=int, default=150_000, help="seed of the first data set")
    cli.add_argument(
        "--groups", type=int, nargs="+", default=[60, 400], help="numbers of groups of a data set"
    )
    args = cli.parse_args()
    results = Results(args, device="cpu")
    every: dict[str, Any] = {}
    for num_groups in args.groups:
        for kind in KINDS:
            each = []
            for seed in range(args.first_seed, args.first_seed + args.worlds):
                key = f"{kind} {num_groups} groups {seed}"
                if key not in results:
                    results.put(key, measure(seed, kind, num_groups))
                each.append(results[key])
            every[f"{kind}, {num_groups} groups"] = figures(each)
    results.put("all", every)
    header = ("columns", "method", "used in", *SCORES)
    rows = [
        (kind, name, str(found[name]["used in"]), *(_cells(found[name], one) for one in SCORES))
        for kind, found in every.items()
        for name in WITH_COLUMNS
    ]
    print_rows(f"gains by columns, {args.worlds} data sets each", [header, *rows])


if __name__ == "__main__":
    main()
