"""Settings of labels that models of a finished run give: a teacher's, or pseudo-labels.

See `pipeline.config.run` for the rules that fields and their help texts follow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from foldblend.errors import require
from foldblend.flags import Needs, expand_home, flag

__all__ = ["TEST", "LabelsConfig"]

TEST = "test"
"""Value of --unlabelled for the test set."""


def _has_teacher(run: Any) -> bool:
    return run.labels.teacher is not None


def _is_pseudo(run: Any) -> bool:
    return run.labels.pseudo_from is not None


TEACHER = Needs("--teacher", _has_teacher)
PSEUDO = Needs("--pseudo-from", _is_pseudo)
EITHER = Needs("--teacher or --pseudo-from", lambda run: run.labels.source is not None)


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelsConfig:
    # The run key has hashes of the models and of the images instead of their paths.

    teacher: str | None = flag(None, before=None, identity=False, path=True)
    """Finished run, TTA'd run or blend that this run learns from, as a student on the same folds.
    The student of a fold has the probabilities of models that never saw that fold.
    """
    teacher_share: float = flag(0.5, before=0.5, needs=TEACHER)
    """Share of the teacher's probabilities in what a labelled image teaches, above 0 and up to 1;
    the true label has the rest.
    """
    teacher_temperature: float = flag(2.0, before=2.0, needs=TEACHER)
    """Divides the teacher's logits; above 1 they tell more of the classes that are less likely."""
    pseudo_from: str | None = flag(None, before=None, identity=False, path=True)
    """Finished run, TTA'd run or blend that labels the images of --unlabelled for training.
    Those that its models of a fold are sure of join the training images of that fold only.
    """
    pseudo_threshold: float = flag(0.9, before=0.9, needs=PSEUDO)
    """Calibrated probability from which a pseudo-label is used, above 0 and below 1."""
    pseudo_rounds: int = flag(1, before=1, identity=False, needs=PSEUDO)
    """Number of runs one after the other, each with pseudo-labels of the one before.
    They are named NAME-round1, NAME-round2 and so on, and the last one NAME.
    """
    unlabelled: str | None = flag(None, before=None, identity=False, needs=EITHER)
    """Images without labels that the teacher or --pseudo-from labels: test (the test set), or a
    table, a folder or a pattern, as for --test. Default: test for --pseudo-from, otherwise none.
    """

    def __post_init__(self) -> None:
        expand_home(self, "teacher", "pseudo_from", "unlabelled")
        require(
            self.teacher is None or self.pseudo_from is None,
            "--teacher with --pseudo-from: two models for one image; pass one of them (a student"
            " learns from --unlabelled images too)",
        )
        share = self.teacher_share
        require(0 < share <= 1, f"--teacher-share {share}: pass more than 0, up to 1")
        scale = self.teacher_temperature
        require(
            0 < scale < math.inf, f"--teacher-temperature {scale}: pass a finite number above 0"
        )
        least = self.pseudo_threshold
        require(0 < least < 1, f"--pseudo-threshold {least}: pass more than 0, less than 1")
        require(self.pseudo_rounds >= 1, f"--pseudo-rounds {self.pseudo_rounds}: pass 1 or more")

    @property
    def source(self) -> str | None:
        """The run that gives labels, or None."""
        return self.teacher if self.teacher is not None else self.pseudo_from

    @property
    def source_flag(self) -> str:
        """The flag that names the source."""
        return "--teacher" if self.teacher is not None else "--pseudo-from"

    @property
    def images(self) -> str | None:
        """The images to label, `TEST` for the test set, or None; --unlabelled or its default."""
        if self.unlabelled is None and self.pseudo_from is not None:
            return TEST
        return self.unlabelled if self.source is not None else None
