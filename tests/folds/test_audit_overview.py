"""The audit in short: which checks were fine, and the order and severity of findings."""

import dataclasses
import html
import re

import cv2
import numpy as np
import pandas as pd
import pytest

from folds.audit.adversarial import Adversarial
from folds.audit.checks import Outcome, checks_of
from folds.audit.exchanges import Swaps
from folds.audit.exploration import explore
from folds.audit.findings import CheckName, Finding, Severity
from folds.audit.lookalikes import Lookalikes
from folds.audit.other_findings import num_split_groups
from folds.audit.overview import NO_PROBLEMS, Overview, overview_of
from folds.audit.page import audit_page
from folds.config import DataConfig
from folds.data.source import load_manifest

NAMES = ("<u>cat</u>", 'it\'s "$x$" & dog')
# 12 groups of two images, three groups a fold.
FOLDS = np.repeat(np.arange(4), 6)[None]


def quiet(_):
    pass


def data_set(root, *, num=24, suffix_of=None):
    """Write images of two classes, two of each group, and return the file of the table."""
    rng = np.random.default_rng(0)
    rows = []
    for index in range(num):
        name = f"<i>{index:02d}<_i>{(suffix_of or {}).get(index, '.png')}"
        cv2.imwrite(str(root / name), rng.integers(0, 255, (20, 20, 3), dtype=np.uint8))
        rows.append({"image": name, "label": NAMES[index % 2], "patient": f"p{index // 2:02d}"})
    pd.DataFrame(rows).to_csv(root / "set.csv", index=False)
    return root / "set.csv"


def explored(file):
    """Return the exploration of a table without the slow searches."""
    config = DataConfig(
        csv=str(file), group_col="patient", group_name="patient", on_bad_image="skip"
    )
    return explore(load_manifest(config), quiet, deep=False)


def outcomes(overview):
    return {check.what: check.outcome for check in overview.checks}


def parts_of(page):
    """Return the text of the lists of the first screen by their kind, and of the findings."""
    lists = re.findall(r'<ul class="checks (\w+)">(.*?)</ul>', page, flags=re.DOTALL)
    found = {kind: re.findall(r"<b>(.*?):</b>", inside) for kind, inside in lists}
    titles = re.findall(r'<h3 id="finding-\d+"><span .*?>(\w+)</span> (.*?)</h3>', page)
    return found, titles


@pytest.fixture(scope="module")
def fine(tmp_path_factory):
    """Return the exploration of data without faults."""
    return explored(data_set(tmp_path_factory.mktemp("fine")))


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """Return the exploration of data with a copy, a broken file and two letter cases."""
    root = tmp_path_factory.mktemp("faulty")
    file = data_set(root, suffix_of={5: ".PNG"})
    (root / "<i>09<_i>.png").write_bytes((root / "<i>00<_i>.png").read_bytes())
    (root / "<i>23<_i>.png").write_bytes(b"no image")
    return explored(file)


def test_data_without_faults_have_checks_and_no_findings(fine):
    overview = overview_of(fine, FOLDS)
    assert overview.findings == ()
    assert overview.sentence() == NO_PROBLEMS
    assert outcomes(overview) == {
        "unreadable images": Outcome.FINE,
        "the same image in two patients": Outcome.FINE,
        "the same image with two labels": Outcome.FINE,
        "the same image twice in one patient": Outcome.FINE,
        "the same patient under two names": Outcome.NOT_MADE,
        "swapped labels": Outcome.NOT_MADE,
        "differences between training and test images": Outcome.NOT_MADE,
        "very different or very small image sizes": Outcome.FINE,
        "letter case of file suffixes": Outcome.FINE,
        "patients in several folds": Outcome.FINE,
        "classes missing from some folds": Outcome.FINE,
    }
    page = audit_page(fine, FOLDS, overview, leaks=False)
    found, titles = parts_of(page)
    assert titles == []
    assert len(found["good"]) == 8
    assert found["open"] == [
        "The same patient under two names",
        "Swapped labels",
        "Differences between training and test images",
    ]
    assert 'id="findings"' not in page
    assert "not checked (--quick)" in page
    lines = overview.lines()
    assert lines[0].startswith("Checked, nothing found: unreadable images; the same image in two")
    assert lines[-1] == NO_PROBLEMS
    assert len([one for one in lines if "--quick" in one]) == 1


def test_findings_are_listed_by_severity_after_the_checks(faulty):
    # Rows are sorted by name; the last image is left out, and a group is in two folds.
    fold_RN = FOLDS[:, :23].copy()
    fold_RN[0, 0] = 3
    overview = overview_of(faulty, fold_RN)
    titles = [(one.severity.value, one.title.partition(" (")[0]) for one in overview.findings]
    assert titles == [
        ("serious", "Same image in two patients, which leaks between folds"),
        ("serious", "Same image with two labels, one of which is wrong"),
        ("serious", "1 image cannot be read"),
        ("serious", "1 patient in several folds, so scores will be too high"),
        ("minor", "File suffixes in different letter cases"),
    ]
    assert overview.headline() == "5 findings, 4 serious"
    assert overview.sentence().startswith(
        "5 findings, 4 serious: same image in two patients, which leaks between folds (1 pair);"
        " same image with two labels, one of which is wrong (1 pair); and 3 more."
    )
    found = {name: one for name, one in outcomes(overview).items() if one is Outcome.FOUND}
    assert [*found] == [
        "unreadable images",
        "the same image in two patients",
        "the same image with two labels",
        "letter case of file suffixes",
        "patients in several folds",
    ]
    lines = overview.lines()
    assert lines.index("5 findings, 4 serious:") > max(
        index for index, line in enumerate(lines) if "hecked" in line
    )
    page = audit_page(faulty, fold_RN, overview, leaks=False)
    shown, headings = parts_of(page)
    assert [severity for severity, _ in headings] == ["serious"] * 4 + ["minor"]
    assert "Unreadable images" not in shown["good"]
    assert page.index('id="checked"') < page.index('id="findings"') < page.index('id="folds"')


