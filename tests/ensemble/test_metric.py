"""Blends for the mean cost of errors: what --costs takes, writes, repeats and refuses."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml

from ensemble.blend import blend
from ensemble.methods.registry import METHODS
from ensemble.metric import costs_section
from foldblend.errors import UserError
from foldblend.runs.run import Run
from foldblend.scores.error_costs import ErrorCosts
from folds.data.labels import CLASSES
from reports.board.leaderboard import leaderboard
from reports.run.report import write_report
from tests.makers.synthetic_runs import write_synthetic_run

COST_CC = 1 - np.eye(18) + 4 * np.eye(18, k=1)
FILES = ("oof.parquet", "test.parquet", "blend.yaml")


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Write outputs/ with two runs of 24 groups and 20 test images, and costs.csv."""
    for seed, name in enumerate("ab"):
        write_synthetic_run(tmp_path / "outputs" / name, num_people=24, num_test=20, seed=seed)
    costs = pd.DataFrame(COST_CC, index=CLASSES, columns=CLASSES)
    costs.to_csv(tmp_path / "costs.csv")
    # Few methods are enough here, and fast.
    few = {name: METHODS[name] for name in ("soft", "tempered")}
    monkeypatch.setattr("ensemble.candidates.METHODS", few)
    return tmp_path / "outputs"


@pytest.fixture
def command(blend_command, drawn):
    return lambda *argv: blend_command(drawn / "a", drawn / "b", *argv, "--no-page")


@pytest.fixture
def made(drawn):
    return blend(
        [drawn / "a", drawn / "b"],
        costs=drawn.parent / "costs.csv",
        name="made",
        say=lambda _: None,
        page=False,
    )


def test_the_score_is_the_mean_cost(made):
    label_N = made.oof["label"].to_numpy()
    guess_N = made.logits(made.oof).argmax(axis=1)
    report = made.report
    assert report["headline"]["value"] == pytest.approx(COST_CC[label_N, guess_N].mean())
    assert report["metric"] == "mean_cost"
    assert report["scores"]["mean_cost"] == report["headline"]["value"]
    assert made.info["costs"] == COST_CC.tolist()
    assert "OOF mean cost" in (made.path / "report.txt").read_text()
    assert "OOF mean cost" in repr(made)


def test_blend_yaml_repeats_it_without_the_file(made, command, drawn):
    before = [(made.path / name).read_bytes() for name in FILES]
    (drawn.parent / "costs.csv").unlink()
    done = command("--config", made.path / "blend.yaml", "--name", "again")
    assert done.code == 0, done.err
    assert [(drawn / "again" / name).read_bytes() for name in FILES] == before


def test_the_order_of_the_names_does_not_matter(made, command, drawn):
    costs = pd.DataFrame(COST_CC, index=CLASSES, columns=CLASSES)
    costs.iloc[::-1].sample(frac=1, axis=1, random_state=0).to_csv(drawn / "other.tsv", sep="\t")
    done = command("--costs", drawn / "other.tsv", "--name", "other")
    assert done.code == 0, done.err
    assert Run(drawn / "other").info["run_key"] == made.info["run_key"]


def test_other_costs_are_another_blend(made, command, drawn):
    pd.DataFrame(2 * COST_CC, index=CLASSES, columns=CLASSES).to_csv(drawn / "other.csv")
    command("--costs", drawn / "other.csv", "--name", "made").assert_one_line_error("--overwrite")
    yaml_file = made.path / "blend.yaml"
    done = command("--config", yaml_file, "--costs", drawn / "other.csv", "--name", "other")
    assert done.code == 0, done.err
    assert Run(drawn / "other").info["costs"] == (2 * COST_CC).tolist()
    done = command("--config", yaml_file, "--metric", "accuracy", "--name", "plain")
    assert done.code == 0, done.err
    assert Run(drawn / "plain").info["metric"] == "accuracy"
    assert "costs" not in Run(drawn / "plain").info


