"""Tests of a report as text, page and JSON, from run folders with known logits."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import cv2
import jsonschema
import numpy as np
import pandas as pd
import pytest
import sklearn.metrics

from foldblend.runs.calibrated import calibration_of
from foldblend.runs.folder import PICTURES, write_section
from foldblend.runs.oof import oof_arrays
from foldblend.runs.run import Run
from foldblend.scores.bootstrap import bootstrap_scores
from foldblend.scores.metrics import METRICS
from reports import blocks
from reports.html import json_data
from reports.run.gallery import GalleryImages, Predictions, gallery_data, rows_by_interest
from reports.run.predictions import predictions
from reports.run.report import write_report
from reports.run.thumbnails import gallery_images_of
from reports.text import WIDTH, table
from tests.makers.edits import rehash
from tests.makers.synthetic_runs import write_synthetic_run

NASTY = [
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "it's <u>bold</u> & $x$ {{ 1 }}",
]


class Parsed(HTMLParser):
    """Parser that collects the elements of a page and its text outside of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.inside: list[str] = []
        self.data = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.inside.append(dict(attrs).get("id") or tag)

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self.inside.pop()

    def handle_data(self, data):
        if not self.inside:
            self.text += data
        elif self.inside[-1] == "gallery-data":
            self.data += data


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """Return a run of 30 people with images of three sizes, and the text of its report."""
    root = tmp_path_factory.mktemp("reported")
    paths = []
    for index in range(3):
        paths.append(root / f"image {index}.jpg")
        cv2.imwrite(str(paths[-1]), np.full((60 + 200 * index, 90, 3), 80 * index, np.uint8))
    run = Run(write_synthetic_run(root / "run", num_people=30, num_test=20, paths=paths))
    return run, write_report(run)


@pytest.fixture
def run_copy(reported, tmp_path):
    return Run(Path(shutil.copytree(reported[0].path, tmp_path / "run")))


def test_numbers_equal_those_of_scikit_learn(reported):
    run, _ = reported
    report = run.report
    arrays = oof_arrays(run)
    rows = arrays.rows
    proba = arrays.proba_NC
    predicted = proba.argmax(1)
    label = rows.label_N
    present = np.unique(label)
    macro = sklearn.metrics.f1_score(
        label, predicted, labels=present, average="macro", zero_division=0
    )
    each = [sklearn.metrics.roc_auc_score(label == one, proba[:, one]) for one in present]
    assert (
        report["headline"]["value"]
        == report["f1_macro"]["value"]
        == report["scores"]["f1_macro"]
        == macro
    )
    assert report["scores"] == {
        "f1_macro": macro,
        "accuracy": sklearn.metrics.accuracy_score(label, predicted),
        "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(label, predicted),
        "roc_auc_ovr": np.mean(each),
        "log_loss": sklearn.metrics.log_loss(label, proba, labels=np.arange(18)),
        "kappa_quadratic": sklearn.metrics.cohen_kappa_score(
            label, predicted, labels=np.arange(18), weights="quadratic"
        ),
    }
    table = sklearn.metrics.classification_report(
        label, predicted, labels=present, output_dict=True, zero_division=0
    )
    for row in report["per_class"]:
        expected = table[str(row["class"])]
        assert [row[key] for key in ("precision", "recall", "f1", "support")] == [
            expected[key] for key in ("precision", "recall", "f1-score", "support")
        ]
    matrix = sklearn.metrics.confusion_matrix(label, predicted, labels=np.arange(18))
    assert report["confusion"]["counts"] == matrix.tolist()
    for one, attribute in zip(report["attributes"], run.attributes, strict=True):
        of_class = np.array(attribute.of_class)
        truth = of_class[label]
        guess = of_class[predicted]
        assert one["f1_macro"]["value"] == sklearn.metrics.f1_score(truth, guess, average="macro")
        assert one["accuracy"] == sklearn.metrics.accuracy_score(truth, guess)
        values = np.arange(len(attribute.values))
        assert (
            one["confusion"]["counts"]
            == sklearn.metrics.confusion_matrix(truth, guess, labels=values).tolist()
        )
    for row in report["folds"]:
        in_fold = rows.fold_N == row["fold"]
        labels = np.unique(label[in_fold])
        expected = sklearn.metrics.f1_score(
            label[in_fold], predicted[in_fold], labels=labels, average="macro", zero_division=0
        )
        assert row["score"] == expected


