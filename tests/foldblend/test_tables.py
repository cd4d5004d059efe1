"""Reading of tables: formats, separators, encodings, line numbers, and errors that name a line."""

import io
import json

import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest

from foldblend.errors import UserError
from foldblend.tables import read_text_table


def table(tmp_path, text, name="t.csv", **how):
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_text_table(file, **how)


def test_cells_are_text_and_the_index_is_the_line(tmp_path):
    found = table(tmp_path, 'a,b\n\n01,"x\ny"\n\n  \nNA,1.0\n')
    assert found.cells.to_dict("list") == {"a": ["01", "NA"], "b": ["x\ny", "1.0"]}
    assert found.cells.index.tolist() == [3, 7]


@pytest.mark.parametrize("sep", [",", ";", "\t", "|"])
def test_separators_are_recognised(tmp_path, sep):
    found = table(tmp_path, f"a{sep}b\n1{sep}2\n")
    assert found.cells.to_dict("list") == {"a": ["1"], "b": ["2"]}


def test_a_separator_within_cells_is_none(tmp_path):
    assert list(table(tmp_path, "a;b\n1,5;2,5\n").cells) == ["a", "b"]
    assert list(table(tmp_path, "a,b|c\n1,2\n3,4\n").cells) == ["a", "b|c"]
    with pytest.raises(UserError, match="a comma and a semicolon could both be the separator"):
        table(tmp_path, "a,b;c\n1,2;3\n")
    assert list(table(tmp_path, "a,b;c\n1,2;3\n", sep=";").cells) == ["a,b", "c"]


def test_blanks_around_names_of_columns(tmp_path):
    found = table(tmp_path, 'a, b, c\n1, "x, y", 3\n')
    assert found.cells.to_dict("list") == {"a": ["1"], "b": ["x, y"], "c": ["3"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2,\n", "line 2 has 3 fields, the header 2; remove the comma at the end"),
        ("a,b\n\n1,2\n1,x,y\n", "line 4 has 3 fields, the header 2; put cells .* double quotes"),
        ("a,b\n1\n", "line 2 has 1 fields, the header 2; add the missing cells"),
        ('a,b\n"1\n",2\n3,4,5\n', "line 4 has 3 fields"),
        ('a,b\n1,2\n"3,4\n5,6\n', "line 3 opens a double quote that is not closed"),
        ("a,b\n1,2\na,b\n", "line 3 repeats the header"),
        ("", "the file is empty"),
        ("\n\n", "the file is empty"),
        (b"a,b\n1,\xb0\xae\n", "line 2 is not UTF-8 text; save it as UTF-8"),
        (b"a,b\n1,\x00\n", "NUL bytes"),
        (b"PK\x03\x04...", "is an Excel workbook or a zip archive"),
        (b"\x1f\x8b...", "is a gzip archive"),
    ],
)
def test_errors_name_the_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        table(tmp_path, text)


def test_the_first_line_that_spreadsheets_write(tmp_path):
    found = table(tmp_path, "sep=;\r\na;b\r\n1;2\r\n")
    assert found.cells.to_dict("list") == {"a": ["1"], "b": ["2"]}
    assert found.cells.index.tolist() == [3]


def test_a_table_without_a_header_line(tmp_path):
    with pytest.raises(UserError, match=r"no column 'image'.*seems to have no header line"):
        table(tmp_path, "1.png,cat\n2.png,dog\n").check_columns([("--image-col", "image")])


def test_hidden_characters_in_names_of_columns(tmp_path):
    assert list(table(tmp_path, "\ufeff\ufeffa\u200b,b\u00a0\n1,2\n").cells) == ["a", "b"]


def test_encodings(tmp_path):
    text = "이름,b\n고양이,2\n"
    marked = table(tmp_path, text.encode("utf-8-sig"), encoding="utf-8")
    assert list(marked.cells) == ["이름", "b"]
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        assert table(tmp_path, text.encode(encoding)).cells["이름"].tolist() == ["고양이"]
    assert table(tmp_path, text.encode("cp949"), encoding="cp949").cells["이름"].tolist() == [
        "고양이"
    ]
    with pytest.raises(UserError, match="--encoding klingon: no such encoding"):
        table(tmp_path, text, encoding="klingon")


def test_a_column_that_is_there_twice_is_an_error_only_where_it_is_used(tmp_path):
    found = table(tmp_path, "a,b,b\n1,2,3\n")
    found.check_columns([("--image-col", "a")])
    with pytest.raises(UserError, match=r"two columns are named 'b' \(--label-col\)"):
        found.check_columns([("--label-col", "b")])


def test_all_missing_columns_are_reported_together(tmp_path):
    found = table(tmp_path, "file,kind\n1,2\n")
    with pytest.raises(UserError, match=r"'files' \(--image-col\); did you mean file.*'label'"):
        found.check_columns([("--image-col", "files"), ("--label-col", "label")])


