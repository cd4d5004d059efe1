"""Commands on a Ray cluster of two nodes, which give the bits of one process."""

import dataclasses
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

import foldblend as fb
from foldblend.cluster.cluster import opened
from foldblend.errors import UserError
from foldblend.runs.run import Run
from pipeline.cluster.speed import room_for, speed_on
from pipeline.config.settings import make_config
from pipeline.plan.execute import execute
from pipeline.prepare import prepare
from pipeline.time_limit import Clock
from tests.makers.constants import ROOT
from tests.makers.plans import TUNED, small_plan
from tests.makers.ray_clusters import path_of_another, ray_nodes

pytestmark = pytest.mark.slow

SETTINGS = {
    "backbone": "test_efficientnet",
    "epochs": 2,
    "img_size": 32,
    "batch_size": 8,
    "pretrained": "none",
    "workers": 0,
    "threads": 1,
    "page": False,
    "log_pictures": False,
}


@pytest.fixture(scope="module")
def nodes():
    with ray_nodes(2) as made:
        yield made


@pytest.fixture
def on_ray(nodes):
    return {"backend": "ray", "ray_address": nodes.address}


# What a node records as the command.
SHOWN = [Path(sys.argv[0]).name, *sys.argv[1:]]


def quiet(line):
    pass


def same(one, other):
    pd.testing.assert_frame_equal(one.oof, other.oof, check_exact=True)
    pd.testing.assert_frame_equal(one.test, other.test, check_exact=True)


def test_five_folds_of_two_nodes_of_which_one_dies_have_the_bits_of_one_process(
    nodes, on_ray, tiny_layout, tmp_path
):
    settings = SETTINGS | {"data": tiny_layout, "folds": 5, "epochs": 6, "save_every": 0}
    serial = fb.cross_validate(say=quiet, output=tmp_path, name="serial", **settings)
    lines = []
    victims = [nodes.nodes[0]]

    def say(line):
        lines.append(line)
        if victims and re.match(r"fold \d epoch 2/", line):
            nodes.kill(victims.pop())

    made = fb.cross_validate(say=say, output=tmp_path, name="ray", **settings | on_ray)
    nodes.add()
    assert any("was lost, as its node" in line for line in lines), lines
    assert any("continued at epoch" in line for line in lines), lines
    same(made, serial)
    assert all(one["environment"]["command"] == SHOWN for one in made.info["folds"])
    assert (made.path / "logs" / "fold_0.log").read_text()
    assert not [*made.path.glob(".lock-fold*")]
    assert Run(made.path).settings["backend"] == "local"


def test_heads_refits_views_and_predictions_have_the_bits_of_one_process(
    on_ray, tiny_layout, tmp_path
):
    given = SETTINGS | {"data": tiny_layout, "folds": 2, "say": quiet}
    for name, more in (("full", {"refit": "full"}), ("heads", {"finetune": "head"})):
        here = fb.cross_validate(output=tmp_path / "here", name=name, **given, **more)
        there = fb.cross_validate(output=tmp_path / "ray", name=name, **given, **more, **on_ray)
        same(here, there)
        views = {"views": "hflip,scale:1.1", "page": False, "say": quiet}
        same(fb.run_tta(here, **views), fb.run_tta(there, **views, **on_ray))
        images = sorted((tiny_layout / "eval" / "images").iterdir())
        wanted = fb.predict(here, images, say=quiet)
        found = fb.predict(there, images, say=quiet, **on_ray)
        pd.testing.assert_frame_equal(found, wanted, check_exact=True)


def test_trials_and_plans_train_on_the_nodes(on_ray, tiny_layout, tmp_path):
    given = SETTINGS | {"data": tiny_layout, "folds": 2, "epochs": 1, **on_ray}
    space = tmp_path / "space.yaml"
    space.write_text("lr: [0.001, 0.002]\n")
    lines = []
    best = fb.tune(
        space=space, trials=2, prune=False, output=tmp_path, name="best", say=lines.append, **given
    )
    assert best.info["status"] == "done"
    assert any(line.startswith("Ray cluster: 3 nodes") for line in lines)
    plan = small_plan(tiny_layout, tmp_path, TUNED)
    plan = dataclasses.replace(plan, settings={**plan.settings, **on_ray})
    assert execute(plan, Clock(None), say=quiet).info["kind"] == "blend"
    assert (plan.runs_folder / "tuned" / "logs" / "fold_0.log").is_file()


