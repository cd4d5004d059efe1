"""Columns of images: which are kept, how cells are read, and the file of a run folder."""

import numpy as np
import pandas as pd
import pytest

import foldblend as fb
from foldblend.errors import UserError
from foldblend.image_columns import ImageColumns, as_kind, kept_columns, names_of, numbers_in
from foldblend.runs.folder import write_table
from foldblend.runs.image_columns import TEST, TRAIN, columns_table, read_columns
from foldblend.runs.run import Run
from tests.makers.small_runs import write_run


@pytest.mark.parametrize(
    ("cells", "numbers"),
    [
        (["1", "2.5", "-3e2", ".5", "+7."], [1, 2.5, -300, 0.5, 7]),
        (["", " ", "NA", "nan", "None", "-", "4"], [np.nan] * 6 + [4]),
        # As spreadsheets of many countries write them.
        (["1,5", "2,25", "3"], [1.5, 2.25, 3]),
        (["0,125", "0,250"], [0.125, 0.25]),
        # One and a quarter, or one thousand two hundred and fifty.
        (["1,250", "7"], None),
        (["1,250", "1,5"], [1.25, 1.5]),
        (["1_000"], None),
        (["inf", "1"], None),
        (["1e400"], None),
        (["0x10"], None),
        (["\u0663"], None),
        (["True", "False"], None),
    ],
)
def test_cells_of_numbers(cells, numbers):
    found = numbers_in(cells)
    if numbers is None:
        assert found is None
    else:
        np.testing.assert_array_equal(found, numbers)


def test_numbers_and_categories_are_kept_and_nothing_else():
    rng = np.random.default_rng(0)
    num = 200
    cells = {
        "age": [str(one) for one in rng.normal(50, 10, num)],
        "site": ["a", "b", "", "c"] * 50,
        "flag": ["True", "False"] * 100,
        "grade": ["1", "2"] * 100,
        "empty": [""] * num,
        "same": ["x"] * num,
        "note": [f"seen by {one}" for one in range(num)],
        "many": [f"word {one % 60}" for one in range(num)],
        "seen": ["2024-01-31", "31.01.2024", "1/2/24", "2024-01-31 10:00"] * 50,
        "row": [str(one) for one in range(10, 10 + num)],
        "a,b": ["1", "2"] * 100,
        "  Alter\u00a0in Jahren ": ["1", "3"] * 100,
    }
    assert kept_columns(cells.items()).kinds == {
        "age": "number",
        "site": "category",
        "flag": "category",
        "grade": "number",
        "empty": "number",
        "same": "category",
        "Alter in Jahren": "number",
    }


def test_a_category_has_at_most_half_as_many_words_as_rows():
    assert not kept_columns([("one", ["a", "b", "c", "a"])]).values
    assert kept_columns([("one", ["a", "b", "b", "a"])]).values


def test_tables_of_very_many_columns_are_cut():
    assert len(kept_columns((f"c{one}", ["1", "5"]) for one in range(300)).values) == 200


def test_names_in_the_flag():
    assert names_of(" site ,age") == ("age", "site")
    for text in ("age,,site", "", ","):
        with pytest.raises(UserError, match="a name is empty"):
            names_of(text)
    with pytest.raises(UserError, match="age is given twice"):
        names_of("age,site, age")


def test_cells_of_another_kind_are_an_error_in_one_line():
    assert as_kind([" a", "b"], "category", where="t").tolist() == ["a", "b"]
    with pytest.raises(UserError, match="t: 'ten' is no number") as raised:
        as_kind(["1", "ten"], "number", where="t")
    assert "\n" not in str(raised.value)


NAMES = ("image_id", "part", "logit_0", "view", "\u5e74\u9f62", "number:x")


@pytest.fixture
def run(tmp_path):
    """Return a run whose columns are named as those of other tables are."""
    folder = write_run(tmp_path / "one", [0, 1, 2] * 4)
    ids = np.array([f"image {index:02d}" for index in range(12)], object)
    numbers = np.arange(12.0)
    numbers[3] = np.nan
    words = np.array(["a", "", "b"] * 4, object)
    values = {name: numbers if place % 2 else words for place, name in enumerate(NAMES)}
    of_train = columns_table(TRAIN, ids, ImageColumns(values))
    of_test = columns_table(TEST, ids[:2], ImageColumns(values).take(slice(2)))
    write_table(folder / "columns.parquet", pd.concat([of_train, of_test], ignore_index=True))
    return Run(folder)


def test_columns_of_any_name_are_written_and_read(run):
    found = read_columns(run)
    ids = pd.Series(["image 03", "image 01", "elsewhere"])
    columns = found.of(TRAIN, ids, NAMES)
    assert columns.values["image_id"].tolist() == ["a", "", ""]
    np.testing.assert_array_equal(columns.values["part"], [np.nan, 1, np.nan])
    assert len(found.of(TEST, ids[:1], ("view",))) == 1
    assert read_columns(fb.Run(run.path)) is not None


def test_a_run_without_the_file_has_no_columns(tmp_path):
    assert read_columns(Run(write_run(tmp_path / "one", [0, 1, 2] * 4))) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table.drop(columns="part"), "lacks part"),
        (lambda table: table.assign(**{"number:part": "x"}), "number:part must be numbers"),
        (lambda table: table.assign(**{"number:part": np.inf}), "is not finite"),
        (lambda table: table.assign(**{"category:view": 1.0}), "category:view must be texts"),
        (lambda table: table.assign(**{"number:image_id": 1.0}), "as a number and as words"),
        (lambda table: pd.concat([table, table]), "more than once|doubled"),
    ],
)
def test_a_damaged_file_is_an_error_in_one_line(run, change, words):
    file = run.path / "columns.parquet"
    write_table(file, change(pd.read_parquet(file)))
    with pytest.raises(UserError, match=words) as raised:
        read_columns(Run(run.path))
    assert "\n" not in str(raised.value)
    assert "columns.parquet" in str(raised.value)


def test_bytes_that_are_no_table_are_an_error(run):
    (run.path / "columns.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(UserError, match=r"columns\.parquet"):
        read_columns(Run(run.path))
