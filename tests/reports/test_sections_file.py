"""Tests of the bounds of sections, as files that anyone may have written."""

import json

import pytest

from foldblend.runs.broken import BrokenRun
from foldblend.runs.folder import SECTIONS
from reports import sections_file
from reports.block_kinds import section_html, section_lines
from reports.sections_file import LARGEST, MOST_POINTS, MOST_ROWS, MOST_SECTIONS, read_sections

INTERVAL = {"value": 0.5, "low": 0.4, "high": 0.6}
COMPARED = {"name": "a", "headline": INTERVAL, "attributes": {}, "difference": None, "against": "b"}


def strips(num=1, **ends):
    row = {"name": "a", "interval": INTERVAL | ends}
    return {"kind": "strips", "xlabel": "x", "line": None, "rows": [row] * num}


def bars(names, series):
    return {"kind": "bars", "names": names, "series": series, "xlabel": "x", "caption": "c"}


def lines(x, series):
    labels = {"xlabel": "x", "ylabel": "y", "caption": "c"}
    return {"kind": "lines", "x": x, "series": series, **labels}


def comparison(num):
    return {"kind": "comparison", "rows": [COMPARED] * num}


def write(folder, *blocks, name="9_own"):
    (folder / SECTIONS).mkdir(exist_ok=True)
    text = json.dumps({"title": "t", "blocks": blocks})
    (folder / SECTIONS / f"{name}.json").write_text(text)


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (strips(value=10**400), "blocks[0].rows[0].interval.value: must be"),
        (strips(low=-1e31), "blocks[0].rows[0].interval.low: must be"),
        (strips() | {"line": 10**400}, "blocks[0].line: must be"),
        (strips(0), "blocks[0].rows: must be a list of 1 to"),
        (strips(MOST_ROWS + 1), "blocks[0].rows: must be a list of 1 to"),
        (comparison(0), "blocks[0].rows: must be a list of 1 to"),
        (comparison(MOST_ROWS + 1), "blocks[0].rows: must be a list of 1 to"),
        (bars(["a"], {}), "blocks[0].series: must be an object of 1 to"),
        (bars([], {"s": []}), "blocks[0].names: must be a list of 1 to"),
        (bars(["a"], {"s": [10**400]}), "blocks[0].series['s'][0]: must be"),
        (lines([1], {}), "blocks[0].series: must be an object of 1 to"),
        (lines([1], {"s": [10**400]}), "blocks[0].series['s'][0]: must be"),
        (lines([1] * (MOST_POINTS + 1), {"s": [1]}), "blocks[0].x: must be a list of 1 to"),
        ({"kind": "table", "header": [], "rows": []}, "blocks[0].header: must be a list of 1 to"),
    ],
)
def test_what_a_page_cannot_show_is_one_line_with_the_file(tmp_path, block, words):
    write(tmp_path, block)
    with pytest.raises(BrokenRun) as caught:
        read_sections(tmp_path)
    message = str(caught.value)
    assert "9_own.json" in message
    assert words in message
    assert len(message.splitlines()) == 1
    assert len(message) < 500 + len(str(tmp_path))


@pytest.mark.parametrize(
    "block",
    [
        strips(value=LARGEST, low=-LARGEST, high=LARGEST),
        strips(value=None, low=None, high=None),
        bars(["a\udc80", "\x1b$"], {"s\ud800": [LARGEST, -LARGEST]}) | {"xlabel": "\udc80"},
        lines([1, 2], {"\udc80": [LARGEST, None], "b": [None, None]}) | {"ylabel": "\udc80"},
        lines([-LARGEST, LARGEST], {"a": [0, 1]}),
        comparison(1),
    ],
)
def test_what_is_read_can_be_shown(tmp_path, block):
    write(tmp_path, block)
    [found] = read_sections(tmp_path)
    assert section_lines(found)
    assert section_html(found, {})


def test_all_sections_together_are_bounded(tmp_path, monkeypatch):
    for index in range(4):
        write(tmp_path, strips(MOST_ROWS), name=f"{index}")
    assert len(read_sections(tmp_path)) == 4
    write(tmp_path, lines([1], {"s": [1]}), name="4")
    with pytest.raises(BrokenRun, match=r"4\.json: with the sections before it, 20,001 rows"):
        read_sections(tmp_path)
    monkeypatch.setattr(sections_file, "MOST_LETTERS", 30_000)
    with pytest.raises(BrokenRun, match=r"0\.json: .* letters"):
        read_sections(tmp_path)


def test_the_number_of_sections_is_bounded(tmp_path):
    for index in range(MOST_SECTIONS + 1):
        write(tmp_path, name=f"{index}")
    with pytest.raises(BrokenRun, match=f"has {MOST_SECTIONS + 1} files"):
        read_sections(tmp_path)


def test_a_cut_scale_of_strips_is_marked(tmp_path):
    one = {"title": "t", "blocks": [strips()]}
    assert "scale does not start at 0" in section_html(one, {})
    assert "scale does not start" not in section_html({"blocks": [strips() | {"line": 0}]}, {})
