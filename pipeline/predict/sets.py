"""Sets of classes with a given coverage, for images that are predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foldblend.cli import Say
from foldblend.errors import UserError, listed
from foldblend.scores.conformal import Conformal
from pipeline.predict.config import PredictConfig
from pipeline.predict.open import Predictor
from pipeline.predict.stream import Stream

__all__ = ["Sets", "sets_of"]


@dataclass(frozen=True)
class Sets:
    """Comparison of new images with out-of-fold rows."""

    conformal: Conformal
    coverage: float
    by_class: bool
    models: Sequence[int] | None
    """Models that predict; None where their mean is compared with all rows."""

    def of(self, plain_KNC: np.ndarray) -> np.ndarray:
        """Return which classes are in the set of each image, N x C, from each model's logits."""
        if self.models is None:
            plain_KNC = plain_KNC.mean(axis=0, keepdims=True)
        return self.conformal.sets(
            list(plain_KNC), self.coverage, models=self.models, by_class=self.by_class
        )


def sets_of(
    predictor: Predictor, stream: Stream, config: PredictConfig, *, say: Say
) -> Sets | None:
    """Return what sets of classes are made with, or None if they are not asked for.

    The coverage on out-of-fold rows is shown, and classes that get no promise.

    Raises UserError for a file without out-of-fold rows.
    """
    if config.coverage is None:
        return None
    conformal = predictor.conformal
    if conformal is None:
        raise UserError(
            f"--coverage: {predictor.source} has no out-of-fold rows to compare with; export the"
            " run again, or leave it out"
        )
    by_class = config.coverage_by == "class"
    classes = predictor.classes
    few = conformal.without_promise(config.coverage, len(classes)) if by_class else []
    if few:
        names = listed([classes[one] for one in few], most=9)
        say(f"--coverage-by class: too few groups, so no promise, for images of {names}")
    found = predictor.coverage(config.coverage, by_class=by_class)
    if found is not None:
        say(
            f"--coverage {config.coverage:g}: out of fold, sets of {found.width:.2f} classes on"
            f" average contain the true class for {found.share} of images"
        )
    elif predictor.run is None:
        levels = sorted(wanted for wanted, of_class in predictor.coverages if of_class == by_class)
        known = (
            f"only for {', '.join(f'{one:g}' for one in levels)}"
            if levels
            else "as an earlier version made it, or the run has a single fold or group"
        )
        say(f"--coverage {config.coverage:g}: the file lacks this coverage out of fold, {known}")
    if config.models is None and any(leaf.recipe.num_refits for leaf in stream.leaves.values()):
        say(
            f"--coverage {config.coverage:g}: this is of the models of the folds; nothing is known"
            " of the models of all rows, which share in the predictions (--folds leaves them out)"
        )
    every = stream.root.num_models
    chosen = [k for k in range(every) if config.models is None or k in config.models]
    # Blends of runs with different folds have means of models, and no fold of their own.
    models = chosen if chosen and every == conformal.num_models else None
    return Sets(conformal, config.coverage, by_class, models)
