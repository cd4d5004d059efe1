"""Logs of a fold, read back from the files of TensorBoard and wandb."""

import errno
import hashlib
import io
import os
import random
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from foldblend.attributes import Attribute
from foldblend.errors import UserError
from foldblend.scores.confusion import confusion_counts, worst_mistakes
from foldblend.scores.rows import Rows
from pipeline.watch.tracking import (
    Trackers,
    attribute_scores,
    open_trackers,
    require_wandb,
    tracking_id,
)
from reports.run.summary import summarise
from reports.tiles import GAP, LINE, confusion_image, legible, tile

NAMES = ["bare", "worn $wrongly$_", "x" * 99, "two\nlines"]


def generators() -> str:
    """Return a hash of the state of every global random generator."""
    states = (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist())
    return hashlib.sha256(repr(states).encode()).hexdigest()


def open_backends(folder: Path, *, use_wandb: bool = False, purge_step: int = 0) -> Trackers:
    options = {
        "run_name": "run",
        "fold_title": "fold_0",
        "run_id": tracking_id("run", {"data": "1"}, 0),
    }
    return open_trackers(folder, **options, use_wandb=use_wandb, purge_step=purge_step)


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder / "tb")).Reload()


def some_images(num: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (num, 32, 24, 3), dtype=np.uint8)


def log_everything(trackers: Trackers) -> None:
    trackers.scalars({"train/loss": 0.5, "val/f1_macro": 0.25}, 0)
    trackers.images("train/batch", some_images(5), None, 0)
    trackers.images("val/worst", some_images(2), ["true a\npredicted b"] * 2, 0)
    trackers.images("val/none", some_images(0), [], 0)
    trackers.confusion("val/confusion", np.diag([3, 0, 1, 2]), NAMES, 0)
    trackers.hparams(
        {"lr": 0.1, "ema": True, "drop_path": None, "tta": ("hflip",), "b": 8}, {"f1_macro": 0.5}
    )


def test_everything_is_read_back_and_no_generator_changes(tmp_path):
    before = generators()
    with open_backends(tmp_path) as trackers:
        log_everything(trackers)
    assert generators() == before
    events = read(tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["tb"]
    assert [one.is_file() for one in (tmp_path / "tb").iterdir()] == [
        True
    ]  # add_hparams would add a subfolder
    assert set(events.Tags()["scalars"]) == {"train/loss", "val/f1_macro", "hparam/f1_macro"}
    assert set(events.Tags()["images"]) == {"train/batch", "val/worst", "val/confusion"}
    shown = Image.open(io.BytesIO(events.Images("train/batch")[0].encoded_image_string))
    assert shown.size == (3 * (84 + GAP) + GAP, 2 * (112 + GAP) + GAP)  # 24 x 32, enlarged
    content = events.PluginTagToContent("hparams")
    assert set(content) == {"_hparams_/session_start_info", "_hparams_/session_end_info"}
    for word in (b"lr", b"drop_path", b"None", b"ema", b"True", b"hflip"):
        assert word in content["_hparams_/session_start_info"], word


@pytest.mark.parametrize("kind", ["a file", "a pipe", "a full disk"])
def test_a_log_that_cannot_be_written_is_said_once_and_ends_nothing(tmp_path, monkeypatch, kind):
    lines = []
    if kind == "a file":
        (tmp_path / "tb").write_text("")
    elif kind == "a pipe":
        os.mkfifo(tmp_path / "tb")
    with open_trackers(
        tmp_path,
        run_name="run",
        fold_title="fold_0",
        run_id="0",
        use_wandb=False,
        purge_step=0,
        say=lines.append,
    ) as trackers:
        if kind == "a full disk":

            def full(*_):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            monkeypatch.setattr("pipeline.watch.events.write_all", full)
        log_everything(trackers)
        log_everything(trackers)
    assert len(lines) == 1
    assert re.match(r"warning: TensorBoard: its log cannot be written \(.+\)", lines[0])


def test_a_continued_fold_replaces_the_points_of_repeated_steps(tmp_path):
    for purge_step, steps, value in ((0, (0, 1, 2, 3), 1.0), (2, (2,), 9.0)):
        with open_backends(tmp_path, purge_step=purge_step) as trackers:
            for step in steps:
                trackers.scalars({"train/loss": value}, step)
                trackers.images("train/batch", some_images(1), None, step)
    events = read(tmp_path)
    assert [(one.step, one.value) for one in events.Scalars("train/loss")] == [
        (0, 1.0),
        (1, 1.0),
        (2, 9.0),
    ]
    assert [one.step for one in events.Images("train/batch")] == [0, 1, 2]


def test_scalars_are_on_disk_at_once(tmp_path):
    trackers = open_backends(tmp_path)
    trackers.scalars({"train/loss": 0.5}, 3)
    assert [one.step for one in read(tmp_path).Scalars("train/loss")] == [3]
    trackers.close()


def test_without_backends_nothing_happens():
    with Trackers() as trackers:
        log_everything(trackers)


def test_worst_mistakes_most_confident_first():
    proba_NC = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7], [0.6, 0.4], [0.2, 0.8]])
    label_N = np.array([0, 0, 0, 1, 1, 0])
    assert worst_mistakes(label_N, proba_NC, 9).tolist() == [2, 5, 1, 4]
    assert worst_mistakes(label_N, proba_NC, 1).tolist() == [2]
    assert worst_mistakes(proba_NC.argmax(1), proba_NC, 9).tolist() == []


