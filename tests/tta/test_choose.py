"""Tests of weights and policies of views.

Planted effects are found, chance effects are not, and no label influences its own logits.
"""

import json
import subprocess
import sys

import numpy as np
import pytest

from foldblend.attributes import Attribute
from foldblend.scores.held_out import group_parts
from foldblend.scores.metrics import METRICS, log_softmax, softmax
from foldblend.scores.rows import Rows
from tests.makers.rows import folded, relabelled
from tta.choose import choose, learned, searched, weighted
from tta.crossfit import cross_fit
from tta.evaluate import effects
from tta.learn import WEIGHTINGS, fit_class_weights, fit_view_weights
from tta.merge import mean_logit
from tta.policy import IDENTITY, Policy, SavedViews
from tta.rules import FEWEST_GROUPS, RULES

NUM_IMAGES = 7


def simulated(kinds, *, num_groups=100, num_classes=4, seed=0, num_present=None):
    """Return simulated logits of views of groups of images.

    Most of the error is common to all images of a group or to all views of an image; the rest
    differs between views.
    """
    rng = np.random.default_rng(seed)
    num = num_groups * NUM_IMAGES
    group = np.repeat([f"group {index}" for index in range(num_groups)], NUM_IMAGES)
    label = rng.integers(num_present or num_classes, size=num)
    truth = 2.0 * np.eye(num_classes)[label]
    common = rng.normal(size=(num_groups, num_classes)).repeat(NUM_IMAGES, axis=0) * 0.4
    common += rng.normal(size=(num, num_classes)) * 0.5
    first = rng.normal(size=(num, num_classes))
    sees = {
        "plain": lambda: truth + common + first,
        "useful": lambda: truth + common + rng.normal(size=(num, num_classes)),
        "copy": lambda: truth + common + first,
        "noise": lambda: 2 * rng.normal(size=(num, num_classes)),
        "harmful": lambda: (truth + common)[:, np.roll(np.arange(num_classes), 1)] + first,
    }
    logits = [sees["plain"](), *(sees[kind]() for kind in kinds)]
    names = ("identity", *(f"{kind}{place}" for place, kind in enumerate(kinds)))
    return SavedViews(names, np.stack(logits).astype(np.float32), Rows.of(label, group))


def fold_of(saved, num_folds=4):
    return np.unique(saved.rows.group_N, return_inverse=True)[1] % num_folds


def planted(weights, *, num=4000, num_classes=4, seed=0):
    """Return logits of views, and labels drawn from a weighted mean of their log-probabilities."""
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=(len(weights), num, num_classes)) * 3).astype(np.float32)
    scores = (
        np.asarray(weights).reshape(len(weights), 1, -1) * [log_softmax(one) for one in logits]
    ).sum(axis=0)
    label = (softmax(scores).cumsum(axis=1) > rng.random((num, 1))).argmax(axis=1)
    return logits, label, np.arange(num)


# Learned weights


def test_planted_weights_are_recovered():
    weights = np.array([0.6, 0.3, 0.1])
    np.testing.assert_allclose(fit_view_weights(*planted(weights)), weights, atol=0.03)


def test_planted_weights_of_classes_are_recovered():
    weights = np.array([[0.9, 0.5, 0.1, 0.5], [0.1, 0.5, 0.9, 0.5]])
    logits, label, group = planted(weights, num=20_000)
    np.testing.assert_allclose(fit_class_weights(logits, label, group), weights, atol=0.05)


