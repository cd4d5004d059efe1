"""Select members greedily with replacement, from random halves of the members (bags).

Each pick is the member that raises the score of the mean of probabilities most (Caruana,
Niculescu-Mizil, Crew and Ksikes 2004, "Ensemble selection from libraries of models").

Metrics that depend only on the predicted class are counted instead of computed again for each
candidate. On rows where all members agree, no mixture of them predicts another class. On the
other rows a member changes the prediction only if its probabilities differ by more than the margin
of the sum, and margins grow with every pick. So few rows have to be computed, and the picks are
those of a simple loop over `Metric.score`.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ensemble.methods.base import Evidence
from ensemble.methods.vote import Vote
from foldblend.scores.metrics import KAPPA, MEAN_COST, Counts, Metric, as_metric, softmax

__all__ = ["COUNTED", "bagged_weights", "best_prefix", "fit", "greedy_picks"]

COUNTED = ("f1_macro", "accuracy", "balanced_accuracy", KAPPA, MEAN_COST)
"""Metrics that depend only on the predicted class."""

# On 63 simulated data sets with 3 to 20 members, scored on new rows, other values were no better:
# starts of 1 and 5, 50 picks, one bag of all members, and one bag for up to 6 members. Differences
# in macro F1 were below 0.0005, about their standard errors.
NUM_BAGS = 20
NUM_PICKS = 25
SORTED_START = 3
SEED = 0
FEW = 4  # up to so many members there is one bag, since half of them would leave no choice
# Rounding of float32 and of sums may hide this much of a margin. A larger value would only cost
# time; the result is exact.
SLACK = 1e-6
CHUNK = 1 << 17  # rows of candidates' sums at a time: 19 MB at 18 classes


class _Ensemble(Protocol):
    """Sum of members' probabilities; scores are signed so that greater is better."""

    def add(self, member: int) -> None: ...

    def score(self) -> float: ...

    def candidates(self) -> np.ndarray:
        """Return M scores: those of the ensemble with each of the M members added."""
        ...


class _Plain:
    """Ensemble for any metric, which computes every score."""

    def __init__(self, proba_MNC: np.ndarray, label_N: np.ndarray, metric: Metric) -> None:
        self.proba_MNC = proba_MNC
        self.label_N = label_N
        self.metric = metric
        self.sum_NC = np.zeros(proba_MNC.shape[1:])
        self.num = 0

    def add(self, member: int) -> None:
        self.sum_NC += self.proba_MNC[member]
        self.num += 1

    def score(self) -> float:
        return self._score(self.sum_NC / self.num)

    def candidates(self) -> np.ndarray:
        return np.array(
            [self._score((self.sum_NC + one_NC) / (self.num + 1)) for one_NC in self.proba_MNC]
        )

    def _score(self, proba_NC: np.ndarray) -> float:
        score = self.metric.score(self.label_N, proba_NC)
        return self.metric.sign * score


