"""Processes that train a fold together: their parts, their gradients and what is refused."""

import numpy as np
import pandas as pd
import pytest
import torch

from foldblend import commands
from foldblend.errors import UserError
from foldblend.torchrun import World
from pipeline.config.settings import make_config
from pipeline.data.dataset import eval_loader, train_loader
from pipeline.data.parts import Part
from pipeline.models.backbones import build_model
from pipeline.processes import check_processes
from pipeline.training.batch_norm import with_synced_norm
from pipeline.training.team import is_lost, joined
from tests.makers.constants import ROOT
from tests.makers.team_steps import CASES, Images, step_of
from tests.makers.torchruns import torchrun

TWO = World(rank=0, size=2, local_rank=0, local_size=2)


@pytest.fixture(scope="module", params=[2, 3])
def steps(request, tmp_path_factory):
    """Return what each process of a team has found, by case."""
    folder = tmp_path_factory.mktemp("steps")
    ran = torchrun(request.param, ROOT / "tests" / "makers" / "team_steps.py", folder)
    assert ran.returncode == 0, ran.stderr
    return [torch.load(folder / f"{rank}.pt") for rank in range(request.param)]


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_one_process(case, steps):
    alone = step_of(case)
    for step in [one[case] for one in steps]:
        for name, gradient in alone.gradients.items():
            assert (step["gradients"][name] - gradient).abs().max() < 1e-6, name
        assert step["loss"] == pytest.approx(alone.loss, abs=1e-6)
    # No image is loaded by two processes.
    assert sum(one[case]["loaded"] for one in steps) == alone.loaded


def test_a_weight_without_gradient_is_told_in_the_first_step(steps):
    for one in steps:
        assert "its weight idle has no part in the output" in one["idle"]["error"]


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("accumulated", [1, 3])
def test_parts_of_a_step_are_equal_and_have_each_row_once(size, accumulated):
    num = 12 * accumulated
    parts = [Part(rank, size).of_step(num, 12) for rank in range(size)]
    assert sorted(np.concatenate([np.concatenate(rows) for rows in parts])) == [*range(num)]
    assert {len(rows) for part in parts for rows in part} == {12 // size}
    # Each forward pass has the rows of one process's, so that batch norm may see them all.
    for number in range(accumulated):
        together = sorted(np.concatenate([part[number] for part in parts]))
        assert together == [*range(12 * number, 12 * (number + 1))]


@pytest.mark.parametrize("num", [1, 7, 8, 9, 40, 41])
def test_each_row_is_predicted_by_one_process_in_the_batch_of_a_single_one(num):
    whole = [images for images, _ in eval_loader(Images(num), batch_size=8, workers=0)]
    for size in (1, 2, 3):
        found = []
        for rank in range(size):
            loader = eval_loader(Images(num), batch_size=8, workers=0, part=Part(rank, size))
            batches = [images for images, _ in loader]
            assert len(batches) == len(loader)
            assert sum(map(len, batches)) == len(Part(rank, size).of_table(num, 8))
            for number, images in enumerate(batches):
                assert torch.equal(images, whole[rank + number * size])
            rows = Part(rank, size).of_table(num, 8).astype(np.float32)
            found.append(rows.reshape(1, -1, 1) if len(batches) else None)
        places = [Part(rank, size).of_table(num, 8) for rank in range(size)]
        assert joined(found, places)[0, :, 0].tolist() == [*range(num)]


def test_rows_that_two_processes_have_are_not_joined():
    with pytest.raises(AssertionError, match="several"):
        joined([np.zeros((1, 2, 1)), np.zeros((1, 1, 1))], [np.array([0, 1]), np.array([1])])


def test_training_batches_continue_at_a_step():
    data = Images(48)
    table = pd.DataFrame({"image_id": range(48), "label": data.label_N})
    shape = {"batch_size": 16, "split": 8, "workers": 0}
    loader = train_loader(data, table, **shape, part=Part(1, 2))
    loader.enter(2, 1)
    batches = [labels.tolist() for _, labels in loader]
    assert len(batches) == 2
    own = Part(1, 2).rows(16, 8)
    assert batches == [loader.labels(2, step)[own].tolist() for step in (1, 2)]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch_size": 15}, ["--batch-size 15", "--nproc-per-node 2", "--batch-size 16"]),
        ({"finetune": "head"}, ["--finetune head", "without torchrun"]),
        ({"soup": True, "seeds": 3}, ["--soup", "without torchrun"]),
        ({"lr": "find"}, ["--lr find", "--lr auto"]),
        ({"parallel_folds": "2"}, ["--parallel-folds 2", "leave it out"]),
        ({"backend": "ray"}, ["--backend ray", "without torchrun"]),
        ({"device": "cuda:1"}, ["--device cuda:1", "--device cuda"]),
    ],
)
def test_what_processes_cannot_share_is_refused(settings, words):
    config = make_config(settings)
    check_processes(config, World())
    with pytest.raises(UserError) as refused:
        check_processes(config, TWO)
    for word in words:
        assert word in str(refused.value)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="--nproc-per-node 2: this machine has 1 CUDA device;"):
        check_processes(make_config({"device": "cuda"}), TWO)


def test_several_machines_are_refused():
    with pytest.raises(UserError, match="--nnodes"):
        check_processes(make_config({}), World(0, 4, 0, 2))


def test_a_fold_with_fewer_rows_than_processes_is_refused():
    Part(0, 2).check(100, 8, 2)
    Part(0, 2).check(2, 8, 2)
    with pytest.raises(UserError, match="--nproc-per-node 2: a fold has 1 training row,"):
        Part(0, 2).check(1, 8, 1)


@pytest.mark.parametrize("name", ["blend", "predict", "plan"])
def test_other_commands_are_refused_by_the_first_process_alone(name, monkeypatch, capsys):
    start = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "1"}
    for key, value in start.items():
        monkeypatch.setenv(key, value)
    for rank, code in (("0", 2), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setattr("foldblend.commands.world_of", lambda rank=rank: World(int(rank), 2))
        assert getattr(commands, name)(["x"]) == code
        said = capsys.readouterr().err
        assert said.count("\n") == (code == 2)
        assert not said or f"python {name}.py" in said


def test_synced_batch_norm_has_the_names_and_outputs_of_the_model():
    model = build_model("test_resnet", num_classes=3, kwargs={}, weights=None, join=None).eval()
    pixels = torch.randn(2, 3, 32, 32)
    before = model(pixels)
    names = [*model.state_dict()]
    synced = with_synced_norm(model).eval()
    assert [*synced.state_dict()] == names
    assert any(isinstance(one, torch.nn.SyncBatchNorm) for one in synced.modules())
    assert torch.equal(synced(pixels), before)


def test_errors_of_connections_are_told_from_others():
    assert is_lost(RuntimeError("[/pytorch/gloo/transport/tcp/pair.cc:534] Connection closed"))
    assert not is_lost(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_lost(UserError("Connection closed by peer"))