def test_costs_replace_the_metric_of_an_earlier_blend(command, drawn):
    assert command("--method", "tempered", "--name", "plain").code == 0
    yaml_file = drawn / "plain" / "blend.yaml"
    assert "costs" not in yaml.safe_load(yaml_file.read_text())
    done = command("--config", yaml_file, "--costs", drawn.parent / "costs.csv", "--name", "new")
    assert done.code == 0, done.err
    assert Run(drawn / "new").report["metric"] == "mean_cost"


def test_the_report_and_the_leaderboard_need_only_the_folder(made, tmp_path):
    moved = Run(tmp_path / "moved")
    shutil.copytree(made.path, moved.path)
    before = (moved.path / "report.json").read_bytes()
    write_report(moved.path, page=True)
    named = json.loads(before) | {"name": "moved"}
    assert json.loads((moved.path / "report.json").read_text()) == named
    assert "mean cost" in (moved.path / "report.html").read_text()
    every = leaderboard([moved])
    assert (every["title"], every["greater_is_better"]) == ("mean cost", False)
    assert every["boards"][0]["rows"][0]["headline"] == made.report["headline"]


def test_the_leaderboard_ranks_all_runs_by_the_costs_of_one(made, drawn):
    runs = [drawn / "a", drawn / "b", made]
    assert leaderboard(runs)["metric"] == "f1_macro"
    every = leaderboard(runs, metric="mean_cost")
    assert every["boards"][0]["best"] == "made"
    with pytest.raises(UserError, match="no run has costs of errors"):
        leaderboard(runs[:2], metric="mean_cost")


def test_a_leaderboard_of_other_classes_by_costs(made, drawn, tmp_path):
    names = [f"class {number}" for number in range(18)]
    write_synthetic_run(tmp_path / "odd", num_people=24, names=names)
    with pytest.raises(UserError, match="odd has other classes than the costs of errors"):
        leaderboard([made, tmp_path / "odd"], metric="mean_cost")


@pytest.mark.slow
def test_a_blend_of_blends_takes_their_costs(made, command, drawn):
    done = command(made.path, "--include-blends", "--method", "soft", "--name", "mixed")
    assert done.code == 0, done.err
    assert Run(drawn / "mixed").info["metric"] == "f1_macro"
    assert "different metrics (f1_macro, mean_cost)" in " ".join(Run(drawn / "mixed").info["notes"])
    alone = blend([made], name="alone", say=lambda _: None, page=False)
    assert alone.info["costs"] == made.info["costs"]
    done = command(made.path, "--include-blends", "--metric", "mean_cost", "--name", "costs")
    assert done.code == 0, done.err
    assert Run(drawn / "costs").info["costs"] == made.info["costs"]


def test_bad_input(command, drawn):
    costs = drawn.parent / "costs.csv"
    command("--costs", costs, "--metric", "accuracy").assert_one_line_error("--costs", "accuracy")
    command("--metric", "mean_cost").assert_one_line_error("--metric mean_cost", "--costs")
    command("--costs", "gone.csv").assert_one_line_error("gone.csv", "No such file")
    costs.write_text("true,cat,dog\ncat,0,1\ndog,1,0\n")
    command("--costs", costs).assert_one_line_error("no class 'cat', 'dog'", "worn, male, <30")


def test_a_blend_yaml_whose_costs_are_damaged(made, command):
    file = made.path / "blend.yaml"
    settings = yaml.safe_load(file.read_text())
    settings["costs"] = {"classes": ["a", "b"], "rows": [[0, 1], [1, 0], [1, 1]]}
    file.write_text(yaml.safe_dump(settings))
    command("--config", file, "--name", "x").assert_one_line_error("blend.yaml: costs", "square")
    del settings["costs"]
    file.write_text(yaml.safe_dump(settings))
    command("--config", file, "--name", "x").assert_one_line_error("blend.yaml: costs", "--costs")


def test_the_section_on_costs_says_what_a_blend_must_beat():
    costs = ErrorCosts(("a", "b"), ((0.0, 1.0), (5.0, 0.0)))
    section = costs_section(costs, np.array([0, 0, 0, 1]))
    table, text = section["blocks"]
    assert table["rows"] == [["a", "0", "1"], ["b", "5", "0"]]
    assert "Always predicting b, the cheapest single class, would cost 0.75" in text["text"]
