"""Compare blends with peers that get the same out-of-fold logits, on simulated data sets.

    python benchmarks/peers.py [--worlds 40] [--first-seed 200000] [--families plain uneven ...]

For each family of tests/makers/worlds.py (a data set is called a world there) and each seed, every
peer is fitted on the same out-of-fold logits and scored by macro F1 on the same 8,000 new groups,
over the classes that occur in the out-of-fold rows. Where members have five models, a peer is
applied to the models of each fold, and its scores are averaged. The peers:

- auto: `blend_arrays` with its default methods and prefer="score",
- simple: the same with prefer="simple" and without the method `single`,
- AutoGluon: the weighted ensemble of autogluon.core (EnsembleSelection with its defaults, 25 picks
  by macro F1), in a virtual environment of its own, which is made at the first start,
- regression on logits or probabilities: the final estimator of scikit-learn's StackingClassifier,
  a LogisticRegression with default settings,
- Caruana: greedy selection with replacement, bagged (ensemble/methods/greedy.py),
- soft vote, and the best single member out of fold.

Results are kept after each data set, so a stopped comparison goes on. Seeds below 200,000 were used
while the blender was made.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import Results, parser, print_rows
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from ensemble.auto import SCORE, SIMPLE, Trial, apply, blend_cross_fitted
from ensemble.crossfit import cross_fit, splits_of
from ensemble.methods import greedy, single
from ensemble.methods.base import Evidence
from ensemble.methods.registry import METHODS
from ensemble.methods.vote import Vote
from foldblend.scores.metrics import METRICS, softmax
from tests.makers.worlds import FAMILIES, World

AUTOGLUON = "autogluon.core==1.6.3"
NUM_FRESH = 8000
METRIC = METRICS["f1_macro"]
AUTO = "auto"
Members = Sequence[np.ndarray]
Peer = Callable[[Members], np.ndarray]
"""Function from logits N x C of each member to probabilities N x C."""

# Runs in AutoGluon's environment: reads files of probabilities M x N x C, and writes weights M.
WORKER = """
import json, sys
import numpy as np
from autogluon.core.metrics import f1_macro
from autogluon.core.models.greedy_ensemble.ensemble_selection import EnsembleSelection
for line in sys.stdin:
    with np.load(line.strip()) as given:
        members, labels = list(given["proba_MNC"]), given["label_N"]
    made = EnsembleSelection(ensemble_size=25, problem_type="multiclass", metric=f1_macro)
    print(json.dumps(made.fit(members, labels).weights_.tolist()), flush=True)
"""


class AutoGluon:
    """A process with AutoGluon, whose packages differ from ours."""

    def __init__(self, environment: Path) -> None:
        python = environment / "bin" / "python"
        mark = environment / AUTOGLUON
        if not mark.is_file():
            print(f"installing {AUTOGLUON} into {environment}, about 700 MB", flush=True)
            subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
            install = [str(python), "-m", "pip", "install", "-q", AUTOGLUON]
            subprocess.run(install, check=True)
            mark.touch()
        self.process = subprocess.Popen(
            [str(python), "-c", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def fit(self, evidence: Evidence) -> Peer:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "evidence.npz"
            proba_MNC = np.stack([softmax(one) for one in evidence.logits_MNC])
            np.savez(file, proba_MNC=proba_MNC, label_N=evidence.rows.label_N)
            print(file, file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        if not line:
            raise SystemExit(
                f"the process of {AUTOGLUON} ended; remove its folder to make it again"
            )
        weights = tuple(json.loads(line))
        return _of_logits(Vote("soft", weights, (1.0,) * len(weights)))


def _of_logits(fitted: Callable[[Members], np.ndarray]) -> Peer:
    return lambda logits_MNC: softmax(fitted(logits_MNC))


def _autos(evidence: Evidence) -> dict[str, Peer]:
    """Return the blends of both preferences, which are made from the same cross-fitted methods."""
    methods = {name: one for name, one in METHODS.items() if not one.thorough}
    splits = splits_of(evidence)
    found = cross_fit(evidence, splits, methods)
    simple = {name: one for name, one in found.items() if name != "single"}
    blends = {
        AUTO: blend_cross_fitted(evidence, splits, found, prefer=SCORE),
        "simple": blend_cross_fitted(evidence, splits, simple, prefer=SIMPLE),
    }

    def peer(chosen: Trial) -> Peer:
        return _of_logits(lambda members: apply(chosen.final, chosen.offsets_C, members))

    return {name: peer(blended.chosen) for name, blended in blends.items()}


def _regression(feature: Callable[[np.ndarray], np.ndarray]) -> Callable[[Evidence], Peer]:
    """Return the fit of a regression on the members' outputs side by side, N x M C."""

    def side_by_side(members: Members) -> np.ndarray:
        return np.hstack([feature(one) for one in members])

    def fit(evidence: Evidence) -> Peer:
        model = LogisticRegression()
        with warnings.catch_warnings():
            # The default settings stop after 100 steps, whether it has converged or not.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(side_by_side(evidence.logits_MNC), evidence.rows.label_N)

        def answer(members: Members) -> np.ndarray:
            proba_NC = np.zeros((len(members[0]), evidence.num_classes))
            proba_NC[:, model.classes_] = model.predict_proba(side_by_side(members))
            return proba_NC

        return answer

    return fit