def test_names_in_findings_are_text(faulty):
    fold_RN = np.zeros((1, 23), int)
    fold_RN[0, 1::2] = 1  # each fold lacks a class
    overview = overview_of(faulty, fold_RN)
    (lacking,) = (one for one in overview.findings if "missing from" in one.title)
    assert lacking.severity is Severity.MINOR
    assert lacking.title == "2 classes are missing from some folds"
    page = audit_page(faulty, fold_RN, overview, leaks=True)
    assert not re.search(r"<(u|i|script)\b", page)
    text = html.unescape(page)
    assert all(f"{name} (12 patients)" in text or f"{name} (11 patients)" in text for name in NAMES)
    assert "<i>09<_i>.png" in text
    assert "<i>23<_i>.png" in text


@pytest.mark.parametrize(
    ("recall", "num_trials", "outcome"),
    [
        (0.97, 12, Outcome.FINE),
        (0.03, 12, Outcome.UNABLE),
        (np.nan, 0, Outcome.NOT_MADE),
    ],
)
def test_a_search_that_cannot_work_is_not_listed_as_fine(fine, recall, num_trials, outcome):
    lookalikes = Lookalikes(
        pairs=np.empty((0, 2), int),
        matches_U=np.empty(0, int),
        least=27,
        recall=recall,
        num_trials=num_trials,
    )
    # A swap search is usable from a recall of a half on.
    usable = Swaps(
        pairs=np.empty((0, 2), int),
        num_likely=0,
        expected=0.0,
        recall=min(recall + 0.1, 1),
        num_trials=num_trials,
    )
    seen = dataclasses.replace(fine, deep=True, lookalikes=lookalikes, swaps={"class": usable})
    overview = overview_of(seen, FOLDS)
    found = outcomes(overview)
    assert found["the same patient under two names"] is outcome
    assert found["swapped class labels"] is outcome
    page = audit_page(seen, FOLDS, overview, leaks=False)
    where = "good" if outcome is Outcome.FINE else "open"
    assert {"The same patient under two names", "Swapped class labels"} <= {
        *parts_of(page)[0][where]
    }
    assert ("of 12 test cases" in page) == (num_trials > 0)


@pytest.mark.parametrize(("auc", "outcome"), [(0.6, Outcome.FINE), (0.9, Outcome.FOUND)])
def test_a_difference_of_train_and_test_is_a_serious_finding(fine, auc, outcome):
    num = fine.statistic_NS.shape[1]
    result = Adversarial(
        auc=auc, chance_T=np.array([0.5, 0.7]), single_S=np.full(num, 0.8), lost_S=np.zeros(num)
    )
    seen = dataclasses.replace(fine, adversarial=result)
    overview = overview_of(seen, FOLDS)
    assert outcomes(overview)["differences between training and test images"] is outcome
    assert [one.severity for one in overview.findings] == [Severity.SERIOUS] * (auc > 0.7)
    text = "\n".join(overview.lines())
    assert text.count(f"AUC {auc:.3f}, ") == 1


@pytest.mark.parametrize(
    ("severities", "words"),
    [
        ("m", "1 minor finding: fault 0."),
        ("s", "1 serious finding: fault 0."),
        ("sm", "2 findings, 1 serious: fault 0; fault 1."),
        ("mmm", "3 findings, none serious: fault 0; fault 1; and 1 more."),
        ("ss", "2 findings, all serious: fault 0; fault 1."),
    ],
)
def test_the_sentence_counts_findings(severities, words):
    of = {"s": Severity.SERIOUS, "m": Severity.MINOR}
    findings = [
        Finding(
            check=CheckName.WARNINGS,
            title=f"Fault {index}",
            severity=of[one],
            cure="Mend it.",
            texts=("here",),
        )
        for index, one in enumerate(severities)
    ]
    assert Overview((), tuple(findings)).sentence() == words


def test_groups_in_several_folds_of_any_repeat_are_counted():
    group = np.array(list("aabbcc"))
    folds = np.array([[0, 0, 1, 1, 0, 0], [0, 1, 0, 0, 1, 1]])
    assert num_split_groups(group, folds[:1]) == 0
    assert num_split_groups(group, folds) == 1


def test_outcomes_come_from_the_names_of_checks_and_not_from_words_in_titles(fine):
    named = Finding(
        check=CheckName.WARNINGS,
        title="Images with two labels in several folds, classes missing from some folds",
        severity=Severity.MINOR,
        cure="Mend it.",
        texts=("Images, suffixes",),
    )
    assert Outcome.FOUND not in {one.outcome for one in checks_of(fine, FOLDS, [named])}
    found = {
        name: [
            one.what
            for one in checks_of(fine, FOLDS, [dataclasses.replace(named, check=name)])
            if one.outcome is Outcome.FOUND
        ]
        for name in (CheckName.TWICE, CheckName.SIZES, CheckName.MISSING_CLASSES)
    }
    assert found == {
        CheckName.TWICE: ["the same image twice in one patient"],
        CheckName.SIZES: ["very different or very small image sizes"],
        CheckName.MISSING_CLASSES: ["classes missing from some folds"],
    }
