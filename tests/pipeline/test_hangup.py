"""A run outlives its terminal."""

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


def test_only_what_nobody_handles_is_handled(tmp_path):
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
ours, theirs = pty.openpty()  # not this process's own: it gets no signal when it goes
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


def test_a_line_between_the_loss_of_the_terminal_and_its_signal_is_logged(tmp_path):
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
    """Make the terminal on stdin the new session's own, as a login does."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may themselves run under nohup
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.mark.slow
@pytest.mark.parametrize("folds_at_once", [1, 2])
def test_a_run_whose_terminal_is_closed_goes_on(tiny_layout, tmp_path, folds_at_once):
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
    until = time.monotonic() + 120
    while b"epoch 2/30" not in seen and time.monotonic() < until:
        if select.select([ours], [], [], 1)[0]:
            seen += os.read(ours, 65536)
    assert b"epoch 2/30" in seen, seen[-2000:]
    os.close(ours)  # the terminal has gone
    assert process.wait(240) == 0
    assert Run(tmp_path / "a").info["status"] == "done"
    assert "report:" in (tmp_path / "hangup.log").read_text()
