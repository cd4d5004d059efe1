"""The same command on a finished run: what is kept, mended and said."""

import pandas as pd
import pytest

from foldblend.errors import UserError
from foldblend.runs.broken import BrokenRun
from foldblend.runs.calibrated import plain_oof
from foldblend.runs.run import Run
from pipeline.config.settings import make_config
from pipeline.config.trust import NOTHING
from pipeline.cv import cross_validate
from pipeline.predict.recipe import recipe_of
from tests.makers.edits import edit_run

SMALL = {
    "folds": 2,
    "epochs": 1,
    "img_size": 32,
    "pretrained": "none",
    "workers": 0,
    "threads": 1,
    "backbone": "test_resnet",
    "log_pictures": False,
    "page": False,
    "name": "beta",
}


@pytest.fixture
def again(tiny_layout, runs_copy):
    """Return a function that runs the command of the run beta again and returns its lines."""

    def run(**changes):
        said = []
        settings = {**SMALL, "data": str(tiny_layout), "output": str(runs_copy), **changes}
        cross_validate(make_config(settings), say=said.append)
        return said

    return run


def as_windows(data):
    return data.replace(b"\n", b"\r\n")


def in_reverse(data):
    head, *rows = data.splitlines()
    return b"\n".join([head, *reversed(rows)])


def counted_from_one(data):
    head, *rows = data.splitlines()
    parts = [row.rpartition(b",") for row in rows]
    return b"\n".join([head, *(row + b",%d" % (int(fold) + 1) for row, _, fold in parts)])


@pytest.mark.parametrize("change", [as_windows, in_reverse, counted_from_one])
def test_folds_in_another_form_are_written_as_they_were(change, runs_copy, again):
    again()  # config.yaml has the folder, which is a copy
    file = runs_copy / "beta" / "folds.csv"
    record = (runs_copy / "beta" / "run.json").read_bytes()
    before = file.read_bytes()
    file.write_bytes(change(before))
    assert file.read_bytes() != before
    said = again()
    assert any("with the same folds" in line for line in said)
    assert any("nothing was trained" in line for line in said)
    assert file.read_bytes() == before
    assert (runs_copy / "beta" / "run.json").read_bytes() == record


def files_of(folder):
    return {
        file.relative_to(folder): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and not file.name.startswith(".lock")
    }


def test_other_folds_stop_the_command_and_change_nothing(runs_copy, again):
    file = runs_copy / "beta" / "folds.csv"
    head, *rows = file.read_bytes().splitlines()
    swapped = [row[:-1] + (b"1" if row.endswith(b"0") else b"0") for row in rows]
    for wrong in ([head, *swapped], [head, *rows[1:]]):
        file.write_bytes(b"\n".join(wrong))
        before = files_of(runs_copy / "beta")
        with pytest.raises(UserError, match=r"folds.csv: has .* remove it to write it again"):
            again()
        assert files_of(runs_copy / "beta") == before
    file.unlink()
    assert any("nothing was trained" in line for line in again())


def test_a_damaged_fold_is_named_and_trained_again(runs_copy, again):
    folder = runs_copy / "beta"
    weights = folder / "fold_1" / "best.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:-5] + bytes([before[-5] ^ 1]) + before[-4:])
    record = (folder / "run.json").read_bytes()
    # Nothing is to be done for the fold that is asked for, so the record stays.
    said = again(only_folds="0")
    assert any("fold_1/best.safetensors: is damaged" in line for line in said)
    assert (folder / "run.json").read_bytes() == record
    said = again()
    named = [line for line in said if "fold_1 is not kept" in line]
    assert len(named) == 1
    assert "fold_1/best.safetensors: is damaged" in named[0]
    assert not any("fold_0 is not kept" in line for line in said)
    assert weights.read_bytes() == before
    assert Run(folder).info["status"] == "done"


def test_a_recorded_file_that_changed_or_is_gone_is_missed_and_mended(runs_copy, again):
    again()
    folder = runs_copy / "beta"
    before = files_of(folder)
    config = folder / "config.yaml"
    config.write_bytes(before[config.relative_to(folder)].replace(b"drop: 0.0", b"drop: 0.5"))
    with pytest.raises(UserError, match=r"beta/config.yaml: has changed since the run was made"):
        recipe_of(Run(folder), NOTHING)
    (folder / "test.parquet").unlink()
    said = again()
    assert sum("put together again" in line for line in said) == 2
    assert any("nothing was trained" in line for line in said)
    after = files_of(folder)
    assert [name for name in before if before[name] != after[name]] == []
    said = again()
    assert not any("put together again" in line for line in said)
    assert files_of(folder) == after


def test_a_deleted_table_is_not_taken_for_one_that_never_was(runs_copy):
    folder = runs_copy / "beta"
    edit_run(folder, files={**Run(folder).info["files"], "test_labels.csv": "0"})
    with pytest.raises(BrokenRun, match=r"test_labels.csv: no such file"):
        Run(folder).test_labels  # noqa: B018
    edit_run(folder, files={**Run(folder).info["files"], "plain_oof.parquet": "0"})
    with pytest.raises(BrokenRun, match=r"plain_oof.parquet: no such file"):
        plain_oof(Run(folder))


def test_a_run_folder_as_fold_file_must_have_its_folds(runs_copy, again):
    file = runs_copy / "alpha" / "folds.csv"
    file.write_bytes(in_reverse(file.read_bytes()))
    with pytest.raises(UserError, match=r"folds.csv \(--fold-file\): has changed .* pass the file"):
        again(name="new", fold_file=str(runs_copy / "alpha"), folds=None)


def test_another_form_of_the_submission_is_written(runs_copy, again, tmp_path):
    folder = runs_copy / "beta"
    before = pd.read_csv(folder / "submission.csv", dtype=str)
    sample = tmp_path / "sample.csv"
    before.iloc[::-1].to_csv(sample, index=False)
    again(sample_submission=str(sample))
    after = pd.read_csv(folder / "submission.csv", dtype=str)
    assert after.iloc[:, 0].tolist() == before.iloc[::-1, 0].tolist()
