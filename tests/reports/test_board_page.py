"""Tests of the leaderboard's page: findings, strips, costs, settings, links and images."""

import itertools
import re

import cv2
import numpy as np
import pandas as pd
import pytest

from foldblend.runs.folder import PICTURES, read_json, write_json, write_table
from reports.board.changed import changed_images, rows_to_show
from reports.board.columns import columns_of
from reports.board.costs import cost_figures, not_beaten
from reports.board.find import find_runs
from reports.board.finding import contains_zero, finding
from reports.board.leaderboard import leaderboard
from reports.board.page import board_page
from reports.board.pictures import digits_of, pictures_data
from reports.board.settings import plain, readable
from reports.figures.scatter import Point, scatter, time_ticks
from reports.run.gallery import GalleryImages
from tests.makers.small_runs import LABELS, write_run
from tests.makers.synthetic_runs import write_synthetic_run
from tests.reports.test_leaderboard import data_of, wrong


def every_of(*folders):
    return leaderboard(*find_runs(folders), metric=None)


def row(name="other", *, value=0.5, difference=None, **facts):
    """Return a row of a board with these ends of its difference to the best."""
    ends = None
    if difference is not None:
        low, high = difference
        ends = {"value": None if low is None else (low + high) / 2, "low": low, "high": high}
    known = {"optimistic": False, "leaks": False, "path": name, "passes": None, "seconds": None}
    headline = {"value": value, "low": value - 0.1, "high": value + 0.1}
    return {**known, "name": name, "headline": headline, "difference": ends, **facts}


def board(*rows):
    return {"rows": list(rows), "group_name": "group"}


EVERY = {"title": "macro F1", "greater_is_better": True}
LOWER = EVERY | {"greater_is_better": False}
BEST = row("one")
CLOSE = row(difference=(-0.1, 0.02))
WORSE = row(difference=(-0.2, -0.05))
SAME = row(difference=(0.0, 0.0))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([BEST], "one: macro F1 0.5000 [0.4000, 0.6000]"),
        (
            [BEST, CLOSE],
            "one scores best: macro F1 0.5000 [0.4000, 0.6000], not clearly better than other",
        ),
        ([BEST, WORSE], "[0.4000, 0.6000], clearly better than other"),
        ([BEST, CLOSE, WORSE, WORSE], ", clearly better than 2 of the 3 others"),
        ([BEST, CLOSE, CLOSE], ", not clearly better than any of the 2 others"),
        ([BEST, WORSE, WORSE], ", clearly better than each of the 2 others"),
        # Marked runs are not counted, which is said.
        (
            [BEST, CLOSE, CLOSE, WORSE | {"leaks": True}],
            "one scores best of the 3 runs whose score is not too high: macro F1 0.5000",
        ),
        (
            [BEST, WORSE, WORSE | {"leaks": True}],
            " of the 2 runs whose score is not too high: macro F1 0.5000 [0.4000, 0.6000], clearly",
        ),
        # Equal runs are not called uncertain.
        ([BEST, SAME], "[0.4000, 0.6000], the same as other"),
        ([BEST, SAME, SAME], ", the same as each of the 2 others"),
        (
            [BEST, SAME, WORSE],
            "], the same as 1 of the 2 others, clearly better than 1 of the 2 others",
        ),
        (
            [BEST, SAME, CLOSE],
            "], the same as 1 of the 2 others, not clearly better than any of the 2 others",
        ),
        ([BEST, CLOSE | {"optimistic": True}], "one is the only run whose score is not too high"),
        ([BEST | {"leaks": True}, WORSE | {"leaks": True}], "All scores here are too high"),
    ],
)
def test_the_finding_of_a_board(rows, words):
    assert words in finding(EVERY, board(*rows))


def test_a_difference_without_an_interval_is_not_judged():
    assert contains_zero({"value": None, "low": None, "high": None}) is None
    unknown = row(difference=(None, None))
    assert finding(EVERY, board(BEST, unknown)) == (
        "one scores best: macro F1 0.5000 [0.4000, 0.6000]"
    )


