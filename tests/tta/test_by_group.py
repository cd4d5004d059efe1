"""Tests of TTA whose score counts groups."""

import numpy as np

from foldblend.scores.by_group import metric_by_group
from foldblend.scores.metrics import METRICS, softmax
from foldblend.scores.rows import Rows
from foldblend.scores.score import score_interval
from tta.choose import searched
from tta.policy import IDENTITY, SavedViews

SIZE = 9  # images of a group
NUM_GROUPS = 200
ACCURACY_BY_GROUP = metric_by_group(METRICS["accuracy"])


def saved_views():
    """Return two views; their merge is worse by image and better by group.

    The noise of the image itself is shared by all images of its group. That of the view is larger,
    but differs between images, so that a mean over the group nearly removes it.
    """
    rng = np.random.default_rng(0)
    group_N = np.repeat(np.arange(NUM_GROUPS), SIZE)
    label_N = np.repeat(rng.integers(2, size=NUM_GROUPS), SIZE)
    sign_N = 2 * label_N - 1
    itself_N = sign_N + rng.normal(size=NUM_GROUPS)[group_N]
    view_N = sign_N + 2.5 * rng.normal(size=len(label_N))
    logits_VNC = np.stack([np.stack([-one, one], axis=1) for one in (itself_N, view_N)])
    rows = Rows.of(label_N, group_N, fold_N=group_N % 5)
    return SavedViews(("identity", "hflip"), logits_VNC.astype(np.float32), rows)


def test_views_are_chosen_by_the_score_that_counts():
    saved = saved_views()
    rows = np.arange(len(saved.rows))
    by_image = searched(saved, metric=METRICS["accuracy"], merges=("mean",), weightings=())(rows)
    by_groups = searched(saved, metric=ACCURACY_BY_GROUP, merges=("mean",), weightings=())(rows)
    assert by_image.policy == IDENTITY
    assert by_groups.policy.views == ("identity", "hflip")

    def score(policy):
        logits_NC = policy.apply(saved.logits_VNC, saved.names)
        return score_interval(ACCURACY_BY_GROUP, saved.rows, softmax(logits_NC)).value

    assert score(by_groups.policy) > score(IDENTITY) + 0.05


def test_the_search_compares_log_losses_of_groups():
    saved = saved_views()
    search = searched(saved, metric=ACCURACY_BY_GROUP, merges=("mean",), weightings=())
    loss = search.row_losses(IDENTITY, np.arange(len(saved.rows))).mean()
    mean_GC = saved.logits_VNC[0].reshape(NUM_GROUPS, SIZE, 2).mean(axis=1, dtype=np.float64)
    label_G = saved.rows.label_N[::SIZE]
    temperatures = 2.0 ** (np.arange(-2, 5) / 2)
    losses = [
        -np.log(softmax(mean_GC / one)[np.arange(NUM_GROUPS), label_G]).mean()
        for one in temperatures
    ]
    np.testing.assert_allclose(loss, min(losses), rtol=1e-5)
