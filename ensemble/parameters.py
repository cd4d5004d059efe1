"""Fitted method of a blend with its offsets, as it is applied to the members' logits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from ensemble.auto import apply
from ensemble.methods.base import Fitted
from ensemble.methods.mixture import Mixture, without_offsets
from foldblend.image_columns import ImageColumns
from foldblend.runs.folder import logit_columns, with_logits
from foldblend.runs.rows import mean_over_folds

__all__ = ["Parameters"]


@dataclass(frozen=True, slots=True)
class Parameters:
    """All that a blend needs to be applied to its members' logits."""

    method: str
    """Name of the method."""
    fitted: Fitted
    offsets_C: np.ndarray
    """One per class, added to log-probabilities; zeros where offsets are not used."""
    of_shares: bool
    """Whether logits are logs of vote shares; then folds are averaged as shares."""

    def as_dict(self) -> dict[str, Any]:
        """Return a summary as plain values, which blend.yaml holds as `found`."""
        return {
            "method": self.method,
            "fitted": self.fitted.as_dict(),
            "offsets": self.offsets_C.tolist(),
        }

    @property
    def has_offsets(self) -> bool:
        """Return whether any offset is not zero, so that decisions and probabilities differ."""
        of_parts = isinstance(self.fitted, Mixture) and self.fitted.offsets_SC.any()
        return bool(self.offsets_C.any() or of_parts)

    def plain(self) -> Parameters:
        """Return the same blend without offsets, whose logits are those of probabilities."""
        return replace(
            self,
            fitted=without_offsets(self.fitted),
            offsets_C=np.zeros_like(self.offsets_C),
        )

    # One thread makes sums the same on any number of cores.
    @threadpool_limits.wrap(limits=1)
    def apply(
        self, logits_MNC: Iterable[np.ndarray], columns: ImageColumns | None = None
    ) -> np.ndarray:
        """Return the blended logits N x C float64 of one model of each member.

        Members' logits N x C are read one after the other, as float32, which run folders hold.
        Columns of the images must be given where the fitted method `needs` any.
        """
        # The order of the axes decides the order in which numpy adds, and so the last bit.
        return apply(
            self.fitted,
            self.offsets_C,
            (np.ascontiguousarray(logits_NC, np.float32) for logits_NC in logits_MNC),
            columns,
        )

    def table(
        self,
        ids: pd.Series,
        folds: Iterable[Iterable[np.ndarray]],
        columns: ImageColumns | None = None,
    ) -> pd.DataFrame:
        """Return the test table of the blend: image_id, and the mean logits over the folds.

        The method is applied to single models. The mean, which is smoother, is taken after that.

        Parameters
        ----------
        ids
            Names of the N images.
        folds
            For each fold, the logits N x C of each member's model of this fold.
        columns
            Columns of the images, where the fitted method needs any.
        """
        keys = ids.to_frame("image_id")
        tables = [with_logits(keys, self.apply(logits_MNC, columns)) for logits_MNC in folds]
        return mean_over_folds(tables, logit_columns(len(self.offsets_C)), of_shares=self.of_shares)
