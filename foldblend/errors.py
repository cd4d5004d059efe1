"""Errors for users: one line with the file or flag, what is wrong, and how to fix it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from foldblend.words import plural

__all__ = ["BadImage", "UserError", "counted", "did_you_mean", "in_a_line", "listed", "require"]


class UserError(ValueError):
    """An error that the user can fix.

    `foldblend.cli.run_command` prints it as one line and exits with code 2.
    """


class BadImage(UserError):
    """An image that cannot be read.

    Parameters
    ----------
    problem
        The file and what is wrong with it; without `cure` the whole message.
    cure
        What to do. The message says as well that a labelled image may be skipped.
    test_cure
        What to do about a test image, which cannot be skipped; None: the same.
    """

    # Exceptions are rebuilt from their message alone when they come from another process.
    def __init__(self, problem: str, cure: str | None = None, test_cure: str | None = None) -> None:
        comma = "," if cure is not None and " or " in cure else ""
        super().__init__(
            problem if cure is None else f"{problem}; {cure}{comma} or pass --on-bad-image skip"
        )
        self.problem = problem
        self.cure = cure
        self.test_cure = test_cure or cure

    def for_test(self) -> str:
        """Return the message for an image that cannot be skipped."""
        return self.problem if self.test_cure is None else f"{self.problem}; {self.test_cure}"


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return "; did you mean X or Y?" for the options most similar to `name`, or "".

    Examples
    --------
    >>> did_you_mean("epoch", ["epochs", "lr"])
    '; did you mean epochs?'
    """
    near = difflib.get_close_matches(name, list(options), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def listed(names: Iterable[object], *, most: int = 3) -> str:
    """Return the first `most` names joined by commas, and the number of further ones.

    Examples
    --------
    >>> listed("abcde")
    'a, b, c and 2 more'
    """
    everything = [str(name) for name in names]
    shown = ", ".join(everything[:most])
    return shown if len(everything) <= most else f"{shown} and {len(everything) - most} more"


def require(condition: bool, message: str) -> None:
    """Raise UserError with the message unless the condition holds."""
    if not condition:
        raise UserError(message)


def in_a_line(error: BaseException) -> str:
    """Return an error's type and message on one line of bounded length."""
    message = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def counted(number: int, noun: str) -> str:
    """Return a number with its noun in the right form.

    Examples
    --------
    >>> counted(1, "pair"), counted(1000, "pair")
    ('1 pair', '1,000 pairs')
    """
    return f"{number:,} {noun if number == 1 else plural(noun)}"
