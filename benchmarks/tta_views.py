"""Cost of views: many views of cached images, compared with forward passes only.

    python benchmarks/tta_views.py --data DATA [--backbone tf_efficientnet_lite0 --img-size 128
    --pictures 512 --infer-engine onnx]

"forward" is one forward pass per image on pixels that are in memory already. "views" reads every
image once from the cache and predicts it in all device views. "naive" decodes every image again for
each view; two views are enough to see its cost. "train" and "albu" are views drawn on the CPU: one
draw of the training augmentation, and one of a small albumentations pipeline. All ways take turns
in each round.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import albumentations as A  # noqa: N812
import pandas as pd
import torch
from common import (
    Results,
    data_of,
    exit_on_sigterm,
    print_rows,
    ratios,
    settled,
    shown,
    spread,
    timed_parser,
)

from pipeline.data.augment import albu_augmentation, build_augmentation
from pipeline.data.feeding import Feeder
from pipeline.data.images import open_images
from pipeline.device import compute_of, free_memory
from pipeline.engines.forward import Forward
from pipeline.engines.registry import TORCH
from pipeline.engines.spec import spec_of
from pipeline.infer import predict
from pipeline.models.backbones import build_model, check_backbone, preprocess_of
from tta.views.names import parse_views, view_of

VIEWS = parse_views(
    "hflip,scale:1.1,scale:0.9,rotate:5,xshift:0.05,crop:0.875:center,brightness:1.2,hflip*scale:1.1"
)
NAIVE = VIEWS[:2]
PIPELINE = [A.CLAHE(p=1), A.Affine(scale=(0.9, 1.1), rotate=(-5, 5), p=1)]


def measure(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the times of all ways, over those of forward passes, after each round."""
    config = settled(
        args,
        backbone=args.backbone,
        img_size=args.img_size,
        augment=args.augment,
        validation_batch_size=args.batch_size,
    )
    manifest = data_of(args)
    compute = compute_of(config.machine)
    preprocess = preprocess_of(config.model, check_backbone(args.backbone))
    table = pd.concat(
        [manifest.train] * (args.pictures // len(manifest.train) + 1), ignore_index=True
    )
    table = table[: args.pictures]
    torch.manual_seed(0)
    built = build_model(args.backbone, num_classes=manifest.num_classes, kwargs={}, weights=None)
    module = built.to(device=compute.device, memory_format=compute.memory_format).eval()  # type: ignore[call-overload]
    spec = spec_of(
        args.infer_engine,
        backbone=args.backbone,
        kwargs={},
        num_classes=manifest.num_classes,
        attributes=(),
        ordinal=None,
        frozen=False,
        preprocess=preprocess,
        batch_size=config.infer.validation_batch_size,
        threads=config.machine.threads,
        folder=None,
    )
    model = Forward(module, preprocess, compute, spec, say=print)

    def seconds(job: Callable[[], object]) -> float:
        start = time.perf_counter()
        job()
        if compute.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    with tempfile.TemporaryDirectory() as name:
        pipeline = Path(name) / "pipeline.yaml"
        A.save(A.Compose(PIPELINE), pipeline, data_format="yaml")
        width, height = preprocess.stored_size
        draws = {
            "train": build_augmentation(args.augment),
            "albu": albu_augmentation(pipeline, width=width, height=height),
        }
        feeders = {}
        for cache in ("auto", "off"):
            source = open_images(
                (table,),
                preprocess,
                cache=cache if cache == "off" else config.machine.cache,
                cache_dir=name,
                passes=9,
                device_room=free_memory(compute.device),
                say=lambda _: None,
            )
            feeders[cache] = Feeder(config, source, compute)
        cached = feeders["auto"]
        naive = feeders["off"]

        def seen(loader: Any, views: tuple[str, ...]) -> object:
            return predict(model, loader, preprocess, compute, [view_of(view) for view in views])

        def augmented(way: str) -> object:
            loader = cached.augmented(
                table, draws[way], seed_parts=("view", 0, 0), random_crop=way == "train"
            )
            return seen(loader, ("identity",))

        with torch.inference_mode():
            raw = [
                images.permute(0, 3, 1, 2).float().contiguous()
                for images, _ in compute.feed(cached.rows(table))
            ]
            # A graph standardises pixels itself.
            ready = raw
            if not model.is_graph:
                ready = [
                    preprocess.standardise(one).contiguous(memory_format=compute.memory_format)
                    for one in raw
                ]

        @torch.inference_mode()
        def forward() -> None:
            with compute.autocast():
                for pixels in ready:
                    (model if model.is_graph else module)(pixels)

        jobs: dict[str, Callable[[], object]] = {
            "forward": forward,
            "views": lambda: seen(cached.rows(table), VIEWS),
            "naive": lambda: [seen(naive.rows(table), (view,)) for view in NAIVE],
            "train": lambda: augmented("train"),
            "albu": lambda: augmented("albu"),
        }
        # The first runs bring files into the page cache and let torch choose its kernels.
        for job in jobs.values():
            job()
        taken: dict[str, list[float]] = {job: [] for job in jobs}
        for _ in range(args.rounds):
            # Forward passes are timed before and after the views, so that a machine that slows down
            # in between does not make views look expensive.
            before = seconds(forward)
            for job in jobs:
                if job != "forward":
                    taken[job].append(seconds(jobs[job]))
                if job == "views":
                    taken["forward"].append((before + seconds(forward)) / 2)
            yield summary(taken, len(table), config.infer.validation_batch_size)


def summary(taken: dict[str, list[float]], num: int, batch_size: int) -> dict[str, Any]:
    """Return speeds and ratios from the seconds that `num` images took in each round."""
    passes = {"views": len(VIEWS), "naive": len(NAIVE), "train": 1, "albu": 1}
    pairs = {job: list(zip(taken[job], taken["forward"], strict=True)) for job in passes}
    return {
        "views": list(VIEWS),
        "num_pictures": num,
        "batch_size": batch_size,
        "pictures_per_second": {
            job: spread([passes.get(job, 1) * num / one for one in values], 1)
            for job, values in taken.items()
        },
        "over_forward_passes": {
            job: spread([one / (times * forward) for one, forward in pairs[job]])
            for job, times in passes.items()
        },
        "naive_over_views": ratios(
            [one / len(NAIVE) for one in taken["naive"]],
            [one / len(VIEWS) for one in taken["views"]],
        ),
    }


def main() -> None:
    """Measure, unless the JSON file has the result, and print the table."""
    exit_on_sigterm()
    cli = timed_parser(__doc__, results="tta_views.json")
    cli.add_argument("--backbone", default="tf_efficientnet_lite0")
    cli.add_argument("--img-size", default="128")
    cli.add_argument("--augment", default="default")
    cli.add_argument("--batch-size", type=int, default=64, help="images per forward pass")
    cli.add_argument("--pictures", type=int, default=512)
    cli.add_argument("--rounds", type=int, default=5)
    cli.add_argument("--infer-engine", default=TORCH)
    args = cli.parse_args()
    results = Results(args, device=settled(args).machine.device)
    # This is a key of tta_views.json.
    name = f"{args.backbone} at {args.img_size}, {args.pictures} pictures"
    if args.infer_engine != TORCH:
        name = f"{name}, {args.infer_engine}"
    found = results.in_rounds(name, lambda: measure(args), most=args.rounds)
    over = found["over_forward_passes"]
    speed = found["pictures_per_second"]
    num = len(found["views"])
    print_rows(
        f"{args.backbone} at {args.img_size}, {args.pictures} images, {num} views",
        [
            (f"{num} device views / {num} forward passes", shown(over["views"])),
            ("a naive pass / a forward pass", shown(over["naive"])),
            ("a naive pass / a device view", shown(found["naive_over_views"])),
            ("a draw of the training augmentation / a forward pass", shown(over["train"])),
            ("a draw of an albumentations pipeline / a forward pass", shown(over["albu"])),
            *((f"views per second, {job}", shown(value)) for job, value in speed.items()),
        ],
    )


if __name__ == "__main__":
    main()
