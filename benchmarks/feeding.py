"""Speed of training steps fed by the pipeline, timm's loader, or a batch in memory.

    python benchmarks/feeding.py --data DATA [--backbone tf_efficientnet_lite0 --img-size 128
    --batch-size 32]

Steps on one batch that stays in memory are the upper limit. All ways take turns in each round of
one process, and ratios are of times in the same round. timm's loader decodes images with Pillow in
every epoch and augments them by its own recipe. --augmented-on chooses the ways by the place where
images are augmented; default: the device and the CPU on a GPU, otherwise the CPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import PIL.Image
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
    steps_config,
    timed_parser,
)

from foldblend.progress import track
from folds.data.manifest import Manifest
from pipeline.config.resolved import ResolvedConfig
from pipeline.data.feeding import Feeder
from pipeline.data.images import open_images
from pipeline.data.preprocess import Preprocess
from pipeline.device import Compute, compute_of, free_memory
from pipeline.models.backbones import build_model, check_backbone, preprocess_of
from pipeline.models.timm_import import timm
from pipeline.training.fit import Fit

# The upper limit that shares refer to.
CEILING = "resident batch"
# Steps before a way is timed, and the fewest that are timed.
WARM_STEPS = 8


class Steps:
    """Batches from a loader that is not restarted in between, `most` of them per epoch.

    An epoch ends earlier once it has taken `longest` seconds.
    """

    def __init__(self, loader: Any, most: int, longest: float) -> None:
        self.most = most
        self.longest = longest
        self.batches = self._forever(loader)

    @staticmethod
    def _forever(loader: Any) -> Iterator[Any]:
        while True:
            yield from loader

    def __len__(self) -> int:
        return self.most

    def drain(self, num: int) -> None:
        """Drop batches that workers prepared in advance, so that they do not count as fast ones."""
        for _ in range(num):
            next(self.batches)

    def __iter__(self) -> Iterator[Any]:
        start = time.perf_counter()
        for number in range(self.most):
            if number >= WARM_STEPS and time.perf_counter() - start > self.longest:
                return
            yield next(self.batches)


class Resident:
    """A loader that repeats one batch."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch

    def __iter__(self) -> Iterator[Any]:
        return itertools.repeat(self.batch)


class PillowData(torch.utils.data.Dataset[Any]):
    """Image files, read with Pillow as timm's data set does."""

    def __init__(self, paths: list[str], labels: list[int]) -> None:
        self.paths = paths
        self.labels = labels
        self.transform = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        image = PIL.Image.open(self.paths[index]).convert("RGB")
        return self.transform(image), self.labels[index]  # type: ignore[misc]


