"""Races of configurations: leads, stopping rules, schedules, and what choosing costs."""

import itertools

import numpy as np
import pytest

from foldblend.scores.by_group import metric_by_group
from foldblend.scores.metrics import METRICS
from foldblend.scores.race import (
    NONE,
    PLAIN,
    RULES,
    clear_losers,
    helpful,
    leads,
    race,
    selection_optimism,
)
from foldblend.scores.rows import Rows
from foldblend.scores.score import Gain
from tests.makers.portfolios import NUM_FOLDS, Portfolio

ACCURACY = METRICS["accuracy"]
NUM_CLASSES = 4


def drawn(num_groups=60, *, qualities=(3.0, 2.5, 1.0), seed=0, num_images=3):
    """Return rows of five folds, and probabilities of configurations of these qualities."""
    rng = np.random.default_rng(seed)
    group_N = np.repeat(np.arange(num_groups), num_images)
    label_N = rng.integers(NUM_CLASSES, size=len(group_N))
    common_NC = rng.normal(size=(len(group_N), NUM_CLASSES))
    rows = Rows.of(label_N, group_N, fold_N=group_N % 5)
    truth_NC = np.eye(NUM_CLASSES)[label_N]
    logits = [one * truth_NC + common_NC + rng.normal(size=common_NC.shape) for one in qualities]
    return rows, [np.exp(one) / np.exp(one).sum(1, keepdims=True) for one in logits]


def test_leads_are_paired_differences_with_the_error_of_a_mean_over_groups():
    rows = Rows.of(np.zeros(10, int), np.arange(10))
    best_NC = np.eye(2)[np.zeros(10, int)]
    other_NC = np.eye(2)[[0] * 8 + [1] * 2]
    found = leads(ACCURACY, rows, [other_NC, best_NC])
    assert found[1] == Gain(0.0, 0.0)
    assert found[0].value == pytest.approx(0.2)
    assert found[0].error == pytest.approx(np.std([0] * 8 + [1] * 2, ddof=1) / np.sqrt(10))


@pytest.mark.parametrize("name", ["f1_macro", "accuracy", "log_loss", "roc_auc_ovr"])
def test_leads_are_at_least_zero_and_the_best_configuration_is_never_stopped(name):
    for seed in range(5):
        rows, tables = drawn(seed=seed)
        found = leads(METRICS[name], rows, tables)
        assert all(lead.value >= 0 for lead in found)
        best = int(np.argmin([lead.value for lead in found]))
        for errors in (0.0, 1.0, 3.0):
            assert best not in clear_losers(found, errors=errors)
    assert 2 in clear_losers(found, errors=2.0)


def test_more_errors_stop_fewer_and_infinitely_many_stop_none():
    rows, tables = drawn(qualities=np.linspace(3, 0, 8))
    found = leads(ACCURACY, rows, tables)
    stopped = [set(clear_losers(found, errors=errors)) for errors in (0, 1, 2, 4, np.inf)]
    assert all(later <= earlier for earlier, later in itertools.pairwise(stopped))
    assert stopped[0]
    assert not stopped[-1]


def test_equal_configurations_never_stop():
    rows, tables = drawn(qualities=[2.0])
    found = leads(ACCURACY, rows, tables * 4)
    assert found == [Gain(0.0, 0.0)] * 4
    assert clear_losers(found, errors=0.0) == []


def test_a_permutation_of_configurations_permutes_the_leads():
    rows, tables = drawn(qualities=np.linspace(3, 0, 6))
    found = leads(METRICS["f1_macro"], rows, tables)
    order = np.random.default_rng(0).permutation(6)
    assert leads(METRICS["f1_macro"], rows, [tables[at] for at in order]) == [
        found[at] for at in order
    ]


def test_the_order_of_rows_does_not_matter():
    rows, tables = drawn()
    order_N = np.random.default_rng(0).permutation(len(rows))
    moved = leads(ACCURACY, rows.take(order_N), [one[order_N] for one in tables])
    for one, other in zip(leads(ACCURACY, rows, tables), moved, strict=True):
        assert one == pytest.approx(other)


