"""Search for duplicate images."""

import itertools
import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foldblend.runs.run import Run
from folds.data.duplicates import (
    describe_pairs,
    duplicate_pairs,
    equal_pairs,
    merged_groups,
    prints_of,
    stacked,
)
from folds.data.hamming import near_pairs
from folds.data.layout import read_layout
from tests.makers.constants import LONDON, TINY


def brute(hashes, radius):
    distance = np.bitwise_count(hashes[:, None] ^ hashes[None])
    return {
        (int(i), int(j)) for i, j in zip(*np.where(np.triu(distance <= radius, 1)), strict=True)
    }


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    radius=st.integers(0, 6),
    num_centres=st.integers(1, 8),
    spread=st.integers(1, 8),
)
def test_near_pairs_equal_those_of_a_full_search(seed, radius, num_centres, spread):
    rng = np.random.default_rng(seed)
    hashes = rng.choice(rng.integers(0, 2**64, num_centres, dtype=np.uint64), 120)
    for _ in range(spread):
        hashes = hashes ^ (np.uint64(1) << rng.integers(0, 64, 120).astype(np.uint64))
    hashes = rng.permutation(np.unique(hashes))
    found = [tuple(sorted(pair)) for chunk in near_pairs(hashes, radius) for pair in chunk.tolist()]
    assert len(found) == len(set(found))
    assert set(found) == brute(hashes, radius)


@pytest.mark.slow
def test_large_buckets_are_divided_further(monkeypatch):
    monkeypatch.setattr("folds.data.hamming.FEW_PAIRS", 50)
    monkeypatch.setattr("folds.data.hamming.LARGEST_BUCKET", 4)
    # All hashes agree in 50 bits.
    hashes = np.unique(np.random.default_rng(0).integers(0, 2**14, 600).astype(np.uint64))
    found = [tuple(sorted(pair)) for chunk in near_pairs(hashes, 3) for pair in chunk.tolist()]
    assert len(found) == len(set(found))
    assert set(found) == brute(hashes, 3)


def test_equal_hashes_give_a_linear_number_of_pairs():
    chunks = list(near_pairs(np.full(5000, 7, np.uint64), 3))
    assert sum(len(chunk) for chunk in chunks) == 4999
    assert equal_pairs(["a", "b", "a", "a"]).tolist() == [[0, 2], [2, 3]]
    assert not len(equal_pairs([]))


def test_a_different_image_with_the_same_hash_hides_no_copy():
    rng = np.random.default_rng(0)
    copied, other = rng.integers(0, 255, (2, 32, 32)).astype(np.uint8)
    tint = np.zeros(128, np.int16)
    rows = [
        ("A", 7, copied, tint),
        ("X", 7, other, tint),
        ("B", 7, copied, tint),
        ("C", 6, copied, tint),
    ]
    for order in itertools.permutations(rows):
        pairs = duplicate_pairs(stacked(order))
        found = {frozenset(order[row][0] for row in pair) for pair in pairs}
        assert found == {frozenset(pair) for pair in ("AB", "AC", "BC")}


def test_an_image_of_another_colour_is_not_a_duplicate():
    grey = np.random.default_rng(0).integers(0, 255, (32, 32)).astype(np.uint8)
    tints = np.zeros((2, 128), np.int16)
    tints[1, 5] = 9
    assert len(duplicate_pairs(stacked([("A", 7, grey, tints[0]), ("B", 7, grey, tints[1])]))) == 0
    tints[1, 5] = 8
    assert len(duplicate_pairs(stacked([("A", 7, grey, tints[0]), ("B", 7, grey, tints[1])]))) == 1


def test_groups_that_share_an_image_are_merged():
    group = np.array(["p", "q", "r", "s", "s"], dtype=object)
    assert merged_groups(group, np.array([[0, 2], [2, 4]])).tolist() == ["p", "q", "p", "p", "p"]
    assert merged_groups(group, np.empty((0, 2), int)).tolist() == group.tolist()


def people_of(root):
    return sorted(folder for folder in (root / "train" / "images").iterdir())


def replace(target, source, **encode):
    """Replace an image by another, perhaps recompressed; a hard link is removed first."""
    target.unlink()
    if encode:
        cv2.imwrite(
            str(target), cv2.imread(str(source)), [cv2.IMWRITE_JPEG_QUALITY, encode["quality"]]
        )
    else:
        shutil.copyfile(source, target)


@pytest.mark.slow
def test_a_planted_copy_is_found_reported_and_merged(layout_copy, tmp_path, cv_command):
    one, other = people_of(layout_copy)[:2]
    source = next(one.glob("mask1.*"))
    replaced = next(other.glob("mask2.*"))
    replace(replaced, source)
    tested = next((layout_copy / "eval" / "images").iterdir())
    replace(tested, other / "normal.jpg")
    argv = ["--data", layout_copy, "--output", tmp_path, "--backbone", "test_resnet", *TINY]
    done = cv_command(*argv, "--name", "seen")
    text = done.out + done.err
    assert done.code == 0
    assert f"{one.name}/{source.name} = {other.name}/{replaced.name}" in text
    assert "same image in two groups, which leaks between folds (1 pair)" in text
    assert "same image with two labels" in text
    assert "same image in the training and the test set" in text
    assert f"{other.name}/normal.jpg" in text
    # A recompressed copy is not an equal file, but a near duplicate.
    replace(replaced, source, quality=60)
    assert cv_command(*argv, "--name", "merged", "--merge-duplicates").code == 0
    oof = Run(tmp_path / "merged").oof
    of_person = oof.groupby(oof["image_id"].str.split("/").str[0])["fold"].first()
    assert of_person[one.name] == of_person[other.name]
    assert oof["group"].nunique() == 11


def test_synthetic_faces_are_not_duplicates(tiny_layout):
    train = read_layout(tiny_layout).train
    assert describe_pairs(duplicate_pairs(prints_of(train)), train) == []


@pytest.mark.skipif(not LONDON.is_dir(), reason="the real faces are not here")
def test_only_the_copies_planted_among_real_faces_are_found(tmp_path):
    train = read_layout(LONDON).train
    rng = np.random.default_rng(0)
    rows = rng.choice(len(train), 60, replace=False)
    files = []
    for number, row in enumerate(rows):
        image = cv2.imread(train["path"][row])
        if number % 3 == 1:
            image = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        if number % 3 == 2:
            image = np.clip(image * 1.08 + 4, 0, 255).astype(np.uint8)
        files.append(str(tmp_path / f"{number}.jpg"))
        cv2.imwrite(files[-1], image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 90))])
    pairs = duplicate_pairs(prints_of(pd.DataFrame({"path": [*train["path"], *files]})))
    found = {(int(i), int(j)) for i, j in pairs}
    planted = {(int(row), len(train) + number) for number, row in enumerate(rows)}
    group = np.append(train["group"].to_numpy(), train["group"].to_numpy()[rows])
    false = {pair for pair in found if group[pair[0]] != group[pair[1]]}
    print(f"recall {len(found & planted)} of {len(planted)}, false {len(false)}")
    assert not false
    assert len(found & planted) >= 57
