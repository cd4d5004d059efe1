"""Tests of scores and predictions by group in reports and on leaderboards."""

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics

from foldblend.runs.folder import write_table
from foldblend.runs.run import Run
from foldblend.scores.metrics import softmax
from reports.board.leaderboard import leaderboard
from reports.board.page import board_page
from reports.board.text import board_lines
from reports.run.report import write_report
from reports.run.screen import screen_lines
from tests.makers.synthetic_runs import write_synthetic_run


@pytest.fixture
def mixed(tmp_path):
    """Return a run whose people have images of three mask states."""
    return Run(write_synthetic_run(tmp_path / "mixed", num_people=40, num_test=30, strength=0.5))


@pytest.fixture
def single(tmp_path):
    """Return a run whose people have images of one class each."""
    folder = tmp_path / "single"
    return Run(
        write_synthetic_run(folder, num_people=40, num_test=30, strength=0.5, one_class=True)
    )


def test_attributes_are_scored_by_person_beside_by_image(mixed):
    text = " ".join(write_report(mixed, page=False).split())
    scores = {one["attribute"]: one for one in mixed.report["by_group"]["scores"]}
    assert scores[None]["by_group"] is None
    assert scores[None]["mixed"] is not None
    assert scores["mask"]["by_group"] is None
    attribute = next(one for one in mixed.attributes if one.name == "age")
    proba_NC = softmax(mixed.logits(mixed.oof))
    values_NC = proba_NC @ np.eye(3)[np.asarray(attribute.of_class)]
    table = pd.DataFrame(np.log(values_NC)).assign(
        group=mixed.oof["group"].to_numpy(),
        truth=np.asarray(attribute.of_class)[mixed.oof["label"]],
    )
    means = table.groupby("group").mean()
    expected = sklearn.metrics.f1_score(
        means["truth"].astype(int), means[[0, 1, 2]].to_numpy().argmax(axis=1), average="macro"
    )
    by_group = scores["age"]["by_group"]
    assert by_group["value"] == pytest.approx(expected, abs=1e-12)
    assert by_group["low"] < expected < by_group["high"]
    shown = f"age, macro F1 {scores['age']['by_image']['value']:.4f} ["
    assert shown in text
    assert f"{expected:.4f} [{by_group['low']:.4f}, {by_group['high']:.4f}]" in text
    assert "There is no score by group where images of one group differ" in text
    assert f"by group {expected:.4f}" in " ".join(" ".join(screen_lines(Run(mixed.path))).split())


def test_predictions_by_group_stand_beside_those_by_image(single):
    groups = [f"t{index // 3}" for index in range(30)]
    table = pd.DataFrame({"image_id": single.test["image_id"], "group": groups})
    write_table(single.path / "test_groups.csv", table.iloc[::-1])
    write_report(single, page=False)
    found = pd.read_csv(single.path / "predictions_by_group.csv", dtype={"group": str})
    images = pd.read_csv(single.path / "predictions.csv")
    oof = found[found["part"] == "oof"]
    assert len(oof) == 40
    assert (oof["num_images"] == 7).all()
    assert len(found[found["part"] == "test"]) == 10
    proba = [f"proba_{index}" for index in range(18)]
    for part in ("oof", "test"):
        of_image = images[images["part"] == part].reset_index(drop=True)
        if part == "test":
            names = dict(zip(single.test["image_id"], groups, strict=True))
            of_image["group"] = of_image["image_id"].map(names)
        logs = np.log(of_image[proba]).assign(group=of_image["group"]).groupby("group").mean()
        ours = found[found["part"] == part].set_index("group").loc[logs.index]
        np.testing.assert_allclose(ours[proba], softmax(logs.to_numpy()), rtol=1e-6)
    assert (oof["true"] == oof["group"].map(images.set_index("group")["true"].to_dict())).all()
    assert {"predicted_age", "confidence_age", "true_age"} <= {*found}
    headline = sklearn.metrics.f1_score(oof["true"], oof["predicted"], average="macro")
    [of_class, *_] = single.report["by_group"]["scores"]
    labels = sorted(set(oof["true"]))
    headline = sklearn.metrics.f1_score(
        oof["true"], oof["predicted"], average="macro", labels=labels
    )
    assert of_class["by_group"]["value"] == pytest.approx(headline, abs=1e-12)


def test_groups_of_one_image_have_no_scores_by_group(single):
    oof = single.oof.assign(group=single.oof["image_id"])
    (single.path / "predictions_by_group.csv").write_text("of a former report")
    write_table(single.path / "oof.parquet", oof)
    run = Run(single.path)
    text = write_report(run, page=False)
    assert run.report["by_group"] is None
    assert "by image" not in text
    assert not (single.path / "predictions_by_group.csv").exists()


def test_a_board_shows_both_and_ranks_by_the_one_that_is_asked_for(tmp_path):
    runs = [
        write_synthetic_run(
            tmp_path / name, num_people=40, strength=strength, seed=seed, one_class=True
        )
        for seed, (name, strength) in enumerate({"a": 0.5, "b": 0.4}.items())
    ]
    by_image = leaderboard(runs)
    by_group = leaderboard(runs, score_by="group", group_pool="mean")
    [images] = by_image["boards"]
    [groups] = by_group["boards"]
    assert by_group["title"] == "macro F1 by group"
    for row in images["rows"]:
        other = next(one for one in groups["rows"] if one["name"] == row["name"])
        [of_class, *_] = row["by_group"]
        assert of_class["by_group"] == other["headline"]
        assert other["by_group"][0]["by_image"] == row["headline"]
    wide = {"width": 400}
    assert "class by group" in "\n".join(board_lines(by_image, images, **wide))
    assert "class by image" in "\n".join(board_lines(by_group, groups, **wide))
    assert "class by image" in board_page(by_group)
    assert groups["rows"][1]["difference"]["low"] is not None


def test_test_images_are_scored_by_group_too(single):
    predicted_N = single.logits(single.test).argmax(axis=1)
    groups = np.arange(30) // 3
    label_N = predicted_N[3 * groups]
    table = pd.DataFrame({"image_id": single.test["image_id"], "label": label_N, "group": groups})
    write_table(single.path / "test_labels.csv", table)
    text = " ".join(write_report(single, page=False).split())
    found = single.report["test_score"]
    [of_class, *_] = found["by_group"]["scores"]
    assert of_class["by_image"] == found["score"]
    assert of_class["by_group"]["value"] is not None
    assert "labelled test images" in text
