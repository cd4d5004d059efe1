"""The registry of views: every name that --tta knows."""

from __future__ import annotations

from tta.views import geometry, tones
from tta.views.entries import CpuView, DeviceView, Entry, Macro
from tta.views.parameters import Draws, File, Number, Place

__all__ = ["CLASSIC_SHARE", "VIEWS"]

CLASSIC_SHARE = 0.875  # 224 of 256 pixels, the usual five and ten crops


def _share(default: float | None = None) -> Number:
    return Number(letter="S", low=0, high=1, with_low=False, neutral=1.0, default=default)


def _factor(low: float, high: float) -> Number:
    return Number(letter="F", low=low, high=high, neutral=1.0)


def _move() -> Number:
    # Beyond a half, more of the image would be mirror image than image.
    return Number(letter="S", low=-0.5, high=0.5, neutral=0.0)


def _five(share: float) -> tuple[str, ...]:
    return tuple(name for place in geometry.PLACES for name in VIEWS["crop"].views((share, place)))


def _ten(share: float) -> tuple[str, ...]:
    return (*_five(share), *(f"hflip*{crop}" for crop in _five(share)))


VIEWS: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        DeviceView(
            name="identity",
            does="the image itself; always there",
            example="identity",
            function=geometry.identity,
        ),
        DeviceView(
            name="hflip", does="mirrored left to right", example="hflip", function=geometry.hflip
        ),
        DeviceView(
            name="vflip",
            does="mirrored top to bottom; for images without an up and down, elsewhere it harms",
            example="vflip",
            function=geometry.vflip,
        ),
        DeviceView(
            name="scale",
            does="zoomed in about the centre, below 1 out, with the mirror image around",
            example="scale:1.15",
            parameters=(_factor(0.5, 4),),
            function=geometry.scale,
        ),
        DeviceView(
            name="xshift",
            does="moved right by a share of the width, in whole pixels",
            example="xshift:-0.05",
            parameters=(_move(),),
            function=geometry.xshift,
        ),
        DeviceView(
            name="yshift",
            does="moved down by a share of the height, in whole pixels",
            example="yshift:0.05",
            parameters=(_move(),),
            function=geometry.yshift,
        ),
        DeviceView(
            name="crop",
            does=f"a share of width and height at {' '.join(geometry.PLACES)}, resized back",
            example="crop:0.8:center",
            parameters=(_share(), Place(letter="WHERE", places=tuple(geometry.PLACES))),
            function=geometry.crop,
        ),
        Macro(
            name="five",
            does=f"crops at the four corners and the centre; S is {CLASSIC_SHARE} unless given",
            example="five:0.8",
            parameters=(_share(CLASSIC_SHARE),),
            expand=_five,
        ),
        Macro(
            name="ten",
            does="these and the same of the mirrored image",
            example="ten:0.8",
            parameters=(_share(CLASSIC_SHARE),),
            expand=_ten,
        ),
        DeviceView(
            name="rotate",
            does="turned anticlockwise by degrees, with the mirror image around",
            example="rotate:7",
            parameters=(Number(letter="DEGREES", low=-180, high=180, neutral=0.0),),
            function=geometry.rotate,
        ),
        DeviceView(
            name="brightness",
            does="values times F",
            example="brightness:1.2",
            parameters=(_factor(0.1, 10),),
            function=tones.brightness,
        ),
        DeviceView(
            name="contrast",
            does="distances from the image's own mean grey times F",
            example="contrast:1.2",
            parameters=(_factor(0.1, 10),),
            function=tones.contrast,
        ),
        DeviceView(
            name="gamma",
            does="values, as shares of 255, to the power of F: above 1 is darker",
            example="gamma:0.8",
            parameters=(_factor(0.1, 10),),
            function=tones.gamma,
        ),
        CpuView(
            name="train",
            does="N seeded draws of the run's own training augmentation, train#0 and on",
            example="train:4",
            parameters=(Draws(letter="N"),),
        ),
        CpuView(
            name="albu",
            does="N seeded draws (1 unless given) of a pipeline as albumentations.save writes it",
            example="albu:clahe.yaml",
            parameters=(File(letter="FILE.yaml"), Draws(letter="N", default=range(1))),
        ),
    )
}
