"""Files on disk: fast CSVs read as those of pandas do, and file permissions are right."""

import io

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from foldblend.errors import UserError
from foldblend.files import check_writable, write_with
from foldblend.runs.folder import write_table

PLAIN = pd.DataFrame({"image_id": ["a/1.jpg", "b/2.jpg"], "label": [3, 0], "proba": [1e-12, 1 / 3]})
TABLES = {
    "plain": PLAIN,
    "commas": PLAIN.assign(true=["worn, female", 'said "no"']),
    "line ends": PLAIN.assign(true=["two\nlines", "one"]),
    "missing": PLAIN.assign(fold=pd.array([1, None], dtype="Int64"), true=["worn, male", None]),
    "truth values": PLAIN.assign(right=[True, False], true=["a, b", "c"]),
    "mixed": PLAIN.assign(value=pd.Series(["a", 3], dtype=object)),
    "none": PLAIN.iloc[:0],
    "other scripts": PLAIN.assign(true=["wörn, ✓", "口罩"]),
}


@pytest.mark.parametrize("name", TABLES)
def test_csvs_read_like_those_of_pandas(tmp_path, name):
    table = TABLES[name]
    write_table(tmp_path / "a.csv", table)
    expected = pd.read_csv(io.StringIO(table.to_csv(index=False)))
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "a.csv"), expected, check_exact=True)


def test_a_large_csv_keeps_every_digit(tmp_path):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"true": ["a, b"] * 5000, "x": np.exp(rng.normal(size=5000) * 30)})
    write_table(tmp_path / "a.csv", table)
    # pandas 2 rounds the last digit unless it is asked not to.
    read = pd.read_csv(tmp_path / "a.csv", float_precision="round_trip")
    assert (read["x"] == table["x"]).all()


def test_files_that_a_library_makes_private_are_as_readable_as_others(tmp_path):
    (tmp_path / "plain").touch()
    write_with(tmp_path / "weights", lambda draft: save_file({"a": torch.zeros(2)}, draft))
    assert (tmp_path / "weights").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_unwritable_folder_is_an_error_and_others_stay_unchanged(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/a: cannot be written .* --output"):
        check_writable(tmp_path / "file" / "a")
    check_writable(tmp_path / "new" / "deep")
    check_writable(tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
