"""blend.py with fitted methods: what it chooses, writes, repeats and refuses."""

import shutil

import numpy as np
import pandas as pd
import pytest
import yaml

from ensemble.align import align
from ensemble.blend import blend
from ensemble.methods.registry import METHODS
from foldblend.runs.folder import write_section, write_table
from foldblend.runs.run import Run
from foldblend.scores.metrics import METRICS, softmax
from reports.blocks import section, text_block
from tests.makers.edits import assert_left_out, edit_run, edit_table
from tests.makers.synthetic_runs import write_synthetic_run

FILES = (
    "oof.parquet",
    "test.parquet",
    "test_fold_0.parquet",
    "submission.csv",
    "blend.yaml",
    "parameters.safetensors",
    "folds.csv",
)


def quiet(_):
    pass


@pytest.fixture
def drawn(tmp_path):
    """Write outputs/ with three runs of 24 groups and 20 test images, with random logits."""
    for name, strength, seed in (("a", 1.1, 0), ("b", 1.0, 1), ("c", 0.2, 2)):
        write_synthetic_run(
            tmp_path / "outputs" / name, num_people=24, num_test=20, strength=strength, seed=seed
        )
    return tmp_path / "outputs"


@pytest.fixture
def command(blend_command):
    return lambda *argv: blend_command(*argv, "--no-page")


def test_a_folder_that_is_removed_meanwhile_is_an_error_and_starts_afresh(
    drawn, command, monkeypatch
):
    argv = [*sorted(drawn.iterdir()), "--method", "soft", "--name", "all"]

    def removed():
        shutil.rmtree(drawn / "all", ignore_errors=True)
        return {}

    with monkeypatch.context() as patch:
        patch.setattr("foldblend.runs.derived.describe_environment", removed)
        done = command(*argv)
        done.assert_one_line_error("all: was removed or renamed", "run the same command again")
    assert command(*argv).code == 0


def section_named(run, words):
    return next(one for one in run.report["sections"] if words in one["title"])


def test_auto_scores_every_method_and_writes_a_run(drawn, command):
    done = command(*sorted(drawn.iterdir()), "--name", "all")
    assert done.code == 0, done.err
    run = Run(drawn / "all")
    methods = section_named(run, "methods compared")["blocks"][0]
    *rows, mean = methods["rows"]
    assert [row[0] for row in rows] == [
        name for name, method in METHODS.items() if not method.thorough
    ]
    assert mean[0] == "mean (chosen)"
    assert sum(float(row[1] or 0) for row in rows) == pytest.approx(1, abs=0.05)
    assert float(mean[2]) == pytest.approx(run.report["headline"]["value"], abs=5e-5)
    assert section_named(run, "errors")["blocks"][0]["rows"][0][0] == "a"
    costs = section_named(run, "cost")
    assert {block["kind"] for block in costs["blocks"]} == {"text", "table", "strips"}
    found = yaml.safe_load((drawn / "all" / "blend.yaml").read_text())["found"]
    assert found["method"] == "mixture"
    weights = {one["method"]: one["weight"] for one in found["fitted"]["mixture"]}
    assert weights == {row[0]: pytest.approx(float(row[1]), abs=0.005) for row in rows if row[1]}
    # It is a run like any other: it can be blended again, and has all rows.
    assert run.info["kind"] == "blend"
    assert run.info["passes"] == 15
    assert len(run.oof) == 24 * 7
    assert len(run.test) == 20
    assert any("the score optimistic by about" in note for note in run.info["notes"])


@pytest.mark.slow
def test_blend_yaml_repeats_a_blend_to_the_byte_in_any_order_of_runs(drawn, tmp_path, command):
    assert command(drawn / "a", drawn / "b", "--method", "greedy", "--name", "one").code == 0
    assert command(drawn / "b", drawn / "a", "--method", "greedy", "--name", "two").code == 0
    assert command("--config", drawn / "one" / "blend.yaml", "--name", "three").code == 0
    for file in FILES:
        for other in ("two", "three"):
            assert (drawn / "one" / file).read_bytes() == (drawn / other / file).read_bytes(), (
                other,
                file,
            )
    # Flags win over the file.
    assert (
        command("--config", drawn / "one" / "blend.yaml", "--method", "soft", "--name", "four").code
        == 0
    )
    assert yaml.safe_load((drawn / "four" / "blend.yaml").read_text())["method"] == "soft"


