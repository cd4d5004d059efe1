"""The audit from flags to page; unreadable pictures are listed and left out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from foldblend.cli import Say
from foldblend.errors import UserError
from foldblend.files import write_bytes
from folds.audit.exploration import explore
from folds.audit.page import audit_page
from folds.config import DataConfig, SplitConfig
from folds.data.manifest import slug
from folds.data.source import load_manifest
from folds.plan import fold_lines, fold_map, fold_warnings
from folds.split import SPLITTERS

__all__ = ["run_audit"]


def run_audit(data: DataConfig, split: SplitConfig, *, page: str | None, deep: bool, say: Say = print) -> Path:
    """Look at a data set and its folds, say what was found, write the page and return its path.

    Raises UserError for data or folds that cannot be used, or a page that cannot be written.
    """
    manifest = load_manifest(dataclasses.replace(data, on_bad_image="skip"))
    file = Path(page or f"audit_{slug(manifest.name)}.html")
    if file.is_dir() or not file.absolute().parent.is_dir():
        raise UserError(f"--page {file}: no file can be written there; name one in a folder that exists")
    for line in [*(f"warning: {line}" for line in manifest.warnings), *manifest.notes]:
        say(line)
    fold_RN = fold_map(split, manifest)  # what cannot be split fails now, not after a look at every picture
    seen = explore(manifest, say, deep=deep, merge=data.merge_duplicates)
    # A fold file may well know of pictures that cannot be read.
    subset = split.fold_file is not None and not seen.kept_N.all()
    fold_RN = fold_RN[:, seen.kept_N] if subset else fold_map(split, seen.manifest)
    warnings = fold_warnings(split, seen.manifest, fold_RN)
    for line in [*fold_lines(split, seen.manifest, fold_RN), *warnings, *seen.lines()]:
        say(line)
    write_bytes(file, audit_page(seen, fold_RN, leaks=SPLITTERS[split.split].leaks, warnings=warnings))
    say(f"page: {file}")
    return file