def test_strips_stand_where_the_numbers_say(tmp_path):
    runs = [write_run(tmp_path / name, wrong(*places)) for name, places in (("a", ()), ("b", (0,)))]
    runs.append(write_run(tmp_path / "c", wrong(0, 2, 4, 6, 8, 10)))
    every = every_of(*runs)
    page = board_page(every)
    rows = re.findall(r"<tr[^>]*><td data-value.*?</tr>", page)
    data = data_of(page)[0]
    scale = data["scales"]["score"]
    for one, known in zip(rows, every["boards"][0]["rows"], strict=True):
        score, difference = re.findall(r'<span class="strip.*?</span></span>', one)
        place = float(re.search(r'class="dot" style="left:([\d.]+)%', score)[1])
        share = (known["headline"]["value"] - scale["low"]) / (scale["high"] - scale["low"])
        assert place == pytest.approx(100 * share, abs=0.01)
        line = float(re.search(r'class="line" style="left:([\d.]+)%', difference)[1])
        dot = float(re.search(r'class="dot" style="left:([\d.]+)%', difference)[1])
        band = re.search(r'class="band" style="left:([\d.]+)%;width:([\d.]+)%', difference)
        if known["difference"] is None:
            assert dot == line
            assert band is None
            continue
        assert dot < line
        crosses = float(band[1]) <= line <= float(band[1]) + float(band[2])
        assert crosses == contains_zero(known["difference"])
        assert ('class="strip-cell worse"' in one) == (not crosses)
    assert {"strip-cell worse" in one for one in rows} == {True, False}
    assert [run["name"] for run in data["runs"]] == ["a", "b", "c"]


def test_runs_that_no_other_beats_at_lower_cost():
    rng = np.random.default_rng(0)
    for _ in range(50):
        costs = rng.integers(1, 6, size=8)
        scores = rng.integers(1, 6, size=8)
        found = np.flatnonzero(not_beaten(costs.tolist(), scores.tolist()))
        for index in range(8):
            better = (scores >= scores[index]) & (costs <= costs[index])
            better &= (scores > scores[index]) | (costs < costs[index])
            twin = (scores == scores[index]) & (costs == costs[index])
            assert (index in found) == (not better.any() and np.flatnonzero(twin)[0] == index)


def test_figures_of_cost_skip_what_is_unknown():
    cheap = row("cheap", value=0.4, seconds=60.0)
    dear = row("dear", value=0.6, seconds=6000.0)
    worse = row("worse", value=0.3, seconds=600.0)
    figures = cost_figures(EVERY, board(dear, cheap, worse, row("unknown")))
    assert [one.title for one in figures] == ["Not beaten with less compute: dear and cheap"]
    assert "not known: 1 run." in figures[0].caption
    assert ">compute of all folds<" in figures[0].svg
    assert ">5 min<" in figures[0].svg
    assert ">worse<" in figures[0].svg
    assert ">unknown<" not in figures[0].svg
    # Where lower is better, the same scores give another answer.
    [figure] = cost_figures(LOWER, board(worse, cheap, dear))
    assert figure.title == "Not beaten with less compute: worse and cheap"
    assert ">macro F1 (lower is better)<" in figure.svg
    assert cost_figures(EVERY, board(dear, row("unknown"))) == []
    assert cost_figures(EVERY, board(dear, dear | {"path": "2"})) == []
    marked = [one | {"leaks": True} for one in (dear, cheap)]
    assert cost_figures(EVERY, board(*marked))[0].title == "Score and compute"
    assert "Hollow: scores that are too high" in cost_figures(EVERY, board(*marked))[0].caption


@pytest.mark.parametrize(
    ("low", "high", "log", "labels"),
    [
        (3, 7_200, True, ["5 s", "30 s", "5 min", "30 min"]),
        (0.01, 1.0, True, ["0.01 s", "0.05 s", "0.2 s", "1 s"]),
        (3_600, 360_000, True, ["1 h", "5 h", "20 h", "100 h"]),
        (10, 60, False, ["20 s", "40 s", "60 s"]),
        (4_000, 12_000, False, ["90 min", "120 min", "150 min", "180 min"]),
        (4_000, 30_000, False, ["2 h", "4 h", "6 h", "8 h"]),
        (59.0, 59.5, False, []),
    ],
)
def test_ticks_of_time_are_round_and_have_units(low, high, log, labels):
    ticks = time_ticks(low, high, log=log)
    assert all(low <= one <= high for one in ticks)
    if labels:
        assert list(ticks.values()) == labels
    assert 1 <= len(ticks) == len({*ticks.values()}) <= 6


def columns(every, *rows):
    both = {"attributes": {}, "by_group": [], "test": None}
    return columns_of(every, board(*(one | both for one in rows)))


