"""Unfinished runs: folds done, score so far, time left, and damaged or half-written files."""

import os
import shlex
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from foldblend.errors import UserError
from foldblend.runs.folder import file_hash, lock_fold, lock_folder, write_json, write_table
from foldblend.runs.so_far import FoldSoFar, seconds_left, seconds_of_fold
from foldblend.scores.metrics import METRICS, softmax
from reports.board.running import is_unfinished, running_row, running_stamp
from reports.board.running_page import _at, ended_page, reloading, running_page, running_rows
from reports.board.running_words import left_words, now_words, running_lines
from reports.html import _environment
from tests.makers.edits import edit_run
from tests.makers.synthetic_runs import write_synthetic_run
from tests.makers.unfinished_runs import (
    EPOCHS,
    NOW,
    add_epochs,
    finish_fold,
    finish_run,
    write_unfinished_run,
)

NASTY = "<script>alert('x')</script>"


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    """Return a run with two finished folds and one in training; read-only."""
    return write_unfinished_run(tmp_path_factory.mktemp("unfinished") / "half")


@pytest.fixture
def half(unfinished, tmp_path):
    """Return a copy of that run."""
    rows = f".{unfinished.name}-rows.parquet"
    shutil.copy(unfinished.with_name(rows), tmp_path / rows)
    # The logs keep their times.
    return Path(shutil.copytree(unfinished, tmp_path / unfinished.name))


def row_of(folder, now=NOW):
    return running_row(folder, now=now)


def test_a_row_says_how_far_the_run_is(half):
    with lock_fold(half, 2):
        row = row_of(half, NOW + 5)
        assert now_words(row) == f"fold 2: epoch 2 of {EPOCHS}"
    assert (row["state"], row["folds_done"], row["num_folds"], row["epochs"]) == (
        "running",
        2,
        5,
        EPOCHS,
    )
    assert [one["state"] for one in row["folds"]] == ["done"] * 2 + ["begun"] + ["waiting"] * 2
    # Two folds took 100 seconds each; the third has taken 20 and those since its log was written.
    assert row["seconds"] == 225
    assert row["seconds_left"] == 275
    assert left_words(row) == "about 5 min"
    assert row["resume"] is None
    assert row["problems"] == []
    assert [one["fold"] for one in row["curves"]] == [0, 1, 2]


def test_the_score_so_far_is_that_of_the_finished_folds(half):
    rows = pd.concat([pd.read_parquet(half / f"fold_{fold}" / "oof.parquet") for fold in (0, 1)])
    logits_NC = rows.filter(like="logit_").to_numpy()
    expected = METRICS["f1_macro"].score(rows["label"].to_numpy(), softmax(logits_NC))
    score = row_of(half)["score"]
    assert score["value"] == expected
    assert score["low"] < expected < score["high"]
    assert (score["num_images"], score["num_folds"]) == (len(rows), 2)
    text = " ".join(" ".join(running_lines([row_of(half)])).split())
    assert f"macro F1 over {len(rows)} images of 2 finished folds" in text
    assert "not ranked with finished runs" in text
    # The score is kept as long as the files are the same.
    cache = {}
    first = running_row(half, now=NOW, cache=cache)["score"]
    assert running_row(half, now=NOW, cache=cache)["score"] == first
    assert len(cache) == 1
    finish_fold(half, 2)
    assert running_row(half, now=NOW, cache=cache)["score"]["num_folds"] == 3


def scored(row):
    score = row["score"]
    return score["metric"], score["title"], row["problems"]


