"""Synthetic faces of the demo set, drawn from polygons and blurred strokes.

Faces show age, gender and mask with some overlap, as real ones do: wrinkles deepen, hair greys and
recedes; jaws, brows and hair length differ between men and women, but not always.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from folds.data.demo_canvas import HEIGHT, SCALE, WIDTH, Canvas, Colour, arc, merge

__all__ = ["HEIGHT", "WIDTH", "Person", "draw_image", "make_person"]

SKINS = (
    (243, 212, 190),
    (231, 190, 160),
    (214, 165, 128),
    (178, 125, 90),
    (128, 85, 60),
    (96, 62, 44),
)
HAIRS = ((28, 22, 20), (52, 36, 28), (86, 58, 38), (128, 90, 54), (178, 140, 92), (120, 58, 36))
MASKS = (
    (236, 238, 240),
    (150, 190, 222),
    (34, 34, 38),
    (196, 210, 200),
    (214, 160, 170),
    (88, 104, 140),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """Looks of a person, which are the same in all of the person's images."""

    male: bool
    age: int
    skin: np.ndarray
    hair: np.ndarray
    shirt: np.ndarray
    backdrop: np.ndarray
    face_width: float
    jaw: float
    brow: float
    long_hair: bool
    beard: float
    recede: float
    wrinkle: float
    eye: np.ndarray
    eye_gap: float
    glasses: bool
    lips: np.ndarray


def _vary(rng: np.random.Generator, colour: Colour, spread: float) -> np.ndarray:
    return np.clip(np.asarray(colour, float) + rng.normal(0, spread, 3), 4, 250)


def make_person(rng: np.random.Generator, *, male: bool, age: int) -> Person:
    """Return random looks of a person of a gender and an age in years."""
    skin = _vary(rng, SKINS[rng.integers(len(SKINS))], 6)
    # Hair turns grey between the mid thirties and seventy, much earlier for some people.
    grey = float(np.clip((age - rng.normal(46, 6)) / 16, 0, 1))
    colour = _vary(rng, HAIRS[rng.integers(len(HAIRS))], 6)
    hair = colour * (1 - grey) + _vary(rng, (196, 196, 198), 8) * grey
    years = age + rng.normal(0, 5)
    return Person(
        male=male,
        age=age,
        skin=skin,
        hair=hair,
        shirt=rng.uniform(30, 225, 3),
        backdrop=rng.uniform(110, 225) + rng.uniform(-40, 40, 3),
        face_width=rng.normal(97 if male else 90, 4),
        jaw=float(np.clip(rng.normal(0.86 if male else 0.66, 0.06), 0.5, 1.0)),
        brow=float(np.clip(rng.normal(8 if male else 4, 1.3), 2, 12)),
        long_hair=bool(rng.random() < (0.06 if male else 0.88)),
        beard=float(rng.uniform(0.25, 0.9)) if male and rng.random() < 0.5 else 0.0,
        recede=float(np.clip((years - 34) / 40, 0, 1)) * (1.0 if male else 0.15),
        wrinkle=float(np.clip((years - 24) / 38, 0, 1)),
        eye=_vary(rng, ((70, 50, 34), (60, 96, 120), (70, 100, 66))[rng.integers(3)], 8),
        eye_gap=rng.normal(40, 2.5),
        glasses=bool(rng.random() < 0.15 + 0.3 * (age >= 50)),
        lips=_vary(rng, skin * (0.72, 0.52, 0.55) if male else (186, 66, 84), 10),
    )


def _face_outline(who: Person) -> np.ndarray:
    """Return the outline of the face: an oval whose lower half is as square as the jaw."""
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    x = np.cos(angle)
    y = np.sin(angle)
    square = np.where(y > 0, np.abs(x) ** (1.35 - 0.85 * (who.jaw - 0.4)), np.abs(x))
    return np.stack([who.face_width * np.sign(x) * square, np.where(y > 0, 138 * y, 122 * y)], 1)


def _draw_hair_behind(canvas: Canvas, who: Person) -> None:
    w = who.face_width
    if who.long_hair:
        canvas.shape(
            [
                (-w - 26, -60),
                (-w * 0.7, -146),
                (0, -166),
                (w * 0.7, -146),
                (w + 26, -60),
                (w + 34, 170),
                (-w - 34, 170),
            ],
            who.hair * 0.86,
            blur=4,
        )
    else:
        canvas.shape(
            [
                (-w - 8, -10),
                (-w - 6, -90),
                (-w * 0.6, -142),
                (0, -156),
                (w * 0.6, -142),
                (w + 6, -90),
                (w + 8, -10),
            ],
            who.hair * 0.9,
            blur=3,
        )


