"""The audit from settings to page."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from foldblend.cli import Say
from foldblend.files import page_file, write_bytes
from foldblend.flags import from_settings
from foldblend.progress import lines_to, write
from folds.audit.exploration import explore
from folds.audit.overview import overview_of
from folds.audit.page import audit_page
from folds.config import AuditConfig
from folds.data.manifest import slug
from folds.data.pixel_range import with_levels_found
from folds.data.source import load_manifest
from folds.data.training_only import ids_for_training_only, joined, taken_apart
from folds.plan import fold_lines, fold_map
from folds.split import SPLITTERS

__all__ = ["audit", "run_audit"]


def audit(*, say: Say = write, **settings: Any) -> Path:
    """Check a data set before training and write a page with the findings.

    Unreadable images are listed and left out.

    Parameters
    ----------
    say
        Function that gets the findings, line by line.
    settings
        Flags of run_audit.py as keywords: ``data`` or ``csv``, ``group_col``, ``folds``, ``page``,
        ``quick`` ...

    Returns
    -------
    Path
        The file of the page.

    Raises
    ------
    UserError
        For data or folds that cannot be used, or a page that cannot be written.

    Examples
    --------
    >>> page = fb.audit(data=data, folds=2, quick=True, page=output / "audit.html", say=silent)
    >>> page.name
    'audit.html'
    """
    return run_audit(from_settings(AuditConfig, settings), say=say)


def run_audit(config: AuditConfig, *, say: Say = write) -> Path:
    """Check a data set and its folds, print the findings, and return the path of the page.

    Raises UserError for data or folds that cannot be used, or a page that cannot be written.
    """
    split = config.split
    manifest = load_manifest(dataclasses.replace(config.data, on_bad_image="skip"))
    file = page_file(config.page.page or f"audit_{slug(manifest.name)}.html", flag="--page")
    warned = [f"warning: {line}" for line in manifest.warnings]
    for line in [*manifest.found, *warned, *manifest.notes]:
        say(line)
    manifest = taken_apart(joined(manifest), ids_for_training_only(manifest, split.fold_file, say))
    # Data that cannot be split fail here, before every image is read.
    fold_RN = fold_map(split, manifest)
    with lines_to(say):
        manifest, bad = with_levels_found(manifest, config.data, say)
        deep = not config.page.quick
        seen = explore(
            manifest,
            say,
            deep=deep,
            merge=config.data.merge_duplicates,
            max_pixels=config.data.max_pixels,
            bad=bad,
        )
    # A fold file may list images that cannot be read, so its folds are not read again.
    subset = split.fold_file is not None and not seen.kept_N.all()
    fold_RN = fold_RN[:, seen.kept_N] if subset else fold_map(split, seen.manifest)
    overview = overview_of(seen, fold_RN)
    for line in [*fold_lines(split, seen.manifest, fold_RN), *overview.lines()]:
        say(line)
    leaks = SPLITTERS[split.split].leaks
    write_bytes(file, audit_page(seen, fold_RN, overview, leaks=leaks))
    say(f"page: {file}")
    return file
