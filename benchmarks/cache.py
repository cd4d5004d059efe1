"""Cost and benefit of the cache of decoded images: times per epoch and per image.

    python benchmarks/cache.py --data DATA [--backbone tf_efficientnet_lite0 --img-size 128]

An epoch is one fold's training over its share of the images: without a cache, with an empty cache
(cold), and with a full one (warm). The cold epoch includes decoding all images of the fold,
training and held out. The three ways take turns in each round.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from common import Results, data_of, parser, print_rows, settled, shown, spread, steps_config

from foldblend.images import read_image
from folds.data.manifest import Manifest
from pipeline.config.resolved import ResolvedConfig
from pipeline.data.augment import AUGMENTATIONS
from pipeline.data.feeding import Feeder
from pipeline.data.images import ImageSource, open_images
from pipeline.data.preprocess import Preprocess
from pipeline.device import Compute, compute_of
from pipeline.models.backbones import build_model, check_backbone, preprocess_of
from pipeline.training.fit import Fit


def opened(table: pd.DataFrame, preprocess: Preprocess, cache: str, folder: Path) -> ImageSource:
    return open_images(
        (table,),
        preprocess,
        cache=cache,
        cache_dir=str(folder),
        passes=9,
        device_room=None,
        say=lambda _: None,
    )


def epoch_seconds(
    config: ResolvedConfig,
    manifest: Manifest,
    compute: Compute,
    preprocess: Preprocess,
    cache: str,
    folder: Path,
) -> float:
    """Return the seconds of one training epoch, including those to fill an empty cache."""
    model = build_model(
        config.model.backbone, num_classes=manifest.num_classes, kwargs={}, weights=None
    )
    model = model.to(device=compute.device, memory_format=compute.memory_format)  # type: ignore[call-overload]
    start = time.perf_counter()
    feeder = Feeder(config, opened(manifest.train, preprocess, cache, folder), compute)
    train = manifest.train[np.arange(len(manifest.train)) % 5 > 0].reset_index(drop=True)
    loader = feeder.train(train, seed_parts=(0, 0))
    once = steps_config(epochs=1, batch_size=config.train.batch_size)
    augment = feeder.device_augmentation
    next(
        Fit(model, once, preprocess, compute, steps_per_epoch=len(loader), augment=augment).epochs(
            loader
        )
    )
    return time.perf_counter() - start


def image_times(manifest: Manifest, preprocess: Preprocess, folder: Path) -> dict[str, Any]:
    """Return milliseconds per image on one core, to read and to augment it."""
    table = manifest.train
    full = Preprocess(**{**preprocess.to_dict(), "decode": "full"})
    cached = opened(table, preprocess, "disk", folder).of(table)
    off = ImageSource(preprocess, "off").of(table)
    whole = ImageSource(full, "off").of(table)
    augment = AUGMENTATIONS["default"]()
    assert augment is not None
    target = np.empty((preprocess.height, preprocess.width, 3), np.uint8)

    def per_image(images: Any) -> float:
        start = time.perf_counter()
        for index in range(len(table)):
            target[:] = images[index]
        return (time.perf_counter() - start) / len(table) * 1000

    times: dict[str, list[float]] = {"full": [], "scaled": [], "cached": [], "augmentation": []}
    for _ in range(5):
        times["full"].append(per_image(whole))
        times["scaled"].append(per_image(off))
        times["cached"].append(per_image(cached))
        start = time.perf_counter()
        for index in range(len(table)):
            augment(cached[index], index)
        times["augmentation"].append((time.perf_counter() - start) / len(table) * 1000)
    ratio = [one / other for one, other in zip(times["cached"], times["scaled"], strict=True)]
    difference = np.concatenate(
        [np.abs(off[index].astype(int) - whole[index]).ravel() for index in range(0, len(table), 4)]
    )
    return {
        "milliseconds": {name: spread(values, 4) for name, values in times.items()},
        "cached_over_scaled": spread(ratio, 4),
        "cached_over_full": spread(
            [a / b for a, b in zip(times["cached"], times["full"], strict=True)], 4
        ),
        "scaled_minus_full": {
            "mean": round(float(difference.mean()), 3),
            "99th percentile": float(np.percentile(difference, 99)),
            "most": int(difference.max()),
            "decoded_at": list(
                read_image(table["path"][0], at_least=preprocess.stored_size).shape[1::-1]
            ),
            "of": list(read_image(table["path"][0]).shape[1::-1]),
        },
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    config = settled(args, backbone=args.backbone, img_size=args.img_size, batch_size=32)
    manifest = data_of(args)
    compute = compute_of(config.machine)
    preprocess = preprocess_of(config.model, check_backbone(args.backbone))
    torch.manual_seed(0)
    cv2.setNumThreads(0)
    seconds: dict[str, list[float]] = {"off": [], "cold": [], "warm": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # The first epoch only brings the files into the page cache.
        epoch_seconds(config, manifest, compute, preprocess, "off", folder)
        for _ in range(args.rounds):
            seconds["off"].append(
                epoch_seconds(config, manifest, compute, preprocess, "off", folder)
            )
            shutil.rmtree(folder / "pictures", ignore_errors=True)
            for way in ("cold", "warm"):
                seconds[way].append(
                    epoch_seconds(config, manifest, compute, preprocess, "disk", folder)
                )
        images = image_times(manifest, preprocess, folder)
    ratios = {
        way: spread([one / off for one, off in zip(seconds[way], seconds["off"], strict=True)])
        for way in ("cold", "warm")
    }
    return {
        "epoch_seconds": {way: spread(values, 2) for way, values in seconds.items()},
        "epoch_over_uncached": ratios,
        "num_pictures": len(manifest.train),
        **images,
    }


def main() -> None:
    """Measure, unless the JSON file has the result, and print the table."""
    cli = parser(__doc__, results="cache.json")
    cli.add_argument("--backbone", default="tf_efficientnet_lite0")
    cli.add_argument("--img-size", default="128")
    cli.add_argument("--rounds", type=int, default=5)
    args = cli.parse_args()
    results = Results(args, device=settled(args).machine.device)
    name = f"{args.backbone} at {args.img_size}"
    if name not in results:
        results.put(name, measure(args))
    found = results[name]
    over = found["epoch_over_uncached"]
    off = found["scaled_minus_full"]
    print_rows(
        f"{name}, {found['num_pictures']} images",
        [
            ("epoch with an empty cache / without cache", shown(over["cold"])),
            ("epoch with a full cache / without cache", shown(over["warm"])),
            *(
                (f"ms per image on one core, {way}", shown(value))
                for way, value in found["milliseconds"].items()
            ),
            ("cached / decoded (scaled)", shown(found["cached_over_scaled"])),
            ("cached / decoded (full)", shown(found["cached_over_full"])),
            (
                f"pixel difference, decoded at {off['decoded_at']} / at {off['of']}",
                (
                    f"mean {off['mean']}, 99th percentile {off['99th percentile']:g}, maximum"
                    f" {off['most']} of 255"
                ),
            ),
        ],
    )


if __name__ == "__main__":
    main()