def _draw_hairline(canvas: Canvas, who: Person, rng: np.random.Generator) -> None:
    w = who.face_width
    line = -86 - 40 * who.recede
    top = [
        (w * 0.98, -52),
        (w * 0.98, -104),
        (w * 0.6, -143),
        (0, -156),
        (-w * 0.6, -143),
        (-w * 0.98, -104),
    ]
    fringe = [(-w * 0.98, -52), *arc(-w * 0.82, line + 6, w * 0.82, line, -12)]
    canvas.shape(top + fringe, who.hair, blur=2.5)
    for x in np.linspace(-w * 0.8, w * 0.8, 10):
        strand = arc(x, -150 + 0.0022 * x * x, x * 1.12, line - 6, -4, 6)
        canvas.stroke(strand, 2, who.hair * rng.uniform(0.7, 1.25), alpha=0.5, blur=1.2)


def _draw_eyes(canvas: Canvas, who: Person) -> None:
    dark = who.hair * 0.55 if who.hair.mean() < 150 else who.hair * 0.7
    for side in (-1, 1):
        x = side * who.eye_gap
        canvas.oval(x, -26, 26, 19, who.skin * 0.8, alpha=0.35, blur=5)
        canvas.shape(
            np.concatenate([arc(x - 19, -24, x + 19, -24, -11), arc(x + 19, -24, x - 19, -24, 8)]),
            (246, 244, 242),
        )
        canvas.oval(x, -25, 8.5, 8.5, who.eye)
        canvas.oval(x, -25, 4, 4, (12, 12, 12))
        canvas.oval(x + 3, -28, 1.8, 1.8, (255, 255, 255))
        canvas.stroke(arc(x - 20, -24, x + 20, -24, -12), 3 if who.male else 5, who.skin * 0.25)
        if not who.male:
            canvas.stroke([(x + side * 18, -26), (x + side * 26, -33)], 3, who.skin * 0.22)
        lift = 2 if who.male else 8
        canvas.stroke(
            arc(x - side * 22, -50, x + side * 26, -50 - lift, -8),
            who.brow,
            dark,
            alpha=0.9,
            blur=1.2,
        )


def _draw_wrinkles(canvas: Canvas, who: Person) -> None:
    depth = who.wrinkle
    crease = who.skin * 0.58
    if depth <= 0.02:
        return
    for line, y in enumerate((-66, -76, -87, -97)):
        half = who.face_width * (0.62 - 0.06 * line)
        canvas.stroke(arc(-half, y, half, y, -5), 2, crease, alpha=0.62 * depth, blur=1.1)
    for side in (-1, 1):
        x = side * (who.eye_gap + 22)
        for dy in (-10, -2, 6):
            canvas.stroke(
                [(x, -24 + dy * 0.3), (x + side * 18, -24 + dy * 1.4)],
                2,
                crease,
                alpha=0.75 * depth,
                blur=0.9,
            )
        bag = side * who.eye_gap
        canvas.stroke(arc(bag - 17, -8, bag + 17, -8, 7), 3, crease, alpha=0.7 * depth, blur=1.5)
        canvas.stroke(
            arc(side * 24, 26, side * 40, 74, 0) + (side * 3, 0),
            3,
            crease,
            alpha=0.7 * depth,
            blur=1.6,
        )
        canvas.stroke(arc(side * 8, -52, side * 7, -36, 0), 2, crease, alpha=0.5 * depth, blur=1)


def _draw_lower_face(canvas: Canvas, who: Person, smile: float) -> None:
    canvas.stroke([(9, -14), (13, 22)], 5, who.skin * 0.82, alpha=0.5, blur=3)
    canvas.shape(arc(-17, 28, 17, 28, 7), who.skin * 0.76, alpha=0.8, blur=2)
    for side in (-1, 1):
        canvas.oval(side * 8, 30, 4, 2.6, who.skin * 0.42, blur=1)
        canvas.oval(side * 52, 34, 26, 20, (228, 120, 110), alpha=0.1, blur=9)
    if who.beard:
        w = who.face_width
        jaw = [
            (-w * 0.9, 34),
            (-w * 0.78, 92),
            (-w * 0.42, 132),
            (0, 142),
            (w * 0.42, 132),
            (w * 0.78, 92),
            (w * 0.9, 34),
        ]
        canvas.shape(
            jaw + [(w * 0.5, 54), (0, 44), (-w * 0.5, 54)],
            who.hair * 0.9,
            alpha=0.75 * who.beard,
            blur=5,
        )
    lip = np.concatenate([arc(-32, 74, 32, 74, -7), arc(32, 74, -32, 74, 10 + 5 * smile)]) + (
        0,
        -3 * smile,
    )
    canvas.shape(lip, who.lips, blur=1.2)
    canvas.stroke(
        arc(-32, 74 - 3 * smile, 32, 74 - 3 * smile, 3 + 6 * smile), 2, who.lips * 0.5, blur=1
    )


def _draw_glasses(canvas: Canvas, who: Person) -> None:
    for side in (-1, 1):
        angle = np.linspace(0, 2 * np.pi, 30)
        rim = np.stack([side * who.eye_gap + 29 * np.cos(angle), -24 + 22 * np.sin(angle)], 1)
        canvas.stroke(rim, 3, (30, 28, 30))
        canvas.stroke(
            [(side * (who.eye_gap + 29), -28), (side * who.face_width, -34)], 3, (30, 28, 30)
        )
    canvas.stroke(arc(29 - who.eye_gap, -26, who.eye_gap - 29, -26, -4), 3, (30, 28, 30))