@pytest.mark.parametrize("name", WEIGHTINGS)
@pytest.mark.parametrize("size", [1.0, 3.0])
def test_a_view_of_noise_loses_its_weight(name, size):
    saved = simulated(["useful", "noise"], num_groups=1500)
    saved.logits_VNC[2] *= size / 2
    weights = WEIGHTINGS[name](saved.logits_VNC, saved.rows.label_N, saved.rows.group_N)
    assert weights[2].mean() < 0.02
    assert weights[2].max() < 0.05
    assert weights[:2].min() > 0.4
    # A view without weight is left out, so that it takes no forward pass.
    assert weighted(saved, saved.names, "view").views == ("identity", "useful0")


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_weights_are_those_of_a_mean_and_do_not_depend_on_order(name):
    """Weights are reproducible and the same in any order of rows and views."""
    saved = simulated(["useful", "noise", "harmful"], num_groups=60)
    logits = saved.logits_VNC
    label = saved.rows.label_N
    group = saved.rows.group_N
    weights = WEIGHTINGS[name](logits, label, group)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=0), 1)
    np.testing.assert_array_equal(WEIGHTINGS[name](logits, label, group), weights)
    rows = np.random.default_rng(0).permutation(len(label))
    np.testing.assert_allclose(
        WEIGHTINGS[name](logits[:, rows], label[rows], group[rows]), weights, atol=1e-3
    )
    np.testing.assert_allclose(
        WEIGHTINGS[name](logits[::-1], label, group)[::-1], weights, atol=1e-3
    )
    assert np.isfinite(WEIGHTINGS[name](np.sign(logits) * np.float32(1e4), label, group)).all()
    assert (WEIGHTINGS[name](logits[:1], label, group) == 1).all()


def test_sharper_logits_do_not_change_weights():
    saved = simulated(["useful", "noise"], num_groups=60)
    columns = saved.rows.label_N, saved.rows.group_N
    sharp = fit_view_weights(saved.logits_VNC * 3, *columns)
    np.testing.assert_allclose(sharp, fit_view_weights(saved.logits_VNC, *columns), atol=1e-3)


def test_images_of_a_group_count_as_one():
    logits, label, _ = planted([0.7, 0.3], num=25)
    once = fit_view_weights(logits, label, np.arange(25))
    seven = [np.repeat(logits, 7, axis=1), np.repeat(label, 7)]
    np.testing.assert_allclose(
        fit_view_weights(*seven, np.repeat(np.arange(25), 7)), once, atol=1e-3
    )
    # With more groups, weights may be further from equal ones.
    more_groups = fit_view_weights(*seven, np.arange(175))
    assert abs(more_groups[0] - 0.5) > abs(once[0] - 0.5) + 0.005


def test_a_class_without_rows_has_the_views_weights():
    saved = simulated(["useful", "noise"], num_classes=5, num_present=3)
    weights = fit_class_weights(saved.logits_VNC, saved.rows.label_N, saved.rows.group_N)
    views = fit_view_weights(saved.logits_VNC, saved.rows.label_N, saved.rows.group_N)
    np.testing.assert_allclose(weights[:, 3:], np.repeat(views[:, None], 2, axis=1))
    assert abs(weights[:, :3] - views[:, None]).max() > 1e-3


def test_few_rows_of_a_class_move_its_weights_little():
    weights = np.array([[0.95, 0.5, 0.5, 0.5], [0.05, 0.5, 0.5, 0.5]])
    logits, label, group = planted(weights, num=20_000)
    keep = np.flatnonzero((label != 0) | (np.cumsum(label == 0) <= 3))
    few = fit_class_weights(logits[:, keep], label[keep], group[keep])
    many = fit_class_weights(logits, label, group)
    assert many[0, 0] > 0.9
    assert few[0, 0] == pytest.approx(few[0, 1:].mean(), abs=0.2)


