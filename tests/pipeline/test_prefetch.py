"""Batches that workers load ahead fit into shared memory, and the results do not change."""

import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from foldblend.errors import UserError
from foldblend.failures import device_failure
from foldblend.runs.run import Run
from pipeline.config.settings import make_config
from pipeline.data import feeding
from pipeline.data.feeding import Feeder
from pipeline.data.images import ImageSource
from pipeline.data.prefetch import BUDGET, IN_USE, free_shared_memory, plan_ahead
from pipeline.data.preprocess import Preprocess
from pipeline.device import Compute
from pipeline.training.fit import Fit
from tests.makers.constants import TINY

GB = 10**9
MB = 10**6
CPU = Compute(torch.device("cpu"), None, torch.channels_last)
PREPROCESS = Preprocess(width=32, height=24, mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=0.8)


@pytest.mark.parametrize(
    ("workers", "batch", "free", "answer"),
    [
        (0, 200 * MB, 0, (0, None)),
        (8, 10 * MB, 8 * GB, (8, 2)),
        # b3 at 288, and at 512: 256 images.
        (8, 64 * MB, 8 * GB, (8, 1)),
        (8, 201 * MB, 8 * GB, (8, 1)),
        (8, 201 * MB, None, (8, 1)),
        (8, 201 * MB, 3 * GB, (5, 1)),
        # What Docker gives by default.
        (8, 9 * MB, 64 * MB, (1, 1)),
        (8, 38 * MB, 64 * MB, (0, None)),
        (8, 10 * MB, 240 * MB, (8, 1)),
    ],
)
def test_workers_and_batches_ahead_follow_from_bytes(workers, batch, free, answer):
    ahead = plan_ahead(workers, batch_bytes=batch, free=free)
    assert (ahead.workers, ahead.batches) == answer
    assert (ahead.note is None) == (ahead.workers == workers)


def test_what_is_loaded_ahead_never_takes_more_than_half():
    rng = np.random.default_rng(0)
    for _ in range(1000):
        workers = int(rng.integers(1, 17))
        size = int(rng.integers(1, 300 * MB))
        free = int(rng.integers(0, 10 * GB))
        sharing = int(rng.integers(1, 6))
        ahead = plan_ahead(workers, batch_bytes=size, free=free, sharing=sharing)
        if ahead.workers:
            used = (ahead.workers * ahead.batches + IN_USE) * size
            assert used * sharing <= free / 2
            assert ahead.batches == 1 or ahead.workers * ahead.batches * size <= BUDGET
        else:
            assert (1 + IN_USE) * size * sharing > free / 2 - sharing


def test_the_line_names_the_cure():
    for size, done in (
        (9 * MB, "only 1 of them can load images"),
        (38 * MB, "this process loads images"),
    ):
        note = plan_ahead(8, batch_bytes=size, free=64 * MB).note
        assert note.startswith("/dev/shm has 64 MB free, too little for 8 workers with batches of")
        assert done in note
        assert "docker run --shm-size=8g" in note


