"""run_audit.py: what it finds, what it leaves alone, and the page."""

import dataclasses
import re
import shutil
from html.parser import HTMLParser

import cv2
import numpy as np
import pandas as pd
import pytest

import run_audit as audit
from foldblend.cli import cli_flags
from foldblend.runs.run import Run
from folds.audit import run as run_audit
from folds.audit.adversarial import tell_apart
from folds.audit.exploration import explore
from folds.audit.findings import _targets
from folds.audit.lookalikes import few_rows_of_groups, lookalike_groups, sketch_of
from folds.audit.statistics import STATISTICS, statistics_of
from folds.audit.swaps import features_of, log_proba_of, swapped_pairs
from folds.config import AuditConfig, DataConfig, SplitConfig
from folds.data.source import load_manifest
from tests.makers.constants import LONDON, TINY


@pytest.fixture
def audit_command(command_of, tmp_path):
    """run_audit.py, called in this process; pages go to tmp_path."""
    return lambda *argv: command_of(audit.main)(*argv, "--page", tmp_path / "audit.html")


def replace(target, picture, *, quality=None):
    """Put an image in the place of another; hard links are cut first."""
    target.unlink()
    if quality is None:
        shutil.copyfile(picture, target)
    else:
        cv2.imwrite(str(target), cv2.imread(str(picture)), [cv2.IMWRITE_JPEG_QUALITY, quality])


def people_of(root):
    return sorted(folder for folder in (root / "train" / "images").iterdir())


class Text(HTMLParser):
    """What a page shows and where it links to."""

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


def test_statistics_of_known_pictures():
    of = dict(zip(STATISTICS, statistics_of(np.full((40, 60, 3), 200, np.uint8), 1.5), strict=True))
    assert (of["width (px)"], of["height (px)"], of["file size (bytes a pixel)"]) == (60, 40, 1.5)
    assert (of["brightness"], of["border brightness"]) == (200, 200)
    assert (
        of["contrast"]
        == of["saturation"]
        == of["sharpness"]
        == of["dark share"]
        == of["bright share"]
        == 0
    )
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 255
    of = dict(zip(STATISTICS, statistics_of(red, 1.0), strict=True))
    assert of["green to red (Lab a)"] > 50
    assert of["saturation"] == 255


def people_and_test(rng, *, shift=0.0, num_test_people=20):
    """60 people and some more for the test set, 5 images each, who differ in three statistics."""
    group = np.repeat(np.arange(60 + num_test_people), 5)
    own = rng.normal(size=(60 + num_test_people, 3))
    statistic = own[group] + rng.normal(0, 0.3, (len(group), 3))
    is_test = (group >= 60).astype(int)
    statistic[:, 1] += shift * is_test
    return statistic, is_test, np.where(is_test == 1, "", group.astype(str)).astype(object)


def test_a_difference_is_found_and_named():
    result = tell_apart(*people_and_test(np.random.default_rng(0), shift=2.5))
    assert result.differs
    assert result.auc > 0.8
    assert result.lost_S.argmax() == 1
    assert result.single_S[1] > 0.8


@pytest.mark.parametrize("seed", [1, 2])
def test_a_few_people_who_are_only_themselves_are_no_difference(seed):
    """Test images of one person help each other across folds; the draws from the training set do,
    too.
    """
    result = tell_apart(*people_and_test(np.random.default_rng(seed), num_test_people=8))
    assert result.chance_T.max() > 0.6
    assert not result.differs


def test_too_few_or_lopsided_groups_are_no_verdict():
    rng = np.random.default_rng(0)
    is_test = np.repeat([0, 1], [75, 40])
    statistic = rng.normal(size=(115, 3)) + 9 * is_test[:, None]
    few = np.repeat(["a", "b", "c", "d", ""], [60, 5, 5, 5, 40])
    assert tell_apart(statistic, is_test, few) is None
    enough = np.append(np.repeat([f"p{index}" for index in range(11)], [25, *[5] * 10]), [""] * 40)
    result = tell_apart(statistic, is_test, enough)
    assert result.differs
    assert result.auc == 1


