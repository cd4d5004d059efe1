"""leaderboard.py --watch: what changes between two looks, files written, and the end."""

import json
import re
import shutil
import signal

import jsonschema
import pytest

import leaderboard as leaderboard_script
from foldblend.errors import UserError
from foldblend.runs.folder import lock_fold
from reports.board import leaderboard as board_module
from reports.board import running_page as running_page_module
from reports.board.output import MARK, Output
from reports.board.watch import Memory, watch, watch_once
from tests.makers.constants import ROOT
from tests.makers.edits import edit_run
from tests.makers.small_runs import LABELS, write_run
from tests.makers.unfinished_runs import (
    EPOCHS,
    NOW,
    add_epochs,
    finish_fold,
    finish_run,
    write_unfinished_run,
)

SCHEMA = json.loads((ROOT / "docs" / "leaderboard.schema.json").read_text())


@pytest.fixture
def outputs(tmp_path):
    """Return a folder with one finished and one unfinished run."""
    folder = tmp_path / "outputs"
    write_run(folder / "good", LABELS)
    write_unfinished_run(folder / "half", num_people=20)
    return folder


class Watch:
    """Looks at a folder, with the memory of earlier looks."""

    def __init__(self, *paths, **options):
        self.paths = paths
        self.options = options
        self.memory = Memory()
        self.look = None

    def changes(self):
        self.look = watch_once(
            self.paths, self.look, now=NOW + 5, memory=self.memory, **self.options
        )
        return [one.replace(f"{self.paths[0]}/", "") for one in self.look.changes]

    def names(self):
        every = self.look.every
        return (
            [row["name"] for board in every["boards"] for row in board["rows"]],
            [row["name"] for row in every["running"]],
            [one["path"].rpartition("/")[2] for one in every["skipped"]],
        )


def test_a_run_appears_finishes_and_is_removed_between_two_looks(outputs):
    seen = Watch(outputs)
    assert seen.changes() == ["good: new, finished", "half: new, stopped, 2 of 5 folds done"]
    assert seen.names() == (["good"], ["half"], [])
    assert seen.changes() == []
    with lock_fold(outputs / "half", 2):
        assert seen.changes() == ["half: running"]
        add_epochs(outputs / "half", 2, 2)
        assert seen.changes() == [f"half: fold 2: epoch 3 of {EPOCHS}"]
        finish_fold(outputs / "half", 2)
        assert seen.changes() == ["half: 3 of 5 folds done"]
    assert seen.changes() == ["half: stopped"]
    write_unfinished_run(outputs / "later", done=0, epochs=0, num_people=20)
    assert seen.changes() == ["later: new, stopped, 0 of 5 folds done"]
    finish_run(outputs / "half")
    assert seen.changes() == ["half: finished"]
    assert seen.names() == (["good", "half"], ["later"], [])
    shutil.rmtree(outputs / "later")
    assert seen.changes() == ["later: removed"]
    shutil.rmtree(outputs / "half")
    shutil.rmtree(outputs / "good")
    assert seen.changes() == ["good: removed", "half: removed"]
    assert seen.names() == ([], [], ["outputs"])
    assert seen.look.every["skipped"][0]["why"] == "holds no run yet"
    shutil.rmtree(outputs)
    assert "no such run" in seen.changes()[0]
    # The boards stay as they were, and the same problem is said once.
    assert seen.look.every is not None
    assert seen.changes() == []
    write_run(outputs / "good", LABELS)
    assert "good: new, finished" in seen.changes()


def test_a_run_that_is_made_again_is_read_again(outputs):
    seen = Watch(outputs)
    seen.changes()
    shutil.rmtree(outputs / "good")
    write_run(outputs / "good", [1, *LABELS[1:]], finished=1_700_000_700)
    assert seen.changes() == ["good: made again"]
    row = seen.look.every["boards"][0]["rows"][0]
    assert row["headline"]["value"] == pytest.approx(11 / 12)


def test_one_broken_run_does_not_end_the_watch(outputs):
    seen = Watch(outputs)
    seen.changes()
    (outputs / "half" / "run.json").write_text('{"format": 1, ')
    assert seen.changes() == ["half: skipped"]
    assert seen.names() == (["good"], [], ["half"])
    (outputs / "good" / "oof.parquet").write_bytes(b"PAR1")
    assert seen.changes() == ["good: skipped"]
    assert seen.names() == ([], [], ["good", "half"])


