"""The mean of a repeated cross-validation's models scores like a mean of models."""

import numpy as np
import pytest

from foldblend.scores.averaged import over_repeats
from foldblend.scores.metrics import METRICS, softmax
from foldblend.scores.rows import Rows


def repeated(num_repeats, *, seed=0, num=400):
    """Return rows and logits with errors that are independent between repeats."""
    rng = np.random.default_rng(seed)
    label_N = np.tile(rng.integers(0, 3, num), num_repeats)
    group_N = np.tile(np.arange(num) // 4, num_repeats)
    repeat_N = np.repeat(np.arange(num_repeats), num)
    logits_NC = np.eye(3)[label_N] + rng.normal(size=(len(label_N), 3))
    return Rows.of(label_N, group_N, repeat_N=repeat_N), logits_NC


def test_a_single_repeat_has_nothing_to_average():
    assert over_repeats(*repeated(1)) is None


@pytest.mark.parametrize("num_repeats", [2, 5])
def test_the_mean_of_repeats_has_the_score_of_a_mean_of_so_many_models(num_repeats):
    rows, logits_NC = repeated(num_repeats)
    once, mean_NC = over_repeats(rows, logits_NC)
    f1 = METRICS["f1_macro"]
    single = f1.score(rows.label_N, softmax(logits_NC))
    rng = np.random.default_rng(1)
    label_N = rng.integers(0, 3, 20_000)
    models = [np.eye(3)[label_N] + rng.normal(size=(20_000, 3)) for _ in range(num_repeats)]
    expected = f1.score(label_N, softmax(np.mean(models, axis=0)))
    assert f1.score(once.label_N, softmax(mean_NC)) == pytest.approx(expected, abs=0.04)
    assert expected > single + 0.05


def test_rows_are_joined_on_images_and_not_on_their_order():
    rows, logits_NC = repeated(3)
    image_N = np.tile(np.arange(400), 3)
    once, mean_NC = over_repeats(rows, logits_NC, image_N)
    order_N = np.random.default_rng(2).permutation(len(rows))
    other, same_NC = over_repeats(rows.take(order_N), logits_NC[order_N], image_N[order_N])
    np.testing.assert_array_equal(once.label_N, other.label_N)
    np.testing.assert_allclose(mean_NC, same_NC)


def test_repeats_of_other_images_are_not_averaged():
    rows, logits_NC = repeated(2)
    image_N = np.arange(800)
    assert over_repeats(rows, logits_NC, image_N) is None
    assert over_repeats(rows.take(np.arange(799)), logits_NC[:799]) is None
