"""The leak detector: labels without relation to the images must not be predictable.

Gender and age are permuted between people while masks stay. Without a leak, an out-of-fold score
can then not exceed what the mask predicts (the band). A split by image lets a model recognise
people of its training rows. The same code scores far above the band with such a split, which shows
that the check can fail.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from sklearn.neighbors import KNeighborsClassifier

from foldblend.images import read_image
from foldblend.scores.baselines import attribute_only_band
from foldblend.scores.metrics import METRICS
from folds.data.demo import make_demo
from folds.data.layout import read_layout
from folds.data.manifest import Manifest
from folds.split import assign_folds
from pipeline.config.settings import make_config
from pipeline.cv import cross_validate
from tests.makers.many_images import draw_people

PERMUTATIONS = range(5)
NUM_LEAKY = 2


def permuted_layout(source: Path, target: Path, seed: int) -> Path:
    """Make a layout of the same images, with gender and age permuted between people."""
    table = pd.read_csv(source / "train" / "train.csv", dtype=str)
    order = np.random.default_rng(seed).permutation(len(table))
    table[["gender", "age"]] = table[["gender", "age"]].to_numpy()[order]
    (target / "train").mkdir(parents=True)
    (target / "train" / "images").symlink_to(source / "train" / "images")
    table.to_csv(target / "train" / "train.csv", index=False)
    return target


def mask_band(manifest: Manifest) -> tuple[float, float]:
    label = manifest.train["label"].to_numpy()
    group = manifest.train["group"].to_numpy()
    low, _, high = attribute_only_band(label, group, np.asarray(manifest.attributes[0].of_class))
    return low, high


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo(
        tmp_path_factory.mktemp("people") / "people", num_train=36, num_test=6, seed=11
    )


def nearest_neighbour(manifest: Manifest, thumbs: np.ndarray, split: str) -> float:
    """Return the out-of-fold macro F1 of the true mask with the neighbour's gender and age."""
    label = manifest.train["label"].to_numpy()
    group = manifest.train["group"].to_numpy()
    fold = assign_folds(label, group, num_folds=5, seed=0, split=split)
    guess = np.empty_like(label)
    for held_out in range(5):
        train = fold != held_out
        person = (
            KNeighborsClassifier(1).fit(thumbs[train], label[train] % 6).predict(thumbs[~train])
        )
        guess[~train] = label[~train] // 6 * 6 + person
    return METRICS["f1_macro"].score(label, np.eye(18)[guess])


@pytest.mark.slow
def test_permuted_labels_stay_in_the_band_and_a_leaky_split_leaves_it(people, tmp_path):
    """Use the project's folds and a nearest neighbour, which recognises people best (fast)."""
    honest = []
    leaky = []
    for seed in PERMUTATIONS:
        manifest = read_layout(permuted_layout(people, tmp_path / str(seed), seed))
        if not honest:
            thumbs = np.stack(
                [
                    cv2.resize(read_image(path)[::4, ::4], (12, 16)).ravel()
                    for path in manifest.train["path"]
                ]
            )
            thumbs = thumbs.astype(np.float32)
        low, high = mask_band(manifest)
        honest.append(nearest_neighbour(manifest, thumbs, "stratified-group"))
        leaky.append(nearest_neighbour(manifest, thumbs, "stratified"))
        assert low <= honest[-1] <= high
        assert leaky[-1] > high
    assert min(leaky) > 2 * max(honest)


@pytest.fixture(scope="module")
def balanced(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Draw 48 synthetic people, each with three images per kind of mask."""
    return draw_people(tmp_path_factory.mktemp("balanced"), num_people=48, num_shots=3)


def trained(table: pd.DataFrame, csv: Path, split: str) -> float:
    table.assign(label=6 * table["mask"] + table["stratum"]).to_csv(csv, index=False)
    config = make_config(
        csv=str(csv),
        image_col="file",
        group_col="person",
        output=str(csv.parent),
        name=f"{csv.stem}_{split}",
        split=split,
        folds=3,
        epochs=10,
        lr=4e-3,
        img_size="64x80",
        batch_size=16,
        smoothing=0.0,
        augment="none",
        workers=0,
    )
    return cross_validate(config, say=lambda _: None).report["headline"]["value"]


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(seed, marks=pytest.mark.slow if seed < NUM_LEAKY else pytest.mark.exhaustive)
        for seed in PERMUTATIONS
    ],
)
def test_training_does_not_leak_either(seed, balanced, tmp_path):
    """Train models on a permutation for a fixed number of epochs (slow, more in exhaustive)."""
    of_person = balanced.groupby("person")["stratum"].first()
    permuted = pd.Series(
        np.random.default_rng(seed).permutation(of_person.to_numpy()), index=of_person.index
    )
    table = balanced.assign(stratum=balanced["person"].map(permuted))
    label = (6 * table["mask"] + table["stratum"]).to_numpy()
    low, _, high = attribute_only_band(label, table["person"].to_numpy(), np.arange(18) // 6)
    if seed < NUM_LEAKY:
        leaky = trained(table, tmp_path / f"{seed}.csv", "stratified")
        print(f"permutation {seed}: leaky {leaky:.3f}, band [{low:.3f}, {high:.3f}]", flush=True)
        assert leaky > high + 0.1
    honest = trained(table, tmp_path / f"{seed}.csv", "stratified-group")
    print(f"permutation {seed}: honest {honest:.3f}, band [{low:.3f}, {high:.3f}]", flush=True)
    assert low <= honest <= high
