"""Labels of the models of another run, which the folds of a run learn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Labels"]


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Labels of the models of another run, for the training rows of each fold."""

    is_teacher: bool
    """Whether rows get probabilities of a teacher; otherwise images get pseudo-labels."""
    source: Path
    """The run that gives them."""
    oof: str
    """Hash of its oof.parquet."""
    key: str
    """Hash of its models, its out-of-fold rows and the images without labels."""
    share: float
    """Share of a teacher's probabilities in what labelled images teach."""
    temperature: float
    """Divides a teacher's logits."""
    threshold: float
    """Calibrated probability from which a pseudo-label is used."""

    @property
    def name(self) -> str:
        """Name of the run that gives the labels."""
        return self.source.name
