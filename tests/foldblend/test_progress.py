"""Progress of long work: lines where there is no terminal, bars where there is one."""

import os
import pty
import re
import subprocess
import sys
import threading

import pytest

from foldblend import progress
from foldblend.progress import Task, duration, lines_to, track
from tests.makers.constants import ROOT


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def lines_of(clock, *, steps, seconds):
    lines = []
    with lines_to(lines.append), Task("decode images", steps, unit="images") as task:
        for _ in range(steps):
            clock[0] += seconds
            task.add()
    return lines


def test_short_work_prints_nothing(clock):
    assert lines_of(clock, steps=9, seconds=1) == []


def test_work_of_twenty_seconds_says_what_how_far_and_how_long(clock):
    lines = lines_of(clock, steps=20, seconds=1)
    assert lines == ["decode images: 10 of 20 images, about 10 s left"]


def test_lines_grow_apart(clock):
    lines = lines_of(clock, steps=3600, seconds=1)
    assert 10 < len(lines) < 40
    assert lines[0] == "decode images: 10 of 3,600 images, about 60 min left"


def test_the_first_of_many_steps_does_not_count_because_it_loads_what_others_need(clock):
    lines = []
    with lines_to(lines.append), Task("train", 480, unit="steps") as task:
        clock[0] += 60
        task.add()
        for _ in range(30):
            clock[0] += 1
            task.add()
    assert lines == [
        "train: 1 of 480 steps",
        "train: 21 of 480 steps, about 8 min left",
    ]


def test_slow_steps_are_told_one_by_one_but_the_last(clock):
    lines = lines_of(clock, steps=3, seconds=30)
    assert lines == [
        "decode images: 1 of 3 images, about 60 s left",
        "decode images: 2 of 3 images, about 30 s left",
    ]


def test_nobody_listens_nothing_is_printed(clock, capsys):
    with Task("decode images", 10) as task:
        clock[0] += 100
        task.add()
    assert capsys.readouterr() == ("", "")


def test_lines_go_to_the_function_of_the_block_also_from_threads(clock):
    lines = []
    with lines_to(lines.append), Task("fit", 4) as task:

        def work():
            clock[0] += 30
            task.add()

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert lines == ["fit: 1 of 4, about 90 s left"]


def test_tracked_items_are_the_items(clock):
    assert list(track(iter("abc"), "count", total=3)) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0, "0 s"), (99, "99 s"), (600, "10 min"), (7200, "2.0 h")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


ON_A_TERMINAL = """
import time
from foldblend.progress import Task, write
with Task("decode images", 3, unit="images") as task:
    for _ in range(3):
        time.sleep(0.15)
        task.add()
    write("warning: a line above the bar")
write("the last line")
"""


def on_a_terminal(**environ):
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", ON_A_TERMINAL],
        cwd=ROOT,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", **environ},
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            more = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not more:
            break
        shown += more
    os.close(ours)
    assert child.wait(timeout=60) == 0
    return shown.decode()


def test_a_terminal_shows_bars_and_colours():
    shown = on_a_terminal()
    assert "decode images" in shown
    assert "/3" in shown
    assert "about" not in shown  # a line for logs
    assert re.search(r"\x1b\[33mwarning: a line above the bar", shown)
    assert shown.rstrip().endswith("the last line")


def test_no_color_is_respected():
    shown = on_a_terminal(NO_COLOR="1")
    assert "decode images" in shown
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", shown)


def test_a_pipe_gets_plain_lines_at_once():
    done = subprocess.run(
        [sys.executable, "-c", ON_A_TERMINAL], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "warning: a line above the bar\nthe last line\n"
    assert done.stderr == ""
