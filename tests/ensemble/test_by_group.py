"""Tests of blends and TTA whose score counts groups."""

import dataclasses
import json

import numpy as np
import pytest

from ensemble.auto import blend_arrays
from ensemble.blend import blend
from ensemble.choose import averaging_optimism, chances, score_logits
from ensemble.config import read_blend_file
from ensemble.methods.base import Evidence
from ensemble.methods.registry import METHODS
from ensemble.offsets import fit_offsets
from foldblend.errors import UserError
from foldblend.runs.run import Run
from foldblend.scores.by_group import by_group, metric_by_group
from foldblend.scores.metrics import METRICS, log_softmax, softmax
from foldblend.scores.rows import Rows
from foldblend.scores.score import score_interval
from reports.board.leaderboard import leaderboard
from reports.run.report import write_report
from tests.makers.synthetic_runs import write_synthetic_run


def quiet(_):
    """Print nothing."""


F1_BY_GROUP = metric_by_group(METRICS["f1_macro"])


SIZE = 9  # images of a group
ACCURACY_BY_GROUP = metric_by_group(METRICS["accuracy"])


def evidence_of(metric=F1_BY_GROUP, *, seed=0, num_groups=200):
    """Return evidence of two members, the first better by group, the second better by image.

    The noise of the first is that of images, which a mean over a group nearly removes; the noise
    of the second is less, but the same for all images of a group.
    """
    rng = np.random.default_rng(seed)
    group_N = np.repeat(np.arange(num_groups), SIZE)
    label_N = np.repeat(rng.integers(2, size=num_groups), SIZE)
    sign_N = 2 * label_N - 1
    of_images_N = sign_N + 2.0 * rng.normal(size=len(label_N))
    of_groups_N = sign_N + 1.3 * rng.normal(size=num_groups)[group_N]
    members = (of_images_N, of_groups_N)
    logits = [np.stack([-one, one], axis=1).astype(np.float32) for one in members]
    return Evidence(logits, Rows.of(label_N, group_N, fold_N=group_N % 5), metric)


@pytest.mark.parametrize("name", ["greedy", "weights-metric"])
def test_methods_that_search_for_the_score_search_for_the_score_by_group(name):
    method = METHODS[name]
    by_image = method.fit(evidence_of(METRICS["accuracy"]))
    by_groups = method.fit(evidence_of(ACCURACY_BY_GROUP))
    fresh = evidence_of(ACCURACY_BY_GROUP, seed=1)
    value, other = (
        score_logits(fresh, one(fresh.logits_MNC)).value for one in (by_groups, by_image)
    )
    assert by_groups.shares[0] > by_image.shares[0]
    assert value > other


def test_evidence_of_groups_keeps_temperatures_exactly():
    evidence = evidence_of()
    pooled, ones = evidence.pooled((0.5, 3.0))
    assert ones == [1.0, 1.0]
    assert pooled.score.pool == ""
    for logits_GC, logits_NC, one in zip(
        pooled.logits_MNC, evidence.logits_MNC, (0.5, 3.0), strict=True
    ):
        mean_GC = logits_NC.reshape(-1, SIZE, 2).mean(axis=1, dtype=np.float64) / one
        np.testing.assert_allclose(softmax(logits_GC), softmax(mean_GC), rtol=1e-5)
    assert evidence_of(METRICS["accuracy"]).pooled()[0].rows.num_images == 200 * SIZE


def test_offsets_fitted_on_groups_move_groups_by_as_much():
    rng = np.random.default_rng(1)
    group_N = np.repeat(np.arange(400), 3)
    label_N = np.repeat(rng.choice(3, size=400, p=[0.8, 0.15, 0.05]), 3)
    logits_NC = rng.normal(size=(1200, 3)) + 1.2 * np.eye(3)[label_N] + np.array([2.0, 0.5, 0.0])
    rows = Rows.of(label_N, group_N)
    offsets_C = fit_offsets(logits_NC, rows, metric=F1_BY_GROUP)
    assert offsets_C.any()
    groups, proba_GC = by_group(rows, softmax(logits_NC))
    # The same offsets as those of the pooled rows, by image.
    again_C = fit_offsets(np.log(proba_GC), groups, metric="f1_macro")
    np.testing.assert_allclose(offsets_C, again_C)
    moved = score_interval(F1_BY_GROUP, rows, softmax(log_softmax(logits_NC) + offsets_C))
    direct = score_interval(METRICS["f1_macro"], groups, softmax(np.log(proba_GC) + offsets_C))
    assert moved.value == direct.value
    assert moved.value > score_interval(F1_BY_GROUP, rows, softmax(logits_NC)).value


def test_the_optimism_of_an_average_counts_groups():
    evidence = evidence_of()
    proba_SNC = np.stack([softmax(one) for one in evidence.logits_MNC])
    scores = [score_logits(evidence, one) for one in evidence.logits_MNC]
    weight_S = chances(scores)
    by_groups = averaging_optimism(evidence, proba_SNC, scores, weight_S)
    pooled, _ = evidence.pooled()
    groups = np.stack([softmax(one) for one in pooled.logits_MNC])
    again = [score_logits(pooled, one) for one in pooled.logits_MNC]
    # With all weight on one prediction, pooling before or after the average is the same.
    if np.count_nonzero(weight_S) == 1:
        assert by_groups == pytest.approx(averaging_optimism(pooled, groups, again, weight_S))
    assert by_groups >= 0


