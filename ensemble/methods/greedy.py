"""Greedy selection of members with replacement, after Caruana, Niculescu-Mizil, Crew and Ksikes
2004, "Ensemble selection from libraries of models": each pick is the member that helps the mean of
probabilities most.

Scores that only ask which class is first are counted instead of computed anew. On a row where all
members agree, no mixture of them decides otherwise. On any other row a member changes the winner
only if its probabilities differ by more than the sum's margin, and margins grow with every pick. So
few rows are looked at, and the picks are those of a plain loop over `Metric.score`.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ensemble.methods.base import Evidence
from ensemble.methods.vote import Vote
from foldblend.scores.metrics import METRICS, Counts, Metric, softmax

__all__ = ["COUNTED", "bagged_weights", "best_prefix", "fit", "greedy_picks"]

COUNTED = ("f1_macro", "accuracy", "balanced_accuracy", "kappa_quadratic")
"""Metrics that only ask which class is first."""

# On 63 drawn worlds of 3 to 20 members, scored on fresh rows, starts of 1 and 5, 50 picks, one bag
# of all members and bags of up to 6 for all were no better: differences in macro F1 were below
# 0.0005, of the size of their errors.
NUM_BAGS = 20
NUM_PICKS = 25
SORTED_START = 3
SEED = 0
FEW = 4  # members, of which half would be too few to choose from
# float32 and the rounding of sums may hide this much of a margin. It costs time only, not exactness.
SLACK = 1e-6
CHUNK = 1 << 17  # rows of candidates' sums at a time: 19 MB at 18 classes


class _Ensemble(Protocol):
    """A sum of members' probabilities; scores are signed so that more is better."""

    def add(self, member: int) -> None: ...

    def score(self) -> float: ...

    def candidates(self) -> np.ndarray:
        """Return M scores: of the ensemble with each member added."""
        ...


class _Plain:
    """What holds for any metric."""

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
    """The same for a metric of counts. Of N rows, O are open: those on which members do not all
    agree.

    A tally holds, in one line, how often each class was right, how often it was predicted, and the
    summed squared distance of winner and label.
    """

    def __init__(self, proba_MNC: np.ndarray, label_N: np.ndarray, metric: Metric) -> None:
        self.num_classes = proba_MNC.shape[2]
        self.metric = metric
        self.truth_C = np.bincount(label_N, minlength=self.num_classes)
        winner_N, open_N = _agreed(proba_MNC)
        self.closed_K = self._tally(winner_N[~open_N], label_N[~open_N])[0]
        self.label_O = label_N[open_N]
        self.rows_O = np.arange(np.count_nonzero(open_N))
        self.proba_OMC = np.ascontiguousarray(proba_MNC[:, open_N].transpose(1, 0, 2))
        self.highest_OM = self.proba_OMC.max(axis=2)
        self.sum_OC = np.zeros((len(self.rows_O), self.num_classes))
        self.margin_O = np.zeros(len(self.rows_O))
        self.winner_O = np.zeros(len(self.rows_O), np.intp)
        # By how much a member can raise any class over the winner.
        self.reach_OM = self.highest_OM - self.proba_OMC[:, :, 0]

    def add(self, member: int) -> None:
        self.sum_OC += self.proba_OMC[:, member]
        winner_O = self.sum_OC.argmax(axis=1)
        changed = np.flatnonzero(winner_O != self.winner_O)
        self.reach_OM[changed] = (
            self.highest_OM[changed] - self.proba_OMC[changed, :, winner_O[changed]]
        )
        first_O = self.sum_OC[self.rows_O, winner_O]
        self.sum_OC[self.rows_O, winner_O] = -np.inf
        self.margin_O = first_O - self.sum_OC.max(axis=1)
        self.winner_O = winner_O
        self.sum_OC[self.rows_O, winner_O] = first_O

    def score(self) -> float:
        return float(self._score((self.closed_K + self._tally(self.winner_O, self.label_O))[0]))

    def candidates(self) -> np.ndarray:
        num_members = self.proba_OMC.shape[1]
        tally_MK = self.closed_K + self._tally(self.winner_O, self.label_O).repeat(
            num_members, axis=0
        )
        pairs = np.flatnonzero(self.reach_OM >= self.margin_O[:, None] - SLACK)
        proba_PC = self.proba_OMC.reshape(-1, self.num_classes)
        for begin in range(0, len(pairs), CHUNK):
            pair = pairs[begin : begin + CHUNK]
            row = pair // num_members
            winner = (self.sum_OC.take(row, axis=0) + proba_PC.take(pair, axis=0)).argmax(axis=1)
            moved = np.flatnonzero(winner != self.winner_O[row])
            row = row[moved]
            member = pair[moved] % num_members
            tally_MK += self._tally(winner[moved], self.label_O[row], member, num_members)
            tally_MK -= self._tally(self.winner_O[row], self.label_O[row], member, num_members)
        return self._score(tally_MK)

    def _tally(
        self, winner: np.ndarray, label: np.ndarray, member: np.ndarray | int = 0, num: int = 1
    ) -> np.ndarray:
        """Return the tally of each of `num` members, from rows of which it is said whose they
        are.
        """
        place = member * self.num_classes + winner
        size = num * self.num_classes
        right = np.bincount(place[winner == label], minlength=size).reshape(num, -1)
        predicted = np.bincount(place, minlength=size).reshape(num, -1)
        distance = np.bincount(
            np.broadcast_to(member, winner.shape), (winner - label) ** 2, minlength=num
        )
        return np.hstack([right, predicted, distance.astype(np.int64)[:, None]])

    def _score(self, tally: np.ndarray) -> np.ndarray:
        right = tally[..., : self.num_classes]
        predicted = tally[..., self.num_classes : -1]
        truth_C = self.truth_C
        if self.metric is not METRICS["kappa_quadratic"]:
            # The classes that occur, side by side as scikit-learn has them: zeros between them
            # would change the order in which floats are added, and so the last bit. For kappa a
            # class's place matters.
            occurs_C = truth_C > 0
            right, predicted = (np.compress(occurs_C, one, axis=-1) for one in (right, predicted))
            truth_C = truth_C[occurs_C]
        assert self.metric.of_counts is not None
        none = np.zeros(tally.shape[:-1])
        return self.metric.of_counts(
            Counts(right, truth_C, predicted, loss=none, distance=tally[..., -1])
        )