@pytest.mark.parametrize("fit", [fit_view_weights, fit_class_weights])
def test_views_that_are_all_wrong_get_equal_weights(fit):
    """Weights of 0 would be best for all views, but weights must have sum 1."""
    rng = np.random.default_rng(0)
    label = rng.integers(4, size=420)
    logits = np.stack(
        [-np.eye(4)[label] + 0.3 * rng.normal(size=(420, 4)) for _ in range(2)]
    ).astype(np.float32)
    weights = fit(logits, label, np.arange(420) // 7)
    np.testing.assert_array_equal(weights, np.full(weights.shape, 0.5))


# Policies


@pytest.mark.parametrize(
    "policy",
    [
        IDENTITY,
        Policy(("identity", "hflip*scale:1.15"), "entropy"),
        Policy(("a", "b"), "mean", (0.25, 1 / 3)),
        Policy(("a", "b"), "prob", ((0.1, 0.2, 0.3), (0.7, 1e-17, 1.0))),
    ],
)
def test_a_policy_survives_json(policy):
    again = Policy.from_dict(json.loads(json.dumps(policy.as_dict())))
    assert again == policy
    assert hash(again) == hash(policy)
    assert policy.passes == len(policy.views)


def test_wrong_policies_and_saved_views_are_refused():
    for wrong in (
        lambda: Policy(()),
        lambda: Policy(("a", "a")),
        lambda: Policy(("a",), "median"),
        lambda: Policy(("a", "b"), "mean", (1.0,)),
        lambda: Policy.from_dict({"views": ["a"]}),
        lambda: IDENTITY.apply(np.zeros((1, 2, 3), np.float32), ["hflip"]),
        lambda: SavedViews(("hflip",), np.zeros((1, 1, 2)), Rows.of(*[np.zeros(1)] * 2)),
        lambda: SavedViews(("identity",), np.zeros((1, 1, 2)), Rows.of(*[np.zeros(2)] * 2)),
        lambda: SavedViews(("identity",), np.full((1, 1, 2), np.nan), Rows.of(*[np.zeros(1)] * 2)),
    ):
        with pytest.raises(ValueError, match=r"."):
            wrong()


def test_a_policy_picks_views_by_name():
    saved = simulated(["useful", "noise"])
    policy = Policy(("noise1", "identity"))
    expected = mean_logit(saved.logits_VNC[[2, 0]])
    np.testing.assert_array_equal(policy.apply(saved.logits_VNC, saved.names), expected)
    np.testing.assert_array_equal(
        IDENTITY.apply(saved.logits_VNC, saved.names), saved.logits_VNC[0]
    )


# The search


def test_a_view_that_helps_is_chosen_and_its_gain_is_reported():
    saved = simulated(["noise", "useful", "harmful"], num_groups=300)
    choice = choose(saved, prefer="simple")
    assert set(choice.policy.views) == {"identity", "useful1"}
    step = choice.steps[0]
    assert step.taken
    assert step.gain > step.standard_error > 0
    assert step.over == IDENTITY
    assert f"{step.gain:+.4f}" in str(choice)
    assert "macro F1" in str(choice)


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_can_be_used(metric):
    for prefer in RULES:
        settings = {"metric": metric, "prefer": prefer}
        helped = simulated(["useful", "useful"], num_groups=60)
        assert choose(helped, budget=2, weightings=(), **settings).policy.passes == 2
        hurt = simulated(["noise", "harmful"], num_groups=60)
        assert choose(hurt, **settings).policy == IDENTITY


def test_without_a_view_that_helps_the_choice_gives_the_reason():
    copies = choose(simulated(["copy", "copy", "copy"]))
    assert (copies.policy, copies.steps, str(copies)) == (
        IDENTITY,
        (),
        "No augmentation is used: no view lowers the log loss.",
    )
    uncertain = choose(simulated(["useful"], num_groups=15), prefer="simple")
    assert uncertain.policy == IDENTITY
    assert str(uncertain).startswith(
        "No augmentation is used: no view improves the score by more than one standard error."
        " The closest is identity + "
    )
    assert choose(simulated([])).policy == IDENTITY


@pytest.mark.parametrize("prefer", RULES)
def test_harmful_views_and_noise_are_never_chosen(prefer):
    for seed in range(12):
        saved = simulated(
            ["noise", "harmful", "noise", "harmful", "copy"], num_groups=60, seed=seed
        )
        assert choose(saved, metric="accuracy", prefer=prefer).policy == IDENTITY


@pytest.mark.slow
def test_the_best_of_many_useless_views_is_seldom_taken():
    """Views that differ from identity only by chance: the best of ten does not help elsewhere."""
    taken = 0
    look_good = 0
    for seed in range(20):
        saved = simulated(["copy"] * 10, num_groups=60, seed=seed)
        rng = np.random.default_rng(seed)
        saved.logits_VNC[1:] += 0.5 * rng.normal(size=saved.logits_VNC[1:].shape)
        saved.logits_VNC[1:] += 0.1 * saved.logits_VNC[:1]
        pairs = [
            Policy(("identity", name)).apply(saved.logits_VNC, saved.names)
            for name in saved.names[1:]
        ]
        right, *others = (
            (one.argmax(1) == saved.rows.label_N).mean() for one in (saved.logits_VNC[0], *pairs)
        )
        look_good += max(others) > right
        taken += choose(saved, metric="accuracy", prefer="simple").policy != IDENTITY
    assert look_good >= 15
    assert taken <= 4


@pytest.mark.slow
@pytest.mark.parametrize("budget", [1, 2, 3])
def test_the_budget_is_respected(budget):
    saved = simulated(["useful"] * 5, num_groups=200)
    choice = choose(saved, budget=budget)
    assert choice.policy.passes == budget
    assert all(step.policy.passes <= budget for step in choice.steps)
    crossed = cross_fit(folded(saved, fold_of(saved)), searched(saved, budget=budget))
    assert max(part.choice.policy.passes for part in crossed.parts) <= budget


def test_the_choice_does_not_depend_on_the_order_of_rows_and_views():
    saved = simulated(["useful", "noise", "useful", "harmful"])
    choice = choose(saved)
    assert choose(saved) == choice
    rows = np.random.default_rng(1).permutation(len(saved.rows.label_N))
    shuffled = choose(saved.take(rows))
    order = [3, 1, 4, 0, 2]
    names = tuple(saved.names[place] for place in order)
    turned = choose(SavedViews(names, saved.logits_VNC[order], saved.rows))
    expected = choice.policy.apply(saved.logits_VNC, saved.names)
    for other, its_names, its_logits in (
        (shuffled, saved.names, saved.logits_VNC),
        (turned, names, saved.logits_VNC[order]),
    ):
        assert other.policy.views == choice.policy.views
        np.testing.assert_allclose(
            softmax(other.policy.apply(its_logits, its_names)), softmax(expected), atol=2e-3
        )


def test_huge_logits_give_finite_results():
    saved = simulated(["useful", "noise"], num_groups=40)
    huge = SavedViews(saved.names, np.sign(saved.logits_VNC) * np.float32(1e4), saved.rows)
    crossed = cross_fit(folded(huge, fold_of(huge)), searched(huge))
    assert np.isfinite(crossed.logits_NC).all()


def test_no_views_are_chosen_on_few_groups():
    saved = simulated(["useful"], num_groups=FEWEST_GROUPS - 1)
    assert str(choose(saved)) == (
        f"No augmentation is used: {FEWEST_GROUPS - 1} groups are too few to choose views."
    )


def test_unknown_names():
    saved = simulated(["useful"], num_groups=20)
    for settings in (
        {"metric": "f1"},
        {"merges": ("median",)},
        {"weightings": ("row",)},
        {"prefer": "best"},
        {"budget": 0},
    ):
        with pytest.raises(ValueError, match=r"unknown; there are|pass 1 or more"):
            choose(saved, **settings)


def test_parts_keep_groups_together_and_do_not_depend_on_the_order_of_rows():
    saved = simulated([], num_groups=53)
    part = group_parts(saved.rows.label_N, saved.rows.group_N, num_parts=5)
    places = {(group, one) for group, one in zip(saved.rows.group_N, part, strict=True)}
    assert len(places) == 53
    assert np.ptp(np.bincount(part)) <= NUM_IMAGES
    rows = np.random.default_rng(0).permutation(len(part))
    np.testing.assert_array_equal(
        group_parts(saved.rows.label_N[rows], saved.rows.group_N[rows], num_parts=5), part[rows]
    )


# Cross-fitting


FITS = {
    "search": lambda saved: searched(saved, budget=3),
    "view": lambda saved: learned(saved, saved.names, "view"),
    "class": lambda saved: learned(saved, saved.names, "class"),
}


@pytest.mark.parametrize("name", FITS)
def test_labels_of_a_fold_do_not_influence_its_logits(name):
    saved = simulated(["useful", "useful", "harmful"], num_groups=80)
    fold = fold_of(saved)
    before = cross_fit(folded(saved, fold), FITS[name](saved))
    label = saved.rows.label_N.copy()
    label[fold == 1] = (label[fold == 1] + 1) % 4
    other = relabelled(saved, label)
    after = cross_fit(folded(other, fold), FITS[name](other))
    np.testing.assert_array_equal(after.logits_NC[fold == 1], before.logits_NC[fold == 1])
    assert after.parts[1] == before.parts[1]
    # They do influence the logits of other folds.
    assert not np.array_equal(after.logits_NC, before.logits_NC)


def test_folds_that_split_groups_are_not_used():
    """Parts of whole groups replace them, so that no image influences another of its group."""
    saved = simulated(["useful"], num_groups=40)
    splitting = np.arange(280) % 4
    part = group_parts(saved.rows.label_N, saved.rows.group_N, num_parts=4)
    fit = learned(saved, saved.names, "view")
    np.testing.assert_array_equal(
        cross_fit(folded(saved, splitting), fit).logits_NC,
        cross_fit(folded(saved, part), fit).logits_NC,
    )
    assert not np.array_equal(part, splitting)


def test_each_repeat_is_cross_fitted_separately():
    once = simulated(["useful", "noise"], num_groups=40)
    again = simulated(["useful", "noise"], num_groups=40, seed=1)
    both = SavedViews(
        once.names,
        np.concatenate([once.logits_VNC, again.logits_VNC], axis=1),
        Rows.of(
            np.concatenate([once.rows.label_N, again.rows.label_N]),
            np.concatenate([once.rows.group_N, again.rows.group_N]),
            repeat_N=np.repeat([0, 1], len(once.rows)),
        ),
    )
    fold = np.concatenate([fold_of(once), (fold_of(again) + np.arange(280) // 140) % 4])
    crossed = cross_fit(folded(both, fold), learned(both, both.names, "view"))
    assert [(part.repeat, part.part) for part in crossed.parts] == [
        (r, f) for r in (0, 1) for f in range(4)
    ]
    alone = cross_fit(folded(once, fold_of(once)), learned(once, once.names, "view"))
    np.testing.assert_array_equal(crossed.logits_NC[:280], alone.logits_NC)
    assert crossed.final == learned(both, both.names, "view")(np.arange(560))
    assert choose(both).policy.passes >= 1


@pytest.mark.slow
def test_parts_and_final_are_the_choices_of_the_fit():
    saved = simulated(["useful", "useful"], num_groups=80)
    fold = fold_of(saved)
    fit = searched(saved)
    crossed = cross_fit(folded(saved, fold), fit)
    assert crossed.final == choose(saved)
    for part in crossed.parts:
        rows = np.flatnonzero(fold == part.part)
        others = np.flatnonzero(fold != part.part)
        assert part.choice == choose(saved.take(others))
        expected = part.choice.policy.apply(saved.logits_VNC[:, rows], saved.names)
        np.testing.assert_array_equal(crossed.logits_NC[rows], expected)


def test_one_fold_cannot_be_cross_fitted():
    saved = simulated(["useful"], num_groups=20)
    with pytest.raises(ValueError, match="only one fold"):
        cross_fit(saved, searched(saved))


def test_a_single_view_is_returned_unchanged():
    saved = simulated([], num_groups=20)
    for fit in (searched(saved), learned(saved, saved.names, "class")):
        np.testing.assert_array_equal(
            cross_fit(folded(saved, fold_of(saved)), fit).logits_NC, saved.logits_VNC[0]
        )


# What a report shows


def test_effects_by_hand():
    """One of four images is fixed and one is broken; class c does not occur."""
    label = np.array([0, 0, 1, 1])
    plain = np.eye(3)[[0, 1, 1, 1]]
    other = np.eye(3)[[0, 0, 1, 2]]
    found = effects(
        {"identity": plain, "hflip": other},
        {"identity": 1, "hflip": 2},
        rows=Rows.of(label, np.arange(4)),
        classes=["a", "b", "c"],
        attributes=[Attribute(name="vowel", values=("yes", "no"), of_class=(0, 1, 1))],
        metric="accuracy",
    )
    plain_row, row = found
    assert (row["passes"], row["fixed"], row["broken"]) == (2, 1, 1)
    assert (plain_row["fixed"], plain_row["broken"]) == (0, 0)
    assert row["comparison"]["difference"]["value"] == 0
    assert [(one["name"], one["support"]) for one in row["classes"]] == [("a", 2), ("b", 2)]
    assert [one["f1"] for one in row["classes"]] == pytest.approx([1, 2 / 3])
    assert [one["difference"] for one in row["classes"]] == pytest.approx([1 / 3, 2 / 3 - 4 / 5])
    assert [one["difference"] for one in row["attributes"]["vowel"]] == pytest.approx(
        [1 / 3, 1 / 5]
    )
    json.dumps(found)


def test_no_torch():
    script = "import sys, tta.choose, tta.crossfit, tta.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