def test_the_best_member_is_chosen_by_groups():
    tried = {"single": METHODS["single"]}
    by_groups = blend_arrays(evidence_of(ACCURACY_BY_GROUP), tried, decide=False).chosen
    by_image = blend_arrays(evidence_of(METRICS["accuracy"]), tried, decide=False).chosen
    assert by_groups.final.shares == (1.0, 0.0)
    assert by_image.final.shares == (0.0, 1.0)
    rows = evidence_of().rows
    expected = score_interval(ACCURACY_BY_GROUP, rows, softmax(by_groups.logits_NC))
    assert by_groups.nested.interval() == expected


def from_file(file, **settings):
    """Return the settings of a blend.yaml as keywords of `blend`."""
    config = dataclasses.replace(read_blend_file(file), **settings)
    kept = {one.name: getattr(config, one.name) for one in dataclasses.fields(config)}
    return {**kept, "say": quiet}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("by_group")
    return [
        Run(
            write_synthetic_run(
                folder / name,
                num_people=60,
                num_test=20,
                strength=strength,
                seed=seed,
                one_class=True,
            )
        )
        for seed, (name, strength) in enumerate({"a": 0.5, "b": 0.4}.items())
    ]


def test_a_blend_by_group_is_scored_reported_and_compared_by_group(runs, tmp_path):
    made = blend(
        runs, score_by="group", method="soft", name="g", output=str(tmp_path), say=quiet, page=False
    )
    assert (made.info["score_by"], made.info["group_pool"]) == ("group", "mean")
    report = made.report
    metric = metric_by_group(METRICS["f1_macro"])
    rows = Rows.of(*(made.oof[name].to_numpy() for name in ("label", "group")))
    expected = score_interval(metric, rows, softmax(made.logits(made.oof)))
    assert report["headline"]["value"] == pytest.approx(expected.value, abs=1e-9)
    text = (made.path / "report.txt").read_text()
    assert f"OOF macro F1 by group {expected.value:.4f}" in text
    assert "OOF macro F1 by image 0." in text
    [board] = leaderboard([*runs, made], score_by="group")["boards"]
    of_blend = next(row for row in board["rows"] if row["name"] == "g")
    assert of_blend["headline"] == report["headline"]
    # A redrawn report, and a blend of blends scored by group, keep the unit.
    write_report(made, page=False)
    assert Run(made.path).report["headline"] == report["headline"]


def test_a_blend_takes_the_unit_of_its_members_and_its_file_keeps_it(runs, tmp_path):
    first = blend(
        runs,
        score_by="group",
        method="greedy",
        name="g",
        output=str(tmp_path),
        say=quiet,
        page=False,
    )
    file = str(first.path / "blend.yaml")
    again = blend(**from_file(file, name="h"))
    assert again.info["score_by"] == "group"
    assert again.oof_hash == first.oof_hash
    one = blend([first, again], include_blends=True, method="soft", name="i", say=quiet, page=False)
    assert one.info["score_by"] == "group"
    mixed = blend(
        [first, runs[0]],
        include_blends=True,
        method="soft",
        name="j",
        output=str(tmp_path),
        say=quiet,
        page=False,
    )
    assert "score_by" not in mixed.info


def test_members_that_pool_groups_differently_are_pooled_by_the_mean_and_it_is_said(tmp_path):
    pooled = [
        blend(
            [write_synthetic_run(tmp_path / name, num_people=40, seed=seed, one_class=True)],
            score_by="group",
            group_pool=pool,
            name=pool,
            output=str(tmp_path),
            say=quiet,
            page=False,
        )
        for seed, (name, pool) in enumerate({"a": "max", "b": "noisy-or"}.items())
    ]
    shared = {"include_blends": True, "method": "soft", "say": quiet, "page": False}
    made = blend(pooled, name="c", output=str(tmp_path), **shared)
    assert made.info["group_pool"] == "mean"
    said = "pool the images of a group differently (max, noisy-or), so the mean is used"
    assert any(said in note for note in made.report["notes"])
    made = blend(pooled, name="d", output=str(tmp_path), group_pool="max", **shared)
    assert made.info["group_pool"] == "max"
    assert not any("differently" in note for note in made.report["notes"])


def test_a_pool_without_a_score_by_group_is_refused(runs, tmp_path):
    words = "^--group-pool max: has no effect without --score-by group$"
    with pytest.raises(UserError, match=words):
        blend(runs, group_pool="max", name="g", output=str(tmp_path), say=quiet)
    assert not (tmp_path / "g").exists()
    with pytest.raises(UserError, match=words):
        leaderboard(runs, score_by="image", group_pool="max")
    assert leaderboard(runs, score_by="group", group_pool="max")["score_by"] == "group"


def test_a_blend_by_image_has_the_key_of_earlier_versions(runs, tmp_path):
    made = blend(runs, method="soft", name="g", output=str(tmp_path), say=quiet, page=False)
    settings = (made.path / "blend.yaml").read_text()
    assert "score_by" not in settings
    assert "group_pool" not in settings
    assert "score_by" not in json.loads((made.path / "run.json").read_text())


def test_groups_of_two_classes_are_refused_before_anything_is_written(tmp_path):
    for seed, name in enumerate("ab"):
        write_synthetic_run(tmp_path / "outputs" / name, num_people=10, seed=seed)
    folders = [tmp_path / "outputs" / name for name in "ab"]
    words = r"^--score-by group: group \S+ has images of more than one class"
    with pytest.raises(UserError, match=words):
        blend(folders, score_by="group", name="c", say=quiet)
    assert not (tmp_path / "outputs" / "c").exists()
    with pytest.raises(UserError, match=words):
        leaderboard(folders, score_by="group")
