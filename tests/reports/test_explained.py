"""Tests of `report.py --explain`, and of explanations as a report reads them."""

import base64
import importlib.util
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

import report
from foldblend.runs.oof import oof_arrays
from foldblend.runs.run import Run
from reports.run import explained
from reports.run.explain_file import EXPLAIN, packed, read_explain, write_explain
from reports.run.explained import MOST_MISTAKES, MOST_OPAQUE, explanations_of, rows_to_explain
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


def test_a_map_covers_what_the_model_sees_of_an_image(tmp_path):
    run = Run(write_run(tmp_path / "run", [1, 1, 2] * 4))
    heat = packed(np.full((4, 4), 255, np.uint8), 1)
    nothing = packed(np.zeros((4, 4), np.uint8), 0)
    [row, *_] = rows_to_explain(run)
    one = {"image_id": run.oof["image_id"][row], "repeat": 0, "predicted": heat, "true": nothing}
    source = {"name": "run", "oof": run.oof_hash, "models": "0"}
    info = {"format": 1, "oof": run.oof_hash, "of": source, "captum": "0.9.0", "layer": None}
    info |= {"method": "occlusion", "area": [0.25, 0, 0.75, 0.5], "maps": [one]}
    write_explain(run.path, info)
    shown = explanations_of(run)
    predicted, true = shown.maps[row]
    assert (predicted.is_empty, true.is_empty) == (False, True)
    assert shown.data["maps"][str(row)][1] == ""
    assert "occlusion" in shown.method
    data = base64.b64decode(predicted.uri.partition(",")[2])
    alpha = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)[..., 3]
    height, width = alpha.shape
    seen = np.zeros_like(alpha)
    seen[: height // 2, width // 4 : 3 * width // 4] = MOST_OPAQUE
    np.testing.assert_array_equal(alpha, seen)


def test_a_page_has_no_more_maps_than_fit(tmp_path, monkeypatch):
    run = Run(write_run(tmp_path / "run", [1, 2, 0] * 4))
    heat = packed(np.full((4, 4), 255, np.uint8), 1)
    rows = rows_to_explain(run)
    arrays = oof_arrays(run)
    maps = [
        {
            "image_id": run.oof["image_id"][row],
            "repeat": 0,
            "predicted": heat | {"label": int(arrays.proba_NC[row].argmax())},
            "true": heat | {"label": int(arrays.rows.label_N[row])},
        }
        for row in rows
    ]
    source = {"name": "other", "oof": "0", "models": "0"}
    info = {"format": 1, "oof": run.oof_hash, "of": source, "captum": "0.9.0", "layer": "norm"}
    write_explain(run.path, info | {"method": "layer", "area": [0, 0, 1, 1], "maps": maps})
    whole = explanations_of(run)
    assert len(whole.maps) == len(rows) == 12
    assert "of the models of other" in whole.method
    # The script of the page draws a map over a thumbnail only, so others are not counted.
    names = run.oof["image_id"][rows[[1, 4]]].tolist()
    seen = explanations_of(run, {*names, "another"})
    assert list(seen.maps) == rows[[1, 4]].tolist()
    assert seen.note.startswith("Of 2 mistakes, the opened image shows")
    assert "of 12 in explain.json: those with a thumbnail" in seen.note
    assert explanations_of(run, {}).note.startswith("Of 0 mistakes")
    assert explanations_of(run, {}).data is None
    size = sum(len(heat.uri) for heat in whole.maps[rows[0]])
    monkeypatch.setattr(explained, "EMBED_BYTES", 5 * size)
    few = explanations_of(run)
    assert list(few.maps) == rows[:5].tolist()
    assert few.note.startswith("Of 5 mistakes")


def test_explanations_are_read_without_torch():
    code = "import sys, reports.run.explained; assert not {'torch', 'captum'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
