"""Folds on GPUs that this machine does not have: what runs where, with how many images."""

import dataclasses
import json
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foldblend.errors import UserError
from pipeline.data.images import ImageSource
from pipeline.fold_memory import FoldMemory
from pipeline.memory import Limits
from pipeline.training import gpu_cards, gpu_share
from pipeline.training.count_fold import memory_of
from pipeline.training.gpu_cards import Card, cards_of
from pipeline.training.gpu_plan import SHARE, in_turn, largest_scale, least_need, plan_cards
from tests.makers.constants import ROOT
from tests.makers.jobs import fake_job

GB = 10**9


def memory_with(*, training, inference, batch=32, rows=256, weights=0.1):
    """Return the memory of a fold whose passes need so many MB per image."""
    return FoldMemory(
        weights=int(weights * GB),
        optimizer=0,
        gradients=0,
        stored=0,
        shown=0,
        step=batch,
        batch=batch,
        rows=rows,
        count=lambda trains, num: num * (training if trains else inference) * 10**6,
    )


def card(free, number=0, **changes):
    return Card(name=f"cuda:{number}", title="GPU", free=int(free * GB), **changes)


def shares(plans):
    return [plan.at_once for plan in plans]


SMALL = memory_with(training=20, inference=2)  # about 2.6 GB with contexts
LARGE = memory_with(training=400, inference=30, batch=32)  # about 16 GB


def test_the_fewest_folds_at_once_that_need_the_fewest_rounds():
    assert shares(plan_cards(SMALL, [card(80)], num_folds=5, images=0)) == [5]
    # Four would fit, but two rounds are needed all the same.
    assert shares(plan_cards(SMALL, [card(10)], num_folds=5, images=0)) == [3]
    assert shares(plan_cards(SMALL, [card(3)], num_folds=5, images=0)) == [1]
    four = [card(80, number) for number in range(4)]
    plans = plan_cards(SMALL, four, num_folds=5, images=0)
    assert in_turn(shares(plans)) == [0, 1, 2, 3, 0]


def test_gpus_take_folds_by_their_free_memory():
    plans = plan_cards(SMALL, [card(3.2), card(80, 1)], num_folds=5, images=0)
    assert [plan.card.name for plan in plans] == ["cuda:1", "cuda:0"]
    assert shares(plans) == [4, 1]
    # A single one goes where most memory is free.
    plans = plan_cards(SMALL, [card(4), card(80, 1)], num_folds=1, images=0)
    assert [plan.card.name for plan in plans] == ["cuda:1"]
    # One without room for whole batches is left out.
    plans = plan_cards(LARGE, [card(8), card(80, 1)], num_folds=5, images=0)
    assert [plan.card.name for plan in plans] == ["cuda:1"]


def test_passes_are_halved_only_where_a_single_fold_does_not_fit():
    plan = plan_cards(LARGE, [card(80)], num_folds=5, images=0)[0]
    assert plan.limits.micro_batch == 32
    plan = plan_cards(LARGE, [card(8)], num_folds=5, images=0)[0]
    assert (plan.at_once, plan.limits) == (
        1,
        Limits(micro_batch=8, chunk=128, releases=True),
    )
    # The count is an estimate: what nearly fits is tried.
    need = (LARGE.fixed + LARGE.training(32)) / GB
    plan = plan_cards(LARGE, [card(need + 0.01)], num_folds=5, images=0)[0]
    assert plan.limits.micro_batch == 32
    plan = plan_cards(LARGE, [card(need - 0.01)], num_folds=5, images=0)[0]
    assert plan.limits.micro_batch == 16
    assert plan_cards(LARGE, [card(1.5)], num_folds=5, images=0) == ()


def test_smaller_passes_of_inference_let_more_folds_fit():
    # 256 images in inference need more than a training step.
    memory = memory_with(training=20, inference=30)
    plan = plan_cards(memory, [card(12)], num_folds=3, images=0)[0]
    assert plan.at_once == 3
    assert plan.limits.chunk == 64
    assert plan_cards(memory, [card(80)], num_folds=3, images=0)[0].limits.chunk == 256


def test_images_are_held_once_per_gpu_and_only_where_folds_leave_room():
    plan = plan_cards(SMALL, [card(24)], num_folds=5, images=4 * GB)[0]
    assert (plan.at_once, plan.images) == (5, 4 * GB)
    # They would cost a fold.
    plan = plan_cards(SMALL, [card(20)], num_folds=5, images=9 * GB)[0]
    assert (plan.at_once, plan.images) == (5, 0)
    plan = plan_cards(SMALL, [card(20)], num_folds=5, images=9 * GB, must_hold=True)[0]
    assert (plan.at_once, plan.images) == (3, 9 * GB)


