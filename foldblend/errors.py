"""Errors for users: one line with the file or flag, what is wrong, and how to fix it."""

from __future__ import annotations

import difflib
import itertools
import re
import reprlib
from collections.abc import Iterable
from typing import Any

from foldblend.words import plural

__all__ = [
    "BadImage",
    "UserError",
    "counted",
    "did_you_mean",
    "in_a_line",
    "listed",
    "printable",
    "require",
    "shown",
]

# Control characters of ASCII and Latin-1, separators of lines, marks that turn the direction of
# text, and halves of surrogate pairs, which are bytes of file names that are not UTF-8.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# A message quotes file names, values and other errors, each of any length.
MOST_LETTERS = 1000
# Of a value, as many levels and parts of each are looked at as a message can show.
MOST_LEVELS = 3
MOST_PARTS = 30
MOST_BITS = 10_000


def printable(text: str) -> str:
    r"""Return a text on one line that a terminal shows as it is, without effects.

    Line ends become blanks, and other control characters backslash escapes.

    Examples
    --------
    >>> print(printable("red\x1b[31m\nand blue"))
    red\x1b[31m and blue
    """
    return UNPRINTABLE.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    letter = found[0]
    if letter in "\n\r\t":
        return " "
    code = ord(letter)
    # A byte of a file name that is no UTF-8 is shown as that byte.
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class _Short(reprlib.Repr):
    """Make the text of a value that may be very large, of which only some parts are looked at."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.maxlevel = MOST_LEVELS
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = MOST_PARTS
        self.maxdict = self.maxdeque = self.maxarray = MOST_PARTS
        self.maxstring = self.maxlong = self.maxother = most

    def repr_dict(self, value: dict[Any, Any], level: int) -> str:
        # The base class sorts all keys.
        if level <= 0:
            return "{...}" if value else "{}"
        parts = [
            f"{self.repr1(key, level - 1)}: {self.repr1(one, level - 1)}"
            for key, one in itertools.islice(value.items(), MOST_PARTS)
        ]
        return f"{{{', '.join([*parts, '...'] if len(value) > MOST_PARTS else parts)}}}"

    def repr_int(self, value: int, level: int) -> str:
        # Python writes no integer of very many digits.
        many = value.bit_length() > MOST_BITS
        return f"<int of {value.bit_length()} bits>" if many else super().repr_int(value, level)


def shown(value: object, *, most: int = 80) -> str:
    """Return a value for a message: printable, and shortened in its middle.

    Examples
    --------
    >>> shown("a" * 200, most=20)
    'aaaaaaaaa...aaaaaaaa'
    """
    # The text of a large value is cut before it is searched for letters to escape.
    text = value if isinstance(value, str) else _Short(most).repr(value)
    return _shortened(printable(_shortened(text, most)), most)


def _shortened(text: str, most: int) -> str:
    """Return a text without its middle if it is longer than `most` letters."""
    first = (most - 2) // 2
    last = most - 3 - first
    return text if len(text) <= most else f"{text[:first]}...{text[len(text) - last :]}"


class UserError(ValueError):
    """An error that the user can fix.

    `foldblend.cli.run_command` prints it as one line and exits with code 2. The message is made
    printable and shortened in its middle if it is very long.
    """

    def __init__(self, message: object = "") -> None:
        text = str(message)
        # A loader's worker hands its error over with its traceback; the message is the end of it.
        if text.startswith("Caught "):
            text = text.rpartition(f"{type(self).__name__}: ")[2]
        super().__init__(shown(text, most=MOST_LETTERS))


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
