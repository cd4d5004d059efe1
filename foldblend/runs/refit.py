"""Refits of a run: models of all its rows, which share in its test logits and predictions.

A refit has no out-of-fold rows. So the score of the run, and all that is fitted on its rows, stay
those of the models of its folds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = [
    "KINDS",
    "model_name",
    "num_refits",
    "refit_mark",
    "refit_note",
    "refit_share",
    "with_refits",
]

KINDS = {
    "full": "trained on all rows",
    "soup": "with the mean weights of the folds' models (a soup)",
}
"""Kinds of refits in words, for the end of a sentence."""


def model_name(index: int, num_models: int) -> str:
    """Return the name of a model in file names: refits come after the models of the folds.

    Examples
    --------
    >>> model_name(4, 5), model_name(5, 5)
    ('fold_4', 'refit_0')
    """
    return f"fold_{index}" if index < num_models else f"refit_{index - num_models}"


def num_refits(info: Mapping[str, Any]) -> int:
    """Return the number of refits of a run, from its run.json."""
    return len(info.get("refit", {}).get("models", ()))


def refit_share(info: Mapping[str, Any]) -> float:
    """Return the share of the refits in the test logits, 0 without any, from a run.json."""
    return float(info["refit"]["share"]) if num_refits(info) else 0.0


def refit_mark(info: Mapping[str, Any]) -> str | None:
    """Return a text that identifies the refits of a run and their share, None without any.

    Runs that are made of this one record it, since its out-of-fold rows do not show a refit. The
    refits of a blend or TTA'd run are those of the runs that it was made of.
    """
    if not num_refits(info):
        sources = [info.get("of", {}), *info.get("members", ())]
        marks = [str(one.get("refit", "")) for one in sources]
        return ", ".join(marks) if any(marks) else None
    hashes = [
        digest[:8]
        for model in info["refit"]["models"]
        for name, digest in model.get("files", {}).items()
        if name.endswith("/best.safetensors")
    ]
    return f"{'-'.join(hashes)} x {refit_share(info):g}"


def with_refits(
    logits_NC: np.ndarray, refits_RNC: Sequence[np.ndarray], share: float
) -> np.ndarray:
    """Return the logits of a fold's model with those of the refits, float32.

    Every fold gets the same share, and so does their mean over folds. Since each fold keeps logits
    of its own, what was fitted on the logits of single models still fits them.

    Parameters
    ----------
    logits_NC
        Logits of the fold's model, of any shape.
    refits_RNC
        Logits of each refit, of the same shape; none leaves `logits_NC` as it is.
    share
        Weight of the mean of the refits, 0 to 1.

    Examples
    --------
    >>> with_refits(np.array([[1.0, 3.0]]), [np.array([[5.0, 3.0]])], 0.25)
    array([[2., 3.]], dtype=float32)
    """
    if not len(refits_RNC):
        return logits_NC
    mean_NC = np.mean([one.astype(np.float64) for one in refits_RNC], axis=0)
    mixed_NC = (1 - share) * logits_NC.astype(np.float64) + share * mean_NC
    return np.asarray(mixed_NC, np.float32)


def refit_note(info: Mapping[str, Any], num_models: int) -> str | None:
    """Return the sentence on whose score stands for the refits of a run; None without any.

    `num_models` is the number of models of its folds.
    """
    num = num_refits(info)
    if not num:
        return None
    share = refit_share(info)
    several = num > 1
    subject = f"{num} models" if several else "one model"
    rest = "have the rest" if share < 1 else "are not needed for them"
    return (
        f"{subject} {KINDS[info['refit']['kind']]} {'take' if several else 'takes'} {share:.3g} of"
        f" the test logits and of predictions; the models of the {num_models} folds {rest}, and"
        f" the score is theirs, since {'the refits have' if several else 'the refit has'} none"
    )
