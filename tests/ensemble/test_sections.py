"""Sections of a blend: the comparison with the best single run, and the table of methods."""

import numpy as np
import pytest

from ensemble.auto import SCORE, SIMPLE, blend_arrays
from ensemble.choose import score_logits
from ensemble.methods.registry import METHODS
from ensemble.sections import errors_section, members_section, methods_section, verdict_sentence
from foldblend.scores.metrics import METRICS
from tests.makers.worlds import World


def verdict(value, low, high, metric="f1_macro"):
    return verdict_sentence(
        {"value": value, "low": low, "high": high},
        "a",
        metric=METRICS[metric],
        num_groups=1080,
        times_cost=2.5,
    )


@pytest.mark.parametrize(
    ("ends", "metric", "words"),
    [
        ((0.01, 0.05), "f1_macro", "better than a alone, the best single run (difference +0.0300 "),
        ((-0.05, -0.01), "f1_macro", "worse than a alone, the best single run (difference +0.0300"),
        ((-0.05, -0.01), "log_loss", "better than a alone, the best single run (difference "),
        ((0.01, 0.05), "log_loss", "worse than a alone, the best single run (difference "),
        (
            (-0.01, 0.05),
            "f1_macro",
            "no better than a alone, the best single run, as far as these 1,080 groups can show (",
        ),
        ((0.0, 0.0), "accuracy", "no better than a alone"),
    ],
)
def test_the_verdict_depends_on_the_interval_and_on_which_direction_is_better(ends, metric, words):
    sentence = verdict(0.03, *ends, metric)
    assert sentence.startswith(f"the blend is {words}")
    assert sentence.endswith(", at 2.5 times the cost")
    assert ("lower is better" in sentence) == (metric == "log_loss")


def test_the_whole_sentence():
    assert verdict(0.004, -0.012, 0.02) == (
        "the blend is no better than a alone, the best single run, as far as these 1,080 groups can"
        " show (difference +0.0040 [-0.0120, +0.0200]), at 2.5 times the cost"
    )


def row(name):
    return {"name": name, "against": "a", "difference": None, "attributes": {}}


def test_the_verdict_follows_the_comparison_of_members():
    comparison, opening, closing = members_section(
        [row("a"), row("b"), row("both")], "the blend is better"
    )["blocks"]
    assert opening == {"kind": "text", "text": "The blend is better."}
    assert [one["name"] for one in comparison["rows"]] == ["a", "b", "both"]
    assert "slightly optimistic" in closing["text"]
    [only] = members_section([row("a"), row("one")], None)["blocks"]
    assert only["kind"] == "comparison"


def test_correlation_of_errors():
    wrong_MN = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 1, 0, 1]], bool)
    table, text = errors_section(["a", "b", "c"], wrong_MN)["blocks"]
    assert table["rows"] == [
        ["a", "0.500", "0.50", "1.00", "b"],
        ["b", "0.500", "0.50", "1.00", "a"],
        ["c", "0.500", "0.00", "0.00", "a"],
    ]
    assert "Of 4 rows, 25.0% are wrong in every member" in text["text"]
    assert errors_section(["a"], wrong_MN[:1]) is None


def blended(prefer=SCORE, names=("soft", "log", "tempered")):
    evidence = World(3, "averaged").evidence()
    methods = {name: METHODS[name] for name in names}
    made = blend_arrays(evidence, methods, decide=False, prefer=prefer)
    best = score_logits(evidence, evidence.logits_MNC[0])
    return made, methods_section(made, best, "a", METRICS["f1_macro"], None, prefer=prefer)


def test_the_table_of_methods_shows_the_weights_of_a_mean():
    made, section = blended()
    assert not made.is_choice
    table, *texts = section["blocks"]
    assert table["header"][1] == "weight"
    *methods, mean = table["rows"]
    assert [row[0] for row in methods] == ["soft", "log", "tempered"]
    assert [float(row[1] or 0) for row in methods] == pytest.approx(made.weight_S, abs=0.005)
    assert mean[:2] == ["mean (chosen)", "1.00"]
    [screen] = section["screen"]
    assert screen["header"] == ["method", "weight", "score", "95 % interval", "difference to a"]
    sentences = " ".join(block["text"] for block in texts)
    assert "Chosen: the mean of the methods' probabilities." in sentences
    assert f"by about {made.optimism:.3f} macro F1" in sentences


def test_a_chosen_method_is_marked_and_has_no_weight():
    made, section = blended(SIMPLE)
    table, *texts = section["blocks"]
    assert "weight" not in table["header"]
    assert [row[0].endswith(" (chosen)") for row in table["rows"]].count(True) == 1
    assert f"Chosen: {made.chosen.name}" in " ".join(block["text"] for block in texts)


def test_a_single_method_is_not_called_a_choice():
    _, section = blended(names=("soft",))
    assert "optimistic" not in " ".join(block["text"] for block in section["blocks"][1:])
