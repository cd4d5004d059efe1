"""Consoles that cannot print every letter: names are escaped, and no command fails of it."""

import os
import subprocess
import sys

import pytest

from foldblend.runs.folder import table_hashes
from tests.makers.constants import ROOT
from tests.makers.edits import edit_run
from tests.makers.small_runs import LABELS, write_run

NAMES = ["고양이", "개", "올빼미 ≥ 2"]
ESCAPED = "\\uace0\\uc591\\uc774"
SCRIPTS = [
    "run_cv.py",
    "blend.py",
    "run_tta.py",
    "predict.py",
    "export_model.py",
    "tune.py",
    "import_run.py",
    "run_audit.py",
    "leaderboard.py",
    "report.py",
]


def run(*words, encoding, **environ):
    """Run a script with an encoding of its streams; return its exit code and output as text."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding, **environ},
        check=False,
    )
    return done.returncode, done.stdout.decode(encoding), done.stderr.decode(encoding)


@pytest.fixture(scope="module")
def korean_runs(tmp_path_factory):
    """Return two runs with Korean class and run names."""
    folder = tmp_path_factory.mktemp("korean")
    wrong = [1, *LABELS[1:]]
    runs = [
        write_run(
            folder / name,
            predicted,
            classes=NAMES,
            answers=NAMES,
            name=name,
            num_test_folds=0,
            run_key={},
        )
        for name, predicted in (("가", wrong), ("나", [*LABELS[:-1], 0]))
    ]
    for run_folder in runs:
        edit_run(run_folder, files=table_hashes(run_folder))
    return runs


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_printed(script):
    code, out, err = run(script, "--help", encoding="ascii")
    assert (code, err) == (0, "")
    assert "usage: python" in out


@pytest.mark.slow
def test_reports_escape_what_a_console_lacks(korean_runs):
    code, out, err = run("report.py", *korean_runs, encoding="cp1252")
    assert (code, err) == (0, "")
    assert "\\uac00" in out
    assert "고양이" in (korean_runs[0] / "report.txt").read_text(encoding="utf-8")


@pytest.mark.slow
def test_reports_are_printed_where_a_console_has_the_letters(korean_runs):
    code, out, err = run("report.py", *korean_runs, encoding="cp949")
    assert (code, err) == (0, "")
    assert "korean0/가" in out


@pytest.mark.slow
def test_the_leaderboard_escapes_names(korean_runs, tmp_path):
    page = tmp_path / "board.html"
    code, out, err = run("leaderboard.py", *korean_runs, "--page", page, encoding="cp1252")
    assert (code, err) == (0, "")
    assert "\\uac00" in out
    assert "가" in page.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_blend_escapes_names(korean_runs, tmp_path):
    words = ("blend.py", *korean_runs, "--output", tmp_path, "--name", "both", "--method", "soft")
    code, out, err = run(*words, encoding="ascii")
    assert code == 0, err
    assert ESCAPED in out


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("run_cv.py", "--csv", "없음.csv"),
        ("run_audit.py", "--csv", "없음.csv"),
        ("run_tta.py", "없음"),
        ("report.py", "없음"),
    ],
)
def test_errors_escape_names(words):
    code, _, err = run(*words, encoding="cp1252")
    assert code == 2
    assert err.startswith("error: \\uc5c6\\uc74c")
    assert "Traceback" not in err


def test_a_line_of_the_log_is_escaped_in_a_program_of_the_user():
    program = "from foldblend.progress import write; write('warning: 고')"
    code, out, _ = run("-c", program, encoding="cp1252")
    assert (code, out) == (0, "warning: \\uace0\n")
