"""The audit from flags to page; unreadable pictures are listed, never a reason to stop."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from folds.config import DataConfig, SplitConfig
from folds.errors import UserError
from folds.exploration import explore
from folds.load import Say, merge_groups
from folds.manifest import slug
from folds.page import audit_page
from folds.plan import plan_folds
from folds.source import load_manifest
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
    said = [*(f"warning: {line}" for line in manifest.warnings), *manifest.notes]
    for line in said:
        say(line)
    seen = explore(manifest, deep=deep)
    if data.merge_duplicates:
        merged = merge_groups(seen.manifest, seen.duplicates, say)
        seen = dataclasses.replace(seen, manifest=merged)
        said.append(merged.notes[-1])
    warnings: list[str] = []

    def say_folds(text: str) -> None:
        say(text)
        if text.lower().startswith("warning"):
            warnings.append(text)

    fold_RN = plan_folds(split, seen.manifest, say_folds)
    for line in seen.lines():
        say(line)
    leaks = SPLITTERS[split.split].leaks
    draft = file.with_name(f".{file.name}.draft")
    draft.write_text(audit_page(seen, fold_RN, leaks=leaks, notes=said, warnings=warnings), encoding="utf-8")
    os.replace(draft, file)
    say(f"page: {file}")
    return file
