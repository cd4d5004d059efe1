"""Prediction from the command line: the table goes to a file, or to the screen."""

from __future__ import annotations

from typing import TextIO

from foldblend.progress import lines_to, write
from foldblend.spreadsheets import without_formulas
from foldblend.streams import print_aside
from pipeline.predict.api import check_out, open_inputs
from pipeline.predict.config import PredictConfig
from pipeline.predict.run import predict_session

__all__ = ["predict_command"]


def predict_command(config: PredictConfig, stream: TextIO) -> None:
    """Predict the images of a command line, as a CSV on `stream` unless it goes to a file."""
    check_out(config)
    # The screen's CSV can be piped, so lines of the log stay out of it.
    say = write if config.out is not None else print_aside
    with lines_to(say):
        session, inputs = open_inputs(config, config.images, say=say)
        table = predict_session(session, inputs, config, say=say)
    if table is not None:
        (without_formulas(table) if config.safe_csv else table).to_csv(stream, index=False)