# One person under two names


def textures(num, rng):
    """Each a person: blobs of their own, seen three times, moved, turned and lit otherwise."""
    pictures = []
    for _ in range(num):
        whole = cv2.GaussianBlur(rng.integers(0, 255, (300, 300, 3), dtype=np.uint8), (0, 0), 3)
        whole = cv2.normalize(whole, None, 0, 255, cv2.NORM_MINMAX)
        for _ in range(4):
            turn = cv2.getRotationMatrix2D((150, 150), rng.uniform(-8, 8), rng.uniform(0.9, 1.1))
            seen = cv2.warpAffine(whole, turn, (300, 300), borderMode=cv2.BORDER_REFLECT)
            top, left = rng.integers(0, 40, 2)
            pictures.append(
                np.clip(seen[top : top + 260, left : left + 260] * rng.uniform(0.8, 1.1), 0, 255)
            )
    return [picture.astype(np.uint8) for picture in pictures]


def test_a_person_under_two_names_is_named_and_nobody_else():
    sketches = [sketch_of(picture) for picture in textures(12, np.random.default_rng(0))]
    group = np.repeat([f"p{index:02d}" for index in range(12)], 4).astype(object)
    found = lookalike_groups(sketches, group)
    assert len(found.pairs) == 0
    assert (found.recall, found.num_trials) == (1.0, 12)
    group[[12, 14]] = "another"
    found = lookalike_groups(sketches, group)
    assert [{group[i], group[j]} for i, j in found.pairs] == [{"p03", "another"}]


def test_a_known_copy_is_no_evidence_of_a_second_name():
    sketches = [sketch_of(picture) for picture in textures(6, np.random.default_rng(0))]
    group = np.repeat([f"p{index}" for index in range(6)], 4)
    sketches[4] = sketches[0]
    assert lookalike_groups(sketches, group).pairs.tolist() == [[0, 4]]
    # The copy still matches the other images of the person it was taken from.
    assert [0, 4] not in lookalike_groups(sketches, group, known={(0, 4)}).pairs.tolist()
    sketches[4:8] = sketches[:4]
    everything = {(i, j) for i in range(4) for j in range(4, 8)}
    assert lookalike_groups(sketches, group, known=everything).pairs.tolist() == []


def test_what_all_share_is_no_mark_of_one_person():
    """One backdrop behind everybody: the least number of matches rises, and the search says that it
    sees little.
    """
    rng = np.random.default_rng(0)
    pictures = textures(8, rng)
    backdrop = textures(1, rng)[0]
    for picture in pictures:
        picture[:, 60:] = backdrop[:, 60:]
    found = lookalike_groups(
        [sketch_of(picture) for picture in pictures], np.repeat(np.arange(8), 4)
    )
    assert len(found.pairs) == 0
    assert found.recall < 0.2


def test_pictures_without_features_are_no_lookalikes():
    blank = sketch_of(np.full((90, 70, 3), 128, np.uint8))
    assert blank[0].shape == (0, 2)
    assert len(lookalike_groups([blank] * 6, np.arange(6)).pairs) == 0


def test_few_rows_of_each_group():
    group = np.array(list("abacabaa"))
    rows = few_rows_of_groups(group, most=2)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert pd.Series(group[rows]).value_counts().to_dict() == {"a": 2, "b": 2, "c": 1}


# Swapped labels


def test_swapped_pairs_are_those_that_look_like_each_other():
    guess = np.array([1, 0, 0, 1, 2, 2, 1])
    log_proba = np.log(np.full((7, 3), 0.1) + 0.7 * np.eye(3)[guess])
    label = np.array([0, 1, 0, 0, 1, 2, 0])
    group = np.array([7, 7, 7, 7, 8, 8, 9])
    # 0 and 1 exchange; 3 looks like 1 too, but no better; 4 looks like 5, but not the other way; 6
    # is alone.
    log_proba[3] = np.log([0.3, 0.6, 0.1])
    assert swapped_pairs(log_proba, label, group).tolist() == [[0, 1]]
    assert swapped_pairs(log_proba, guess, group).shape == (0, 2)


