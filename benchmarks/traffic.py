"""Memory traffic of augmentation on the device, and its difference from albumentations.

    python benchmarks/traffic.py [--data london_masks] [--picture docs/images/augmentation.jpg]

Traffic is counted, not measured: each operation reads its inputs once and writes its results once
(`tests/makers/traffic.py`). The time of a batch is measured on a GPU. With --picture, images of the
data are drawn as they are, as albumentations changes them, and as the device does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import albumentations.augmentations.pixel.functional as colour
import cv2
import numpy as np
import torch
from common import Results, data_of, parser, print_rows, shown, spread

from pipeline.config.settings import make_config
from pipeline.data.augment import Recipe
from pipeline.data.colours import change_colours
from pipeline.data.device_augment import device_augmentation
from pipeline.data.images import ImageSource
from pipeline.data.preprocess import Preprocess
from pipeline.training.mixing import Mixing
from tests.makers.traffic import Traffic

BATCH = 256
SIZE = 224
NUM_IMAGES = 64
IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
# Its standardised pixels are in 0..255.
RAW: dict[str, Any] = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}
# Counted in the same way, with standardising and the conversion to channels_last.
EARLIER = {
    "0a17d88, colours by kornia 0.9.0": {"operations": 111, "GB": 16.6},
    "01eafe4, colours by way of the hue": {"operations": 60, "GB": 8.67},
}


def counted(traffic: Traffic) -> dict[str, Any]:
    """Return the operations and gigabytes of a count, with those of each kind of operation."""
    return {
        "operations": sum(traffic.operations.values()),
        "GB": round(sum(traffic.bytes.values()) / 1e9, 3),
        "GB by operation": {
            name: round(num / 1e9, 3) for name, num in traffic.bytes.most_common() if num > 1e7
        },
    }


def count() -> dict[str, Any]:
    """Return the traffic of a batch of 256 images at 224, augmented and mixed."""
    found: dict[str, Any] = dict(EARLIER)
    rng = np.random.default_rng(0)
    for crop_pct in (1.0, 0.875):
        preprocess = Preprocess(width=SIZE, height=SIZE, crop_pct=crop_pct, **IMAGENET)
        width, height = preprocess.stored_size
        images = torch.empty((BATCH, height, width, 3), dtype=torch.uint8, device="meta")
        for name in ("default", "none"):
            augment = device_augmentation(name, preprocess, torch.channels_last)
            augment(images, rng)  # later steps find the constants on the device
            with Traffic() as traffic:
                pixels = augment(images, rng)
            found[f"{name}, stored at {width}"] = counted(traffic)
    for setting in ("mixup", "cutmix"):
        mixing = Mixing.of(make_config({setting: 1.0}).augment, np.ones(3))
        assert mixing is not None
        with Traffic() as traffic:
            mixing(pixels, np.arange(BATCH) % 3, rng)
        found[f"{setting}, in addition"] = counted(traffic)
    return found


def by_albumentations(image: np.ndarray, factors: np.ndarray, turn: float) -> np.ndarray:
    """Return an image as albumentations' ColorJitter changes it, in our order."""
    image = colour.adjust_brightness_torchvision(image, factors[0])
    image = colour.adjust_contrast_torchvision(image, factors[1])
    image = colour.adjust_saturation_torchvision(image, factors[2])
    return np.asarray(colour.adjust_hue_torchvision(image, turn))