@pytest.mark.parametrize("num_groups", [1, 2, 4])
def test_few_groups_stop_nothing(num_groups):
    rows = Rows.of(np.zeros(num_groups, int), np.arange(num_groups))
    right_NC = np.eye(2)[rows.label_N]
    found = leads(ACCURACY, rows, [right_NC, 1 - right_NC])
    assert found[1] == Gain(1.0, np.inf)
    assert clear_losers(found, errors=0.0) == []


def test_a_metric_that_is_not_defined_stops_nothing():
    rows = Rows.of(np.zeros(20, int), np.arange(20))
    tables = [np.full((20, 2), 0.5), np.eye(2)[rows.label_N]]
    found = leads(METRICS["roc_auc_ovr"], rows, tables)
    assert all(np.isnan(lead.value) for lead in found)
    assert clear_losers(found, errors=0.0) == []
    assert not selection_optimism(METRICS["roc_auc_ovr"], rows, tables).is_known


def test_a_metric_by_group_pools_the_images_first():
    rows, tables = drawn()
    rows = rows.labelled(rows.group_N % NUM_CLASSES)
    by_group = metric_by_group(ACCURACY)
    found = leads(by_group, rows, tables)
    hits = [
        np.array([np.log(one[rows.group_N == group]).mean(0).argmax() for group in range(60)])
        == np.arange(60) % NUM_CLASSES
        for one in tables
    ]
    scores = [hit_G.mean() for hit_G in hits]
    assert [lead.value for lead in found] == pytest.approx(max(scores) - np.array(scores))
    assert selection_optimism(by_group, rows, tables).value >= 0


def table_of(scores, error=0.01):
    """Return a function that compares configurations by their true scores."""

    def compare(configurations, num_folds):
        values = np.array([scores[one] for one in configurations])
        return [Gain(float(values.max() - value), error) for value in values]

    return compare


def test_a_race_gives_clear_losers_one_fold_and_others_all():
    done = []
    found = race(
        4,
        3,
        lambda *step: done.append(step) or True,
        table_of([0.5, 0.79, 0.8, 0.6]),
    )
    assert list(found.steps) == done
    # The best one is first from the second round on.
    assert done == [(0, 0), (1, 0), (2, 0), (3, 0), (2, 1), (1, 1), (2, 2), (1, 2)]
    assert found.stopped == (0, 3)
    assert found.finished == (2, 1)


def test_after_the_last_round_runs_are_finished_one_by_one():
    found = race(3, 4, lambda *_: True, table_of([0.78, 0.79, 0.8], 0.1), rounds=1)
    assert found.steps[3:] == tuple((one, fold) for one in (2, 1, 0) for fold in (1, 2, 3))
    assert found.finished == (2, 1, 0)


def test_plain_halving_halves_and_no_rule_stops_none():
    scores = np.arange(8) / 10
    halved = race(8, 4, lambda *_: True, table_of(scores), rule=PLAIN)
    assert halved.finished == (7,)
    assert [sum(fold == one for _, fold in halved.steps) for one in range(4)] == [8, 4, 2, 1]
    assert race(8, 4, lambda *_: True, table_of(scores), rule=NONE).stopped == ()


def test_a_configuration_that_cannot_be_evaluated_gets_no_more_folds():
    found = race(
        2, 3, lambda configuration, fold: (configuration, fold) != (1, 1), table_of([0.8, 0.8])
    )
    assert found.skipped == (1,)
    assert found.finished == (0,)
    assert found.steps == ((0, 0), (1, 0), (0, 1), (0, 2))
    assert race(2, 3, lambda *_: False, table_of([0.8, 0.8])).skipped == (0, 1)


@pytest.mark.parametrize("rule", RULES)
def test_one_configuration_or_one_fold_gets_everything(rule):
    assert race(1, 3, lambda *_: True, table_of([0.5]), rule=rule).finished == (0,)
    assert race(3, 1, lambda *_: True, table_of([0.5, 0.1, 0.9]), rule=rule).finished == (0, 1, 2)


def test_selection_optimism_of_one_or_of_equal_configurations_is_zero():
    rows, tables = drawn()
    assert selection_optimism(ACCURACY, rows, tables[:1]).value == 0
    assert selection_optimism(ACCURACY, rows, tables[:1] * 3).value == 0


