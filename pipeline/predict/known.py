"""Score of predictions on images whose labels are known."""

from __future__ import annotations

import numpy as np
import pandas as pd

from foldblend.errors import counted
from foldblend.scores.by_group import suited
from foldblend.scores.metrics import Metric, softmax
from foldblend.scores.rows import Rows
from foldblend.scores.score import score_interval
from pipeline.predict.inputs import Inputs

__all__ = ["Known"]


class Known:
    """Labels and logits of labelled images, collected chunk by chunk."""

    def __init__(self, inputs: Inputs) -> None:
        self.label_N = None if inputs.labels is None else np.asarray(inputs.labels, np.int64)
        self.groups = inputs.groups
        self.found: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, index_N: np.ndarray, logits_NC: np.ndarray) -> None:
        """Add the logits of images by number; those without a label are left out."""
        if self.label_N is not None:
            known_N = self.label_N[index_N] >= 0
            self.found.append((index_N[known_N], logits_NC[known_N]))

    def sentence(self, metric: Metric) -> str | None:
        """Return the score with its interval in words, or None without labels."""
        if self.label_N is None or not sum(len(index_N) for index_N, _ in self.found):
            return None
        index_N = np.concatenate([one for one, _ in self.found])
        names = index_N if self.groups is None else [self.groups[i] for i in index_N.tolist()]
        rows = Rows.of(self.label_N[index_N], pd.factorize(np.asarray(names))[0])
        proba_NC = softmax(np.concatenate([one for _, one in self.found]))
        metric = metric.by_image if self.groups is None else suited(metric, rows)
        score = score_interval(metric, rows, proba_NC)
        over = "images" if self.groups is None else counted(rows.num_groups, "group")
        return (
            f"{metric.title} {score} on {counted(len(rows), 'labelled image')} (95 % interval by"
            f" jackknife over {over})"
        )
