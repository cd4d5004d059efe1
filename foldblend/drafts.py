"""Temporary files that replace others when they are whole, and what killed writers left of them."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import Timeout

from foldblend.errors import UserError
from foldblend.failures import DRAFT, OUR_DRAFT
from foldblend.locks import hold

__all__ = [
    "DRAFT",
    "LONGEST_NAME",
    "draft_folder",
    "draft_of",
    "held_draft",
    "sweep_drafts",
    "sweep_own",
]

# Bytes of the name of a file, less those that a temporary file's name has in front.
LONGEST_NAME = 255 - len(DRAFT) - 9
FOLDER_LOCK = ".lock"  # in a temporary folder
# Names that version 0.2 gave temporary files in run folders.
FORMER_DRAFT = re.compile(re.escape(DRAFT) + "[0-9]+-")


def draft_of(path: Path) -> Path:
    """Return a new name for the temporary file that is to be moved to a path."""
    # Processes on several machines, or in several containers, may have the same number.
    return path.with_name(f"{DRAFT}{secrets.token_hex(4)}-{path.name}")


@contextlib.contextmanager
def held_draft(path: Path) -> Iterator[Path]:
    """Make a temporary file and hold its lock, which shows that its writer is alive."""
    while True:
        draft = draft_of(path)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(hold(draft))
            except Timeout:
                # Another process sweeps the folder, and was faster with the lock.
                continue
            if draft.exists():
                yield draft
                return


@contextlib.contextmanager
def draft_folder(path: Path) -> Iterator[Path]:
    """Make a folder beside a path, to be filled and moved there; it is removed at the end.

    The lock file in it shows others that its writer is alive (see `sweep_drafts`).
    """
    draft = draft_of(path)
    draft.mkdir(parents=True)
    try:
        with hold(draft / FOLDER_LOCK):
            yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def sweep_drafts(folder: Path) -> None:
    """Remove the temporary files below a run folder whose writer is gone; links are not followed.

    Other files stay, whatever their names start with.
    """
    # Other processes may remove folders below it meanwhile, which `os.walk` passes over.
    for path, folders, files in os.walk(folder):
        for name in (*folders, *files):
            if OUR_DRAFT.match(name) or FORMER_DRAFT.match(name):
                _remove_left(Path(path, name))


def sweep_own(folder: Path) -> None:
    """Remove the temporary files in a folder that is not only ours, as `sweep_drafts` does."""
    for draft in [*folder.glob(f"{DRAFT}*")]:
        if OUR_DRAFT.match(draft.name):
            _remove_left(draft)


def _remove_left(draft: Path) -> None:
    """Remove a temporary file or folder unless its writer is alive."""
    with contextlib.suppress(OSError, UserError):
        if draft.is_symlink():
            draft.unlink()
        elif draft.is_dir():
            with hold(draft / FOLDER_LOCK):
                shutil.rmtree(draft)
        else:
            # Without the lock, the file could be one that a writer has made this moment.
            with hold(draft):
                draft.unlink()
