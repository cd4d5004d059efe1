"""A run, its TTA'd run and a blend write the data set's form of the submission."""

import numpy as np
import pandas as pd
import pytest

from ensemble.blend import blend
from foldblend.runs.calibrated import calibration_of
from foldblend.runs.run import Run
from foldblend.scores.metrics import METRICS, softmax
from pipeline.cv import cross_validate
from pipeline.run_tta import run_tta
from tests.makers.products import IDS, LABELLED, read_products

SMALL = {
    "folds": 2,
    "epochs": 1,
    "img_size": 32,
    "pretrained": "none",
    "workers": 0,
    "threads": 1,
    "backbone": "test_efficientnet",
    "log_pictures": False,
    "page": False,
    "dataset": f"{read_products.__module__}:{read_products.__name__}",
}


@pytest.fixture(scope="module")
def made(tiny_layout, tmp_path_factory):
    """Return a run, the run with TTA and the blend of both, and the lines of the first."""
    lines = []
    output = str(tmp_path_factory.mktemp("products"))
    settings = SMALL | {"data": str(tiny_layout), "output": output, "name": "one"}
    one = cross_validate(settings, say=lines.append)
    how = {"page": False, "say": lambda _: None}
    tta = run_tta(one.path, views="hflip", name="tta", trust_parts=True, **how)
    both = blend([one, tta], method="soft", name="both", page=False, say=lambda _: None)
    return [one, tta, both], lines


def test_probabilities_are_calibrated_and_in_the_order_of_the_form(made):
    for run in made[0]:
        table = pd.read_csv(run.path / "submission.csv", dtype={"sku": str}, keep_default_na=False)
        assert list(table) == ["sku", "jar", "mug"]
        assert table["sku"].tolist() == [text for _, text in IDS]
        folds = [
            run.test_fold(index).set_index("image_id").loc[[name for name, _ in IDS]]
            for index in (0, 1)
        ]
        mean_NC = np.mean([one.to_numpy(np.float64) for one in folds], axis=0)
        proba_NC = calibration_of(run).proba(mean_NC)
        np.testing.assert_allclose(table[["jar", "mug"]], proba_NC[:, [2, 0]], atol=1e-6)
        assert run.submission.ids == IDS
        assert run.info["submission"]["kind"] == "probabilities"


def test_labels_of_test_images_are_scored_by_all_three(made):
    for run in made[0]:
        one = run.report["test_score"]
        logits_NC = run.logits(run.test.set_index("image_id").loc[list(LABELLED)])
        f1 = METRICS["f1_macro"].score(np.array([0, 2, 1]), softmax(logits_NC))
        assert one["score"]["value"] == pytest.approx(f1)
        assert one["num_images"] == 3
        labels = (run.path / "test_labels.csv").read_text()
        assert labels == "image_id,label,class\nt0,0,mug\nt2,2,jar\nt3,1,pan\n"


def test_labels_and_form_do_not_make_another_run(made, tiny_layout, monkeypatch):
    one = made[0][0]
    manifest = read_products(type("Config", (), {"data": tiny_layout}))
    bare = manifest.test.drop(columns="label")
    without = type(manifest)(**vars(manifest) | {"test": bare, "submission": None})
    assert without.labels_hash() == manifest.labels_hash()
    assert one.info["run_key"].keys() >= {"configuration", "data"}


def test_everything_says_products(made):
    runs, lines = made
    log = "\n".join(lines)
    assert "12 images of 6 products, 3 classes, 4 test images" in log
    assert " group" not in log.replace("--group", "")
    for run in runs:
        text = (run.path / "report.txt").read_text()
        assert "12 images of 6 products" in text
        assert "group" not in text
    assert Run(runs[0].path).info["data"]["group_name"] == "product"
