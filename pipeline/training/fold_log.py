"""Log of a fold for TensorBoard and W&B: scores of an epoch, and images of mistakes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from foldblend.scores.confusion import confusion_counts, worst_mistakes
from foldblend.scores.metrics import METRICS
from pipeline.job import TrainingJob
from pipeline.watch.tracking import Trackers, attribute_scores

__all__ = ["NUM_SHOWN", "scalars_of", "show_mistakes"]

# Images that are shown of a training batch, and of the worst mistakes.
NUM_SHOWN = 16


def scalars_of(
    row: Mapping[str, float], job: TrainingJob, label_N: np.ndarray, proba_NC: np.ndarray
) -> dict[str, float]:
    """Return the values of an epoch by their tags.

    `row` is its row of log.csv. The probabilities are those of the held-out rows.
    """
    metric = job.run.config.output.metric
    return {
        "train/loss": row["train_loss"],
        "train/lr": row["lr"],
        "train/images_per_s": row["images_per_s"],
        "val/loss": row["val_log_loss"],
        "val/f1_macro": METRICS["f1_macro"].score(label_N, proba_NC),
        f"val/{metric}": row[f"val_{metric}"],
        **attribute_scores(label_N, proba_NC, job.run.manifest.attributes),
    }


def show_mistakes(
    trackers: Trackers,
    job: TrainingJob,
    held_out: pd.DataFrame,
    proba_NC: np.ndarray,
    epoch: int,
) -> None:
    """Show the most confident mistakes on the held-out rows and their confusion matrix."""
    label_N = held_out["label"].to_numpy()
    names = job.run.manifest.classes
    worst = worst_mistakes(label_N, proba_NC, NUM_SHOWN)
    if len(worst):
        stored = job.feeder.source.of(held_out)
        images = np.stack([job.run.preprocess.crop(stored[int(row)]) for row in worst])
        captions = [
            f"true: {names[label_N[row]]}\npredicted: {names[one.argmax()]} ({one.max():.0%})"
            for row, one in zip(worst, proba_NC[worst], strict=True)
        ]
        trackers.images("val/worst", images, captions, epoch)
    counts_CC = confusion_counts(label_N, proba_NC.argmax(axis=1), len(names))
    trackers.confusion("val/confusion", counts_CC, names, epoch)
