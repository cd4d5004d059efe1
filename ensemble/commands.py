"""Run the command line of blend.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ensemble.config import parse_blend_config
from foldblend.cli import program, run_command

__all__ = ["blend"]

ABOUT = "Blend finished runs, scored by nested cross-validation: python blend.py outputs/*"


def blend(argv: Sequence[str]) -> int:
    """Run the command line of blend.py and return its exit code."""

    def command() -> None:
        settings = dataclasses.asdict(
            parse_blend_config(argv, prog=program("blend.py"), description=ABOUT)
        )
        # pandas takes a second to import: wrong flags should fail before that.
        from ensemble import blend as blending

        blending.blend(settings.pop("runs"), **settings)

    return run_command(command)
