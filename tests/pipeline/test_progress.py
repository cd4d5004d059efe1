"""Progress of a run: steps of all folds, other processes and earlier runs are added up."""

import pickle

import pytest

from foldblend.progress import duration
from pipeline.watch import progress as module
from pipeline.watch.progress import FoldProgress, Progress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def steps(progress, num, *, done=0, epochs=4, each=5, clock=None, seconds=2):
    with FoldProgress(progress, "fold 0", epochs=epochs, steps=each, done_steps=done) as fold:
        for _ in range(num):
            if clock is not None:
                clock[0] += seconds
            fold.step()


def test_time_left_covers_all_folds(clock):
    progress = Progress(3)
    assert progress.left() == ""
    steps(progress, 20, clock=clock)
    assert (progress.done, progress.total) == (20, 60)
    assert progress.left() == "about 80 s left"


def test_steps_of_an_earlier_process_do_not_count(clock):
    progress = Progress(2)
    steps(progress, 5, done=15, clock=clock)
    assert (progress.done, progress.total) == (5, 25)
    assert progress.left() == "about 40 s left"
    steps(progress, 0)
    assert progress.total == 25


def test_a_child_process_reports_its_steps():
    here = Progress(2)
    told = []

    def tell(method, num):
        told.append((method, num))
        getattr(here, method)(num)

    steps(Progress(1, tell=tell), 12)
    assert (here.done, here.total) == (12, 40)
    assert [num for method, num in told if method == "add"] == [5, 5, 2]  # one report per epoch
    assert Progress(1, tell=tell).left() == ""


def test_bars_are_not_pickled():
    again = pickle.loads(pickle.dumps(Progress(7)))
    again.expect(3)
    assert again.task is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (99, "99 s"), (600, "10 min"), (7200, "2.0 h")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text
