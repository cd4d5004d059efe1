"""A search whose trials train their backbone: a clear loser stops early, a cut one goes on."""

import cv2
import numpy as np
import pytest

from pipeline.search.trials import Trials
from tests.makers.searches import study_of, tuner

pytestmark = pytest.mark.slow

TRAINS = {
    "finetune": "full",
    "head_l2": "auto",
    "folds": 2,
    "epochs": 8,
    "batch_size": 8,
    "lr": 0.01,
    "optuna_sampler": "BruteForceSampler",
    "trials": 2,
}


class Killed(BaseException):
    """Stands for the end of a process."""


@pytest.fixture
def tune(tmp_path):
    """Return `fb.tune` with red and blue images, and a space with a learning rate of nothing."""
    rng = np.random.default_rng(0)
    for channel, name in enumerate(("blue", "red")):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        for number in range(30):
            image = rng.integers(60, size=(32, 32, 3), dtype=np.uint8)
            image[:, :, 2 * channel] += 150
            cv2.imwrite(str(folder / f"{number}.png"), image)
    call = tuner(tmp_path / "data", tmp_path)
    (tmp_path / "space.yaml").write_text("lr: [0.01, 1.0e-9]\n")
    return call


def test_a_clear_loser_stops_early_and_a_cut_one_goes_on(tune, tmp_path, monkeypatch):
    goes_on = Trials.goes_on

    def cut(self, claim, value, *, step):
        raise Killed

    monkeypatch.setattr(Trials, "goes_on", cut)
    with pytest.raises(Killed):
        tune(**TRAINS)
    monkeypatch.setattr(Trials, "goes_on", goes_on)
    folders = tmp_path / "outputs" / "s" / "trials"
    before = {file: file.stat().st_mtime_ns for file in folders.rglob("done.json")}
    # Both folds of the settings of the command, and one of the trial that was cut off.
    assert len(before) == 3
    lines = []
    best = tune(say=lines.append, **TRAINS)
    assert {file: file.stat().st_mtime_ns for file in folders.rglob("done.json")} == before
    assert any("trial_00002 stopped early" in line for line in lines)
    search = best.info["search"]
    assert (search["trial"], search["num_trials"], search["num_pruned"]) == ("default", 2, 1)
    states = [one.state.name for one in study_of(tmp_path / "outputs").trials]
    assert states == ["COMPLETE", "FAIL", "PRUNED"]
