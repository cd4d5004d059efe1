"""Logits and scores of a soup on the images of a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from foldblend.scores.metrics import METRICS, softmax
from pipeline.infer import Model, predict
from pipeline.job import TrainingJob
from pipeline.memory import Chunks
from tta.merge import mean_logit
from tta.views.names import view_of

__all__ = ["predict_rows", "score_rows"]


def predict_rows(
    job: TrainingJob, model: Model, table: pd.DataFrame, views: Sequence[str], chunks: Chunks
) -> np.ndarray:
    """Return the logits V x N x C of a table's images, in batches as the folds have them."""
    return predict(
        model,
        job.feeder.rows(table, say=job.say),
        job.run.preprocess,
        job.compute,
        [view_of(name) for name in views],
        chunks=chunks,
        pad_to=job.run.config.infer.validation_batch_size if job.padded else None,
    )


def score_rows(job: TrainingJob, index: int, table: pd.DataFrame, logits_VNC: np.ndarray) -> float:
    """Return the score of logits of a table's images by the run's metric, NaN for none.

    Raises UserError if logits are not finite.
    """
    job.check_finite(index, logits_VNC)
    metric = METRICS[job.run.config.output.metric]
    return metric.score(table["label"].to_numpy(), softmax(mean_logit(logits_VNC)))
