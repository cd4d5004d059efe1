"""The same command on a finished run: what is kept, mended and said."""

import pytest

from foldblend.errors import UserError
from foldblend.runs.run import Run
from pipeline.config.settings import make_config
from pipeline.cv import cross_validate

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