def test_json_lines_keep_numbers_as_written(tmp_path):
    lines = '{"image": {"path": "a.jpg"}, "group": 7.0}\n\n{"image": "b.jpg", "x": null}\n'
    found = table(tmp_path, lines, "t.jsonl")
    assert found.cells.to_dict("list") == {
        "image": ["a.jpg", "b.jpg"],
        "group": ["7.0", ""],
        "x": ["", ""],
    }
    assert found.cells.index.tolist() == [1, 3]
    for broken in ("[1]\n", '{"a":\n', '{"a": 1}\n' + "[" * 100_000):
        with pytest.raises(UserError, match="is not a JSON object"):
            table(tmp_path, broken, "t.jsonl")


def parquet(tmp_path, data):
    file = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(data, file)
    return read_text_table(file)


def test_parquet_text_orders_and_class_names(tmp_path):
    grades = pd.Categorical(["mild", "severe", "mild"], ["mild", "worse", "severe"], ordered=True)
    frame = pd.DataFrame({"grade": grades, "id": [1, 2, 3], "x": [1.0, None, 2.5]})
    found = parquet(tmp_path, pyarrow.Table.from_pandas(frame))
    assert found.cells["grade"].tolist() == ["mild", "severe", "mild"]
    assert found.cells["id"].tolist() == ["1", "2", "3"]
    assert found.cells["x"].tolist() == ["1.0", "", "2.5"]
    assert found.categories["grade"].names == ("mild", "worse", "severe")
    assert found.categories["grade"].is_order
    features = {"label": {"names": ["owl", "cat"], "_type": "ClassLabel"}}
    data = pyarrow.table({"label": pyarrow.array([1, 0, -1])})
    about = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    found = parquet(tmp_path, data.replace_schema_metadata(about))
    assert found.cells["label"].tolist() == ["cat", "owl", ""]
    assert found.categories["label"].names == ("owl", "cat")
    assert not found.categories["label"].is_order


def test_images_inside_parquet_need_no_name(tmp_path):
    images = [{"bytes": b"x", "path": None}, {"bytes": b"y", "path": "a.png"}]
    found = parquet(tmp_path, pyarrow.table({"image": images, "label": ["cat", "dog"]}))
    found.check_columns([("--image-col", "image")])
    assert found.images == {"image"}
    assert found.cells["image"].tolist() == ["", "a.png"]


def test_columns_of_parquet_with_odd_names(tmp_path):
    assert list(parquet(tmp_path, pyarrow.table({" b": ["1"]})).cells) == ["b"]
    with pytest.raises(UserError, match="several columns are named a; rename all but one"):
        parquet(tmp_path, pyarrow.table([["1"], ["2"]], names=["a", "a"]))
    none = pd.DataFrame({"a": pd.Categorical([], ["x", "y"], ordered=True)})
    assert parquet(tmp_path, pyarrow.Table.from_pandas(none)).cells.empty
    assert parquet(tmp_path, pyarrow.table({"a": [b"cat"]})).cells["a"].tolist() == ["cat"]


def test_columns_whose_names_would_collide(tmp_path):
    found = table(tmp_path, "x.1,x,x\n1,2,3\n")
    assert found.cells.iloc[0].tolist() == ["1", "2", "3"]
    assert found.cells["x.1"].tolist() == ["1"]


@pytest.mark.parametrize("sep", ["::", "", '"'])
def test_separators_that_cannot_be(tmp_path, sep):
    with pytest.raises(UserError, match=r"--sep .*: pass one character"):
        table(tmp_path, "a,b\n1,2\n", sep=sep)


def test_a_tab_as_typed_in_a_shell_and_a_long_cell(tmp_path):
    assert table(tmp_path, "a,b\tc\n1\t2\n", sep="\\t").cells["c"].tolist() == ["2"]
    assert len(table(tmp_path, f"a,b\n1,{'x' * 200_000}\n").cells["b"].iloc[0]) == 200_000


def test_files_that_are_no_parquet(tmp_path):
    for data in (b"", b"PAR1", b"PAR1" + bytes(64) + b"PAR1"):
        with pytest.raises(UserError, match="cannot be read as Parquet"):
            table(tmp_path, data, "t.parquet")
    with pytest.raises(UserError, match="No such file"):
        read_text_table(tmp_path / "gone.parquet")
    with pytest.raises(UserError, match="is a folder, not a table"):
        read_text_table(tmp_path)


def test_what_pandas_writes_is_read_as_written(tmp_path):
    frame = pd.DataFrame({"a": ['say "x"', "1,2", "line\nbreak", ""], "b": list("wxyz")})
    text = io.StringIO()
    frame.to_csv(text, index=False)
    assert table(tmp_path, text.getvalue()).cells["a"].tolist() == frame["a"].tolist()
