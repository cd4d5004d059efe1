"""The command blend.py, from words to exit code."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ensemble.config import parse_blend_config
from foldblend.cli import program, run_command

__all__ = ["blend"]

ABOUT = "Blend finished runs into one, honestly scored: python blend.py outputs/*"


def blend(argv: Sequence[str]) -> int:
    """Run the command line of blend.py and return its exit code."""

    def command() -> None:
        settings = dataclasses.asdict(
            parse_blend_config(argv, prog=program("blend.py"), description=ABOUT)
        )
        from ensemble import blend as blending  # pandas: after the flags have been checked

        blending.blend(settings.pop("runs"), **settings)

    return run_command(command)
