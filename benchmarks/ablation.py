"""Effect of each training option on OOF macro F1, one option at a time.

    python benchmarks/ablation.py --data london_masks --outputs /tmp/ablation

Each option is run with the same three seeds and folds as the default. The difference is the mean
over seeds. Its interval is from a paired bootstrap over people, once at 95 % and once corrected for
the number of options (Bonferroni). A row is written to the JSON file as soon as its runs are done,
and finished runs and folds are not repeated, so the benchmark can be stopped and started again at
any time. Options that lower the score stay in the table.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from common import Results, parser, print_rows, run_cv

from foldblend.runs.oof import oof_arrays
from foldblend.runs.run import Run
from foldblend.scores.bootstrap import bootstrap_scores
from foldblend.scores.metrics import METRICS, mean_score

SEEDS = 3
# In units of the 1,000 resamples of a report: the corrected interval needs the far tails.
RESAMPLES = 10
# Small enough for a CPU: a run takes about two minutes on one core.
BASE = ["--img-size", "72x96", "--folds", "3", "--epochs", "6", "--threads", "1"]
# The names are keys of ablation.json.
OPTIONS: dict[str, list[str]] = {
    "no label smoothing": ["--smoothing", "0"],
    "focal loss": ["--loss", "focal"],
    "0.4 F1 + 0.6 focal": ["--loss", "0.4*f1+0.6*focal"],
    "balanced softmax": ["--logit-adjust", "1"],
    "sampler, power 0.5": ["--sampler", "balanced", "--sampler-power", "0.5"],
    "mixup 0.2": ["--mixup", "0.2"],
    "CutMix": ["--cutmix", "1"],
    "CutMix within a class": ["--cutmix", "1", "--cutmix-mode", "class"],
    "half-face CutMix, rare": ["--cutmix", "1", "--cutmix-mode", "half", "--mixup-prob", "0.5"],
    "random erasing 0.3": ["--reprob", "0.3"],
    "no augmentation": ["--augment", "none"],
    "EMA 0.95": ["--model-ema", "--model-ema-decay", "0.95"],
    "mean of the last 3 epochs": ["--average-last", "3"],
    "one-cycle": ["--sched", "onecycle"],
    "layer decay 0.75": ["--layer-decay", "0.75"],
    "a head an attribute": ["--head", "attributes"],
    "the same, age in order": ["--head", "attributes", "--ordinal", "age"],
    "last 3 stages only": ["--finetune", "3"],
    "clip gradients at 1": ["--clip-grad", "1"],
    "dropout 0.2": ["--drop", "0.2"],
    "inner epoch choice": ["--select", "inner"],
}


def runs_of(args: argparse.Namespace, option: str) -> list[Run]:
    """Return the runs of an option ("" is the default), one per seed; missing ones are made."""
    name = "default" if not option else "".join(one if one.isalnum() else "-" for one in option)
    common = ["--data", args.data, "--device", args.device, "--output", args.outputs, *BASE]
    # The rows that are there were made before --lr auto.
    run_cv(*common, "--lr", "1e-3", *OPTIONS.get(option, []), "--seeds", SEEDS, "--name", name)
    return [Run(args.outputs / f"{name}-seed{seed}") for seed in range(SEEDS)]


def stacked(runs: list[Run]) -> dict[str, Any]:
    """Return the out-of-fold rows of several seeds, with seeds in place of repeats."""
    arrays = [oof_arrays(run) for run in runs]
    size = len(arrays[0].rows)
    return {
        "label_N": np.concatenate([one.rows.label_N for one in arrays]),
        "proba_NC": np.concatenate([one.proba_NC for one in arrays]),
        "group_N": np.concatenate([one.rows.group_N for one in arrays]),
        "repeat_N": np.repeat(np.arange(len(runs)), size),
    }


def resamples(rows: dict[str, Any]) -> np.ndarray:
    """Return the score of each resample; all options use the same resamples."""
    return np.concatenate(
        [bootstrap_scores(METRICS["f1_macro"], **rows, seed=seed) for seed in range(RESAMPLES)]
    )


def value(rows: dict[str, Any]) -> float:
    """Return the mean macro F1 over seeds."""
    return mean_score(METRICS["f1_macro"], rows["label_N"], rows["proba_NC"], rows["repeat_N"])


def compare(default: list[Run], runs: list[Run]) -> dict[str, Any]:
    """Return an option's score and its paired difference to the default."""
    base = stacked(default)
    rows = stacked(runs)
    differences = resamples(rows) - resamples(base)
    tail = 0.025 / len(OPTIONS)
    scores = [value(stacked([run])) for run in runs]
    return {
        "f1_macro": round(value(rows), 4),
        "seeds": [round(score, 4) for score in scores],
        "difference": round(value(rows) - value(base), 4),
        "interval": np.quantile(differences, [0.025, 0.975]).round(4).tolist(),
        "corrected": np.quantile(differences, [tail, 1 - tail]).round(4).tolist(),
        "seconds": round(sum(run.info["seconds"] for run in runs)),
    }


def main() -> None:
    """Make the missing rows, one option after another, and print the table."""
    cli = parser(__doc__, results="ablation.json")
    cli.add_argument(
        "--outputs", type=Path, required=True, help="folder for the runs, kept for the next start"
    )
    cli.add_argument("--only", nargs="*", default=list(OPTIONS), metavar="OPTION")
    args = cli.parse_args()
    results = Results(args, device=args.device)
    default = runs_of(args, "")
    base = stacked(default)
    low, high = np.quantile(resamples(base), [0.025, 0.975])
    results.put(
        "default",
        {
            "flags": BASE,
            "f1_macro": round(value(base), 4),
            "interval": [low.round(4), high.round(4)],
        },
    )
    for option in args.only:
        flags = [*BASE, *OPTIONS[option]]
        if option not in results or results[option]["flags"] != flags:
            results.put(option, {"flags": flags, **compare(default, runs_of(args, option))})
            print(
                f"{option}: {results[option]['difference']:+.4f} {results[option]['interval']}",
                flush=True,
            )
    rows = [
        ("option", "macro F1", "difference", "95 %", f"corrected for {len(OPTIONS)} comparisons")
    ]
    rows.append(("(default)", f"{results['default']['f1_macro']:.4f}", "", "", ""))
    for option in [one for one in OPTIONS if one in results]:
        row = results[option]
        ends = [f"[{row[name][0]:+.3f}, {row[name][1]:+.3f}]" for name in ("interval", "corrected")]
        rows.append((option, f"{row['f1_macro']:.4f}", f"{row['difference']:+.4f}", *ends))
    print_rows(f"OOF macro F1, {SEEDS} seeds, {args.data}", rows)


if __name__ == "__main__":
    main()