def both_ways(
    images: np.ndarray, factors_3N: np.ndarray, turns_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return N x H x W x 3 images, changed by albumentations and as on the device."""
    height, width = images.shape[1:3]
    preprocess = Preprocess(width=width, height=height, **RAW)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    ours = change_colours(pixels, factors_3N, turns_N, preprocess).permute(0, 2, 3, 1).numpy()
    theirs = [
        by_albumentations(image, factors_3N[:, index], turns_N[index])
        for index, image in enumerate(images)
    ]
    return np.stack(theirs), ours


def drawn(recipe: Recipe, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Return random factors 3 x N and shifts of the hue N in the recipe's ranges."""
    rng = np.random.default_rng(0)
    return rng.uniform(*recipe.jitter, (3, num)), rng.uniform(-recipe.hue, recipe.hue, num)


def distance(one: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Return mean and 99th percentile of the difference of pixels, of 255."""
    difference = np.abs(one.astype(np.float32) - other)
    return {
        "mean": round(float(difference.mean()), 2),
        "99th percentile": round(float(np.percentile(difference, 99)), 1),
    }


def differences(images: np.ndarray) -> dict[str, Any]:
    """Return the distances between ours and albumentations' colours with equal factors."""
    factors_3N, turns_N = drawn(Recipe(), len(images))
    none_3N = np.ones_like(factors_3N)
    cases = {
        "all": (factors_3N, turns_N),
        "brightness, contrast and saturation": (factors_3N, 0 * turns_N),
        "hue": (none_3N, turns_N),
    }
    found: dict[str, Any] = {"images": len(images)}
    for name, (factors, turns) in cases.items():
        theirs, ours = both_ways(images, factors, turns)
        found[name] = {
            "difference": distance(ours, theirs),
            "change by albumentations": distance(theirs, images),
        }
    return found


def milliseconds(device: str) -> dict[str, Any]:
    """Return the time that a GPU takes to augment a batch of 256 images at 224."""
    preprocess = Preprocess(width=SIZE, height=SIZE, **IMAGENET)
    augment = device_augmentation("default", preprocess, torch.channels_last)
    images = torch.randint(0, 255, (BATCH, SIZE, SIZE, 3), dtype=torch.uint8, device=device)
    times = []
    for _ in range(12):
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        augment(images, np.random.default_rng(0))
        torch.cuda.synchronize(device)
        times.append((time.perf_counter() - start) * 1000)
    return spread(times[2:], 2)


def draw(images: np.ndarray, file: Path) -> None:
    """Write an image with three rows: the originals, albumentations' and ours."""
    factors_3N, turns_N = drawn(Recipe(), len(images))
    theirs, ours = both_ways(images, factors_3N, turns_N)
    rows = [np.hstack(list(row)) for row in (images, theirs, ours.round().astype(np.uint8))]
    gap = np.full((6, rows[0].shape[1], 3), 255, np.uint8)
    sheet = np.vstack([rows[0], gap, rows[1], gap, rows[2]])
    cv2.imwrite(str(file), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])


def some_images(args: Any, num: int, width: int, height: int) -> np.ndarray:
    """Return images of the data set, evenly spread over its training table."""
    table = data_of(args).train
    table = table.iloc[np.linspace(0, len(table) - 1, num).astype(int)]
    source = ImageSource(Preprocess(width=width, height=height, **IMAGENET), "off").of(table)
    return np.stack([source[index] for index in range(num)])


def main() -> None:
    """Count, compare and time, and print the results."""
    cli = parser(__doc__, results="traffic.json")
    cli.add_argument("--picture", type=Path, help="draw 8 images of the data to this file")
    args = cli.parse_args()
    if args.picture is not None:
        draw(some_images(args, 8, 105, 140), args.picture)
        return
    device = args.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    results = Results(args, device=device)
    measures: dict[str, Callable[[], Any]] = {
        "traffic": count,
        "differences": lambda: differences(some_images(args, NUM_IMAGES, SIZE, SIZE)),
    }
    if device.startswith("cuda"):
        measures["milliseconds"] = lambda: milliseconds(device)
    for name, measure in measures.items():
        if name not in results:
            results.put(name, measure())
    print_rows(
        f"a batch of {BATCH} at {SIZE}",
        [
            (name, f"{one['operations']} operations", f"{one['GB']} GB")
            for name, one in results["traffic"].items()
        ],
    )
    print(results["differences"])
    if "milliseconds" in results:
        print("milliseconds", shown(results["milliseconds"]))


if __name__ == "__main__":
    main()