class _Counted:
    """Ensemble for metrics of counts, which looks only at rows where members disagree.

    Axis X are these open rows. Axis Y is a tally of 2 C + 1 numbers: how often each class was
    predicted correctly, how often it was predicted, and the summed distance between the label and
    the predicted class (the winner), see `Metric.distance`.
    """

    def __init__(self, proba_MNC: np.ndarray, label_N: np.ndarray, metric: Metric) -> None:
        self.num_classes = proba_MNC.shape[2]
        self.metric = metric
        self.truth_C = np.bincount(label_N, minlength=self.num_classes)
        winner_N, open_N = _agreed(proba_MNC)
        self.closed_Y = self._tally(winner_N[~open_N], label_N[~open_N])[0]
        self.label_X = label_N[open_N]
        self.rows_X = np.arange(np.count_nonzero(open_N))
        self.proba_XMC = np.ascontiguousarray(proba_MNC[:, open_N].transpose(1, 0, 2))
        self.highest_XM = self.proba_XMC.max(axis=2)
        self.sum_XC = np.zeros((len(self.rows_X), self.num_classes))
        self.margin_X = np.zeros(len(self.rows_X))
        self.winner_X = np.zeros(len(self.rows_X), np.intp)
        # The most by which a member can raise any class over the winner.
        self.reach_XM = self.highest_XM - self.proba_XMC[:, :, 0]

    def add(self, member: int) -> None:
        self.sum_XC += self.proba_XMC[:, member]
        winner_X = self.sum_XC.argmax(axis=1)
        changed = np.flatnonzero(winner_X != self.winner_X)
        self.reach_XM[changed] = (
            self.highest_XM[changed] - self.proba_XMC[changed, :, winner_X[changed]]
        )
        first_X = self.sum_XC[self.rows_X, winner_X]
        self.sum_XC[self.rows_X, winner_X] = -np.inf
        self.margin_X = first_X - self.sum_XC.max(axis=1)
        self.winner_X = winner_X
        self.sum_XC[self.rows_X, winner_X] = first_X

    def score(self) -> float:
        return float(self._score((self.closed_Y + self._tally(self.winner_X, self.label_X))[0]))

    def candidates(self) -> np.ndarray:
        num_members = self.proba_XMC.shape[1]
        tally_MY = self.closed_Y + self._tally(self.winner_X, self.label_X).repeat(
            num_members, axis=0
        )
        # Pairs of an open row and a member that can change the row's winner, numbered row by row;
        # axis U are all pairs.
        pairs = np.flatnonzero(self.reach_XM >= self.margin_X[:, None] - SLACK)
        proba_UC = self.proba_XMC.reshape(-1, self.num_classes)
        for begin in range(0, len(pairs), CHUNK):
            pair = pairs[begin : begin + CHUNK]
            row = pair // num_members
            winner = (self.sum_XC.take(row, axis=0) + proba_UC.take(pair, axis=0)).argmax(axis=1)
            moved = np.flatnonzero(winner != self.winner_X[row])
            row = row[moved]
            member = pair[moved] % num_members
            tally_MY += self._tally(winner[moved], self.label_X[row], member, num_members)
            tally_MY -= self._tally(self.winner_X[row], self.label_X[row], member, num_members)
        return self._score(tally_MY)

    def _tally(
        self, winner: np.ndarray, label: np.ndarray, member: np.ndarray | int = 0, num: int = 1
    ) -> np.ndarray:
        """Return the tallies num x Y of members, from rows with a winner, a label and a member."""
        place = member * self.num_classes + winner
        size = num * self.num_classes
        right = np.bincount(place[winner == label], minlength=size).reshape(num, -1)
        predicted = np.bincount(place, minlength=size).reshape(num, -1)
        distance = np.bincount(
            np.broadcast_to(member, winner.shape),
            self.metric.distance(label, winner),
            minlength=num,
        )
        return np.hstack([right, predicted, distance[:, None]])

    def _score(self, tally: np.ndarray) -> np.ndarray:
        right = tally[..., : self.num_classes]
        predicted = tally[..., self.num_classes : -1]
        truth_C = self.truth_C
        if self.metric.name != KAPPA:
            # Only classes that occur, as in scikit-learn: zeros between them would change the order
            # in which floats are added, and so the last bit. Kappa depends on the places of
            # classes, so it keeps all.
            occurs_C = truth_C > 0
            right, predicted = (np.compress(occurs_C, one, axis=-1) for one in (right, predicted))
            truth_C = truth_C[occurs_C]
        assert self.metric.of_counts is not None
        none = np.zeros(tally.shape[:-1])
        return self.metric.sign * self.metric.of_counts(
            Counts(right, truth_C, predicted, loss=none, distance=tally[..., -1])
        )


