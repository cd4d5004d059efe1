"""Rows in blocks: the same arrays and files whatever the size of blocks and row groups."""

import tracemalloc

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foldblend import blocks
from foldblend.blocks import in_blocks
from foldblend.runs import tables
from foldblend.runs.broken import BrokenRun
from foldblend.runs.folder import write_blocks, write_table
from foldblend.runs.ids import codes_of, is_increasing, places_of
from foldblend.runs.oof import coded_rows, rows_of
from foldblend.runs.rows import mean_logits
from foldblend.runs.run import Run
from foldblend.scores.calibration import Confidence
from foldblend.scores.metrics import softmax
from tests.makers.big_runs import write_big_run
from tests.makers.edits import edit_run, edit_table
from tests.makers.synthetic_runs import write_synthetic_run

NAMES = st.lists(st.text(max_size=3), max_size=8)


@pytest.fixture
def small(monkeypatch):
    """Read and write in blocks of seven rows, and tables column by column from the file."""
    monkeypatch.setattr(blocks, "ROWS_AT_ONCE", 7)
    monkeypatch.setattr(tables, "MANY_BYTES", 0)
    monkeypatch.setattr(tables, "AT_ONCE", 1)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 9), st.integers(1, 12), st.sampled_from("CF"))
def test_blocks_give_the_same_bits(num_rows, size, order):
    logits_NC = np.asarray(np.random.default_rng(0).normal(0, 5, (num_rows, 3)), np.float32, order)
    whole = softmax(logits_NC)
    found = in_blocks(softmax, logits_NC, size=size)
    assert np.array_equal(found, whole)
    out = logits_NC.astype(np.float64)
    assert in_blocks(softmax, out, out=out, size=size) is out
    assert np.array_equal(out, softmax(logits_NC.astype(np.float64)))


def test_the_mean_of_models_is_that_of_numpy(small):
    logits_KNC = np.random.default_rng(0).normal(0, 5, (9, 20, 4)).astype(np.float32)
    mean_NC = logits_KNC.mean(axis=0, dtype=np.float64).astype(np.float32)
    assert np.array_equal(mean_logits(iter(logits_KNC)), mean_NC)


def test_what_calibration_needs_is_that_of_all_probabilities(small):
    rng = np.random.default_rng(0)
    logits_NC = rng.normal(size=(30, 4)).astype(np.float32)
    label_N = rng.integers(4, size=30)
    proba_NC = softmax(logits_NC / 2.0)
    found = Confidence.of_logits(label_N, logits_NC, 2.0)
    assert np.array_equal(found.own_N, proba_NC[np.arange(30), label_N])
    assert np.array_equal(found.top_N, proba_NC.max(axis=1))
    assert np.array_equal(found.is_right_N, proba_NC.argmax(axis=1) == label_N)


@given(NAMES)
def test_names_are_compared_as_python_does(names):
    series = pd.Series(names, dtype="str")
    assert is_increasing(series) == (sorted(set(names)) == names)
    code_N, name_G = codes_of(series)
    assert name_G.tolist() == sorted(set(names))
    assert [name_G[code] for code in code_N] == names


@pytest.mark.parametrize("kind", ["str", object, "category"])
def test_names_may_have_any_type_of_texts(kind):
    """Files of other programs have them, and those of pandas 2 are objects."""
    names = pd.Series(["a", "b"], dtype=kind)
    none = names[:0]
    assert (is_increasing(names), is_increasing(names[::-1]), is_increasing(none)) == (1, 0, 1)
    assert places_of(names, names[::-1].astype("str")).tolist() == [1, 0]
    assert places_of(names.astype("str"), names[::-1]).tolist() == [1, 0]
    assert places_of(names, none).tolist() == [-1, -1]
    assert places_of(none, names).tolist() == []


@given(NAMES, NAMES)
def test_places_are_those_of_a_list(names, wanted):
    once = [*dict.fromkeys(names)]
    found = places_of(pd.Series(wanted, dtype="str"), pd.Series(once, dtype="str"))
    assert found.tolist() == [once.index(one) if one in once else -1 for one in wanted]


def test_rows_are_of_64_bits_whatever_the_file_has():
    """Numbers of repeats and folds are multiplied with each other, which int8 is too short for."""
    number_N = np.array([1, 100], np.int8)
    table = pd.DataFrame({"label": number_N, "repeat": number_N, "fold": number_N, "group": "a"})
    for rows in (rows_of(table, "group"), coded_rows(table, "group")):
        assert {one.dtype for one in (rows.label_N, rows.repeat_N, rows.fold_N)} == {np.dtype("i8")}


def test_a_table_is_written_in_row_groups(small, tmp_path):
    rows = pd.DataFrame({"image_id": [f"{one:03d}" for one in range(16)], "label": range(16)})
    logits_NC = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    write_table(tmp_path / "a.parquet", rows, logits_NC)
    about = pyarrow.parquet.read_metadata(tmp_path / "a.parquet")
    assert [about.row_group(one).num_rows for one in range(about.num_row_groups)] == [7, 7, 2]
    table = pd.read_parquet(tmp_path / "a.parquet")
    assert table.columns.tolist() == ["image_id", "label", "logit_0", "logit_1", "logit_2"]
    assert np.array_equal(table.filter(like="logit").to_numpy(), logits_NC)