def test_runs_that_cannot_be_compared_keep_the_boards_of_before(outputs):
    # The classes of the synthetic run have no order.
    seen = Watch(outputs, metric="kappa_quadratic")
    edit_run(outputs / "good", ordered=True)
    seen.changes()
    assert seen.names()[0] == ["good"]
    write_run(outputs / "other", LABELS, ordered=False)
    [line] = seen.changes()
    assert line.startswith("not written: ")
    assert "kappa_quadratic" in line
    assert seen.names()[0] == ["good"]
    shutil.rmtree(outputs / "other")
    assert seen.changes() == []
    assert seen.look.problem is None


def test_scores_of_finished_runs_are_computed_once(outputs, monkeypatch):
    scored = []
    score_prediction = board_module.score_prediction

    def counted(name, *args, **options):
        scored.append(name)
        return score_prediction(name, *args, **options)

    monkeypatch.setattr(board_module, "score_prediction", counted)
    seen = Watch(outputs)
    seen.changes()
    assert scored == ["good"]
    before = seen.look.every["boards"]
    add_epochs(outputs / "half", 2, 2)
    assert seen.changes()
    assert scored == ["good"]
    assert seen.look.every["boards"] == before
    write_run(outputs / "another", LABELS)
    assert seen.changes()
    assert scored == ["good", "another"]
    # Equal to boards that are made without what is kept.
    fresh = Watch(outputs)
    fresh.changes()
    assert fresh.look.every == seen.look.every


def test_runs_of_one_name_are_told_apart(outputs, tmp_path):
    others = tmp_path / "others"
    write_unfinished_run(others / "half", done=0, epochs=0, num_people=20)
    seen = Watch(outputs, others)
    seen.changes()
    assert seen.names()[1] == [f"{outputs}/half", f"{others}/half"]
    output = Output(page=tmp_path / "board.html", json=None)
    output.write(seen.look.every, seen.look.runs, reload=10)
    assert len([*(tmp_path / "board-running").iterdir()]) == 2


def test_without_a_folder_that_holds_runs_each_path_is_a_run(outputs):
    seen = Watch(outputs / "good", outputs)
    seen.changes()
    assert seen.names() == (["good"], [], ["outputs"])


class Stop:
    """Stands for time.sleep: does one thing per call, and ends like Ctrl-C after the last."""

    def __init__(self, *steps):
        self.steps = [*steps]

    def __call__(self, seconds):
        if not self.steps:
            raise KeyboardInterrupt
        self.steps.pop(0)()


def watched(outputs, page, *steps, said=None, **options):
    output = Output(page=page, json=page.with_suffix(".json"))
    look = watch(
        [outputs],
        every=10,
        first=lambda every: None,
        publish=lambda look: output.write(look.every, look.runs, reload=10, problem=look.problem),
        say=(lambda line: None) if said is None else said.append,
        sleep=Stop(*steps),
        now=lambda: NOW + 5,
        clock=lambda moment: "12:00:00",
        **options,
    )
    return output, look


def test_files_are_written_only_when_something_changed(outputs, tmp_path):
    page = tmp_path / "board.html"
    times = []

    def note():
        times.append(page.stat().st_mtime_ns)

    def epoch():
        note()
        add_epochs(outputs / "half", 2, 2)

    said = []
    watched(outputs, page, note, epoch, note, note, said=said)
    assert times[0] == times[1] != times[2] == times[3]
    assert said[1:] == [f"12:00:00 {outputs}/half: fold 2: 2 of {EPOCHS} epochs"]
    assert said[0].startswith("watching ")


@pytest.mark.parametrize(
    ("change", "is_seen"),
    [
        (lambda run: edit_run(run, leaks=True), lambda page: "GROUPS LEAK" in page),
        (lambda run: (run / "report.html").write_text("x"), lambda page: "report.html" in page),
    ],
)
def test_a_change_without_words_is_published(outputs, tmp_path, change, is_seen):
    page = tmp_path / "board.html"
    shown = []

    def note():
        shown.append(is_seen(page.read_text()))

    def alter():
        note()
        change(outputs / "good")

    said = []
    watched(outputs, page, alter, note, said=said)
    assert shown == [False, True]
    assert len(said) == 1


