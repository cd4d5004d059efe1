"""Scores of trials on the same held-out rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foldblend.scores.metrics import METRICS, Metric, softmax
from foldblend.scores.rows import Rows
from foldblend.scores.run_metric import scored_by
from foldblend.scores.score import Score, left_out_score, score_of
from pipeline.job import Prepared

__all__ = ["Scoring"]


@dataclass(frozen=True)
class Scoring:
    """The metric of a search and the rows of all repeats, in the order of held-out predictions."""

    metric: Metric
    rows: Rows
    num_classes: int

    @classmethod
    def of(cls, run: Prepared) -> Scoring:
        """Return the scoring of a prepared run."""
        train = run.manifest.train
        repeats = len(run.fold_RN)
        output = run.config.output
        record = {
            "score_by": output.score_by,
            "group_pool": output.group_pool,
            "data": {"group_name": run.manifest.group_name},
        }
        rows = Rows.of(
            np.tile(train["label"].to_numpy(), repeats),
            np.tile(train["group"].to_numpy(), repeats),
            repeat_N=np.repeat(np.arange(repeats), len(train)),
            fold_N=run.fold_RN.reshape(-1),
            group_name=run.manifest.group_name,
        )
        metric = scored_by(METRICS[output.metric], record)
        return cls(metric, rows.coded(), run.manifest.num_classes)

    def value(self, logits_NC: np.ndarray) -> float:
        """Return the score of the rows that are predicted, with the metric's own sign."""
        at = np.isfinite(logits_NC).all(axis=1)
        score = score_of(self.metric, self.rows.take(at), softmax(logits_NC[at]), resampled=False)
        return self.metric.sign * score.value

    def score(self, logits_NC: np.ndarray) -> Score:
        """Return the score of the rows that are predicted, with what its interval needs."""
        at = np.isfinite(logits_NC).all(axis=1)
        return left_out_score(self.metric, self.rows.take(at), softmax(logits_NC[at]))
