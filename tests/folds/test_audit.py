"""run_audit.py: its findings, what it does not report, and the page."""

import dataclasses
import re
import shutil
from html.parser import HTMLParser
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest

import run_audit as audit
from foldblend.cli import cli_flags
from foldblend.runs.run import Run
from folds.audit import run as run_audit
from folds.audit.adversarial import Adversarial, tell_apart
from folds.audit.checks import lookalike_line, swap_line
from folds.audit.exchanges import Swaps, _best_pairs, _better, _Cells, find_swaps
from folds.audit.exploration import Exploration, explore
from folds.audit.files import size_notes, suffix_notes
from folds.audit.findings import _targets
from folds.audit.lookalikes import (
    Lookalikes,
    few_rows_of_groups,
    lookalike_groups,
    sketch_of,
)
from folds.audit.statistics import STATISTICS, statistics_of
from folds.audit.swaps import features_of, log_proba_of
from folds.config import AuditConfig, DataConfig, SplitConfig
from folds.data.source import load_manifest
from tests.makers.constants import LONDON, TINY
from tests.makers.hands import hand_table, hands


@pytest.fixture
def audit_command(command_of, tmp_path):
    """run_audit.py, called in this process; pages go to tmp_path."""
    return lambda *argv: command_of(audit.main)(*argv, "--page", tmp_path / "audit.html")


def replace(target, source, *, quality=None):
    """Replace an image by another; a hard link is removed first."""
    target.unlink()
    if quality is None:
        shutil.copyfile(source, target)
    else:
        cv2.imwrite(str(target), cv2.imread(str(source)), [cv2.IMWRITE_JPEG_QUALITY, quality])


def people_of(root):
    return sorted(folder for folder in (root / "train" / "images").iterdir())


class Text(HTMLParser):
    """The texts, links and tags of a page."""

    def __init__(self, page):
        super().__init__()
        self.words = []
        self.links = []
        self.tags = set()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        self.words += [value for name, value in attrs if name in ("alt", "title")]

    def handle_data(self, data):
        self.words.append(data)


# Simple statistics and adversarial validation


def test_statistics_of_known_images():
    of = dict(zip(STATISTICS, statistics_of(np.full((40, 60, 3), 200, np.uint8), 1.5), strict=True))
    assert (of["width (px)"], of["height (px)"], of["file size (bytes per pixel)"]) == (60, 40, 1.5)
    assert (of["brightness"], of["border brightness"]) == (200, 200)
    assert (
        of["contrast"]
        == of["saturation"]
        == of["sharpness"]
        == of["share of dark pixels"]
        == of["share of bright pixels"]
        == 0
    )
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 255
    of = dict(zip(STATISTICS, statistics_of(red, 1.0), strict=True))
    assert of["green to red (Lab a)"] > 50
    assert of["saturation"] == 255


def train_and_test(rng, *, shift=0.0, num_test_groups=20):
    """Three statistics of 60 training groups and some test groups of 5 images each."""
    group = np.repeat(np.arange(60 + num_test_groups), 5)
    mean = rng.normal(size=(60 + num_test_groups, 3))
    statistic = mean[group] + rng.normal(0, 0.3, (len(group), 3))
    is_test = (group >= 60).astype(int)
    statistic[:, 1] += shift * is_test
    return statistic, is_test, np.where(is_test == 1, "", group.astype(str)).astype(object)


@pytest.mark.slow
def test_a_difference_is_found_and_reported():
    result = tell_apart(*train_and_test(np.random.default_rng(0), shift=2.5))
    assert result.differs
    assert result.auc > 0.8
    assert result.lost_S.argmax() == 1
    assert result.single_S[1] > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_few_test_groups_are_not_a_difference(seed):
    """Test images of one group resemble each other across folds, and so do the random draws."""
    result = tell_apart(*train_and_test(np.random.default_rng(seed), num_test_groups=8))
    assert result.chance_T.max() > 0.6
    assert not result.differs


