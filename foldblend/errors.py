"""Errors meant for people: one line that names the file or flag, and the cure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["BadImage", "UserError", "counted", "did_you_mean", "in_a_line", "listed", "require"]


class UserError(ValueError):
    """Something the user can mend; `foldblend.cli.run_command` prints it as one line and exits with
    2.
    """


class BadImage(UserError):
    """An image that cannot be read."""


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return "; did you mean X or Y?" for the options nearest to `name`, or "" if none is near."""
    near = difflib.get_close_matches(name, list(options), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def listed(names: Iterable[object], *, most: int = 3) -> str:
    """Return the first `most` names joined by commas, then how many more there are."""
    everything = [str(name) for name in names]
    shown = ", ".join(everything[:most])
    return shown if len(everything) <= most else f"{shown} and {len(everything) - most} more"


def require(condition: bool, message: str) -> None:
    """Raise UserError with the message unless the condition holds."""
    if not condition:
        raise UserError(message)


def in_a_line(error: BaseException) -> str:
    """Return what an error says, on one line, its type where it says nothing."""
    said = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def counted(number: int, noun: str) -> str:
    """Return "1 pair" or "1,000 pairs"."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