def test_a_gpu_in_exclusive_mode_trains_one_fold_at_a_time():
    plan = plan_cards(SMALL, [card(80, alone=True)], num_folds=5, images=0)[0]
    assert plan.at_once == 1
    assert "in exclusive mode, so it trains one fold at a time (nvidia-smi -c 0" in plan.line
    plan = plan_cards(SMALL, [card(10, mig=True)], num_folds=5, images=0)[0]
    assert plan.line.endswith("it is a part of a larger GPU (MIG)")


def test_a_number_of_folds_is_kept_as_far_as_whole_batches_fit():
    assert plan_cards(LARGE, [card(80)], num_folds=5, images=0, at_once=2)[0].at_once == 2
    plan = plan_cards(LARGE, [card(40)], num_folds=5, images=0, at_once=5)[0]
    assert (plan.at_once, plan.limits.micro_batch) == (2, 32)
    # A GPU in exclusive mode takes one process.
    plan = plan_cards(SMALL, [card(80, alone=True)], num_folds=5, images=0, at_once=3)[0]
    assert plan.at_once == 1
    two = [card(80), card(80, 1)]
    assert shares(plan_cards(SMALL, two, num_folds=5, images=0, at_once=3)) == [2, 1]


@given(
    training=st.integers(1, 600),
    inference=st.integers(1, 100),
    batch=st.integers(1, 300),
    rows=st.integers(1, 300),
    free=st.lists(st.floats(0.5, 200), min_size=1, max_size=5),
    num_folds=st.integers(1, 12),
    images=st.floats(0, 40),
    at_once=st.none() | st.integers(1, 12),
    must_hold=st.booleans(),
)
def test_no_plan_exceeds_a_gpu(
    training, inference, batch, rows, free, num_folds, images, at_once, must_hold
):
    memory = memory_with(training=training, inference=inference, batch=batch, rows=rows)
    cards = [card(one, number) for number, one in enumerate(free)]
    size = int(images * GB)
    plans = plan_cards(
        memory, cards, num_folds=num_folds, images=size, at_once=at_once, must_hold=must_hold
    )
    for plan in plans:
        # A fold alone may take all, since the count is an estimate.
        assert plan.used <= (SHARE if plan.at_once > 1 else 1) * plan.card.free
        assert 1 <= plan.limits.micro_batch <= batch
        assert 1 <= plan.limits.chunk <= rows
    least = least_need(memory) + size * must_hold
    assert bool(plans) == any(least <= there.free for there in cards)
    assert sum(shares(plans)) <= min(num_folds, at_once or num_folds)


def test_the_scale_at_which_a_fold_would_fit():
    memory = memory_with(training=4000, inference=100, batch=1, rows=1)
    assert largest_scale(memory, card(80)) == 1
    half = (SHARE * 3 * GB - memory.fixed) / memory.training(1)
    assert largest_scale(memory, card(3)) == pytest.approx(half**0.5)
    assert largest_scale(memory, card(1)) == 0


# From here on, on GPUs of a job.


@pytest.fixture
def gpus(monkeypatch):
    """Return a function that gives this machine GPUs with so much free memory, in GB."""

    def give(*free, **changes):
        cards = tuple(card(one, number, **changes) for number, one in enumerate(free))
        monkeypatch.setattr(gpu_share, "cards_of", lambda device: cards)
        monkeypatch.setattr(gpu_share, "measure_fold", lambda *_: 2 * GB)

    return give


def gpu_job(tmp_path, say=lambda _: None, *, memory=SMALL, **settings):
    job = fake_job(tmp_path, say, **settings)
    compute = dataclasses.replace(job.compute, device=torch.device("cuda"))
    return dataclasses.replace(job, compute=compute, memory=memory)


@pytest.mark.parametrize(
    ("settings", "num_processes"),
    [
        # Two steps per epoch and fold.
        ({"epochs": 83}, 1),
        ({"epochs": 84}, 4),
        ({"epochs": 84, "grad_accum_steps": 2}, 1),
        ({"epochs": 1, "parallel_folds": 2}, 2),
    ],
)
def test_folds_share_a_gpu_where_that_saves_time(tmp_path, gpus, settings, num_processes):
    gpus(10)
    job = gpu_job(tmp_path, **settings)
    processes = gpu_share.processes_of(job, 6)
    assert len(processes) == min(num_processes, 3)
    if num_processes > 1:
        assert {one.device for one in processes} == {"cuda:0"}


