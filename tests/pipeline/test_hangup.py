"""A run continues when its terminal is closed."""

import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest

from foldblend.runs.run import Run
from pipeline.watch.hangup import outlive_terminal
from tests.makers.constants import TINY

ROOT = Path(__file__).resolve().parents[2]


def test_a_handled_signal_is_left_alone(tmp_path):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with outlive_terminal(tmp_path / "log"):
        assert callable(signal.getsignal(signal.SIGHUP))
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        with outlive_terminal(tmp_path / "log"):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    elsewhere = threading.Thread(target=lambda: outlive_terminal(tmp_path / "log").__enter__())
    elsewhere.start()
    elsewhere.join()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


LOSES_TERMINAL = """
import os, pty, sys
from pathlib import Path
from pipeline.watch.hangup import outlive_terminal
ours, theirs = pty.openpty()  # not the controlling terminal, so closing it sends no signal
os.dup2(theirs, 1)
os.dup2(theirs, 2)
os.close(theirs)
sys.stdout.reconfigure(line_buffering=True)
with outlive_terminal(Path(sys.argv[1])) as say:
    say("seen")
    os.close(ours)
    say("logged")
    say("logged too")
"""


def test_a_line_printed_before_the_signal_arrives_is_logged(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LOSES_TERMINAL, tmp_path / "log"], cwd=ROOT, timeout=60, check=False
    )
    assert done.returncode == 0
    lines = (tmp_path / "log").read_text().splitlines()
    assert "seen" not in lines
    assert [line for i, line in enumerate(lines) if line not in lines[:i]] == [
        "logged",
        "logged too",
    ]


def take_terminal():
    """Make the terminal on stdin the controlling terminal of a new session, as a login does."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.mark.slow
@pytest.mark.parametrize("folds_at_once", [1, 2])
def test_a_run_whose_terminal_is_closed_continues(tiny_layout, tmp_path, folds_at_once):
    argv = [
        "--data",
        tiny_layout,
        "--output",
        tmp_path,
        "--name",
        "a",
        "--backbone",
        "test_efficientnet",
        *TINY,
    ]
    argv += ["--epochs", "30", "--parallel-folds", folds_at_once]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "run_cv.py", *map(str, argv)],
        cwd=ROOT,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=take_terminal,
    )
    os.close(theirs)
    seen = b""
    epochs = tmp_path / "a" / "fold_0" / "log.csv"
    until = time.monotonic() + 120
    while not epochs.exists() and time.monotonic() < until:
        if select.select([ours], [], [], 1)[0]:
            seen += os.read(ours, 65536)
    assert epochs.exists(), seen[-2000:]
    assert b"epoch 1/30: loss" not in seen  # a terminal shows progress bars instead
    os.close(ours)  # closes the terminal
    assert process.wait(240) == 0
    assert Run(tmp_path / "a").info["status"] == "done"
    logged = (tmp_path / "hangup.log").read_text()
    assert "epoch 30/30: loss" in logged
    assert "report:" in logged