def test_position_of_tiles():
    images = some_images(3)
    sheet = tile(images, None, 2)
    assert sheet.shape == (2 * (32 + GAP) + GAP, 2 * (24 + GAP) + GAP, 3)
    for index, (top, left) in enumerate(((GAP, GAP), (GAP, 2 * GAP + 24), (2 * GAP + 32, GAP))):
        assert np.array_equal(sheet[top : top + 32, left : left + 24], images[index])
    assert (sheet[2 * GAP + 32 :, 2 * GAP + 24 :] == 255).all()
    captioned = tile(images, ["one", "two\nlines", ""], 5)
    assert captioned.shape == (32 + 2 * LINE + 2 * GAP, 3 * (24 + GAP) + GAP, 3)
    below = captioned[GAP + 32 : -GAP]
    assert (below[:, GAP : GAP + 24] < 128).any()
    assert (below[:, -GAP - 24 :] == 255).all()
    assert (below[:, :GAP] == 255).all()


@pytest.mark.parametrize(
    ("size", "expected"), [((128, 96), (128, 96)), ((300, 600), (96, 192)), ((8, 4), (112, 56))]
)
def test_small_images_are_enlarged_for_captions(size, expected):
    assert legible(np.zeros((2, *size, 3), np.uint8)).shape == (2, *expected, 3)


def test_confusion():
    counts = confusion_counts(np.array([0, 0, 3, 3]), np.array([0, 1, 3, 0]), 4)
    assert counts.tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1]]
    image = confusion_image(counts, NAMES)
    assert image.dtype == np.uint8
    assert image.shape[2] == 3
    assert confusion_image(
        np.eye(100, dtype=int), [str(number) for number in range(100)]
    ).shape == (1100, 1100, 3)


def test_attribute_scores_equal_those_of_the_report():
    rng = np.random.default_rng(3)
    attributes = [
        Attribute(name="gender", values=("male", "female"), of_class=(0, 0, 1, 1)),
        Attribute(name="age", values=("young", "old", "never"), of_class=(0, 1, 0, 1)),
    ]
    label_N = rng.integers(0, 4, 50)
    proba_NC = rng.dirichlet(np.ones(4), 50)
    rows = Rows.of(label_N, np.arange(50))
    report = summarise(
        rows, np.log(proba_NC), classes=NAMES, attributes=attributes, metric="f1_macro"
    )
    expected = {
        f"val/{one['name']}_f1_macro": one["f1_macro"]["value"] for one in report["attributes"]
    }
    assert attribute_scores(label_N, proba_NC, attributes) == expected
    assert len(expected) == 2


def test_fold_ids_differ_by_run_key_and_fold():
    key = {"data": "1", "config": "2"}
    again = tracking_id("run", dict(reversed(key.items())), 0)
    others = [
        tracking_id("b", key, 0),
        tracking_id("run", key | {"data": "3"}, 0),
        tracking_id("run", key, 1),
    ]
    assert tracking_id("run", key, 0) == again
    assert len({again, *others}) == 4


@pytest.mark.parametrize(
    "present", [None, SimpleNamespace()], ids=["missing", "only a folder of that name"]
)
def test_without_wandb_the_error_says_how_to_install_it(tmp_path, monkeypatch, present):
    monkeypatch.setitem(sys.modules, "wandb", present)
    with pytest.raises(UserError, match=r"--wandb: .*pip install wandb"):
        open_backends(tmp_path, use_wandb=True)
    assert not (tmp_path / "tb").exists()


def test_a_refusal_by_wandb_is_one_line(tmp_path, monkeypatch):
    class Refusal(Exception):
        pass

    def init(**options: object) -> None:
        raise Refusal("no API key\nsecond line")

    fake = SimpleNamespace(init=init, Settings=dict, errors=SimpleNamespace(Error=Refusal))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with pytest.raises(UserError, match=r"^--wandb: no API key second line; .*WANDB_MODE=offline$"):
        open_backends(tmp_path, use_wandb=True)


@pytest.mark.slow
def test_wandb_offline(tmp_path, monkeypatch):
    for name, value in (
        ("MODE", "offline"),
        ("SILENT", "true"),
        ("DISABLE_GIT", "true"),
        ("ERROR_REPORTING", "false"),
    ):
        monkeypatch.setenv(f"WANDB_{name}", value)
    for name in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "home"))
    try:
        wandb = require_wandb()
    except UserError as error:
        pytest.skip(str(error))
    before = generators()
    try:
        with open_backends(tmp_path / "fold_0", use_wandb=True) as trackers:
            log_everything(trackers)
    finally:
        wandb.teardown()
    assert generators() == before
    assert wandb.run is None
    run_id = tracking_id("run", {"data": "1"}, 0)
    (folder,) = (tmp_path / "fold_0" / "wandb").glob(f"offline-run-*-{run_id}")
    kept = (folder / f"run-{run_id}.wandb").read_bytes()
    for word in (b"run/fold_0", b"train/loss", b"val/f1_macro", b"hparam/f1_macro", b"drop_path"):
        assert word in kept, word
    assert len(list(folder.rglob("*.png"))) == 3
    assert set(read(tmp_path / "fold_0").Tags()["images"]) == {
        "train/batch",
        "val/worst",
        "val/confusion",
    }
