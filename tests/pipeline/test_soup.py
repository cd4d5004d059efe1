"""Soups of seeds: chosen without the scored rows, resumed, and one model at one model's cost."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

import foldblend as fb
import pipeline.training.soup_of_seeds as soups
from foldblend.errors import UserError
from foldblend.runs.costs import num_passes
from foldblend.runs.run import Run
from folds.data.layout import read_layout
from pipeline.training.batch_norm import renew_batch_norm
from pipeline.training.weight_means import greedy_soup, mean_state, share_of_start

SMALL: dict[str, Any] = {
    "backbone": "test_efficientnet",
    "pretrained": "none",
    "folds": 2,
    "epochs": 2,
    "img_size": "32",
    "batch_size": 16,
    "lr": 0.01,
    "threads": 1,
    "workers": 0,
    "page": False,
    "log_pictures": False,
    "soup": True,
    "seeds": 3,
    "metric": "log_loss",
}


def silent(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def table(tiny_layout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a table of the images, whose classes are the kinds of masks, and folds of it."""
    manifest = read_layout(tiny_layout)
    rows = manifest.train[["image_id", "path", "group"]].rename(columns={"path": "image"})
    rows["label"] = manifest.train["label"] // 6
    folder = tmp_path_factory.mktemp("table")
    fold_of = {name: place % 2 for place, name in enumerate(sorted(rows["group"].unique()))}
    rows["fold"] = rows["group"].map(fold_of)
    rows.to_csv(folder / "all.csv", index=False)
    return folder / "all.csv"


def made(table: Path, output: Path, **changed: Any) -> Run:
    """Make a soup of the images of a table, on the folds that it names."""
    rows = pd.read_csv(table, dtype={"group": str})
    csv = output / "images.csv"
    output.mkdir(exist_ok=True)
    rows[["image", "group", "label"]].to_csv(csv, index=False)
    folds = rows[["image", "fold"]].rename(columns={"image": "image_id"})
    folds.to_csv(output / "folds.csv", index=False)
    return fb.cross_validate(
        csv=str(csv),
        group_col="group",
        fold_file=str(output / "folds.csv"),
        output=str(output),
        name="soup",
        **{**SMALL, "say": silent, **changed},
    )