def test_systems_without_a_folder_of_shared_memory_have_no_limit(monkeypatch):
    def absent(_):
        raise FileNotFoundError

    if Path("/dev/shm").is_dir():
        assert free_shared_memory() > 0
    monkeypatch.setattr(os, "statvfs", absent)
    assert free_shared_memory() is None
    monkeypatch.delattr(os, "statvfs")
    assert free_shared_memory() is None


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"image_id": [f"{row}" for row in range(20)], "label": np.arange(20) % 2})
    table["path"] = [str(tmp_path / f"{name}.png") for name in table["image_id"]]
    for path in table["path"]:
        cv2.imwrite(path, rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
    return table


@pytest.mark.parametrize("augment_on", ["cpu", "device"])
def test_batches_do_not_depend_on_shared_memory(images, monkeypatch, augment_on):
    config = make_config(
        {"workers": 2, "augment_on": augment_on, "batch_size": 4},
        validation_batch_size=8,
        epochs=1,
    )
    width, height = PREPROCESS.stored_size if augment_on == "device" else (32, 24)
    found = {}
    for name, free in (
        ("all", 2 * 100 * width * height * 3 * 4),
        ("one batch ahead", 2 * (2 + IN_USE) * width * height * 3 * 4),
        ("one worker", 2 * (1 + IN_USE) * width * height * 3 * 4),
        ("none", 1000),
    ):
        monkeypatch.setattr(feeding, "free_shared_memory", lambda free=free: free)
        lines = []
        feeder = Feeder(config, ImageSource(PREPROCESS, "off"), CPU)
        train = feeder.train(images, seed_parts=(0, 0), say=lines.append)
        rows = feeder.rows(images, say=lines.append)
        loader = train.batches
        workers = (loader.num_workers, loader.prefetch_factor)
        assert (
            workers
            == {
                "all": (2, 2),
                "one batch ahead": (2, 1),
                "one worker": (1, 1),
                "none": (0, None),
            }[name]
        )
        assert len(lines) == (name in ("one worker", "none") or rows.num_workers < 2)
        found[name] = [torch.cat([one.flatten() for one, _ in got]) for got in (train, rows)]
    for batches in found.values():
        for one, other in zip(batches, found["all"], strict=True):
            assert torch.equal(one, other)


def test_the_log_says_that_shared_memory_is_too_small(
    tiny_layout, tmp_path, cv_command, monkeypatch
):
    base = ["--data", tiny_layout, "--output", tmp_path, "--backbone", "test_efficientnet", *TINY]
    logits = []
    for name in ("enough", "small"):
        done = cv_command(*base, "--name", name, "--workers", "1")
        assert done.code == 0, done.err
        assert (done.out + done.err).count("docker run --shm-size=8g") == (name == "small")
        logits.append(Run(tmp_path / name).logits(Run(tmp_path / name).oof))
        monkeypatch.setattr(feeding, "free_shared_memory", lambda: 1000)
    np.testing.assert_array_equal(*logits)


@pytest.mark.parametrize(
    "told",
    [
        "DataLoader worker (pid 41) is killed by signal: Bus error. It is possible that"
        " dataloader's workers are out of shared memory. Please try to raise your shared memory"
        " limit.",
        "unable to write to file </torch_41_123_0>: No space left on device (28)",
        "unable to allocate shared memory(shm) for file </torch_41>: No space left on device (28)",
    ],
)
def test_a_worker_that_shared_memory_kills_is_one_line(
    tiny_layout, tmp_path, cv_command, monkeypatch, told
):
    def fails(*_):
        raise RuntimeError(told)

    failure = device_failure(RuntimeError(told))
    assert isinstance(failure, UserError)
    monkeypatch.setattr(Fit, "_train_step", fails)
    done = cv_command(
        *["--data", tiny_layout, "--output", tmp_path, "--backbone", "test_efficientnet"], *TINY
    )
    assert done.code == 2
    assert "error: /dev/shm: it is full" in done.err
    assert "--shm-size=8g" in done.err
    assert "Traceback" not in done.err


def test_a_worker_that_is_killed_otherwise_is_not_put_on_shared_memory():
    told = "DataLoader worker (pid 41) is killed by signal: Killed."
    assert device_failure(RuntimeError(told)) is None


def test_each_table_is_loaded_by_the_same_workers_in_all_epochs(
    tiny_layout, tmp_path, cv_command, monkeypatch
):
    made = []
    rows = Feeder.rows

    def counted(self, table, **settings):
        made.append(len(table))
        return rows(self, table, **settings)

    monkeypatch.setattr(Feeder, "rows", counted)
    base = ["--data", tiny_layout, "--output", tmp_path, "--backbone", "test_efficientnet", *TINY]
    base += ["--epochs", "3", "--select", "inner", "--tta", "hflip"]
    logits = []
    for workers in ("0", "1"):
        done = cv_command(*base, "--name", workers, "--cache", "disk", "--workers", workers)
        assert done.code == 0, done.err
        run = Run(tmp_path / workers)
        logits.append(np.concatenate([run.logits(run.oof), run.logits(run.test)]))
    # The inner rows, the held-out rows and the test images, of each fold.
    assert len(made) == 2 * 3 * run.oof["fold"].nunique()
    np.testing.assert_array_equal(*logits)
