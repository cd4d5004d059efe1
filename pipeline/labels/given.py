"""Labels of the models of another run, which the folds of a run learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from foldblend.runs.info import LabelsInfo, SearchInfo

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
    num_unlabelled: int
    """Number of images without labels."""
    optimistic: bool = False
    """Whether epochs of those models were chosen on the scored rows."""
    leaks: bool = False
    """Whether the folds of those models split groups."""
    num_scored_test: int = 0
    """Number of test images with a known label that are among the images without labels."""
    test_learned_by: tuple[str, ...] = ()
    """Runs that those models are of, or learned from, which learned such images."""
    searches: Mapping[str, SearchInfo] = field(default_factory=dict)
    """Searches that chose settings of those models on the scored rows, by run."""
    notes: tuple[str, ...] = ()
    """What readers of the score should know of those models, one line each."""

    def record(self) -> LabelsInfo:
        """Return the key `labels` of run.json."""
        found: LabelsInfo = {
            "kind": "teacher" if self.is_teacher else "pseudo",
            "of": {"name": self.name, "oof": self.oof},
            "num_unlabelled": self.num_unlabelled,
        }
        if self.num_scored_test:
            found["num_scored_test"] = self.num_scored_test
        if self.is_teacher:
            return {**found, "share": self.share, "temperature": self.temperature}
        return {**found, "threshold": self.threshold}

    @property
    def name(self) -> str:
        """Name of the run that gives the labels."""
        return self.source.name
