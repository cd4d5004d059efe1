"""Finding the runs of a blend, skipping others with the reason, and the notes on them."""

import shutil

import numpy as np
import pytest

from ensemble.blend import blend
from ensemble.find import find_members
from ensemble.methods.registry import METHODS as METHODS_OF_BLENDS
from foldblend.errors import UserError
from foldblend.runs import run as store
from foldblend.runs.check import finished_run
from foldblend.runs.folder import file_hash, ids_hash
from foldblend.runs.run import Run
from foldblend.scores.metrics import METRICS, softmax
from folds.data.layout import read_layout
from reports.board.find import find_runs
from tests.makers.edits import assert_left_out, edit_run, edit_table
from tests.makers.synthetic_runs import write_synthetic_run

FEW = ("soft", "log", "weights")


@pytest.fixture
def drawn(tmp_path):
    """Write runs of 24 groups: a with 20 test images, b with the first 17 of them, c with none."""
    for seed, (name, num_test) in enumerate([("a", 20), ("b", 17), ("c", 0)]):
        write_synthetic_run(
            tmp_path / "outputs" / name, num_people=24, num_test=num_test, seed=seed
        )
    return tmp_path / "outputs"


@pytest.fixture
def command(blend_command):
    return lambda *argv: blend_command(*argv, "--no-page")


def notes_of(folder):
    return " | ".join(Run(folder).info["notes"])


def test_runs_of_the_same_labelled_images_are_of_one_data_set(
    drawn, command, tiny_layout, alpha, tmp_path
):
    command(drawn / "a", drawn / "b", "--method", "soft").assert_one_line_error(
        "different test sets", "--intersect"
    )
    assert (
        command(drawn / "a", drawn / "b", "--method", "soft", "--intersect", "--name", "ab").code
        == 0
    )
    assert len(Run(drawn / "ab").test) == 17
    assert command(drawn / "a", drawn / "c", "--method", "soft", "--name", "ac").code == 0
    assert not Run(drawn / "ac").info["has_test"]
    assert "no test logits, because these members have none: c" in notes_of(drawn / "ac")
    # The hash that run_cv.py writes is the one computed from the rows where it is absent.
    assert (
        alpha.ids_hash
        == read_layout(tiny_layout).ids_hash()
        == ids_hash(alpha.oof["image_id"].sample(frac=1))
    )
    data = {key: value for key, value in alpha.info["data"].items() if key != "train_ids_hash"}
    shutil.copytree(alpha.path, tmp_path / "old")
    edit_run(tmp_path / "old", data=data)
    assert Run(tmp_path / "old").ids_hash == alpha.ids_hash


def test_rows_without_ids_are_reported_even_if_run_json_has_no_hash_of_them(drawn, command):
    edit_run(drawn / "c", data={"name": "synthetic", "is_demo": False})
    edit_table(
        drawn / "c" / "oof.parquet",
        lambda table: table.assign(image_id=table["image_id"].where(table.index > 1)),
    )
    assert_left_out(
        command, drawn / "a", drawn / "c", "oof.parquet", "image_id is absent in 2 rows"
    )


def test_of_a_run_and_its_tta_runs_one_is_blended_even_if_their_rows_are_equal(drawn, command):
    oof = file_hash(drawn / "a" / "oof.parquet")
    for name in ("a_tta", "a_tta2"):
        shutil.copytree(drawn / "a", drawn / name)
        edit_run(
            drawn / name, kind="tta", of={"name": "a", "oof": oof}, passes=5, finished=2 * 10**9
        )
    done = command(
        *(drawn / name for name in ("a", "a_tta", "a_tta2", "b")),
        "--intersect",
        "--method",
        "soft",
        "--name",
        "x",
    )
    assert done.code == 0, done.err
    assert [one["name"] for one in Run(drawn / "x").info["members"]] == ["a_tta2", "b"]
    assert "skipped" in done.out
    assert "a_tta2, which merges its views, is in the blend" in " ".join(done.out.split())