@pytest.fixture(scope="module")
def run(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return made(table, tmp_path_factory.mktemp("made") / "a")


def weights_of(run: Run, fold: int) -> bytes:
    return (run.path / f"fold_{fold}" / "best.safetensors").read_bytes()


def test_the_rows_that_score_a_fold_have_no_part_in_its_soup(table, run, tmp_path):
    """Other labels of the held-out rows leave its weights as they are, bit for bit."""
    rows = pd.read_csv(table)
    held = rows["fold"] == 0
    rows.loc[held, "label"] = np.roll(rows.loc[held, "label"].to_numpy(), 3)
    rows.to_csv(tmp_path / "other.csv", index=False)
    other = made(tmp_path / "other.csv", tmp_path / "other")
    assert weights_of(other, 0) == weights_of(run, 0)
    assert weights_of(other, 1) != weights_of(run, 1)
    score = [one.report["headline"]["value"] for one in (run, other)]
    assert score[0] != score[1]


def test_a_soup_is_one_model_per_fold_at_the_cost_of_one(run):
    assert num_passes(run) == 2
    assert not [*run.path.rglob("weights.safetensors")]
    for fold in run.info["folds"]:
        assert {*fold["soup"]} <= {0, 1, 2}
        assert len(fold["seed_scores"]) == 3
        # The log loss of the mean weights on the rows that chose them is no higher than any seed's.
        assert fold["soup_score"] <= min(fold["seed_scores"])
        log = pd.read_csv(run.path / f"fold_{fold['fold']}" / "log.csv")
        assert len(log) == 2
    text = (run.path / "report.txt").read_text(encoding="utf-8")
    assert "Soups of seeds" in text


def test_a_soup_has_the_mean_weights_of_its_seeds_and_statistics_of_its_own(
    table, tmp_path, monkeypatch
):
    seen: list[list[dict[str, torch.Tensor]]] = []

    def every(score_M: list[float], score_of: Any, *, sign: int) -> tuple[list[int], float]:
        return [*range(len(score_M))], score_of([*range(len(score_M))])

    def watched(states: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        seen.append(states)
        return mean_state(states)

    monkeypatch.setattr(soups, "greedy_soup", every)
    monkeypatch.setattr(soups, "mean_state", watched)
    run = made(table, tmp_path / "a")
    found = safetensors.torch.load(weights_of(run, 1))
    states = seen[-1]
    assert len(states) == 3
    assert run.info["folds"][1]["soup"] == [0, 1, 2]
    for name, value in found.items():
        mean = torch.stack([state[name].double() for state in states]).mean(dim=0)
        if "running_" in name:
            assert not torch.allclose(value.double(), mean)
        elif value.is_floating_point():
            torch.testing.assert_close(value.double(), mean, rtol=1e-6, atol=1e-7)
            assert not torch.equal(states[0][name], states[1][name])


def test_a_killed_soup_keeps_its_seeds_and_ends_in_the_same_bits(table, run, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    make = soups._seed

    def dies(job: Any, index: int, seed: int) -> dict[str, Any]:
        if seed == 2:
            raise Killed
        return make(job, index, seed)

    with monkeypatch.context() as patch:
        patch.setattr(soups, "_seed", dies)
        with pytest.raises(Killed):
            made(table, tmp_path / "a")
    said: list[str] = []
    again = made(table, tmp_path / "a", say=said.append)
    assert sum("finished before, kept" in line for line in said) == 2
    for fold in range(2):
        assert weights_of(again, fold) == weights_of(run, fold)
    assert (again.path / "oof.parquet").read_bytes() == (run.path / "oof.parquet").read_bytes()


def test_a_refit_ends_at_the_median_epoch_of_all_seeds(table, tmp_path):
    run = made(table, tmp_path / "a", seeds=2, select="inner", refit="full")
    chosen = [epoch for fold in run.info["folds"] for epoch in fold["seed_epochs"]]
    assert len(chosen) == 4
    assert run.info["refit"]["models"][0]["epoch"] == sorted(chosen)[2]


def test_another_number_of_seeds_is_another_run(table, run):
    with pytest.raises(UserError, match="different seeds of the soup"):
        made(table, run.path.parent, seeds=2)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seeds": 1}, "--soup: .* add --seeds 3"),
        ({"finetune": "head"}, "--soup with --finetune head"),
        ({"select": "best"}, "--soup with --select best"),
    ],
)
def test_settings_that_make_no_soup_are_named(table, tmp_path, changed, message):
    with pytest.raises(UserError, match=message):
        made(table, tmp_path / "a", **changed)
    assert not (tmp_path / "a" / "soup").exists()


def test_greedy_soups_keep_what_does_not_lower_the_score():
    scores = {(0,): 0.5, (1,): 0.7, (2,): 0.6, (1, 2): 0.7, (0, 1, 2): 0.6}
    found = greedy_soup([0.5, 0.7, 0.6], lambda some: scores[tuple(sorted(some))], sign=1)
    assert found == ([1, 2], 0.7)
    # Of a loss, lower values are better.
    found = greedy_soup([0.5, 0.7, 0.6], lambda some: scores.get(tuple(sorted(some)), 0.4), sign=-1)
    assert found == ([0, 2], 0.4) or found[0] == [0, 1, 2]


def test_a_mean_of_weights_without_a_score_stays_out():
    found = greedy_soup([0.5, 0.7], lambda some: float("nan"), sign=1)
    assert found == ([1], 0.7)


def test_means_of_weights_keep_types_and_counts():
    states = [
        {"w": torch.tensor([1.0, 2.0]), "h": torch.tensor([1.0]).half(), "n": torch.tensor(3)},
        {"w": torch.tensor([2.0, 4.0]), "h": torch.tensor([2.0]).half(), "n": torch.tensor(5)},
    ]
    mean = mean_state(states)
    torch.testing.assert_close(mean["w"], torch.tensor([1.5, 3.0]))
    assert mean["h"].dtype == torch.float16
    assert int(mean["n"]) == 3
    assert share_of_start(states[0], states[0]) == 1
    assert share_of_start(states[0], states[1]) == 0
    # The mean of one model is that model, bit for bit.
    one = {"w": torch.rand(50)}
    assert torch.equal(mean_state([one])["w"], one["w"])


def test_batch_norm_gets_the_statistics_of_the_training_images():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Dropout(0.5))
    with torch.no_grad():
        model[0].running_mean += 7
    images = torch.randint(256, (12, 4, 4, 3), dtype=torch.uint8)
    labels = torch.zeros(12, dtype=torch.int64)
    batches = [(images[:6], labels[:6]), (images[6:], labels[6:])]

    class Loader(list):
        def enter(self, epoch: int, step: int) -> None:
            pass

    job: Any = SimpleNamespace(
        feeder=SimpleNamespace(train=lambda table, **_: Loader(batches), device_augmentation=None),
        run=SimpleNamespace(preprocess=SimpleNamespace(standardise=lambda pixels: pixels / 255)),
        compute=SimpleNamespace(
            feed=iter,
            autocast=lambda: torch.autocast("cpu", enabled=False),
            memory_format=torch.contiguous_format,
        ),
        limits=SimpleNamespace(chunk=None),
        say=silent,
    )
    renew_batch_norm(model, job, pd.DataFrame(), (0,))
    wanted = (images.float() / 255).mean(dim=(0, 1, 2))
    torch.testing.assert_close(model[0].running_mean, wanted)
    assert model[0].momentum == 0.1
    assert not model.training


def test_weights_of_a_soup_are_read_like_any_other(run):
    state = safetensors.torch.load(weights_of(run, 0))
    assert all(torch.isfinite(one).all() for one in state.values() if one.is_floating_point())
