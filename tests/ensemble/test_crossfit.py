"""Cross-fitting never uses labels of held-out groups; methods are applied to single models."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import yaml

from ensemble import auto, subsets
from ensemble.align import align
from ensemble.auto import PREFERS, SIMPLE, Tried, _trial, blend_arrays, nested_once_more
from ensemble.blend import blend
from ensemble.crossfit import CrossFitted, cross_fit, cross_fit_offsets, splits_of
from ensemble.methods.base import Evidence
from ensemble.methods.registry import METHODS
from ensemble.methods.vote import Vote
from ensemble.subsets import frontier_rows
from foldblend.errors import UserError
from foldblend.runs.folder import logit_columns, with_logits, write_json, write_table
from foldblend.runs.run import Run
from foldblend.scores.metrics import log_softmax, softmax
from foldblend.scores.rows import Rows
from folds.split import assign_folds
from tests.makers.rows import folded, relabelled
from tests.makers.synthetic_runs import write_synthetic_run

QUIET = {"say": lambda _: None, "page": False}


def skewed(*, num_groups=120, num_repeats=1, seed=0):
    """Return two members of three classes that predict a rare class too rarely.

    Each group has four images.
    """
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(num_groups), 4)
    label = rng.choice(3, size=num_groups, p=[0.6, 0.3, 0.1])[group]
    bias = np.array([2.0, 1.0, -2.0])
    rows = np.tile(np.arange(len(label)), num_repeats)
    logits = [
        (2 * np.eye(3)[label[rows]] + bias + rng.normal(size=(len(rows), 3))).astype(np.float32)
        for _ in range(2)
    ]
    repeat = np.repeat(np.arange(num_repeats), len(label))
    return Evidence(logits, Rows.of(label[rows], group[rows], repeat_N=repeat))


def folds_of(evidence, num_folds=4):
    fold = np.empty(len(evidence.rows.label_N), int)
    for repeat in np.unique(evidence.rows.repeat_N):
        rows = evidence.rows.repeat_N == repeat
        fold[rows] = assign_folds(
            evidence.rows.label_N[rows],
            evidence.rows.group_N[rows],
            num_folds=num_folds,
            seed=int(repeat),
        )
    return fold


def mislabelled(evidence, groups):
    rows = evidence.rows
    return relabelled(
        evidence, np.where(np.isin(rows.group_N, groups), (rows.label_N + 1) % 3, rows.label_N)
    )


def test_splits_keep_groups_and_repeats_apart():
    evidence = skewed(num_repeats=2)
    splits = splits_of(folded(evidence, folds_of(evidence)))
    assert len(splits) == 8
    assert sorted(np.concatenate([split.rows for split in splits])) == [
        *range(len(evidence.rows.label_N))
    ]
    for split in splits:
        assert {*evidence.rows.repeat_N[split.rows], *evidence.rows.repeat_N[split.others]} == {
            split.repeat
        }
        assert not {*evidence.rows.group_N[split.rows]} & {*evidence.rows.group_N[split.others]}
        assert len(split.rows) + len(split.others) == len(evidence.rows.label_N) / 2


@pytest.mark.parametrize("num_repeats", [1, 2])
def test_the_labels_of_a_group_do_not_reach_its_rows(num_repeats):
    evidence = skewed(num_repeats=num_repeats)
    fold = folds_of(evidence)
    methods = {name: METHODS[name] for name in ("weights", "stack")}
    group = 7
    mine = evidence.rows.group_N == group
    other = mislabelled(evidence, [group])
    before, after = (
        cross_fit(one, splits_of(folded(one, fold)), methods) for one in (evidence, other)
    )
    for name in methods:
        np.testing.assert_array_equal(
            before[name].logits_NC[mine], after[name].logits_NC[mine], err_msg=name
        )
        assert (before[name].logits_NC[~mine] != after[name].logits_NC[~mine]).any(), name


def test_offsets_of_a_fold_do_not_depend_on_its_labels():
    evidence = skewed()
    fold = folds_of(evidence)
    other = mislabelled(evidence, np.unique(evidence.rows.group_N[fold == 2])[::2])
    logits = evidence.logits_MNC[0]
    [(before, _)], [(after, _)] = (
        cross_fit_offsets(one, splits_of(folded(one, fold)), [logits]) for one in (evidence, other)
    )
    assert before is not None
    assert after is not None
    assert (
        before[fold == 2].argmax(1) != logits[fold == 2].argmax(1)
    ).any()  # the offsets change predictions
    np.testing.assert_array_equal(before[fold == 2], after[fold == 2])
    assert (before[fold != 2] != after[fold != 2]).any()


def test_the_nested_choice_never_sees_the_held_out_groups(monkeypatch):
    evidence = skewed()
    fold = folds_of(evidence)
    seen = []

    def spy(inner, *args, **settings):
        seen.append({*inner.rows.group_N})
        return blend_arrays(inner, *args, **settings)

    monkeypatch.setattr(auto, "blend_arrays", spy)
    nested_once_more(
        folded(evidence, fold), {"soft": METHODS["soft"], "weights": METHODS["weights"]}
    )
    held = [{*evidence.rows.group_N[split.rows]} for split in splits_of(folded(evidence, fold))]
    assert [groups & out for groups, out in zip(seen, held, strict=True)] == [set()] * 4
    assert all(
        groups | out == {*evidence.rows.group_N} for groups, out in zip(seen, held, strict=True)
    )


def test_members_of_the_frontier_are_chosen_on_other_folds(monkeypatch):
    evidence = skewed()
    real = subsets._score_of_subset
    splits = splits_of(folded(evidence, folds_of(evidence)))
    seen = []

    def spy(inner):
        seen.append(frozenset(inner.rows.group_N))
        return real(inner)

    monkeypatch.setattr(subsets, "_score_of_subset", spy)
    frontier_rows(evidence, splits, np.array([1.0, 2.0]), ["a", "b"])
    everyone, *others = seen
    assert everyone == {*evidence.rows.group_N}
    assert {*others} == {everyone - {*evidence.rows.group_N[split.rows]} for split in splits}


def test_a_row_of_the_frontier_has_the_number_of_folds_that_chose_it():
    evidence = skewed()
    fold = folds_of(evidence)
    right = 9 * np.eye(3)[evidence.rows.label_N]

    def rows(*kinds):
        logits = [np.where(knows[:, None], right, 0).astype(np.float32) for knows in kinds]
        found = dataclasses.replace(evidence, logits_MNC=logits)
        return frontier_rows(found, splits_of(folded(found, fold)), np.ones(2), ["one", "two"])

    assert [row.name for row in rows(fold >= 0, fold < 0)] == ["one"]  # it is always right
    # Each member is right on two folds, so the other folds of a fold favour the other member.
    cheapest, *_ = rows(fold < 2, fold >= 2)
    assert cheapest.name.endswith("(chosen in 2 of 4 folds)")


@pytest.mark.parametrize(("num_mended", "kept"), [(1, 0.65), (60, 1)])
def test_offsets_are_as_strong_as_they_often_help(num_mended, kept):
    evidence = skewed()
    logits = evidence.logits_MNC[0]
    wrong = np.flatnonzero(
        (logits.argmax(1) != evidence.rows.label_N) & (evidence.rows.label_N == 2)
    )[:num_mended]
    moved = logits.copy()
    moved[wrong, evidence.rows.label_N[wrong]] = 99
    offsets = np.array([-1.0, 0.0, 1.0])
    found = CrossFitted(logits, Vote("soft", (1.0, 0.0), (1.0, 1.0)))
    tried = Tried("soft", found, moved, offsets)
    trial = _trial(evidence, tried)
    assert trial.offsets_gain[0] > 0
    assert trial.strength == pytest.approx(kept, abs=0.05)
    np.testing.assert_allclose(trial.offsets_C, trial.strength * offsets)
    # One of 480 images is better; it must gain 2.5 standard errors where simple is preferred.
    rule = PREFERS[SIMPLE].strength_of
    assert _trial(evidence, tried, rule).strength == (num_mended == 60)


@pytest.fixture
def two(tmp_path):
    for name, strength, seed in (("a", 1.1, 0), ("b", 1.0, 1)):
        write_synthetic_run(
            tmp_path / name, num_people=24, num_test=20, strength=strength, seed=seed
        )
    return [tmp_path / "a", tmp_path / "b"]


def test_a_fitted_method_is_applied_to_single_models(two):
    made = blend(two, method="weights", name="w", **QUIET)
    found = yaml.safe_load((made.path / "blend.yaml").read_text())["found"]
    assert any(one != 1 for one in found["fitted"]["temperatures"])
    runs = [Run(path) for path in two]
    ids = made.test["image_id"]
    for fold in range(5):
        scaled = [
            softmax(
                run.logits(run.test_fold(fold).set_index("image_id").loc[ids]).astype(np.float64)
                / temperature
            )
            for run, temperature in zip(runs, found["fitted"]["temperatures"], strict=True)
        ]
        voted = np.log(np.einsum("m,mnc->nc", found["fitted"]["weights"], np.stack(scaled)))
        logits = (
            log_softmax(log_softmax(voted) + np.array(found["offsets"]))
            if any(found["offsets"])
            else voted
        )
        np.testing.assert_allclose(made.logits(made.test_fold(fold)), logits, atol=1e-4)
    stack = METHODS["stack"].fit(
        Evidence(
            [*align(runs).oof()],
            Rows.of(
                align(runs).rows["label"].to_numpy(),
                pd.factorize(align(runs).rows["group"], sort=True)[0],
                repeat_N=align(runs).rows["repeat"].to_numpy(),
            ),
        )
    )
    stacked = blend(two, method="stack", name="s", **QUIET)
    if not any(yaml.safe_load((stacked.path / "blend.yaml").read_text())["found"]["offsets"]):
        expected = stack(
            run.logits(run.test_fold(3).set_index("image_id").loc[ids]) for run in runs
        )
        np.testing.assert_allclose(stacked.logits(stacked.test_fold(3)), expected, atol=1e-3)


def test_a_hard_vote_over_folds_counts_the_votes_of_all_models(two):
    rng = np.random.default_rng(0)
    shape = (20, 18)
    for path in two:
        run = Run(path)
        for fold in range(5):
            ids = run.test_fold(fold)[["image_id"]]
            write_table(
                path / f"test_fold_{fold}.parquet", with_logits(ids, 9 * rng.normal(size=shape))
            )
    made = blend(two, method="hard", name="h", **QUIET)
    votes = np.zeros(shape)
    ids = made.test["image_id"]
    for run in map(Run, two):
        for fold in range(5):
            table = run.test_fold(fold).set_index("image_id").loc[ids, logit_columns(18)]
            votes[np.arange(20), table.to_numpy().argmax(1)] += 1
    clear = np.sort(votes, axis=1)[:, -1] > np.sort(votes, axis=1)[:, -2]
    assert clear.sum() > 5
    assert (made.logits(made.test).argmax(1)[clear] == votes.argmax(1)[clear]).all()


# Only a cross-validated run has test tables of all of its models.
AS_TTA = {"kind": "tta", "of": {"name": "z", "oof": "0"}, "passes": 5}


def test_a_vote_of_means_is_recorded_as_one(two):
    run = Run(two[1])
    write_table(two[1] / "test_fold_0.parquet", run.test)
    write_json(two[1] / "run.json", run.info | AS_TTA | {"num_test_folds": 1})
    voted = blend(two, method="soft", name="v", **QUIET)
    assert voted.info["test_is_mean"]
    again = blend([voted.path], name="again", include_blends=True, **QUIET)
    assert again.info["test_is_mean"]
    assert any("only votes were tried" in note for note in again.info["notes"])
    with pytest.raises(UserError, match=r"--method stack: test logits of v are means"):
        blend([voted.path], method="stack", name="s", include_blends=True, **QUIET)