def test_the_measured_memory_has_the_last_word(tmp_path, gpus, monkeypatch):
    gpus(24)
    said = []
    job = gpu_job(tmp_path, said.append, epochs=84)
    assert len(gpu_share.processes_of(job, 6)) == 6
    monkeypatch.setattr(gpu_share, "measure_fold", lambda *_: 8 * GB)
    assert len(gpu_share.processes_of(job, 6)) == 2
    assert "2 folds at the same time, 8.0 GB each (measured)" in said[-1]
    # Of 6 folds, 5 fit: they need two rounds, as 3 do.
    monkeypatch.setattr(gpu_share, "measure_fold", lambda *_: 4 * GB)
    assert len(gpu_share.processes_of(job, 6)) == 3


def test_a_model_that_cannot_be_counted_is_measured(tmp_path, gpus, monkeypatch):
    gpus(24)
    job = gpu_job(tmp_path, memory=None, epochs=84)
    assert len(gpu_share.processes_of(job, 6)) == 6
    monkeypatch.setattr(gpu_share, "measure_fold", lambda *_: 8 * GB)
    assert len(gpu_share.processes_of(job, 6)) == 2


def test_why_a_model_cannot_be_counted_is_said(tmp_path, monkeypatch):
    def cannot(_):
        raise gpu_share.CannotCount("no values")

    monkeypatch.setattr(gpu_share, "memory_of", cannot)
    said = []
    assert gpu_share.count_memory(fake_job(tmp_path, print).run, said.append) is None
    assert said == ["the GPU memory of a fold cannot be counted (no values)"]


def test_images_may_take_what_a_fold_leaves():
    cards = [card(80), card(24, 1)]
    fold = SMALL.total(32, 32, releases=True)
    assert gpu_share.room_for_images(SMALL, cards) == int(SHARE * 24 * GB) - fold
    assert gpu_share.room_for_images(LARGE, [card(8)]) == 0
    # One that cannot hold a fold does not count.
    assert gpu_share.room_for_images(SMALL, [card(80), card(1, 1)]) == int(SHARE * 80 * GB) - fold
    assert gpu_share.room_for_images(None, cards) == int(0.4 * 80 * GB)
    assert gpu_share.room_for_images(None, ()) is None


def test_several_gpus_each_train_folds(tmp_path, gpus):
    gpus(80, 80, 80, 80)
    processes = gpu_share.processes_of(gpu_job(tmp_path, epochs=200), 5)
    assert [one.device for one in processes] == ["cuda:0", "cuda:1", "cuda:2", "cuda:3", "cuda:0"]


def test_too_little_memory_for_one_image_says_what_would_fit(tmp_path, gpus):
    gpus(4)
    job = gpu_job(tmp_path, memory=memory_with(training=9000, inference=1))
    words = r"--img-size 32x32: a fold needs 1\d\.\d GB of GPU memory with the smallest passes, and"
    words += r" cuda:0 has 4\.0 GB free; pass a smaller --batch-size or --backbone, or --device cpu"
    with pytest.raises(UserError, match=words):
        gpu_share.processes_of(job, 6)


def test_a_smaller_size_that_would_fit_keeps_the_shape(tmp_path, gpus):
    gpus(6)
    job = gpu_job(tmp_path, memory=memory_with(training=9000, inference=1, batch=1))
    preprocess = dataclasses.replace(job.run.preprocess, width=512, height=1024)
    job = dataclasses.replace(job, run=dataclasses.replace(job.run, preprocess=preprocess))
    with pytest.raises(UserError, match=r"; --img-size 320x640 would fit, or pass a smaller"):
        gpu_share.processes_of(job, 6)


def test_fewer_folds_than_asked_for_are_said(tmp_path, gpus):
    gpus(5)
    said = []
    job = gpu_job(tmp_path, said.append, parallel_folds=5)
    assert len(gpu_share.processes_of(job, 6)) == 2
    assert said[-1] == (
        "--parallel-folds 5: 2 at the same time, as no more fit into GPU memory with whole batches"
    )


def test_a_single_fold_goes_to_the_gpu_with_most_memory(tmp_path, gpus):
    gpus(3, 80)
    assert [one.device for one in gpu_share.processes_of(gpu_job(tmp_path), 6)] == ["cuda:1"]