@pytest.mark.slow
def test_too_few_or_lopsided_groups_give_no_result():
    rng = np.random.default_rng(0)
    is_test = np.repeat([0, 1], [75, 40])
    statistic = rng.normal(size=(115, 3)) + 9 * is_test[:, None]
    few = np.repeat(["a", "b", "c", "d", ""], [60, 5, 5, 5, 40])
    assert tell_apart(statistic, is_test, few) is None
    enough = np.append(np.repeat([f"p{index}" for index in range(11)], [25, *[5] * 10]), [""] * 40)
    result = tell_apart(statistic, is_test, enough)
    assert result.differs
    assert result.auc == 1


# Same group under two names


def textures(num, rng):
    """Return 4 images of each of `num` random textures, moved, rotated and relit."""
    images = []
    for _ in range(num):
        whole = cv2.GaussianBlur(rng.integers(0, 255, (300, 300, 3), dtype=np.uint8), (0, 0), 3)
        whole = cv2.normalize(whole, None, 0, 255, cv2.NORM_MINMAX)
        for _ in range(4):
            turn = cv2.getRotationMatrix2D((150, 150), rng.uniform(-8, 8), rng.uniform(0.9, 1.1))
            seen = cv2.warpAffine(whole, turn, (300, 300), borderMode=cv2.BORDER_REFLECT)
            top, left = rng.integers(0, 40, 2)
            images.append(
                np.clip(seen[top : top + 260, left : left + 260] * rng.uniform(0.8, 1.1), 0, 255)
            )
    return [image.astype(np.uint8) for image in images]


@pytest.mark.slow
def test_only_the_group_under_two_names_is_reported():
    sketches = [sketch_of(image) for image in textures(12, np.random.default_rng(0))]
    group = np.repeat([f"p{index:02d}" for index in range(12)], 4).astype(object)
    found = lookalike_groups(sketches, group)
    assert len(found.pairs) == 0
    assert (found.recall, found.num_trials) == (1.0, 12)
    group[[12, 14]] = "another"
    found = lookalike_groups(sketches, group)
    assert [{group[i], group[j]} for i, j in found.pairs] == [{"p03", "another"}]


def test_a_known_copy_is_not_evidence_of_a_second_name():
    sketches = [sketch_of(image) for image in textures(6, np.random.default_rng(0))]
    group = np.repeat([f"p{index}" for index in range(6)], 4)
    sketches[4] = sketches[0]
    assert lookalike_groups(sketches, group).pairs.tolist() == [[0, 4]]
    # The copy still matches the other images of the group from which it was copied.
    assert [0, 4] not in lookalike_groups(sketches, group, known={(0, 4)}).pairs.tolist()
    sketches[4:8] = sketches[:4]
    everything = {(i, j) for i in range(4) for j in range(4, 8)}
    assert lookalike_groups(sketches, group, known=everything).pairs.tolist() == []


def test_a_backdrop_that_all_groups_share_is_not_reported():
    """The threshold of matches rises, and the measured sensitivity is low."""
    rng = np.random.default_rng(0)
    images = textures(8, rng)
    backdrop = textures(1, rng)[0]
    for image in images:
        image[:, 60:] = backdrop[:, 60:]
    found = lookalike_groups([sketch_of(image) for image in images], np.repeat(np.arange(8), 4))
    assert len(found.pairs) == 0
    assert found.recall < 0.2


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({}, "none found. This check found 97% of 168 test cases"),
        ({"recall": 0.0}, "cannot work on these images (it found 0% of 168 test cases"),
        ({"pairs": np.array([[0, 4]])}, "1 pair found. This check found 97%"),
        ({"num_trials": 0}, "not checked; the images have too few details"),
    ],
)
def test_the_sensitivity_of_the_search_is_reported(found, words):
    lookalikes = Lookalikes(
        **{
            "pairs": np.empty((0, 2), int),
            "matches_U": np.empty(0, int),
            "least": 27,
            "recall": 0.97,
            "num_trials": 168,
        }
        | found
    )
    line = lookalike_line(lookalikes, "patient", 168)
    assert line.startswith("Same patient under two names: ")
    assert words in line
    none = dataclasses.replace(lookalikes, num_trials=0)
    assert "not checked; there are only 2 patients" in lookalike_line(none, "patient", 2)


