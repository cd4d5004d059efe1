"""Tests of leaderboard.py: ranks, differences, skipped runs, and names shown as text."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import scipy.stats
import yaml

import leaderboard as leaderboard_script
import report
from foldblend.runs.folder import file_hash, write_json, write_table
from foldblend.runs.run import Run
from foldblend.scores.score import Score, Scored
from reports.board import text as board_text
from reports.board.differences import rank
from reports.board.find import find_runs
from reports.board.leaderboard import leaderboard
from reports.board.page import board_page
from tests.makers.constants import TINY
from tests.makers.small_runs import GROUPS, LABELS, write_run

ROOT = Path(__file__).resolve().parents[2]
NASTY = "<script>alert('x')<!--\"&amp;"


def wrong(*places, label=LABELS):
    """Return predictions that are right except at these places, where they are the next class."""
    return [(one + 1) % 3 if place in places else one for place, one in enumerate(label)]


def board_of(*folders, metric=None):
    every = leaderboard(*find_runs(folders), metric=metric)
    assert len(every["boards"]) == 1
    return every["boards"][0]


def row_of(board, name):
    return next(row for row in board["rows"] if row["name"] == name)


@pytest.fixture
def board_command(command_of, tmp_path):
    """Return leaderboard.py as a function that writes the page into tmp_path."""
    page = tmp_path / "board.html"
    return lambda *argv: command_of(leaderboard_script.main)(*argv, "--page", page)


def data_of(page: str):
    return json.loads(
        re.search(
            r'<script type="application/json" id="leaderboard-data">(.*?)</script>', page, re.S
        )[1]
    )


def test_a_difference_equals_one_computed_by_hand(tmp_path):
    one = write_run(tmp_path / "one", wrong(0))
    other = write_run(tmp_path / "other", wrong(3, 4, 8))
    board = board_of(other, one)
    assert [row["name"] for row in board["rows"]] == ["one", "other"]
    assert board["best"] == "one"
    assert row_of(board, "one")["headline"]["value"] == pytest.approx(11 / 12)
    assert row_of(board, "one")["difference"] is None
    # There are six groups of two images. For each group, this is the number of images that `other`
    # has right minus the number that `one` has right.
    gained_G = np.array([1, -1, -1, 0, -1, 0])
    low, high = scipy.stats.ttest_1samp(gained_G / 2, 0).confidence_interval()
    difference = row_of(board, "other")["difference"]
    assert difference == {
        "value": pytest.approx(-2 / 12),
        "low": pytest.approx(low),
        "high": pytest.approx(high),
    }
    [[first_less_second], nothing] = board["differences"]
    assert [first_less_second[name] for name in ("value", "low", "high")] == pytest.approx(
        [2 / 12, -high, -low]
    )
    assert nothing == []
    # `one` takes a cat for a dog, and neither flies.
    assert row_of(board, "one")["attributes"]["flies"] == 1


def test_the_order_of_rows_and_of_runs_does_not_matter(tmp_path):
    boards = []
    for shuffle in (0, 7):
        runs = [
            write_run(
                tmp_path / f"{shuffle}" / name,
                wrong(*places),
                shuffle=shuffle and shuffle + len(places),
            )
            for name, places in (("a", (0, 5)), ("b", (1,)), ("c", (2, 3, 4)))
        ]
        board = board_of(*runs[:: -1 if shuffle else 1], metric="f1_macro")
        for row in board["rows"]:
            row.pop("path")
        boards.append(board)
    assert boards[0] == boards[1]


def test_runs_of_different_numbers_of_repeats_are_paired(tmp_path):
    good = wrong(0)
    bad = wrong(0, 1, 2, 3)
    runs = [
        write_run(tmp_path / name, one)
        for name, one in (("good", good), ("bad", bad), ("both", [good, bad]))
    ]
    board = board_of(*runs)
    bad_less, both_less = (row_of(board, name)["difference"] for name in ("bad", "both"))
    assert both_less == {name: pytest.approx(part / 2) for name, part in bad_less.items()}
    assert row_of(board, "both")["models"] == 4
    assert row_of(board, "both")["passes"] == 8


def test_runs_on_corrected_and_raw_labels_are_scored_on_the_raw_ones(tmp_path, board_command):
    corrected = wrong(0)
    one = write_run(tmp_path / "corrected", corrected, label=corrected)
    other = write_run(tmp_path / "raw", LABELS)
    board = board_of(one, other)
    assert (board["labels"], board["best"]) == ("label_raw", "raw")
    assert row_of(board, "corrected")["headline"]["value"] == pytest.approx(11 / 12)
    assert "on the original labels" in " ".join(board_command(one, other).out.split())
    assert board_of(one)["labels"] == "label"
    assert board_of(one)["rows"][0]["headline"]["value"] == 1


def test_each_data_set_has_a_board(tmp_path, board_command):
    zoo = write_run(tmp_path / "zoo", LABELS)
    farm = write_run(
        tmp_path / "farm",
        LABELS,
        ids=[f"{i}" for i in range(12)],
        data={"name": "farm", "ids_hash": "f"},
    )
    # Other original labels make another data set.
    odd = write_run(tmp_path / "odd", LABELS, label_raw=wrong(1))
    every = leaderboard(*find_runs([zoo, farm, odd]), metric=None)
    assert [board["data"] for board in every["boards"]] == ["zoo (1)", "farm", "zoo (2)"]
    done = board_command(zoo, farm)
    assert done.code == 0
    assert "zoo\n===" in done.out
    assert "farm\n===" in done.out
    # Runs on different data sets cannot be compared image by image.
    assert "right in 1" not in done.out


@pytest.mark.parametrize("mark", ["optimistic", "leaks"])
def test_a_score_that_is_too_high_is_listed_but_not_the_best(tmp_path, board_command, mark):
    fair = write_run(tmp_path / "fair", wrong(0, 1))
    marked = write_run(tmp_path / "marked", LABELS, **{mark: True})
    board = board_of(marked, fair)
    assert [row["name"] for row in board["rows"]] == ["fair", "marked"]
    assert board["best"] == "fair"
    assert row_of(board, "marked")["difference"]["value"] > 0
    word = {"optimistic": "OPTIMISTIC", "leaks": "GROUPS LEAK"}[mark]
    assert re.search(rf"^marked {word} +1\.0000", board_command(fair, marked).out, re.M)
    assert f'marked <strong class="alarm">{word}</strong>' in (tmp_path / "board.html").read_text()
    other = write_run(tmp_path / "other", wrong(3), **{mark: True})
    # Where all runs are marked, one of them is the best.
    assert board_of(other, marked)["best"] == "marked"


def test_an_old_run_is_marked_by_its_settings(tmp_path):
    folder = write_run(tmp_path / "old", LABELS, config={"select": "best"})
    info = json.loads((folder / "run.json").read_text())
    info.pop("optimistic")
    write_json(folder / "run.json", info)
    assert board_of(folder)["rows"][0]["optimistic"]


def test_the_lowest_is_best_where_lower_is_better():
    for sign, order in ((-1, [1, 0, 2, 3]), (1, [0, 1, 2, 3])):
        scores = [
            Score(sign * value, np.array([sign * value]), sign)
            for value in (0.7, 0.2, float("nan"), 0.1)
        ]
        assert (
            rank([Scored("x", one, 0.5, {}) for one in scores], [True, True, True, False]) == order
        )


def test_groups_that_one_run_merges_are_merged(tmp_path):
    one = write_run(tmp_path / "one", wrong(0))
    # The images of p1 belong to p0 here.
    other = write_run(tmp_path / "other", wrong(1), group=["p0"] * 4 + GROUPS[4:])
    board = board_of(one, other)
    assert board["num_groups"] == 5
    assert any(note.startswith("the groups of the runs differ") for note in board["notes"])


def test_a_score_equals_that_of_the_report_of_the_run(tiny_runs):
    board = board_of(tiny_runs / "alpha", tiny_runs / "beta")
    for row in board["rows"]:
        report = Run(tiny_runs / row["name"]).report
        assert row["headline"] == report["headline"]
        values = [report["attributes"][place]["f1_macro"]["value"] for place in range(3)]
        assert list(row["attributes"].values()) == pytest.approx(values)
    assert {key for row in board["rows"] for key in row["settings"]} == {"backbone", "tta"}
    assert {row["passes"] for row in board["rows"]} == {2, 4}
    assert all(row["wall"] >= 0 for row in board["rows"])


def blend_of(folder, members, predicted=LABELS, **info):
    record = [
        {"name": one.name, "weight": 1.0, "oof": file_hash(one / "oof.parquet")} for one in members
    ]
    write_run(folder, predicted, kind="blend", members=record, views=[], **info)
    (folder / "config.yaml").unlink()
    (folder / "blend.yaml").write_text(yaml.safe_dump({"method": "soft-vote", "members": record}))
    write_json(
        folder / "run.json",
        {k: v for k, v in Run(folder).info.items() if k not in ("seconds", "finished")},
    )
    return folder


def test_a_blend_costs_what_its_members_cost(tmp_path, board_command, monkeypatch):
    # This is wide enough for all columns.
    monkeypatch.setenv("COLUMNS", "160")
    one = write_run(tmp_path / "one", wrong(0))
    other = write_run(tmp_path / "other", [wrong(1), wrong(2)], seconds=7.5)
    head = write_run(tmp_path / "head", wrong(3), config={"finetune": "head"})
    blend = blend_of(tmp_path / "blend", [one, other])
    # `one` is in it twice, but needs to predict only once.
    nested = blend_of(tmp_path / "nested", [blend, one, head], wrong(4))
    rows = {row["name"]: row for row in board_of(blend, nested, other)["rows"]}
    assert [rows["blend"][key] for key in ("models", "passes", "seconds", "wall")] == [
        6,
        12,
        107.5,
        None,
    ]
    assert [rows["nested"][key] for key in ("models", "passes", "seconds")] == [8, 14, 207.5]
    # A blend and a run have different settings, so only how each was made is compared.
    assert "how 1 was made: (not recorded)" in board_command(blend, one).out
    shutil.rmtree(one)
    assert [
        row_of(board_of(blend, other), "blend")[key] for key in ("models", "passes", "seconds")
    ] == [None] * 3
    assert re.search(r"^blend .*( +-){5}$", board_command(blend, other).out, re.M)


def test_what_cannot_be_scored_is_skipped_with_the_reason(tmp_path, board_command):
    good = write_run(tmp_path / "good", LABELS)
    running = write_run(tmp_path / "running", LABELS, status="running")
    damaged = write_run(tmp_path / "damaged", LABELS)
    (damaged / "run.json").write_text("{")
    torn = write_run(tmp_path / "torn", LABELS)
    (torn / "oof.parquet").write_bytes((torn / "oof.parquet").read_bytes()[:200])
    short = write_run(tmp_path / "short", [LABELS, LABELS])
    write_table(short / "oof.parquet", Run(short).oof.iloc[1:])
    strange = write_run(tmp_path / "strange", LABELS, label_raw=[9, *LABELS[1:]])
    old = write_run(tmp_path / "old", LABELS)
    write_json(
        old / "run.json",
        {key: value for key, value in Run(old).info.items() if key != "num_repeats"},
    )
    (tmp_path / "empty").mkdir()
    done = board_command(
        good,
        running,
        damaged,
        torn,
        short,
        strange,
        old,
        tmp_path / "empty",
        f"{good}/.",
        f"{tmp_path}/x*",
    )
    assert done.code == 0
    # Paths may be wrapped.
    words = "".join(done.out.split())
    for name, why in {
        "damaged": "not valid JSON",
        "torn": "cannot be read",
        "short": "1 are missing (image 00)",
        "strange": "label_raw must be from 0 to 2, not 9",
        "old": "lacks num_repeats",
        "empty": "not a run folder",
        "good": "given twice",
        "x*": "not a run folder",
    }.items():
        why = re.escape(why.replace(" ", ""))
        assert re.search(
            rf"skipped\S*?/{re.escape(name)}:[^:]*?(oof.parquet[^:]*:)?.*?{why}", words
        ), name
    assert "not a run folder" in (tmp_path / "board.html").read_text()
    # An unfinished run has a row of its own.
    assert re.search(r"^running +stopped +0 of 2", done.out, re.M)


def test_wrong_arguments_give_one_line(tmp_path, command_of):
    command = command_of(leaderboard_script.main)
    good = write_run(tmp_path / "good", LABELS)
    command().assert_one_line_error("python leaderboard.py outputs/*")
    command(tmp_path / "nowhere").assert_one_line_error("nowhere: no such run")
    (tmp_path / "empty").mkdir()
    command(tmp_path / "empty").assert_one_line_error("no finished run", "outputs/*")
    command(good, "--metric", "f1_macr").assert_one_line_error("did you mean f1_macro?")
    command(good, "--pagee", "x").assert_one_line_error("did you mean --page")
    command(good, "--page", tmp_path / "no" / "board.html").assert_one_line_error(
        "--page", "folder that exists"
    )
    command(good, "--no-page", "--json", tmp_path).assert_one_line_error("--json")


def test_nothing_is_cut_or_wider_than_a_terminal(tmp_path, board_command):
    flies = {
        "name": "whether it flies, and how far it goes",
        "values": ["no", "yes"],
        "of_class": [0, 0, 1],
    }
    ids = [f"{'folder/' * 12}{index:02d}.jpg" for index in range(12)]
    names = ["a" * 100, "b-" * 60]
    config = [{"weights": "/".join(["somewhere"] * 20)}, {"weights": None}]
    runs = [
        write_run(tmp_path / name, wrong(place), ids=ids, attributes=[flies], config=one)
        for place, (name, one) in enumerate(zip(names, config, strict=True))
    ]
    done = board_command(*runs)
    # A path that the user passed is printed whole.
    lines = [line for line in done.out.splitlines() if not line.startswith("page: ")]
    assert max(map(len, lines)) <= 80
    together = "".join(done.out.split())
    for whole in [*names, *ids[:2], config[0]["weights"], flies["name"].replace(" ", "")]:
        assert whole in together


def test_two_runs_are_compared_side_by_side(tmp_path, board_command):
    one = write_run(tmp_path / "one", wrong(0), config={"lr": 0.01})
    other = write_run(tmp_path / "other", wrong(3, 4), config={"crop": "face"})
    lines = board_command(one, other).out.splitlines()
    for line in (
        "1: one",
        "2: other",
        "lr: 0.01 | 0.001",
        "crop: (not recorded) | face",
        "images right in 1 only: 2; in 2 only: 1",
        "image 03: cat; 2 predicts dog",
        "image 04: dog; 2 predicts owl",
        "image 00: cat; 1 predicts dog",
    ):
        assert line in lines
    assert [line.split() for line in lines if line.startswith(("cat ", "dog "))] == [
        ["cat", "1", "1"],
        ["dog", "1", "0"],
    ]
    assert not any(line.startswith(("name:", "tta:")) for line in lines)
    third = write_run(tmp_path / "third", wrong(5))
    assert "2: other" not in board_command(one, other, third).out


def test_names_are_shown_as_text(tmp_path, board_command):
    nasty = write_run(
        tmp_path / NASTY,
        wrong(0),
        ids=[f"{NASTY}{index:02d}" for index in range(12)],
        data={"name": NASTY, "ids_hash": "z"},
        classes=[NASTY, "dog", "owl"],
        attributes=[{"name": NASTY, "values": ["no", "yes"], "of_class": [0, 0, 1]}],
        about=NASTY,
        notes=[NASTY],
        config={"weights": NASTY},
    )
    plain = shutil.copytree(nasty, tmp_path / "plain")
    assert board_command(nasty, plain).code == 0
    page = (tmp_path / "board.html").read_text()
    # One is the data, and two are the code.
    assert page.count("<script") == 3
    assert (
        "alert('x')"
        not in page.replace("\\u003cscript>alert('x')", "").split('id="leaderboard-data"')[0]
    )
    assert re.findall(r"\b(?:src|href)=", page) == []
    [board] = data_of(page)
    assert NASTY in [run["name"] for run in board["runs"]]
    assert board["pictures"]["classes"][0] == NASTY
    # Only images that change are listed, and these runs are copies.
    assert board["pictures"]["image_ids"] == []
    [policy] = re.findall(r"script-src ([^\"]*)\"", page.replace("&#39;", "'"))
    scripts = re.findall(r"<script>(.*?)</script>", page, re.S)
    digests = [hashlib.sha256(script.encode()).digest() for script in scripts]
    assert policy == " ".join(f"'sha256-{base64.b64encode(one).decode()}'" for one in digests)
    for script in scripts:
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|eval\(|document\.write|https?:", script
        )


def test_a_name_that_no_terminal_can_show(tmp_path, board_command):
    folder = write_run(tmp_path / "red \x1b[31m", LABELS)
    # The name is not valid UTF-8. Whether parquet files in such a folder can be read depends on the
    # versions of pandas and pyarrow; if they can, both runs are compared.
    unreadable = shutil.copytree(folder, tmp_path / "\udce9")
    done = board_command(folder, unreadable)
    assert done.code == 0
    assert "red \ufffd[31m" in done.out
    shown = " ".join(done.out.split())
    assert "cannot be read" in shown or "in 2 only" in shown
    assert "\x1b" not in done.out


def test_json_holds_the_same_numbers(tmp_path, board_command):
    runs = [
        write_run(tmp_path / name, wrong(*places)) for name, places in (("a", (0,)), ("b", (1, 2)))
    ]
    done = board_command(*runs, "--json", tmp_path / "board.json", "--metric", "roc_auc_ovr")

    def refuse(word):
        raise AssertionError(word)

    every = json.loads((tmp_path / "board.json").read_text(), parse_constant=refuse)
    schema = json.loads(
        (Path(__file__).resolve().parents[2] / "docs" / "leaderboard.schema.json").read_text()
    )
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(every, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(every | {"another": 1}, schema)
    [board] = every["boards"]
    for row in board["rows"]:
        assert row["headline"]["low"] <= row["headline"]["value"] <= row["headline"]["high"]
        assert f"{row['headline']['value']:.4f}" in done.out
        assert (row["seconds"], row["wall"]) == (100, 600)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d[+-]\d\d:\d\d", row["finished"])
    assert (every["metric"], board["num_resamples"]) == ("roc_auc_ovr", 200)


@pytest.mark.slow
def test_a_page_of_many_runs_leaves_predictions_out_with_a_note(tmp_path):
    folders = [write_run(tmp_path / "a", wrong(0)), write_run(tmp_path / "b", wrong(1, 2))]
    folders += [shutil.copytree(folders[0], tmp_path / f"run{index}") for index in range(49)]
    few, many = (leaderboard(*find_runs(some), metric=None) for some in (folders[:50], folders))
    pictures = data_of(board_page(few))[0]["pictures"]
    assert pictures["image_ids"] == ["image 00", "image 01", "image 02"]
    # Letters stand for classes; the last run is the worst one.
    assert (pictures["true"], pictures["predicted"][49]) == ("abc", "aca")
    assert "too many for a page" not in board_page(few)
    [board] = data_of(board_page(many))
    assert board["pictures"] is None
    assert board["differences"] is None
    assert "612 predictions of 51 runs are too many for a page" in board_page(many)


def test_no_page(tmp_path, command_of, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write_run(tmp_path / "run", LABELS)
    assert command_of(leaderboard_script.main)(folder, "--no-page").code == 0
    assert not (tmp_path / "leaderboard.html").exists()
    assert command_of(leaderboard_script.main)(folder).code == 0
    assert (tmp_path / "leaderboard.html").is_file()


@pytest.mark.slow
def test_reports_are_written_again_from_the_run_folder(runs_copy, command_of):
    before = {}
    for run in ("alpha", "beta"):
        for name in ("report.json", "report.txt", "predictions.csv"):
            file = runs_copy / run / name
            before[file] = file.read_bytes()
            file.unlink()
    done = command_of(report.main)(*sorted(runs_copy.iterdir()))
    assert done.code == 0, done.err
    assert done.out.count("report written again: ") == 2
    for file, content in before.items():
        assert file.read_bytes() == content, file
    assert (runs_copy / "alpha" / "report.html").is_file()


@pytest.mark.slow
def test_torch_is_never_loaded(runs_copy, tmp_path):
    code = (
        "import sys, leaderboard, report; code = leaderboard.main(sys.argv[1:]) or"
        " report.main(sys.argv[3:]); "
    )
    code += "assert not {'torch', 'timm'} & set(sys.modules); sys.exit(code)"
    argv = ["--page", str(tmp_path / "board.html"), *map(str, sorted(runs_copy.iterdir()))]
    done = subprocess.run(
        [sys.executable, "-c", code, *argv], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_repeated_command_keeps_the_times_of_a_run(runs_copy, tiny_layout, cv_command):
    def info():
        return json.loads((runs_copy / "beta" / "run.json").read_text())

    argv = [
        "--data",
        tiny_layout,
        "--output",
        runs_copy,
        "--name",
        "beta",
        "--backbone",
        "test_resnet",
        "--tta",
        "none",
    ]
    write_json(runs_copy / "beta" / "run.json", info() | {"started": 1000, "finished": 2000})
    assert cv_command(*argv, *TINY).code == 0
    assert (info()["started"], info()["finished"]) == (1000, 2000)
    # Now one fold must be trained again.
    (runs_copy / "beta" / "fold_1" / "done.json").unlink()
    assert cv_command(*argv, *TINY).code == 0
    assert info()["started"] == 1000
    assert info()["finished"] > 2000


def test_runs_with_other_attributes_share_a_board(runs_copy):
    edited = json.loads((runs_copy / "beta" / "run.json").read_text())
    first, *_ = edited["attributes"]
    edited["attributes"] = [first | {"name": "another"}]
    (runs_copy / "beta" / "run.json").write_text(json.dumps(edited))
    runs, skipped = find_runs([runs_copy / "alpha", runs_copy / "beta"])
    every = leaderboard(runs, skipped, metric=None)
    [board] = every["boards"]
    lines = "\n".join(board_text.board_lines(every, board))
    assert "another" in lines
    page = board_page(every)
    # The mask, now of another name, differs between images of a person; gender and age do not.
    # Name; score and difference; attributes; cost; by group; kind, models, wall, finished.
    num_columns = 1 + 3 + 2 + 4 + 2 + 2 + 4
    assert page.count('<th scope="col"') == num_columns
    rows = set(re.findall(r"<tr[^>]*><td data-value.*?</tr>", page))
    assert len(rows) == 2
    assert {row.count("<td ") for row in rows} == {num_columns}


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ({"attributes": [1]}, "attributes[0]: must be an object, not 1"),
        ({"num_folds": "two"}, "num_folds: must be a whole number, not 'two'"),
        ({"data": {}}, "data: lacks name"),
        ({"attributes": None}, "attributes: must be a list, not None"),
    ],
)
def test_a_broken_run_is_skipped(runs_copy, broken, why):
    edited = json.loads((runs_copy / "beta" / "run.json").read_text())
    (runs_copy / "beta" / "run.json").write_text(json.dumps(edited | broken))
    runs, skipped = find_runs([runs_copy / "alpha", runs_copy / "beta"])
    assert [run.name for run in runs] == ["alpha"]
    assert skipped[0]["why"] == f"run.json: {why}; make the run again"


def test_a_report_that_fails_does_not_stop_the_others(runs_copy, command_of):
    (runs_copy / "alpha" / "test_fold_1.parquet").unlink()
    (runs_copy / "beta" / "report.txt").unlink()
    command = command_of(report.main)
    done = command(runs_copy / "alpha", runs_copy / "beta", "--no-page")
    assert done.code == 0
    assert "alpha: test_fold_1.parquet: no such file" in done.err
    assert (runs_copy / "beta" / "report.txt").exists()
    command(runs_copy / "alpha").assert_one_line_error("no report was written", "test_fold_1")