def test_epochs_of_many_folds_in_training_are_published(outputs, tmp_path):
    folder = outputs / "half"
    for fold in (0, 1):
        shutil.rmtree(folder / f"fold_{fold}")
    for fold in range(5):
        add_epochs(folder, fold, 1)
    said = []
    with lock_fold(folder, 2):
        watched(outputs, tmp_path / "board.html", lambda: add_epochs(folder, 3, 3), said=said)
    [page] = (tmp_path / "board-running").iterdir()
    assert "<td>in training</td><td>3</td>" in page.read_text()
    assert len(said) == 1


def test_while_runs_are_missing_the_pages_say_so(outputs, tmp_path):
    page = tmp_path / "board.html"
    away = tmp_path / "away"
    shown = []

    def note():
        [run] = (tmp_path / "board-running").iterdir()
        shown.append([" is not up to date: " in one.read_text() for one in (page, run)])

    def go():
        note()
        outputs.rename(away)

    def come():
        note()
        away.rename(outputs)

    output, look = watched(outputs, page, go, come, note, go)
    assert shown == [[False, False], [True, True], [False, False], [False, False]]
    assert "outputs: no such run" in page.read_text()
    output.end(look.every, look.runs, problem=look.problem)
    assert "outputs: no such run" in page.read_text()


def test_memory_keeps_what_the_last_look_used_only(outputs):
    seen = Watch(outputs)
    seen.changes()
    num = len(seen.memory.cache)
    labels = [*LABELS]
    for moment in range(4):
        labels[moment] = 1 - labels[moment]
        shutil.rmtree(outputs / "good")
        write_run(outputs / "good", labels, finished=1_700_000_700 + moment)
        add_epochs(outputs / "half", 2, 2 + moment)
        assert seen.changes()
        assert len(seen.memory.cache) == num
    # Labels are in keys as a hash, whatever their number.
    assert max(len(repr(key)) for key in seen.memory.cache) < 2000
    shutil.rmtree(outputs / "half")
    assert seen.changes()
    assert len(seen.memory.cache) < num


def test_pages_of_unfinished_runs_come_and_go(outputs, tmp_path):
    page = tmp_path / "my board.html"
    folder = tmp_path / "my board-running"
    folder.mkdir()
    (folder / "killed-0123abcd.html").write_bytes(MARK + b"of a watch that was killed")
    (folder / "mine.html").write_text("of the user")
    shown = []

    def note():
        [one] = [one for one in folder.iterdir() if one.name != "mine.html"]
        shown.append((one.name, one.read_text(), page.read_text()))

    def finish():
        note()
        finish_run(outputs / "half")
        (outputs / "half" / "report.html").write_text("a report")

    output, look = watched(outputs, page, finish, note)
    (name, first, board), (other_name, second, _) = shown
    assert name == other_name
    assert re.fullmatch(r"half-[0-9a-f]{8}\.html", name)
    assert 'http-equiv="refresh"' in first
    assert 'http-equiv="refresh"' in board
    assert f"my%20board-running/{name}" in board
    assert "../my%20board.html" in first
    assert 'http-equiv="refresh"' not in second
    assert "This run is finished" in second
    assert "outputs/half/report.html" in second
    # Nothing was written into the folders of runs.
    assert not [*outputs.rglob("*running*")]
    output.end(look.every, look.runs)
    assert [one.name for one in folder.iterdir()] == ["mine.html"]
    assert 'http-equiv="refresh"' not in page.read_text()
    jsonschema.validate(json.loads((tmp_path / "my board.json").read_text()), SCHEMA)


@pytest.mark.parametrize("kind", [ValueError, OverflowError, KeyError])
def test_a_run_whose_page_cannot_be_drawn_has_a_row_that_says_so(
    outputs, tmp_path, monkeypatch, kind
):
    drawn = running_page_module.running_page

    def fails_for_odd(row, **options):
        if row["name"] == "odd":
            raise kind("no such\nscale")
        return drawn(row, **options)

    monkeypatch.setattr(running_page_module, "running_page", fails_for_odd)
    write_unfinished_run(outputs / "odd", num_people=20)
    board = tmp_path / "board.html"
    watched(outputs, board, lambda: add_epochs(outputs / "odd", 2, 2))
    [half, odd] = sorted((tmp_path / "board-running").iterdir())
    assert "<svg" in half.read_text()
    for text in (odd.read_text(), board.read_text()):
        assert f"page cannot be drawn ({kind.__name__}: " in text
        assert 'http-equiv="refresh"' in text


