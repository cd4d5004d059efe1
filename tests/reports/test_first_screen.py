"""Tests of the first screen of a page, its matrix and the words it explains."""

import re

import numpy as np
import pytest

from foldblend.scores.rows import Rows
from reports import blocks
from reports.block_kinds import image_ids, section_html, section_lines
from reports.glossary import WORDS, marked, term
from reports.run.first_screen import compared_with, ladder, worst_classes
from reports.run.gallery import Predictions
from reports.run.matrix import matrices, shades


def interval(value, low, high):
    return {"value": value, "low": low, "high": high}


def a_report(**changes):
    return {
        "name": "mine",
        "kind": "cv",
        "metric": "f1_macro",
        "headline": interval(0.5, 0.4, 0.6),
        "folds": [{"score": 0.45}, {"score": None}, {"score": 0.55}],
        "sections": [],
        "baselines": [{"attribute": "mask", "low": 0.1, "mean": 0.2, "high": 0.3}],
        "chance": 0.05,
        **changes,
    }


def names(report):
    return [
        re.sub("<span role.*?</span>|<[^>]+>", "", row["name"]) for row in ladder(report)["rows"]
    ]


def test_the_ladder_has_the_score_its_folds_and_what_a_guess_scores():
    assert names(a_report()) == ["this run", "2 folds", "baseline, mask known", "by chance"]
    rows = ladder(a_report())["rows"]
    assert rows[0]["text"] == "0.5000 [0.4000, 0.6000]"
    assert rows[1]["text"] == "0.4500 to 0.5500"
    assert [row["is_main"] for row in rows] == [True, False, False, False]
    assert rows[1]["strip"].count('class="point"') == 2


def test_the_ladder_of_a_blend_has_the_best_member():
    of_blend = [
        {"name": "a", "headline": interval(0.4, 0.3, 0.5), "against": "a", "attributes": {}},
        {"name": "mine", "headline": interval(0.5, 0.4, 0.6), "against": "a", "attributes": {}},
    ]
    compared = [row | {"difference": None} for row in of_blend]
    report = a_report(sections=[blocks.section("Members", blocks.comparison_block(compared))])
    assert compared_with(report)["name"] == "a"
    assert "a" in names(report)
    assert compared_with(a_report()) is None


def test_a_report_of_an_earlier_version_or_by_another_metric_has_fewer_rows():
    old = a_report()
    del old["chance"]
    assert names({**old, "metric": "log_loss"}) == ["this run", "2 folds"]
    undefined = a_report(headline=interval(None, None, None), folds=[], baselines=[], chance=None)
    assert names(undefined) == ["this run"]


@pytest.fixture
def shown():
    label = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    proba = np.eye(3)[[1, 2, 0, 1, 1, 2, 2, 0]] * 0.5 + 1 / 6
    proba[1] = [0.1, 0.1, 0.8]
    ids = np.array([f"{number}.png" for number in range(8)])
    return Predictions(ids, Rows.of(label, np.arange(8)), proba)


def classes_of(*f1):
    return [
        {"class": one, "name": f"c{one}", "f1": value, "support": 3} for one, value in enumerate(f1)
    ]


def test_worst_classes_show_their_most_confident_mistakes(shown):
    found = worst_classes({"per_class": classes_of(0.3, 0.8, 0.7)}, shown)
    assert [one.name for one in found] == ["c0", "c2", "c1"]
    # Image 1 is wrong with more confidence than image 0.
    assert found[0].rows == (1, 0)
    # No image of class 1 is missed, so the one that is taken for it is shown.
    assert found[2].rows == (0,)


def test_classes_without_mistakes_are_not_listed(shown):
    right = Predictions(shown.image_id_N, shown.rows, np.eye(3)[shown.rows.label_N])
    assert worst_classes({"per_class": classes_of(1.0, 1.0, 1.0)}, right) == []


def test_errors_are_shaded_relative_to_the_largest_error():
    depth = shades(np.array([[98, 2, 0], [1, 99, 0], [0, 0, 0]]))
    assert depth[0, 0] == 0.98
    assert depth[0, 1] == 1.0
    assert 0.5 < depth[1, 0] < 0.65
    assert depth[0, 2] == depth[2, 2] == 0
    assert shades(np.eye(2, dtype=int) * 4).tolist() == [[1, 0], [0, 1]]


def test_matrices_leave_out_what_never_occurs():
    report = {
        "attributes": [],
        "class_names": ["a", "never", "b"],
        "confusion": {"counts": [[3, 0, 1], [0, 0, 0], [0, 0, 2]]},
    }
    [matrix] = matrices(report)
    assert matrix["columns"] == ["a", "b"]
    assert [[cell["count"] for cell in row["cells"]] for row in matrix["rows"]] == [[3, 1], [0, 2]]
    assert matrices({**report, "confusion": {"counts": None}}) == []


def test_words_are_explained_and_escaped():
    assert WORDS["paired"] in str(term("paired"))
    assert marked("Members, out of fold").startswith("Members, <span")
    assert marked("macro F1").startswith("<span")
    assert marked("<b> & others") == "<b> & others"
    with pytest.raises(KeyError):
        term("no such word")
    for word, meaning in WORDS.items():
        assert len(meaning) < 260, word
        assert meaning.endswith(".")


def test_images_and_strips_are_blocks_of_sections():
    one = blocks.section(
        "Changed",
        blocks.images_block("Repaired: 2 rows", [("<i>.png", "cat & dog"), ("b.png", "dog")]),
        blocks.strips_block({"without <a>": interval(-0.1, -0.2, 0.1)}, xlabel="lost", line=0),
    )
    assert image_ids([one]) == ["<i>.png", "b.png"]
    html = section_html(one, {"<i>.png": "data:image/jpeg;base64,AA"})
    assert html.count("<img") == 1
    assert "&lt;i&gt;.png" in html
    assert "without &lt;a&gt;" in html
    assert "-0.1000 [-0.2000, +0.1000]" in html
    text = " ".join(section_lines(one))
    assert "Repaired: 2 rows: <i>.png (cat & dog); b.png (dog)" in text


def test_members_have_their_weights_as_bars():
    rows = [
        {
            "name": name,
            "headline": interval(0.5, 0.4, 0.6),
            "against": "a",
            "attributes": {"age": 0.5},
            "difference": None if name == "a" else interval(0.1, -0.1, 0.3),
            **extra,
        }
        for name, extra in (("a", {"weight": 0.25}), ("blend", {}))
    ]
    html = section_html(blocks.section("Members", blocks.comparison_block(rows)), {})
    assert 'style="--s:0.250">0.25</span>' in html
    assert "+0.1000 [-0.1000, +0.3000]" in html
    assert html.count('class="strip main"') == 2