def test_the_score_so_far_is_by_the_metric_that_is_asked_for(half):
    cache = {}

    def row(**options):
        return running_row(half, now=NOW, cache=cache, **options)

    assert scored(row()) == ("f1_macro", "macro F1", [])
    accuracy = row(metric="accuracy")
    assert scored(accuracy) == ("accuracy", "accuracy", [])
    # Scores of folds are recorded, and stay.
    assert (accuracy["metric"], accuracy["title"]) == ("f1_macro", "macro F1")
    rows = pd.concat([pd.read_parquet(half / f"fold_{fold}" / "oof.parquet") for fold in (0, 1)])
    right = rows.filter(like="logit_").to_numpy().argmax(axis=1) == rows["label"]
    assert accuracy["score"]["value"] == pytest.approx(right.mean())
    assert "accuracy over 112 images" in " ".join(running_lines([accuracy]))
    assert scored(row(score_by="group"))[1] == "macro F1 by group"
    assert len(cache) == 3
    # It is equal to that of the run without options.
    assert row()["score"] == row_of(half)["score"]


@pytest.mark.parametrize("metric", ["mean_cost", "kappa_quadratic"])
def test_a_metric_that_a_run_cannot_have_is_said_in_one_line(half, metric):
    edit_run(half, ordered=False)
    name, title, [problem] = scored(running_row(half, now=NOW, metric=metric))
    assert (name, title) == ("f1_macro", "macro F1")
    assert problem.startswith(f"the score so far is macro F1, as --metric {metric}")
    assert "; " not in problem


def test_of_several_repeats_the_one_with_most_folds_is_scored(half):
    edit_run(half, num_repeats=2)
    for index, fold in ((5, 0), (6, 1), (7, 2)):
        shutil.copytree(half / "fold_0", half / f"fold_{index}")
        finish_fold(half, fold)
        shutil.copytree(half / f"fold_{fold}", half / f"fold_{index}", dirs_exist_ok=True)
        rows = pd.read_parquet(half / f"fold_{fold}" / "oof.parquet").assign(repeat=1)
        write_done(half, index, rows, repeat=1, fold=fold)
    shutil.rmtree(half / "fold_2")
    score = row_of(half)["score"]
    assert (score["repeat"], score["num_folds"]) == (1, 3)


def write_done(folder, index, rows, **changes):
    name = f"fold_{index}/oof.parquet"
    write_table(folder / name, rows)
    done = {
        "run_key": {},
        "files": {name: file_hash(folder / name)},
        "seconds": 100.0,
        "score": 0.5,
    }
    write_json(folder / f"fold_{index}" / "done.json", done | changes)


def test_a_run_that_no_process_trains_has_stopped_and_says_how_to_go_on(half, monkeypatch):
    row = row_of(half, NOW + 10_000)
    assert row["state"] == "stopped"
    # Time since the last epoch is not spent on the fold.
    assert (row["seconds"], row["seconds_left"]) == (220, 280)
    assert "once it goes on" in left_words(row)
    assert row["resume"].startswith("python run_cv.py --config")
    # The recorded folder was relative to another place.
    words = shlex.split(row["resume"])
    assert words[words.index("--output") + 1] == os.path.realpath(half.parent)
    settings = (half / "config.yaml").read_text()
    here = settings.replace(settings.split("output: ")[1].split("\n")[0], str(half.parent))
    (half / "config.yaml").write_text(here)
    assert "--output" not in row_of(half)["resume"]
    with lock_folder(half):
        assert row_of(half)["state"] == "running"


def test_a_run_before_its_first_epoch(half):
    for fold in (0, 1, 2):
        shutil.rmtree(half / f"fold_{fold}")
    with lock_fold(half, 0):
        row = row_of(half)
        assert now_words(row) == "preparing"
        (half / "fold_0").mkdir()
        assert now_words(row_of(half)) == f"fold 0: epoch 1 of {EPOCHS}"
    assert row["score"] is None
    assert row["seconds_left"] is None
    assert left_words(row) == "not known yet"


def test_before_the_first_fold_ends_epochs_tell_the_time(half):
    for fold in (0, 1):
        shutil.rmtree(half / f"fold_{fold}")
    with lock_fold(half, 2):
        # An epoch takes 20 seconds.
        assert row_of(half)["seconds_left"] == 5 * EPOCHS * 20 - 20
        log = half / "fold_2" / "log.csv"
        write_table(log, pd.read_csv(log).drop(columns="seconds"))
        assert row_of(half)["seconds_left"] is None


