"""The command line of export_model.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from foldblend.cli import parse_flags, run_command
from foldblend.errors import UserError
from foldblend.help import About
from pipeline.export.config import ExportConfig

__all__ = ["export_model"]

ABOUT = About(
    "export_model.py",
    "Export a finished run, TTA'd run or blend as one file, which predict.py takes in place of the"
    " run folder. It needs neither the data nor the folders of the run and its members.",
    (
        "outputs/RUN --to model.zip",
        "outputs/RUN --to small.zip --half",
        "outputs/RUN --onnx graphs",
    ),
)


def export_model(argv: Sequence[str]) -> int:
    """Run the command line of export_model.py and return its exit code."""

    def command() -> None:
        config = parse_flags(ExportConfig, argv, ABOUT)
        if not config.run:
            raise UserError("RUN: missing; pass the folder of a finished run, such as outputs/RUN")
        # Importing torch takes seconds, so the flags are checked first.
        from pipeline.export import write

        settings = dataclasses.asdict(config)
        write.export_model(settings.pop("run"), settings.pop("to"), **settings)

    return run_command(command, place="--to", resumes=False)