def test_colours_of_clear_differences_say_the_direction():
    better = row(difference=(0.05, 0.2))
    for every, sides in ((EVERY, ("better", "worse")), (LOWER, ("worse", "better"))):
        _, _, _, strip, _ = columns(every, BEST, better)[:5]
        assert (strip.side(better), strip.side(WORSE)) == sides
        assert [strip.side(one) for one in (BEST, CLOSE, better | {"leaks": True})] == [""] * 3
        assert "strip-cell worse" in (strip.cell(better)["kinds"], strip.cell(WORSE)["kinds"])


def test_axes_are_marked_where_they_are_cut_or_lower_is_better(tmp_path):
    near = row("near", value=0.11, difference=(0.0, 0.0))
    score, _, _, strip, _ = columns(EVERY, BEST, CLOSE)[:5]
    assert (score.notes, strip.notes) == (("scale does not start at 0",), ())
    score, _, _, strip, _ = columns(LOWER, BEST, near)[:5]
    assert (score.notes, strip.notes) == (("lower is better",), ("lower is better",))
    runs = [write_run(tmp_path / f"{index}", wrong(index)) for index in range(2)]
    page = board_page(leaderboard(*find_runs(runs), metric="log_loss"))
    assert "<small>lower is better</small>" in page
    [data] = data_of(page)
    assert data["greater_is_better"] is False
    assert data["scales"]["score"]["is_cut"] == ("<small>scale does not start at 0" in page)


def test_names_in_a_scatter_plot_do_not_overlap():
    points = [Point(f"run {index}", 1.0 + index, 0.5, 0.4, 0.6) for index in range(20)]
    svg = scatter(points, xlabel="hours", ylabel="score")
    heights = [
        float(re.search(rf"translate\([\d.]+ ([\d.]+)\)[^>]*>{one.name}<", svg)[1])
        if re.search(rf"translate\([\d.]+ ([\d.]+)\)[^>]*>{one.name}<", svg)
        else float(re.search(rf' y="([\d.]+)"[^>]*>{one.name}<', svg)[1])
        for one in points
    ]
    assert min(abs(one - other) for one, other in itertools.combinations(heights, 2)) >= 8
    many = [Point(f"run {index}", 1.0 + index, 0.5, is_main=index < 2) for index in range(40)]
    assert len(re.findall(r">run \d+<", scatter(many, xlabel="hours", ylabel="score"))) == 2


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "yes"),
        (False, "no"),
        (None, "none"),
        (0.1, "0.1"),
        (1234567.25, "1234567.25"),
        ("", "(empty)"),
        ([], "none"),
        (["a", 2, None], "a, 2, none"),
        ({"a": {"b": True, "c": [1, 2]}, "d": {}}, "a.b: yes\na.c: 1, 2\nd: none"),
        ([{"a": 1}, {"a": 2}], "1.a: 1\n2.a: 2"),
        ([[1, 2], [3]], "1: 1, 2\n2: 3"),
    ],
)
def test_settings_are_readable(value, text):
    assert readable(plain(value)) == text


def test_members_of_a_blend_are_listed_with_weights():
    members = [{"name": "one", "weight": 0.25, "oof": "x"}, {"name": "other"}]
    assert plain(members) == "one x 0.25, other x 1"
    assert plain({"at": float("nan"), 3: {1}}) == {"at": "nan", "3": "{1}"}


def test_a_page_shows_no_raw_object(tmp_path):
    settings = [{"costs": {"cat": {"dog": 2}}, "views": ["a"]}, {"costs": None, "views": ["a"]}]
    runs = [
        write_run(tmp_path / f"{index}", wrong(index), config=one)
        for index, one in enumerate(settings)
    ]
    page = board_page(every_of(*runs))
    [data] = data_of(page)
    assert [one["settings"]["costs"] for one in data["runs"]] == ["cat.dog: 2", "none"]
    assert data["equal_settings"] == {"cv": {"lr": "0.001", "tta": "none", "views": "a"}}
    assert "{'" not in page


def test_changed_images_against_a_definition():
    rng = np.random.default_rng(1)
    label, one, other = rng.integers(3, size=(3, 200))
    for row_ in range(200):
        found = [row_ in rows for rows in changed_images(label, one, other)]
        right = one[row_] == label[row_], other[row_] == label[row_]
        assert found == [
            right == (True, False),
            right == (False, True),
            right == (False, False) and one[row_] != other[row_],
        ]


