"""Labels that look wrong before any training: two pictures of one group with each other's labels.

A linear classifier on edges and colours, out of fold by group, is enough to see that; wrong labels that
need a trained network to be seen are found on out-of-fold probabilities.
"""

from __future__ import annotations

import itertools

import cv2
import numpy as np

from folds.kfold import codes_of, stratified_group_folds

__all__ = ["features_of", "log_proba_of", "swapped_pairs"]

WIDTH, HEIGHT = 96, 128
CELL, BINS = 8, 8
COLOUR_SIZE = (12, 16)
NUM_COMPONENTS = 300
NUM_FOLDS = 5


def _edges(grey: np.ndarray) -> np.ndarray:
    """Return a histogram of gradient directions a cell, weighted by strength (Dalal and Triggs 2005)."""
    grey = grey.astype(np.float32)
    across, down = (cv2.Sobel(grey, cv2.CV_32F, *order, ksize=1) for order in ((1, 0), (0, 1)))
    strength, angle = cv2.cartToPolar(across, down)
    direction = (angle / np.pi * BINS).astype(np.int64) % BINS  # of edges, so half a turn is none
    rows, columns = np.indices(grey.shape) // CELL
    cells = (rows * (WIDTH // CELL) + columns) * BINS + direction
    histogram = np.bincount(cells.ravel(), strength.ravel(), WIDTH * HEIGHT // CELL**2 * BINS).reshape(-1, BINS)
    scale = np.linalg.norm(histogram, axis=1).mean()
    return np.sqrt(histogram / (scale + 1e-6)).ravel()


def features_of(image: np.ndarray) -> np.ndarray:
    """Return edges and coarse colours of an RGB picture, F float16."""
    grey = cv2.cvtColor(cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    coarse = cv2.resize(image, COLOUR_SIZE, interpolation=cv2.INTER_AREA)
    colours = cv2.cvtColor(coarse, cv2.COLOR_RGB2LAB).astype(np.float32).ravel() / 64
    return np.concatenate([_edges(grey), colours]).astype(np.float16)


def log_proba_of(feature_NF: np.ndarray, label_N: np.ndarray, group_N: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Return out-of-fold log-probabilities, N x C, of labels 0..C-1 that vary within groups.

    Each picture is seen as what sets it apart from its group's mean, which leaves the person out.
    A class that some folds never train on gets a tiny probability there.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    code_N = codes_of(group_N)
    size_G = np.bincount(code_N)
    mean_GF = np.zeros((len(size_G), feature_NF.shape[1]), np.float32)
    np.add.at(mean_GF, code_N, feature_NF)
    apart_NF = feature_NF.astype(np.float32) - (mean_GF / size_G[:, None])[code_N]
    fold_N = stratified_group_folds(label_N, group_N, num_folds=min(NUM_FOLDS, len(size_G)), seed=seed)
    proba_NC = np.zeros((len(label_N), int(label_N.max()) + 1))
    for fold in np.unique(fold_N):
        held = fold_N == fold
        if len(np.unique(label_N[~held])) < 2:
            continue
        model = make_pipeline(
            PCA(min(NUM_COMPONENTS, int((~held).sum()) // 2), random_state=seed, svd_solver="randomized"),
            StandardScaler(),
            LogisticRegression(C=0.01, class_weight="balanced", max_iter=300),
        )
        model.fit(apart_NF[~held], label_N[~held])
        proba_NC[np.ix_(held, model.classes_)] = model.predict_proba(apart_NF[held])
    return np.log(np.maximum(proba_NC, 1e-12))


def swapped_pairs(log_proba_NC: np.ndarray, label_N: np.ndarray, group_N: np.ndarray) -> np.ndarray:
    """Return pairs M x 2 of rows of one group, each of which looks most like the other's label.

    At most one pair a group, the likeliest, by how much likelier both labels are when exchanged; best first.
    """
    guess_N = log_proba_NC.argmax(axis=1)
    odd_of: dict[object, list[int]] = {}
    for row in np.flatnonzero(guess_N != label_N):
        odd_of.setdefault(group_N[row], []).append(int(row))
    found = []
    for odd in odd_of.values():
        pairs = [
            (i, j) for i, j in itertools.combinations(odd, 2) if guess_N[i] == label_N[j] and guess_N[j] == label_N[i]
        ]
        if pairs:
            found.append(max((_gain(log_proba_NC, label_N, i, j), (i, j)) for i, j in pairs))
    return np.array([pair for _, pair in sorted(found, reverse=True)], np.int64).reshape(-1, 2)


def _gain(log_proba_NC: np.ndarray, label_N: np.ndarray, i: int, j: int) -> float:
    """Return by how much likelier the labels of two rows are when exchanged."""
    as_is = log_proba_NC[i, label_N[i]] + log_proba_NC[j, label_N[j]]
    return float(log_proba_NC[i, label_N[j]] + log_proba_NC[j, label_N[i]] - as_is)
