"""The soft vote of runs: known answers, alignment by image_id, and wrong input."""

import functools
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble import blend as blending
from ensemble.methods.vote import soft_vote
from foldblend.runs.folder import logit_columns
from foldblend.runs.run import Run
from foldblend.scores.metrics import METRICS, softmax
from tests.makers.edits import assert_left_out, edit_run, edit_table, rehash

# Pages are left out because each takes about a second.
blend = functools.partial(blending.blend, page=False, method="soft")


@pytest.fixture
def blend_command(blend_command):
    return lambda *argv: blend_command(*argv, "--method", "soft", "--no-page")


def quiet(_):
    pass


def edit_oof(folder, change):
    edit_table(folder / "oof.parquet", change)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 4))
def test_vote_is_the_weighted_mean_of_probabilities(seed, num_models):
    rng = np.random.default_rng(seed)
    logits = list(rng.normal(0, 5, (num_models, 9, 4)))
    weights = rng.random(num_models) + 0.01
    expected = np.average([softmax(one) for one in logits], axis=0, weights=weights)
    np.testing.assert_allclose(np.exp(soft_vote(logits, weights)), expected, rtol=1e-9)
    np.testing.assert_allclose(
        soft_vote(logits, 10 * weights), soft_vote(logits, weights), atol=1e-12
    )


def test_vote_at_extremes():
    certain = np.array([[1e4, -1e4], [-1e4, 1e4]])
    assert np.isfinite(soft_vote([certain, certain], [1, 1])).all()
    other = np.array([[-1.0, 1.0], [2.0, 0.0]])
    np.testing.assert_allclose(np.exp(soft_vote([certain, other], [0, 3])), softmax(other))


def test_blend_is_a_run_joined_on_image_id(runs_copy, alpha):
    edit_oof(runs_copy / "beta", lambda table: table.iloc[::-1])
    run = blend([runs_copy / "alpha", runs_copy / "beta"], say=quiet, page=True)
    beta = Run(runs_copy / "beta")
    by_id = [one.oof.set_index("image_id").loc[run.oof["image_id"]] for one in (alpha, beta)]
    expected = np.mean([softmax(run.logits(table)) for table in by_id], axis=0)
    np.testing.assert_allclose(softmax(run.logits(run.oof)), expected, atol=1e-6)
    assert (run.oof["label"].to_numpy() == by_id[0]["label"].to_numpy()).all()
    assert (run.oof["fold"].to_numpy() == by_id[0]["fold"].to_numpy()).all()
    names = {item.name for item in run.path.iterdir()} - {".lock"}
    assert names == {
        "run.json",
        "blend.yaml",
        "parameters.safetensors",
        "env.json",
        "folds.csv",
        "oof.parquet",
        "test.parquet",
        "test_fold_0.parquet",
        "test_fold_1.parquet",
        "report.json",
        "report.txt",
        "submission.csv",
        "predictions.csv",
        "predictions_by_group.csv",
        "pictures.parquet",
        "sections",
        "report.html",
    }
    assert run.report["headline"]["value"] == METRICS["f1_macro"].score(
        run.oof["label"].to_numpy(), expected
    )


def test_test_rows_are_voted_per_fold_and_then_averaged(runs_copy, alpha):
    run = blend([runs_copy / "alpha", runs_copy / "beta"], say=quiet)
    beta = Run(runs_copy / "beta")
    ids = alpha.test["image_id"]
    votes = []
    for fold in range(2):
        tables = [one.test_fold(fold).set_index("image_id").loc[ids] for one in (alpha, beta)]
        votes.append(np.log(np.mean([softmax(run.logits(table)) for table in tables], axis=0)))
    np.testing.assert_allclose(run.logits(run.test), np.mean(votes, axis=0), atol=1e-5)
    submission = pd.read_csv(run.path / "submission.csv")
    assert submission["ans"].tolist() == np.mean(votes, axis=0).argmax(1).tolist()


def test_the_report_compares_single_runs_and_the_blend(runs_copy):
    run = blend([runs_copy / "alpha", runs_copy / "beta"], say=quiet, name="both")
    rows = run.report["sections"][0]["blocks"][0]["rows"]
    assert [row["name"] for row in rows] == ["alpha", "beta", "both"]
    singles = {row["name"]: row["headline"]["value"] for row in rows[:2]}
    assert rows[2]["against"] == max(singles, key=singles.get)
    assert rows[2]["difference"]["value"] == pytest.approx(
        rows[2]["headline"]["value"] - max(singles.values())
    )


def test_order_of_arguments_does_not_matter_to_the_byte(runs_copy, tmp_path, monkeypatch):
    monkeypatch.setattr("foldblend.runs.derived.time.time", lambda: 1e9)
    a = runs_copy / "alpha"
    b = runs_copy / "beta"
    one = blend([a, b], say=quiet, weights=(1, 3), output=str(tmp_path / "one"))
    two = blend([b, a], say=quiet, weights=(3, 1), output=str(tmp_path / "two"))
    assert one.name == two.name
    for file in sorted(set(one.path.glob("*.*")) - {one.path / "env.json"}):
        assert file.read_bytes() == (two.path / file.name).read_bytes(), file.name


