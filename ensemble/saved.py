"""Read a blend from its folder, so that it can be applied to new logits of its members' models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ensemble.find import BLENDED
from ensemble.parameters import Parameters
from ensemble.parameters_file import PARAMETERS, read_parameters, to_bytes
from ensemble.refit import agrees, refitted
from foldblend.cli import Say
from foldblend.errors import UserError, counted, listed
from foldblend.files import exists, is_file, write_bytes
from foldblend.image_columns import ImageColumns
from foldblend.progress import write
from foldblend.reading import MOST_YAML, read_bounded
from foldblend.runs.check import finished_run
from foldblend.runs.folder import lock_folder
from foldblend.runs.run import Run

__all__ = ["SavedBlend", "SavedMember", "load_blend", "saved_members"]


@dataclass(frozen=True, slots=True)
class SavedMember:
    """A run in a blend, as the blend's folder records it; its own folder may be gone."""

    name: str
    path: Path | None
    """Where its folder was; None if the blend's folder does not say."""
    record: Mapping[str, Any]
    """Its run key, the hashes of its logits, and its weight, as in run.json of the blend."""


@dataclass(frozen=True, slots=True)
class SavedBlend:
    """A blend with its fitted method, read from its folder."""

    path: Path
    classes: tuple[str, ...]
    members: tuple[SavedMember, ...]
    """In the order in which `apply` takes their logits."""
    parameters: Parameters
    """The method, the fitted method and its offsets per class."""

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of each member, with sum 1; one with 0 need not run, its logits may be zeros."""
        return self.parameters.fitted.shares

    @property
    def needs(self) -> Mapping[str, str]:
        """The kind of each column of images that is needed, by its name: number or category."""
        return self.parameters.fitted.needs

    def apply(
        self, logits_MNC: Iterable[np.ndarray], columns: ImageColumns | None = None
    ) -> np.ndarray:
        """Return the blended logits of one model of each member.

        The method was fitted on outputs of single models, so it is applied to single models. The
        mean over folds is taken after that (see `table`).

        Parameters
        ----------
        logits_MNC
            Logits N x C of the members' models, in the order of `members`. They are read one after
            the other, as float32.
        columns
            Columns of the images, where the blend `needs` any.

        Returns
        -------
        array N x C
            Logits, float64.

        Raises
        ------
        UserError
            If the number of members, images or classes is wrong, or a logit is not finite.
        """
        self._check_columns(columns)
        return self.parameters.apply(self._checked(logits_MNC), columns)

    def _check_columns(self, columns: ImageColumns | None) -> None:
        """Raise UserError unless the columns that are needed are there."""
        kinds = {} if columns is None else columns.kinds
        absent = [name for name, kind in self.needs.items() if kinds.get(name) != kind]
        if absent:
            raise UserError(
                f"{self.path}: the blend needs the columns {listed(self.needs, most=9)}, and"
                f" {listed(absent, most=9)} is not given; pass ImageColumns with them"
            )

    def table(
        self,
        ids: pd.Series,
        folds: Iterable[Iterable[np.ndarray]],
        columns: ImageColumns | None = None,
    ) -> pd.DataFrame:
        """Return the mean over folds of the blended logits, as test.parquet of the blend has it.

        Parameters
        ----------
        ids
            Names of the N images.
        folds
            For each fold, what `apply` takes: the logits of the members' models of this fold.
        columns
            Columns of the images, where the blend `needs` any.

        Returns
        -------
        pd.DataFrame
            image_id and the logits, float32.
        """
        self._check_columns(columns)
        return self.parameters.table(ids, map(self._checked, folds), columns)

    def _checked(self, logits_MNC: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the logits as float32; raise UserError for those that are not the members'."""
        num_rows: int | None = None
        given = 0
        for given, one in enumerate(logits_MNC, start=1):
            if given > len(self.members):
                break
            name = self.members[given - 1].name
            logits_NC = _as_float32(one)
            if logits_NC is None:
                raise UserError(f"{self.path}: logits of {name} are not numbers; pass an array")
            num = len(logits_NC) if logits_NC.ndim else 0
            shape = (num if num_rows is None else num_rows, len(self.classes))
            if logits_NC.shape != shape:
                raise UserError(
                    f"{self.path}: logits of {name} are {' x '.join(map(str, logits_NC.shape))},"
                    f" not {' x '.join(map(str, shape))}; pass one row per image with"
                    f" {counted(len(self.classes), 'class')}"
                )
            if not np.isfinite(logits_NC).all():
                raise UserError(f"{self.path}: logits of {name} are not finite; predict them again")
            num_rows = len(logits_NC)
            yield logits_NC
        if given != len(self.members):
            names = ", ".join(one.name for one in self.members)
            raise UserError(
                f"{self.path}: logits of {'more' if given > len(self.members) else given} members"
                f" were given; pass those of {len(self.members)}, in this order: {names}"
            )


