"""Folds one after another, or several at once, each in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.fold import FoldJob, run_fold

__all__ = ["run_folds"]


def run_folds(job: FoldJob, todo: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Train the folds of those numbers and return {number: done.json}."""
    return {index: run_fold(job, index) for index in todo}
