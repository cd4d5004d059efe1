"""Compare 95 % intervals of scores on simulated data sets: how often they contain the true score.

    python benchmarks/intervals.py [--worlds 3000] [--first-seed 400000] [--fresh]

Data sets are those of tests/makers/worlds.py, each family as often (flag and keys of the JSON file:
world). Nothing is fitted: a single run, the soft vote of all runs, the difference of two runs, and
that of the vote and a run are scored. Their true scores are those on 60,000 new groups, one image
each, over the classes that occur in the data. The new groups have the distribution of the data,
also in families whose new groups shift; what a shift costs is in rows of its own. Rules were
compared on seeds from 150,000 on; those from 400,000 on were run once, with the rule that is used.

Rules: the percentile, basic, BCa and studentised bootstrap (Efron and Tibshirani 1993; standard
errors of resamples by the infinitesimal jackknife), the Bayesian bootstrap (Rubin 1981), BCa and
percentiles at levels that the t distribution gives, and symmetric, logit and Wilson intervals of
the infinitesimal and the delete-one jackknife. "used" is what the package reports.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from common import Results, parser, print_rows
from honesty import wilson
from interval_rules import RULES, USED, Ends, counted, measured

from foldblend.scores.intervals import percentile_interval
from foldblend.scores.metrics import METRICS, softmax
from foldblend.scores.score import Score, score_of
from tests.makers.worlds import FAMILIES, World

NUM_LOTS = 3
NUM_NEW = 20_000
BLOCK = 125  # data sets of a family that are measured at once
F1 = "f1_macro"
# ROC AUC is slow on so many rows, so only one in so many data sets has it.
EVERY_AUC = 10
# First numbers of the bins of sizes.
GROUPS = (40, 81, 151, 301)
FEWEST = (1, 3, 6, 16, 301)
KINDS: dict[str, tuple[tuple[int, int], ...]] = {
    "run": ((1, 0),),
    "vote": ((1, 2),),
    "run - run": ((1, 0), (-1, 1)),
    "vote - run": ((1, 2), (-1, 0)),
}
"""Sign and place of each prediction in what is scored: two runs and the vote."""


def predicted(logits_M: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the probabilities of two runs and of the soft vote of all."""
    proba_M = [softmax(logits_NC) for logits_NC in logits_M]
    return [proba_M[0], proba_M[1], np.mean(proba_M, axis=0)]


def true_scores(world: World, occurs_C: np.ndarray, names: Sequence[str]) -> list[dict[str, float]]:
    """Return the true scores of each prediction, over the classes that occur in the data."""
    lots = [world.draw(NUM_NEW, 1, 2 + lot) for lot in range(NUM_LOTS)]
    at_N = [occurs_C[lot.rows.label_N] for lot in lots]
    label_N = np.concatenate([lot.rows.label_N[at] for lot, at in zip(lots, at_N, strict=True)])
    each = zip(*(predicted(lot.logits_MNC) for lot in lots), strict=True)
    proba = [np.concatenate([one[at] for one, at in zip(kind, at_N, strict=True)]) for kind in each]
    return [{name: METRICS[name].score(label_N, one) for name in names} for one in proba]


def shifted_scores(world: World, occurs_C: np.ndarray) -> list[dict[str, float]]:
    """Return macro F1 of each prediction on new groups that shift."""
    fresh = world.fresh(NUM_NEW)
    at_N = occurs_C[fresh.rows.label_N]
    label_N = fresh.rows.label_N[at_N]
    return [{F1: METRICS[F1].score(label_N, one[at_N])} for one in predicted(fresh.logits_KM[0])]


Tally = dict[str, list[float]]
"""Number of data sets, true scores below and above the interval, and sum of widths, by key."""


def add(tally: Tally, key: str, ends: Ends, true: float) -> None:
    low, high = ends
    found = [1, true < low - 1e-12, true > high + 1e-12, high - low]
    tally[key] = [float(old + new) for old, new in zip(tally[key], found, strict=True)]


