"""Out-of-fold predictions of a linear classifier, for the search for swapped labels.

It uses edges and colours, so it needs no trained network. The report of a run finds further wrong
labels from the network's predictions.
"""

from __future__ import annotations

import cv2
import numpy as np

from foldblend.progress import track
from folds.kfold import codes_of, stratified_group_folds

__all__ = ["features_of", "log_proba_of"]

WIDTH = 96
HEIGHT = 128
CELL = 8
BINS = 8
COLOUR_SIZE = (12, 16)
NUM_COMPONENTS = 300
NUM_FOLDS = 5
MOST_ROWS = 20_000


def _edges(grey: np.ndarray) -> np.ndarray:
    """Return a histogram of gradient directions for each cell (Dalal and Triggs 2005)."""
    grey = grey.astype(np.float32)
    across, down = (cv2.Sobel(grey, cv2.CV_32F, *order, ksize=1) for order in ((1, 0), (0, 1)))
    strength, angle = cv2.cartToPolar(across, down)
    # Opposite gradients belong to the same edge direction, so bins cover half a turn.
    direction = (angle / np.pi * BINS).astype(np.int64) % BINS
    rows, columns = np.indices(grey.shape) // CELL
    cells = (rows * (WIDTH // CELL) + columns) * BINS + direction
    histogram = np.bincount(
        cells.ravel(), strength.ravel(), WIDTH * HEIGHT // CELL**2 * BINS
    ).reshape(-1, BINS)
    scale = np.linalg.norm(histogram, axis=1).mean()
    return np.sqrt(histogram / (scale + 1e-6)).ravel()


def features_of(image: np.ndarray) -> np.ndarray:
    """Return the edge histogram and coarse colours of an RGB image as float16, length D."""
    grey = cv2.cvtColor(
        cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY
    )
    coarse = cv2.resize(image, COLOUR_SIZE, interpolation=cv2.INTER_AREA)
    colours = cv2.cvtColor(coarse, cv2.COLOR_RGB2LAB).astype(np.float32).ravel() / 128
    return np.concatenate([_edges(grey), colours]).astype(np.float16)


def log_proba_of(
    feature_ND: np.ndarray, label_N: np.ndarray, group_N: np.ndarray, *, seed: int = 0
) -> np.ndarray:
    """Return out-of-fold log-probabilities, N x C, of labels that vary within groups.

    The features of each image are taken relative to the mean of its group, which removes what the
    group's images have in common. A class that a fold's training rows lack gets -inf.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    code_N = codes_of(group_N)
    size_G = np.bincount(code_N)
    mean_GD = np.zeros((len(size_G), feature_ND.shape[1]), np.float32)
    np.add.at(mean_GD, code_N, feature_ND)
    apart_ND = feature_ND.astype(np.float32) - (mean_GD / size_G[:, None])[code_N]
    fold_N = stratified_group_folds(
        label_N, group_N, num_folds=min(NUM_FOLDS, len(size_G)), seed=seed
    )
    log_proba_NC = np.full((len(label_N), int(label_N.max()) + 1), -np.inf)
    rng = np.random.default_rng(seed)
    for fold in track(np.unique(fold_N), "look for swapped labels", unit="folds"):
        held = fold_N == fold
        # A sample of rows bounds the time; a linear model gains little from more.
        rows = rng.permutation(np.flatnonzero(~held))[:MOST_ROWS]
        if len(np.unique(label_N[rows])) < 2:
            continue
        # The eigendecomposition is fast if there are more rows than features.
        solver = "covariance_eigh" if len(rows) > apart_ND.shape[1] else "full"
        model = make_pipeline(
            PCA(min(NUM_COMPONENTS, len(rows) // 2), svd_solver=solver),
            StandardScaler(),
            LogisticRegression(C=0.01, class_weight="balanced", max_iter=300),
        )
        model.fit(apart_ND[rows], label_N[rows])
        log_proba_NC[np.ix_(held, model.classes_)] = model.predict_log_proba(apart_ND[held])
    return log_proba_NC
