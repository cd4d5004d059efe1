"""Files of plans: what is read, and what is refused in one line."""

import pytest

from foldblend.errors import UserError
from pipeline.plan.choices import Choices, sweep
from pipeline.plan.plan_file import changed_settings, read_plan, write_plan
from tests.makers.plans import FROZEN, OTHER, TUNED, small_plan


def test_a_plan_is_read_as_it_was_written(tmp_path):
    plan = small_plan(tmp_path / "data", tmp_path, time_limit="45m", about={"left_out": {"a": "b"}})
    write_plan(plan)
    assert read_plan(plan.file) == plan
    assert plan.file == tmp_path / "p-runs" / "plan.yaml"
    assert plan.folder == tmp_path / "p"


def test_a_grid_is_every_combination(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "settings: {folds: 3}\ngrid: {backbone: [a, b], img_size: [32, 64x48], seed: [0, 1]}"
    )
    plan = read_plan(file)
    assert len(plan.runs) == 8
    assert plan.name == "mine"
    assert plan.runs[1].name == "a-32-seed1"
    assert plan.config_of(plan.runs[3]).model.img_size == "64x48"
    assert plan.config_of(plan.runs[3]).split.folds == 3
    assert plan.config_of(plan.runs[3]).output.output == "outputs/mine-runs"


BAD = {
    "": "expected `name: value` lines",
    "[1]": "expected `name: value` lines",
    "run: []": "unknown key run; did you mean runs",
    "runs: []": "no runs",
    "runs: 3": "expected a list",
    "runs: [3]": "run 1: expected",
    "runs: [{backbone: a}]": "run 1: has no name",
    "runs: [{name: a, bakbone: b}]": "run a: unknown setting bakbone; did you mean backbone",
    "runs: [{name: a, epochs: many}]": "run a: --epochs",
    "runs: [{name: a, seconds: -1}]": "run a: seconds",
    "runs: [{name: a, folds: 3}]": "folds is the same for all runs of a plan; write it under",
    "runs: [{name: a, metric: accuracy}]": "metric is the same",
    "runs: [{name: a, only_folds: 0}]": "only_folds is the same for all runs of a plan; leave",
    "runs: [{name: ../a}]": "run ../a: --name",
    "runs: [{name: a}, {name: a, seed: 1}]": "two runs have the name a",
    "runs: [{name: a}, {name: a_tta, seed: 1}]": "run a_tta has the name of run a with views",
    "runs: [{name: a}, {name: b}]": "runs a and b are equal",
    "runs: [{name: plan.log}]": "run plan.log has the name of a file of plans",
    "runs: [{name: a, lr: 0.1}, {name: b, lr: 1e-1}]": "runs a and b are equal",
    "settings: {foolds: 3}\nruns: [{name: a}]": "unknown setting foolds; did you mean folds",
    "settings: {folds: 1}\nruns: [{name: a}]": "--folds",
    "settings: {name: x}\nruns: [{name: a}]": "settings: name is the same",
    "settings: 3\nruns: [{name: a}]": "settings: expected",
    "grid: {seed: 1}": "grid: seed needs a list of values",
    "grid: {seed: []}": "grid: seed needs a list of values",
    "grid: {seed: [1, 1]}": "two runs have the name",
    "name: a/b\nruns: [{name: a}]": "--name a/b",
    "name: 3\nruns: [{name: a}]": "name: 3 is not a text",
    "time_limit: soon\nruns: [{name: a}]": "--time-limit soon",
    "stop_losers: maybe\nruns: [{name: a}]": "stop_losers: write true or false",
    "views: all\nruns: [{name: a}]": "views: all; write auto or none",
    "output: 3\nruns: [{name: a}]": "output: write a folder",
    "about: 3\nruns: [{name: a}]": "about: expected",
    "runs: [": "not valid YAML",
    "runs: [{name: a}, {name: A, seed: 1}]": "two runs have the name A",
    "runs: [{name: a}]\nruns: []": "runs is written twice, again in line 2",
}


@pytest.mark.parametrize(("text", "words"), BAD.items(), ids=BAD)
def test_a_wrong_plan_is_one_line_that_names_the_file(tmp_path, text, words):
    file = tmp_path / "plan.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        read_plan(file)
    assert str(caught.value).startswith(str(file))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_grid_without_end_is_refused(tmp_path):
    file = tmp_path / "plan.yaml"
    values = ", ".join(map(str, range(1001)))
    file.write_text(f"grid: {{seed: [{values}], epochs: [{values.replace('0,', '', 1)}]}}")
    with pytest.raises(UserError, match="write at most 1000"):
        read_plan(file)


def test_settings_that_differ_are_named(tmp_path):
    plan = small_plan(tmp_path, tmp_path)
    assert changed_settings(plan, plan.settings) == []
    assert changed_settings(plan, {**plan.settings, "folds": 4, "epochs": 2}) == ["folds", "epochs"]


def test_choices_are_kept_and_damaged_ones_refused(tmp_path):
    plan = small_plan(tmp_path, tmp_path)
    plan.runs_folder.mkdir()
    choices = Choices()
    choices.stopped["tuned"] = {"folds": 1, "lead": 0.2, "error": 0.05}
    choices.write(plan)
    assert Choices.read(plan) == choices
    (plan.runs_folder / "choices.json").write_text('{"stopped": {"tuned": {"folds": -1}}}')
    with pytest.raises(UserError, match=r"choices\.json"):
        Choices.read(plan)


def test_only_folders_of_stopped_runs_are_swept(tmp_path):
    plan = small_plan(tmp_path, tmp_path, FROZEN, TUNED, OTHER)
    for name in ("frozen", "tuned", "other"):
        (plan.runs_folder / name).mkdir(parents=True)
    outside = tmp_path / "outside"
    outside.mkdir()
    choices = Choices()
    for name in ("tuned", "../outside"):
        choices.stopped[name] = {"folds": 1, "lead": 0.2, "error": 0.05}
    choices.write(plan)
    assert sweep(plan) == ["tuned"]
    assert outside.is_dir()
    assert not (plan.runs_folder / "tuned").exists()
    assert (plan.runs_folder / "other").is_dir()