def test_a_single_block_has_the_bytes_that_pandas_writes(tmp_path):
    table = pd.DataFrame({"image_id": ["a", "b"], "box": [None, [1, 2, 3, 4]], "p": [0.5, 1]})
    write_table(tmp_path / "a.parquet", table)
    table.to_parquet(tmp_path / "b.parquet", index=False)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


@pytest.mark.parametrize("text", ["plain", "a,b", 'with "quotes"'])
def test_a_csv_does_not_depend_on_blocks(small, tmp_path, text):
    """Quotes that the last block needs are in the first one too, as without blocks."""
    table = pd.DataFrame({"name": ["x"] * 15 + [text], "number": np.arange(16) / 3})
    write_blocks(tmp_path / "a.csv", lambda: (table.iloc[at : at + 7] for at in (0, 7, 14)))
    write_table(tmp_path / "b.csv", table)
    blocks.ROWS_AT_ONCE = 100
    write_table(tmp_path / "c.csv", table)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "c.csv").read_bytes()
    assert (tmp_path / "b.csv").read_bytes() == (tmp_path / "c.csv").read_bytes()


@pytest.fixture
def folder(tmp_path):
    """Return a finished run with a test set and without hashes."""
    return write_synthetic_run(tmp_path / "a", num_people=6, num_test=5)


def test_row_groups_of_any_size_are_read(folder, small):
    """Runs of earlier versions have a single row group, and other programs any."""
    before = Run(folder).oof
    table = pyarrow.parquet.read_table(folder / "oof.parquet")
    for size in (1, 5, 100):
        pyarrow.parquet.write_table(table, folder / "oof.parquet", row_group_size=size)
        assert Run(folder).oof.equals(before)
        logits_NC = Run(folder).table_and_logits("oof", ["image_id"])[1]
        assert np.array_equal(logits_NC, Run(folder).logits(before))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: pd.concat([t, t.iloc[:1]]), "1 doubled"),
        (lambda t: t.assign(logit_3=np.float32("nan")), "are not finite"),
        (lambda t: t.drop(columns="logit_3"), "lacks logit_3"),
        (lambda t: t.assign(logit_3="1"), "logit_3 must be numbers"),
        (lambda t: t.assign(image_id=""), "image_id is empty in 42 rows"),
    ],
)
def test_large_files_are_checked_like_small_ones(folder, change, words, monkeypatch):
    edit_table(folder / "oof.parquet", change)
    messages = []
    for size in (2**30, 0):
        monkeypatch.setattr(tables, "MANY_BYTES", size)
        with pytest.raises(BrokenRun, match=words) as found:
            Run(folder).table_and_logits("oof", ["image_id", "repeat"])
        messages.append(str(found.value))
    assert messages[0] == messages[1]


def test_a_large_file_that_has_changed_is_refused(folder, small):
    edit_run(folder, files={"oof.parquet": "0" * 32})
    with pytest.raises(BrokenRun, match="has changed since the run was made"):
        Run(folder).oof  # noqa: B018


@pytest.mark.skipif(
    pd.__version__.startswith("2."), reason="pandas 2 has a Python object for each text"
)
def test_logits_are_in_memory_once(tmp_path, small, monkeypatch):
    """NumPy's part of the peak is that of the array, and little more."""
    monkeypatch.setattr(blocks, "ROWS_AT_ONCE", 1000)
    run = Run(write_big_run(tmp_path / "a", num_groups=3000))
    size = 21_000 * 18 * 4
    tracemalloc.start()
    _, logits_NC = run.table_and_logits("oof", ["image_id"])
    assert tracemalloc.get_traced_memory()[1] < 1.5 * size
    tracemalloc.reset_peak()
    write_table(tmp_path / "b.parquet", run.table("oof", ["image_id"]), logits_NC)
    assert tracemalloc.get_traced_memory()[1] < 1.7 * size
    tracemalloc.stop()


def test_texts_of_several_row_groups_are_one_piece(folder, small):
    """Of several, all are copied for each row that is taken: hours for millions of rows."""
    table = pyarrow.parquet.read_table(folder / "oof.parquet")
    pyarrow.parquet.write_table(table, folder / "oof.parquet", row_group_size=5)
    for rows in (Run(folder).oof, Run(folder).table("oof", ["image_id"])):
        assert pyarrow.Table.from_pandas(rows)["image_id"].num_chunks == 1


def test_texts_may_be_objects(small, tmp_path):
    """Before pandas 3 all texts are."""
    names = pd.Series([f"{one:03d}" for one in range(16)], dtype=object)
    rows = pd.DataFrame({"image_id": names, "label": range(16)}).astype({"image_id": object})
    logits_NC = np.zeros((16, 3), np.float32)
    write_table(tmp_path / "a.parquet", rows, logits_NC)
    found = pd.read_parquet(tmp_path / "a.parquet")
    assert found["image_id"].tolist() == names.tolist()
    assert found.columns.tolist() == ["image_id", "label", "logit_0", "logit_1", "logit_2"]