@pytest.mark.parametrize(
    ("auc", "words"), [(0.6, "look alike"), (0.4, "look alike"), (0.9, "differ")]
)
def test_the_difference_of_train_and_test_is_a_sentence(auc, words):
    result = Adversarial(
        auc=auc, chance_T=np.array([0.5, 0.7]), single_S=np.full(3, 0.8), lost_S=np.full(3, 0.1)
    )
    lines = Exploration.adversarial_lines(SimpleNamespace(adversarial=result))
    assert lines[0].startswith(f"Train and test {words}: a classifier separates them with AUC")
    where = {0.4: "below", 0.6: "within", 0.9: "above"}[auc]
    assert lines[0].endswith(f", {where} the 0.500 to 0.700 expected by chance.")
    assert len(lines) == (4 if result.differs else 1)


def test_images_without_features_are_not_lookalikes():
    blank = sketch_of(np.full((90, 70, 3), 128, np.uint8))
    assert blank[0].shape == (0, 2)
    assert len(lookalike_groups([blank] * 6, np.arange(6)).pairs) == 0


def test_few_rows_of_each_group():
    group = np.array(list("abacabaa"))
    rows = few_rows_of_groups(group, most=2)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert pd.Series(group[rows]).value_counts().to_dict() == {"a": 2, "b": 2, "c": 1}


# Swapped labels


def best_pairs(log_proba, label, group):
    return _best_pairs(_better(log_proba, label), _Cells.of(label, group))[0].tolist()


def test_the_best_pair_of_a_group_fits_each_others_label():
    guess = np.array([1, 0, 0, 1, 2, 2, 1])
    log_proba = np.log(np.full((7, 3), 0.1) + 0.7 * np.eye(3)[guess])
    label = np.array([0, 1, 0, 0, 1, 2, 0])
    group = np.array([0, 0, 0, 0, 1, 1, 2])
    # 0 and 1 are swapped; 3 looks like 1 too, but no better; 4 looks like 5, but not the other way
    # round; 6 is the only row of its group.
    log_proba[3] = np.log([0.3, 0.6, 0.1])
    assert best_pairs(log_proba, label, group) == [[0, 1]]
    assert best_pairs(log_proba, guess, group) == []


def test_a_class_that_was_never_trained_on_is_not_swapped():
    """Its log-probability is -inf for both rows, which is no evidence."""
    with np.errstate(divide="ignore"):
        log_proba = np.log([[0.1, 0.9, 0], [0.9, 0.1, 0], [0.9, 0.1, 0], [0.1, 0.9, 0]])
    label = np.array([2, 0, 0, 1])
    assert best_pairs(log_proba, label, np.zeros(4, int)) == []
    assert find_swaps(log_proba, label, np.zeros(4, int)).pairs.shape == (0, 2)


def squares(num_groups=30):
    """Return features, labels and groups of a square high up, further down, or no square."""
    rng = np.random.default_rng(0)
    features = []
    label = []
    for _ in range(num_groups):
        backdrop = rng.integers(40, 200, 3)
        for kind in (0, 0, 0, 1, 2):
            image = np.clip(backdrop + rng.normal(0, 12, (128, 96, 3)), 0, 255).astype(np.uint8)
            if kind < 2:
                cv2.rectangle(image, (25, 60 + 20 * kind), (70, 100), (250, 250, 250), -1)
            features.append(features_of(image))
            label.append(kind)
    return np.stack(features), np.array(label), np.repeat(np.arange(num_groups), 5)


