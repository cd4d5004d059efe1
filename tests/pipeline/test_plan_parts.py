"""Parts of a plan that need no images: times, sizes, order, speeds."""

import dataclasses
import math
import signal
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foldblend.errors import UserError
from pipeline.config.run import MachineConfig
from pipeline.plan.estimate import (
    Size,
    Speed,
    fold_seconds,
    frozen_seconds,
    run_seconds,
)
from pipeline.plan.portfolio import BACKBONES, Candidate, in_order, quality
from pipeline.plan.sizes import fitted_size
from pipeline.plan.speeds import speeds_as_data, speeds_in
from pipeline.time_limit import Clock, TimeUp, parse_limit

SIZE = Size(num_train=500, num_labelled=520, num_test=100, num_folds=5, num_classes=10)
SPEED = Speed(read=0.001, infer=0.01, train=0.03, pixels=10_000, engine="onnx", memory=10**9)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("45m", 2700), ("2h", 7200), ("1h30m", 5400), ("90s", 90), ("90", 90), ("1.5h", 5400)],
)
def test_a_time_limit_is_read(text, seconds):
    assert parse_limit(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "soon", "-5m", "5 m", "m", "1d", "nan", "1e9h", "31d"])
def test_another_time_limit_is_refused(text):
    with pytest.raises(UserError, match="--time-limit"):
        parse_limit(text)


def test_an_alarm_ends_a_block_and_leaves_no_timer_behind():
    before = signal.getsignal(signal.SIGALRM)
    clock = Clock(0.05)
    with pytest.raises(TimeUp), clock.alarm(0.0):
        time.sleep(60)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is before


def test_no_alarm_is_set_without_a_limit_or_outside_of_the_main_thread():
    with Clock(None).alarm(0.0):
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    seen = []

    def work():
        with Clock(0.01).alarm(0.0):
            seen.append(signal.getitimer(signal.ITIMER_REAL))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(0.0, 0.0)]


@given(
    pixels=st.floats(32 * 32, 1e6),
    width=st.integers(16, 6000),
    height=st.integers(16, 6000),
    multiple=st.sampled_from([1, 8, 14, 32]),
)
def test_an_input_fits_the_images(pixels, width, height, multiple):
    found = fitted_size(pixels, (width, height), multiple=multiple)
    for side, of_image in zip(found, (width, height), strict=True):
        assert side % multiple == 0 or side == 32
        # Not enlarged, but for the rounding and the least size.
        assert side <= max(of_image + multiple, 32, multiple)


def test_an_input_keeps_the_shape_of_the_images():
    assert fitted_size(224 * 224, (3000, 4000), multiple=8) == (192, 256)
    assert fitted_size(224 * 224, (4000, 3000), multiple=8) == (256, 192)
    assert fitted_size(224 * 224, (28, 28), multiple=8) == (32, 32)


def test_estimates_count_what_is_done():
    assert SIZE.num_learnt == 420
    assert SIZE.num_held_out == 100
    # Ten epochs of 420 images that are learnt and 100 that are predicted, 100 for the test set.
    assert fold_seconds(SIZE, SPEED, 10) == pytest.approx(10 * 420 * 0.03 + 1100 * 0.01, abs=2)
    assert frozen_seconds(SIZE, SPEED) > 620 * 0.011
    repeated = dataclasses.replace(SIZE, num_repeats=2)
    longer = run_seconds(repeated, SPEED, 10) - run_seconds(SIZE, SPEED, 10)
    assert longer == pytest.approx(5 * fold_seconds(SIZE, SPEED, 10))


@given(st.integers(1, 50), st.integers(1, 50))
def test_more_epochs_and_more_pixels_take_longer(epochs, times):
    assert run_seconds(SIZE, SPEED, epochs + 1) > run_seconds(SIZE, SPEED, epochs)
    larger = SPEED.at(SPEED.pixels * times + 1)
    assert run_seconds(SIZE, larger, epochs) > run_seconds(SIZE, SPEED, epochs)


def candidate(backbone=0, *, tuned=False, scale=1.0, seconds=10.0):
    side = round(224 * math.sqrt(scale))
    return Candidate(
        backbone=BACKBONES[backbone],
        width=side,
        height=side,
        usual_pixels=224 * 224,
        fine_tuned=tuned,
        seconds=seconds,
    )


candidates = st.lists(
    st.builds(
        candidate,
        st.integers(0, len(BACKBONES) - 1),
        tuned=st.booleans(),
        scale=st.sampled_from([0.5, 1.0, 2.0]),
        seconds=st.floats(1.0, 1000.0) | st.just(math.inf),
    ),
    max_size=12,
)


@given(candidates, st.floats(0, 2000))
def test_chosen_runs_fit_into_the_time_and_no_other_would(found, seconds):
    chosen = in_order(found, seconds=seconds)
    used = sum(one.seconds for one in chosen)
    assert used <= seconds + 1e-6
    left = [*found]
    for one in chosen:
        left.remove(one)
    assert all(one.seconds > seconds - used - 1e-6 for one in left)


def test_of_equal_cost_the_better_one_comes_first_and_families_take_turns():
    small = candidate(0)
    large = candidate(2)
    assert in_order([small, large], seconds=100)[0] == large
    # A third of one family comes after a worse one of another family.
    same = [candidate(5), candidate(4), candidate(4, scale=0.5)]
    other = candidate(3)
    assert in_order([*same, other], seconds=100).index(other) < 3


def test_fine_tuning_and_larger_images_count_as_better():
    assert quality(candidate(tuned=True)) > quality(candidate())
    assert quality(candidate(scale=2.0)) > quality(candidate(scale=1.0))


def machine(**more):
    return dataclasses.replace(MachineConfig(device="cpu", threads=2), **more)


def test_speeds_survive_a_plan_file_on_the_same_machine_only():
    data = speeds_as_data({"small": SPEED}, machine())
    assert speeds_in(data, machine()) == {"small": SPEED}
    assert speeds_in(data, machine(threads=1)) == {}
    assert speeds_in(None, machine()) == {}


@pytest.mark.parametrize(
    "wrong", [{"infer": -1}, {"infer": "fast"}, {"more": 1}, {"infer": True}, {"train": math.inf}]
)
def test_a_damaged_speed_is_measured_again(wrong):
    data = speeds_as_data({"small": SPEED, "large": SPEED}, machine())
    data["backbones"]["small"] |= wrong
    assert speeds_in(data, machine()) == {"large": SPEED}
