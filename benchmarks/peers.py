"""Compare blends with peers that get the same out-of-fold logits, on simulated data sets.

    python benchmarks/peers.py [--worlds 320] [--first-seed 200000]

The data sets are those of benchmarks/honesty.py, from whose JSON file the scores of blend.py come,
so that one runs first. Every peer is fitted on the same out-of-fold logits and scored by macro F1
on the same 8,000 new groups, over the classes that occur in the out-of-fold rows. Where members
have five models, a peer is applied to the models of each fold, and its scores are averaged. The
peers:

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
from common import ROOT, Results, parser, print_rows
from honesty import AUTO, NUM_NEW
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from ensemble.methods import greedy, single
from ensemble.methods.base import Evidence
from ensemble.methods.vote import Vote
from foldblend.scores.metrics import METRICS, softmax
from tests.makers.worlds import FAMILIES, World

AUTOGLUON = "autogluon.core==1.6.3"
METRIC = METRICS["f1_macro"]
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
    fresh = world.fresh(NUM_NEW)
    at = np.isin(fresh.rows.label_N, evidence.rows.label_N)
    label_N = fresh.rows.label_N[at]
    logits_KM = [[logits_NC[at] for logits_NC in members] for members in fresh.logits_KM]
    answers = {}
    seconds = {}
    for name, fit in peers.items():
        start = time.perf_counter()
        # Each has evidence of its own, so that none uses temperatures that another has fitted.
        answers[name] = fit(evidence.take(np.arange(len(evidence.rows))))
        seconds[name] = round(time.perf_counter() - start, 2)
    scores = {
        name: float(np.mean([METRIC.score(label_N, answer(one)) for one in logits_KM]))
        for name, answer in answers.items()
    }
    return {"family": family, "scores": scores, "seconds": seconds}


def _mean(values: Sequence[float]) -> dict[str, float]:
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else np.nan
    return {"mean": float(np.mean(values)), "standard error": error}


def figures(worlds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what each peer scores above the blend of honesty.py, over some data sets."""
    names = [*worlds[0]["scores"]]
    gains = {
        f"{name} minus {AUTO}": _mean([one["scores"][name] - one[AUTO] for one in worlds])
        for name in names
    }
    return {"worlds": len(worlds), AUTO: _mean([one[AUTO] for one in worlds]), **gains}


def _cells(title: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    shown = [
        f"{one['mean']:+.4f} ({one['standard error']:.4f})"
        for name, one in found.items()
        if name != "worlds"
    ]
    return (title, str(found["worlds"]), *shown)


# One thread makes sums the same on any number of cores.
@threadpool_limits.wrap(limits=1)
def main() -> None:
    """Measure the data sets that the JSON file lacks, and print the figures of each family."""
    cli = parser(__doc__, results="peers.json")
    # The name of the data is a part of the keys of peers.json.
    cli.set_defaults(data="simulated data sets", device="cpu")
    cli.add_argument("--worlds", type=int, default=320, help="number of simulated data sets")
    cli.add_argument("--first-seed", type=int, default=200_000, help="seed of the first data set")
    cli.add_argument(
        "--honesty",
        type=Path,
        default=ROOT / "benchmarks" / "honesty.json",
        help="results of benchmarks/honesty.py on the same data sets",
    )
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
    families = [*FAMILIES]
    for place in range(args.worlds):
        key = f"world {args.first_seed + place}"
        if key in results:
            continue
        if "AutoGluon" not in peers:
            peers["AutoGluon"] = AutoGluon(args.environment).fit
        family = families[place % len(families)]
        results.put(key, measure(args.first_seed + place, family, peers))
    blends = json.loads(args.honesty.read_text())
    known = {key.partition(",")[0]: one for key, one in blends.items()}
    each = []
    for place in range(args.worlds):
        key = f"world {args.first_seed + place}"
        each.append({**results[key], AUTO: known[key]["result"][AUTO]["target"]})
    parts = {family: [one for one in each if one["family"] == family] for family in families}
    rows = []
    for title, worlds in {"all": each, **parts}.items():
        if worlds:
            results.put(title, figures(worlds))
            rows.append(_cells(title, results[title]))
    header = ("", "data sets", *(name for name in results["all"] if name != "worlds"))
    print_rows("macro F1 on new groups", [header, *rows])


if __name__ == "__main__":
    main()