def test_the_score_of_a_bootstrap_sample_equals_that_of_scikit_learn(reported):
    arrays = oof_arrays(reported[0])
    rows = arrays.rows
    proba = arrays.proba_NC
    scores = bootstrap_scores(METRICS["f1_macro"], rows.label_N, proba, rows.group_N, seed=5)
    names, code = np.unique(rows.group_N, return_inverse=True)
    draw = np.random.default_rng(5).integers(len(names), size=len(names))
    resampled = np.concatenate([np.flatnonzero(code == one) for one in draw])
    label = rows.label_N[resampled]
    predicted = proba.argmax(1)[resampled]
    expected = sklearn.metrics.f1_score(
        label, predicted, labels=np.unique(label), average="macro", zero_division=0
    )
    assert scores[0] == pytest.approx(expected, abs=1e-15)
    assert len(scores) == 1000
    again = bootstrap_scores(METRICS["f1_macro"], rows.label_N, proba, rows.group_N, seed=5)
    np.testing.assert_array_equal(scores, again)


def test_text_json_and_page_have_the_same_numbers(reported):
    run, text = reported
    report = run.report
    page = Parsed((run.path / "report.html").read_text())
    assert (run.path / "report.txt").read_text() == text
    for shown in (text, page.text):
        assert f"{report['headline']['value']:.4f}" in shown
        assert f"{report['calibration']['ece']:.4f}" in shown
        for row in report["folds"]:
            assert f"{row['score']:.4f}" in shown
        for row in report["per_class"]:
            assert row["name"] in " ".join(shown.split())
            assert f"{row['f1']:.3f}" in shown
    assert max(map(len, text.splitlines())) <= WIDTH


def test_the_schema_describes_the_report(reported, alpha):
    schema = json.loads(
        (Path(__file__).resolve().parents[2] / "docs" / "report.schema.json").read_text()
    )
    jsonschema.Draft202012Validator.check_schema(schema)
    for run in (reported[0], alpha):
        jsonschema.validate(run.report, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(reported[0].report | {"another": 1}, schema)


def test_the_page_loads_nothing_and_runs_only_its_own_script(reported):
    page = Parsed((reported[0].path / "report.html").read_text())
    policy = next(one["content"] for tag, one in page.tags if tag == "meta" and "http-equiv" in one)
    assert policy.startswith("default-src 'none';")
    assert policy.count("'sha256-") == 2
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, value)


def test_names_with_html_are_shown_as_text(tmp_path):
    names = [*NASTY, *[f"class {index}" for index in range(3, 18)]]
    folder = write_synthetic_run(tmp_path / "<u>run & co", num_people=25, names=names)
    info = json.loads((folder / "run.json").read_text())
    info["attributes"][0] |= {"name": NASTY[0], "values": NASTY}
    info["notes"] = [NASTY[1]]
    info["about"] = NASTY[2]
    (folder / "run.json").write_text(json.dumps(info))
    oof = pd.read_parquet(folder / "oof.parquet")
    oof["image_id"] = NASTY[0] + oof["image_id"]
    oof["group"] = NASTY[1] + oof["group"]
    oof.to_parquet(folder / "oof.parquet")
    rehash(folder / "oof.parquet")
    write_section(
        folder,
        "own",
        blocks.section(
            NASTY[0],
            blocks.text_block(NASTY[1]),
            blocks.table_block(["", NASTY[2]], [[NASTY[0], "1"]]),
        ),
    )
    write_report(Run(folder))
    raw = (folder / "report.html").read_text()
    page = Parsed(raw)
    assert [one.get("type") for tag, one in page.tags if tag == "script"] == [
        "application/json",
        None,
        None,
    ]
    assert not [one for tag, one in page.tags if tag == "u"]
    assert not [
        one for tag, one in page.tags if tag == "img" and not (one["src"] or "").startswith("data:")
    ]
    for name in [*NASTY, "<u>run & co"]:
        assert name in page.text
    data = json.loads(page.data)
    assert data["classes"][:3] == NASTY
    assert all(one.startswith(NASTY[0]) for one in data["pictures"])
    assert "</script><script>alert(1)" not in raw