def test_images_of_the_first_pair_come_first():
    rng = np.random.default_rng(2)
    label, *predicted = rng.integers(3, size=(5, 100))
    rows = rows_to_show(label, predicted, num_top=3, num_first=4)
    first = {int(row_) for part in changed_images(label, *predicted[:2]) for row_ in part[:4]}
    assert set(rows[: len(first)]) == first
    changes = {row_ for row_ in range(100) if len({one[row_] for one in predicted[:3]}) > 1}
    assert len(rows) == len(set(rows))
    assert set(rows) == changes
    assert rows_to_show(label, predicted[:1], num_top=3, num_first=4) == []


def test_classes_as_letters_can_be_read_back():
    pictures = {
        "classes": [f"{index}" for index in range(70)],
        "image_ids": ["a", "b", "c"],
        "true": [0, 69, 5],
        "predicted": [[0, 69, 5], [0, 1, 64]],
    }
    data = pictures_data(pictures, GalleryImages({"c": "data:image/jpeg;base64,xyz"}, {}, ""))
    assert data["image_ids"] == ["b", "c"]
    assert data["thumbnails"] == {1: "xyz"}
    assert data["num_digits"] == 2
    for text, values in ((data["true"], [69, 5]), (data["predicted"][1], [1, 64])):
        pairs = [text[place : place + 2] for place in range(0, len(text), 2)]
        digits = data["digits"]
        assert [digits.index(a) * 64 + digits.index(b) for a, b in pairs] == values
    assert digits_of(np.array([], int), 1) == ""


def with_image(folder, tmp_path):
    """Write the table of images of a run; all have one file."""
    file = tmp_path / "image.png"
    cv2.imwrite(str(file), np.full((120, 90, 3), 90, np.uint8))
    ids = [f"image {index:02d}" for index in range(len(LABELS))]
    table = pd.DataFrame({"part": "train", "image_id": ids, "path": str(file)})
    write_table(folder / PICTURES, table)
    return file


def test_thumbnails_of_changed_images_and_links_to_reports(tmp_path):
    runs = [
        write_run(tmp_path / "runs" / name, wrong(*places))
        for name, places in (("a b#1", (0,)), ("c", (0, 3)), ("d", (3, 4)))
    ]
    file = with_image(runs[1], tmp_path)
    (runs[0] / "report.html").write_text("")
    found, skipped = find_runs(runs)
    every = leaderboard(found, skipped)
    page = board_page(every, runs=found, folder=tmp_path / "pages")
    pictures = data_of(page)[0]["pictures"]
    shown = {pictures["image_ids"][int(place)] for place in pictures["thumbnails"]}
    assert shown == set(pictures["image_ids"]) == {"image 00", "image 03", "image 04"}
    assert pictures["note"] == ""
    assert re.findall(r'href="(.*?)"', page) == ["../runs/a%20b%231/report.html"]
    # Without the files of images, or without runs, the page has names.
    file.unlink()
    pictures = data_of(board_page(every, runs=found))[0]["pictures"]
    assert pictures["thumbnails"] == {}
    assert pictures["note"].startswith("No thumbnails: ")
    page = board_page(every)
    assert data_of(page)[0]["pictures"]["image_ids"] == ["image 00", "image 03", "image 04"]
    assert "href=" not in page


def test_a_page_of_one_run(tmp_path):
    page = board_page(every_of(write_run(tmp_path / "alone", wrong(0))))
    assert "<h1>alone: accuracy 0.9167" in page
    assert "difference" not in page[: page.index('<script type="application/json"')]
    assert 'class="finder"' not in page


@pytest.mark.slow
def test_the_page_of_fifty_runs_is_below_three_megabytes(tmp_path):
    rng = np.random.default_rng(0)
    file = tmp_path / "image.jpg"
    # Noise makes the largest thumbnails.
    cv2.imwrite(str(file), rng.integers(256, size=(512, 384, 3), dtype=np.uint8))
    folders = []
    for index in range(50):
        folder = write_synthetic_run(
            tmp_path / f"run {index}",
            num_people=2_700,
            paths=[file],
            strength=0.7 + index / 100,
            seed=index,
        )
        info = read_json(folder / "run.json")
        write_json(folder / "run.json", info | {"seconds": 10.0 + index})
        folders.append(folder)
    found, skipped = find_runs(folders)
    page = board_page(leaderboard(found, skipped), runs=found, folder=tmp_path)
    assert len(page.encode()) < 3_000_000
    assert len(data_of(page)[0]["pictures"]["thumbnails"]) > 50