def test_weights_and_one_run(runs_copy, alpha):
    only = blend([runs_copy / "alpha", runs_copy / "beta"], say=quiet, weights=(1, 0))
    rows = alpha.oof.set_index("image_id").loc[only.oof["image_id"]]
    np.testing.assert_allclose(
        softmax(only.logits(only.oof)), softmax(alpha.logits(rows)), atol=1e-6
    )
    single = blend([runs_copy / "alpha"], say=quiet)
    assert single.info["status"] == "done"


def test_folders_that_cannot_be_blended_are_listed_with_the_reason(runs_copy, blend_command):
    (runs_copy / "notes").mkdir()
    (runs_copy / "file.txt").write_text("x")
    for number, text in enumerate(['{"format": 1}', "[]", '{"wandb": 1}', "{oops"]):
        (runs_copy / f"odd{number}").mkdir()
        (runs_copy / f"odd{number}" / "run.json").write_text(text)
    edit_run(runs_copy / "beta", status="running")
    done = blend_command(*sorted(runs_copy.iterdir()))
    assert done.code == 0, done.err
    assert "notes: not a run folder" in done.out
    assert done.out.count("skipped /") == 7
    assert "file.txt: not a run folder" in done.out
    assert "beta: not finished" in done.out


def test_earlier_blends_are_skipped_unless_asked_for(runs_copy, blend_command):
    first = blend([runs_copy / "alpha", runs_copy / "beta"], say=quiet, name="first")
    done = blend_command(*sorted(runs_copy.iterdir()), "--name", "second")
    assert "first: an earlier blend" in done.out
    assert [member["name"] for member in Run(runs_copy / "second").info["members"]] == [
        "alpha",
        "beta",
    ]
    blend_command(*sorted(runs_copy.iterdir()), "--name", "third", "--include-blends")
    assert len(Run(runs_copy / "third").info["members"]) == 4
    alone = blend([first.path], say=quiet, name="alone")
    np.testing.assert_allclose(
        softmax(alone.logits(alone.oof)), softmax(first.logits(first.oof)), atol=1e-6
    )


def test_the_same_blend_again_is_the_same_and_another_is_not_overwritten(runs_copy, blend_command):
    paths = [runs_copy / "alpha", runs_copy / "beta"]
    before = blend(paths, say=quiet, name="mine").oof
    assert blend_command(*paths, "--name", "mine").code == 0
    blend_command(*paths, "--name", "mine", "--weights", "1", "2").assert_one_line_error(
        "mine", "--overwrite"
    )
    pd.testing.assert_frame_equal(Run(runs_copy / "mine").oof, before, check_exact=True)
    assert blend_command(*paths, "--name", "mine", "--weights", "1", "2", "--overwrite").code == 0
    assert not np.array_equal(Run(runs_copy / "mine").oof["logit_0"], before["logit_0"])
    blend_command(*paths, "--name", "alpha").assert_one_line_error(
        "alpha", "is a cross-validated run"
    )


def second_data_set(runs_copy, name="gamma", data_name="cats"):
    """Make a run whose images have other names."""
    shutil.copytree(runs_copy / "alpha", runs_copy / name)
    info = json.loads((runs_copy / name / "run.json").read_text())
    edit_run(
        runs_copy / name, data=info["data"] | {"name": data_name, "train_ids_hash": "feedbeef"}
    )
    edit_oof(runs_copy / name, lambda table: table.assign(image_id="cat/" + table["image_id"]))


def test_two_data_sets_side_by_side(runs_copy, blend_command):
    second_data_set(runs_copy)
    done = blend_command(*sorted(runs_copy.iterdir()))
    done.assert_one_line_error("2 data sets", "tiny: alpha, beta", "cats: gamma", "--dataset")
    assert not list(runs_copy.glob("blend*"))
    done = blend_command(*sorted(runs_copy.iterdir()), "--dataset", "tiny", "--name", "ok")
    assert done.code == 0, done.err
    assert len(Run(runs_copy / "ok").info["members"]) == 2
    blend_command(*sorted(runs_copy.iterdir()), "--dataset", "tin").assert_one_line_error(
        "--dataset tin", "tiny"
    )


def test_two_data_sets_of_one_name_can_be_told_apart(runs_copy, blend_command):
    second_data_set(runs_copy, data_name="tiny")
    done = blend_command(*sorted(runs_copy.iterdir()))
    done.assert_one_line_error("2 data sets", "tiny@feedbe: gamma")
    assert (
        blend_command(*sorted(runs_copy.iterdir()), "--dataset", "tiny@feedbe", "--name", "ok").code
        == 0
    )
    assert [member["name"] for member in Run(runs_copy / "ok").info["members"]] == ["gamma"]


