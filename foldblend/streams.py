"""Standard output and standard error: closed, full, or unable to encode a letter."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys

from foldblend.errors import UserError

__all__ = [
    "escape_unprintable",
    "flush_output",
    "open_standard_streams",
    "print_aside",
    "print_line",
]


def open_standard_streams() -> None:
    """Open the null device in the place of standard streams that are closed.

    Otherwise a file that is opened gets the number of one of them, and what libraries write to
    standard error ends in that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is taken, and those below it are open by now.
            os.open(os.devnull, os.O_RDWR)
    # Python has no stream where the number was closed when it started.
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123


def escape_unprintable() -> None:
    """Let both output streams write backslash escapes for letters that they cannot encode.

    Otherwise a name in a report could end a command after hours of training.
    """
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper):
            continue
        is_unicode = stream.encoding.lower().startswith("utf")
        if stream.errors == "strict" or (stream.errors == "surrogateescape" and not is_unicode):
            stream.reconfigure(errors="backslashreplace")


def print_line(line: str) -> None:
    """Print a line to standard output at once. Raises UserError if the output is full."""
    try:
        print(line, flush=True)
    except OSError as error:
        raise _lost(error) from None


def print_aside(line: str) -> None:
    """Print a line to standard error at once; it is lost where that is full or gone."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def flush_output() -> None:
    """Write what standard output still holds back. Raises UserError if the output is full."""
    try:
        sys.stdout.flush()
    except OSError as error:
        raise _lost(error) from None


def _lost(error: OSError) -> Exception:
    """Return the error for people of a standard output that cannot be written."""
    # Callers catch what a pipe without a reader and a closed terminal raise, which are no faults.
    if error.errno == errno.EPIPE:
        return error
    if error.errno == errno.EIO:
        return OSError(error.errno, error.strerror, "standard output")
    # Python would try again at its end and print a traceback.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    why = error.strerror or "closed"
    return UserError(f"standard output: cannot be written ({why}); send it to another file")
