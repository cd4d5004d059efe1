"""Logits without offsets, of which the probabilities of a blend are made."""

import shutil

import numpy as np
import pandas as pd
import pytest

from ensemble.auto import SIMPLE, blend_arrays
from ensemble.blend import blend
from ensemble.methods.mixture import Mixture
from ensemble.methods.registry import METHODS
from ensemble.methods.vote import soft_vote
from ensemble.saved import load_blend
from foldblend.runs.calibrated import PLAIN_OOF, PLAIN_TEST, calibration_of, plain_oof
from foldblend.runs.run import Run
from reports.run.report import write_report
from tests.makers.edits import edit_run
from tests.makers.synthetic_runs import write_synthetic_run
from tests.makers.worlds import World

METHODS_TRIED = {name: METHODS[name] for name in ("soft", "tempered", "weights")}


@pytest.fixture(scope="module")
def evidence():
    return World(3).evidence()


def test_a_mean_of_methods_averages_their_logits_without_offsets(evidence):
    made = blend_arrays(evidence, METHODS_TRIED)
    used = np.flatnonzero(made.weight_S)
    assert isinstance(made.chosen.final, Mixture)
    assert made.chosen.final.offsets_SC.any()
    without = blend_arrays(evidence, METHODS_TRIED, decide=False)
    plain = [without.trials[place].logits_NC for place in used]
    for place, one in zip(used, plain, strict=True):
        np.testing.assert_array_equal(made.trials[place].plain(), one)
    expected = soft_vote(plain, made.weight_S[used]).astype(np.float32)
    np.testing.assert_array_equal(made.chosen.plain(), expected)
    assert not np.array_equal(made.chosen.plain(), made.chosen.logits_NC)


def test_without_offsets_the_logits_are_plain(evidence):
    made = blend_arrays(evidence, METHODS_TRIED, decide=False)
    assert made.chosen.without_offsets_NC is None
    assert made.chosen.plain() is made.chosen.logits_NC
    simple = blend_arrays(evidence, {"soft": METHODS["soft"]}, prefer=SIMPLE)
    assert (simple.chosen.without_offsets_NC is not None) == simple.chosen.offsets_C.any()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, strength, seed in (("a", 1.1, 0), ("b", 1.0, 1)):
        write_synthetic_run(folder / name, num_people=30, num_test=12, strength=strength, seed=seed)
    return folder


@pytest.fixture(scope="module")
def auto(runs):
    """Return a blend by `auto`; read-only."""
    settings = {"output": runs / "blends", "name": "auto", "page": False, "say": lambda _: None}
    return blend([runs / "a", runs / "b"], method="auto", **settings)


@pytest.fixture
def make(runs, tmp_path):
    copies = shutil.copytree(runs, tmp_path / "outputs")

    def make_(**settings):
        made = [copies / "a", copies / "b"]
        shared = {"name": "blended", "page": False, "say": lambda _: None}
        return blend(made, **shared | settings)

    return make_


@pytest.mark.slow
@pytest.mark.parametrize("method", ["auto", "tempered"])
def test_a_blend_with_offsets_keeps_its_logits_without_them(make, auto, method):
    run = auto if method == "auto" else make(method=method)
    loaded = load_blend(run.path)
    assert loaded.parameters.has_offsets
    plain = loaded.parameters.plain()
    assert not plain.has_offsets
    assert plain.fitted.shares == loaded.shares
    members = [Run(one.path) for one in loaded.members]
    folds = [[one.logits(one.test_fold(fold)) for one in members] for fold in range(5)]
    expected = plain.table(run.test["image_id"], folds)
    written = pd.read_parquet(run.path / PLAIN_TEST)
    pd.testing.assert_frame_equal(written, expected, check_exact=True)
    assert not written.equals(run.test)
    table = pd.read_parquet(run.path / PLAIN_OOF)
    columns = [name for name in run.oof if not name.startswith("logit_")]
    pd.testing.assert_frame_equal(table[columns], run.oof[columns])
    assert list(table) == list(run.oof)
    np.testing.assert_array_equal(plain_oof(run), run.logits(table))


@pytest.mark.slow
def test_predictions_have_the_class_of_the_decision_and_probabilities_without_offsets(auto):
    run = auto
    proba = calibration_of(run).proba(plain_oof(run))
    decided = run.logits(run.oof).argmax(axis=1)
    assert (decided != proba.argmax(axis=1)).any()
    before = (run.path / "predictions.csv").read_bytes()
    oof = pd.read_csv(run.path / "predictions.csv").query("part == 'oof'")
    assert oof["predicted"].tolist() == [run.classes[one] for one in decided]
    np.testing.assert_allclose(oof["confidence"], proba[np.arange(len(oof)), decided])
    np.testing.assert_allclose(oof[[f"proba_{place}" for place in range(18)]], proba)
    report = run.report["calibration"]
    assert report["without_offsets"]
    assert report["log_loss"] == pytest.approx(calibration_of(run).log_loss)
    assert "without offsets per class" in " ".join((run.path / "report.txt").read_text().split())
    # Drawn again, the report is the same.
    write_report(run.path, page=False)
    assert (run.path / "predictions.csv").read_bytes() == before
    assert run.report["calibration"] == report


def test_a_blend_made_again_without_offsets_leaves_no_files_behind(make):
    folder = make(method="tempered").path
    assert (folder / PLAIN_OOF).is_file()
    assert (folder / PLAIN_TEST).is_file()
    run = make(method="soft", overwrite=True)
    assert run.path == folder
    assert not (folder / PLAIN_OOF).exists()
    assert not (folder / PLAIN_TEST).exists()
    assert not run.report["calibration"]["without_offsets"]
    assert not load_blend(folder).parameters.has_offsets


def test_an_older_blend_has_offsets_in_its_probabilities(make):
    run = make(method="tempered")
    (run.path / PLAIN_OOF).unlink()
    (run.path / PLAIN_TEST).unlink()
    kept = {name: one for name, one in run.hashes.items() if "plain" not in name}
    edit_run(run.path, files=kept)
    run = Run(run.path)
    np.testing.assert_array_equal(plain_oof(run), run.logits(run.oof))
    write_report(run.path, page=False)
    assert not run.report["calibration"]["without_offsets"]
