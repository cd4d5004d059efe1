"""Tables of run folders: columns, kinds, ranges and hashes are checked while they are read."""

import json

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest

import leaderboard
from foldblend.errors import UserError
from foldblend.runs import columns
from foldblend.runs.broken import BrokenRun
from foldblend.runs.folder import file_hash, write_json, write_table
from foldblend.runs.run import Run
from foldblend.runs.tables import read_hashed, read_log
from foldblend.runs.unchecked import take_note
from reports.run.report import write_report
from tests.makers.edits import edit_run, edit_table
from tests.makers.small_runs import LABELS, write_run
from tests.makers.synthetic_runs import write_synthetic_run


@pytest.fixture
def folder(tmp_path):
    """Return a finished run with a test set and without hashes."""
    return write_synthetic_run(tmp_path / "outputs" / "a", num_people=6, num_test=5)


def with_value(column, value, dtype=None):
    def change(table):
        values = table[column].astype(dtype or table[column].dtype).copy()
        values.iloc[2] = value
        return table.assign(**{column: values})

    return change


DAMAGE = {
    "an image twice": (lambda t: pd.concat([t, t.iloc[:1]]), "1 doubled"),
    "no image_id": (with_value("image_id", None), "image_id is absent in 1 rows"),
    "an empty image_id": (with_value("image_id", ""), "image_id is empty in 1 rows"),
    "numbers as image_id": (lambda t: t.assign(image_id=range(len(t))), "image_id must be texts"),
    "no column": (lambda t: t.drop(columns="logit_7"), "lacks logit_7"),
    "further logits": (lambda t: t.assign(logit_18=np.float32(0)), "has the column logit_18"),
    "NaN": (with_value("logit_3", np.nan), "are not finite"),
    "infinity": (with_value("logit_3", np.inf), "are not finite"),
    "too large": (with_value("logit_3", 1e300, "float64"), "are not finite"),
    "text": (lambda t: t.assign(logit_3="1.5"), "logit_3 must be numbers of 32 or 64 bits"),
    "a time": (lambda t: t.assign(logit_3=pd.Timestamp(0)), "not timestamp"),
    "whole numbers": (lambda t: t.assign(logit_3=7), "not int64"),
    "true": (lambda t: t.assign(logit_3=True), "not bool"),
    "complex lists": (lambda t: t.assign(logit_3=[[1.0]] * len(t)), "not list"),
}
OF_ROWS = {
    "a label": (with_value("label", 18), "label must be from 0 to 17, not 18"),
    "a negative label": (with_value("label_raw", -1), "label_raw must be from 0 to 17, not -1"),
    "an unsigned label": (with_value("label", 2**63, "uint64"), "label must be from 0 to 17"),
    "a fold": (with_value("fold", 5), "fold must be from 0 to 4, not 5"),
    "a repeat": (with_value("repeat", 1), "repeat must be from 0 to 0, not 1"),
    "half a fold": (with_value("fold", 0.5, float), "fold must be whole numbers in all rows"),
    "true as a fold": (lambda t: t.assign(fold=True), "fold must be whole numbers"),
    "no group": (with_value("group", None), "group is absent in 1 rows"),
    "no rows": (lambda t: t.iloc[:0], "repeats are not numbered 0 to 0"),
}


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        *((name, *one) for one in DAMAGE.values() for name in ("oof", "test", "test_fold_2")),
        *(("oof", *one) for one in OF_ROWS.values()),
    ],
    ids=[
        *(f"{name}: {one}" for one in DAMAGE for name in ("oof", "test", "test_fold_2")),
        *OF_ROWS,
    ],
)
def test_damage_is_one_line(folder, name, change, words):
    file = folder / f"{name}.parquet"
    edit_table(file, change)
    with pytest.raises(BrokenRun) as found:
        Run(folder).table(name)
    assert str(found.value).startswith(str(file))
    assert words in str(found.value)
    assert found.value.folder == folder


def test_two_columns_of_one_name(folder):
    table = pyarrow.parquet.read_table(folder / "test.parquet")
    twice = table.append_column("logit_0", table["logit_0"])
    pyarrow.parquet.write_table(twice, folder / "test.parquet")
    with pytest.raises(BrokenRun, match="several columns named logit_0"):
        Run(folder).test  # noqa: B018


def test_tables_are_bounded_before_they_are_read(folder, monkeypatch):
    """Ten rows more than allowed are refused from the footer of the file."""
    monkeypatch.setattr(columns, "MAX_ROWS", 30)
    monkeypatch.setattr(columns, "MOST_VIEWS", 0)
    data = Run(folder).info["data"]
    # A run that accounts for more rows, as one made with a larger --max-rows, is read.
    edit_run(folder, data={**data, "num_images": 42})
    Run(folder).oof  # noqa: B018
    monkeypatch.setattr(columns, "MOST_CELLS", 99)
    with pytest.raises(BrokenRun, match="bytes of cells, and at most 99 are read"):
        Run(folder).oof  # noqa: B018
    # But the folder may say anything.
    monkeypatch.setattr(columns, "MOST_ROWS", 40)
    with pytest.raises(BrokenRun, match="has 42 rows, and at most 40 are read"):
        Run(folder).oof  # noqa: B018
    edit_run(folder, data=data)
    with pytest.raises(BrokenRun, match="has 42 rows, and at most 30 are read"):
        Run(folder).oof  # noqa: B018
    with pytest.raises(UserError, match="and at most 9 are read"):
        read_hashed(folder / "oof.parquet", most=9)


