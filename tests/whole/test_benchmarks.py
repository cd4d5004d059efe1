"""The benchmarks of a GPU: order and time of the parts, files, and a call that is stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.makers.constants import ROOT

GPU = [sys.executable, ROOT / "benchmarks" / "gpu.py", "--brief", "--device", "cpu"]


@pytest.fixture
def common(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import common

    return common


@pytest.fixture
def results(common, tmp_path):
    """Return a function that makes the results of a call with some flags."""

    def make(*flags):
        cli = common.timed_parser("", results="")
        args = cli.parse_args(["--json", str(tmp_path / "new" / "one.json"), *flags])
        return common.Results(args, device="cpu")

    return make


def stored(results):
    return json.loads(results.file.read_text())


def rounds(num, seconds=0.0):
    for number in range(num):
        time.sleep(seconds)
        yield number


def test_each_round_is_stored(results):
    kept = results()
    assert kept.in_rounds("a", lambda: rounds(1)) == 0

    def watched():
        for number in range(3):
            yield number
            (entry,) = [one for key, one in stored(kept).items() if key.startswith("b,")]
            assert (entry["result"], entry["partial"]) == (number, True)

    assert kept.in_rounds("b", watched) == 2
    assert not any("partial" in entry for entry in stored(kept).values())
    assert kept.in_rounds("b", lambda: pytest.fail("measured again")) == 2


def test_no_round_is_begun_that_would_end_too_late(results, capsys):
    kept = results("--seconds", "0.2")
    found = kept.in_rounds("a", lambda: rounds(100, 0.05))
    assert 1 <= found < 5
    assert f"a: stopped after round {found + 1}, the time is over" in capsys.readouterr().out
    assert [entry["partial"] for entry in stored(kept).values()] == [True]
    # It is measured again, and at least as many rounds as are needed are made.
    late = results("--seconds", "0")
    assert late.in_rounds("a", lambda: rounds(100), least=7) == 6
    # The last round ends late, but nothing is missing.
    assert late.in_rounds("b", lambda: rounds(1), most=1) == 0
    assert "b" in late
    assert "a" not in late


def test_a_signal_keeps_the_rounds_so_far(common, results, capsys):
    closed = []

    def interrupted(after, error=common.Stopped):
        try:
            yield from rounds(after)
            raise error(143)
        finally:
            closed.append(after)

    assert results().in_rounds("a", lambda: interrupted(2)) == 1
    assert "a: stopped after round 2 by a signal" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        results().in_rounds("b", lambda: interrupted(0))
    # A command that fails is an error, also after a round.
    with pytest.raises(SystemExit):
        results().in_rounds("c", lambda: interrupted(1, SystemExit))
    assert closed == [2, 0, 1]


def test_fresh_results_leave_others_in_the_file(results):
    results().put("a", 1)
    fresh = results("--fresh")
    assert "a" not in fresh
    fresh.put("b", 2)
    assert [entry["result"] for entry in stored(fresh).values()] == [1, 2]
    fresh.put("a", 3)
    assert "a" in fresh
    assert [entry["result"] for entry in stored(fresh).values()] == [3, 2]


def test_the_most_wanted_parts_come_within_five_minutes(common):
    import gpu

    scripts = [part.script for part in gpu.PLAN]
    assert scripts[:5] == ["feeding", "feeding", "parallel", "tta_views", "compile"]
    assert sum(part.seconds for part in gpu.PLAN[:4]) <= 295
    assert all(part.least <= part.seconds for part in gpu.PLAN)
    assert {part.script for part in gpu.BRIEF} == set(scripts)


def test_a_part_for_which_no_time_is_left_is_named(common, monkeypatch, capsys, tmp_path):
    import gpu

    calls = []
    monkeypatch.setattr(gpu, "exit_on_sigterm", lambda: None)
    monkeypatch.setattr(gpu, "settled", lambda _: None)
    monkeypatch.setattr(gpu, "run", lambda part, *_, **left: calls.append((part, left)))
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--minutes", "0.6", "--json", str(tmp_path)])
    assert gpu.main() == 0
    assert [part for part, _ in calls] == [one for one in gpu.PLAN if one.least <= 35]
    assert "compile --backbone resnet18" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_a_machine_without_a_card_is_one_line(common, monkeypatch, capsys):
    import gpu

    monkeypatch.setattr(gpu, "exit_on_sigterm", lambda: None)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    assert gpu.main() == 2
    assert capsys.readouterr().err.startswith("error: --device cuda: ")


def flags_of(process):
    try:
        return (process / "cmdline").read_bytes().decode(errors="replace")
    except OSError:  # it has ended
        return ""


def processes_with(word):
    """Return the processes of this machine that have a word in their command line."""
    return [one.name for one in Path("/proc").glob("[0-9]*") if word in flags_of(one)]


@pytest.mark.slow
def test_all_parts_run_and_write_their_files(tmp_path):
    before = {file: file.stat().st_mtime_ns for file in (ROOT / "benchmarks").glob("*.json")}
    # Other tests run at the same time: several threads of torch would wait for each other.
    done = subprocess.run(
        [*GPU, "--json", tmp_path, "--minutes", "20"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr + done.stdout
    found = {file.stem: json.loads(file.read_text()) for file in tmp_path.glob("*.json")}
    num_results = {name: len(entries) for name, entries in found.items()}
    assert num_results == {"feeding": 2, "parallel": 1, "tta_views": 1, "compile": 1}
    for entries in found.values():
        for entry in entries.values():
            assert "partial" not in entry, done.stdout
            assert entry["result"]
    ways = {way for one in found["feeding"].values() for way in one["result"]["images_per_s"]}
    assert "resident batch, augmented on the device" in ways
    assert "pipeline, cache on disk" in ways
    after = {file: file.stat().st_mtime_ns for file in (ROOT / "benchmarks").glob("*.json")}
    assert after == before


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_call_keeps_what_it_has_measured(tmp_path, number):
    child = subprocess.Popen(
        [*GPU, "--json", tmp_path, "--only", "feeding", "parallel"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
    )
    assert child.stdout is not None
    # In the midst of the third part, whose processes have children of their own.
    while "--augmented-on cpu: done" not in child.stdout.readline():
        assert child.poll() is None
    while not processes_with(f"{tmp_path}/tmp"):
        assert child.poll() is None
        time.sleep(0.1)
    os.kill(child.pid, number)
    child.communicate(timeout=120)
    assert child.returncode in (143, -number)
    assert len(json.loads((tmp_path / "feeding.json").read_text())) == 2
    assert not processes_with(str(tmp_path))
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith("tmp")] == []
