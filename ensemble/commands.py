"""Run the command line of blend.py."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

from ensemble.config import BlendConfig, read_blend_file
from foldblend.cli import early_value, parse_flags, run_command, typed_settings
from foldblend.errors import listed, require
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


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _parsed(argv: Sequence[str]) -> BlendConfig:
    """Return the settings of a blend from its command line, and the file of --config if given.

    Raises UserError for wrong flags or files.
    """
    file = early_value(argv, ("--config", "-c"))
    default = BlendConfig() if file is None else read_blend_file(file)
    if "costs" in typed_settings(BlendConfig, argv):
        # Flags win over the file, whose metric would contradict them.
        default = dataclasses.replace(default, metric=None)
    for index, word in enumerate(argv):
        flag, _, value = word.partition("=")
        if flag == "--weights" and not value:
            numbers = itertools.takewhile(lambda one: not one.startswith("--"), argv[index + 1 :])
            odd = [one for one in numbers if not _is_number(one)]
            require(not odd, f"--weights: {listed(odd)}: put the runs first, then --weights W W ..")
    return parse_flags(BlendConfig, argv, ABOUT, default=default)


def blend(argv: Sequence[str]) -> int:
    """Run the command line of blend.py and return its exit code."""

    def command() -> None:
        settings = dataclasses.asdict(_parsed(argv))
        # pandas takes a second to import: wrong flags should fail before that.
        from ensemble import blend as blending

        blending.blend(settings.pop("runs"), **settings)

    return run_command(command)