def repeated(manifest: Manifest, num: int) -> Manifest:
    """Return the data set with at least `num` training rows, by repeating them.

    A fast GPU needs long epochs.
    """
    times = -(-max(num, 1) // len(manifest.train))
    rows = [
        manifest.train.assign(image_id=manifest.train["image_id"] + f" {turn}")
        for turn in range(times)
    ]
    return dataclasses.replace(manifest, train=pd.concat(rows, ignore_index=True))


def timm_loader(
    manifest: Manifest, preprocess: Preprocess, config: ResolvedConfig, *, workers: int, cuda: bool
) -> Any:
    """Return timm's training loader; on CUDA it normalises images on the device."""
    data = PillowData(manifest.train["path"].tolist(), manifest.train["label"].tolist())
    return timm.data.create_loader(
        data,
        input_size=(3, preprocess.height, preprocess.width),
        batch_size=config.train.batch_size,
        is_training=True,
        use_prefetcher=cuda,
        mean=preprocess.mean,
        std=preprocess.std,
        num_workers=workers,
        scale=(0.8, 1.0),
        color_jitter=0.2,
        auto_augment=None,
        interpolation="bilinear",
        persistent_workers=workers > 0,
    )


def step_rate(
    model: torch.nn.Module,
    steps: Any,
    preprocess: Any,
    compute: Compute,
    batch_size: int,
    augment: Callable[..., Any] | None = None,
) -> tuple[float, int]:
    """Return the images per second of one epoch, and its number of steps."""
    once = steps_config(epochs=1, lr=1e-6, batch_size=batch_size)
    fit = Fit(model, once, preprocess, compute, steps_per_epoch=len(steps), augment=augment)
    start = time.perf_counter()
    epoch = next(fit.epochs(steps))
    if compute.is_cuda:
        torch.cuda.synchronize()
    return epoch.images / (time.perf_counter() - start), epoch.images // batch_size


class NoPreprocessing:
    """Replacement of the preprocessing for a loader whose images are standardised already."""

    def standardise(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels


class Reordered:
    """A wrapper of timm's loader with axes in the order that a training step takes."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        for images, labels in self.loader:
            yield images.permute(0, 2, 3, 1), labels


@dataclasses.dataclass(frozen=True)
class Way:
    """A source of batches, and what the training step does with them."""

    name: str
    loader: Any
    preprocess: Any
    augment: Callable[..., Any] | None = None
    ahead: int = 0
    """Worker processes, each of which prepares two batches in advance."""


def ways_of(
    args: argparse.Namespace, manifest: Manifest, compute: Compute, cache_dir: str
) -> Iterator[Way]:
    """Yield the upper limit and the ways that --augmented-on asks for, the most wanted first."""
    shape: Any = {
        "backbone": args.backbone,
        "img_size": args.img_size,
        "batch_size": args.batch_size,
    }
    config = settled(args, **shape)
    workers = config.machine.workers
    preprocess = preprocess_of(config.model, check_backbone(args.backbone))

    def feeder(cache: str, augment_on: str) -> Feeder:
        source = open_images(
            (manifest.train,),
            preprocess,
            cache=cache,
            cache_dir=cache_dir,
            passes=9,
            device_room=free_memory(compute.device),
            say=lambda _: None,
        )
        here = settled(args, augment_on=augment_on, workers=workers, **shape)
        return Feeder(here, source, compute)

    def resident(width: int, height: int) -> Resident:
        pixels_shape = (args.batch_size, height, width, 3)
        pixels = torch.randint(0, 255, pixels_shape, dtype=torch.uint8, device=compute.device)
        labels = torch.zeros(args.batch_size, dtype=torch.long, device=compute.device)
        return Resident((pixels, labels))

    def fed(name: str, made: Feeder, *, by_workers: bool = True) -> Way:
        loader = made.train(manifest.train, seed_parts=(0, 0))
        ahead = workers if by_workers else 0
        return Way(name, loader, preprocess, made.device_augmentation, ahead)

    yield Way(CEILING, resident(preprocess.width, preprocess.height), preprocess)
    if "device" in args.augmented_on:
        on_device = feeder("device", "device")
        yield Way(
            f"{CEILING}, augmented on the device",
            resident(*preprocess.stored_size),
            preprocess,
            on_device.device_augmentation,
        )
        yield fed("pipeline, cache and augmentation on the device", on_device, by_workers=False)
        yield fed("pipeline, disk, augmented on the device", feeder("disk", "device"))
    if "cpu" in args.augmented_on:
        yield fed("pipeline, cache on disk", feeder("disk", "cpu"))
        yield fed("pipeline without cache", feeder("off", "cpu"))
        # Without workers, timm's loader would take minutes to feed a GPU.
        for num in {workers} if compute.is_cuda else {workers, 1}:
            loader = timm_loader(manifest, preprocess, config, workers=num, cuda=compute.is_cuda)
            yield Way(
                f"timm's loader, {num} workers", Reordered(loader), NoPreprocessing(), ahead=num
            )


def measure(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the images per second of every way, and ratios to the resident batch, by rounds."""
    config = settled(args, batch_size=args.batch_size)
    manifest = repeated(data_of(args), args.pictures)
    compute = compute_of(config.machine)
    torch.manual_seed(0)
    model: Any = build_model(
        args.backbone, num_classes=manifest.num_classes, kwargs={}, weights=None
    )
    model = model.to(device=compute.device, memory_format=compute.memory_format)

    def timed(way: Way, steps: Steps) -> tuple[float, int]:
        steps.drain(2 * way.ahead)
        found = step_rate(model, steps, way.preprocess, compute, args.batch_size, way.augment)
        # The workers prepare batches until their queue is full, and would slow the next way down.
        time.sleep(min(10.0, 2 * way.ahead * args.batch_size / found[0]))
        return found

    rates: dict[str, list[float]] = {}
    num_steps: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        ways: list[tuple[Way, Steps]] = []
        for way in ways_of(args, manifest, compute, folder):
            steps = Steps(way.loader, min(args.steps, WARM_STEPS), args.longest)
            # Workers start and torch chooses its kernels outside of the timed rounds.
            timed(way, steps)
            steps.most = args.steps
            ways.append((way, steps))
            rates[way.name] = []
        for _ in track(range(args.rounds), f"{args.backbone} at {args.img_size}", unit="rounds"):
            for way, steps in ways:
                rate, num_steps[way.name] = timed(way, steps)
                rates[way.name].append(rate)
            yield {
                "images_per_s": {name: spread(values, 1) for name, values in rates.items()},
                "share_of_ceiling": {
                    name: ratios(values, rates[CEILING]) for name, values in rates.items()
                },
                "workers": config.machine.workers,
                "threads": config.machine.threads,
                "steps": dict(num_steps),
                "batch_size": args.batch_size,
                "amp_dtype": str(compute.amp_dtype),
            }


def main() -> None:
    """Measure one backbone at one size, unless the JSON file has it, and print the table."""
    exit_on_sigterm()
    cli = timed_parser(__doc__, results="feeding.json")
    cli.add_argument("--backbone", default="tf_efficientnet_lite0")
    cli.add_argument("--img-size", default="128")
    cli.add_argument("--batch-size", type=int, default=32)
    cli.add_argument(
        "--pictures", type=int, default=0, help="repeat the training rows to at least this number"
    )
    cli.add_argument("--steps", type=int, default=14)
    cli.add_argument("--rounds", type=int, default=7)
    cli.add_argument(
        "--longest", type=float, default=60, help="seconds; a slower way makes fewer steps"
    )
    cli.add_argument("--augmented-on", nargs="+", choices=("device", "cpu"))
    args = cli.parse_args()
    start = time.perf_counter()
    device = settled(args).machine.device
    results = Results(args, device=device)
    name = f"{args.backbone} at {args.img_size}, batch {args.batch_size}"
    if args.augmented_on is None:
        args.augmented_on = ["device", "cpu"] if device.startswith("cuda") else ["cpu"]
    else:
        name += f", augmented on {' and '.join(args.augmented_on)}"
    found = results.in_rounds(name, lambda: measure(args), most=args.rounds)
    print_rows(
        f"{name}, {found['threads']} threads, {found['workers']} workers"
        f" ({time.perf_counter() - start:.0f} s)",
        [("fed by", "images per second", "share of the upper limit")]
        + [
            (way, shown(found["images_per_s"][way]), shown(found["share_of_ceiling"][way]))
            for way in found["images_per_s"]
        ],
    )


if __name__ == "__main__":
    main()
