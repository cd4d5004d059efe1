"""Tests of `report.py --explain`, and of explanations as a report reads them."""

import importlib.util
import shutil
import subprocess
import sys

import numpy as np
import pytest

import report
from foldblend.runs.run import Run
from reports.run.explained import (
    EXPLAIN,
    MOST_MISTAKES,
    explanations_of,
    read_explain,
    rows_to_explain,
)
from tests.makers.constants import ROOT
from tests.makers.small_runs import write_run


@pytest.fixture
def beta(tiny_runs, tmp_path):
    """Return a copy of a fine-tuned run."""
    return Run(shutil.copytree(tiny_runs / "beta", tmp_path / "beta"))


@pytest.mark.skipif(importlib.util.find_spec("captum") is None, reason="captum is not installed")
def test_the_command_writes_maps_and_report(beta, command_of):
    done = command_of(report.main)(beta.path, "--explain", "--no-page")
    assert done.code == 0, done.err
    assert EXPLAIN in done.out
    assert "report written again" in done.out
    assert len(read_explain(beta.path)["maps"]) == len(rows_to_explain(beta)) > 0


@pytest.mark.parametrize("flags", [("--parts", "shapes:Net"), ("--trust-parts",)])
def test_flags_of_the_models_need_explain(beta, command_of, flags):
    command_of(report.main)(beta.path, *flags).assert_one_line_error(flags[0], "--explain")


def test_the_package_is_named_if_it_is_missing(beta, monkeypatch, command_of):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "captum" else found(name)
    )
    result = command_of(report.main)(beta.path, "--explain")
    result.assert_one_line_error("--explain", "captum", "foldblend[explain]")
    assert not (beta.path / EXPLAIN).exists()


@pytest.mark.skipif(importlib.util.find_spec("captum") is None, reason="captum is not installed")
def test_the_report_itself_needs_no_weights(beta, command_of):
    (beta.path / "fold_1" / "best.safetensors").unlink()
    result = command_of(report.main)(beta.path, "--explain")
    result.assert_one_line_error("fold_1/best.safetensors", "weights are missing", "run the same")
    assert not (beta.path / EXPLAIN).exists()
    # The report itself needs no weights.
    assert command_of(report.main)(beta.path, "--no-page").code == 0


def test_the_first_hundred_mistakes_and_those_of_the_worst_classes(tmp_path):
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 400).tolist()
    predicted = [(one + 1) % 3 for one in label]
    folder = write_run(
        tmp_path / "many",
        predicted,
        label=label,
        label_raw=label,
        group=[f"g{one}" for one in range(400)],
    )
    run = Run(folder)
    rows = rows_to_explain(run)
    # All are equally confident, so the order is that of the rows.
    assert rows[:MOST_MISTAKES].tolist() == [*range(MOST_MISTAKES)]
    for_class = [label.index(one) for one in range(3)]
    assert {*for_class} <= {*rows.tolist()}
    assert explanations_of(run) is None


def test_explanations_are_read_without_torch():
    code = "import sys, reports.run.explained; assert not {'torch', 'captum'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
