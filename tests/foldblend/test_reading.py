"""Files that anyone may have written: regular ones only, of bounded size and depth."""

import os

import pytest

from foldblend.errors import MOST_LETTERS, UserError, shown
from foldblend.reading import parse_json, parse_yaml, read_bounded, read_json_file, read_yaml_file

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
YAMLS = {
    "a bomb": BOMB,
    "itself": "a: &a [*a]",
    "deep": "[" * 500 + "]" * 500,
    "very deep": "[" * 20_000,
    "a date": "a: 2020-99-99",
    "a key": "? {a: b}\n: c",
    "an object": "!!python/object/apply:os.system [touch marker]",
    "two documents": "--- a\n--- b",
    "a letter": "a: \x1b[31m",
    "a colon": "a: b: c",
    "a key twice": "x: [{a: 1, b: 2, a: 1}]",
}
JSONS = {
    "deep": "[" * 500 + "]" * 500,
    "very deep": "[" * 100_000,
    "a long number": "9" * 5000,
    "NaN": '{"a": NaN}',
    "infinity": "[-Infinity]",
    "half": '{"a": ',
    "nothing": "",
}


@pytest.mark.parametrize("name", YAMLS)
def test_a_hostile_yaml_is_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^a.yaml: not valid YAML \(.*\); mend it$") as caught:
        parse_yaml(YAMLS[name], "a.yaml", cure="mend it")
    assert len(str(caught.value)) <= MOST_LETTERS
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("name", JSONS)
def test_a_hostile_json_is_one_line(name):
    with pytest.raises(UserError, match=r"^a.json: not valid JSON \(.*\); mend it$"):
        parse_json(JSONS[name], "a.json", cure="mend it")


def test_aliases_are_fine_as_long_as_they_are_few():
    assert parse_yaml("a: &a [1, 2]\nb: *a", "a.yaml", cure="") == {"a": [1, 2], "b": [1, 2]}
    assert parse_yaml("", "a.yaml", cure="") is None


def test_pipes_devices_folders_and_large_files_are_errors(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"")
    os.truncate(tmp_path / "large", 2**40)
    for path, why in {
        tmp_path / "pipe": "is a pipe or device",
        "/dev/zero": "is a pipe or device",
        tmp_path: "is a folder",
        tmp_path / "absent": "No such file or directory",
        tmp_path / ("a" * 300): "File name too long",
        "a\0b": "no file has such a name",
        tmp_path / "large": "has 1,099,511,627,776 bytes",
    }.items():
        for read in (read_json_file, read_yaml_file):
            with pytest.raises(UserError, match=why):
                read(path, cure="mend it")
    assert read_bounded(__file__, most=10**6).startswith(b'"""Files that anyone')


def test_messages_are_printable_and_bounded():
    error = UserError(f"a\x1b]0;title\x07\u202eb\udcff.csv: {'x' * 9000}; mend it")
    assert str(error).startswith("a\\x1b]0;title\\x07\\u202eb\\xff.csv: xxx")
    assert str(error).endswith("; mend it")
    assert len(str(error)) == MOST_LETTERS
    assert str(error).isprintable()
    assert shown([1] * 10**6).startswith("[1, 1")
    assert len(shown([1] * 10**6)) == 80
    assert shown(10**5000) == "<int of 16610 bits>"
    assert shown({"b": 1, "a": [2, (3,)]}) == "{'b': 1, 'a': [2, (3,)]}"


def test_only_a_few_parts_of_a_large_value_are_looked_at():
    seen = []

    class Part:
        def __repr__(self):
            seen.append(self)
            return "x"

    value = Part()
    for _ in range(6):
        value = dict.fromkeys(range(1000), value)
    wide = [Part()] * 10**6
    assert shown(value).startswith("{0: {")
    assert shown(wide).startswith("[x, x")
    assert len(seen) < 100