@pytest.mark.parametrize("num_swaps", [0, 1, pytest.param(5, marks=pytest.mark.slow)])
def test_swaps_are_found_in_images(num_swaps):
    feature, label, group = squares()
    swapped = [[5 * index + 3, 5 * index + 4] for index in range(3, 3 + num_swaps)]
    for pair in swapped:
        label[pair] = label[pair[::-1]]
    found = find_swaps(log_proba_of(feature, label, group), label, group)
    assert sorted(found.pairs.tolist()) == swapped
    assert found.recall > 0.8
    assert found.num_trials == 300
    assert found.expected < 0.3


def guesses(*, num_groups, size, scale, seed, shared=0.0):
    """Return log-probabilities of right labels that are guessed with some errors.

    Errors of the images of a group have the correlation `shared`.
    """
    rng = np.random.default_rng(seed)
    label = np.tile(np.arange(size) % 3, num_groups)
    group = np.repeat(np.arange(num_groups), size)
    logit = rng.normal(0, np.sqrt(1 - shared), (len(label), 3))
    logit += np.sqrt(shared) * rng.normal(size=(num_groups, 3))[group]
    logit[np.arange(len(label)), label] += scale
    return logit - np.logaddexp.reduce(logit, axis=1)[:, None], label, group


@pytest.mark.parametrize("scale", [0.5, 1, 2, 3, 4])
def test_right_labels_are_rarely_reported(scale):
    """The number expected by chance is about right for weak and good classifiers."""
    found = [
        find_swaps(*guesses(num_groups=60, size=6, scale=scale, seed=seed)) for seed in range(8)
    ]
    assert sum(len(one.pairs) for one in found) <= 2
    expected = np.array([one.expected for one in found])
    likely = np.array([one.num_likely for one in found])
    if scale <= 1:
        assert 0.6 < expected.sum() / likely.sum() < 1.5


@pytest.mark.slow
def test_the_recall_is_that_of_exchanged_labels():
    log_proba, label, group = guesses(num_groups=40, size=6, scale=3.5, seed=0)
    recall = find_swaps(log_proba, label, group).recall
    rng = np.random.default_rng(1)
    num_found = 0
    for number in range(40):
        one, other = 6 * number + rng.choice(3, 2, replace=False)
        exchanged = label.copy()
        exchanged[[one, other]] = label[[other, one]]
        pairs = find_swaps(log_proba, exchanged, group).pairs.tolist()
        num_found += sorted((one, other)) in pairs
    assert abs(num_found / 40 - recall) < 0.12


def test_many_swaps_do_not_hide_each_other():
    """Half of one swap fits half of another one, which must not count as chance."""
    log_proba, label, group = guesses(num_groups=60, size=6, scale=5, seed=0)
    swapped = [[6 * number, 6 * number + 1] for number in range(12)]
    for pair in swapped:
        label[pair] = label[pair[::-1]]
    found = find_swaps(log_proba, label, group)
    assert len(found.pairs) >= 10
    assert all(pair in swapped for pair in found.pairs.tolist())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_nothing_is_reported_where_classes_differ_in_small_parts(seed):
    images, sign, group = hands(seed=seed)
    found = find_swaps(
        log_proba_of(np.stack([features_of(image) for image in images]), sign, group), sign, group
    )
    assert len(found.pairs) == 0
    assert found.num_likely > 15  # these would be reported if only the gain counted
    assert found.recall < 0.3
    assert found.num_trials == 250


def swaps_with(**changed):
    return Swaps(
        **{"pairs": np.empty((0, 2), int), "num_likely": 0, "expected": 0.04}
        | {"recall": 0.92, "num_trials": 250}
        | changed
    )


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({}, "none found. This check found 92% of 250 test cases (two labels exchanged)."),
        (
            {"pairs": np.array([[0, 1]] * 3), "num_likely": 3, "expected": 0.26},
            "3 pairs found; about 0.3 would be expected by chance. This check found 92%",
        ),
        (
            {"recall": 0.04, "num_likely": 20, "expected": 18.0},
            "none reported, because this check cannot work on these images (it found only 4%",
        ),
        (
            {"num_likely": 20, "expected": 18.04},
            "too many mistakes on these images (20 pairs found, and about 18.0 expected by chance)",
        ),
        ({"num_trials": 0, "recall": np.nan}, "not checked; there are too few images"),
    ],
)
def test_the_error_rates_of_the_search_for_swaps_are_reported(found, words):
    line = swap_line("class", swaps_with(**found))
    assert line.startswith("Swapped class labels: ")
    assert words in line


