"""Compare greedy selection with a simple loop over scikit-learn's macro F1: picks and times.

    python benchmarks/greedy_selection.py [--worlds 3]

A simulated data set (flag: world) has 50 models on 18,900 rows of 18 classes, from which 100 picks
are made with replacement. The models of "alike" share nine tenths of the variance of their errors
(folds and seeds of one recipe), those of "unlike" three tenths (other recipes). Those of
"unrelated" are draws from a Dirichlet distribution, which is the worst case: no model is ever
confident, so hardly any row can be left out. Both ways run in one process on one core, one after
the other, on every data set. A whole fit (20 members, 15,000 rows, 20 bags of 25 picks) is timed as
well. There are at most two data sets of the last two kinds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from common import Results, parser, print_rows, shown, spread
from sklearn.metrics import f1_score
from threadpoolctl import threadpool_limits

from ensemble.methods.base import Evidence
from ensemble.methods.greedy import fit, greedy_picks
from foldblend.scores.metrics import softmax
from foldblend.scores.rows import Rows

NUM_MODELS = 50
NUM_ROWS = 18_900
NUM_CLASSES = 18
NUM_PICKS = 100
FIT_MODELS = 20
FIT_ROWS = 15_000
SHARED = {"alike": 0.9, "unlike": 0.3, "unrelated": None}
# Of logits. With these a single model has a macro F1 of about 0.74.
SIGNAL = 4.5
NOISE = 2.0


def simulated_logits(
    kind: str, seed: int, num_models: int, num_rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return logits M x N x C float32 and labels N."""
    rng = np.random.default_rng(seed)
    label_N = rng.integers(0, NUM_CLASSES, num_rows)
    shared = SHARED[kind]
    logits_MNC = np.empty((num_models, num_rows, NUM_CLASSES), np.float32)
    common_NC = rng.normal(size=logits_MNC.shape[1:])
    for logits_NC in logits_MNC:
        if shared is None:
            logits_NC[:] = np.log(np.maximum(rng.dirichlet(np.ones(NUM_CLASSES), num_rows), 1e-12))
            continue
        error_NC = np.sqrt(shared) * common_NC + np.sqrt(1 - shared) * rng.normal(
            size=common_NC.shape
        )
        logits_NC[:] = (
            SIGNAL * rng.uniform(0.9, 1.1) * np.eye(NUM_CLASSES)[label_N] + NOISE * error_NC
        )
    return logits_MNC, label_N


def simple_picks(proba_MNC: np.ndarray, label_N: np.ndarray, num_picks: int) -> list[int]:
    """Return the picks of the simple loop."""
    picks = []
    sum_NC = np.zeros(proba_MNC.shape[1:])
    occurs = np.unique(label_N)

    def score(label_N: np.ndarray, sum_NC: np.ndarray) -> float:
        return float(
            f1_score(
                label_N, sum_NC.argmax(axis=1), labels=occurs, average="macro", zero_division=0
            )
        )

    for _ in range(num_picks):
        picks.append(int(np.argmax([score(label_N, sum_NC + proba_NC) for proba_NC in proba_MNC])))
        sum_NC += proba_MNC[picks[-1]]
    return picks


def timed(call: Callable[..., Any], *args: Any, **settings: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call(*args, **settings)
    return time.perf_counter() - start, result


def compare(kind: str, num_data_sets: int) -> dict[str, Any]:
    """Return seconds of both ways, their ratios, and the time to only read the probabilities."""
    plain_s = []
    fast_s = []
    read_s = []
    temperatures_s = []
    fit_s = []
    for seed in range(num_data_sets):
        logits_MNC, label_N = simulated_logits(kind, seed, NUM_MODELS, NUM_ROWS)
        proba_MNC = np.stack([softmax(logits_NC).astype(np.float32) for logits_NC in logits_MNC])
        read_s.append(timed(proba_MNC.sum)[0])
        seconds, (fast, _) = timed(greedy_picks, proba_MNC, label_N, num_picks=NUM_PICKS)
        fast_s.append(seconds)
        seconds, plain = timed(simple_picks, proba_MNC, label_N, NUM_PICKS)
        plain_s.append(seconds)
        if fast != plain:
            raise SystemExit(f"{kind}, seed {seed}: picks differ, {fast} and {plain}")
        logits_MNC, label_N = simulated_logits(kind, seed, FIT_MODELS, FIT_ROWS)
        evidence = Evidence(list(logits_MNC), Rows.of(label_N, np.arange(FIT_ROWS)))
        # The evidence computes temperatures once, for all methods.
        temperatures_s.append(timed(getattr, evidence, "temperatures")[0])
        fit_s.append(timed(fit, evidence)[0])
    return {
        "models, rows, classes, picks": [NUM_MODELS, NUM_ROWS, NUM_CLASSES, NUM_PICKS],
        "picks equal": f"{num_data_sets} of {num_data_sets} worlds",
        "plain s": spread(plain_s),
        "fast s": spread(fast_s),
        "times as fast": spread(np.divide(plain_s, fast_s).tolist(), 1),
        "reading the probabilities s": spread(read_s),
        "fit of 20 members on 15,000 rows s": spread(fit_s),
        "their temperatures s": spread(temperatures_s),
    }


def main() -> None:
    """Measure what the JSON file lacks, and print all."""
    made = parser(__doc__, results="greedy_selection.json")
    made.add_argument("--worlds", type=int, default=3, help="number of simulated data sets")
    args = made.parse_args()
    # The name of the data is a part of the keys of greedy_selection.json.
    args.data = "drawn worlds"
    results = Results(args, device="cpu")
    for kind in SHARED:
        if kind not in results:
            with threadpool_limits(1):
                results.put(
                    kind, compare(kind, args.worlds if kind == "alike" else min(args.worlds, 2))
                )
        result = results[kind]
        print_rows(
            kind,
            ((name, shown(one) if isinstance(one, dict) else one) for name, one in result.items()),
        )


if __name__ == "__main__":
    main()
