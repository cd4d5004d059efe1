#!/usr/bin/env python
"""Blend finished runs into one, honestly scored: python blend.py outputs/*"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

from ensemble.blend import blend
from ensemble.config import parse_blend_config
from foldblend.cli import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""

    def command() -> None:
        words = sys.argv[1:] if argv is None else argv
        settings = dataclasses.asdict(parse_blend_config(words, prog="blend.py", description=__doc__ or ""))
        blend(settings.pop("runs"), **settings)

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