def test_members_of_a_blend_yaml_do_not_decide_where_is_written(
    drawn, tmp_path, command, monkeypatch
):
    assert command(drawn / "a", drawn / "b", "--method", "soft", "--name", "one").code == 0
    before = {*drawn.iterdir()}
    settings = yaml.safe_load((drawn / "one" / "blend.yaml").read_text())
    for member in settings["members"]:
        member["path"] = str((drawn / "one" / member["path"]).resolve())
    received = tmp_path / "received" / "outputs" / "one"
    received.mkdir(parents=True)
    own = tmp_path / "own"
    own.mkdir()
    monkeypatch.chdir(own)
    for folder in (received, own):
        (folder / "blend.yaml").write_text(yaml.safe_dump(settings))
    (received / "run.json").write_text("{}")
    for folder, beside in ((received, received.parent), (own, own / "outputs")):
        done = command("--config", folder / "blend.yaml", "--name", "again")
        assert done.code == 0, done.err
        assert (beside / "again" / "run.json").is_file()
    assert {*drawn.iterdir()} == before


def test_a_member_that_changed_since_blend_yaml_is_refused(drawn, command):
    assert (
        command(
            drawn / "a", drawn / "b", "--method", "soft", "--weights", "1", "3", "--name", "one"
        ).code
        == 0
    )
    again = command("--config", drawn / "one" / "blend.yaml", "--name", "again")
    assert again.code == 0, again.err
    assert (drawn / "one" / "oof.parquet").read_bytes() == (
        drawn / "again" / "oof.parquet"
    ).read_bytes()
    edit_table(drawn / "b" / "test_fold_1.parquet", lambda table: table.assign(logit_0=0.0))
    done = command("--config", drawn / "one" / "blend.yaml", "--name", "other")
    done.assert_one_line_error(f"{drawn}/b", "test logits changed", "blend.yaml")
    assert not (drawn / "other").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, ["nothing.yaml", "--config"]),
        ("[1, 2]", ["not a blend.yaml"]),
        ("members: [{name: a}]", ["not a blend.yaml"]),
        ("method: [x]\nmembers: [{name: a, path: ../a}]", ["method"]),
        ("method: sotf\nmembers: [{name: a, path: ../a}]", ["sotf", "did you mean soft"]),
        ("weights: [x]\nmembers: [{name: a, path: ../a}]", ["weights"]),
        ("{oops", ["not valid YAML"]),
    ],
)
def test_a_file_that_is_not_a_blend_yaml(drawn, tmp_path, command, text, words):
    file = tmp_path / "nothing.yaml"
    if text is not None:
        file.write_text(text)
    command("--config", file).assert_one_line_error(*words)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--method", "greddy"], ["--method greddy", "did you mean greedy"]),
        (["--method", "greedy", "--weights", "1", "1", "1"], ["--weights", "--method greedy"]),
        (["--budget", "0.5x"], ["--budget 0.5x"]),
        (["--budget", "much"], ["--budget much"]),
        (["--budget", "2x", "--weights", "1", "1", "1"], ["--weights", "--budget"]),
    ],
)
def test_wrong_settings(drawn, command, argv, words):
    before = sorted(drawn.iterdir())
    command(*sorted(drawn.iterdir()), *argv).assert_one_line_error(*words)
    assert sorted(drawn.iterdir()) == before


def test_a_blend_of_a_single_run(drawn, command):
    done = command(drawn / "b", "--name", "alone")
    assert done.code == 0, done.err
    run = Run(drawn / "alone")
    names = [row[0] for row in section_named(run, "methods compared")["blocks"][0]["rows"]]
    assert [name.split()[0] for name in names] in (
        ["soft", "tempered", "stack"],
        ["soft", "tempered", "stack", "mean"],
    )