def test_selection_optimism_is_about_right_for_equally_good_configurations():
    true = []
    estimated = []
    for seed in range(30):
        rows, tables = drawn(40, qualities=[1.5] * 8, seed=seed)
        scores = [ACCURACY.score(rows.label_N, one) for one in tables]
        # All have the same true score, which the mean over data sets estimates.
        true.append(max(scores) - np.mean(scores))
        estimated.append(selection_optimism(ACCURACY, rows, tables).value)
    assert np.mean(true) > 0.02
    assert np.mean(estimated) == pytest.approx(np.mean(true), abs=0.015)


def test_selection_optimism_is_zero_where_one_configuration_is_far_better():
    rows, tables = drawn(qualities=[6.0, 0.0, 0.0])
    assert selection_optimism(ACCURACY, rows, tables) == (0.0, 0.0)


def test_selection_optimism_is_unknown_with_one_group():
    rows = Rows.of(np.zeros(6, int), np.zeros(6, int))
    tables = [np.full((6, 2), 0.5), np.eye(2)[rows.label_N]]
    found = selection_optimism(ACCURACY, rows, tables)
    assert found.as_dict() == {"value": None, "error": None}


def test_selection_optimism_does_not_depend_on_the_order_of_configurations():
    rows, tables = drawn(40, qualities=[1.5, 1.4, 1.6, 1.5])
    found = selection_optimism(METRICS["log_loss"], rows, tables)
    assert 0 < found.value < 0.1
    assert 0 < found.error < 0.1
    assert selection_optimism(METRICS["log_loss"], rows, tables[::-1]) == pytest.approx(found)


def test_helpful_configurations_improve_the_mean_with_the_best_one():
    rows, tables = drawn(200, qualities=[2.0, 1.8, 0.0])
    best_NC, other_NC, blind_NC = tables
    assert helpful(ACCURACY, rows, tables) == [1]
    assert helpful(ACCURACY, rows, [blind_NC, other_NC, best_NC]) == [1]
    mean_NC = (best_NC + other_NC) / 2
    assert ACCURACY.score(rows.label_N, mean_NC) > ACCURACY.score(rows.label_N, best_NC)
    assert helpful(ACCURACY, rows, [best_NC, best_NC]) == []
    assert helpful(METRICS["roc_auc_ovr"], rows.labelled(rows.label_N * 0), tables) == []


def test_a_race_keeps_losers_that_help():
    asked = []

    def keep(configurations, num_folds):
        asked.append((list(configurations), num_folds))
        return [configurations.index(0)]

    found = race(3, 3, lambda *_: True, table_of([0.5, 0.6, 0.8]), keep=keep)
    assert found.stopped == (1,)
    assert found.finished == (2, 0)
    assert asked == [([0, 1, 2], 1), ([2, 0], 2)]
    race(2, 3, lambda *_: True, table_of([0.8, 0.8]), keep=keep)
    assert len(asked) == 2


@pytest.mark.parametrize("seed", [1, 7, 8])
def test_a_race_on_simulated_faces_stops_what_is_broken_and_finishes_the_best(seed):
    """Some configurations of these seeds learned nothing; they stop after their first fold."""
    portfolio = Portfolio(seed, groups=(200, 201))
    rows, tables = portfolio.draw(portfolio.num_groups, 1)
    metric = METRICS["f1_macro"]

    def on_folds(configurations, num_folds):
        at = rows.fold_N < num_folds
        return metric, rows.take(at), [tables[one][at] for one in configurations]

    found = race(
        len(tables),
        NUM_FOLDS,
        lambda *_: True,
        lambda *which: leads(*on_folds(*which)),
        keep=lambda *which: helpful(*on_folds(*which)),
    )
    quality_M = portfolio.quality_MK.mean(axis=1)
    broken = np.flatnonzero(quality_M < 0.3).tolist()
    assert broken
    steps = [one for one, _ in found.steps]
    assert all(steps.count(one) == 1 for one in broken)
    scores = [metric.score(rows.label_N, proba_NC) for proba_NC in tables]
    assert int(np.argmax(scores)) in found.finished
    assert len(found.finished) + len(found.stopped) == len(tables)
    assert len(found.steps) < len(tables) * NUM_FOLDS
