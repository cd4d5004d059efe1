"""The leak detector for labels of models: other folds' models pass on the labels of a fold.

Gender and age are permuted between people while masks stay, as in `test_leak`. Images without
labels are further ones of the same people, and no duplicates. Labels by the models of the same fold
tell nothing of the people who are held out, so the score stays within the band of what the mask
predicts. Models of another fold have learned those people's permuted labels and pass them on.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from foldblend.runs.run import Run
from foldblend.scores.baselines import attribute_only_band
from pipeline.cv import cross_validate
from pipeline.labels.without import Source
from pipeline.predict.tree import Leaf
from tests.makers.many_images import draw_people

PERMUTATIONS = range(5)
NUM_LEAKY = 2
FOLDS = 3
NUM_LABELLED = 3
KINDS = {
    # All labels are used: permuted ones are never sure.
    "pseudo-labels": {"pseudo_threshold": 0.01},
    "teacher": {"teacher_temperature": 1.0},
}


class ByAnotherFold(Leaf):
    """A run of which the model of the next fold labels in place of that of the fold."""

    def logits(self, seen, model):
        return Leaf.logits(self, seen, (model + 1) % FOLDS)


def by_another_fold(monkeypatch):
    honest = Source.node_of

    def node_of(self, model):
        node = honest(self, model)
        values = {one.name: getattr(node, one.name) for one in dataclasses.fields(node)}
        return ByAnotherFold(**values)

    monkeypatch.setattr(Source, "node_of", node_of)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Draw 48 synthetic people, each with five images per kind of mask."""
    folder = tmp_path_factory.mktemp("people")
    return draw_people(folder, num_people=48, num_shots=NUM_LABELLED + 2)


def scored(folder: Path, name: str, **settings) -> float:
    made: Run = cross_validate(
        csv=str(folder / "labelled.csv"),
        image_col="file",
        group_col="person",
        output=str(folder),
        name=name,
        folds=FOLDS,
        img_size="64x80",
        finetune="head",
        head_l2="0.001",
        workers=0,
        threads=1,
        log_pictures=False,
        page=False,
        say=lambda _: None,
        **settings,
    )
    return made.report["headline"]["value"]


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(seed, marks=pytest.mark.slow if seed < NUM_LEAKY else pytest.mark.exhaustive)
        for seed in PERMUTATIONS
    ],
)
def test_labels_by_models_of_the_fold_do_not_leak(seed, people, tmp_path, monkeypatch):
    """Train linear heads on a permutation, with labels by models of the fold and of another."""
    of_person = people.groupby("person")["stratum"].first()
    permuted = pd.Series(
        np.random.default_rng(seed).permutation(of_person.to_numpy()), index=of_person.index
    )
    table = people.assign(stratum=people["person"].map(permuted))
    table["label"] = 6 * table["mask"] + table["stratum"]
    labelled = table[table["shot"] < NUM_LABELLED]
    labelled.to_csv(tmp_path / "labelled.csv", index=False)
    others = tmp_path / "others.csv"
    table.loc[table["shot"] >= NUM_LABELLED, ["file"]].to_csv(others, index=False)
    low, _, high = attribute_only_band(
        labelled["label"].to_numpy(), labelled["person"].to_numpy(), np.arange(18) // 6
    )
    assert low <= scored(tmp_path, "source") <= high
    source = {
        "pseudo-labels": {"pseudo_from": str(tmp_path / "source")},
        "teacher": {"teacher": str(tmp_path / "source")},
    }
    for kind, settings in KINDS.items():
        given = settings | source[kind] | {"unlabelled": str(others)}
        honest = scored(tmp_path, kind, **given)
        print(f"permutation {seed}, {kind}: {honest:.3f}, band [{low:.3f}, {high:.3f}]", flush=True)
        assert low <= honest <= high
        if seed < NUM_LEAKY:
            with monkeypatch.context() as patch:
                by_another_fold(patch)
                leaky = scored(tmp_path, f"{kind}-by-another-fold", **given)
            print(f"permutation {seed}, {kind} by another fold: {leaky:.3f}", flush=True)
            assert leaky > high + 0.1