def _as_float32(given: Any) -> np.ndarray | None:
    """Return logits as float32, as members' tables hold them, or None for anything but numbers."""
    try:
        values = np.asarray(given)
    except ValueError:
        return None
    if values.dtype.kind not in "fiu":
        return None
    # Logits that float32 cannot hold become infinite, and are refused as such.
    with np.errstate(over="ignore"):
        return values.astype(np.float32, copy=False)


def saved_members(run: Run) -> tuple[SavedMember, ...]:
    """Return the members of a blend, with the folders that its blend.yaml has for them."""
    records = run.info["members"]
    known = run.settings.get("members")
    paths = [one.get("path") for one in known] if isinstance(known, list) else []
    if len(paths) != len(records):
        paths = [None] * len(records)
    return tuple(
        SavedMember(
            str(record["name"]),
            (run.path.resolve() / path).resolve() if isinstance(path, str) else None,
            dict(record),
        )
        for record, path in zip(records, paths, strict=True)
    )


def _refit(run: Run, key: str, say: Say) -> Parameters:
    """Refit a blend without parameters, write them into its folder if possible, and say so."""
    settings = run.path / "blend.yaml"
    before = read_bounded(settings, most=MOST_YAML) if settings.is_file() else None
    parameters = refitted(run)
    done = f"{run.path}: it has no {PARAMETERS}, so it was refitted from its members"
    try:
        with lock_folder(run.path, flags=(None, None)):
            # Another process may have made another blend in this folder meanwhile.
            now = read_bounded(settings, most=MOST_YAML) if settings.is_file() else None
            if now == before and Run(run.path).info == run.info:
                write_bytes(run.path / PARAMETERS, to_bytes(parameters, key))
        say(f"{done}, and the file was written")
    except (OSError, UserError) as error:
        why = error.strerror if isinstance(error, OSError) else "the folder is in use or read-only"
        say(f"{done}; the file could not be written ({why}), so it will be refitted next time")
    return parameters


def load_blend(folder: str | Path, *, say: Say = write) -> SavedBlend:
    """Return a blend with its fitted method, from its folder alone.

    Blends of earlier versions have no parameters.safetensors. They are refitted once from their
    members, with the method and the offsets that blend.yaml records, and the file is written.

    Parameters
    ----------
    folder
        Folder of a blend.
    say
        Function that is called with a line if the blend was refitted.

    Raises
    ------
    UserError
        If the folder has no finished blend, its parameters are damaged or of a newer version, or
        the blend has to be refitted and members are gone or have changed.
    """
    run = finished_run(folder, needed=BLENDED)
    key = run.info["run_key"].get("blend")
    if run.info["kind"] != "blend" or key is None:
        raise UserError(f"{run.path}: not a blend; pass the folder of a blend")
    members = saved_members(run)
    file = run.path / PARAMETERS
    if exists(file) and not is_file(file):
        raise UserError(f"{file}: is no regular file; remove it, and the blend is refitted")
    if file.is_file():
        parameters = read_parameters(
            file, key, num_members=len(members), num_classes=len(run.classes)
        )
        found = run.settings.get("found")
        if isinstance(found, dict) and not agrees(parameters.as_dict(), found):
            raise UserError(
                f"{file}: it is not of the blend in blend.yaml; remove {PARAMETERS}, and the blend"
                " is refitted from its members"
            )
    else:
        parameters = _refit(run, key, say)
    return SavedBlend(run.path, run.classes, members, parameters)