def test_on_the_cpu_the_number_that_was_asked_for_counts(tmp_path):
    assert len(gpu_share.processes_of(fake_job(tmp_path, print), 6)) == 1
    assert len(gpu_share.processes_of(fake_job(tmp_path, print, parallel_folds=8), 6)) == 6


def test_processes_share_images_only_where_there_are_several(tmp_path, gpus, monkeypatch):
    monkeypatch.setattr(ImageSource, "device_bytes", 2 * GB)
    gpus(24)
    processes = gpu_share.processes_of(gpu_job(tmp_path, epochs=84), 6)
    assert len(processes) == 6
    assert all(one.shares_images and one.holds_images for one in processes)
    process = gpu_share.processes_of(gpu_job(tmp_path), 6)[0]
    assert process.holds_images
    assert not process.shares_images


class Tool:
    """A stand-in for nvidia-smi."""

    def __init__(self, text):
        self.text = text

    def __call__(self, command, **_):
        assert command[0] == "/bin/nvidia-smi"
        return SimpleNamespace(stdout=self.text.encode("latin-1"))


@pytest.fixture
def two_gpus(monkeypatch):
    def properties(number):
        names = ("NVIDIA A100", "NVIDIA A100 MIG 1g.10gb")
        return SimpleNamespace(name=names[number], uuid=f"id-{number}")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    monkeypatch.setattr(gpu_cards, "free_memory", lambda device: (device.index + 1) * GB)
    monkeypatch.setattr(gpu_cards.shutil, "which", lambda name: f"/bin/{name}")


def test_modes_of_gpus_are_those_of_nvidia_smi(two_gpus, monkeypatch):
    rows = "Fähigkeiten sind unbekannt\nGPU-id-1, 9, Default, [N/A]\n"
    rows += "GPU-id-0, 1000, Exclusive_Process, Disabled\n"
    monkeypatch.setattr(gpu_cards.subprocess, "run", Tool(rows))
    first, second = cards_of("cuda")
    free = 1000 * 2**20
    assert (first.name, first.free, first.alone, first.mig) == ("cuda:0", free, True, False)
    # Its free memory is not that of the whole GPU.
    assert (second.name, second.free, second.alone, second.mig) == ("cuda:1", 2 * GB, False, True)
    assert [one.name for one in cards_of("cuda:1")] == ["cuda:1"]
    assert cards_of("cpu") == ()


@pytest.mark.parametrize("error", [FileNotFoundError(), subprocess.TimeoutExpired("nvidia-smi", 1)])
def test_without_nvidia_smi_the_usual_mode_is_assumed(two_gpus, monkeypatch, error):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(gpu_cards.subprocess, "run", fails)
    assert [one.alone for one in cards_of("cuda")] == [False, False]


REAL = [
    ("efficientnet_b3", 288, 64),
    ("resnet18", 224, 256),
    ("vit_base_patch16_224", 224, 64),
    ("tf_efficientnet_b5", 456, 32),
]


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "side", "batch"), REAL)
def test_five_folds_of_real_models_are_planned_as_recorded(tmp_path, backbone, side, batch):
    job = fake_job(
        tmp_path,
        print,
        manifest=SimpleNamespace(num_classes=18),
        backbone=backbone,
        img_size=f"{side}x{side}",
        batch_size=batch,
        validation_batch_size=256,
    )
    preprocess = dataclasses.replace(job.run.preprocess, width=side, height=side)
    fold_RN = np.arange(6000)[None] % 6
    memory = memory_of(dataclasses.replace(job.run, preprocess=preprocess, fold_RN=fold_RN))
    recorded = json.loads((ROOT / "benchmarks" / "gpu_plan.json").read_text())
    plans = recorded[f"{backbone} at {side}, batch {batch}, demo, 2 cores"]["result"]
    for free in (16, 24, 80):
        for num_cards in (1, 4):
            cards = [card(0.97 * free * 2**30 / GB, number) for number in range(num_cards)]
            found = plan_cards(memory, cards, num_folds=5, images=20_000 * side**2 * 3)
            expected = plans[f"{num_cards} x {free} GB"]
            assert shares(found) == expected["at_once"]
            assert found[0].limits.micro_batch == expected["micro_batch"]
            assert max(plan.used for plan in found) / 2**30 == pytest.approx(
                expected["GB_used"], rel=0.02
            )
