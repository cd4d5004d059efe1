"""Sets of classes that contain the true one with a given coverage, by cross-conformal prediction.

A class is in the set of an image unless its probability is unusually low: lower than that of the
true class on nearly all out-of-fold rows. Each fold's model is compared with the rows that it has
not seen, those of its fold, and every group weighs the same.

References
----------
Vovk 2015, "Cross-conformal predictors". Barber, Candes, Ramdas and Tibshirani 2021, "Predictive
inference with the jackknife+". Sadinle, Lei and Wasserman 2019, "Least ambiguous set-valued
classifiers with bounded error levels", for the score. Lee, Barber and Willett 2023,
"Distribution-free inference with hierarchical data", for rows in groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from foldblend.scores.metrics import log_softmax
from foldblend.scores.rows import Rows

__all__ = ["Conformal", "sets"]

CLOSE = 1e-9  # shares of groups that differ by less are equal but for rounding


def sets(p_NC: np.ndarray, coverage: float) -> np.ndarray:
    """Return which classes are in the set of each image, N x C booleans.

    Parameters
    ----------
    p_NC
        P-values of `Conformal.p_values`.
    coverage
        Wanted share of images whose set contains the true class, between 0 and 1.

    Returns
    -------
    np.ndarray
        True for classes with a p-value above 1 - coverage, and for the class with the largest
        p-value, so that no set is empty.

    Examples
    --------
    >>> sets(np.array([[0.6, 0.15, 0.02], [0.05, 0.04, 0.01]]), coverage=0.9).tolist()
    [[True, True, False], [True, False, False]]
    """
    inside_NC = p_NC > 1 - coverage + CLOSE
    inside_NC[np.arange(len(p_NC)), p_NC.argmax(axis=1)] = True
    return inside_NC


def _unlikeliness(logits_NC: np.ndarray, temperature: float) -> np.ndarray:
    """Return minus the log of calibrated probabilities, N x C float32.

    It orders classes as 1 - probability does, but float32 can tell apart probabilities near 0 and
    near 1 by it.
    """
    # In one order of the axes, which decides the last digit of sums.
    scaled_NC = np.ascontiguousarray(logits_NC, np.float64) / temperature
    return (-log_softmax(scaled_NC)).astype(np.float32)


def _weights(*keys: np.ndarray) -> np.ndarray:
    """Return 1 / the number of rows that have the same keys as each row, N."""
    code_N = np.zeros(len(keys[0]), np.int64)
    for key_N in keys:
        names, of_key_N = np.unique(key_N, return_inverse=True)
        code_N = np.unique(code_N * len(names) + of_key_N, return_inverse=True)[1]
    return np.asarray(1 / np.bincount(code_N)[code_N])


def _weight_above(score_N: np.ndarray, weight_N: np.ndarray, at_X: np.ndarray) -> np.ndarray:
    """Return the total weight of the scores that are at least as large as each of others."""
    order_N = np.argsort(score_N, kind="stable")
    sum_N = np.concatenate([[0.0], np.cumsum(weight_N[order_N])])
    return np.asarray(sum_N[-1] - sum_N[np.searchsorted(score_N[order_N], at_X, side="left")])


@dataclass(frozen=True, slots=True)
class Conformal:
    """Out-of-fold rows with which the classes of new images are compared.

    Examples
    --------
    No class of the new image is as likely as its first, and none of 99 rows was as unlikely to
    have its true class as the image is to have its second:

    >>> logits_NC = np.random.default_rng(0).normal(size=(99, 2)).astype(np.float32)
    >>> rows = Rows.of(np.zeros(99, int), np.arange(99))
    >>> conformal = Conformal.of(logits_NC, rows)
    >>> conformal.p_values([np.array([[9.0, -9.0]], np.float32)]).round(2).tolist()
    [[1.0, 0.01]]
    """

    temperature: float
    """What logits are divided by."""
    score_N: np.ndarray
    """Minus the log of the true class's probability, of each out-of-fold row, float32."""
    label_N: np.ndarray
    """Class of each row, int32."""
    weight_N: np.ndarray
    """1 / the number of rows of the same group and repeat, so that groups weigh the same."""
    class_weight_N: np.ndarray
    """1 / the number of rows of the same group, class and repeat."""
    model_N: np.ndarray
    """Number of the model that predicted each row, int32: folds of the first repeat, and so on."""
    repeat_N: np.ndarray
    """Repeat of each row, int32."""

    @classmethod
    def of(cls, logits_NC: np.ndarray, rows: Rows, *, temperature: float = 1.0) -> Conformal:
        """Return what is needed to compare new images with out-of-fold rows.

        Parameters
        ----------
        logits_NC
            Out-of-fold logits without offsets.
        rows
            Their labels, groups, repeats and folds.
        temperature
            That of the calibration.
        """
        scores_NC = _unlikeliness(logits_NC, temperature)
        folds = np.stack([rows.repeat_N, rows.fold_N])
        return cls(
            temperature,
            scores_NC[np.arange(len(rows)), rows.label_N],
            rows.label_N.astype(np.int32),
            _weights(rows.repeat_N, rows.group_N),
            _weights(rows.repeat_N, rows.group_N, rows.label_N),
            np.unique(folds, axis=1, return_inverse=True)[1].ravel().astype(np.int32),
            np.unique(rows.repeat_N, return_inverse=True)[1].astype(np.int32),
        )

    def as_arrays(self) -> dict[str, np.ndarray]:
        """Return the content as arrays by name, for a file; the temperature is not in it."""
        return {
            "score": self.score_N,
            "label": self.label_N,
            "weight": self.weight_N,
            "class_weight": self.class_weight_N,
            "model": self.model_N,
            "repeat": self.repeat_N,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], *, temperature: float) -> Conformal:
        """Return what `as_arrays` was made from."""
        names = ("score", "label", "weight", "class_weight", "model", "repeat")
        return cls(temperature, *(arrays[name] for name in names))

    @property
    def num_models(self) -> int:
        return int(self.model_N.max()) + 1

    def without_promise(self, coverage: float, num_classes: int) -> list[int]:
        """Return the classes with fewer than 1 / (1 - coverage) groups.

        With so few, no coverage can be promised for images of the class.

        Examples
        --------
        >>> rows = Rows.of(np.repeat([0, 1], [9, 10]), np.arange(19))
        >>> Conformal.of(np.zeros((19, 2)), rows).without_promise(0.9, 2)
        [0]
        """
        # Weights of the rows of a group and a class add up to 1 in each repeat.
        total_C = np.bincount(self.label_N, self.class_weight_N, minlength=num_classes)
        groups_C = total_C / len(np.unique(self.repeat_N))
        least = 1 / (1 - coverage) if coverage < 1 else np.inf
        return np.flatnonzero(groups_C < least * (1 - CLOSE)).tolist()

    def sets(
        self,
        plain_KNC: Sequence[np.ndarray],
        coverage: float,
        *,
        models: Sequence[int] | None = None,
        by_class: bool = False,
    ) -> np.ndarray:
        """Return which classes are in the set of each image, N x C booleans.

        With `by_class` the coverage holds for the images of each class, except for those of
        `without_promise`, which are compared with all rows. The other parameters are those of
        `sets` and `p_values`.
        """
        num_classes = plain_KNC[0].shape[1]
        apart: list[int] = []
        if by_class:
            few = self.without_promise(coverage, num_classes)
            apart = [label for label in range(num_classes) if label not in few]
        return sets(self.p_values(plain_KNC, models=models, by_class=apart), coverage)

    def p_values(
        self,
        plain_KNC: Sequence[np.ndarray],
        *,
        models: Sequence[int] | None = None,
        by_class: Sequence[int] = (),
    ) -> np.ndarray:
        """Return the p-value of each class for each image, N x C float64.

        It is the share of groups whose rows are at least as unlikely to have their true class as
        the image is to have this class. The image counts as one more group.

        Parameters
        ----------
        plain_KNC
            Logits without offsets of each model, N x C. A list of one, the mean of several models,
            is compared with all rows.
        models
            Numbers of the models that `plain_KNC` is of (default: all, in the order of
            test_fold_0.parquet, test_fold_1.parquet ...).
        by_class
            Classes that are compared only with rows of the same class, so that coverage holds for
            the images of each. Those of `without_promise` should not be among them.

        Raises
        ------
        ValueError
            If the number of logits is not that of the models.
        """
        scores = [_unlikeliness(logits_NC, self.temperature) for logits_NC in plain_KNC]
        every = range(self.num_models)
        if models is None and len(scores) == 1:
            # A mean of models, or the only one: all of its rows are compared with.
            parts = [(scores[0], np.ones(len(self.score_N), bool))]
        else:
            wanted = list(every if models is None else models)
            if len(wanted) != len(scores):
                raise ValueError(f"logits of {len(scores)} models, not of {len(wanted)}")
            parts = [
                (scores_NC, self.model_N == model)
                for model, scores_NC in zip(wanted, scores, strict=True)
            ]
        p_NC = self._mean_over_repeats(parts, self.weight_N, np.arange(scores[0].shape[1]))
        for label in by_class:
            weight_N = np.where(self.label_N == label, self.class_weight_N, 0.0)
            p_NC[:, [label]] = self._mean_over_repeats(parts, weight_N, np.array([label]))
        return p_NC

    def _mean_over_repeats(
        self,
        parts: Sequence[tuple[np.ndarray, np.ndarray]],
        weight_N: np.ndarray,
        labels: np.ndarray,
    ) -> np.ndarray:
        """Return the mean over repeats of the p-values of some classes.

        `parts` are the scores N x C of images by a model, and which rows they are compared with.
        """
        found = []
        for repeat in np.unique(self.repeat_N):
            of_repeat_N = (self.repeat_N == repeat) & (weight_N > 0)
            above_NC = np.ones((len(parts[0][0]), len(labels)))
            total = 1.0
            for scores_NC, at_N in parts:
                rows = np.flatnonzero(at_N & of_repeat_N)
                above_NC += _weight_above(self.score_N[rows], weight_N[rows], scores_NC[:, labels])
                total += weight_N[rows].sum()
            # A repeat of which no model is asked says nothing.
            if total > 1:
                found.append(above_NC / total)
        # Without rows to compare with, nothing speaks against a class.
        return np.mean(found, axis=0) if found else np.ones((len(parts[0][0]), len(labels)))
