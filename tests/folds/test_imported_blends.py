"""Runs imported from other libraries beside other runs: blended, compared, and without models."""

import re

import numpy as np
import pandas as pd
import pytest

import foldblend as fb
import import_run as script
from ensemble.align import align
from foldblend.scores.metrics import softmax
from folds.config import DataConfig
from folds.data.demo import make_demo
from folds.data.source import load_manifest
from tests.makers.constants import ROOT, TINY
from tests.makers.imports import imported, quiet, write_tables
from tests.makers.synthetic_runs import write_synthetic_run


def test_it_blends_with_a_run_on_the_same_data(tmp_path):
    trained = fb.load(write_synthetic_run(tmp_path / "outputs/a", num_people=24, num_test=12))
    oof = trained.oof[["image_id"]].join(
        pd.DataFrame(trained.logits(trained.oof), columns=list(trained.classes))
    )
    tests = [
        trained.test_fold(fold)[["image_id"]].join(
            pd.DataFrame(trained.logits(trained.test_fold(fold)), columns=list(trained.classes))
        )
        for fold in range(5)
    ]
    same = fb.import_run(
        oof, trained, test=tests, kind="logits", name="b", output=tmp_path / "outputs", say=quiet
    )
    pd.testing.assert_frame_equal(same.oof, trained.oof.astype(same.oof.dtypes.to_dict()))
    assert same.ids_hash == trained.ids_hash
    aligned = align([trained, same])
    assert aligned.same_folds
    assert aligned.test_folds == [0, 1, 2, 3, 4]
    voted = fb.blend([trained, same], method="soft", name="ab", page=False, say=quiet)
    for mine, theirs in ((voted.oof, trained.oof), (voted.test_fold(3), trained.test_fold(3))):
        # The mean of two equal predictions is the same prediction.
        proba_NC = softmax(trained.logits(theirs))
        np.testing.assert_allclose(softmax(voted.logits(mine)), proba_NC, atol=1e-6)


def test_methods_are_fitted_on_it_and_scored_by_nested_cross_validation(tables):
    first = imported(tables)
    second = imported(write_tables(tables.folder, seed=1), name="second")
    both = fb.blend([first, second], name="both", page=False, say=quiet)
    assert both.info["imported_runs"] == ["other", "second"]
    assert "imported_means" not in both.info
    assert not both.info["test_is_mean"]
    text = (both.path / "report.txt").read_text(encoding="utf-8")
    assert "nested cross-validation" in text
    assert "stack" in text


def test_a_mean_only_import_is_voted_on_and_it_is_said(tables):
    whole = imported(tables, name="whole")
    other = write_tables(tables.folder, seed=1)
    mean = pd.concat(tables.tests).groupby("image_id", as_index=False).mean()
    single = imported(other, name="mean", test=[mean])
    assert single.info["test_is_mean"]
    assert single.info["imported_means"] == ["mean"]
    said = "test predictions are the mean over folds"
    assert any(said in note for note in single.report["notes"])
    assert said in (single.path / "report.txt").read_text(encoding="utf-8").replace("\n  ", " ")
    # A temperature is fitted on single models too.
    calibration = single.report["calibration"]
    assert not calibration["applied"]
    lines = []
    blended = fb.blend([whole, single], name="voted", page=False, say=lines.append)
    assert blended.info["about"].startswith("soft blend")
    assert [one["weight"] for one in blended.info["members"]] == [0.5, 0.5]
    assert "imported as their mean over folds" in " ".join(" ".join(lines).split())
    assert any("mean were imported as their mean" in note for note in blended.report["notes"])
    assert blended.info["imported_means"] == ["mean"]
    for settings in ({"method": "weights"}, {"budget": "1x"}, {"drop_harmful": True}):
        with pytest.raises(fb.UserError, match=r"test predictions of mean were imported"):
            fb.blend([whole, single], name="fitted", page=False, say=quiet, **settings)
    assert not (whole.path.parent / "fitted").exists()
    # What the test set has not is no reason for a run without one.
    tables.tests = []
    without = imported(tables, name="without")
    fb.blend([without, single], method="weights", name="oof", page=False, say=quiet)