def test_a_class_that_was_never_trained_on_names_nobody():
    """Its log-probability is -inf for both, and what is left would say nothing of it."""
    with np.errstate(divide="ignore"):
        log_proba = np.log([[0.1, 0.9, 0], [0.9, 0.1, 0], [0.9, 0.1, 0], [0.1, 0.9, 0]])
    assert swapped_pairs(log_proba, np.array([2, 0, 0, 1]), np.zeros(4, int)).shape == (0, 2)


def test_a_swap_is_seen_in_pictures():
    rng = np.random.default_rng(0)
    features = []
    label = []
    for _ in range(30):
        backdrop = rng.integers(40, 200, 3)
        for kind in (0, 0, 0, 1, 2):
            picture = np.clip(backdrop + rng.normal(0, 12, (128, 96, 3)), 0, 255).astype(np.uint8)
            if kind < 2:
                cv2.rectangle(picture, (25, 60 + 20 * kind), (70, 100), (250, 250, 250), -1)
            features.append(features_of(picture))
            label.append(kind)
    feature = np.stack(features)
    label = np.array(label)
    group = np.repeat(np.arange(30), 5)
    assert swapped_pairs(log_proba_of(feature, label, group), label, group).shape == (0, 2)
    label[[18, 19]] = label[[19, 18]]
    assert swapped_pairs(log_proba_of(feature, label, group), label, group).tolist() == [[18, 19]]


def test_what_may_be_swapped_is_what_varies_and_is_not_decided_by_the_rest(tiny_layout):
    manifest = load_manifest(DataConfig(data=str(tiny_layout)))
    assert list(_targets(manifest)) == ["mask"]  # gender and age are the person's
    assert list(_targets(dataclasses.replace(manifest, attributes=manifest.attributes[1:]))) == [
        "class"
    ]
    assert list(_targets(dataclasses.replace(manifest, attributes=()))) == ["class"]


# The command


def test_faults_are_listed_and_the_audit_goes_on(layout_copy, tmp_path, audit_command):
    one, other, third = people_of(layout_copy)[:3]
    picture = next(one.glob("mask1.*"))
    place = next(other.glob("mask2.*"))
    replace(place, picture, quality=60)
    broken = next(third.glob("mask3.*"))
    broken.unlink()
    broken.write_bytes(b"no picture")
    next(third.glob("mask4.*")).unlink()
    info = pd.read_csv(layout_copy / "eval" / "info.csv")
    test_picture = layout_copy / "eval" / "images" / info["ImageID"][0]
    replace(test_picture, next(third.glob("mask1.*")))
    done = audit_command(layout_copy, "--folds", "3")
    assert done.code == 0, done.err
    said = done.out
    assert f"{one.name}/{picture.name} = {other.name}/{place.name}" in said
    assert "two groups" in said
    assert "two labels" in said
    assert f"{test_picture.name}" in said
    assert "the same in the training and the test set" in said
    assert str(broken) in said
    assert "1 image missing" in said
    page = (tmp_path / "audit.html").read_text()
    shown = Text(page)
    text = " ".join(shown.words)
    for words in (
        f"{one.name}/{picture.name}",
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


def test_quick_and_merged(layout_copy, audit_command):
    one, other = people_of(layout_copy)[:2]
    replace(next(other.glob("mask2.*")), next(one.glob("mask1.*")))
    done = audit_command(layout_copy, "--quick", "--merge-duplicates")
    assert done.code == 0, done.err
    assert "12 groups became 11" in done.out
    assert "not searched (--quick)" in done.out
    assert "leak between folds" not in done.out
    assert re.search(r"even share +2\.2", done.out)


def test_the_folds_are_those_of_a_run(
    tiny_layout, tmp_path, audit_command, cv_command, monkeypatch
):
    argv = ["--data", tiny_layout, "--split-seed", "3"]
    run = cv_command(*argv, *TINY, "--backbone", "test_resnet", "--output", tmp_path)
    folds = re.search(r"folds:\n(.*?least possible)", run.out, flags=re.DOTALL)
    given = []
    page_of = run_audit.audit_page
    monkeypatch.setattr(
        run_audit, "audit_page", lambda *args, **how: given.append(args) or page_of(*args, **how)
    )
    assert folds[1] in audit_command(*argv, "--quick", "--folds", "2").out
    ((seen, fold_RN),) = given
    of_run = Run(next(tmp_path.glob("*_test_resnet"))).oof.set_index("image_id")["fold"]
    assert fold_RN[0].tolist() == of_run.loc[seen.manifest.train["image_id"]].tolist()


@pytest.fixture
def odd_names(tmp_path):
    """Classes, groups and files with markup, quotes and dollars in their names; every image for
    itself.
    """
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
                "label": ["<b>bold</b>", "$\\frac$ & \"q'"][index % 2],
            }
        )
    pd.DataFrame(rows).to_csv(tmp_path / "odd.csv", index=False)
    return tmp_path / "odd.csv"