def test_swaps_are_searched_in_what_varies_within_groups(tiny_layout):
    manifest = load_manifest(DataConfig(data=str(tiny_layout)))
    assert list(_targets(manifest)) == ["mask"]  # gender and age do not vary within a person
    assert list(_targets(dataclasses.replace(manifest, attributes=manifest.attributes[1:]))) == [
        "class"
    ]
    assert list(_targets(dataclasses.replace(manifest, attributes=()))) == ["class"]


# The command


@pytest.mark.slow
def test_faults_are_listed_and_the_audit_goes_on(layout_copy, tmp_path, audit_command):
    one, other, third = people_of(layout_copy)[:3]
    source = next(one.glob("mask1.*"))
    place = next(other.glob("mask2.*"))
    replace(place, source, quality=60)
    broken = next(third.glob("mask3.*"))
    broken.unlink()
    broken.write_bytes(b"not an image")
    next(third.glob("mask4.*")).unlink()
    info = pd.read_csv(layout_copy / "eval" / "info.csv")
    test_image = layout_copy / "eval" / "images" / info["ImageID"][0]
    replace(test_image, next(third.glob("mask1.*")))
    done = audit_command(layout_copy, "--folds", "3")
    assert done.code == 0, done.err
    assert f"{one.name}/{source.name} = {other.name}/{place.name}" in done.out
    assert "Same image in two people, which leaks between folds (1 pair):" in done.out
    assert "Same image with two labels" in done.out
    assert f"{test_image.name}" in done.out
    assert "Same image in the training and the test set" in done.out
    assert f"1 image cannot be read: {broken}" in done.out
    assert "1 image missing" in done.out
    page = (tmp_path / "audit.html").read_text()
    shown = Text(page)
    text = " ".join(shown.words)
    for words in (
        f"{one.name}/{source.name}",
        str(broken),
        "fold 2",
        "Brightness",
        "AUC",
        "even share",
    ):
        assert words in text
    assert all(link.startswith(("#", "data:image/jpeg")) for link in shown.links)
    assert "script" not in shown.tags
    assert len(re.findall("<svg", page)) >= 7


@pytest.mark.slow
def test_hands_give_no_swaps_and_the_page_says_why(tmp_path, audit_command):
    done = audit_command(hand_table(tmp_path), "--group-col", "person", "--group-name", "signer")
    assert done.code == 0, done.err
    assert "Possibly swapped" not in done.out
    (line,) = re.findall("Swapped class labels: .*", done.out)
    assert "none reported, because this check cannot work on these images (it found only" in line
    assert "Checked, nothing found: unreadable images; the same image in two signers, " in done.out
    assert "Train against test: not compared, because there is no test set." in done.out
    shown = " ".join(Text((tmp_path / "audit.html").read_text()).words)
    assert line.partition(": ")[2] in shown
    assert "Unreadable images: none of 250 images." in " ".join(shown.split())
    assert "250 training images of 25 signers" in shown
    assert "group" not in shown.replace("--group", "")


