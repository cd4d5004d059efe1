"""Decision on the labels that a run takes from the models of another run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from foldblend.cli import Say
from foldblend.errors import UserError, counted, listed
from foldblend.runs.learned_test import notes_of_learned_tests, runs_that_learned_tests
from foldblend.runs.run import Run
from foldblend.runs.search import notes_of_searches, searches_of
from folds.data.manifest import Manifest
from folds.split import SPLITTERS
from pipeline.config.run import RunConfig
from pipeline.config.settings import flatten, replace
from pipeline.config.trust import Trust, own_parts
from pipeline.labels.given import Labels
from pipeline.labels.source import check_folds, is_itself, leaf_runs
from pipeline.labels.without import Source

__all__ = ["plan_labels", "with_folds_of"]

# Raise this when the same logits would teach something else.
VERSION = 1
OF_FOLDS = ("folds", "repeats", "fold_file", "split", "split_seed")


def with_folds_of(run: Run, config: RunConfig, say: Say) -> RunConfig:
    """Return the settings with the folds of the run that gives labels, unless others are asked."""
    asked = flatten(config)
    if any(name in config.typed and asked[name] is not None for name in OF_FOLDS):
        return config
    # The folder of a blend does not name images for training only.
    first = leaf_runs(run)[0]
    given: dict[str, object] = {"fold_file": str(first.path)}
    split = str(first.settings.get("split"))
    if run.info["leaks"] and split in SPLITTERS:
        given["split"] = split
    say(f"folds: those of {run.path}, as its models of a fold may label for that fold only")
    return dataclasses.replace(replace(config, **given), typed=config.typed)


def plan_labels(
    run: Run, config: RunConfig, manifest: Manifest, fold_RN: np.ndarray, folder: Path, say: Say
) -> Labels:
    """Return what a run will learn from another run's models.

    Parameters
    ----------
    run
        The run that gives labels.
    config
        The settings.
    manifest
        The data.
    fold_RN
        Fold of each training row in each repeat.
    folder
        The folder of the new run.
    say
        Receives lines on blends that are fitted again.

    Raises
    ------
    UserError
        If it is the run itself, has other classes, images or folds, or cannot be opened.
    """
    labels = config.labels
    flag = labels.source_flag
    if is_itself(run, folder):
        raise UserError(
            f"{flag} {labels.source}: is the run itself or made of it; pass another --name"
        )
    leaves = leaf_runs(run)
    check_folds([run, *leaves], manifest, fold_RN, flag)
    parts = frozenset(name for _, name in own_parts(config))
    trust = Trust(parts, config.output.trust_parts, flag=None)
    source = Source.open(run, trust, say)
    _check_boxes(source, manifest, flag)
    # A refit gives no labels, so one that came later changes nothing.
    models = source.predictor.fingerprint(refits=False)
    num_scored = _num_scored_test(manifest)
    about = [VERSION, run.oof_hash, models, manifest.unlabelled_hash()]
    return Labels(
        is_teacher=labels.teacher is not None,
        source=run.path.resolve(),
        oof=run.oof_hash,
        key=hashlib.blake2b(json.dumps(about).encode(), digest_size=16).hexdigest(),
        share=labels.teacher_share,
        temperature=labels.teacher_temperature,
        threshold=labels.pseudo_threshold,
        num_unlabelled=0 if manifest.unlabelled is None else len(manifest.unlabelled),
        optimistic=bool(run.info.get("optimistic", False)),
        leaks=run.info["leaks"],
        num_scored_test=num_scored,
        test_learned_by=tuple(runs_that_learned_tests([run])),
        searches=searches_of([run]),
        notes=(*_notes(run), *_notes_on_test(num_scored)),
    )


def _check_boxes(source: Source, manifest: Manifest, flag: str) -> None:
    """Raise UserError if models were trained on boxes, and the images have none."""
    if "box" in manifest.train:
        return
    leaves = source.predictor.leaves.values()
    boxed = [leaf.name for leaf in leaves if leaf.recipe.crop == "box"]
    if boxed:
        raise UserError(
            f"{flag} {source.run.path}: {listed(boxed)} was trained on boxes, and these images have"
            " none; pass --box-cols"
        )


def _notes(run: Run) -> Iterator[str]:
    """Yield what passes on from the models that give labels to the score of what learns them."""
    if run.info.get("optimistic"):
        yield (
            f"OPTIMISTIC: the epochs of {run.name}, which gave labels, were chosen on the scored"
            " rows (--select best)"
        )
    if run.info["leaks"]:
        yield f"{run.name}, which gave labels, has {run.groups} in several folds"
    yield from notes_of_searches([run])
    yield from notes_of_learned_tests([run])


def _num_scored_test(manifest: Manifest) -> int:
    """Return how many test images with a known label are among the images without labels."""
    test = manifest.test
    if test is None or manifest.unlabelled is None or "label" not in test:
        return 0
    return int((test["content"].isin(manifest.unlabelled["content"]) & (test["label"] >= 0)).sum())


def _notes_on_test(num: int) -> Iterator[str]:
    """Yield a note if the test set has labels for a score, and its images are learned."""
    if num:
        yield (
            f"{counted(num, 'test image')} with a known label, which is not learned, can be among"
            " the images without labels, so the score on the test set is not one of unseen images"
        )
