"""The command lines of run_cv.py, run_tta.py and predict.py."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from foldblend.cli import parse_flags, run_command, with_flag
from foldblend.errors import UserError
from foldblend.failures import CLOSE
from foldblend.help import About
from foldblend.torchrun import World, world_of
from pipeline.config.command_line import parse_run_config
from pipeline.watch.hangup import outlive_terminal

__all__ = ["predict", "run_cv", "run_tta"]

ABOUT_CV = About(
    "run_cv.py",
    "Cross-validate an image classifier: make folds, train a model per fold, and write out-of-fold"
    " (OOF) and test logits with a report of the OOF score. DATA is short for --data DATA.",
    (
        "--folds 5 --backbone efficientnet_b3",
        "FOLDER --group-regex 'IMG_(\\d+)' --img-size 168x224 --finetune head",
        "train.csv --image-col file --label-col kind --group-col patient",
        "--config outputs/RUN/config.yaml --name again",
    ),
    first="[DATA]",
)
ABOUT_TTA = About(
    "run_tta.py",
    "Test-time augmentation of a finished run: predict several views of each image and average"
    " the predictions.",
    (
        "outputs/RUN",
        "outputs/RUN --views hflip,scale:1.15 --name RUN_two",
    ),
)
ABOUT_PREDICT = About(
    "predict.py",
    "Predict the classes of images with a finished run, TTA'd run, blend or exported file, as it"
    " predicted its test set.",
    (
        "outputs/RUN new/ --out predictions.csv",
        "outputs/BLEND image.jpg",
        "outputs/BLEND table.csv --budget 2x --unsure 0.1 --coverage 0.9 --out predictions.csv",
    ),
)


def predict(argv: Sequence[str]) -> int:
    """Run the command line of predict.py and return its exit code."""

    def command() -> None:
        from pipeline.predict.config import PredictConfig

        config = parse_flags(PredictConfig, argv, ABOUT_PREDICT)
        if not config.run or not config.images:
            what = "IMAGES" if config.run else "RUN"
            raise UserError(
                f"{what}: missing; pass a finished run and images, such as python predict.py"
                " outputs/RUN new/ --out predictions.csv"
            )
        # Importing torch takes seconds, so the flags are checked first.
        from pipeline.predict.screen import predict_command

        predict_command(config, sys.stdout)

    return run_command(command, place="--out")


def run_cv(argv: Sequence[str]) -> int:
    """Run the command line of run_cv.py and return its exit code."""
    world = world_of()
    if world.size > 1:
        # Torch's own warnings, of which it reads this when it is loaded: each process would print
        # that it looks for unused weights (see `Team.wrap`), and others that sockets have closed.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if world.rank:
        from pipeline.training.leading import serve

        return serve(world)

    def command() -> None:
        config = parse_run_config(with_flag(argv, "--data"), ABOUT_CV)
        # Importing torch takes seconds, so flags and columns are checked first.
        from folds.data.source import check_source

        check_source(config.data)
        from pipeline.cv import cross_validate_seeds

        with outlive_terminal(Path(config.output.output) / "hangup.log") as say:
            cross_validate_seeds(config, say=say)

    def led() -> None:
        with _led(world):
            command()

    spare = f"{CLOSE}, or pass a smaller --batch-size, fewer --workers or --cache disk"
    return run_command(led, spare=spare)


@contextlib.contextmanager
def _led(world: World) -> Iterator[None]:
    """Lead the other processes of torchrun, if there are any."""
    if world.size == 1:
        yield
        return
    from pipeline.training.leading import lead

    with lead(world):
        yield


def run_tta(argv: Sequence[str]) -> int:
    """Run the command line of run_tta.py and return its exit code."""

    def command() -> None:
        # Importing scipy takes a while, so run_cv does without it.
        from tta.config import TtaConfig
        from tta.views.names import describe_views

        views = ("Views:", *(f"  {line}" for line in describe_views()))
        config = parse_flags(TtaConfig, argv, dataclasses.replace(ABOUT_TTA, more=views))
        if not config.run:
            raise UserError(
                "RUN: missing; pass the folder of a finished run, such as python run_tta.py"
                " outputs/RUN --views hflip"
            )
        # Importing pandas takes a while, so the flags are checked first.
        from pipeline import run_tta as tta_run

        tta_run.run_tta(**dataclasses.asdict(config))

    spare = f"{CLOSE}, or pass a smaller --validation-batch-size or fewer --workers"
    return run_command(command, place="--name", spare=spare)