def test_odd_sizes_and_suffixes_are_notes(tmp_path, audit_command):
    rng = np.random.default_rng(0)
    rows = []
    for index in range(24):
        side = {0: (300, 300), 1: (5, 40)}.get(index, (20, 20))
        name = f"{index}.PNG" if index in (2, 3) else f"{index}.png"
        cv2.imwrite(str(tmp_path / name), rng.integers(0, 255, (*side, 3), dtype=np.uint8))
        rows.append({"image": name, "label": "ab"[index % 2], "patient": index // 3})
    pd.DataFrame(rows).to_csv(tmp_path / "odd.csv", index=False)
    pd.DataFrame(rows[:3]).to_csv(tmp_path / "test.csv", index=False)
    argv = ["--group-col", "patient", "--group-name", "patient", "--quick", "--folds", "2"]
    done = audit_command(tmp_path / "odd.csv", *argv, "--test-csv", tmp_path / "test.csv")
    assert done.code == 0, done.err
    notes = (
        "Images of very different sizes: from 40x5 (2 images, such as 1.png) to 300x300 (2 images,"
        " such as 0.png).",
        "Images with a side of less than 8 pixels: 2 images, such as 1.png.",
        "File suffixes in different letter cases: .png (24 images, such as 0.png), .PNG (3 images,"
        " such as 2.PNG).",
        "Train against test: not compared, because the test set has only 3 images, and 20 are"
        " needed.",
    )
    shown = " ".join(Text((tmp_path / "audit.html").read_text()).words)
    for note in notes:
        assert note in done.out
        for part in note.rstrip(".").split(": "):
            assert part in shown
    assert "No problems found" not in done.out
    (line,) = re.findall("Checked, nothing found: .*", done.out)
    assert "sizes" not in line
    assert "suffixes" not in line
    assert "training and the test set" not in line  # three images are in both


def test_photographs_of_usual_sizes_give_no_note():
    width = np.array([640, 1600, 800])
    assert size_notes(["a.jpg", "b.jpg", "c.jpg"], width, width * 3 // 4) == []
    assert suffix_notes(["a.jpg", "b.png", "c.jpg"]) == []


def test_quick_and_merged(layout_copy, audit_command):
    one, other = people_of(layout_copy)[:2]
    replace(next(other.glob("mask2.*")), next(one.glob("mask1.*")))
    done = audit_command(layout_copy, "--quick", "--merge-duplicates")
    assert done.code == 0, done.err
    assert "12 people became 11" in done.out
    assert "Not checked (--quick)" in done.out
    assert "leaks between folds" not in done.out
    assert re.search(r"even share +2\.2", done.out)


@pytest.mark.slow
def test_the_folds_are_those_of_a_run(
    tiny_layout, tmp_path, audit_command, cv_command, monkeypatch
):
    argv = ["--data", tiny_layout, "--split-seed", "3"]
    run = cv_command(*argv, *TINY, "--backbone", "test_resnet", "--output", tmp_path)
    folds = re.search(r"Folds:\n(.*?as even as they can be)", run.out, flags=re.DOTALL)
    given = []
    page_of = run_audit.audit_page
    monkeypatch.setattr(
        run_audit, "audit_page", lambda *args, **how: given.append(args) or page_of(*args, **how)
    )
    assert folds[1] in audit_command(*argv, "--quick", "--folds", "2").out
    ((seen, fold_RN, _),) = given
    of_run = Run(next(tmp_path.glob("*_test_resnet"))).oof.set_index("image_id")["fold"]
    assert fold_RN[0].tolist() == of_run.loc[seen.manifest.train["image_id"]].tolist()


@pytest.fixture
def odd_names(tmp_path):
    """Return a CSV without groups and with markup, quotes and dollars in its names."""
    rng = np.random.default_rng(0)
    rows = []
    for index in range(24):
        name = f"<i>{index}</i> & \"{index}\" '$x$'.png"
        cv2.imwrite(
            str(tmp_path / name.replace("/", "_")),
            rng.integers(0, 255, (20, 30, 3), dtype=np.uint8),
        )
        rows.append(
            {
                "image": name.replace("/", "_"),
                "label": ["<u>bold</u>", "$\\frac$ & \"q'"][index % 2],
            }
        )
    pd.DataFrame(rows).to_csv(tmp_path / "odd.csv", index=False)
    return tmp_path / "odd.csv"


@pytest.mark.slow
def test_a_fold_file_may_list_an_unreadable_image(layout_copy, alpha, tmp_path, audit_command):
    broken = next(people_of(layout_copy)[3].glob("mask1.*"))
    broken.unlink()
    broken.write_bytes(b"")
    done = audit_command(layout_copy, "--quick", "--fold-file", alpha.path)
    assert done.code == 0, done.err
    assert "1 image cannot be read" in done.out


def test_flags_are_frozen():
    own = {"--page", "--quick"}
    shared = {*cli_flags(DataConfig), *cli_flags(SplitConfig)}
    assert set(cli_flags(AuditConfig)) == own | shared


def test_names_are_shown_as_text(odd_names, tmp_path, audit_command):
    done = audit_command(odd_names)
    assert done.code == 0, done.err
    assert "no test set" in done.out
    shown = Text((tmp_path / "audit.html").read_text())
    assert not {"i", "u"} & shown.tags
    text = " ".join(shown.words)
    for words in ("<u>bold</u>", "$\\frac$ & \"q'", "<i>3<_i> & \"3\" '$x$'.png"):
        assert words in text


def test_wrong_words_are_one_line(tiny_layout, tmp_path, command_of, audit_command):
    command = command_of(audit.main)
    command(tiny_layout, "--page", "/nowhere/a.html").assert_one_line_error(
        "--page /nowhere/a.html"
    )
    command("/nowhere").assert_one_line_error("/nowhere (--data)", "no such file or folder")
    command("nowhere.csv").assert_one_line_error("nowhere.csv", "no such file")
    command(tiny_layout, "--quik").assert_one_line_error("--quik", "did you mean --quick")
    command(
        tiny_layout, "--folds", "99", "--quick", "--page", tmp_path / "a.html"
    ).assert_one_line_error("--folds 99")
    assert not (tmp_path / "a.html").exists()


def test_no_readable_image_is_one_line(odd_names, audit_command):
    for image in odd_names.parent.glob("*.png"):
        image.write_bytes(b"")
    audit_command(odd_names).assert_one_line_error("none of the 24 training images can be read")


@pytest.mark.slow
@pytest.mark.skipif(not LONDON.is_dir(), reason="the real faces are not here")
def test_faults_planted_among_real_faces_are_reported(tmp_path, audit_command):
    root = tmp_path / "london"
    shutil.copytree(LONDON, root)
    people = people_of(root)
    copied = people[5]
    receiver = people[40]
    swapped = people[60]
    split = people[22]
    replace(receiver / "mask3.jpg", copied / "mask2.jpg", quality=50)
    (swapped / "normal.jpg").rename(swapped / "held.jpg")
    (swapped / "incorrect_mask.jpg").rename(swapped / "normal.jpg")
    (swapped / "held.jpg").rename(swapped / "incorrect_mask.jpg")
    again = split.with_name("000999" + split.name[6:])
    again.mkdir()
    for name in ("mask2.jpg", "mask5.jpg", "normal.jpg"):
        (split / name).rename(again / name)
    table = pd.read_csv(root / "train" / "train.csv", dtype=str)
    row = table[table["path"] == split.name].assign(id="000999", path=again.name)
    pd.concat([table, row]).to_csv(root / "train" / "train.csv", index=False)
    seen = explore(load_manifest(DataConfig(data=str(root), on_bad_image="skip")), print)
    assert seen.lookalikes.recall > 0.95
    texts_of = {finding.title: finding.texts for finding in seen.findings}
    (leaks,) = (texts for title, texts in texts_of.items() if "two people" in title)
    assert leaks == (f"{copied.name}/mask2.jpg = {receiver.name}/mask3.jpg",)
    (alike,) = (texts for title, texts in texts_of.items() if "same person" in title)
    assert len(alike) == 1
    assert split.name in alike[0]
    assert again.name in alike[0]
    (swaps,) = (texts for title, texts in texts_of.items() if "swapped mask" in title)
    assert any(f"{swapped.name},swap,incorrect_mask normal" in text for text in swaps)
    assert len(swaps) <= 4