def test_one_data_set_under_two_names_is_one(runs_copy, alpha):
    edit_run(runs_copy / "beta", data=alpha.info["data"] | {"name": "mounted-elsewhere"})
    assert len(blend([runs_copy / "alpha", runs_copy / "beta"], say=quiet).info["members"]) == 2


def test_runs_of_one_name_are_all_shown(runs_copy, tmp_path):
    other = shutil.copytree(runs_copy / "beta", tmp_path / "more" / "alpha")
    run = blend(
        [Run(runs_copy / "alpha"), Run(other)],
        say=quiet,
        name="alpha",
        output=str(tmp_path / "third"),
    )
    rows = run.report["sections"][0]["blocks"][0]["rows"]
    assert len(rows) == 3
    assert {row["name"] for row in rows} == {str(runs_copy / "alpha"), str(other), "alpha"}


def test_one_data_set_name_but_other_images(runs_copy, blend_command):
    edit_oof(runs_copy / "beta", lambda table: table.assign(image_id="x" + table["image_id"]))
    blend_command(runs_copy / "alpha", runs_copy / "beta").assert_one_line_error("different images")


def test_different_labels_for_one_image(runs_copy, blend_command):
    def change(table):
        table.loc[3, "label_raw"] = (table.loc[3, "label_raw"] + 1) % 18
        return table

    edit_oof(runs_copy / "beta", change)
    image = pd.read_parquet(runs_copy / "beta" / "oof.parquet")["image_id"][3]
    done = blend_command(runs_copy / "alpha", runs_copy / "beta")
    done.assert_one_line_error("alpha", "beta", "1 images differ in label", image)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda t: t.assign(logit_3=np.float32("nan")), ["not finite"]),
        (lambda t: pd.concat([t, t.head(1)]), ["1 doubled"]),
        (lambda t: t.head(70), ["has 70 images", "84"]),
        (lambda t: t.drop(columns="logit_3"), ["lacks logit_3"]),
    ],
)
@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_damaged_members_leave_nothing_behind(runs_copy, blend_command, damage, words, name):
    edit_oof(runs_copy / name, damage)
    good = runs_copy / ("beta" if name == "alpha" else "alpha")
    assert_left_out(blend_command, good, runs_copy / name, *words)
    assert sorted(item.name for item in runs_copy.iterdir()) == ["alpha", "beta", "rest"]


def test_truncated_table_and_other_classes(runs_copy, blend_command):
    table = runs_copy / "beta" / "oof.parquet"
    whole = table.read_bytes()
    table.write_bytes(whole[:-20])
    why = "oof.parquet: has changed since the run was made"
    assert_left_out(blend_command, runs_copy / "alpha", runs_copy / "beta", why)
    rehash(table)
    blend_command(runs_copy / "beta").assert_one_line_error("beta/oof.parquet", "cannot be read")
    rehash(table)
    table.write_bytes(whole)
    rehash(table)
    classes = Run(runs_copy / "beta").classes
    edit_run(runs_copy / "beta", classes=list(classes[::-1]))
    blend_command(runs_copy / "alpha", runs_copy / "beta").assert_one_line_error(
        "different classes", "their order"
    )


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], ["nothing to blend"]),
        (["/nowhere"], ["/nowhere", "no such run"]),
        (["{tmp}"], ["nothing to blend", "not a run folder"]),
        (["{tmp}/*"], ["nothing to blend", "run run_cv.py first"]),
        (
            ["{runs}/alpha", "{runs}/beta", "--weights", "1"],
            ["--weights", "1 given for 2", "alpha, beta"],
        ),
        (["{runs}/alpha", "--weights", "-1"], ["--weights"]),
        (["{runs}/alpha", "--wieghts", "1"], ["--wieghts", "did you mean --weights"]),
        (["{runs}/alpha", "--metric", "f2"], ["--metric f2"]),
    ],
)
def test_wrong_arguments(tiny_runs, tmp_path, blend_command, argv, words):
    filled = [word.format(tmp=tmp_path, runs=tiny_runs) for word in argv]
    blend_command(*filled).assert_one_line_error(*words)


def test_members_with_different_folds_may_vote_with_a_note(runs_copy):
    edit_oof(runs_copy / "beta", lambda table: table.assign(fold=1 - table["fold"]))
    run = blend([runs_copy / "alpha", runs_copy / "beta"], say=quiet)
    assert any("different folds" in note for note in run.report["notes"])


def test_a_member_without_test_rows(runs_copy):
    edit_run(runs_copy / "beta", has_test=False, num_test_folds=0)
    run = blend([runs_copy / "alpha", runs_copy / "beta"], say=quiet)
    assert run.test is None
    assert any("no test logits" in note for note in run.report["notes"])


def test_logit_columns_are_in_class_order(tiny_runs):
    assert list(pd.read_parquet(tiny_runs / "alpha" / "test.parquet").columns)[1:] == logit_columns(
        18
    )