def test_runs_beside_it_that_differ_are_named(tables):
    imported(tables)
    tables.oof["fold"] = (tables.oof["fold"] + 1) % 4
    lines = []
    fb.import_run(say=lines.append, **{**tables.write(), "name": "shifted"})
    warned = [line for line in lines if line.startswith("warning:") and "other folds" in line]
    assert len(warned) == 1
    assert "outputs/other has other folds" in warned[0]
    lines.clear()
    fb.import_run(say=lines.append, **{**tables.write(), "name": "single", "group_col": None})
    [warned] = [line for line in lines if "other group names for 24 images" in line]
    assert re.search(r"outputs/other, .*outputs/shifted have other group names", warned)
    lines.clear()
    reordered = {"name": "order", "class_order": "owl,cat,dog"}
    fb.import_run(say=lines.append, **{**tables.write(), **reordered})
    assert any("have the classes in another order" in line for line in lines)


def test_commands_that_need_models_say_that_there_are_none(tables):
    run = imported(tables)
    with pytest.raises(fb.UserError, match="other: was imported and has no models"):
        fb.run_tta(run.path, say=quiet)
    with pytest.raises(fb.UserError, match="other: was imported and has no models"):
        fb.predict(run, [])
    blended = fb.blend([run], name="blended", page=False, say=quiet)
    with pytest.raises(fb.UserError, match=r"no models.*blend the other members of .*blended"):
        fb.export_model(blended, tables.folder / "model.zip")
    for one in (run, blended):
        text = (one.path / "report.txt").read_text(encoding="utf-8")
        assert "predict.py" not in text
        assert "New images cannot be predicted" in text


def _python_blocks(title):
    """Return the code of the recipes of docs/importing.md: what all share, and one by its title."""
    text = (ROOT / "docs/importing.md").read_text(encoding="utf-8")
    shared, *others = text.partition("## Recipes")[2].split("\n### ")
    own = next(one for one in others if one.startswith(title))
    code = "".join(re.findall(r"```python\n(.*?)```", shared + own, flags=re.DOTALL))
    return code, re.findall(r"```\n(python import_run.*?)\n```", own, flags=re.DOTALL)


@pytest.mark.slow
def test_the_recipe_for_scikit_learn_blends_with_a_trained_run(
    tmp_path, monkeypatch, cv_command, command_of
):
    make_demo()
    manifest = load_manifest(DataConfig(data="demo"))
    small = manifest.train[manifest.train["group"].isin(manifest.train["group"].unique()[:24])]
    words = [manifest.classes[one].partition(",")[0] for one in small["label"]]
    table = pd.DataFrame({"image": small["path"], "label": words, "person": small["group"]})
    table.to_csv(tmp_path / "train.csv", index=False)
    pd.DataFrame({"image": manifest.test["path"][:20]}).to_csv(tmp_path / "test.csv", index=False)
    monkeypatch.chdir(tmp_path)
    flags = ["--csv", "train.csv", "--test-csv", "test.csv", "--group-col", "person"]
    done = cv_command(*flags, "--backbone", "test_resnet", "--name", "RUN", *TINY)
    assert done.code == 0, done.err
    code, [command] = _python_blocks("scikit-learn")
    exec(compile(code, "importing.md", "exec"), {})
    files = " ".join(sorted(one.name for one in tmp_path.glob("sk_test_fold_*.csv")))
    argv = command.replace("sk_test_fold_*.csv", files).split()[2:]
    assert command_of(script.main)(*argv, "--no-page").code == 0
    trained = fb.load("outputs/RUN")
    other = fb.load("outputs/sk")
    assert other.ids_hash == trained.ids_hash
    assert align([trained, other]).same_folds
    both = fb.blend([trained, other], name="both", page=False, say=quiet)
    assert both.info["num_test_folds"] == 2
    assert not both.info["test_is_mean"]
    assert "nested cross-validation" in (both.path / "report.txt").read_text(encoding="utf-8")
    # A network after one epoch from random weights is worse than thumbnails.
    assert other.report["headline"]["value"] > trained.report["headline"]["value"]
    # The labels' table gives the same run, but for the folds' file.
    of_table = fb.import_run(
        "sk_oof.csv", "train.csv", group_col="person", name="table", page=False, say=quiet
    )
    pd.testing.assert_frame_equal(of_table.oof, other.oof)
