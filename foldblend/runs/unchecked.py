"""Runs without recorded hashes whose tables were read, for one note at the end of a command."""

from __future__ import annotations

from pathlib import Path

from foldblend.errors import listed

__all__ = ["note_unchecked", "take_note"]

# A command reads runs in many places and threads; adding to a dict is one step.
_folders: dict[Path, None] = {}


def note_unchecked(folder: Path) -> None:
    """Remember that tables of a run were read without a hash to compare them with."""
    _folders[folder] = None


def take_note() -> str | None:
    """Return the note on such runs since the last call, or None if there was none."""
    folders = [*_folders]
    _folders.clear()
    if not folders:
        return None
    have = "has" if len(folders) == 1 else "have"
    return (
        f"note: {listed(folders)} {have} no hashes of tables, as runs of earlier versions; read"
        " unchecked"
    )
