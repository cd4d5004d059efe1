"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

__all__ = ["DRAFT", "write_bytes", "write_with"]

DRAFT = ".draft-"


def write_with(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a draft beside `path`, flush it to disk, and move it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{DRAFT}{os.getpid()}-{path.name}")
    try:
        write(draft)
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes | str) -> None:
    """Write a file atomically; text as UTF-8."""
    content = data.encode() if isinstance(data, str) else data
    write_with(path, lambda draft: draft.write_bytes(content))