def test_a_log_of_extreme_numbers_does_not_end_the_watch(outputs, tmp_path):
    log = outputs / "half" / "fold_2" / "log.csv"
    said = []
    extreme = "epoch,train_loss,val_f1_macro,seconds\n0,1e308,1e30,1e308\n1,-1e308,-1e30,-1e308\n"
    watched(outputs, tmp_path / "board.html", lambda: log.write_text(extreme), said=said)
    assert "2 of 4 epochs" in said[1]
    [page] = (tmp_path / "board-running").iterdir()
    assert "Held-out macro F1: -1e+30 to" in page.read_text()


def test_names_that_are_no_text(tmp_path):
    outputs = tmp_path / "out\udcff #1?"
    folder = write_unfinished_run(outputs / "run\udcff", num_people=20)
    page = tmp_path / "board\udcff.html"
    output, look = watched(outputs, page, lambda: finish_fold(folder, 2))
    [file] = (tmp_path / "board\udcff-running").iterdir()
    assert f"board%FF-running/{file.name}" in page.read_text()
    output.end(look.every, look.runs)


def test_a_page_that_cannot_be_written_is_tried_again(outputs, tmp_path):
    page = tmp_path / "board.html"

    def block():
        page.unlink()
        page.mkdir()
        add_epochs(outputs / "half", 2, 2)

    said = []
    watched(outputs, page, block, page.rmdir, lambda: None, said=said)
    assert page.is_file()
    assert [line for line in said if "not written" in line]


def test_the_first_look_fails_like_a_command(tmp_path):
    with pytest.raises(UserError, match="no such run"):
        watched(tmp_path / "absent", tmp_path / "board.html")


@pytest.fixture
def board_command(command_of, tmp_path, monkeypatch):
    """Return leaderboard.py as a function that writes the page into tmp_path."""
    monkeypatch.chdir(tmp_path)
    return command_of(leaderboard_script.main)


def test_the_command_watches_until_ctrl_c(outputs, board_command, tmp_path, monkeypatch):
    steps = Stop(lambda: finish_run(outputs / "half"))
    monkeypatch.setattr("time.sleep", steps)
    done = board_command("--watch", outputs, "--every", 5, "--json", "b.json")
    assert done.code == 0, done.err
    assert "good" in done.out
    assert re.search(r"^\d\d:\d\d:\d\d \S+half: finished$", done.out, re.M)
    assert done.out.endswith("page: leaderboard.html\nthe watch has ended\n")
    assert not (tmp_path / "leaderboard-running").exists()
    assert json.loads((tmp_path / "b.json").read_text())["running"] == []


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_ends_the_command_like_ctrl_c(outputs, board_command, tmp_path, monkeypatch, name):
    number = getattr(signal, name)
    before = signal.getsignal(number)
    reloads = []

    def end():
        reloads.append("refresh" in (tmp_path / "leaderboard.html").read_text())
        signal.raise_signal(number)

    monkeypatch.setattr("time.sleep", Stop(end))
    done = board_command("--watch", outputs)
    assert done.code == 0, done.err
    assert done.out.endswith("page: leaderboard.html\nthe watch has ended\n")
    assert reloads == [True]
    assert "refresh" not in (tmp_path / "leaderboard.html").read_text()
    assert not (tmp_path / "leaderboard-running").exists()
    assert signal.getsignal(number) is before