def _soft(evidence: Evidence) -> Peer:
    equal = (1.0,) * len(evidence.logits_MNC)
    return _of_logits(Vote("soft", equal, equal))


PEERS: dict[str, Callable[[Evidence], Peer]] = {
    "regression on logits": _regression(lambda logits_NC: logits_NC),
    "regression on probabilities": _regression(softmax),
    "Caruana": lambda evidence: _of_logits(greedy.fit(evidence)),
    "soft vote": _soft,
    "best single member": lambda evidence: _of_logits(single.fit(evidence)),
}


def measure(
    seed: int, family: str, peers: Mapping[str, Callable[[Evidence], Peer]]
) -> dict[str, Any]:
    """Return the macro F1 of every peer on new groups, and the seconds of the fits."""
    world = World(seed, family)
    evidence = world.evidence()
    fresh = world.fresh(NUM_FRESH)
    at = np.isin(fresh.rows.label_N, evidence.rows.label_N)
    label_N = fresh.rows.label_N[at]
    logits_KM = [[logits_NC[at] for logits_NC in members] for members in fresh.logits_KM]
    start = time.perf_counter()
    answers = _autos(evidence)
    seconds = {" and ".join(answers): round(time.perf_counter() - start, 2)}
    for name, fit in peers.items():
        start = time.perf_counter()
        # Each has evidence of its own, so that none uses temperatures that another has fitted.
        answers[name] = fit(evidence.take(np.arange(len(evidence.rows))))
        seconds[name] = round(time.perf_counter() - start, 2)
    scores = {
        name: float(np.mean([METRIC.score(label_N, answer(one)) for one in logits_KM]))
        for name, answer in answers.items()
    }
    return {
        "classes": world.num_classes,
        "groups": world.num_groups,
        "models": world.num_models,
        "scores": scores,
        "seconds": seconds,
    }


def _mean(values: Sequence[float]) -> dict[str, float]:
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else np.nan
    return {"mean": float(np.mean(values)), "standard error": error}


def figures(each: Mapping[str, Mapping[int, dict[str, Any]]]) -> dict[str, Any]:
    """Return for each family, and for all, the score of auto and what each peer scores above it.

    `each` has the results by family and seed. Worlds of a seed are alike in all families, so they
    count as one in the standard error over all families.
    """
    names = [*next(iter(next(iter(each.values())).values()))["scores"]]
    seeds = [*next(iter(each.values()))]

    def row(found: Sequence[Mapping[str, float]]) -> dict[str, Any]:
        return {AUTO: _mean([one[AUTO] for one in found])} | {
            f"{name} minus {AUTO}": _mean([one[name] - one[AUTO] for one in found])
            for name in names
            if name != AUTO
        }

    answer = {
        family: {"worlds": len(of_seeds)} | row([one["scores"] for one in of_seeds.values()])
        for family, of_seeds in each.items()
    }
    over = [
        {
            name: float(np.mean([of_seeds[seed]["scores"][name] for of_seeds in each.values()]))
            for name in names
        }
        for seed in seeds
    ]
    return answer | {"all": {"worlds": len(seeds) * len(each)} | row(over)}


def _cells(family: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    shown = [
        f"{one['mean']:+.4f} ({one['standard error']:.4f})"
        if "minus" in name
        else f"{one['mean']:.4f} ({one['standard error']:.4f})"
        for name, one in found.items()
        if name != "worlds"
    ]
    return (family, str(found["worlds"]), *shown)


# One thread makes sums the same on any number of cores.
@threadpool_limits.wrap(limits=1)
def main() -> None:
    """Measure the data sets that the JSON file lacks, and print the figures of each family."""
    cli = parser(__doc__, results="peers.json")
    # The name of the data is a part of the keys of peers.json.
    cli.set_defaults(data="simulated data sets", device="cpu")
    cli.add_argument("--worlds", type=int, default=40, help="number of data sets of each family")
    cli.add_argument("--first-seed", type=int, default=200_000, help="seed of the first data set")
    cli.add_argument("--families", nargs="+", choices=FAMILIES, default=[*FAMILIES])
    name = AUTOGLUON.replace("==", "-")
    cli.add_argument(
        "--environment",
        type=Path,
        default=Path(tempfile.gettempdir()) / f"foldblend-peers-{name}",
        help="folder of the virtual environment with AutoGluon, which is made if it is absent",
    )
    args = cli.parse_args()
    results = Results(args, device="cpu")
    peers = dict(PEERS)
    each: dict[str, dict[int, dict[str, Any]]] = {family: {} for family in args.families}
    # Families take turns, so that a stopped comparison has all of them.
    for seed in range(args.first_seed, args.first_seed + args.worlds):
        for family in args.families:
            key = f"{family} {seed}"
            if key not in results:
                if "AutoGluon" not in peers:
                    peers["AutoGluon"] = AutoGluon(args.environment).fit
                results.put(key, measure(seed, family, peers))
                seconds = results[key]["seconds"]
                print(f"{key}: {sum(seconds.values()):.1f} s", flush=True)
            each[family][seed] = results[key]
    results.put("all", figures(each))
    found = results["all"]
    header = ("", "worlds", *(name for name in found["all"] if name != "worlds"))
    print_rows("macro F1 on new groups", [header, *(_cells(*one) for one in found.items())])


if __name__ == "__main__":
    main()
