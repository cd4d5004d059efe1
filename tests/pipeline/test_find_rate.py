"""Tests of --lr find: the range test of a fold, its rule, and its file."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from foldblend.runs.run import Run
from pipeline.config.settings import make_config
from pipeline.cv import cross_validate
from pipeline.data.preprocess import Preprocess
from pipeline.device import Compute
from pipeline.training import fold_rate
from pipeline.training.fit import Fit
from pipeline.training.range_test import (
    Curve,
    _has_diverged,
    choose_rate,
    num_steps,
    range_test,
    rates_around,
)
from tests.makers.constants import RATES
from tests.pipeline.test_resume import config_of, run_until, same

# Enough steps for a test: 42 images in batches of 2.
FIND = {"lr": "find", "batch_size": 2, "epochs": 2}
CPU = Compute(torch.device("cpu"), None, torch.channels_last)


def quiet(_):
    pass


def curve_of(loss_L, around=1e-3):
    return Curve(rates_around(around, len(loss_L)), np.asarray(loss_L, float))


def test_a_third_of_the_rate_with_the_lowest_loss():
    lr_L = rates_around(1e-3, 81)
    noise_L = np.random.default_rng(0).normal(scale=0.05, size=81)
    loss_L = 2 + np.log10(lr_L / 6e-3) ** 2 + noise_L
    rate, why = choose_rate(Curve(lr_L, loss_L), around=1e-3)
    assert rate == pytest.approx(2e-3, rel=0.3)
    assert why == "a third of the rate with the lowest loss"


@pytest.mark.parametrize(("least", "rate"), [(1e-5, 1e-4), (0.1, 1e-2)])
def test_the_rate_is_bounded_by_that_of_auto(least, rate):
    lr_L = np.geomspace(1e-6, 1, 101)
    loss_L = 2 + np.log10(lr_L / least) ** 2
    found, why = choose_rate(Curve(lr_L, loss_L), around=1e-3)
    assert found == rate
    assert "bounded to 10 times" in why


@pytest.mark.parametrize(
    ("losses", "why"),
    [
        (np.linspace(2, 3, 50), "the loss never fell"),
        (np.full(50, 2.0), "the loss never fell"),
        ([2.0, 3.0, np.nan], "the loss diverged after 2 steps"),
        ([], "the loss diverged after 0 steps"),
    ],
)
def test_curves_without_an_answer(losses, why):
    assert choose_rate(curve_of(losses), around=1e-3) == (None, why)


def test_a_test_takes_at_most_half_as_long_as_training():
    assert [num_steps(all_steps) for all_steps in (10, 39, 40, 150, 1000)] == [0, 0, 20, 75, 100]


def fit_of(loader, **settings):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 8), torch.nn.Linear(8, 2))
    given = {**RATES, "sched": "constant", "warmup_epochs": 0, "batch_size": 4, **settings}
    preprocess = Preprocess(width=8, height=8, mean=(0.5,) * 3, std=(0.5,) * 3)
    return Fit(model, make_config(given), preprocess, CPU, steps_per_epoch=len(loader))


def batches(num=10):
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(num, 4, 8, 8, 3), dtype=np.uint8)
    return [(torch.from_numpy(one), torch.tensor([0, 1, 0, 1])) for one in images]


def test_the_rate_rises_and_the_losses_are_those_of_the_steps():
    loader = batches()
    lr_L = np.geomspace(1e-6, 1e-5, 25)
    seen = []
    fit = fit_of(loader, lr=float(lr_L[0]), epochs=3)
    step = fit._train_step

    def recorded(*args):
        seen.append(fit.optimizer.param_groups[0]["lr"])
        step(*args)

    fit._train_step = recorded
    curve = range_test(fit, loader, lr_L)
    np.testing.assert_allclose(seen, lr_L)
    np.testing.assert_allclose(curve.lr_L, lr_L)
    # At such rates the model hardly changes, so a batch has about the same loss in each epoch.
    np.testing.assert_allclose(curve.loss_L[:5], curve.loss_L[10:15], rtol=1e-3)


def test_the_rates_of_layers_keep_their_ratio():
    fit = fit_of(batches(), lr=0.1, epochs=3)
    fit.optimizer.param_groups[0]["lr"] = 0.05
    range_test(fit, batches(), np.array([0.1, 0.2, 0.2]))
    assert fit.optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


@pytest.mark.parametrize("opt", ["sgd", "adamw"])
def test_a_test_ends_where_the_loss_diverges(opt):
    loader = batches()
    curve = range_test(
        fit_of(loader, lr=1e-3, epochs=10, opt=opt), loader, np.geomspace(1e-3, 1e6, 100)
    )
    assert len(curve.loss_L) < 100
    assert curve.loss_L[-1] > 4 * curve.loss_L.min() or not np.isfinite(curve.loss_L[-1])


def test_a_test_does_not_end_where_small_batches_are_noisy():
    # Of three batches of four images, with random weights.
    losses = [1.09, 3.45, 5.52, 1.2, 3.3, 1.1, 1.5, 3.5, 3.1, 3.0, 4.0, 1.5, 2.9, 0.6, 2.7, 5.1]
    assert not any(_has_diverged(losses[: end + 1]) for end in range(len(losses)))
    assert _has_diverged([*losses, 100.0])
    assert _has_diverged([*losses[:2], np.nan])


def test_noise_is_no_fall():
    losses = np.random.default_rng(0).normal(3, 1.3, size=60)
    assert choose_rate(curve_of(losses), around=1e-3) == (
        None,
        "the loss never fell by more than its noise",
    )


def found_by(run, fold=0):
    return json.loads((run.path / f"fold_{fold}" / "lr.json").read_text())


@pytest.fixture(scope="module")
def whole(tiny_layout, tmp_path_factory):
    """Return a run with --lr find, and what it said."""
    said = []
    output = tmp_path_factory.mktemp("whole")
    return cross_validate(config_of(tiny_layout, output, **FIND), say=said.append), said


def test_what_a_run_finds_is_said_and_recorded(whole):
    run, said = whole
    for fold, done in enumerate(run.info["folds"]):
        found = found_by(run, fold)
        assert (done["lr"], done["lr_found"]) == (found["lr"], found["found"])
        [line] = [one for one in said if f"fold {fold}: --lr find" in one]
        assert f"{done['lr']:g}" in line
        assert f"{len(found['curve'])} steps on" in line
        log = pd.read_csv(run.path / f"fold_{fold}" / "log.csv")
        assert log["lr"].max() <= done["lr"]
    assert "(--lr find)" in run.info["about"]
    assert run.settings["lr"] == "find"


def test_a_fold_that_is_continued_does_not_search_again(whole, tiny_layout, tmp_path, monkeypatch):
    broken = config_of(tiny_layout, tmp_path, **FIND)
    tests = [len(found_by(whole[0], fold)["curve"]) for fold in range(2)]
    # In the first test, in the first fold, and in the second fold.
    run_until(broken, monkeypatch, 5)
    run_until(broken, monkeypatch, tests[0] + 7)
    with monkeypatch.context() as patch:
        patch.setattr(fold_rate.FoldRate, "_test", lambda *_: pytest.fail("tested again"))
        run_until(broken, patch, 3)
    run_until(broken, monkeypatch, 42 - 10 + tests[1] + 2)
    again = cross_validate(broken, say=quiet)
    same(again, whole[0])
    for fold in range(2):
        assert found_by(again, fold)["curve"] == found_by(whole[0], fold)["curve"]


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["{", '{"lr": 0.5}', None, "another run"])
def test_a_file_that_cannot_be_used_is_found_again(
    damage, whole, tiny_layout, tmp_path, monkeypatch
):
    config = config_of(tiny_layout, tmp_path, **FIND)
    run_until(config, monkeypatch, len(found_by(whole[0])["curve"]) + 3)
    file = tmp_path / "a" / "fold_0" / "lr.json"
    if damage is None:
        file.unlink()
    elif damage == "another run":
        file.write_text(json.dumps({**json.loads(file.read_text()), "run_key": {}, "lr": 0.5}))
    else:
        file.write_text(damage)
    said = []
    again = cross_validate(config, say=said.append)
    assert any("fold 0: continued at" in line for line in said)
    assert found_by(again)["lr"] == found_by(whole[0])["lr"]
    same(again, whole[0])


@pytest.mark.slow
def test_held_out_rows_do_not_affect_the_rate(whole, tiny_layout, tmp_path):
    """Other pixels and other labels of the held-out images leave the test as it was, to the bit."""
    run = whole[0]
    folds = pd.read_csv(run.path / "folds.csv", dtype=str)
    pictures = pd.read_parquet(run.path / "pictures.parquet")
    paths = pictures[pictures["part"] == "train"].set_index("image_id")["path"]
    found = {}
    for name in ("as it is", "other"):
        table = folds.assign(file=folds["image_id"].map(paths))
        if name == "other":
            held = table["fold"] == "0"
            folder = tmp_path / "noise"
            folder.mkdir()
            rng = np.random.default_rng(0)
            for row in np.flatnonzero(held):
                file = folder / f"{row}.png"
                cv2.imwrite(str(file), rng.integers(256, size=(64, 48, 3), dtype=np.uint8))
                table.loc[row, "file"] = str(file)
            # The names of classes stay, so that their numbers do.
            table.loc[held, "label"] = table.loc[held, "label"].to_numpy()[::-1]
        csv = tmp_path / f"{name}.csv"
        table[["file", "label", "group"]].to_csv(csv, index=False)
        fold_file = tmp_path / f"{name} folds.csv"
        table[["file", "fold"]].rename(columns={"file": "image_id"}).to_csv(fold_file, index=False)
        config = make_config(
            {**FIND, "csv": str(csv), "image_col": "file", "label_col": "label"},
            group_col="group",
            fold_file=str(fold_file),
            output=str(tmp_path / name),
            pretrained="none",
            workers=0,
            threads=1,
            log_pictures=False,
            page=False,
            only_folds="0",
            name="a",
        )
        found[name] = found_by(cross_validate(config, say=quiet))
    assert found["other"]["run_key"] != found["as it is"]["run_key"]
    assert found["other"]["curve"] == found["as it is"]["curve"]
    assert found["other"]["lr"] == found["as it is"]["lr"]


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"epochs": 1}, "too few steps"),
        ({"min_lr": 1e-5, "batch_size": 2}, "is not above --min-lr"),
    ],
)
def test_without_an_answer_the_rate_of_auto_is_taken(
    settings, why, tiny_layout, tmp_path, monkeypatch
):
    if "min_lr" in settings:
        monkeypatch.setattr(fold_rate, "choose_rate", lambda *_, **__: (1e-6, "a rule"))
    said = []
    config = config_of(tiny_layout, tmp_path, **{**FIND, "only_folds": "0", **settings})
    run = cross_validate(config, say=said.append)
    [line] = [one for one in said if "finds no learning rate" in one]
    assert why in line
    found = found_by(run)
    assert (found["found"], found["lr"]) == (False, Run(run.path).info["rates"]["fallback"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"layer_decay": 0.5, "sched": "plateau", "min_lr": 1e-7},
        {"mixup": 0.2, "cutmix": 1.0, "model_ema": True, "sched": "onecycle"},
        {"select": "inner", "metric": "log_loss", "average_last": 0, "grad_accum_steps": 1},
        {
            "opt": "sgd",
            "backbone": "test_vit",
            "img_size": 160,
            "batch_size": 4,
            "epochs": 4,
        },
    ],
)
def test_options_of_training_work_with_it(settings, tiny_layout, tmp_path):
    run = cross_validate(config_of(tiny_layout, tmp_path, **{**FIND, **settings}), say=quiet)
    assert all(fold["lr"] > 0 for fold in run.info["folds"])
    assert np.isfinite(run.oof.filter(like="logit").to_numpy()).all()
