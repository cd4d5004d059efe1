"""Drawn hands with fingers up: ten classes that differ in small parts of the image."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd

__all__ = ["NUM_SIGNS", "draw_hand", "hand_table", "hands"]

# The fingers that are up in each sign, from the thumb to the little finger.
SIGNS = ("", "1", "12", "123", "1234", "01234", "0", "01", "04", "014")
NUM_SIGNS = len(SIGNS)
SIDE = 64


def draw_hand(rng: np.random.Generator, sign: int, look: dict[str, object]) -> np.ndarray:
    """Return one RGB image of a hand that shows a sign, seen from a slightly different place."""
    image = np.empty((SIDE, SIDE, 3), np.uint8)
    image[:] = look["backdrop"]
    angle = np.deg2rad(look["angle"] + rng.normal(0, 12))
    scale = look["scale"] * rng.normal(1, 0.08)
    centre = look["place"] + rng.normal(0, 2.5, 2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

    def place(across: float, up: float) -> tuple[int, int]:
        x, y = centre + scale * turn @ np.array([look["side"] * across, -up])
        return round(16 * x), round(16 * y)

    skin = tuple(int(value) for value in look["skin"])
    thick = max(round(scale * 3), 1)
    palm = cv2.ellipse2Poly((0, 0), (9, 11), 0, 0, 360, 15)
    outline = np.array([place(x, y) for x, y in palm])
    cv2.fillPoly(image, [outline], skin, cv2.LINE_AA, shift=4)
    for finger, across in enumerate((-11.0, -6.5, -2.0, 2.5, 7.0)):
        length = (7, 16, 18, 16, 13)[finger] if str(finger) in SIGNS[sign] else 2
        base = (across * 0.9, 0.0 if finger == 0 else 9.0)
        tip = (across * 1.7 - (3 if finger == 0 else 0), base[1] + length)
        cv2.line(image, place(*base), place(*tip), skin, thick, cv2.LINE_AA, shift=4)
    light = rng.normal(1, 0.06)
    noise = rng.normal(0, look["noise"], image.shape)
    return np.clip(image * light + noise, 0, 255).astype(np.uint8)


def _look(rng: np.random.Generator) -> dict[str, object]:
    """Return what all images of a group share: the side, pose, colours and noise."""
    return {
        "side": rng.choice([-1, 1]),
        "angle": rng.uniform(-35, 35),
        "scale": rng.uniform(0.85, 1.2),
        "place": np.array([32.0, 38.0]) + rng.uniform(-6, 6, 2),
        "backdrop": rng.uniform(20, 235, 3),
        "skin": rng.uniform(90, 220, 3),
        "noise": rng.uniform(4, 14),
    }


def hands(*, num_groups: int = 25, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return images N x H x W x 3, signs and groups; each group has every sign once."""
    rng = np.random.default_rng(seed)
    looks = [_look(rng) for _ in range(num_groups)]
    images = [draw_hand(rng, sign, look) for look in looks for sign in range(NUM_SIGNS)]
    sign_N = np.tile(np.arange(NUM_SIGNS), num_groups)
    return np.stack(images), sign_N, np.repeat(np.arange(num_groups), NUM_SIGNS)


def hand_table(folder: Path, *, num_groups: int = 25, seed: int = 0) -> Path:
    """Write such images and a CSV with the columns image, label and person; return the CSV."""
    rows = []
    for image, sign, group in zip(*hands(num_groups=num_groups, seed=seed), strict=True):
        name = f"p{group:02d}_{sign}.jpg"
        cv2.imwrite(str(folder / name), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
        rows.append({"image": name, "label": f"sign {sign}", "person": f"p{group:02d}"})
    pd.DataFrame(rows).to_csv(folder / "hands.csv", index=False)
    return folder / "hands.csv"
