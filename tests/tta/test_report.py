"""Tests of the report on predictions whose harm is known."""

import json

import numpy as np
import pytest

from foldblend.attributes import Attribute
from foldblend.scores.metrics import METRICS
from foldblend.scores.rows import Rows
from reports.block_kinds import section_html, section_lines
from reports.blocks import section
from reports.run.summary import compare
from tta.evaluate import effects
from tta.policy import Policy
from tta.report import (
    THIS,
    _verdict,
    cost_block,
    effect_rows,
    harm_blocks,
    images_per_second,
    simple_policies,
)

VOWEL = Attribute(name="vowel", values=("yes", "no"), of_class=(0, 1, 1))
SECONDS = {"hflip": 0.02, "vflip": 0.04, "train#0": 0.1}


def predictions(num_groups=40):
    """Return predictions of three views.

    The unaugmented image is right three times out of four, the mirrored one always, and the one
    upside down never.
    """
    label = np.tile([0, 1, 2, 0], num_groups)
    plain = np.where(np.arange(len(label)) % 4 == 3, 1, label)
    seen = {"identity": plain, "hflip": label, "vflip": (label + 1) % 3}
    shared = {
        "rows": Rows.of(label, np.repeat(np.arange(num_groups), 4)),
        "attributes": [VOWEL],
        "metric": "f1_macro",
    }
    return {name: 9 * np.eye(3)[one] for name, one in seen.items()}, shared


def blocks_of(logits_of, shared):
    passes = dict.fromkeys(logits_of, 2) | {"identity": 1}
    found = effects(logits_of, passes, classes=["a", "e", "b"], **shared)
    speed_of = {"identity": None, "hflip": 25.0, "vflip": 12.5}
    return found, harm_blocks(found, metric=METRICS["f1_macro"], speed_of=speed_of, detail="hflip")


def test_harmful_views_are_listed_and_others_are_not():
    _, (harmful, comparison, cost, *detail) = blocks_of(*predictions())
    assert (
        "wrong side of zero): vflip. Of 2 policies compared, about 0.05 would be listed by chance"
        in harmful["text"]
    )
    assert [row["name"] for row in comparison["rows"]] == ["identity", "hflip", "vflip"]
    # Class a is mistaken for e in one image of four: F1 of a is 2/3, of e 2/3, of b 1.
    assert cost["rows"] == [
        ["identity", "1", "", "0", "0", "", ""],
        ["hflip", "2", "25", "40", "0", "a +0.333", ""],
        ["vflip", "2", "12.5", "0", "120", "", "b -1.000"],
    ]
    assert [block["header"][0] for block in detail] == ["class, hflip", "vowel, hflip"]
    assert detail[0]["rows"][1] == ["e", "40", "1.000", "+0.333"]
    text = "\n".join(section_lines(section("Views", harmful, comparison, cost, *detail)))
    assert "HARMFUL" in text


def test_without_harmful_views_there_is_no_list():
    logits_of, shared = predictions()
    del logits_of["vflip"]
    _, blocks = blocks_of(logits_of, shared)
    assert [block["kind"] for block in blocks] == ["comparison", "table", "table", "table"]


def test_lower_is_better_where_the_metric_is_a_loss():
    logits_of, shared = predictions()
    passes = dict.fromkeys(logits_of, 1)
    found = effects(logits_of, passes, classes=["a", "e", "b"], **(shared | {"metric": "log_loss"}))
    speeds = dict.fromkeys(logits_of)
    harmful, *_ = harm_blocks(found, metric=METRICS["log_loss"], speed_of=speeds, detail="hflip")
    assert ": vflip. Of" in harmful["text"]


def test_every_class_and_attribute_of_every_policy_is_a_row():
    found, _ = blocks_of(*predictions())
    rows = list(effect_rows(found))
    assert len(rows) == 3 * (3 + 2)
    assert rows[-1] == {
        "policy": "vflip",
        "passes": 2,
        "of": "vowel",
        "name": "no",
        "support": 80,
        "f1": 0.4,
        "difference": pytest.approx(2 * 40 / (80 + 120) - 2 * 80 / (80 + 120)),
    }


def test_speed_is_one_over_the_sum_of_the_views_times():
    assert images_per_second(Policy(("hflip", "vflip")), SECONDS) == pytest.approx(1 / 0.06)
    # The unaugmented image takes the mean time of the views on the device. Drawn views take longer
    # and are left out of that mean.
    assert images_per_second(Policy(("identity",)), SECONDS) == pytest.approx(1 / 0.03)
    assert images_per_second(Policy(("identity", "train#0")), SECONDS) == pytest.approx(1 / 0.13)
    assert images_per_second(Policy(("identity", "train#0")), {"train#0": 0.1}) is None
    assert images_per_second(Policy(("identity", "scale:1.2")), SECONDS) == pytest.approx(1 / 0.06)
    assert images_per_second(Policy(("albu:a.yaml#0",)), SECONDS) is None
    assert images_per_second(Policy(("identity",)), {}) is None


def test_policies_that_need_no_choice():
    assert simple_policies(["identity"]) == {"identity": Policy(("identity",))}
    assert [*simple_policies(["identity", "hflip"])] == ["identity", "hflip", "identity + hflip"]
    names = ["identity", "hflip", "vflip"]
    policies = simple_policies(names)
    assert policies["identity + vflip"] == Policy(("identity", "vflip"))
    assert policies["all 3 views (prob)"] == Policy(tuple(names), "prob")


def test_score_against_cost():
    logits_of, shared = predictions()
    proba_of = {"1": logits_of["identity"], "2": logits_of["hflip"]}
    rows = compare(
        proba_of={name: np.exp(one) for name, one in proba_of.items()}, against="1", **shared
    )
    block = cost_block(rows, metric=METRICS["f1_macro"], seconds_of_view=SECONDS, how="as given")
    assert block["x"] == [1, 2]
    assert block["series"]["macro F1"] == pytest.approx([7 / 9, 1])
    # All groups are alike, so leaving one out changes nothing; only a perfect score has a width.
    assert block["series"]["high"] == pytest.approx([7 / 9, 1])
    low = block["series"]["95 % interval, low"]
    assert low[0] == pytest.approx(7 / 9)
    assert 0.8 < low[1] < 1
    assert block["caption"] == "macro F1 against cost: as given; one pass takes 30 ms per image"
    assert "as given" in section_html(section("Views", json.loads(json.dumps(block))), {})


@pytest.mark.parametrize(
    ("ends", "metric", "words"),
    [
        ((0.01, 0.05), "f1_macro", "Augmentation improves macro F1: +0.0300 [+0.0100, +0.0500]"),
        ((-0.05, -0.01), "f1_macro", "Augmentation lowers macro F1: -0.0300"),
        ((-0.05, -0.01), "log_loss", "Augmentation improves log loss: -0.0300"),
        ((0.01, 0.05), "log_loss", "Augmentation worsens log loss: +0.0300"),
        ((-0.01, 0.07), "f1_macro", "Augmentation does not measurably change macro F1: +0.0300"),
        ((0.0, 0.0), "f1_macro", "The predictions are those without augmentation."),
        ((None, None), "roc_auc_ovr", "is not defined on these rows"),
    ],
)
def test_the_verdict_depends_on_the_interval_and_on_which_direction_is_better(ends, metric, words):
    value = None if None in ends else sum(ends) / 2
    difference = {"value": value, "low": ends[0], "high": ends[1]}
    row = {"name": THIS, "passes": 1, "comparison": {"difference": difference}}
    sentence = _verdict([row], METRICS[metric])
    assert words in sentence
    assert "1 passes" not in sentence
