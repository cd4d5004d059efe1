"""Time of a cross-validation with a frozen backbone, compared with one inference pass.

    python benchmarks/frozen.py --data DATA [--backbone tf_efficientnet_lite0 --img-size 168x224
    --rounds 5 --infer-engine auto]

The inference pass reads and decodes every training and test image once and passes it through the
backbone, batch by batch, as the cross-validation does. Nothing is kept between rounds, and both
times start when data and weights are loaded. The logits are compared with those of a naive loop,
which passes each fold's images through the backbone again and fits scikit-learn's logistic
regression. The whole command is timed twice, both times without cached images and features: first
with no graph and no measurement of engines, then with those that the first one has kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from common import Results, parser, print_rows, run_cv, settled, shown, spread
from sklearn.linear_model import LogisticRegression

from foldblend.runs.run import Run
from pipeline.frozen.features import Backbone, Features
from pipeline.frozen.run_heads import run_heads
from pipeline.job import FoldJob, Prepared, TrainingJob, job_of
from pipeline.prepare import prepare
from pipeline.watch.progress import Progress


def one_pass(job: FoldJob) -> float:
    """Return the seconds to compute the features of all images once."""
    start = time.perf_counter()
    features = Features(job, Backbone(job))
    for table in (job.run.manifest.train, job.run.manifest.test):
        if table is not None:
            features.of(table, "identity")
    return time.perf_counter() - start


def naive_difference(job: FoldJob, run: Run, l2: list[float]) -> float:
    """Return the largest difference between centred logits and those of the naive loop."""
    train = job.run.manifest.train
    test = job.run.manifest.test
    label_N = train["label"].to_numpy()
    most = 0.0
    for fold, penalty in enumerate(l2):
        # A new object keeps no features, so every image passes through the backbone again.
        features = Features(job, Backbone(job))
        train_ND = features.of(train, "identity").astype(np.float64)
        held = job.run.fold_RN[0] == fold
        scale = np.sqrt(train_ND[~held].var(axis=0).sum())
        head = LogisticRegression(C=1 / penalty, max_iter=50_000, tol=1e-10)
        head.fit(train_ND[~held] / scale, label_N[~held])
        pairs = [(train_ND[held], run.oof.set_index("image_id").loc[train["image_id"][held]])]
        if test is not None:
            pairs.append((features.of(test, "identity").astype(np.float64), run.test_fold(fold)))
        for found, table in pairs:
            theirs = head.decision_function(found / scale)
            ours = run.logits(table)[:, head.classes_]
            gap = (theirs - theirs.mean(axis=1, keepdims=True)) - (
                ours - ours.mean(axis=1, keepdims=True)
            )
            most = max(most, float(np.abs(gap).max()))
    return most


def new_job(run: Prepared, folder: Path) -> TrainingJob:
    shared = vars(job_of(run, folder, say=lambda _: None))
    return TrainingJob(**shared, fold_key={}, environment={}, progress=Progress(1))


def commands(args: argparse.Namespace, folder: Path, engine: str) -> list[float]:
    """Return the seconds of two whole commands, of which the second one knows the engine."""
    cache = folder / "cache"
    flags = ["--data", args.data, "--device", args.device, "--backbone", args.backbone]
    flags += ["--img-size", args.img_size, "--finetune", "head", "--cache-dir", str(cache)]
    flags += ["--output", str(folder), "--infer-engine", engine]
    found = []
    for name in ("first", "run"):
        for kept in [one for one in cache.glob("*") if one.name != "graphs"]:
            shutil.rmtree(kept)
        start = time.perf_counter()
        run_cv(*flags, "--name", name)
        found.append(round(time.perf_counter() - start, 1))
    return found


def measure(args: argparse.Namespace) -> dict[str, Any]:
    config = settled(
        args,
        backbone=args.backbone,
        img_size=args.img_size,
        finetune="head",
        infer_engine=args.infer_engine,
        folds=5,
        cache="off",
        name="frozen",
    )
    passes = []
    wholes = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Files are written into a run folder only.
        (folder / "run.json").write_text("{}")
        prepared = prepare(config, lambda _: None)
        # The first pass only brings the files into the page cache.
        one_pass(new_job(prepared, folder))
        for _ in range(args.rounds):
            passes.append(one_pass(new_job(prepared, folder)))
            start = time.perf_counter()
            run_heads(new_job(prepared, folder), range(5))
            wholes.append(time.perf_counter() - start)
        seconds = commands(args, folder, prepared.config.infer.infer_engine)
        run = Run(folder / "run")
        job = dataclasses.replace(new_job(prepared, folder), folder=folder)
        pd.testing.assert_frame_equal(
            run.oof[["image_id", "fold"]],
            pd.read_csv(run.path / "folds.csv", dtype={"image_id": str}).sort_values(
                "image_id", ignore_index=True
            )[["image_id", "fold"]],
            check_dtype=False,
        )
        difference = naive_difference(job, run, [fold["l2"] for fold in run.info["folds"]])
        headline = run.report["headline"]
    return {
        "pass_seconds": spread(passes, 2),
        "cv_seconds": spread(wholes, 2),
        "cv_over_pass": spread([one / other for one, other in zip(wholes, passes, strict=True)]),
        "engine": prepared.config.infer.infer_engine,
        "command_seconds": seconds,
        "largest_logit_difference": difference,
        "f1": {
            name: round(float(value), 4)
            for name, value in headline.items()
            if name in ("value", "low", "high")
        },
        "num_pictures": len(prepared.manifest.train),
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    """Measure, unless the JSON file has the result, and print the table."""
    cli = parser(__doc__, results="frozen.json")
    cli.add_argument("--backbone", default="tf_efficientnet_lite0")
    cli.add_argument("--img-size", default="168x224")
    cli.add_argument("--rounds", type=int, default=5)
    cli.add_argument("--infer-engine", default="auto")
    args = cli.parse_args()
    results = Results(args, device=settled(args).machine.device)
    name = f"{args.backbone} at {args.img_size}, engine {args.infer_engine}"
    if name not in results:
        results.put(name, measure(args))
    found = results[name]
    print_rows(
        f"{name}, {found['num_pictures']} training images, 5 folds, {found['threads']} threads",
        [
            ("one inference pass, s", shown(found["pass_seconds"])),
            ("frozen cross-validation, s", shown(found["cv_seconds"])),
            ("ratio", shown(found["cv_over_pass"])),
            ("engine", found["engine"]),
            (
                "whole command, imports and report included: the first, the next, s",
                ", ".join(map(str, found["command_seconds"])),
            ),
            (
                "largest logit difference from the naive loop",
                f"{found['largest_logit_difference']:.1e}",
            ),
            ("OOF macro F1", "{value} [{low}, {high}]".format(**found["f1"])),
        ],
    )


if __name__ == "__main__":
    main()
