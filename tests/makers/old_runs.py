"""Runs made by the code of an earlier commit, to test that users' runs keep working.

    python -m tests.makers.old_runs FOLDER LAYOUT

makes them in FOLDER, on a data set LAYOUT in the competition's layout.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from tests.makers.constants import ROOT, TINY

__all__ = ["FIRST", "OldCode", "commands_of", "make_old_runs"]

# The last commit before packages were moved.
FIRST = "0a17d88"
# Enough epochs, saved often enough, that a kill finds a fold with a checkpoint.
KILLED = ["--epochs", "6", "--save-every", "0"]


class OldCode:
    """The source tree of an earlier commit, and its commands."""

    def __init__(self, folder: Path, commit: str = FIRST) -> None:
        """Extract a commit; raise FileNotFoundError if it is absent, as in a shallow clone."""
        done = subprocess.run(
            ["git", "archive", commit], cwd=ROOT, capture_output=True, check=False
        )
        if done.returncode:
            raise FileNotFoundError(done.stderr.decode().strip())
        self.folder = folder
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tree:
            tree.extractall(folder, filter="data")

    def start(self, *words: object, log: Path) -> subprocess.Popen[bytes]:
        """Start a command of that commit, such as run_cv.py or -m tta, with its packages."""
        environment = os.environ | {"PYTHONPATH": str(self.folder)}
        command = [sys.executable, *map(str, words)]
        with log.open("ab") as file:
            return subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=file, stderr=file
            )

    def run(self, *words: object, log: Path) -> None:
        """Run a command of that commit and wait until it ends."""
        code = self.start(*words, log=log).wait()
        assert code == 0, log.read_text()


def commands_of(folder: Path, layout: Path) -> dict[str, list[object]]:
    """Return the flags of run_cv.py for each run; "whole" and "killed" differ in name only."""
    shared = [
        "--data",
        layout,
        "--output",
        folder,
        "--cache",
        "disk",
        "--cache-dir",
        folder.parent / "cache",
        *TINY,
    ]
    trained = [*shared, "--backbone", "test_efficientnet", *KILLED]
    return {
        "plain": [*shared, "--name", "plain", "--backbone", "test_resnet"],
        "flipped": [
            *shared,
            "--name",
            "flipped",
            "--backbone",
            "test_efficientnet",
            "--tta",
            "hflip",
        ],
        "frozen": [
            *shared,
            "--name",
            "frozen",
            "--backbone",
            "test_resnet",
            "--finetune",
            "head",
            "--head-l2",
            "0.3",
        ],
        "whole": [*trained, "--name", "whole"],
        "killed": [*trained, "--name", "killed"],
    }


def _kill_in_mid_fold(code: OldCode, words: list[object], run: Path, log: Path) -> None:
    """Start a run and kill it after some steps of its second fold."""
    process = code.start("run_cv.py", *words, log=log)
    until = time.monotonic() + 300
    while not (run / "fold_1" / "last.ckpt").is_file():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < until
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (run / "fold_1" / "last.ckpt").is_file()
    assert not (run / "fold_1" / "done.json").exists(), "killed too late"


def make_old_runs(folder: Path, layout: Path, *, commit: str = FIRST) -> Path:
    """Make runs with an earlier commit and return their folder, outputs/.

    There are runs without TTA, with TTA, with a frozen backbone, killed in mid-fold, and the same
    without a kill; TTA of the first one; and two blends. Their cache is cache/ next to outputs/.
    """
    code = OldCode(folder / "code", commit)
    outputs = folder / "outputs"
    log = folder / "log.txt"
    outputs.mkdir(parents=True)
    for name, words in commands_of(outputs, layout).items():
        if name == "killed":
            _kill_in_mid_fold(code, words, outputs / name, log)
        else:
            code.run("run_cv.py", *words, log=log)
    code.run("-m", "tta", outputs / "plain", "--views", "hflip,vflip", "--no-page", log=log)
    members = [outputs / name for name in ("plain_tta", "flipped", "frozen")]
    code.run("blend.py", *members, "--method", "soft", "--name", "soft", "--no-page", log=log)
    code.run("blend.py", *members, "--method", "greedy", "--name", "greedy", "--no-page", log=log)
    return outputs


if __name__ == "__main__":
    print(make_old_runs(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()))