def _draw_mask(canvas: Canvas, who: Person, rng: np.random.Generator, *, kind: str) -> None:
    """Draw a mask over nose and mouth (worn), or over only the mouth or chin (incorrect)."""
    colour = _vary(rng, MASKS[rng.integers(len(MASKS))], 6)
    w = who.face_width
    top = (
        rng.uniform(2, 10)
        if kind == "worn"
        else rng.choice([rng.uniform(48, 56), rng.uniform(88, 96)])
    )
    low = 146 if kind == "worn" else 152
    side = top + (low - top) * 0.28
    cheeks = [(w * 0.93, side), (w * 0.84, (side + low) / 2), (w * 0.45, low - 6)]
    outline = np.concatenate(
        [
            arc(-w * 0.93, side, 0, top, -4),
            arc(0, top, w * 0.93, side, -4),
            cheeks,
            [(0, low)],
            np.array(cheeks[::-1]) * (-1, 1),
        ]
    )
    for s in (-1, 1):
        canvas.stroke(
            [(s * w * 0.92, side + 4), (s * (w + 4), -14 + 0.25 * top)], 3, colour * 0.9, blur=1
        )
    canvas.shape(outline + (0, 3), who.skin * 0.5, alpha=0.4, blur=3)
    canvas.shape(outline, colour, blur=1)
    for fold in np.linspace(0.3, 0.75, 3):
        y = top + (low - top) * fold
        canvas.stroke(arc(-w * 0.8, y, w * 0.8, y, 6), 2, colour * 0.82, alpha=0.6, blur=1.2)
    if rng.random() < 0.25:
        ink = rng.uniform(30, 220, 3)
        for _ in range(14):
            x = rng.uniform(-0.6, 0.6) * w
            y = rng.uniform(side + 8, low - 14)
            canvas.oval(x, y, 4, 4, ink, alpha=0.8)


def _photograph(pixels: Any, rng: np.random.Generator) -> np.ndarray:
    """Return the drawing as uint8 RGB with random rotation, shift, lighting and noise."""
    tilt = rng.normal(0, 4)
    zoom = float(np.clip(rng.normal(1.0, 0.05), 0.88, 1.14))
    matrix: Any = cv2.getRotationMatrix2D((WIDTH / 2, HEIGHT / 2), tilt, zoom)
    matrix[:, 2] += rng.normal(0, (9, 11))
    matrix[0, 1] += rng.normal(0, 0.03)
    matrix[:, :2] /= SCALE
    pixels = cv2.warpAffine(pixels, matrix, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE)
    direction = rng.uniform(0, 2 * np.pi)
    across = np.linspace(-1, 1, WIDTH, dtype=np.float32)[None, :] * np.float32(np.cos(direction))
    down = np.linspace(-1, 1, HEIGHT, dtype=np.float32)[:, None] * np.float32(np.sin(direction))
    light = np.float32(rng.normal(1.0, 0.12)) + np.float32(rng.uniform(0, 0.22)) * (across + down)
    pixels *= merge([light * np.float32(tint) for tint in rng.normal(1.0, 0.03, 3)])
    grain = rng.integers(-9, 10, (HEIGHT // 2, WIDTH // 2)).astype(np.float32)
    pixels += merge([cv2.resize(grain, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)] * 3)
    return np.clip(pixels, 0, 255, out=pixels).astype(np.uint8)


def draw_image(who: Person, rng: np.random.Generator, *, mask: str) -> np.ndarray:
    """Return an image of a person, 512 x 384 x 3 uint8 RGB.

    `mask` is "worn", "incorrect" or "not worn".
    """
    canvas = Canvas(who.backdrop + rng.normal(0, 6, 3))
    canvas.shape(
        [(-170, 270), (-150, 196), (-50, 160), (50, 160), (150, 196), (170, 270)], who.shirt, blur=2
    )
    _draw_hair_behind(canvas, who)
    canvas.shape([(-42, 96), (42, 96), (54, 176), (0, 192), (-54, 176)], who.skin * 0.84, blur=2)
    for side in (-1, 1):
        canvas.oval(side * (who.face_width + 2), -6, 11, 24, who.skin * 0.88, blur=1.5)
    canvas.shape(_face_outline(who), who.skin, blur=1.2)
    canvas.oval(0, 120, who.face_width * 0.7, 26, who.skin * 0.8, alpha=0.3, blur=9)
    _draw_hairline(canvas, who, rng)
    _draw_lower_face(canvas, who, smile=float(rng.uniform(0, 1)))
    _draw_eyes(canvas, who)
    _draw_wrinkles(canvas, who)
    if mask != "not worn":
        _draw_mask(canvas, who, rng, kind=mask)
    if who.glasses:
        _draw_glasses(canvas, who)
    return _photograph(canvas.pixels, rng)
