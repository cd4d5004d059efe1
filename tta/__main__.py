"""Test-time augmentation of a finished run: see its pictures in more views, and merge or choose them honestly.

The run folder comes first: python -m tta outputs/RUN --views hflip,scale:1.15
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from foldblend.cli import parse_flags, run_command
from foldblend.errors import UserError
from tta.stage import TtaConfig, augment_run
from tta.views.names import describe_views


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""

    def command() -> None:
        words = sys.argv[1:] if argv is None else argv
        about = "\n".join([__doc__ or "", "Views:", *(f"- {line}" for line in describe_views())])
        config = parse_flags(TtaConfig, words, prog="python -m tta", description=about)
        if not config.run:
            raise UserError("name the folder of a finished run, such as: python -m tta outputs/RUN --views hflip")
        augment_run(config)

    return run_command(command, place="--name")


if __name__ == "__main__":
    sys.exit(main())
