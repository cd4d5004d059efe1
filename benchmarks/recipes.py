"""Score the recipes, and compare the strong one with the frozen baseline on the same folds.

    python benchmarks/recipes.py --data london_masks --outputs /tmp/recipes

The strong recipe was committed before it was run. Differences are paired: both scores use the same
bootstrap samples of groups.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common import ROOT, Results, parser, print_rows, run_cv

from ensemble.blend import blend
from foldblend.runs.oof import oof_arrays
from foldblend.runs.run import Run
from reports.run.summary import compare

BASELINE = "quick"
RECIPES = ("quick", "strong")


def scored(runs: dict[str, Run]) -> list[dict[str, Any]]:
    """Return each run's score, and its paired difference to the baseline."""
    base = oof_arrays(runs[BASELINE])
    return compare(
        rows=base.rows,
        proba_of={name: oof_arrays(run).proba_NC for name, run in runs.items()},
        against=BASELINE,
        attributes=runs[BASELINE].attributes,
        metric="f1_macro",
    )


def main() -> None:
    """Run the recipes that are not finished yet, and print the scores of all."""
    cli = parser(__doc__, results="recipes.json")
    cli.add_argument(
        "--outputs",
        type=Path,
        required=True,
        help="folder of the runs; finished ones are not run again",
    )
    cli.add_argument("--threads", type=int, default=1)
    args = cli.parse_args()
    results = Results(args, device=args.device)
    runs: dict[str, Run] = {}
    for name in RECIPES:
        recipe = ROOT / "recipes" / f"{name}.yaml"
        where = [
            "--data",
            args.data,
            "--device",
            args.device,
            "--output",
            args.outputs,
            "--threads",
            args.threads,
        ]
        run_cv("--config", recipe, *where, "--name", name)
        runs[name] = Run(args.outputs / name)
    runs["both"] = blend(
        [str(runs[name].path) for name in RECIPES], name="both", overwrite=True, say=lambda _: None
    )
    rows = scored(runs)
    for row in rows:
        seconds = runs[row["name"]].info.get("seconds")
        results.put(row["name"], {**row, "seconds": seconds, "threads": args.threads})
    table = [("recipe", "OOF macro F1", f"minus {BASELINE}")]
    for row in rows:
        texts = [
            "" if one is None else f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"
            for one in (row["headline"], row["difference"])
        ]
        table.append((row["name"], *texts))
    print_rows(f"{args.data}, same folds, paired differences", table)


if __name__ == "__main__":
    main()