@pytest.mark.parametrize(
    ("spent", "num_waiting", "expected"),
    [([10], 0, 90), ([10], 2, 290), ([10, 50], 2, 190), ([500], 1, 100), ([], 2, 200)],
)
def test_seconds_left(spent, num_waiting, expected):
    assert seconds_left(100, spent, num_waiting) == expected


def test_seconds_of_a_fold():
    def fold(state, seconds=None, **more):
        return FoldSoFar(repeat=0, fold=0, state=state, seconds=seconds, **more)

    begun = fold("begun", epochs=2, logged=12.0)
    assert seconds_of_fold([fold("done", 10.0), fold("done", 30.0), begun], 10) == 20
    assert seconds_of_fold([begun], 10) == 60
    assert seconds_of_fold([begun], None) is None
    assert seconds_of_fold([fold("waiting")], 10) is None


def test_heads_on_a_frozen_backbone_have_no_epochs(half):
    settings = (half / "config.yaml").read_text()
    (half / "config.yaml").write_text(settings.replace("finetune: full", "finetune: head"))
    for fold in (0, 1, 2):
        shutil.rmtree(half / f"fold_{fold}")
    with lock_fold(half, 0):
        row = row_of(half)
    assert (row["epochs"], row["seconds_left"]) == (None, None)
    assert now_words(row) == "features and linear heads"
    assert "epochs</th>" not in running_page(row, back="x.html")


def with_all_folds_begun(folder, num_repeats):
    """Give a run repeats, all of whose folds but the finished ones are begun."""
    edit_run(folder, num_repeats=num_repeats)
    num = 5 * num_repeats
    for index in range(2, num):
        add_epochs(folder, index, 1 + index % 3)
    return num


def test_folds_beyond_those_with_curves_have_their_numbers(half):
    num = with_all_folds_begun(half, 8)
    done = half / "fold_0"
    for index in range(2, 37):
        shutil.rmtree(half / f"fold_{index}")
        shutil.copytree(done, half / f"fold_{index}")
        repeat, fold = divmod(index, 5)
        rows = pd.read_parquet(half / f"fold_{index}" / "oof.parquet").assign(repeat=repeat)
        write_done(half, index, rows, repeat=repeat, fold=fold)
    with lock_fold(half, 38):
        row = row_of(half, NOW + 5)
    begun = [one for one in row["folds"] if one["state"] == "begun"]
    assert [(one["epochs"], one["seconds"]) for one in begun] == [(2, 45), (3, 65), (1, 25)]
    assert [one["epochs"] for one in row["folds"][:37]] == [EPOCHS] * 37
    assert row["folds"][37]["repeat"] == 7
    # Those in training have their curves, as do the first of the others.
    assert len(row["folds"]) == num
    shown = [one["repeat"] * 5 + one["fold"] for one in row["curves"]]
    assert shown == [*range(27), 37, 38, 39]


def test_time_left_by_epochs_counts_folds_without_a_curve(half):
    for fold in (0, 1):
        shutil.rmtree(half / f"fold_{fold}")
    with_all_folds_begun(half, 8)
    # The slowest fold tells, and is the last one.
    log = half / "fold_39" / "log.csv"
    write_table(log, pd.read_csv(log).assign(seconds=1000.0))
    with lock_fold(half, 39):
        row = row_of(half)
    assert (39 % 3, row["folds"][39]["epochs"]) == (0, 1)
    assert (4, 7) not in {(one["fold"], one["repeat"]) for one in row["curves"]}
    assert row["seconds_left"] > 1000 * EPOCHS