def measure(seed: int, family: str, tally: Tally) -> None:
    """Add the intervals of a data set to the tally."""
    world = World(seed, family)
    drawn = world.draw(world.num_groups, world.num_images, 1)
    proba = predicted(drawn.logits_MNC)
    occurs_C = np.bincount(drawn.rows.label_N, minlength=world.num_classes) > 0
    names = [name for name in METRICS if name != "roc_auc_ovr" or seed % EVERY_AUC == 0]
    true = true_scores(world, occurs_C, names)
    scores = {name: [score_of(METRICS[name], drawn.rows, one) for one in proba] for name in names}
    counts_GX = [counted(drawn.rows, one) for one in proba]
    fewest = int(
        (counts_GX[0] > 0).sum(axis=0)[world.num_classes : 2 * world.num_classes][occurs_C].min()
    )
    shifted = shifted_scores(world, occurs_C) if world.shift else None
    for kind, terms in KINDS.items():
        one = measured(counts_GX, scores[F1], terms, seed)
        target = sum(sign * true[place][F1] for sign, place in terms)
        for rule, ends_of in RULES.items():
            ends = ends_of(one)
            if not one.is_difference:
                ends = max(0.0, ends[0]), min(1.0, ends[1])
            add(tally, f"{rule}: {kind}", ends, target)
        ends = RULES[USED](one)
        for size in (
            f"{_bin(world.num_groups, GROUPS)} groups",
            f"{_bin(fewest, FEWEST)} in the rarest class",
        ):
            add(tally, f"{size}: {kind}", ends, target)
        if shifted is not None:
            moved = sum(sign * shifted[place][F1] for sign, place in terms)
            add(tally, f"new groups that shift: {kind}", ends, moved)
        for name in names:
            _add_metric(tally, name, kind, scores[name], true, terms)


def _bin(number: int, edges: Sequence[int]) -> str:
    place = int(np.searchsorted(edges, number, side="right"))
    return f"{edges[place - 1]} to {edges[place] - 1}"


def _add_metric(
    tally: Tally,
    name: str,
    kind: str,
    scores: Sequence[Score],
    true: Sequence[Mapping[str, float]],
    terms: Sequence[tuple[int, int]],
) -> None:
    """Add the interval that is used, and that of percentiles, for a metric."""
    score = scores[terms[0][1]]
    if len(terms) > 1:
        score = score.minus(scores[terms[1][1]])
    target = sum(sign * true[place][name] for sign, place in terms)
    found = score.interval()
    plain = percentile_interval(found.value, score.sign * score.resamples_B)
    if np.isfinite(target) and np.isfinite(found.low):
        add(tally, f"{name}: {kind}", (found.low, found.high), target)
        add(tally, f"{name}, percentile: {kind}", (plain.low, plain.high), target)


def figures(tally: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return coverage with its Wilson interval, misses to both sides and mean width, by key."""
    found = {}
    for key, (num, below, above, width) in tally.items():
        hits = int(num - below - above)
        low, high = wilson(hits, int(num))
        found[key] = {
            "worlds": int(num),
            "share": round(hits / num, 4),
            "low": round(low, 4),
            "high": round(high, 4),
            "below": round(below / num, 4),
            "above": round(above / num, 4),
            "width": round(width / num, 5),
        }
    return found


def main() -> None:
    """Measure the blocks of data sets that the JSON file lacks, and print the figures over all."""
    cli = parser(__doc__, results="intervals.json")
    # The name of the data is a part of the keys of intervals.json.
    cli.set_defaults(data="simulated", device="cpu")
    cli.add_argument("--worlds", type=int, default=3000, help="number of simulated data sets")
    cli.add_argument("--first-seed", type=int, default=400_000, help="seed of the first data set")
    args = cli.parse_args()
    results = Results(args, device="cpu")
    everything: dict[str, Tally] = defaultdict(lambda: defaultdict(lambda: [0.0] * 4))
    per_family = args.worlds // len(FAMILIES)
    for start in range(0, per_family, BLOCK):
        for number, family in enumerate(FAMILIES):
            first = args.first_seed + number * per_family + start
            last = min(first + BLOCK, args.first_seed + (number + 1) * per_family)
            key = f"{family}, worlds {first} to {last - 1}"
            if key not in results:
                begun = time.perf_counter()
                tally: Tally = defaultdict(lambda: [0.0] * 4)
                for seed in range(first, last):
                    measure(seed, family, tally)
                print(f"{key}: {time.perf_counter() - begun:.0f} s", flush=True)
                results.put(key, {name: " ".join(map(str, one)) for name, one in tally.items()})
            for name, text in results[key].items():
                for part in ("all", family):
                    old = everything[part][name]
                    new = map(float, text.split())
                    everything[part][name] = [a + b for a, b in zip(old, new, strict=True)]
    results.put("figures", {part: figures(tally) for part, tally in everything.items()})
    show(results["figures"])


def show(found: Mapping[str, Mapping[str, Any]]) -> None:
    """Print one table: coverage, its Wilson interval and mean width of each rule and kind."""

    def cells(part: str, name: str) -> list[str]:
        each = [found[part].get(f"{name}: {kind}") for kind in KINDS]
        return [
            f"{one['share']:.1%} ({one['low']:.1%} to {one['high']:.1%}) {one['width']:.4f}"
            if one
            else ""
            for one in each
        ]

    names = dict.fromkeys(key.rpartition(": ")[0] for key in found["all"])
    rows = [("95 % intervals that contain the true score; mean width", *KINDS)]
    rows += [(name, *cells("all", name)) for name in names]
    rows += [(f"used, {part}", *cells(part, USED)) for part in found if part != "all"]
    print_rows("intervals", rows)


if __name__ == "__main__":
    main()
