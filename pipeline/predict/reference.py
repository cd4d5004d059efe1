"""Comparison of new images with the training images, in the space of a model's features.

References
----------
Sun, Ming, Zhu and Li 2022, "Out-of-distribution detection with deep nearest neighbors": distances
to the nearest training images between features of length 1.

Wang, Li, Feng and Zhang 2022, "ViM: Out-of-distribution with virtual-logit matching": the part of
the features outside of the training images' principal axes tells new kinds of images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from foldblend.images import Size

__all__ = ["Reference", "choose_rows", "differences", "look_of", "make_reference"]

MOST_ROWS = 3000  # training images that are kept
MOST_HELD = 1000  # held-out images whose distances are kept
MOST_AXES = 64
NEIGHBOURS = 5
FAR = 99.0  # percentile beyond which an image is odd
# Share of odd images from which a batch differs; 1 % is expected.
ODD_SHARE = 0.05
QUANTILES = (0.01, 0.5, 0.99)


@dataclass(frozen=True, slots=True)
class Reference:
    """Features of training images, and how far held-out images are from them."""

    mean_D: np.ndarray
    """Mean of the training images' features, which have length 1."""
    axes_DX: np.ndarray
    """Principal axes, at most 64."""
    rows_NX: np.ndarray
    """Coordinates of training images, float16."""
    distance_N: np.ndarray
    """Distances of held-out images, ascending, float32."""
    look_3X: np.ndarray
    """1 %, 50 % and 99 % quantile of brightness (0 to 1), width and height of training images."""

    def distances(self, features_ND: np.ndarray) -> np.ndarray:
        """Return the mean distance of each image to its nearest training images, N."""
        centred_ND = _unit(features_ND) - self.mean_D
        at_NX = centred_ND @ self.axes_DX.astype(np.float32)
        # What the axes do not show counts too: new kinds of images may differ in nothing else.
        rest_N = np.maximum((centred_ND**2).sum(axis=1) - (at_NX**2).sum(axis=1), 0)
        return _nearest(at_NX, self.rows_NX.astype(np.float32), rest_N)

    def percentile(self, features_ND: np.ndarray) -> np.ndarray:
        """Return the share of held-out images that are nearer than each image, N, in percent.

        Examples
        --------
        >>> train, new = np.eye(8)[:4], np.eye(8)[[0, 7]]
        >>> reference = make_reference(train, train + 0.01, np.ones((4, 3)))
        >>> reference.percentile(new).round().tolist()
        [0.0, 100.0]
        """
        below_N = np.searchsorted(self.distance_N, self.distances(features_ND), side="left")
        return np.asarray(100 * below_N / max(len(self.distance_N), 1), np.float32)

    def as_arrays(self) -> dict[str, np.ndarray]:
        """Return the content as arrays by name, for a file."""
        return {name: np.ascontiguousarray(getattr(self, name)) for name in NAMES}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Reference:
        """Return what `as_arrays` was made from; raise LookupError if one is missing."""
        return cls(*(arrays[name] for name in NAMES))


NAMES = ("mean_D", "axes_DX", "rows_NX", "distance_N", "look_3X")


def _unit(features_ND: np.ndarray) -> np.ndarray:
    """Return features with length 1, float32."""
    length_N1 = np.linalg.norm(features_ND.astype(np.float64), axis=1, keepdims=True)
    return np.asarray(features_ND / np.maximum(length_N1, 1e-12), np.float32)


def _nearest(at_NX: np.ndarray, rows_NX: np.ndarray, rest_N: np.ndarray) -> np.ndarray:
    """Return the mean distance of each point to its nearest rows.

    `rest_N` has the square of each point's distance to the space that the rows are in.
    """
    num = min(NEIGHBOURS, len(rows_NX))
    square_NM = (at_NX**2).sum(axis=1)[:, None] - 2 * at_NX @ rows_NX.T + (rows_NX**2).sum(axis=1)
    near_NM = np.partition(square_NM, num - 1, axis=1)[:, :num]
    near_NM = np.maximum(near_NM, 0) + rest_N[:, None]
    return np.asarray(np.sqrt(near_NM).mean(axis=1), np.float32)


def look_of(image: np.ndarray, size: Size) -> tuple[float, float, float]:
    """Return the brightness (0 to 1) of a stored image, and the width and height of its file."""
    width, height = size
    # Several times as fast as the mean of numpy.
    return sum(cv2.mean(image)[:3]) / 3 / 255, float(width), float(height)


def choose_rows(group_N: np.ndarray, most: int, *, seed: int = 0) -> np.ndarray:
    """Return the numbers of at most `most` rows, ascending, from as many groups as possible."""
    rng = np.random.default_rng(seed)
    order_N = rng.permutation(len(group_N))
    # The first row of each group, then the second of each, and so on.
    seen: dict[object, int] = {}
    turn_N = np.zeros(len(group_N), np.int64)
    for row in order_N:
        turn_N[row] = seen.get(group_N[row], 0)
        seen[group_N[row]] = int(turn_N[row]) + 1
    chosen = order_N[np.argsort(turn_N[order_N], kind="stable")][:most]
    return np.sort(chosen)


def make_reference(train_ND: np.ndarray, held_ND: np.ndarray, look_N3: np.ndarray) -> Reference:
    """Return the reference of a model.

    Parameters
    ----------
    train_ND
        Features of images that the model was trained on.
    held_ND
        Features of images of other groups.
    look_N3
        Brightness, width and height of the training images.
    """
    unit_ND = _unit(train_ND)
    mean_D = unit_ND.mean(axis=0)
    centred_ND = unit_ND - mean_D
    _, _, axes_XD = np.linalg.svd(centred_ND, full_matrices=False)
    # Distances are computed from what the file holds.
    axes_DX = axes_XD[:MOST_AXES].T.astype(np.float16)
    rows_NX = (centred_ND @ axes_DX.astype(np.float32)).astype(np.float16)
    look_3X = np.quantile(look_N3, QUANTILES, axis=0).T.astype(np.float32)
    empty = Reference(mean_D, axes_DX, rows_NX, np.empty(0, np.float32), look_3X)
    return Reference(mean_D, axes_DX, rows_NX, np.sort(empty.distances(held_ND)), look_3X)


def differences(reference: Reference, odd_N: np.ndarray, look_N3: np.ndarray) -> Sequence[str]:
    """Return sentences on how a batch of images differs from the training images.

    Parameters
    ----------
    reference
        The reference.
    odd_N
        Percentile of each image.
    look_N3
        Brightness, width and height of each image.
    """
    found = []
    share = float((odd_N >= FAR).mean())
    if share > ODD_SHARE:
        found.append(
            f"{100 * share:.0f} % of the images are further from the training images than"
            f" {FAR:g} % of held-out images are"
        )
    low, middle, high = reference.look_3X[0].tolist()
    bright = float(np.median(look_N3[:, 0]))
    if not low <= bright <= high:
        found.append(
            f"their brightness is {bright:.2f} (median), and {middle:.2f} in training (0 is black,"
            " 1 is white)"
        )
    sides = np.median(look_N3[:, 1:], axis=0)
    lows = reference.look_3X[1:, 0]
    highs = reference.look_3X[1:, 2]
    if (sides < lows).any() or (sides > highs).any():
        width, height = reference.look_3X[1:, 1].round().astype(int).tolist()
        found.append(
            f"their size is {sides[0]:.0f}x{sides[1]:.0f} pixels (median), and {width}x{height} in"
            " training"
        )
    return found