def test_a_signal_that_is_ignored_stays_so(outputs, board_command, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        monkeypatch.setattr("time.sleep", Stop(lambda: signal.raise_signal(signal.SIGHUP)))
        assert board_command("--watch", outputs, "--no-page").code == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_watch_that_fails_leaves_no_page_that_loads_itself(
    outputs, board_command, tmp_path, monkeypatch
):
    def fail():
        raise BrokenPipeError

    monkeypatch.setattr("time.sleep", Stop(fail))
    monkeypatch.setattr("os.dup2", lambda *_: None)
    assert board_command("--watch", outputs).code == 1
    assert "refresh" not in (tmp_path / "leaderboard.html").read_text()
    assert not (tmp_path / "leaderboard-running").exists()


def test_an_empty_folder_is_watched_until_it_has_a_run(board_command, tmp_path, monkeypatch):
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    monkeypatch.setattr("time.sleep", Stop(lambda: write_run(outputs / "good", LABELS)))
    done = board_command("--watch", outputs, "--no-page")
    assert done.code == 0, done.err
    assert f"{outputs}/good: new, finished" in done.out
    assert not (tmp_path / "leaderboard.html").exists()


def test_without_watch_unfinished_runs_are_listed_too(outputs, board_command, tmp_path):
    done = board_command(outputs, "--json", "b.json")
    assert done.code == 0, done.err
    assert "2 of 5" in done.out
    assert "skipped" not in done.out
    every = json.loads((tmp_path / "b.json").read_text())
    jsonschema.validate(every, SCHEMA)
    assert [row["name"] for row in every["running"]] == ["half"]
    page = (tmp_path / "leaderboard.html").read_text()
    assert 'id="running"' in page
    assert 'http-equiv="refresh"' not in page
    shutil.rmtree(outputs / "good")
    assert board_command(outputs, "--no-page").code == 0
    shutil.rmtree(outputs / "half")
    board_command(outputs).assert_one_line_error("no finished run")


@pytest.mark.parametrize(
    ("metric", "title", "greater_is_better", "scored"),
    [
        ("mean_cost", "mean cost", False, "f1_macro"),
        ("log_loss", "log loss", False, "log_loss"),
        (None, "macro F1", True, "f1_macro"),
    ],
)
def test_unfinished_runs_alone_are_by_the_metric_that_is_asked_for(
    outputs, metric, title, greater_is_better, scored
):
    shutil.rmtree(outputs / "good")
    seen = Watch(outputs, metric=metric)
    seen.changes()
    every = seen.look.every
    assert every["metric"] == (metric or "f1_macro")
    assert (every["title"], every["greater_is_better"]) == (title, greater_is_better)
    [row] = every["running"]
    assert row["score"]["metric"] == scored
    assert len(row["problems"]) == (metric == "mean_cost")


def test_wrong_flags_give_one_line(outputs, board_command):
    for every in ("0", "-1", "nan", "inf"):
        board_command("--watch", outputs, "--every", every).assert_one_line_error("--every")
    board_command(outputs, "--every", "3").assert_one_line_error("--every", "--watch")
    board_command("--watch").assert_one_line_error("RUNS: missing")


def test_one_file_for_page_and_json_and_a_file_to_watch_give_one_line(outputs, board_command):
    file = outputs.parent / "both.html"
    board_command(outputs, "--page", file, "--json", file).assert_one_line_error("--json")
    assert not file.exists()
    run_json = outputs / "good" / "run.json"
    board_command("--watch", run_json, "--page", file).assert_one_line_error("is a file")


def test_pages_that_are_not_of_a_watch_stay(outputs, tmp_path):
    output = Output(page=tmp_path / "a.html", json=None)
    look = watch_once([outputs], None, now=NOW + 5, memory=Memory())
    output.write(look.every, look.runs, reload=5)
    notes = tmp_path / "a-running" / "notes-deadbeef.html"
    notes.write_text("<p>mine</p>")
    output.write(look.every, look.runs, reload=5)
    assert len([*notes.parent.iterdir()]) == 2
    output.end(look.every, look.runs)
    assert [*notes.parent.iterdir()] == [notes]


def test_a_folder_of_runs_beside_a_run_says_so(outputs, tmp_path):
    single = write_run(tmp_path / "single", LABELS)
    look = watch_once([outputs, single], None, now=NOW + 5, memory=Memory())
    [skipped] = look.every["skipped"]
    assert skipped["why"].startswith("holds runs, but stands beside runs")


def test_the_same_reason_why_nothing_is_written_is_said_once(outputs, tmp_path):
    said = []
    looks = iter(range(5))

    def sleep(_):
        if next(looks, None) is None:
            raise KeyboardInterrupt
        add_epochs(outputs / "half", 2, 1)

    published = []

    def publish(look):
        published.append(look)
        if len(published) > 1:
            raise OSError("no room")

    watch(
        [outputs],
        every=1,
        first=lambda _: None,
        publish=publish,
        say=said.append,
        sleep=sleep,
        now=lambda: NOW + 5,
        clock=lambda _: "noon",
    )
    assert len(published) > 3
    assert [line for line in said if "not written" in line] == ["noon not written: no room"]
