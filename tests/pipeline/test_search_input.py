"""Searches with wrong input: spaces, flags, and studies of something else."""

import sys

import cv2
import numpy as np
import pytest
import torch

from foldblend.errors import UserError
from pipeline.config.run import RunConfig
from pipeline.config.settings import make_config
from pipeline.models.timm_import import timm
from pipeline.search import setup
from pipeline.search.config import make_tune_config
from pipeline.search.samplers import sampler_maker
from pipeline.search.space import Choices, Space, read_space
from tests.makers.constants import ROOT
from tests.makers.searches import SPACE, tuner
from tune import main as tune_main


@pytest.fixture
def tune(tiny_layout, tmp_path):
    return tuner(tiny_layout, tmp_path)


@pytest.fixture
def tune_command(command_of):
    """Return tune.py as a function, called in this process."""
    return command_of(tune_main)


BAD_SPACES = {
    "": "has no setting to search",
    "- lr": "has no setting to search",
    "epoch: [1]": "unknown setting 'epoch'; did you mean epochs",
    "data: [a]": "data: cannot vary",
    "split_seed: [0, 1]": "same folds",
    "seed: [0, 1]": "the best seed is luck",
    "metric: [accuracy]": "compared by one score",
    "threads: [1, 2]": "changes the speed",
    "name: [a]": "belongs to the whole search",
    "epochs: 3": "write a list of values",
    "epochs: []": "has no value",
    "epochs: [[1]]": "a value must be",
    "epochs: [1, 1]": "has 1 twice",
    "epochs: [1]\n--epochs: [2]": "is there twice",
    "lr: {low: 0.1}": "lacks high",
    "lr: {low: 0.1, hihg: 1}": "unknown key 'hihg'; did you mean high",
    "epochs: {low: 4, high: 2}": "low 4 must be below high 2",
    "epochs: {low: 1, high: 2.5}": "whole numbers",
    "epochs: {low: .nan, high: 2}": "must be a number",
    "mixup: {low: 0, high: 1, log: true}": "above 0",
    "mixup: {low: 0.1, high: 1, log: true, step: 0.1}": "both step and log",
    "mixup: {low: 0, high: 1, step: 2}": "step must be",
    "mixup: {low: 0, high: 1, log: 1}": "log must be true or false",
    "cutmix_mode: {low: 0, high: 1}": "is no number",
    "smoothing: [1]": "--smoothing 1.0",
    "smoothing: {low: 0, high: 2}": "--smoothing 2.0",
    "cutmix_mode: [class]": "goes with --cutmix",
    "tta: [hflop]": "did you mean",
    "backbone: [test_resnett]": "timm has no such model",
    "opt: [adamww]": "adamww",
    "a: [": "not valid YAML",
}


@pytest.mark.parametrize("text", BAD_SPACES)
def test_a_bad_space_is_one_line_with_its_file(text, tune_command, tmp_path):
    (tmp_path / "space.yaml").write_text(text)
    found = tune_command("demo", "--space", tmp_path / "space.yaml", "--output", tmp_path / "o")
    found.assert_one_line_error(str(tmp_path / "space.yaml"), BAD_SPACES[text])
    assert not (tmp_path / "o" / "s").exists()


def test_a_value_that_needs_another_value_of_the_space_is_possible(tmp_path):
    (tmp_path / "space.yaml").write_text("cutmix_mode: [any, class]\ncutmix: [0, 1]\n")
    space = read_space(tmp_path / "space.yaml", RunConfig())
    assert space.of["cutmix"].values == (0.0, 1.0)


def test_ranges_become_values_of_the_flag(tmp_path):
    (tmp_path / "space.yaml").write_text(
        "head_l2: {low: 1e-3, high: 1, log: true}\nepochs: {low: 2, high: 8, step: 2}\n"
        "img_size: {low: 96, high: 160, step: 32}\n-b: [8, 16]\nlayer_decay: [auto, 1, 0.75]\n"
    )
    space = read_space(tmp_path / "space.yaml", RunConfig())
    params = {
        "head_l2": 0.125,
        "epochs": 4,
        "img_size": 128,
        "batch_size": 8,
        "layer_decay": "auto",
    }
    settings = space.settings(params)
    assert settings == params | {"head_l2": "0.125", "img_size": "128"}
    assert space.params(settings) == params
    make_config(**settings)
    for bad in ({"epochs": 9}, {"batch_size": 9}, {"epochs": "x"}, {"head_l2": None}):
        with pytest.raises(UserError, match="is not in the space"):
            space.settings(params | bad)


def test_only_text_that_needs_whole_numbers_gets_them(tmp_path):
    (tmp_path / "space.yaml").write_text(
        "head_l2: {low: 1, high: 10}\nimg_size: {low: 32, high: 64, log: true}\n"
    )
    space = read_space(tmp_path / "space.yaml", RunConfig())
    assert space.settings({"head_l2": 2.5, "img_size": 48}) == {"head_l2": "2.5", "img_size": "48"}
    assert not space.of["head_l2"].integer
    assert space.of["img_size"].integer


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--optuna-sampler", "TPESampel"], "did you mean TPESampler"),
        (["--optuna-sampler", "CmaEsSampler"], "pickle"),
        (["--optuna-sampler", "GridSampler"], "head_l2"),
        (["--optuna-options", "multivariat=true"], "did you mean multivariate"),
        (["--optuna-options", "multivariate"], "write names and values"),
        (["--optuna-options", "n_startup_trials=many"], "n_startup_trials"),
        (["--trials", "0"], "--trials 0"),
        (["--time-limit", "soon"], "--time-limit soon"),
        (["--study", "a/b"], "--study a/b"),
        (["--storage", "mysql://x"], "neither a journal nor SQLite"),
        (["--only-folds", "0"], "--only-folds"),
        (["--seeds", "2"], "--seeds"),
        (["--no-resume"], "--no-resume"),
        (["--nested", "--finetune", "full"], "--nested"),
        (["--trails", "3"], "did you mean --trials"),
    ],
)
def test_bad_flags_are_one_line(flags, words, tune_command, tmp_path, tiny_layout):
    (tmp_path / "space.yaml").write_text(SPACE)
    given = ["--space", tmp_path / "space.yaml", "--finetune", "head", "--backbone", "test_resnet"]
    given += ["--pretrained", "none", "--img-size", "32", "--folds", "2", "--threads", "1"]
    output = tmp_path / "o"
    found = tune_command(tiny_layout, *given, "--output", output, *flags)
    found.assert_one_line_error(words)
    assert not output.exists() or not any(output.glob("study_*/held_out"))


