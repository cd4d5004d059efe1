"""Trials that train their backbone: ordinary run folders, one fold after the other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np

from foldblend.cli import Say
from foldblend.locks import hold
from foldblend.runs.folder import rows_like
from foldblend.runs.run import Run
from foldblend.runs.schema import read_done
from foldblend.runs.tables import TableReader
from pipeline.config.identity import identity_settings
from pipeline.config.run import RunConfig
from pipeline.config.settings import flatten, replace
from pipeline.config.train import AUTO
from pipeline.cv import cross_validate
from pipeline.job import Prepared

__all__ = ["TunedTrials"]


class TunedTrials:
    """Cross-validations in run folders, of which a killed one goes on where it stopped.

    A folder is named by the settings, so that settings that are tried again find their folds.
    """

    def __init__(
        self, folder: Path, like: Prepared, say: Say, *, kept: Collection[str] = ()
    ) -> None:
        """Make no trial yet.

        Parameters
        ----------
        folder
            Folder of the run folders.
        like
            A run with the data and folds of all trials.
        say
            Gets the line of each fold.
        kept
            Settings with what auto decided when the study began.
        """
        self.kept = kept
        self.folder = folder
        self.like = like
        self.say = say

    def place(self, config: RunConfig) -> Path:
        """Return the run folder of settings.

        Flags that do not decide the logits and flags that later versions add leave its name as it
        is, and so does a changed table of auto.
        """
        own = identity_settings(flatten(config) | dict.fromkeys(self.kept, AUTO))
        text = json.dumps(own, sort_keys=True)
        digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
        return self.folder / f"settings_{digest}"

    def held_out(
        self, config: RunConfig, title: str, seen: Callable[[int, np.ndarray], bool] | None
    ) -> np.ndarray | None:
        """Return the held-out logits of a cross-validation, or None if it was stopped.

        Parameters
        ----------
        config
            The settings of the trial.
        title
            Its name in the log.
        seen
            Called after each fold but the last with the number of folds so far and the logits, in
            which rows without a prediction are NaN; it returns whether to go on. None: go on,
            and train the folds at the same time where there is room for several.
        """
        place = self.place(config)
        self.folder.mkdir(parents=True, exist_ok=True)
        num_rows = self.like.fold_RN.size
        found_NC = np.full((num_rows, self.like.manifest.num_classes), np.nan, np.float32)
        own = replace(
            config, output=str(self.folder), name=place.name, page=False, resume=True, wandb=False
        )

        def wait() -> None:
            self.say(f"{title}: waiting for another process, which runs the same settings")

        def say(line: str) -> None:
            if ": held-out " in line:
                self.say(f"{title}, {line}")

        # The name of the lock does not start like that of a run folder.
        with hold(self.folder / f".lock-{place.name}", wait=wait):
            if seen is None:
                cross_validate(own, say=say)
            for index in range(self.like.num_models):
                if seen is None:
                    self._add(place, index, found_NC)
                    continue
                cross_validate(replace(own, only_folds=str(index)), say=say)
                self._add(place, index, found_NC)
                if index + 1 < self.like.num_models and not seen(index + 1, found_NC):
                    return None
        return found_NC

    def _add(self, place: Path, index: int, found_NC: np.ndarray) -> None:
        """Add the logits of a finished fold."""
        run = Run(place)
        reader = TableReader(place, run.info, read_done(place, index)["files"])
        table = reader.read(f"fold_{index}/oof")
        repeat, _ = self.like.place(index)
        held_N = self.like.is_held_out(index)
        keys = self.like.manifest.train.loc[held_N, ["image_id"]].assign(repeat=repeat)
        at = repeat * len(held_N) + np.flatnonzero(held_N)
        found_NC[at] = run.logits(rows_like(table, keys))