def test_data_for_scripts_cannot_end_their_element():
    value = {"</script>": ["<!--", "\u2028", "é"]}
    assert "<" not in json_data(value)
    assert json.loads(json_data(value)) == value


def test_a_report_is_written_again_from_its_run_folder(run_copy, reported):
    made = ("report.json", "report.txt", "report.html", "predictions.csv")
    for name in made:
        (run_copy.path / name).unlink()
    # Without its log, fold 0 has no learning curve.
    shutil.rmtree(run_copy.path / "fold_0")
    write_report(run_copy)
    again = run_copy.report
    before = reported[0].report
    assert [row["fold"] for row in again["curves"]] == [1, 2, 3, 4]
    assert again | {"curves": before["curves"]} == before
    assert (run_copy.path / "predictions.csv").read_bytes() == (
        reported[0].path / "predictions.csv"
    ).read_bytes()


@pytest.mark.slow
def test_without_images_the_page_has_a_note(run_copy):
    table = pd.read_parquet(run_copy.path / PICTURES)
    table["path"] = "/nowhere/" + table["image_id"]
    table.to_parquet(run_copy.path / PICTURES)
    rehash(run_copy.path / PICTURES)
    write_report(run_copy)
    page = Parsed((run_copy.path / "report.html").read_text())
    assert "No thumbnails: the images are not where the run found them (/nowhere/" in page.text
    assert not any(json.loads(page.data)["thumbnails"])
    (run_copy.path / PICTURES).unlink()
    write_report(run_copy)
    page = Parsed((run_copy.path / "report.html").read_text())
    assert f"the run folder has no {PICTURES}" in page.text
    assert json.loads(page.data)["links"]["root"] is None


def test_no_page(run_copy):
    write_report(run_copy, page=False)
    assert not (run_copy.path / "report.html").exists()


def test_thumbnails_stop_at_their_limit_and_skip_unreadable_images(run_copy, tmp_path):
    ids = run_copy.oof["image_id"].tolist()
    everything = gallery_images_of(run_copy, ids)
    assert set(everything.thumbnails) == set(ids)
    assert f"Thumbnails of {len(ids)} of {len(ids)} images" in everything.note
    table = pd.read_parquet(run_copy.path / PICTURES)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"not an image")
    table.loc[table["image_id"] == ids[1], "path"] = str(broken)
    table.to_parquet(run_copy.path / PICTURES)
    rehash(run_copy.path / PICTURES)
    sizes = [len(everything.thumbnails[one]) for one in ids]
    few_bytes = sizes[0] + sizes[2]
    few = gallery_images_of(run_copy, ids, most_bytes=few_bytes)
    assert list(few.thumbnails) == [ids[0], ids[2]]
    assert "mistakes first" in few.note
    assert set(few.paths) == set(ids)


def test_images_with_and_without_a_box_have_thumbnails(run_copy):
    table = pd.read_parquet(run_copy.path / PICTURES)
    table["box"] = [None if index % 2 else [10.0, 0.0, 30.0, 20.0] for index in range(len(table))]
    table.to_parquet(run_copy.path / PICTURES)
    rehash(run_copy.path / PICTURES)
    shown = gallery_images_of(run_copy, table["image_id"].tolist()).thumbnails
    assert len(shown) == len(table)


