"""Greedy selection: the picks of a simple loop over scikit-learn, with ties; bags; the fit."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, log_loss, recall_score

from ensemble.methods.base import Evidence
from ensemble.methods.greedy import bagged_weights, best_prefix, fit, greedy_picks
from foldblend.scores.error_costs import mean_cost
from foldblend.scores.metrics import log_softmax, softmax
from foldblend.scores.rows import Rows


def scored(metric: str, label_N: np.ndarray, proba_NC: np.ndarray) -> float:
    """Return scikit-learn's score, signed so that greater is better."""
    first_N = proba_NC.argmax(axis=1)
    occurs = np.unique(label_N)
    if metric == "f1_macro":
        return f1_score(label_N, first_N, labels=occurs, average="macro", zero_division=0)
    if metric == "balanced_accuracy":
        return recall_score(label_N, first_N, labels=occurs, average="macro", zero_division=0)
    if metric == "accuracy":
        return accuracy_score(label_N, first_N)
    return -log_loss(label_N, proba_NC, labels=np.arange(proba_NC.shape[1]))


def simple_picks(proba_MNC, label_N, *, num_picks, sorted_start=0, metric="f1_macro"):  # type: ignore[no-untyped-def]
    """Return picks and scores of a simple loop that computes every score."""
    alone = [scored(metric, label_N, one_NC.astype(np.float64)) for one_NC in proba_MNC]
    start = sorted(range(len(alone)), key=lambda member: -alone[member])[:sorted_start]
    sum_NC = np.zeros(proba_MNC.shape[1:])
    picks = []
    scores = []
    for place in range(num_picks):
        mean = [
            (sum_NC + one_NC) / (place + 1) if metric == "log_loss" else sum_NC + one_NC
            for one_NC in proba_MNC
        ]
        found = [scored(metric, label_N, mean_NC) for mean_NC in mean]
        member = start[place] if place < len(start) else found.index(max(found))
        sum_NC += proba_MNC[member]
        picks.append(member)
        scores.append(found[member])
    return picks, scores


