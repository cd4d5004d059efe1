"""Sharing of a run's folds between processes: each fold is trained by the one that locks it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from foldblend.errors import UserError, listed
from foldblend.runs.folder import is_fold_locked, lock_fold

__all__ = ["Claim", "claim_folds", "folds_in_training"]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Folds of a run that are not finished."""

    mine: tuple[int, ...]
    """Folds that this process has locked and trains."""
    others: tuple[int, ...]
    """Folds that other processes train."""


def claim_folds(
    stack: contextlib.ExitStack, folder: Path, todo: Sequence[int], *, chosen: bool
) -> Claim:
    """Lock the folds that no other process trains, until `stack` is closed.

    Parameters
    ----------
    stack
        Receives the locks.
    folder
        The run folder, locked by the caller.
    todo
        Numbers of the folds that are not finished.
    chosen
        Whether the user chose these folds, so that all of them must be free.

    Raises
    ------
    UserError
        If another process trains a chosen fold, or all folds.
    """
    mine: list[int] = []
    others: list[int] = []
    for index in todo:
        try:
            stack.enter_context(lock_fold(folder, index))
            mine.append(index)
        except UserError:
            if chosen:
                raise
            others.append(index)
    if others and not mine:
        raise UserError(
            f"{folder}: another process is training folds {listed(others, most=9)}, and no other"
            " fold is left; wait for it, or pass another --name"
        )
    return Claim(mine=tuple(mine), others=tuple(others))


def folds_in_training(folder: Path, folds: Sequence[int]) -> list[int]:
    """Return which of these folds another process is training."""
    return [index for index in folds if is_fold_locked(folder, index)]