def test_long_logs_are_thinned_and_end_where_they_end(half):
    for fold, num in ((0, 99_999), (1, 700), (2, 20)):
        add_epochs(half, fold, num)
    row = row_of(half)
    assert [one["epochs"] for one in row["folds"][:3]] == [99_999, 700, 20]
    assert [one["epoch"][-1] for one in row["curves"]] == [99_998, 699, 19]
    lengths = [len(one["epoch"]) for one in row["curves"]]
    assert lengths[2] == 20
    assert all(250 <= one <= 501 for one in lengths[:2])
    page = running_page(row, back="x.html")
    assert len(page) < 1_000_000
    # Of the unthinned log.
    assert "Held-out macro F1: 0.68 to 0.7<" in page


def test_curves_have_no_gap_where_others_have_more_epochs():
    values = _at([0, 1, 2, 3, 4], [0, 2, 3], [1.0, 2.0, None])
    assert values == [1.0, 1.5, 2.0, None, None]


def test_a_log_without_held_out_loss_has_its_training_loss(half):
    for fold in (0, 1, 2):
        log = half / f"fold_{fold}" / "log.csv"
        write_table(log, pd.read_csv(log).drop(columns="val_log_loss"))
    page = running_page(row_of(half), back="x.html")
    assert "<b>Loss, training: 1.28 to 2.54</b>" in page


def test_only_known_scores_are_drawn(half):
    log = half / "fold_2" / "log.csv"
    more = pd.DataFrame({f"val_{index}": [0.5] for index in range(3000)})
    write_table(log, pd.concat([pd.read_csv(log), more], axis=1))
    assert running_page(row_of(half), back="x.html").count("<svg") == 2


def damage_done(folder):
    (folder / "fold_0" / "done.json").write_text('{"repeat": 0')


def damage_rows(folder):
    file = folder / "fold_0" / "oof.parquet"
    file.write_bytes(file.read_bytes()[:-100])


def damage_log(folder):
    (folder / "fold_2" / "log.csv").write_text("epoch,train_loss\n0,much\n")


def log_without_rows(folder):
    (folder / "fold_2" / "log.csv").write_text("epoch,train_loss,seconds\n")


def empty_log(folder):
    (folder / "fold_2" / "log.csv").write_text("")


def pipe_log(folder):
    (folder / "fold_2" / "log.csv").unlink()
    os.mkfifo(folder / "fold_2" / "log.csv")


def no_rows(folder):
    (folder / "fold_1" / "oof.parquet").unlink()


def list_of_settings(folder):
    (folder / "config.yaml").write_text("- 1\n")


def same_rows(folder):
    rows = pd.read_parquet(folder / "fold_0" / "oof.parquet")
    write_done(folder, 1, rows, repeat=0, fold=1)


def absurd_epochs(folder):
    (folder / "config.yaml").write_text(
        'epochs: .inf\nfinetune: [1]\noutput: "a\\0b"\nlr: "\\e[31m"\n'
    )


def infinite_times(folder):
    log = folder / "fold_2" / "log.csv"
    write_table(log, pd.read_csv(log).assign(seconds=np.inf, val_f1_macro=np.nan))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_done, "fold_0/done.json: not valid JSON"),
        (damage_rows, "fold_0/oof.parquet: has changed since"),
        (damage_log, "fold_2/log.csv: train_loss must be numbers"),
        (empty_log, "fold_2/log.csv: cannot be read"),
        (log_without_rows, "must be numbers in all rows"),
        (pipe_log, None),
        (no_rows, "fold_1/oof.parquet: no such file"),
        (list_of_settings, None),
        (same_rows, "have the same images"),
        (absurd_epochs, None),
        (infinite_times, None),
    ],
)
@pytest.mark.parametrize("is_running", [True, False])
def test_a_damaged_file_is_a_problem_of_its_row(half, damage, words, is_running):
    damage(half)
    if is_running:
        with lock_fold(half, 2):
            row = row_of(half)
    else:
        row = row_of(half)
    assert len(row["problems"]) == (words is not None)
    assert words is None or words in row["problems"][0]
    # Pages and text are made all the same.
    page = running_page(row, back="leaderboard.html")
    assert words is None or words in page
    assert running_lines([row])