def test_every_file_is_hashed_once(drawn, command, monkeypatch):
    shutil.copytree(drawn / "a", drawn / "a_tta")
    edit_run(
        drawn / "a_tta",
        kind="tta",
        of={"name": "a", "oof": file_hash(drawn / "a" / "oof.parquet")},
        passes=5,
    )
    seen = []
    monkeypatch.setattr(store, "file_hash", lambda path: seen.append(path) or file_hash(path))
    assert command(drawn / "a", drawn / "a_tta", drawn / "c", "--method", "soft").code == 0
    assert len(seen) == len({*seen})
    assert sorted(path.parent.name for path in seen if path.name == "oof.parquet") == [
        "a",
        "a_tta",
        "c",
    ]


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (
            "a",
            lambda table: table.assign(fold=np.where(table.index == 3, np.nan, table["fold"])),
            ["fold must be whole numbers in all rows, not double"],
        ),
        (
            "c",
            lambda table: table.assign(label=table["label"].astype(float)),
            ["label must be whole numbers"],
        ),
        ("c", lambda table: table.assign(repeat="0"), ["repeat must be whole numbers"]),
    ],
)
def test_columns_that_are_not_whole_numbers(drawn, command, name, change, words):
    edit_table(drawn / name / "oof.parquet", change)
    good = drawn / ("c" if name == "a" else "a")
    assert_left_out(command, good, drawn / name, "oof.parquet", *words)


@pytest.mark.parametrize("key", ["classes", "data", "leaks", "kind", "num_repeats"])
def test_a_run_json_that_lacks_something(drawn, command, key):
    edit_run(drawn / "c", without=[key])
    done = command(drawn / "a", drawn / "c", "--method", "soft")
    assert done.code == 0
    assert f"run.json lacks {key}" in done.out
    command(drawn / "c").assert_one_line_error("nothing to blend", f"run.json lacks {key}")


def test_a_single_group_cannot_be_held_out(drawn, command):
    for name in "ac":
        edit_table(drawn / name / "oof.parquet", lambda table: table.assign(group="all"))
    assert command(drawn / "a", drawn / "c", "--name", "x").code == 0
    assert "too few folds or groups for cross-fitting" in notes_of(drawn / "x")
    command(drawn / "a", drawn / "c", "--method", "stack").assert_one_line_error(
        "--method stack", "folds or groups"
    )


def test_with_two_folds_the_choice_is_not_cross_validated_and_a_note_says_so(
    drawn, command, monkeypatch
):
    monkeypatch.setattr(
        "ensemble.candidates.METHODS",
        {name: one for name, one in METHODS_OF_BLENDS.items() if name in FEW},
    )
    for name in "ac":
        edit_table(drawn / name / "oof.parquet", lambda table: table.assign(fold=table["fold"] % 2))
    assert command(drawn / "a", drawn / "c", "--thorough", "--name", "x").code == 0
    assert "too few folds or groups to cross-validate the choice" in notes_of(drawn / "x")
    sections = Run(drawn / "x").report["sections"]
    [methods] = [one for one in sections if "methods compared" in one["title"]]
    names = [row[0].split()[0] for row in methods["blocks"][0]["rows"]]
    assert [name for name in names if name != "mean"] == [*FEW]


def test_the_reason_for_an_unfinished_run_depends_on_its_kind(drawn, command):
    edit_run(drawn / "b", kind="blend", status="running")
    edit_run(drawn / "c", status="running")
    out = " ".join(command(*sorted(drawn.iterdir()), "--method", "soft").out.split())
    assert "an earlier blend" in out
    assert "c: not finished; run the same command again" in out