def _agreed(proba_MNC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first member's winners N, and a mask N of open rows.

    A row is open if another member predicts another class, or if a member's winner is not clearly
    ahead.
    """
    winner_N = proba_MNC[0].argmax(axis=1)
    open_N = np.zeros(len(winner_N), bool)
    rows = np.arange(len(winner_N))
    for proba_NC in proba_MNC:
        bound_N = proba_NC[rows, winner_N] - SLACK
        open_N |= np.count_nonzero(proba_NC > bound_N[:, None], axis=1) > 1
    return winner_N, open_N


def greedy_picks(
    proba_MNC: np.ndarray,
    label_N: np.ndarray,
    *,
    num_picks: int,
    sorted_start: int = 0,
    metric: str | Metric = "f1_macro",
) -> tuple[list[int], np.ndarray]:
    """Pick members greedily with replacement, so that the mean of probabilities scores best.

    The picks are those of a simple loop over `Metric.score`, except for quadratic kappa and costs,
    whose last bits depend on how they are computed. Sums are float64 in the order of the picks. The
    lowest of equally probable classes is predicted, and the lowest of equally good members is
    picked; NaN is the worst score.

    Parameters
    ----------
    proba_MNC
        Probabilities, float32 or float64.
    label_N
        Labels from 0 to C - 1.
    num_picks
        Number of picks.
    sorted_start
        So many first picks are the best single members, best first; 0 and 1 mean the same.
    metric
        The metric or its name.

    Returns
    -------
    (list of int, array num_picks)
        The members in the order in which they were picked, and the score of the mean after each
        pick; greater is better.

    References
    ----------
    Caruana, Niculescu-Mizil, Crew and Ksikes 2004, "Ensemble selection from libraries of models".

    Examples
    --------
    >>> right = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
    >>> picks, scores = greedy_picks(np.stack([1 - right, right]), np.array([0, 1, 0]), num_picks=2)
    >>> picks, scores.tolist()
    ([1, 1], [1.0, 1.0])
    """
    make: type[_Counted] | type[_Plain] = _Counted if as_metric(metric).name in COUNTED else _Plain
    ensemble: _Ensemble = make(proba_MNC, label_N, as_metric(metric))
    picks: list[int] = []
    scores: list[float] = []
    start = np.argsort(-_ranked(ensemble.candidates()), kind="stable")[: max(1, sorted_start)]
    for place in range(num_picks):
        member = int(
            start[place] if place < len(start) else _ranked(ensemble.candidates()).argmax()
        )
        ensemble.add(member)
        picks.append(member)
        scores.append(ensemble.score())
    return picks, np.array(scores)


def _ranked(score: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(score), -np.inf, score)


def best_prefix(picks: list[int], scores: np.ndarray) -> list[int]:
    """Return the picks up to the best score, the first one if several are equal.

    Examples
    --------
    >>> best_prefix([4, 2, 2, 0], np.array([0.5, 0.7, 0.7, 0.6]))
    [4, 2]
    """
    return picks[: int(_ranked(scores).argmax()) + 1]


def bagged_weights(
    proba_MNC: np.ndarray,
    label_N: np.ndarray,
    *,
    num_bags: int = NUM_BAGS,
    num_picks: int = NUM_PICKS,
    sorted_start: int = SORTED_START,
    metric: str | Metric = "f1_macro",
    seed: int = SEED,
) -> np.ndarray:
    """Return weights M with sum 1: how often each member was picked, over all bags.

    Each bag is a random half of the members, so a member with a lucky score is absent from half of
    the bags. Up to four members are one bag. The sorted start is at most half of a bag, so that
    picks remain to be chosen.
    """
    num_members = len(proba_MNC)
    rng = np.random.default_rng(seed)
    size = (num_members + 1) // 2
    bags = [np.sort(rng.choice(num_members, size, replace=False)) for _ in range(num_bags)]
    if num_members <= FEW or num_bags == 1:
        bags = [np.arange(num_members)]
    count_M = np.zeros(num_members)
    for bag in bags:
        start = min(sorted_start, len(bag) // 2)
        path = greedy_picks(
            proba_MNC[bag], label_N, num_picks=num_picks, sorted_start=start, metric=metric
        )
        np.add.at(count_M, bag[best_prefix(*path)], 1)
    return count_M / count_M.sum()


def fit(evidence: Evidence) -> Vote:
    """Fit a soft vote with weights from bagged greedy selection, on rows of all repeats together.

    Metrics that cannot be counted are computed for each candidate, which is slow, so all members
    are one bag then. For a metric by group, each member's images are pooled by group first.
    """
    counted = evidence.score.name in COUNTED
    temperatures = evidence.temperatures
    on, scales = evidence.pooled(temperatures)
    # scikit-learn's log loss warns of rows that sum to 1 only to the precision of float32.
    dtype = np.float32 if counted else np.float64
    pairs = zip(on.logits_MNC, scales, strict=True)
    proba_MNC = np.stack(
        [softmax(logits_NC.astype(np.float64) / one).astype(dtype) for logits_NC, one in pairs]
    )
    num_bags = NUM_BAGS if counted else 1
    weight_M = bagged_weights(proba_MNC, on.rows.label_N, num_bags=num_bags, metric=on.metric)
    return Vote("soft", tuple(weight_M.tolist()), temperatures)
