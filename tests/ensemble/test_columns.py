"""Stack and trees that learn from columns of images: known answers, and no leak between folds."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from ensemble.columns import determined_by
from ensemble.crossfit import cross_fit, splits_of
from ensemble.leave_out import without
from ensemble.methods.encoding import encoding_of
from ensemble.methods.mixture import Mixture
from ensemble.methods.registry import METHODS, WITH_COLUMNS, WITHOUT
from ensemble.parameters import Parameters
from ensemble.parameters_file import encode, from_bytes, to_bytes
from ensemble.subsets import of_members
from foldblend.image_columns import ImageColumns
from foldblend.scores.metrics import log_softmax
from tests.makers.column_worlds import ColumnWorld
from tests.makers.rows import relabelled

NAMES = sorted(WITH_COLUMNS)


def loss_of(logits_NC, label_N):
    return -log_softmax(logits_NC)[np.arange(len(label_N)), label_N].mean()


@pytest.fixture(scope="module")
def world():
    """Return a world with a site and an age, some of which are unknown."""
    return ColumnWorld(150_001, "both", 300)


@pytest.fixture(scope="module")
def evidence(world):
    return world.evidence()


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def fitted(name, evidence):
    return WITH_COLUMNS[name].fit(evidence)


def test_columns_that_inform_gain_most_of_what_bayes_rule_does(name, fitted, evidence, world):
    fresh, best_NC = world.fresh(2000)
    label_N = fresh.rows.label_N
    plain_NC = fresh.answer(METHODS[WITHOUT[name]].fit(evidence))
    gain = loss_of(plain_NC, label_N) - loss_of(fresh.answer(fitted), label_N)
    best = loss_of(plain_NC, label_N) - loss_of(log_softmax(plain_NC) + best_NC, label_N)
    assert fitted.needs == {"age": "number", "site": "category"}
    assert 0.5 * best < gain < 1.1 * best


def test_columns_that_do_not_help_leave_the_method_as_it_is(name):
    evidence = ColumnWorld(150_000, "noise", 150).evidence()
    fitted = WITH_COLUMNS[name].fit(evidence)
    plain = METHODS[WITHOUT[name]].fit(evidence)
    assert not fitted.needs
    np.testing.assert_array_equal(evidence.answer(fitted), evidence.answer(plain))
    assert fitted.as_dict() == plain.as_dict()


def test_the_order_of_columns_does_not_matter(name, fitted, evidence):
    turned = ImageColumns(dict(reversed(evidence.columns.values.items())))
    again = WITH_COLUMNS[name].fit(dataclasses.replace(evidence, columns=turned))
    np.testing.assert_array_equal(evidence.answer(again), evidence.answer(fitted))


def test_a_row_is_answered_from_its_own_cells(fitted, evidence):
    rows = np.array([5, 3, 100])
    whole = evidence.answer(fitted)
    np.testing.assert_allclose(evidence.answer(fitted, rows), whole[rows], rtol=0, atol=1e-9)


def bits_of(fitted):
    arrays = {}
    return encode(fitted, arrays), {key: one.tobytes() for key, one in arrays.items()}


def test_labels_and_columns_of_a_fold_change_nothing_that_predicts_it(name, evidence):
    splits = splits_of(evidence)
    method = {name: WITH_COLUMNS[name]}
    before = cross_fit(evidence, splits, method)[name]
    held = splits[0].rows
    rng = np.random.default_rng(0)
    label_N = evidence.rows.label_N.copy()
    label_N[held] = rng.permutation(label_N[held])
    values = {key: one.copy() for key, one in evidence.columns.values.items()}
    values["age"][held] = 1e6
    values["site"][held] = "elsewhere"
    changed = dataclasses.replace(relabelled(evidence, label_N), columns=ImageColumns(values))
    after = cross_fit(changed, splits, method)[name]
    assert bits_of(after.parts[0]) == bits_of(before.parts[0])
    assert any(bits_of(a) != bits_of(b) for a, b in zip(after.parts, before.parts, strict=True))


def test_empty_cells_and_unknown_words_count_as_an_average_row(evidence):
    columns = evidence.columns
    encoding = encoding_of(columns)
    odd = ImageColumns(
        {"age": np.array([np.nan, np.inf, 1e300]), "site": np.array(["", "elsewhere", "x"], object)}
    )
    found = encoding(odd)
    assert np.isfinite(found).all()
    age_N2 = found[:, :2]
    words = found[:, 2:-1]
    assert age_N2[0, 0] == 0
    known = columns.values["age"][~np.isnan(columns.values["age"])]
    # Numbers beyond those that were fitted on count as the largest of these.
    assert np.allclose(age_N2[1:, 0], (known.max() - known.mean()) / known.std())
    assert not words.any()
    share = np.isnan(columns.values["age"]).mean()
    assert np.allclose(age_N2[:, 1], [1 - share, -share, -share])
    # Over the rows that were fitted on, each feature has mean 0.
    np.testing.assert_allclose(encoding(columns).mean(axis=0), 0, atol=1e-12)


@pytest.mark.parametrize(
    ("values", "differ"),
    [
        ([1e308, -1e308, 1e308, 5.0], True),
        ([5e-324, 0.0, 5e-324, 0.0], True),
        ([7.0, 7.0, np.nan, 7.0], False),
        ([np.nan] * 4, False),
        ([0.0] * 4, False),
    ],
)
def test_numbers_of_any_size_have_finite_features(values, differ):
    found = encoding_of(ImageColumns({"a": np.array(values)}))(
        ImageColumns({"a": np.array(values)})
    )
    assert np.isfinite(found).all()
    assert np.abs(found).max() <= 2
    assert bool(found[:, 0].any()) == differ


def test_what_was_saved_answers_the_same_bits(name, fitted, evidence):
    needs = fitted.needs
    given = Parameters(name, fitted, np.array([0.0] * evidence.num_classes), of_shares=False)
    read = from_bytes(
        to_bytes(given, "key"),
        "key",
        num_members=len(evidence.logits_MNC),
        num_classes=evidence.num_classes,
    )
    assert read.fitted.needs == needs
    np.testing.assert_array_equal(
        read.apply(evidence.logits_MNC, evidence.columns),
        given.apply(evidence.logits_MNC, evidence.columns),
    )
    assert read.as_dict() == given.as_dict()


def test_a_member_is_left_out_and_columns_stay(name, fitted, evidence):
    smaller = without(fitted, evidence)(0)
    assert smaller.needs == fitted.needs
    left = dataclasses.replace(evidence, logits_MNC=evidence.logits_MNC[1:])
    label_N = evidence.rows.label_N
    assert (
        abs(loss_of(left.answer(smaller), label_N) - loss_of(evidence.answer(fitted), label_N)) < 1
    )
    few = of_members(WITH_COLUMNS[name], (0, 2)).fit(evidence)
    assert few.needs == fitted.needs
    assert np.isfinite(evidence.answer(few)).all()


def test_a_mean_of_methods_needs_what_its_methods_need(fitted, evidence):
    soft = METHODS["soft"].fit(evidence)
    zeros = np.zeros((2, evidence.num_classes))
    mean = Mixture(("soft", "with"), (soft, fitted), (0.5, 0.5), zeros)
    assert mean.needs == fitted.needs
    assert not soft.needs
    assert np.isfinite(evidence.answer(mean)).all()


def test_too_few_groups_to_hold_out_leave_columns_unused(name):
    evidence = ColumnWorld(150_003, "site", 60).evidence()
    one = np.flatnonzero(evidence.rows.group_N < 3)
    assert not WITH_COLUMNS[name].fit(evidence.take(one)).needs


def test_a_column_that_determines_the_class_is_found():
    label_N = np.repeat([0, 1, 2], 20)
    group_N = np.arange(60)
    code = np.array(["x", "y", "z"], object)[label_N]
    assert determined_by(code, label_N, group_N)
    assert determined_by(np.where(np.arange(60) < 5, "", code), label_N, group_N)
    assert determined_by(label_N.astype(float) * 2, label_N, group_N)
    assert not determined_by(np.where(np.arange(60) == 30, "x", code), label_N, group_N)
    # An identifier has a class for each value, but says nothing of other groups.
    assert not determined_by(group_N.astype(float), label_N, group_N)
    assert not determined_by(np.full(60, "x", object), label_N, group_N)
    assert not determined_by(pd.Series([np.nan] * 60).to_numpy(), label_N, group_N)
