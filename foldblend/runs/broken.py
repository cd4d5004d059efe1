"""The error for a run whose files are damaged: among several runs it is left out."""

from __future__ import annotations

from pathlib import Path

from foldblend.errors import UserError

__all__ = ["BrokenRun"]


class BrokenRun(UserError):
    """An error of one run: a file is damaged, has changed or lacks something.

    Parameters
    ----------
    message
        The file, what is wrong with it and the cure.
    folder
        The run folder; None if it is not known.
    """

    def __init__(self, message: object = "", folder: str | Path | None = None) -> None:
        super().__init__(message)
        self.folder = None if folder is None else Path(folder)

    @property
    def why(self) -> str:
        """The message without the folder, to be shown after it."""
        return str(self).removeprefix(f"{self.folder}/")