def test_mistakes_come_first_then_all_classes_in_turn():
    label = np.array([0, 0, 0, 0, 1, 1, 2])
    proba = np.full((7, 3), 0.1)
    for row, (one, confidence) in enumerate(
        [(0, 0.8), (1, 0.6), (0, 0.7), (0, 0.5), (1, 0.9), (2, 0.8), (2, 0.4)]
    ):
        proba[row, one] = confidence
    assert rows_by_interest(label, proba).tolist() == [5, 1, 0, 4, 6, 2, 3]
    assert rows_by_interest(label, proba, [3, 5]).tolist() == [3, 5, 1, 0, 4, 6, 2]


def test_a_gallery_has_the_most_interesting_of_too_many_predictions(run_copy, monkeypatch):
    write_report(run_copy)
    whole = Parsed((run_copy.path / "report.html").read_text())
    monkeypatch.setattr("reports.run.report.MOST_ROWS", 60)
    write_report(run_copy)
    page = Parsed((run_copy.path / "report.html").read_text())
    assert "The gallery has 60 of 210 predictions, mistakes first." in page.text
    everything = json.loads(whole.data)
    few = json.loads(page.data)

    def rows_of(data):
        names = [data["pictures"][one] for one in data["picture"]]
        own = [data[name] for name in ("label", "predicted", "confidence", "own")]
        groups = [data["groups"][one] for one in data["group"]]
        return [*zip(names, groups, *own, strict=True)]

    all_rows = rows_of(everything)
    rows = rows_of(few)
    assert len(rows) == 60
    assert len(few["pictures"]) == len(few["thumbnails"]) == 60
    # All are as they were, and in their order.
    assert [one for one in all_rows if one in rows] == rows
    left_out = [one for one in all_rows if one not in rows]
    is_wrong = [label != predicted for _, _, label, predicted, _, _ in rows]
    sure = [one for one, wrong in zip(rows, is_wrong, strict=True) if wrong]
    rest = [one for one in left_out if one[2] != one[3]]
    assert len(sure) > 40
    # Images of the worst classes and suspected labels come first; then the most confident mistakes.
    assert sorted(one[4] for one in rest)[-1] <= sorted(one[4] for one in sure)[len(sure) // 2]

    def first_screen(one, data):
        places = [
            int(attributes["data-row"]) for _, attributes in one.tags if "data-row" in attributes
        ]
        return [rows_of(data)[place] for place in places]

    assert len(first_screen(page, few)) > 3
    assert first_screen(page, few) == first_screen(whole, everything)


def test_gallery_data(reported):
    run = reported[0]
    arrays = oof_arrays(run)
    ids = run.oof["image_id"].to_numpy()
    rows = arrays.rows
    order = np.tile(np.arange(len(ids)), 2)
    twice = Predictions(ids[order], rows.take(order), arrays.proba_NC[order])
    twice.rows.repeat_N[len(ids) :] = 1
    paths = {one: f"/data/images/{one}" for one in ids}
    data = gallery_data(
        twice, GalleryImages({}, paths, ""), classes=run.classes, attributes=run.attributes
    )
    assert data["links"] == {
        "root": "/data/images",
        "below": [one.split("/", 1)[1] for one in sorted(ids)],
    } or data["links"] == {"root": "/data/images", "below": None}
    assert [data["pictures"][one] for one in data["picture"]] == [*ids, *ids]
    assert [data["groups"][one] for one in data["group"]] == [*rows.group_N, *rows.group_N]
    folds = [f"{repeat}.{fold}" for repeat in (0, 1) for fold in rows.fold_N]
    assert [data["folds"][one] for one in data["fold"]] == folds
    assert (
        data["confidence"][: len(ids)]
        == np.rint(arrays.proba_NC.max(1) * 1000).astype(int).tolist()
    )
    assert len(data["thumbnails"]) == len(ids)


def test_predictions(reported):
    run = reported[0]
    table = pd.read_csv(run.path / "predictions.csv")
    assert table["part"].value_counts().to_dict() == {"oof": 210, "test": 20}
    oof = table[table["part"] == "oof"]
    test = table[table["part"] == "test"]
    calibration = calibration_of(run)
    proba = calibration.proba(run.logits(run.oof))
    columns = [f"proba_{index}" for index in range(18)]
    np.testing.assert_allclose(oof[columns], proba, atol=1e-12)
    assert oof["image_id"].tolist() == run.oof["image_id"].tolist()
    assert oof["true"].tolist() == [run.classes[label] for label in run.oof["label"]]
    assert oof["predicted"].tolist() == [run.classes[label] for label in proba.argmax(1)]
    np.testing.assert_allclose(oof["confidence"], proba.max(axis=1), atol=1e-12)
    of_test = calibration.proba(run.logits(run.test))
    np.testing.assert_allclose(test[columns], of_test, atol=1e-12)
    assert test["true"].isna().all()
    assert test["image_id"].tolist() == run.test["image_id"].tolist()
    assert predictions(run, calibration_of(run))["fold"].tolist()[:210] == run.oof["fold"].tolist()


def test_a_section_of_a_stage_is_in_text_page_and_json(run_copy):
    section = blocks.section(
        "What a later stage found",
        blocks.text_block("A paragraph of the stage."),
        blocks.table_block(["view", "score"], [["flipped", "0.71"]]),
        blocks.bars_block(
            ["one", "two"], {"weight": [0.25, 0.75]}, xlabel="member", caption="Weights (n = 2)"
        ),
        blocks.lines_block(
            [1, 2], {"gain": [0.125, None]}, xlabel="step", ylabel="score", caption="Steps (n = 2)"
        ),
    )
    write_section(run_copy.path, "zz_later", section)
    text = write_report(run_copy)
    page = Parsed((run_copy.path / "report.html").read_text())
    # The last one, on use and limits, is every run's.
    assert run_copy.report["sections"][:-1] == [section]
    for shown in (text, page.text):
        for word in (
            "What a later stage found",
            "A paragraph of the stage.",
            "flipped",
            "0.71",
            "Weights (n = 2)",
        ):
            assert word in shown
    assert "0.125" in text
    assert "0.75" in text


def test_a_table_that_fits_is_one_line_per_row():
    rows = [["cat", "0.91", "[0.8, 1.0]"], ["dog", "0.5", "-"]]
    assert table(["class", "F1", "interval"], rows) == [
        "class    F1    interval",
        "cat    0.91  [0.8, 1.0]",
        "dog     0.5           -",
    ]


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize("wrap_cells", [True, False])
def test_a_wide_table_wraps_then_drops_columns_and_lists_them(width, wrap_cells):
    header = ["", *[f"column{index}" for index in range(14)]]
    rows = [
        [f"a name that is long, number {row}", *[f"{row}.{c} [{c}.1, {c}.9]" for c in range(14)]]
        for row in range(2)
    ]
    lines = table(header, rows, width=width, wrap_cells=wrap_cells)
    assert max(map(len, lines)) <= width
    shown, _, left_out = "\n".join(lines).partition("(columns left out, too wide: ")
    dropped = " ".join(left_out.rstrip(")").split()).split(", ")
    num_shown = 14 - len(dropped)
    assert dropped == header[1 + num_shown :]
    assert num_shown >= 1
    for column in range(14):
        is_shown = column < num_shown
        assert shown.split().count(f"column{column}") == is_shown
        for row in range(2):
            assert shown.split().count(f"{row}.{column}") == is_shown
            # An interval is never wrapped.
            assert (f"[{column}.1, {column}.9]" in shown) == is_shown
    if not wrap_cells:
        assert sum("[0.1, 0.9]" in line and "0.0" in line for line in lines) == 1


def edit_run(run, **changes):
    info = json.loads((run.path / "run.json").read_text())
    info |= changes
    (run.path / "run.json").write_text(
        json.dumps({name: one for name, one in info.items() if one is not None})
    )
    return Run(run.path)


def test_long_names_are_whole_and_control_characters_replaced(run_copy):
    """Check names that are long, have several lines or control a terminal."""
    names = ["\x1b[31mred\x1b[0m", "two\nlines", "a value's name " * 8]
    attributes = [
        one | {"name": f"{one['name']} {'x' * 60}"} for one in run_copy.info["attributes"]
    ]
    attributes[0]["values"] = names
    classes = [f"class {index} " + "of many words " * 9 for index in range(18)]
    run = edit_run(run_copy, attributes=attributes, classes=classes, about="made " * 60)
    rows = [
        {
            "name": f"view {index}",
            "headline": {"value": 0.5, "low": 0.4, "high": 0.6},
            "accuracy": 0.5,
            "attributes": {f"attribute {number}": 0.5 for number in range(9)},
            "against": "view 0",
            "difference": None,
        }
        for index in range(2)
    ]
    write_section(
        run.path, "many", blocks.section("Many attributes", blocks.comparison_block(rows))
    )
    text = write_report(run, page=False)
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "\x1b" not in text
    many = text[text.index("Many attributes") + len("Many attributes") :]
    shown, left_out = many.split("(columns left out", 1)
    assert shown.count("attribute") + left_out.split(")")[0].count("attribute") == 9


def test_many_classes(tmp_path):
    run = Run(write_synthetic_run(tmp_path / "run", num_people=20))
    table = run.oof
    extra = pd.DataFrame(
        np.full((len(table), 42), -9, np.float32),
        columns=[f"logit_{index}" for index in range(18, 60)],
    )
    pd.concat([table, extra], axis=1).to_parquet(run.path / "oof.parquet", index=False)
    rehash(run.path / "oof.parquet")
    classes = [f"class {index}" for index in range(60)]
    run = edit_run(run, classes=classes, answers=classes, attributes=[])
    text = write_report(run)
    page = Parsed((run.path / "report.html").read_text())
    assert run.report["confusion"]["counts"] is None
    assert "60 classes are too many for a matrix" in page.text
    # The first screen has the most frequent confusions in place of a small matrix.
    assert page.text.index("Most frequent confusions") < page.text.index("About this score")
    assert "most frequent confusions" in text
    assert not [
        name for name in pd.read_csv(run.path / "predictions.csv") if name.startswith("proba_")
    ]


def test_what_makes_a_score_too_high_is_always_reported(run_copy):
    run = edit_run(run_copy, notes=None, about=None, leaks=True, optimistic=True)
    (run.path / "report.json").unlink()
    text = " ".join(write_report(run).split())
    assert "OPTIMISTIC" in text
    assert "groups leak between folds, so this score is probably too high" in text
    assert "how it was made is not recorded" in text
    assert run.report["suspects"]["skipped"].startswith(
        "not checked: groups are split between folds"
    )


def test_a_run_of_the_first_schema_keeps_what_only_its_report_has(run_copy):
    row = {
        "name": "a",
        "headline": {"value": 0.5, "low": 0.4, "high": 0.6},
        "accuracy": 0.5,
        "attributes": {},
    }
    old = {"schema": 1, "about": "made long ago", "notes": ["a note"]}
    old["comparisons"] = {"views": [row | {"against": "a", "difference": None}]}
    (run_copy.path / "report.json").write_text(json.dumps(old))
    run = edit_run(run_copy, notes=None, about=None)
    write_report(run)
    assert (run.report["about"], run.report["notes"]) == ("made long ago", ["a note"])
    assert run.report["sections"][0]["title"] == "views"


@pytest.mark.slow
def test_a_perfect_score_has_an_interval_and_a_single_group_has_a_note(run_copy):
    table = run_copy.oof
    truth = 9 * np.eye(18)[table["label"]]
    table[[f"logit_{index}" for index in range(18)]] = truth.astype(np.float32)
    table.to_parquet(run_copy.path / "oof.parquet", index=False)
    rehash(run_copy.path / "oof.parquet")
    run = Run(run_copy.path)
    write_report(run)
    headline = run.report["headline"]
    assert headline["value"] == headline["high"] == 1
    assert 0.5 < headline["low"] < 1
    assert not [note for note in run.report["notes"] if "no width" in note]
    table["group"] = table["group"].iloc[0]
    table.to_parquet(run_copy.path / "oof.parquet", index=False)
    rehash(run_copy.path / "oof.parquet")
    run = Run(run_copy.path)
    write_report(run)
    assert run.report["headline"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    [note] = [note for note in run.report["notes"] if "no width" in note]
    assert note.endswith(f"there is only one {run.group_name}")


def test_corrected_labels_have_a_note_on_optimism(run_copy):
    table = run_copy.oof
    table.loc[0, "label"] = (table.loc[0, "label"] + 3) % 18
    table.to_parquet(run_copy.path / "oof.parquet", index=False)
    rehash(run_copy.path / "oof.parquet")
    run = Run(run_copy.path)
    text = " ".join(write_report(run).split())
    assert "scored on corrected labels" in text
    assert run.report["raw"]["value"] == METRICS["f1_macro"].score(
        table["label_raw"].to_numpy(), oof_arrays(run).proba_NC
    )


def test_numbers_that_are_not_finite_are_null(run_copy):
    log = pd.read_csv(run_copy.path / "fold_0" / "log.csv")
    log.loc[2, "train_loss"] = np.inf
    log.to_csv(run_copy.path / "fold_0" / "log.csv", index=False)
    table = run_copy.oof
    # With a single class, ROC AUC is not defined.
    table["label_raw"] = 0
    table.to_parquet(run_copy.path / "oof.parquet", index=False)
    rehash(run_copy.path / "oof.parquet")
    run = edit_run(run_copy, metric="roc_auc_ovr")
    write_report(run)
    assert run.report["curves"][0]["train_loss"][2] is None
    assert run.report["raw"] == {"value": None, "low": None, "high": None}


def test_a_kill_leaves_no_page_with_outdated_numbers(run_copy, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("reports.run.report.write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        write_report(edit_run(run_copy, metric="accuracy"), page=False)
    assert not (run_copy.path / "report.html").exists()
    # report.json is written last, so it still has the previous numbers.
    assert run_copy.report["metric"] == "f1_macro"


@pytest.mark.parametrize(
    "note",
    [
        "--split random leaks groups between folds: this score is probably too high",
        "groups leak between the folds of a, so this score is probably too high",
        # The next two are the words of versions before 0.2.
        "groups leak between folds: this score is not honest",
        "OPTIMISTIC: epochs of a were chosen on the very rows that are scored",
        "OPTIMISTIC: each fold's epoch was chosen on the scored rows themselves (--select best)",
    ],
)
def test_a_note_on_a_score_that_is_too_high_is_an_alarm_and_not_repeated(run_copy, note):
    marks = {"optimistic": "OPTIMISTIC" in note, "leaks": "leak" in note}
    run = edit_run(run_copy, notes=[note, "a harmless note"], **marks)
    write_report(run)
    assert run.report["notes"][:2] == [note, "a harmless note"]
    assert not any("leak" in one or "OPTIMISTIC" in one for one in run.report["notes"][1:])
    page = (run.path / "report.html").read_text()
    assert re.search(rf'<p class="alarm">{re.escape(note[:9])}', page, re.IGNORECASE)
    assert "<p>A harmless note" in page