@pytest.mark.parametrize(
    "name",
    [
        "config.yaml",
        "fold_0/done.json",
        "fold_0/log.csv",
        "fold_0/oof.parquet",
        "fold_2",
        ".lock",
        ".lock-fold-2",
    ],
)
@pytest.mark.parametrize("kind", ["pipe", "endless", "folder", "link to itself", "absent"])
def test_nothing_that_stands_in_the_place_of_a_file_ends_or_stops_a_look(half, name, kind):
    place = half / name
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "endless":
        place.symlink_to("/dev/zero")
    elif kind == "folder":
        place.mkdir()
    elif kind == "link to itself":
        place.symlink_to(place)
    running_stamp(half)
    row = row_of(half)
    assert row["state"] == "stopped"
    assert running_page(row, back="leaderboard.html")


def test_what_is_no_unfinished_run_has_no_row(half, tmp_path):
    assert is_unfinished(half)
    assert not is_unfinished(tmp_path / "absent")
    assert not is_unfinished(write_synthetic_run(tmp_path / "done", num_people=20))
    edit_run(half, kind="blend")
    assert not is_unfinished(half)
    (half / "run.json").write_text("{")
    assert not is_unfinished(half)
    with pytest.raises(UserError, match=r"run\.json"):
        row_of(half)
    finish = write_unfinished_run(tmp_path / "finish", done=0, epochs=0, num_people=20)
    finish_run(finish)
    assert not is_unfinished(finish)


def test_a_stamp_changes_with_what_is_shown(half):
    before = running_stamp(half)
    (half / "fold_2" / "last.ckpt").write_bytes(b"checkpoint")
    assert running_stamp(half) == before
    add_epochs(half, 2, 2)
    assert running_stamp(half) != before
    before = running_stamp(half)
    with lock_fold(half, 3):
        assert running_stamp(half) != before
    (half / "fold_3").mkdir()
    assert running_stamp(half) != before


class Links(HTMLParser):
    """Collects links, and the text of each kind of element."""

    def __init__(self, page):
        super().__init__()
        self.links = []
        self.tags = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name == "href"]


def test_the_page_of_a_run_is_one_file_with_its_curves(half):
    page = running_page(row_of(half), back="../leaderboard.html")
    assert page.count("<svg") == 2
    assert "<b>Loss, training: 1.28 to 2.54, held out: 1.37 to 2.62</b>" in page
    assert "Means of the 3 folds that have epochs" in page
    assert "<b>Held-out macro F1: 0.18 to 0.592</b>" in page
    assert "2 of 5 folds done" in page
    assert Links(page).links == ["../leaderboard.html"]
    assert 'http-equiv="refresh"' not in page
    again = reloading(page, 7.4)
    assert '<meta http-equiv="refresh" content="7">' in again
    assert again.replace('<meta http-equiv="refresh" content="7">\n', "") == page
    assert '<meta http-equiv="refresh" content="1">' in reloading(page, 0.1)
    ended = ended_page("half", ended="finished", back="../b.html", report="../half/report.html")
    assert "../half/report.html" in Links(ended).links


def test_names_are_shown_as_text(tmp_path):
    folder = write_unfinished_run(tmp_path / "a&b <i>", num_people=20)
    edit_run(folder, data={"name": NASTY, "is_demo": True})
    (folder / "config.yaml").write_text(f'backbone: "{NASTY}"\nname: x\n')
    row = row_of(folder)
    page = running_page(row, back="leaderboard.html")
    section = _environment().get_template("running_rows.html")
    for text in (page, section.render(running=running_rows([row]))):
        assert "script" not in Links(text).tags
        assert "i" not in Links(text).tags
    assert "demo set" in page.lower()


def test_without_unfinished_runs_nothing_is_shown():
    section = _environment().get_template("running_rows.html")
    assert section.render(running=running_rows([])).strip() == ""
    assert running_lines([]) == []
