"""CSVs with --safe-csv have no cell that a spreadsheet runs, and are unchanged without it."""

import csv
import io
import shutil

import pandas as pd
import pytest

import foldblend as fb
from foldblend import commands
from foldblend.spreadsheets import STARTS, for_spreadsheets, safe_csv, without_formulas
from reports.run.report import suspects_csv
from tests.makers.small_runs import CLASSES, write_run

NAMES = ["=1+1.jpg", "+a.jpg", "-b.jpg", "@c.jpg", "\td.jpg", "\re.jpg", "f=g.jpg", "'h.jpg"]


def test_texts_and_columns_are_quoted_and_numbers_are_not():
    table = pd.DataFrame({"name": NAMES, "=p": [-1.5] * 8, "n": [-1] * 8, "ok": [True] * 8})
    found = without_formulas(table)
    assert found["name"].tolist() == [f"'{name}" for name in NAMES[:6]] + NAMES[6:]
    assert [*found] == ["name", "'=p", "n", "ok"]
    assert found["'=p"].tolist() == [-1.5] * 8
    assert table["name"].tolist() == NAMES
    assert without_formulas(table.astype({"name": "category"}))["name"].tolist()[0] == "'=1+1.jpg"
    assert without_formulas(table.iloc[:0]).empty


def test_tables_change_only_within_the_block():
    table = pd.DataFrame({"name": NAMES})
    assert for_spreadsheets(table) is table
    with safe_csv(True):
        assert for_spreadsheets(table)["name"].iloc[0] == "'=1+1.jpg"
        with safe_csv(False):
            assert for_spreadsheets(table) is table
    assert for_spreadsheets(table) is table


def cells_of(file):
    with file.open(newline="", encoding="utf-8") as opened:
        return [cell for row in csv.reader(opened) for cell in row]


def formulas(file):
    return [
        cell
        for cell in cells_of(file)
        if cell.startswith(STARTS) and not cell.lstrip("-").replace(".", "").isdigit()
    ]


@pytest.mark.parametrize("safe", [False, True])
def test_predictions_of_a_report(safe, tmp_path, command_of):
    ids = [f"=cmd{index}.jpg" for index in range(12)]
    run = write_run(tmp_path / "a", [0] * 12, ids=ids, classes=["=cat", "dog", "owl"])
    done = command_of(commands.report)(run, "--no-page", *(["--safe-csv"] if safe else []))
    assert done.code == 0, done.err
    found = formulas(run / "predictions.csv")
    assert (len(found) == 0) == safe
    assert len(CLASSES) == 3


def test_suspects_are_written_anew_in_both_forms_and_edits_stay(tmp_path):
    finding = {"target": "=x", "field": "label", "value": "cat", "text": "why"}
    report = {"suspects": {"findings": [finding]}}
    plain = suspects_csv(report)
    with safe_csv(True):
        safe = suspects_csv(report)
    assert next(csv.reader(io.StringIO(plain.splitlines()[1])))[0] == "=x"
    assert next(csv.reader(io.StringIO(safe.splitlines()[1])))[0] == "'=x"


def test_predict_writes_safe_names(tiny_runs, tiny_layout, tmp_path, command_of):
    images = tmp_path / "new"
    images.mkdir()
    image = next(tiny_layout.glob("eval/images/*"))
    for name in ("=1+1.jpg", "@sum.jpg", "plain.jpg"):
        shutil.copy(image, images / name)
    predict = command_of(commands.predict)
    for safe in (False, True):
        out = tmp_path / f"{safe}.csv"
        flags = ["--safe-csv"] if safe else []
        done = predict(tiny_runs / "beta", images, "--out", out, "--no-odd", *flags)
        assert done.code == 0, done.err
        wanted = (
            ["'=1+1.jpg", "'@sum.jpg", "plain.jpg"]
            if safe
            else sorted(one.name for one in images.iterdir())
        )
        assert sorted(pd.read_csv(out)["image_id"]) == wanted
        done = predict(tiny_runs / "beta", images, "--no-odd", *flags)
        assert ("'=1+1.jpg" in done.out) == safe
        assert "=1+1.jpg" in done.out


def test_submissions_of_runs_and_blends(layout_copy, tmp_path, runs_copy):
    # The answers of the tiny set are numbers, so its names of images are what is safe or not.
    both = fb.blend(
        [runs_copy / "alpha", runs_copy / "beta"],
        method="soft",
        name="safe",
        safe_csv=True,
        page=False,
        say=lambda _: None,
    )
    plain = fb.blend(
        [runs_copy / "alpha", runs_copy / "beta"],
        method="soft",
        name="plain",
        page=False,
        say=lambda _: None,
    )
    assert both.info["run_key"] == plain.info["run_key"]
    files = [one.path / "submission.csv" for one in (both, plain)]
    assert files[0].read_bytes() == files[1].read_bytes()
