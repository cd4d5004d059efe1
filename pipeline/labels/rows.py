"""Training rows of a fold with the labels that the models of another run give."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from foldblend.errors import UserError
from foldblend.scores.metrics import softmax
from pipeline.job import FoldJob, Prepared
from pipeline.labels.kept import LABELS, TRAIN, UNLABELLED, Kept, kept
from pipeline.labels.make import pseudo_of

__all__ = ["further_rows", "kept_of_fold", "shares_of", "taught"]


def kept_of_fold(job: FoldJob, index: int) -> Kept:
    """Return the kept logits of a fold; raise UserError if they are not there any more."""
    found = kept(job.folder, index, job.run)
    if found is None:
        raise UserError(
            f"{job.folder / LABELS}: the labels of {job.title(index)} are gone or damaged; run the"
            " same command again, which makes them again"
        )
    return found


def _proba(logits_NC: np.ndarray, temperature: float) -> np.ndarray:
    return softmax(logits_NC.astype(np.float64) / temperature)


def shares_of(run: Prepared, found: Kept, ids: Sequence[str], label_N: np.ndarray) -> np.ndarray:
    """Return what a teacher and the true labels teach together: shares of classes, N x C float32.

    Parameters
    ----------
    run
        The run of the student.
    found
        The teacher's logits for the fold.
    ids, label_N
        Names of labelled images, and their classes in training.

    References
    ----------
    Hinton, Vinyals and Dean (2015): Distilling the Knowledge in a Neural Network.
    """
    labels = run.labels
    assert labels is not None
    known, logits_NC = found.part(TRAIN)
    rows = pd.Index(known).get_indexer(pd.Index(ids))
    assert (rows >= 0).all()
    true_NC = np.eye(run.manifest.num_classes)[label_N]
    proba_NC = _proba(logits_NC[rows], labels.temperature)
    return np.asarray((1 - labels.share) * true_NC + labels.share * proba_NC, np.float32)


def further_rows(run: Prepared, found: Kept) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the images without labels that a fold learns, with `label`, and their shares N x C.

    A teacher's images have its probabilities, of which the largest is the label. Pseudo-labels are
    one class each.
    """
    labels = run.labels
    table = run.manifest.unlabelled
    assert labels is not None
    num_classes = run.manifest.num_classes
    if table is None:
        return run.manifest.train.head(0), np.empty((0, num_classes), np.float32)
    ids, logits_NC = found.part(UNLABELLED)
    if labels.is_teacher:
        share_NC = _proba(logits_NC, labels.temperature)
        label_N = share_NC.argmax(axis=1)
        used_N = np.ones(len(ids), bool)
    else:
        one = pseudo_of(found, labels)
        share_NC = np.eye(num_classes)[one.label_N]
        label_N = one.label_N
        used_N = one.used_N
    rows = pd.Index(table["image_id"]).get_indexer(pd.Index(ids[used_N]))
    assert (rows >= 0).all()
    extra = table.iloc[rows].drop(columns="held_with")
    learnt_N = label_N[used_N].astype(np.int64)
    return extra.assign(label=learnt_N, label_raw=learnt_N), share_NC[used_N].astype(np.float32)


def taught(job: FoldJob, index: int, train: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray | None]:
    """Return the training rows of a fold with further images, and the shares of classes N x C.

    The shares are None where each row has one class.
    """
    labels = job.run.labels
    if labels is None:
        return train, None
    found = kept_of_fold(job, index)
    extra, extra_NC = further_rows(job.run, found)
    table = pd.concat([train, extra.reindex(columns=train.columns)], ignore_index=True)
    if not labels.is_teacher:
        return table, None
    own_NC = shares_of(job.run, found, train["image_id"].tolist(), train["label"].to_numpy())
    return table, np.concatenate([own_NC, extra_NC])