@pytest.mark.slow
def test_a_blend_of_an_earlier_version_stays_what_it_is(drawn, command):
    runs = drawn / "a", drawn / "b"
    assert command(*runs, "--prefer", "simple", "--method", "greedy", "--name", "x").code == 0
    before = Run(drawn / "x")
    done = command(*runs, "--method", "greedy", "--name", "x")
    assert done.code == 0
    assert "made with --prefer simple, which is kept" in done.out + done.err
    assert Run(drawn / "x").info["run_key"] == before.info["run_key"]
    assert command(*runs, "--method", "greedy", "--name", "x", "--overwrite").code == 0
    assert Run(drawn / "x").info["run_key"] != before.info["run_key"]


def test_sections_of_an_earlier_version_are_removed_and_those_of_users_stay(drawn, command):
    runs = drawn / "a", drawn / "b"
    again = [*runs, "--method", "soft", "--name", "y"]
    assert command(*again).code == 0
    for name in ("5_harm", "own", "7_mine"):
        write_section(drawn / "y", name, section("An old one", text_block("of an earlier version")))
    assert command(*again).code == 0
    names = {file.stem for file in (drawn / "y" / "sections").iterdir()}
    assert {"own", "7_mine"} <= names
    assert "5_harm" not in names
    assert {"1_members", "1_repaired", "1_without"} <= names


def test_a_budget_leaves_members_out(drawn, command):
    done = command(*sorted(drawn.iterdir()), "--budget", "2x", "--method", "soft", "--name", "two")
    assert done.code == 0, done.err
    run = Run(drawn / "two")
    shares = {member["name"]: member["weight"] for member in run.info["members"]}
    assert shares == {"a": 0.5, "b": 0.5, "c": 0.0}
    assert run.info["passes"] == 10
    members = [Run(drawn / name) for name in "ab"]
    ids = run.test["image_id"]
    logits = [one.logits(one.test_fold(0).set_index("image_id").loc[ids]) for one in members]
    mean = np.log(np.mean([softmax(one) for one in logits], axis=0))
    np.testing.assert_allclose(run.logits(run.test_fold(0)), mean, atol=1e-5)


def test_test_rows_are_fitted_per_fold_and_then_averaged(drawn, command):
    assert command(drawn / "a", drawn / "b", "--method", "stack", "--name", "s").code == 0
    run = Run(drawn / "s")
    folds = [run.logits(run.test_fold(fold)) for fold in range(5)]
    np.testing.assert_allclose(run.logits(run.test), np.mean(folds, axis=0), atol=1e-5)


def test_test_rows_are_joined_on_their_ids(drawn, command):
    assert command(drawn / "a", drawn / "b", "--method", "soft", "--name", "before").code == 0
    edit_table(drawn / "b" / "test_fold_3.parquet", lambda table: table.iloc[::-1])
    assert command(drawn / "a", drawn / "b", "--method", "soft", "--name", "after").code == 0
    assert (drawn / "before" / "test.parquet").read_bytes() == (
        drawn / "after" / "test.parquet"
    ).read_bytes()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda table: table.iloc[:10], ["10 are missing"]),
        (lambda table: pd.concat([table, table.head(2)]), ["2 doubled"]),
        (
            lambda table: table.assign(image_id="x" + table["image_id"]),
            ["20 are missing", "20 unknown"],
        ),
        (lambda table: table.assign(logit_3="x"), ["logit_3 must be numbers"]),
        (
            lambda table: table.assign(logit_3=pd.Timestamp("2026-01-01")),
            ["logit_3 must be numbers", "timestamp"],
        ),
        (lambda table: table.assign(logit_3=1), ["logit_3 must be numbers", "int64"]),
        (lambda table: table.drop(columns="logit_3"), ["lacks logit_3"]),
        (None, ["no such file"]),
    ],
)
def test_damaged_test_rows_of_a_fold(drawn, command, damage, words):
    file = drawn / "b" / "test_fold_3.parquet"
    if damage is None:
        file.unlink()
    else:
        edit_table(file, damage)
    assert_left_out(command, drawn / "a", drawn / "b", "test_fold_3.parquet", *words)


