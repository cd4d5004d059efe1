"""Deployment costs of runs, on run folders that are written without training."""

import shutil

import pytest

from foldblend.errors import UserError
from foldblend.runs.costs import (
    device_of,
    num_models,
    num_passes,
    pass_seconds,
    passes_per_view,
    picture_seconds,
)
from foldblend.runs.folder import write_json
from foldblend.runs.run import Run
from tests.makers.small_runs import GPU, LABELS, folds, write_run


@pytest.mark.parametrize(
    ("config", "repeats", "passes"),
    [({}, 1, 4), ({}, 2, 8), ({"finetune": "head"}, 2, 2)],
    ids=["folds and views", "repeats", "heads share a backbone"],
)
def test_seconds_are_passes_times_the_median_over_folds(tmp_path, config, repeats, passes):
    """There are two folds with two views each; the median speed is 20 views per second."""
    speeds = [30.0, 10.0] if repeats == 1 else [40.0, 10.0, 20.0, 20.0]
    run = Run(
        write_run(
            tmp_path / "run",
            [LABELS] * repeats,
            config=config,
            folds=folds(*speeds),
        )
    )
    assert num_models(run) == 2 * repeats
    assert passes_per_view(run) == passes / 2
    assert num_passes(run) == passes
    assert pass_seconds(run) == pytest.approx(0.05)
    assert picture_seconds(run) == pytest.approx(passes * 0.05)


@pytest.mark.parametrize(
    "info", [{}, {"folds": []}, {"folds": [{"score": 1.0}] * 2}, {"folds": folds(None, None)}]
)
def test_seconds_are_unknown_if_not_measured(tmp_path, info):
    assert picture_seconds(Run(write_run(tmp_path / "run", LABELS, **info))) is None


def test_tta_runs_and_blends_record_their_costs(tmp_path):
    info = {"passes": 7, "picture_seconds": 0.5, "device": "Big", "folds": folds(10.0)}
    info |= {"members": [{"name": "a", "oof": "0"}], "of": {"name": "a", "oof": "0"}}
    for kind in ("tta", "blend"):
        run = Run(write_run(tmp_path / kind, LABELS, kind=kind, **info))
        assert (num_passes(run), picture_seconds(run), device_of(run)) == (7, 0.5, "Big")
    old = Run(write_run(tmp_path / "old", LABELS, kind="blend", views=[], members=info["members"]))
    assert picture_seconds(old) is None
    assert device_of(old) is None
    with pytest.raises(UserError, match="does not record what it costs; blend its members again"):
        num_passes(old)


@pytest.mark.parametrize(
    ("config", "machine", "device"),
    [
        ({"device": "cpu", "threads": 2}, GPU, "Abacus 9, threads: 2"),
        ({"device": "cuda:1", "threads": 2}, GPU, "Small"),
        ({"device": "cuda"}, GPU, "Big and Small"),
        ({"device": "cuda"}, GPU | {"gpus": ["Big", "Big"]}, "Big"),
        ({"device": "cuda:7"}, GPU, None),
        ({}, GPU, None),
        ({"device": "cpu"}, {}, None),
    ],
)
def test_the_device_is_the_one_that_was_used(tmp_path, config, machine, device):
    run = Run(
        write_run(tmp_path / "run", LABELS, config=config, folds=folds(1.0, 1.0, machine=machine))
    )
    assert device_of(run) == device
    begun = write_run(tmp_path / "begun", LABELS, config=config)
    assert device_of(Run(begun)) is None
    write_json(begun / "env.json", machine)
    assert device_of(Run(begun)) == device


def test_folds_of_two_machines_have_no_common_device(tmp_path):
    both = [*folds(1.0), *folds(1.0, machine=GPU | {"processor": "Abacus 10"})]
    assert (
        device_of(Run(write_run(tmp_path / "run", LABELS, config={"device": "cpu"}, folds=both)))
        is None
    )


def test_a_trained_run_is_measured(alpha, tmp_path):
    """Compare with the speeds of a run of two folds with two views each."""
    speeds = [fold["infer_images_per_s"] for fold in alpha.info["folds"]]
    assert num_passes(alpha) == 4
    assert picture_seconds(alpha) == pytest.approx(4 / (sum(speeds) / 2))
    assert (
        device_of(alpha).endswith("threads: 1")
        or "cuda" in (alpha.path / "config.yaml").read_text()
    )
    shutil.copytree(alpha.path, tmp_path / "alpha")
    (tmp_path / "alpha" / "config.yaml").write_text("{")
    assert device_of(Run(tmp_path / "alpha")) is None
