"""Measure what --drop-harmful gains on new groups, with a bad member and without.

    python benchmarks/drop_harmful.py [--worlds 2] [--first-seed 110000]

For each family of tests/makers/worlds.py (a data set is called a world there) and each seed there
are four data sets: one as it is ("none"), and three in which one member is made bad. It knows
nothing ("noise"), sees the classes less than half as well and is twice as confident ("weak"), or
is blind to half of the classes ("blind"). Methods are blended with --drop-harmful and without, and
scored by macro F1 on 8,000 new groups: each method alone, and "auto", the mean of all. To be fast,
slow methods and offsets are left out. Results are kept after each data set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from common import Results, parser, print_rows
from threadpoolctl import threadpool_limits

from ensemble.auto import Trial, apply, blend_arrays
from ensemble.drop import dropping
from ensemble.methods.base import Method
from ensemble.methods.registry import METHODS
from foldblend.scores.metrics import METRICS, softmax
from tests.makers.worlds import FAMILIES, World

NUM_FRESH = 8000
KINDS = ("none", "noise", "weak", "blind")
NAMES = ("single", "soft", "log", "weights", "greedy", "stack")
METRIC = METRICS["f1_macro"]


def _world(seed: int, family: str, kind: str) -> tuple[World, int]:
    """Return a data set, and the number of the member that is bad in it."""
    world = World(seed, family)
    rng = np.random.default_rng((seed, 99))
    bad = int(rng.integers(world.num_models))
    if kind == "noise":
        world.signal_MC[bad] = 0
    if kind == "weak":
        world.signal_MC[bad] *= 0.4
        world.sharpness_M[bad] *= 2
    if kind == "blind":
        half = rng.permutation(world.num_classes)[: max(1, world.num_classes // 2)]
        world.signal_MC[bad, half] = 0
    return world, bad


def measure(seed: int, family: str, kind: str) -> dict[str, Any]:
    """Return the scores with and without the option, and the members that methods dropped."""
    world, bad = _world(seed, family, kind)
    evidence = world.evidence()
    fresh = world.fresh(NUM_FRESH)
    at = np.isin(fresh.rows.label_N, evidence.rows.label_N)
    label_N = fresh.rows.label_N[at]
    logits_KM = [[logits_NC[at] for logits_NC in members] for members in fresh.logits_KM]

    def score(trial: Trial) -> float:
        answers = (apply(trial.final, trial.offsets_C, members) for members in logits_KM)
        return float(np.mean([METRIC.score(label_N, softmax(one)) for one in answers]))

    def scores(methods: Mapping[str, Method]) -> dict[str, float]:
        blended = blend_arrays(evidence, methods, decide=False)
        each = {trial.name: score(trial) for trial in blended.trials}
        if methods is dropped:
            for trial in blended.trials:
                kept = getattr(trial.final, "members", range(world.num_models))
                gone[trial.name] = sorted({*range(world.num_models)} - {*kept})
        return {"auto": score(blended.chosen)} | each

    plain = {name: METHODS[name] for name in NAMES}
    # The best single member is one member already.
    dropped = {name: one if name == "single" else dropping(one) for name, one in plain.items()}
    gone: dict[str, list[int]] = {}
    return {"bad": bad, "plain": scores(plain), "drop": scores(dropped), "dropped": gone}


def figures(each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mean gain of each method, and how often the soft vote dropped the bad member."""
    found: dict[str, Any] = {"worlds": len(each)}
    for name in each[0]["plain"]:
        gains = [one["drop"][name] - one["plain"][name] for one in each]
        error = float(np.std(gains, ddof=1) / np.sqrt(len(gains)))
        found[name] = {"gain": float(np.mean(gains)), "standard error": error}
    found["bad dropped by soft"] = float(
        np.mean([one["bad"] in one["dropped"]["soft"] for one in each])
    )
    return found


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['gain']:+.4f} ({value['standard error']:.4f})"
    return f"{value:.4g}"


# One thread makes sums the same on any number of cores.
@threadpool_limits.wrap(limits=1)
def main() -> None:
    """Measure the data sets that the JSON file lacks, and print the gains for each kind."""
    cli = parser(__doc__, results="drop_harmful.json")
    # The name of the data is a part of the keys of the JSON file.
    cli.set_defaults(data="simulated data sets", device="cpu")
    cli.add_argument("--worlds", type=int, default=2, help="number of seeds of each family")
    cli.add_argument("--first-seed", type=int, default=110_000, help="seed of the first data set")
    args = cli.parse_args()
    results = Results(args, device="cpu")
    each: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for seed in range(args.first_seed, args.first_seed + args.worlds):
        for family in FAMILIES:
            for kind in KINDS:
                key = f"{family} {kind} {seed}"
                if key not in results:
                    results.put(key, measure(seed, family, kind))
                each[kind].append(results[key])
    results.put("all", {kind: figures(found) for kind, found in each.items()})
    cells = [(kind, *map(_shown, found.values())) for kind, found in results["all"].items()]
    print_rows("gain in macro F1", [("bad member", *results["all"]["none"]), *cells])


if __name__ == "__main__":
    main()