def test_a_fold_file_that_knows_of_an_unreadable_picture(
    layout_copy, alpha, tmp_path, audit_command
):
    broken = next(people_of(layout_copy)[3].glob("mask1.*"))
    broken.unlink()
    broken.write_bytes(b"")
    done = audit_command(layout_copy, "--quick", "--fold-file", alpha.path)
    assert done.code == 0, done.err
    assert "1 image: cannot be read" in done.out


def test_flags_are_frozen():
    own = {"--page", "--quick"}
    shared = {*cli_flags(DataConfig), *cli_flags(SplitConfig)}
    assert set(cli_flags(AuditConfig)) == own | shared


def test_names_are_shown_as_text(odd_names, tmp_path, audit_command):
    done = audit_command(odd_names)
    assert done.code == 0, done.err
    assert "no test set" in done.out
    shown = Text((tmp_path / "audit.html").read_text())
    assert not {"i", "b"} & shown.tags
    text = " ".join(shown.words)
    for words in ("<b>bold</b>", "$\\frac$ & \"q'", "<i>3<_i> & \"3\" '$x$'.png"):
        assert words in text


def test_wrong_words_are_one_line(tiny_layout, tmp_path, command_of, audit_command):
    command = command_of(audit.main)
    command(tiny_layout, "--page", "/nowhere/a.html").assert_one_line_error(
        "--page /nowhere/a.html"
    )
    command("/nowhere").assert_one_line_error("/nowhere (--data)", "no train/train.csv there")
    command("nowhere.csv").assert_one_line_error("nowhere.csv", "No such file")
    command(tiny_layout, "--quik").assert_one_line_error("--quik", "did you mean --quick")
    command(
        tiny_layout, "--folds", "99", "--quick", "--page", tmp_path / "a.html"
    ).assert_one_line_error("--folds 99")
    assert not (tmp_path / "a.html").exists()


def test_no_readable_picture_is_one_line(odd_names, audit_command):
    for picture in odd_names.parent.glob("*.png"):
        picture.write_bytes(b"")
    audit_command(odd_names).assert_one_line_error("none of the 24 training images can be read")


@pytest.mark.slow
@pytest.mark.skipif(not LONDON.is_dir(), reason="the real faces are not here")
def test_faults_planted_among_real_faces_are_named(tmp_path, audit_command):
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
    named = {finding.title: finding.texts for finding in seen.findings}
    (leaks,) = (texts for title, texts in named.items() if "two groups" in title)
    assert leaks == (f"{copied.name}/mask2.jpg = {receiver.name}/mask3.jpg",)
    (alike,) = (texts for title, texts in named.items() if "one person" in title)
    assert len(alike) == 1
    assert split.name in alike[0]
    assert again.name in alike[0]
    (swaps,) = (texts for title, texts in named.items() if "each other's mask" in title)
    assert any(f"{swapped.name},swap,incorrect_mask normal" in text for text in swaps)
    assert len(swaps) <= 4
