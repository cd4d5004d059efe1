"""The leak detector: labels that say nothing of the picture must not be predictable.

Gender and age are permuted between people while masks stay, so an honest out-of-fold score can
hold no more than the mask alone. Splitting by picture lets a model recognise a person it trained
on; that the same code then scores far above the band shows that the check can fail.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from sklearn.neighbors import KNeighborsClassifier

from folds.demo import make_demo
from folds.images import read_image
from folds.layout import read_layout
from folds.manifest import Manifest
from folds.split import assign_folds
from pipeline.cv import cross_validate
from pipeline.settings import make_config
from reports.baselines import attribute_only_band
from reports.metrics import METRICS

PERMUTATIONS = range(5)


def permuted_layout(source: Path, target: Path, seed: int) -> Path:
    """The same pictures, with gender and age dealt out anew between people."""
    table = pd.read_csv(source / "train" / "train.csv", dtype=str)
    order = np.random.default_rng(seed).permutation(len(table))
    table[["gender", "age"]] = table[["gender", "age"]].to_numpy()[order]
    (target / "train").mkdir(parents=True)
    (target / "train" / "images").symlink_to(source / "train" / "images")
    table.to_csv(target / "train" / "train.csv", index=False)
    return target


def mask_band(manifest: Manifest) -> tuple[float, float]:
    label, group = manifest.train["label"].to_numpy(), manifest.train["group"].to_numpy()
    low, _, high = attribute_only_band(label, group, np.asarray(manifest.attributes[0].of_class))
    return low, high


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo(tmp_path_factory.mktemp("people") / "people", num_train=36, num_test=6, seed=11)


def nearest_neighbour(manifest: Manifest, thumbs: np.ndarray, split: str) -> float:
    """Out-of-fold macro F1 of one that knows the mask and otherwise asks the most similar picture."""
    label, group = manifest.train["label"].to_numpy(), manifest.train["group"].to_numpy()
    fold = assign_folds(label, group, num_folds=5, seed=0, split=split)
    guess = np.empty_like(label)
    for held_out in range(5):
        train = fold != held_out
        person = KNeighborsClassifier(1).fit(thumbs[train], label[train] % 6).predict(thumbs[~train])
        guess[~train] = label[~train] // 6 * 6 + person
    return METRICS["f1_macro"].score(label, np.eye(18)[guess])


def test_permuted_labels_stay_in_the_band_and_a_leaky_split_leaves_it(people, tmp_path):
    """Fast: the project's folds with the strongest leak there is, recognising the person's picture."""
    honest, leaky = [], []
    for seed in PERMUTATIONS:
        manifest = read_layout(permuted_layout(people, tmp_path / str(seed), seed))
        if not honest:
            thumbs = np.stack(
                [cv2.resize(read_image(path)[::4, ::4], (12, 16)).ravel() for path in manifest.train["path"]]
            )
            thumbs = thumbs.astype(np.float32)
        low, high = mask_band(manifest)
        honest.append(nearest_neighbour(manifest, thumbs, "stratified-group"))
        leaky.append(nearest_neighbour(manifest, thumbs, "stratified"))
        assert low <= honest[-1] <= high
        assert leaky[-1] > high
    assert min(leaky) > 2 * max(honest)


def trained(root: Path, output: Path, split: str) -> float:
    config = make_config(
        data=str(root), output=str(output), split=split, folds=5, epochs=8, img_size="96x128", batch_size=8,
        smoothing=0.0, augment="none", workers=0,
    )  # fmt: skip
    return cross_validate(config, say=lambda _: None).report["headline"]["value"]


@pytest.mark.slow
def test_training_does_not_leak_either(people, tmp_path):
    """Slow: the whole pipeline, five permutations, a fixed number of epochs."""
    for seed in PERMUTATIONS:
        root = permuted_layout(people, tmp_path / str(seed), seed)
        low, high = mask_band(read_layout(root))
        if seed == 0:
            leaky = trained(root, tmp_path / "leaky", "stratified")
            print(f"permutation {seed}: leaky {leaky:.3f}, band [{low:.3f}, {high:.3f}]", flush=True)
            assert leaky > high + 0.05
        honest = trained(root, tmp_path / f"honest{seed}", "stratified-group")
        print(f"permutation {seed}: honest {honest:.3f}, band [{low:.3f}, {high:.3f}]", flush=True)
        assert low <= honest <= high