def test_speeds_and_room_for_plans_are_those_of_the_nodes(on_ray, tiny_layout, tmp_path):
    config = make_config(SETTINGS, data=tiny_layout, folds=2, output=tmp_path, **on_ray)
    run = prepare(config, quiet)
    with opened("ray", on_ray["ray_address"], quiet) as cluster:
        assert room_for(cluster, run) == 2
        speed = speed_on(cluster, run, learns=True)
    assert min(speed.read, speed.infer, speed.train) > 0


def test_a_client_outside_of_the_cluster_trains_in_it(nodes, tiny_layout, tmp_path):
    given = SETTINGS | {"data": tiny_layout, "folds": 2, "output": tmp_path, "say": quiet}
    serial = fb.cross_validate(name="serial", **given)
    # Ray keeps one connection per process, so this is another process.
    words = [
        f"--{name.replace('_', '-')}={value}"
        for name, value in given.items()
        if name not in ("say", "page", "log_pictures")
    ]
    command = [sys.executable, ROOT / "run_cv.py", *words, "--no-page", "--no-log-pictures"]
    command += ["--name", "client", "--backend", "ray", "--ray-address", nodes.client]
    subprocess.run([*map(str, command)], check=True, capture_output=True)
    same(Run(tmp_path / "client"), serial)


def test_ctrl_c_ends_all_processes_and_keeps_the_checkpoints(nodes, tiny_layout, tmp_path):
    command = [sys.executable, str(ROOT / "run_cv.py"), "--data", str(tiny_layout)]
    command += ["--backbone", "test_resnet", "--pretrained", "none", "--epochs", "2000"]
    command += ["--folds", "2", "--img-size", "32", "--save-every", "0", "--threads", "1"]
    command += ["--output", str(tmp_path), "--name", "a", "--backend", "ray"]
    command += ["--ray-address", nodes.address]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    for line in process.stdout:
        if re.search(r"epoch [2-9]/", line):
            break
    assert nodes.workers()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip() == "stopped; the same command continues where it stopped"
    deadline = time.monotonic() + 20
    while nodes.workers() and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not nodes.workers()
    assert [*tmp_path.glob("a/fold_*/last.ckpt")]


def test_a_node_with_another_version_is_refused(nodes, on_ray, tiny_layout, tmp_path):
    path = path_of_another(tmp_path / "other", "timm", "0.0.1")
    other = nodes.add(env_vars={"PYTHONPATH": path})
    try:
        with pytest.raises(UserError, match=r"node .* has timm 0\.0\.1, and this machine has"):
            fb.cross_validate(
                say=quiet, output=tmp_path / "out", name="a", **SETTINGS, data=tiny_layout, **on_ray
            )
    finally:
        nodes.kill(other)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_the_nodes_do_not_share_is_refused(
    on_ray, tiny_layout, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    # In each process it is another folder.
    place = "/proc/self/cwd/out"
    with pytest.raises(UserError, match=r"--output .*: node .* does not share this folder"):
        fb.cross_validate(say=quiet, output=place, name="a", **SETTINGS, data=tiny_layout, **on_ray)
    assert not (tmp_path / "out").exists()


def test_images_that_the_nodes_do_not_see_are_refused(on_ray, tiny_layout, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for number, image in enumerate(sorted((tiny_layout / "eval" / "images").iterdir())[:8]):
        (tmp_path / "here" / f"{number}.jpg").symlink_to(image)
    names = [f"/proc/self/cwd/{number}.jpg" for number in range(8)]
    table = pd.DataFrame({"image": names, "label": ["x", "y"] * 4, "group": range(8)})
    table.to_csv("table.csv", index=False)
    with pytest.raises(UserError, match="does not see this file; put it under a path"):
        fb.cross_validate(
            say=quiet,
            output=tmp_path / "out",
            name="a",
            **SETTINGS,
            csv="table.csv",
            folds=2,
            image_col="image",
            label_col="label",
            group_col="group",
            **on_ray,
        )
    assert not (tmp_path / "out").exists()
