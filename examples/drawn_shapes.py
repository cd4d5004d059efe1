"""Draw images of four shapes in a folder per class, to try how class folders are read.

    python examples/drawn_shapes.py shapes --images 2000
    python run_cv.py shapes --group-regex 'scene(\\d+)' --group-name scene --finetune head

Eight images show one scene: they share the colours and the noise of the background. One scene in
six is below shapes/test/, one in ten of the others below shapes/val/. The same number always draws
the same images. A score on them shows that everything runs, not how well it works on photographs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

PER_SCENE = 8
SIZE = 64


def _circle(image: np.ndarray, x: int, y: int, r: int, colour: tuple[int, ...]) -> None:
    cv2.circle(image, (x, y), r, colour, 2)


def _square(image: np.ndarray, x: int, y: int, r: int, colour: tuple[int, ...]) -> None:
    cv2.rectangle(image, (x - r, y - r), (x + r, y + r), colour, 2)


def _triangle(image: np.ndarray, x: int, y: int, r: int, colour: tuple[int, ...]) -> None:
    corners = np.array([[x - r, y + r], [x + r, y + r], [x, y - r]])
    cv2.polylines(image, [corners], True, colour, 2)


def _cross(image: np.ndarray, x: int, y: int, r: int, colour: tuple[int, ...]) -> None:
    cv2.line(image, (x - r, y), (x + r, y), colour, 2)
    cv2.line(image, (x, y - r), (x, y + r), colour, 2)


SHAPES: dict[str, Callable[..., None]] = {
    "circle": _circle,
    "cross": _cross,
    "square": _square,
    "triangle": _triangle,
}


def draw(number: int, shape: str) -> np.ndarray:
    """Return an image, SIZE x SIZE x 3, by its number and shape."""
    scene = np.random.default_rng([0, number // PER_SCENE])
    own = np.random.default_rng([1, number])
    background = scene.integers(40, 200, 3)
    grain = scene.normal(0, 30, (SIZE, SIZE, 3))
    image = (background + grain + own.normal(0, 15, grain.shape)).clip(0, 255).astype(np.uint8)
    # A colour near that of the background makes some shapes hard to see.
    colour = tuple(int(one) for one in (background + own.normal(0, 45, 3)).clip(0, 255))
    x, y = (int(one) for one in own.integers(20, SIZE - 20, 2))
    SHAPES[shape](image, x, y, int(own.integers(6, 14)), colour)
    return image


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the images below a folder."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=2000, help="number of images")
    args = parser.parse_args(argv)
    names = list(SHAPES)
    for number in range(args.images):
        scene = number // PER_SCENE
        part = "test" if scene % 6 == 5 else "val" if scene % 10 == 9 else "train"
        shape = names[int(np.random.default_rng([2, number]).integers(len(names)))]
        file = args.folder / part / shape / f"scene{scene:03d}_{number % PER_SCENE}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        done, data = cv2.imencode(".png", draw(number, shape))
        assert done
        file.write_bytes(data.tobytes())
    print(f"{args.images:,} images in {args.folder}")


if __name__ == "__main__":
    main()
