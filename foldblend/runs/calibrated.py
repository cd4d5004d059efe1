"""Calibrated probabilities of a run, from its folder only and without torch.

Offsets per class (see `ensemble.offsets`) move the decision towards rare classes, and are no part
of a probability. So the class is that of the largest logit, and the probabilities are those of the
same blend without offsets, which are the *plain* logits here. The class need not have the largest
probability.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from foldblend.errors import listed
from foldblend.runs.broken import BrokenRun
from foldblend.runs.oof import coded_rows, oof_rows
from foldblend.runs.run import Run
from foldblend.scores.calibration import Calibration, calibrate
from foldblend.scores.conformal import Conformal
from foldblend.scores.coverage import Coverage, out_of_fold_coverage

__all__ = [
    "PLAIN_OOF",
    "PLAIN_TEST",
    "Calibration",
    "calibration_of",
    "conformal_of",
    "coverage_of",
    "has_plain",
    "plain_oof",
    "plain_test",
]

PLAIN_OOF = "plain_oof.parquet"
PLAIN_TEST = "plain_test.parquet"


def has_plain(run: Run) -> bool:
    """Return whether a run has logits without offsets apart from those of its decisions."""
    return run.has(PLAIN_OOF)


def plain_oof(run: Run) -> np.ndarray:
    """Return the out-of-fold logits without offsets, N x C float32, in the order of `run.oof`.

    They are the logits of the run itself unless it is a blend with offsets. Blends of versions that
    did not write plain_oof.parquet have offsets in theirs.

    Raises
    ------
    BrokenRun
        If plain_oof.parquet is not of these rows, or is damaged.
    """
    file = run.path / PLAIN_OOF
    table = run.oof
    if has_plain(run):
        table = run.table("plain_oof")
        keys = ["image_id", "repeat"]
        if not table[keys].equals(run.oof[keys]):
            raise BrokenRun(f"{file}: not the rows of oof.parquet; make the blend again", run.path)
    return run.logits(table)


def plain_test(run: Run) -> pd.DataFrame | None:
    """Return image_id and the mean test logits without offsets, in the order of `run.test`.

    None without a test set. Without offsets it is `run.test` itself.

    Raises
    ------
    BrokenRun
        If plain_test.parquet is not of the images of test.parquet, or is damaged.
    """
    file = run.path / PLAIN_TEST
    if run.test is None or not run.has(PLAIN_TEST):
        return run.test
    table = run.table("plain_test")
    if not table["image_id"].equals(run.test["image_id"]):
        raise BrokenRun(f"{file}: not the images of test.parquet; make the blend again", run.path)
    return table


def calibration_of(run: Run) -> Calibration:
    """Return how logits of a run become probabilities, fitted on its out-of-fold rows.

    It depends on the run folder alone, and needs only run.json and the out-of-fold tables there.
    Test predictions that were imported as means over folds get no temperature, because they are
    smoother than the single models on which it is fitted.
    """
    found = calibrate(plain_oof(run), coded_rows(run.oof, run.group_name))
    means = run.info.get("imported_means")
    if not means:
        return found
    return found.left_out(
        f"test predictions of {listed(means)} were imported as their mean over folds, and a"
        " temperature is fitted on single models"
    )


def conformal_of(run: Run) -> Conformal:
    """Return what sets of classes are made from: the out-of-fold rows of a run.

    Its models are numbered like the run's test_fold_0.parquet, test_fold_1.parquet and so on.
    """
    logits_NC = plain_oof(run)
    rows = oof_rows(run)
    return Conformal.of(logits_NC, rows, temperature=calibrate(logits_NC, rows).temperature)


def coverage_of(run: Run, coverage: float, *, by_class: bool = False) -> Coverage | None:
    """Return the coverage that sets of classes have out of fold; None for a single fold or group.

    See `out_of_fold_coverage` for the parameters.
    """
    logits_NC = plain_oof(run)
    rows = oof_rows(run)
    temperature = calibrate(logits_NC, rows).temperature
    return out_of_fold_coverage(
        logits_NC, rows, coverage, temperature=temperature, by_class=by_class
    )