def test_a_fitted_method_is_not_applied_to_means_over_folds(drawn, command):
    of = {"name": "z", "oof": "0"}
    edit_run(drawn / "b", kind="tta", of=of, passes=5, num_test_folds=1)
    write_table(drawn / "b" / "test_fold_0.parquet", pd.read_parquet(drawn / "b" / "test.parquet"))
    argv = [drawn / "a", drawn / "b"]
    command(*argv, "--method", "stack").assert_one_line_error(
        "--method stack", "number of test folds"
    )
    done = command(*argv, "--name", "voted")
    assert done.code == 0, done.err
    assert any("vote of their means" in note for note in Run(drawn / "voted").info["notes"])


def test_a_member_of_a_blend_yaml_that_is_gone(drawn, command):
    assert command(*sorted(drawn.iterdir()), "--method", "soft", "--name", "one").code == 0
    edit_run(drawn / "c", status="running")
    command("--config", drawn / "one" / "blend.yaml").assert_one_line_error(
        "blend.yaml", f"{drawn}/c", "not finished"
    )


def test_a_blend_may_have_the_name_of_a_member(drawn, tmp_path, command):
    assert (
        command(
            drawn / "a", drawn / "b", "--method", "soft", "--output", tmp_path, "--name", "a"
        ).code
        == 0
    )
    rows = Run(tmp_path / "a").report["sections"][0]["blocks"][0]["rows"]
    [single] = [row for row in rows if row["name"] == str(drawn / "a")]
    assert single["difference"] is None or single["difference"]["value"] < 0
    command(drawn / "a", "--name", "a", "--overwrite").assert_one_line_error(f"{drawn}/a")


def test_a_blend_is_not_made_of_itself(drawn, command):
    assert command(drawn / "a", drawn / "b", "--method", "soft", "--name", "x").code == 0
    argv = ["--include-blends", "--method", "soft", "--name", "x", "--overwrite"]
    command(drawn / "x", drawn / "a", *argv).assert_one_line_error(f"{drawn}/x", "one of the runs")


def test_too_few_folds_to_fit(drawn, command):
    for name in "ab":
        edit_table(drawn / name / "oof.parquet", lambda table: table.assign(fold=0))
    argv = [drawn / "a", drawn / "b"]
    command(*argv, "--method", "greedy").assert_one_line_error("--method greedy", "too few folds")
    assert command(*argv, "--name", "voted").code == 0


def test_weights_come_after_the_runs(drawn, command):
    command("--weights", "2", "1", drawn / "a", drawn / "b").assert_one_line_error(
        "--weights", "put the runs first"
    )


def test_test_sets_that_differ(drawn, command):
    for file in drawn.glob("c/test*.parquet"):
        edit_table(file, lambda table: table.iloc[3:])
    argv = [*sorted(drawn.iterdir()), "--method", "soft", "--name", "common"]
    command(*argv).assert_one_line_error(
        f"{drawn}/a", f"{drawn}/c", "different test sets", "--intersect"
    )
    done = command(*argv, "--intersect")
    assert done.code == 0, done.err
    run = Run(drawn / "common")
    assert len(run.test) == 17
    assert any("3 images" in note for note in run.info["notes"])


@pytest.mark.parametrize("where", ["test.parquet", "test_fold_2.parquet"])
def test_damaged_test_rows(drawn, command, where):
    whole = (drawn / "b" / where).read_bytes()
    (drawn / "b" / where).write_bytes(whole[:-30])
    assert_left_out(command, drawn / "a", drawn / "b", where, "cannot be read")
    shutil.rmtree(drawn / "rest")
    (drawn / "b" / where).write_bytes(whole)
    if where != "test.parquet":
        edit_table(drawn / "b" / where, lambda table: table.assign(logit_2=np.float32("inf")))
        assert_left_out(command, drawn / "a", drawn / "b", where, "not finite")