def test_a_space_is_needed(tune_command):
    tune_command("demo").assert_one_line_error("--space", "recipes/space.yaml")


def test_optuna_is_needed(tune_command, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    tune_command("demo", "--space", "x").assert_one_line_error("foldblend[search]")


def test_a_study_of_something_else_is_refused(tune, tmp_path):
    tune(trials=2)
    before = (tmp_path / "outputs" / "s" / "journal.log").read_bytes()
    for change, words in (
        ({"folds": 2}, "different folds"),
        ({"split_seed": 1}, "different folds"),
        ({"metric": "accuracy"}, "different metric"),
        ({"feature_views": 1}, r"different fixed settings \(feature_views 0 -> 1\)"),
        ({"drop_ages": "57-59"}, "different"),
    ):
        with pytest.raises(UserError, match=f"journal.log: the study s has {words}") as error:
            tune(trials=3, **change)
        assert "another --study" in str(error.value)
    (tmp_path / "space.yaml").write_text(SPACE.replace("10", "20"))
    with pytest.raises(UserError, match=r"different space \(head_l2"):
        tune(trials=3)
    assert (tmp_path / "outputs" / "s" / "journal.log").read_bytes() == before


def test_a_study_of_another_data_set_is_refused(tune, tmp_path, layout_copy):
    tune(trials=2)
    image = next(layout_copy.rglob("*.jpg"))
    image.unlink()
    cv2.imwrite(str(image), np.full((512, 384, 3), 9, np.uint8))
    with pytest.raises(UserError, match="the study s has different data set"):
        tune(trials=3, data=str(layout_copy))


@pytest.mark.parametrize("varies", [False, True])
def test_a_study_of_other_weights_is_refused(tune, tmp_path, varies):
    space = tmp_path / "weights.yaml"
    file = tmp_path / "w.pth"
    given = {"weights": str(file), "trials": 2}
    text = SPACE
    if varies:
        text += f"weights: ['{file}']\n"
    space.write_text(text)
    given |= {"space": space, "pretrained": "auto"}
    with pytest.raises(UserError, match=r"w.pth: .*check --weights"):
        tune(**given)
    for seed in range(2):
        torch.manual_seed(seed)
        torch.save(timm.create_model("test_efficientnet").state_dict(), file)
        if seed:
            with pytest.raises(UserError, match="has different weights; pass another --study"):
                tune(**given)
        else:
            tune(**given)


def test_an_edited_part_of_the_users_own_is_noticed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "edited_part.py"
    file.write_text("def loss(*_):\n    return 0\n")
    fixed = setup._contents(make_config(loss="edited_part:loss"), Space({}))
    space = Space({"loss": Choices(("ce", "edited_part:loss"))})
    varying = setup._contents(RunConfig(), space)
    assert fixed == varying == setup._contents(make_config(loss="f1"), space)
    file.write_text("def loss(*_):\n    return 1\n")
    assert setup._contents(RunConfig(), space) != fixed
    assert setup._contents(RunConfig(), Space({})) == {}


def test_settings_without_effect_are_said():
    space = Space({"lr": Choices((0.1, 0.2)), "head_l2": Choices(("1", "2"))})
    [line] = setup._without_effect(space, make_config(finetune="head"))
    assert line.startswith("--lr: has no effect")
    both = Space({**space.of, "finetune": Choices(("head", "full"))})
    assert setup._without_effect(both, RunConfig()) == []


def test_settings_of_the_search_may_be_in_the_mapping():
    search, run = make_tune_config({"trials": 3, "space": "a", "epochs": 2}, {"trials": 4})
    assert (search.trials, search.space, run.train.epochs) == (4, "a", 2)


@pytest.mark.filterwarnings("error")
def test_an_option_that_optuna_will_move_is_no_warning():
    space = Space({"lr": Choices((0.1, 0.2))})
    with pytest.raises(UserError, match="TypeError: 'int' object"):
        sampler_maker("TPESampler", {"gamma": "3", "n_startup_trials": "0"}, space)


def test_the_result_replaces_no_other_run(tune, tmp_path):
    (tmp_path / "outputs" / "s_best").mkdir(parents=True)
    (tmp_path / "outputs" / "s_best" / "mine.txt").write_text("x")
    with pytest.raises(UserError, match="is not the result of the study s"):
        tune()
    assert not (tmp_path / "outputs" / "s").exists()
    with pytest.raises(UserError, match="is the name of the run as well"):
        tune(name="s")


def test_the_recipe_of_a_search_is_a_space_of_the_quick_recipe():
    config = make_config(config=ROOT / "recipes" / "quick.yaml")
    space = read_space(ROOT / "recipes" / "space.yaml", config)
    assert {*space.of} >= {"head_l2", "img_size"}