def _agreed(proba_MNC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first member's winners N, and where they are open: another's differ, or one is not
    clearly first.
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
    metric: str = "f1_macro",
) -> tuple[list[int], np.ndarray]:
    """Return the members picked, one after the other, and the score of the mean after each pick
    (more is better).

    Probabilities M x N x C, float32 or float64, labels N from 0 to C - 1. The first `sorted_start`
    picks are the members that are best alone, best first; 0 and 1 say the same. Sums are float64 in
    the order of the picks, the lowest of equal classes wins, and among equal scores (or none, which
    is NaN) the lowest member. Picks are those of a plain loop over `Metric.score`, but with
    quadratic kappa, whose last bits depend on how it is computed.
    """
    make: type[_Counted] | type[_Plain] = _Counted if metric in COUNTED else _Plain
    ensemble: _Ensemble = make(proba_MNC, label_N, METRICS[metric])
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
    """Return the picks up to the best score, the earliest of equal ones."""
    return picks[: int(_ranked(scores).argmax()) + 1]


def bagged_weights(
    proba_MNC: np.ndarray,
    label_N: np.ndarray,
    *,
    num_bags: int = NUM_BAGS,
    num_picks: int = NUM_PICKS,
    sorted_start: int = SORTED_START,
    metric: str = "f1_macro",
    seed: int = SEED,
) -> np.ndarray:
    """Return weights M with sum 1: how often each member was picked from bags, each a random half
    of the members.

    A lucky member is in half of the bags only, and the others are asked to do without it. Four
    members or fewer are one bag. A start is at most half of a bag, so that something is left to
    choose.
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
    """Return the vote of probabilities with weights from bagged greedy selection, rows of all
    repeats together.

    A score that is not counted is computed anew for each candidate: then all members are one bag.
    """
    counted = evidence.metric in COUNTED
    temperatures = evidence.temperatures
    dtype = (
        np.float32 if counted else np.float64
    )  # scikit-learn's log loss minds rows whose sum is 1 to float32 alone
    pairs = zip(evidence.logits_MNC, temperatures, strict=True)
    proba_MNC = np.stack(
        [softmax(logits_NC.astype(np.float64) / one).astype(dtype) for logits_NC, one in pairs]
    )
    num_bags = NUM_BAGS if counted else 1
    weight_M = bagged_weights(
        proba_MNC, evidence.rows.label_N, num_bags=num_bags, metric=evidence.metric
    )
    return Vote("soft", tuple(weight_M.tolist()), temperatures)
