"""Calibrated probabilities: when the temperature is kept, and what is read from a run folder."""

import shutil

import numpy as np
import pandas as pd
import pytest

from foldblend.errors import UserError
from foldblend.runs.calibrated import (
    PLAIN_OOF,
    PLAIN_TEST,
    Calibration,
    calibration_of,
    conformal_of,
    coverage_of,
    has_plain,
    plain_oof,
    plain_test,
)
from foldblend.runs.folder import write_table
from foldblend.runs.oof import oof_rows
from foldblend.runs.rows import write_submission
from foldblend.runs.run import Run
from foldblend.runs.submission import SubmissionForm
from foldblend.scores.calibration import calibrate
from foldblend.scores.metrics import softmax
from foldblend.scores.rows import Rows
from tests.makers.synthetic_runs import write_synthetic_run


def simulated(num, temperature, seed=0):
    """Return float32 logits whose best temperature is `temperature`, and their rows."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(num, 4)) * 2
    label = (softmax(logits).cumsum(axis=1) > rng.random((num, 1))).argmax(axis=1)
    group = np.arange(num) // 4
    rows = Rows.of(label, group, fold_N=group % 5)
    return (logits * temperature).astype(np.float32), rows


@pytest.mark.parametrize("temperature", [0.4, 3.0])
def test_the_true_temperature_is_applied(temperature):
    logits, rows = simulated(8_000, temperature)
    found = calibrate(logits, rows)
    assert found.temperature == found.fitted == pytest.approx(temperature, rel=0.06)
    assert found.why_not is None
    assert found.log_loss > found.log_loss_after
    assert found.ece > 0.05 > 0.02 > found.ece_after
    np.testing.assert_allclose(found.proba(logits), softmax(logits / temperature), atol=0.03)


def test_a_temperature_that_does_not_help_is_not_applied():
    kept = []
    for seed in range(20):
        logits, rows = simulated(400, 1.0, seed)
        found = calibrate(logits, rows)
        kept.append(found.why_not is None)
        if not kept[-1]:
            assert found.temperature == 1
            assert found.fitted != 1
            assert "held-out groups" in found.why_not
            np.testing.assert_array_equal(found.proba(logits), softmax(logits))
    assert sum(kept) <= 4


def test_one_fold_has_no_held_out_groups():
    logits, rows = simulated(400, 3.0)
    found = calibrate(logits, rows.in_folds(np.zeros(400, int)))
    assert found.temperature == 1
    assert found.log_loss_after is None is found.ece_after
    assert found.why_not == "there is only one fold or group"
    one_group = Rows.of(rows.label_N, np.zeros(400, int), fold_N=rows.fold_N)
    assert calibrate(logits, one_group).why_not == found.why_not


def test_predictions_without_an_error_are_not_sharpened():
    logits, rows = simulated(400, 1.0)
    right = Rows.of(logits.argmax(axis=1), rows.group_N, fold_N=rows.fold_N)
    found = calibrate(logits, right)
    assert found.temperature == 1
    assert found.log_loss_after < found.log_loss
    assert "no prediction is wrong" in found.why_not


def test_folds_that_split_groups_are_replaced():
    logits, rows = simulated(400, 3.0)
    split = rows.in_folds(np.arange(400) % 5)
    assert calibrate(logits, split).temperature == calibrate(logits, rows).temperature != 1


def test_repeats_classes_without_rows_and_the_order_of_rows():
    logits, rows = simulated(400, 3.0)
    once = calibrate(logits, rows)
    # A class that never occurs, with a logit that is never large.
    wider = np.concatenate([logits, np.full((400, 1), -200, np.float32)], axis=1)
    at = np.random.default_rng(1).permutation(400)
    twice = Rows.of(
        np.tile(rows.label_N, 2),
        np.tile(rows.group_N, 2),
        repeat_N=np.repeat([0, 1], 400),
        fold_N=np.tile(rows.fold_N, 2),
    )
    for found in (
        calibrate(wider, rows),
        calibrate(logits[at], rows.take(at)),
        calibrate(np.tile(logits, (2, 1)), twice),
    ):
        for name, value in once.as_dict().items():
            if isinstance(value, float):
                assert getattr(found, name) == pytest.approx(value, rel=1e-4)
            else:
                assert getattr(found, name) == value


def test_a_calibration_is_the_same_after_it_was_written():
    made = calibrate(*simulated(400, 3.0))
    assert Calibration.from_dict(made.as_dict()) == made
    fields = made.as_dict()
    for wrong in (0.0, -1.0, float("inf"), float("nan"), "2", True, None):
        with pytest.raises(ValueError, match="not a positive number"):
            Calibration.from_dict(fields | {"temperature": wrong})
    with pytest.raises(ValueError, match="a calibration has"):
        Calibration.from_dict(fields | {"more": 1})
    with pytest.raises(ValueError, match="a calibration has"):
        Calibration.from_dict({"temperature": 1.0})


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    write_synthetic_run(folder / "a", num_people=30, num_test=12, strength=0.8)
    return folder


@pytest.fixture
def run(outputs, tmp_path):
    return Run(shutil.copytree(outputs / "a", tmp_path / "a"))


def test_the_calibration_depends_on_the_folder_alone(run):
    found = calibration_of(run)
    assert found == calibration_of(Run(run.path))
    assert found == calibrate(run.logits(run.oof), oof_rows(run))
    assert not has_plain(run)
    np.testing.assert_array_equal(plain_oof(run), run.logits(run.oof))
    assert plain_test(run) is run.test
    assert conformal_of(run).num_models == 5
    assert conformal_of(run).temperature == found.temperature
    assert coverage_of(run, 0.9).share.value == pytest.approx(0.9, abs=0.1)
    assert coverage_of(run, 0.9, by_class=True).width >= 1


def write_plain(run, *, factor=2.0, oof=None, test=None):
    """Write tables of logits without offsets that are those of the run times a factor."""
    for name, table in ((PLAIN_OOF, oof), (PLAIN_TEST, test)):
        given = run.oof if name == PLAIN_OOF else run.test
        made = given.copy() if table is None else table
        columns = [column for column in made if column.startswith("logit_")]
        made[columns] *= np.float32(factor)
        write_table(run.path / name, made)
    return Run(run.path)


def test_logits_without_offsets_come_from_their_own_files(run):
    written = write_plain(run)
    assert has_plain(written)
    np.testing.assert_array_equal(plain_oof(written), 2 * run.logits(run.oof))
    np.testing.assert_array_equal(written.logits(plain_test(written)), 2 * run.logits(run.test))
    assert calibration_of(written) == calibrate(2 * run.logits(run.oof), oof_rows(run))


def test_tables_of_other_rows_are_refused(run):
    write_plain(run, oof=run.oof.iloc[::-1].reset_index(drop=True))
    with pytest.raises(UserError, match=r"plain_oof\.parquet: not the rows of oof\.parquet"):
        plain_oof(Run(run.path))
    write_plain(run, test=run.test.iloc[:-1])
    with pytest.raises(UserError, match=r"plain_test\.parquet: not the images of test\.parquet"):
        plain_test(Run(run.path))
    write_plain(run, factor=np.inf)
    with pytest.raises(UserError, match="are not finite"):
        calibration_of(Run(run.path))


def test_a_submission_of_probabilities_is_calibrated(run):
    # Three times as sharp, so that a temperature is applied.
    write_plain(run, factor=3.0)
    classes = run.classes
    form = SubmissionForm(id_column="id", columns=classes, kind="probabilities", classes=range(18))
    write_submission(run.path, run.test, classes, form)
    calibration = calibration_of(Run(run.path))
    assert calibration.temperature > 1.5
    proba = calibration.proba(3 * run.logits(run.test))
    written = pd.read_csv(run.path / "submission.csv")
    np.testing.assert_allclose(written[list(classes)], proba, atol=1e-9)
    # Labels are those of the logits that decide.
    write_submission(run.path, run.test, classes)
    labels = pd.read_csv(run.path / "submission.csv")["ans"]
    assert labels.tolist() == [classes[one] for one in run.logits(run.test).argmax(axis=1)]