@pytest.mark.slow
def test_leaking_members_are_only_admitted_by_their_flag(drawn, command):
    edit_run(drawn / "c", leaks=True)
    command(drawn / "a", drawn / "c").assert_one_line_error("c: groups leak", "--allow-leaks")
    assert command(drawn / "a", drawn / "c", "--allow-leaks", "--name", "x").code == 0
    assert Run(drawn / "x").info["leaks"]
    assert "this score is probably too high" in notes_of(drawn / "x")
    assert "expect about" not in notes_of(drawn / "x")
    assert command("--config", drawn / "x" / "blend.yaml", "--name", "again").code == 0


def test_the_metric_is_that_of_the_members(drawn, command):
    for name in "ac":
        edit_run(drawn / name, metric="log_loss")
    assert command(drawn / "a", drawn / "c", "--method", "soft", "--name", "own").code == 0
    run = Run(drawn / "own")
    assert run.info["metric"] == "log_loss"
    label = run.oof["label"].to_numpy()
    proba = softmax(run.logits(run.oof))
    assert run.report["headline"]["value"] == pytest.approx(METRICS["log_loss"].score(label, proba))
    edit_run(drawn / "a", metric="accuracy")
    assert command(drawn / "a", drawn / "c", "--method", "soft", "--name", "mixed").code == 0
    assert Run(drawn / "mixed").info["metric"] == "f1_macro"
    assert "different metrics (accuracy, log_loss), so macro F1" in notes_of(drawn / "mixed")
    assert (
        command(
            drawn / "a", drawn / "c", "--metric", "accuracy", "--method", "soft", "--name", "asked"
        ).code
        == 0
    )
    assert Run(drawn / "asked").info["metric"] == "accuracy"
    assert "different metrics" not in notes_of(drawn / "asked")


def test_the_report_compares_the_blend_with_the_best_run_and_the_last_lines_have_the_paths(
    drawn, command
):
    shutil.copytree(drawn / "a", drawn / "worse")
    edit_table(
        drawn / "worse" / "oof.parquet",
        lambda table: table.assign(
            **{f"logit_{i}": table[f"logit_{(i + 1) % 18}"] * 50 for i in range(18)}
        ),
    )
    done = command(drawn / "a", drawn / "worse", "--method", "soft", "--name", "x")
    [note] = [note for note in Run(drawn / "x").info["notes"] if "single run" in note]
    assert note.startswith("the blend is worse than a alone, the best single run (difference -")
    assert note.endswith("at 2 times the cost")
    [text] = [one["text"] for one in Run(drawn / "x").report["sections"][0]["blocks"][1:2]]
    assert text == f"{note[0].upper()}{note[1:]}."
    value = Run(drawn / "x").report["headline"]["value"]
    assert f"OOF macro F1 {value:.4f} [" in done.out
    assert done.out.strip().splitlines()[-2:] == [
        f"report: {drawn / 'x' / 'report.txt'}",
        f"submission: {drawn / 'x' / 'submission.csv'}",
    ]
    assert command(drawn / "a", "--method", "soft", "--name", "one").code == 0
    assert "single run" not in notes_of(drawn / "one")


def test_an_unknown_setting(drawn):
    with pytest.raises(UserError, match="unknown setting 'metod'; did you mean method"):
        blend([drawn / "a"], metod="soft")


def test_an_output_that_cannot_be_written_fails_before_the_work(drawn, command, tmp_path):
    (tmp_path / "file").touch()
    argv = [drawn / "a", drawn / "c", "--method", "soft", "--output", tmp_path / "file"]
    command(*argv).assert_one_line_error("file", "cannot be written", "--output")


def test_a_name_that_is_too_long_is_no_run(drawn):
    name = "x" * 300
    for find in (find_members, find_runs):
        with pytest.raises(UserError, match="no such run; check the path"):
            find([drawn / "a", name])
        _, skipped = find([drawn / "a", f"{name}*"])
        assert len(skipped) == 1
    with pytest.raises(UserError, match="too long"):
        finished_run(name)
