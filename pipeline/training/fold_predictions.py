"""Logits of tables by the model of a fold, while it is trained and at its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from pipeline.data.parts import WHOLE
from pipeline.infer import Model, predict
from pipeline.job import TrainingJob
from pipeline.memory import Chunks
from tta.views.names import view_of

__all__ = ["FoldPredictions"]


class FoldPredictions:
    """Predictions of tables by the model of a fold; each process of a team makes a part of them."""

    def __init__(
        self, job: TrainingJob, say: Callable[[str], None], each_epoch: Sequence[pd.DataFrame]
    ) -> None:
        """Predict with the settings of a job; tables of `each_epoch` keep their workers.

        `say` gets a line if memory runs out.
        """
        self.job = job
        self.each_epoch = each_epoch
        self.chunks = Chunks(say, most=job.limits.chunk)
        self._loaders: dict[int, Any] = {}

    def __call__(
        self,
        model: Model,
        table: pd.DataFrame,
        views: Sequence[str],
        *,
        pad_to: int | None = None,
    ) -> np.ndarray:
        """Return the logits V x N x C of a table, as `pipeline.infer.predict` does."""
        job = self.job
        self._release()
        loader = self._rows(table)
        logits_VNC = None
        # Of a small table, a process of a team may have no batch.
        if len(loader):
            logits_VNC = predict(
                model,
                loader,
                job.run.preprocess,
                job.compute,
                [view_of(name) for name in views],
                chunks=self.chunks,
                pad_to=pad_to,
            )
        self._release()
        if job.team is not None:
            size = job.run.config.infer.validation_batch_size
            return job.team.rows_of_all(logits_VNC, len(table), size)
        assert logits_VNC is not None
        return logits_VNC

    def _rows(self, table: pd.DataFrame) -> Any:
        """Return the batches of a table; those that each epoch needs keep their workers."""
        key = id(table)
        if key not in self._loaders:
            part = WHOLE if self.job.team is None else self.job.team.part
            loader = self.job.feeder.rows(table, say=self.job.say, part=part)
            if not any(table is one for one in self.each_epoch):
                # The test images come last, so that other workers have nothing more to do.
                self._loaders.clear()
                return loader
            self._loaders[key] = loader
        return self._loaders[key]

    def _release(self) -> None:
        """Give memory that torch keeps back to the GPU, where other folds need it.

        Blocks of training are of little use to inference, and those of inference to training.
        """
        if self.job.limits.releases and self.job.compute.is_cuda:
            torch.cuda.empty_cache()