def other_folds(drawn):
    edit_table(
        drawn / "b" / "oof.parquet",
        lambda table: table.assign(fold=(table["fold"] + (table["label"] % 3 % 2)) % 5),
    )


@pytest.mark.slow
def test_different_folds_may_vote_and_are_fitted_only_if_allowed(drawn, command):
    other_folds(drawn)
    argv = [drawn / "a", drawn / "b"]
    command(*argv, "--method", "stack").assert_one_line_error(
        "--method stack", "--allow-different-folds"
    )
    command(*argv, "--budget", "2x").assert_one_line_error("--budget 2x", "--allow-different-folds")
    assert command(*argv, "--name", "auto").code == 0
    rows = section_named(Run(drawn / "auto"), "methods compared")["blocks"][0]["rows"]
    assert [row[0].split()[0] for row in rows] == ["soft", "log", "hard"]
    assert not any("offsets" in row[0] for row in rows)
    assert any("different folds" in note for note in Run(drawn / "auto").info["notes"])
    assert not Run(drawn / "auto").info["leaks"]
    assert (
        command(*argv, "--method", "weights", "--allow-different-folds", "--name", "fitted").code
        == 0
    )
    assert Run(drawn / "fitted").info["leaks"]  # listed, but never the best of a leaderboard
    assert Run(drawn / "auto").info["run_key"] != Run(drawn / "fitted").info["run_key"]


def test_an_optimistic_member(drawn, command):
    edit_run(drawn / "a", optimistic=True)
    command(drawn / "a", drawn / "b").assert_one_line_error(
        "a: epochs were chosen", "--allow-optimistic"
    )
    done = command(
        drawn / "a", drawn / "b", "--allow-optimistic", "--method", "soft", "--name", "x"
    )
    assert done.code == 0, done.err
    assert Run(drawn / "x").info["optimistic"]


def test_all_runs_skipped(drawn, command):
    for name in "abc":
        edit_run(drawn / name, status="running")
    command(*sorted(drawn.iterdir())).assert_one_line_error("nothing to blend", "not finished")


def test_a_test_id_that_occurs_twice(drawn, command):
    edit_table(drawn / "b" / "test.parquet", lambda table: pd.concat([table, table.head(2)]))
    assert_left_out(command, drawn / "a", drawn / "b", "test.parquet", "2 doubled")


@pytest.mark.slow
def test_thorough_scores_the_choice_of_the_method_too(drawn, monkeypatch):
    few = {name: METHODS[name] for name in ("soft", "log", "weights")}
    monkeypatch.setattr("ensemble.candidates.METHODS", few)
    run = blend([drawn / "a", drawn / "b"], thorough=True, name="t", say=quiet, page=False)
    texts = [block["text"] for block in section_named(run, "methods compared")["blocks"][1:]]
    assert any("the whole procedure scores" in text for text in texts)


@pytest.mark.parametrize("metric", ["log_loss", "accuracy", "roc_auc_ovr", "kappa_quadratic"])
def test_other_metrics(drawn, metric):
    run = blend(
        [drawn / "a", drawn / "b"],
        method="weights-metric",
        metric=metric,
        name="m",
        say=quiet,
        page=False,
    )
    found = METRICS[metric].score(run.oof["label"].to_numpy(), softmax(run.logits(run.oof)))
    assert run.report["headline"]["value"] == pytest.approx(found)


def test_members_are_read_again_where_they_are_too_many_to_keep(drawn, monkeypatch):
    paths = [drawn / "a", drawn / "b"]
    kept = blend(paths, method="log", name="kept", say=quiet, page=False)
    monkeypatch.setattr("ensemble.align.MOST_KEPT", 0)
    read = blend(paths, method="log", name="read", say=quiet, page=False)
    pd.testing.assert_frame_equal(kept.oof, read.oof, check_exact=True)
    aligned = align([Run(path) for path in paths])
    assert [one.shape for one in aligned.oof()] == [(168, 18)] * 2