def drawn(rng: np.random.Generator, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities M x N x C and labels N, with many ties or with few."""
    num_members = int(rng.integers(2, 7))
    num_classes = int(rng.integers(2, 20))
    num_rows = int(rng.integers(2, 12) if kind == "few rows" else rng.integers(20, 150))
    # Some classes may not occur.
    label_N = rng.integers(0, rng.integers(1, num_classes + 1), num_rows)
    label_N = rng.permutation(num_classes)[label_N]
    logits_MNC = (
        rng.normal(size=(num_members, num_rows, num_classes)) + 2 * np.eye(num_classes)[label_N]
    )
    if kind == "agreeing":
        logits_MNC = logits_MNC[:1] + 0.2 * rng.normal(size=logits_MNC.shape)
    proba_MNC = softmax(logits_MNC.reshape(-1, num_classes)).reshape(logits_MNC.shape)
    if kind == "coarse":
        proba_MNC = np.round(proba_MNC * 8) / 8
    # Sums of tenths round differently in another order.
    if kind == "tenths":
        proba_MNC = np.round(proba_MNC * 10) / 10
    if kind == "duplicates":
        proba_MNC = proba_MNC[rng.integers(0, num_members, num_members)]
    return proba_MNC.astype(np.float32 if rng.random() < 0.5 else np.float64), label_N


@pytest.mark.parametrize(
    "kind", ["few rows", "coarse", "tenths", "duplicates", "agreeing", "smooth"]
)
def test_picks_of_macro_f1_are_those_of_a_simple_loop(kind: str) -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        proba_MNC, label_N = drawn(rng, kind)
        start = int(rng.integers(0, 5))
        picks, scores = greedy_picks(proba_MNC, label_N, num_picks=8, sorted_start=start)
        assert (picks, scores.tolist()) == simple_picks(
            proba_MNC, label_N, num_picks=8, sorted_start=start
        )


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "log_loss"])
def test_picks_of_other_metrics_too(metric: str) -> None:
    for seed, kind in enumerate(["coarse", "duplicates", "smooth"]):
        proba_MNC, label_N = drawn(np.random.default_rng(seed), kind)
        # Rows must sum to 1 for log loss.
        flat = softmax(proba_MNC.reshape(-1, proba_MNC.shape[2]))
        proba_MNC = flat.reshape(proba_MNC.shape)
        settings = {"num_picks": 6, "sorted_start": 2, "metric": metric}
        picks, scores = greedy_picks(proba_MNC, label_N, **settings)  # type: ignore[arg-type]
        expected_picks, expected_scores = simple_picks(proba_MNC, label_N, **settings)
        assert picks == expected_picks
        assert scores == pytest.approx(expected_scores, abs=1e-12)


def test_kappa_is_counted_like_its_score() -> None:
    from foldblend.scores.metrics import METRICS

    proba_MNC, label_N = drawn(np.random.default_rng(5), "smooth")
    picks, scores = greedy_picks(proba_MNC, label_N, num_picks=5, metric="kappa_quadratic")
    for place, score in enumerate(scores):
        mean_NC = proba_MNC[picks[: place + 1]].mean(axis=0)
        assert score == pytest.approx(METRICS["kappa_quadratic"].score(label_N, mean_NC), abs=1e-12)


def test_costs_are_counted_like_their_mean() -> None:
    for seed, kind in enumerate(["coarse", "duplicates", "smooth"]):
        proba_MNC, label_N = drawn(np.random.default_rng(seed), kind)
        num_classes = proba_MNC.shape[2]
        cost_CC = np.random.default_rng(seed).integers(0, 6, (num_classes, num_classes))
        metric = mean_cost(cost_CC.astype(float))
        picks, scores = greedy_picks(proba_MNC, label_N, num_picks=5, metric=metric)
        for place, score in enumerate(scores):
            sum_NC = np.zeros(proba_MNC.shape[1:])
            for member in picks[: place + 1]:
                sum_NC += proba_MNC[member]
            assert score == pytest.approx(-metric.score(label_N, sum_NC), abs=1e-12)


def test_candidates_in_many_chunks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    proba_MNC, label_N = drawn(np.random.default_rng(1), "smooth")
    picks, scores = greedy_picks(proba_MNC, label_N, num_picks=8)
    monkeypatch.setattr("ensemble.methods.greedy.CHUNK", 7)
    again, same = greedy_picks(proba_MNC, label_N, num_picks=8)
    assert (picks, scores.tolist()) == (again, same.tolist())


def test_a_sorted_start_is_the_best_single_members_best_first() -> None:
    label_N = np.arange(60) % 3
    right = np.arange(60)[None] < np.array([20, 50, 40, 50])[:, None]
    first_MN = np.where(right, label_N, (label_N + 1) % 3)
    picks, _ = greedy_picks(np.eye(3)[first_MN], label_N, num_picks=3, sorted_start=3)
    assert picks == [1, 3, 2]
    assert greedy_picks(np.eye(3)[first_MN], label_N, num_picks=2, sorted_start=3)[0] == [1, 3]


def test_the_earliest_of_the_best_prefixes_is_kept() -> None:
    assert best_prefix([4, 2, 2, 0], np.array([0.5, 0.7, 0.7, 0.6])) == [4, 2]
    assert best_prefix([4, 2], np.array([np.nan, 0.1])) == [4, 2]
    assert best_prefix([4, 2], np.array([np.nan, np.nan])) == [4]


def members(num_useful: int, num_useless: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    label_N = rng.integers(0, 5, 400)
    noise_MNC = rng.normal(size=(num_useful + num_useless, 400, 5))
    noise_MNC[:num_useful] += 2.5 * np.eye(5)[label_N]
    return noise_MNC, label_N


def test_bags_are_drawn_by_seed_and_their_picks_counted_together() -> None:
    logits_MNC, label_N = members(7, 0)
    proba_MNC = np.stack([softmax(one_NC) for one_NC in logits_MNC])
    settings = {"num_bags": 3, "num_picks": 6, "sorted_start": 1}
    weight_M = bagged_weights(proba_MNC, label_N, seed=4, **settings)  # type: ignore[arg-type]
    rng = np.random.default_rng(4)
    count_M = np.zeros(7)
    for _ in range(3):
        bag = sorted(rng.choice(7, 4, replace=False))
        picks, scores = simple_picks(proba_MNC[bag], label_N, num_picks=6, sorted_start=1)
        for pick in picks[: scores.index(max(scores)) + 1]:
            count_M[bag[pick]] += 1
    assert weight_M.tolist() == (count_M / count_M.sum()).tolist()
    assert weight_M.tolist() == bagged_weights(proba_MNC, label_N, seed=4, **settings).tolist()  # type: ignore[arg-type]
    assert weight_M.tolist() != bagged_weights(proba_MNC, label_N, seed=5, **settings).tolist()  # type: ignore[arg-type]


def evidence(logits_MNC: np.ndarray, label_N: np.ndarray, metric: str = "f1_macro") -> Evidence:
    rows = np.arange(len(label_N))
    return Evidence(
        [one_NC.astype(np.float32) for one_NC in logits_MNC], Rows.of(label_N, rows), metric
    )


def test_a_useless_member_gets_no_weight() -> None:
    logits_MNC, label_N = members(5, 1)
    logits_MNC[5] = 5 * np.eye(5)[(label_N + 1) % 5]  # always wrong
    weight_M = bagged_weights(np.stack([softmax(one_NC) for one_NC in logits_MNC]), label_N)
    assert weight_M[5] == 0
    assert min(weight_M[:5]) > 0


@pytest.mark.parametrize(("metric", "most"), [("f1_macro", 0.1), ("log_loss", 0)])
def test_a_member_of_noise_gets_little_or_no_weight(metric: str, most: float) -> None:
    vote = fit(evidence(*members(5, 1), metric=metric))
    assert vote.pool == "soft"
    assert vote.weights[5] <= most
    assert min(vote.weights[:5]) > vote.weights[5]
    assert sum(vote.weights) == pytest.approx(1)
    assert fit(evidence(*members(1, 1), metric=metric)).weights[1] <= most


def test_a_single_member_has_all_the_weight() -> None:
    logits_MNC, label_N = members(1, 0)
    alone = evidence(logits_MNC, label_N)
    vote = fit(alone)
    assert vote.weights == (1.0,)
    assert vote.temperatures == alone.temperatures
    assert vote(alone.logits_MNC) == pytest.approx(
        log_softmax(alone.logits_MNC[0] / np.float64(vote.temperatures[0]))
    )
