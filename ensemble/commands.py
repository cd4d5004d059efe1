"""Run the command line of blend.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ensemble.config import parse_blend_config
from foldblend.cli import run_command
from foldblend.help import About

__all__ = ["blend"]

ABOUT = About(
    "blend.py",
    "Blend finished runs into one, scored by nested cross-validation.",
    (
        "outputs/*",
        "outputs/* --budget 3x",
        "outputs/a outputs/b --weights 2 1 --name ab",
        "--config outputs/ab/blend.yaml",
    ),
)


def blend(argv: Sequence[str]) -> int:
    """Run the command line of blend.py and return its exit code."""

    def command() -> None:
        settings = dataclasses.asdict(parse_blend_config(argv, ABOUT))
        # pandas takes a second to import: wrong flags should fail before that.
        from ensemble import blend as blending

        blending.blend(settings.pop("runs"), **settings)

    return run_command(command)