def test_every_byte_of_a_table_counts_once_it_has_a_hash(folder):
    file = folder / "oof.parquet"
    edit_run(folder, files={"oof.parquet": file_hash(file)})
    whole = file.read_bytes()
    Run(folder).oof  # noqa: B018
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(whole), 20):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        with pytest.raises(BrokenRun, match="has changed since the run was made"):
            Run(folder).oof  # noqa: B018
    file.write_bytes(whole[:-1])
    with pytest.raises(BrokenRun, match="has changed"):
        Run(folder).table("oof", ["image_id"])
    file.unlink()
    with pytest.raises(BrokenRun, match="no such file"):
        Run(folder).oof  # noqa: B018


def test_without_a_hash_random_damage_is_a_line_or_right(folder):
    """A flipped bit may go unseen then, but ends in no other error."""
    file = folder / "test.parquet"
    whole = file.read_bytes()
    rng = np.random.default_rng(1)
    for place in rng.integers(0, len(whole), 300):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            table = Run(folder).test
        except BrokenRun:
            continue
        assert np.isfinite(table.drop(columns="image_id").to_numpy()).all()


def test_what_a_run_has_written_is_compared(tiny_runs, runs_copy):
    """All tables of a run of this version have hashes; a blend's have, too."""
    take_note()
    run = Run(runs_copy / "alpha")
    for file in runs_copy.rglob("alpha/**/*.parquet"):
        name = str(file.relative_to(run.path))
        assert run.hashes[name] == file_hash(file), name
        run.table(name.removesuffix(".parquet"))
    assert take_note() is None


def test_a_note_names_runs_without_hashes(folder, command_of):
    take_note()
    done = command_of(leaderboard.main)(folder, "--no-page")
    assert done.code == 0
    assert done.err.strip() == (
        f"note: {folder} has no hashes of tables, as runs of earlier versions; read unchecked"
    )
    assert take_note() is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("image_id,label,class\na,3,owl\n", "label must be from 0 to 2, not 3"),
        ("image_id,label,class\na,-1,owl\n", "not -1"),
        ("image_id,label,class\na,1.5,owl\n", "not 1.5"),
        (f"image_id,label,class\na,{10**30},owl\n", "not 1000000000"),
        ("image_id,label,class\na,0,x\na,0,x\n", "lists a twice"),
        ("image_id,class\na,0\n", "lacks label"),
        ("image_id,label,class\na\n", "label must be from 0 to 2, not"),
        ("", "cannot be read"),
        ("image_id,label\na,0,1,2\nb,0\n,\n,,,,,\n", "cannot be read"),
    ],
)
def test_labels_of_test_images(tmp_path, content, words):
    run = Run(write_run(tmp_path / "a", LABELS))
    (run.path / "test_labels.csv").write_text(content)
    with pytest.raises(BrokenRun, match=r"a/test_labels.csv: ") as found:
        run.test_labels  # noqa: B018
    assert words in str(found.value)


@pytest.mark.parametrize(
    "content",
    ["epoch,loss\n0,high\n", "epoch\n0.5\n", "epoch\n\n-1\n", "epoch\n1e30\n", "\xff\xfe"],
)
def test_a_log_that_is_none(tmp_path, content):
    folder = write_run(tmp_path / "a", LABELS)
    (folder / "fold_0").mkdir()
    (folder / "fold_0" / "log.csv").write_text(content)
    with pytest.raises(BrokenRun, match="remove it to go without its curves"):
        read_log(folder / "fold_0" / "log.csv")
    with pytest.raises(BrokenRun, match=r"fold_0/log.csv"):
        write_report(folder, page=False)


def test_numbers_of_a_log_are_bounded(tmp_path):
    folder = write_run(tmp_path / "a", LABELS)
    (folder / "fold_0").mkdir()
    log = folder / "fold_0" / "log.csv"
    log.write_text("epoch,val_f1_macro,train_loss\n0,1e308,inf\n1,-1e308,-1e30\n2,0.5,\n")
    table = read_log(log)
    assert table["epoch"].tolist() == [0, 1, 2]
    assert table["val_f1_macro"].isna().tolist() == [True, True, False]
    assert table["train_loss"].isna().tolist() == [True, False, True]
    # Their difference would be beyond what a figure can have.
    write_report(folder)
    assert (folder / "report.html").is_file()


def test_rows_are_those_that_were_written(folder):
    for name in ("oof", "test", "test_fold_1"):
        file = folder / f"{name}.parquet"
        written = pd.read_parquet(file)
        pd.testing.assert_frame_equal(Run(folder).table(name), written, check_exact=True)
        # 64 bits, and texts as categories, as other programs write them.
        other = written.astype({"logit_0": np.float64, "image_id": "category"})
        write_table(file, other)
        found = Run(folder).table(name)
        assert found["image_id"].tolist() == written["image_id"].tolist()


def test_images_of_run_json_and_of_the_table(folder):
    info = json.loads((folder / "run.json").read_text())
    write_json(folder / "run.json", info | {"data": info["data"] | {"num_images": 43}})
    with pytest.raises(BrokenRun, match=r"has 42 images, and run.json 43"):
        Run(folder).oof  # noqa: B018


def test_test_tables_of_folds_have_the_images_of_the_test_set(folder):
    edit_table(folder / "test_fold_1.parquet", lambda table: table.iloc[1:])
    with pytest.raises(BrokenRun, match=r"test_fold_1.parquet: each image .* 1 are missing"):
        Run(folder).test_fold(1)
