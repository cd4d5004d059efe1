"""The registry of all views that --tta and run_tta.py --views accept."""

from __future__ import annotations

from tta.views import geometry, tones
from tta.views.entries import CpuView, DeviceView, Entry, Macro
from tta.views.parameters import Draws, File, Number, Place

__all__ = ["CLASSIC_SHARE", "VIEWS"]

# 224 of 256 pixels, as in the usual five and ten crops.
CLASSIC_SHARE = 0.875


def _share(default: float | None = None) -> Number:
    return Number(letter="S", low=0, high=1, with_low=False, neutral=1.0, default=default)


def _factor(low: float, high: float) -> Number:
    return Number(letter="F", low=low, high=high, neutral=1.0)


def _move() -> Number:
    # A larger shift would leave more mirrored pixels than real ones.
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
            does="the unaugmented image; always included",
            example="identity",
            function=geometry.identity,
        ),
        DeviceView(
            name="hflip", does="mirrored left to right", example="hflip", function=geometry.hflip
        ),
        DeviceView(
            name="vflip",
            does="mirrored top to bottom; harmful unless images have no up and down",
            example="vflip",
            function=geometry.vflip,
        ),
        DeviceView(
            name="scale",
            does="zoomed in about the centre (F below 1: out, with mirrored borders)",
            example="scale:1.15",
            parameters=(_factor(0.5, 4),),
            function=geometry.scale,
        ),
        DeviceView(
            name="xshift",
            does="moved right by S times the width, in whole pixels",
            example="xshift:-0.05",
            parameters=(_move(),),
            function=geometry.xshift,
        ),
        DeviceView(
            name="yshift",
            does="moved down by S times the height, in whole pixels",
            example="yshift:0.05",
            parameters=(_move(),),
            function=geometry.yshift,
        ),
        DeviceView(
            name="crop",
            does=(
                "a crop of S times width and height, resized; WHERE is"
                f" {', '.join([*geometry.PLACES][:-1])} or {[*geometry.PLACES][-1]}"
            ),
            example="crop:0.8:center",
            parameters=(_share(), Place(letter="WHERE", places=tuple(geometry.PLACES))),
            function=geometry.crop,
        ),
        Macro(
            name="five",
            does=f"crops at the four corners and the centre; S is {CLASSIC_SHARE} by default",
            example="five:0.8",
            parameters=(_share(CLASSIC_SHARE),),
            expand=_five,
        ),
        Macro(
            name="ten",
            does="the crops of five and the same crops of the mirrored image",
            example="ten:0.8",
            parameters=(_share(CLASSIC_SHARE),),
            expand=_ten,
        ),
        DeviceView(
            name="rotate",
            does="rotated anticlockwise, with mirrored borders",
            example="rotate:7",
            parameters=(Number(letter="DEGREES", low=-180, high=180, neutral=0.0),),
            function=geometry.rotate,
        ),
        DeviceView(
            name="brightness",
            does="pixel values times F",
            example="brightness:1.2",
            parameters=(_factor(0.1, 10),),
            function=tones.brightness,
        ),
        DeviceView(
            name="contrast",
            does="differences from the image's mean grey value times F",
            example="contrast:1.2",
            parameters=(_factor(0.1, 10),),
            function=tones.contrast,
        ),
        DeviceView(
            name="gamma",
            does="pixel values, scaled to 0..1, to the power of F; F above 1 is darker",
            example="gamma:0.8",
            parameters=(_factor(0.1, 10),),
            function=tones.gamma,
        ),
        CpuView(
            name="train",
            does="N seeded draws of the run's training augmentation: train#0, train#1, ...",
            example="train:4",
            parameters=(Draws(letter="N"),),
        ),
        CpuView(
            name="albu",
            does="N seeded draws (default: 1) of a pipeline saved by albumentations.save",
            example="albu:clahe.yaml",
            parameters=(File(letter="FILE.yaml"), Draws(letter="N", default=range(1))),
        ),
    )
}
