"""Cost and benefit of torch.compile: seconds to compile, and milliseconds per step.

    python benchmarks/compile.py [--backbone efficientnet_b3 --img-size 288 --batch-size 64]

The number of steps after which compiling has saved as much time as it took is printed too.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
from common import (
    Results,
    exit_on_sigterm,
    print_rows,
    settled,
    shown,
    spread,
    steps_config,
    timed_parser,
)

from pipeline.device import compute_of
from pipeline.models.backbones import check_backbone, preprocess_of
from pipeline.models.timm_import import timm
from pipeline.training.fit import Epoch, Fit


def measure(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the milliseconds per step of both ways after each round; they take turns."""
    config = settled(
        args, backbone=args.backbone, img_size=args.img_size, batch_size=args.batch_size
    )
    compute = compute_of(config.machine)
    preprocess = preprocess_of(config.model, check_backbone(args.backbone))
    shape = (args.batch_size, preprocess.height, preprocess.width, 3)
    batch = (
        torch.randint(0, 255, shape, dtype=torch.uint8, device=compute.device),
        torch.zeros(args.batch_size, dtype=torch.long, device=compute.device),
    )
    times: dict[str, list[float]] = {"eager": [], "compiled": []}
    first: dict[str, float] = {}
    epochs: dict[str, Iterator[Epoch]] = {}
    works = True
    for way in times:
        model = timm.create_model(args.backbone, num_classes=18).to(
            device=compute.device, memory_format=compute.memory_format
        )
        here = dataclasses.replace(compute, compile=way == "compiled")
        once = steps_config(epochs=args.rounds + 1, lr=1e-6, batch_size=args.batch_size)
        fit = Fit(model, once, preprocess, here, steps_per_epoch=args.steps)
        epochs[way] = fit.epochs([batch] * args.steps)
        start = time.perf_counter()
        next(epochs[way])
        first[way] = time.perf_counter() - start
        # Where compiling fails, the steps are those of the model itself.
        works = fit.forward is not model or way == "eager"
    for _ in range(args.rounds):
        for way in times:
            times[way].append(next(epochs[way]).seconds / args.steps * 1000)
        eager, compiled = (statistics.mean(times[way]) for way in ("eager", "compiled"))
        cost = first["compiled"] - args.steps * compiled / 1000
        saved = eager - compiled
        yield {
            "compiles": works,
            "milliseconds_a_step": {way: spread(values, 2) for way, values in times.items()},
            "seconds_to_compile": round(cost, 1),
            "steps_until_it_pays": round(cost * 1000 / saved) if saved > 0 else None,
        }


def main() -> None:
    """Measure, unless the JSON file has the result, and print the table."""
    exit_on_sigterm()
    cli = timed_parser(__doc__, results="compile.json")
    cli.add_argument("--backbone", default="efficientnet_b3")
    cli.add_argument("--img-size", default="288")
    cli.add_argument("--batch-size", type=int, default=64)
    cli.add_argument("--steps", type=int, default=50)
    cli.add_argument("--rounds", type=int, default=5)
    args = cli.parse_args()
    results = Results(args, device=settled(args).machine.device)
    name = f"{args.backbone} at {args.img_size}, batch {args.batch_size}"
    found = results.in_rounds(name, lambda: measure(args), most=args.rounds)
    rows = [
        (f"{way}, ms per step", shown(value)) for way, value in found["milliseconds_a_step"].items()
    ]
    rows += [] if found.get("compiles", True) else [("compiling", "does not work here")]
    rows.append(("seconds to compile", found["seconds_to_compile"]))
    rows.append(("steps until time is saved", found["steps_until_it_pays"] or "never"))
    print_rows(name, rows)


if __name__ == "__main__":
    main()
