"""Command lines: flags from dataclasses, and one-line errors with exit code 2."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from foldblend.drafts import LONGEST_NAME
from foldblend.errors import UserError, did_you_mean, printable, require, shown
from foldblend.failures import CLOSE, device_failure, memory_failure, os_failure
from foldblend.flags import aliases_of, flag_name, flags_of
from foldblend.help import HELP_FLAGS, About, help_text
from foldblend.runs.unchecked import take_note
from foldblend.streams import (
    escape_unprintable,
    flush_output,
    open_standard_streams,
    print_aside,
    print_line,
)

__all__ = [
    "Say",
    "check_name",
    "cli_flags",
    "early_value",
    "parse_flags",
    "program",
    "quiet",
    "run_command",
    "typed_settings",
    "with_flag",
]

Parsed = TypeVar("Parsed")
Say = Callable[[str], None]
"""A function that shows one line to the user, such as `print`."""


def quiet(line: str) -> None:
    """Take a line and show nothing: a `Say` for work whose lines nobody needs."""


def cli_flags(config_class: Any) -> dict[str, str]:
    """Return the setting of each flag of a dataclass, including aliases and nested groups."""
    found = {flag_name(name): name for name in flags_of(config_class)}
    return found | aliases_of(config_class)


def typed_settings(config_class: Any, argv: Sequence[str]) -> frozenset[str]:
    """Return the names of the settings that a command line sets."""
    known = cli_flags(config_class)
    found = (
        known.get(_plain(word), known.get(_attached(word, known)))
        for word in argv
        if word.startswith("-")
    )
    return frozenset(name for name in found if name is not None)


def _plain(word: str) -> str:
    """Return the canonical flag: --img-size of --img_size=224, --amp of --no-amp."""
    flag = word.partition("=")[0]
    return flag.replace("_", "-").replace("--no-", "--", 1) if flag.startswith("--") else flag


def _attached(word: str, known: Iterable[str]) -> str:
    """Return the short flag of a word with an attached value, -b of -b8, or "" if none."""
    short = [flag for flag in known if not flag.startswith("--") and word.startswith(flag)]
    return max(short, key=len, default="")


def early_value(argv: Sequence[str], flags: Sequence[str]) -> str | None:
    """Return the last value of one of these flags, read before the command line is parsed.

    Returns None where none of them is used. Raises UserError for an empty value.
    """
    value = None
    for index, word in enumerate(argv):
        flag, equals, rest = word.partition("=")
        following = argv[index + 1] if index + 1 < len(argv) else "-"
        if flag in flags and (equals or not following.startswith("-")):
            value = rest if equals else following
        elif not word.startswith("--") and _attached(word, flags) and word not in flags:
            value = word.removeprefix(_attached(word, flags))
    if value == "":
        raise UserError(f"{flags[0]}: names no file; write its path after it")
    return value


def with_flag(argv: Sequence[str], flag: str) -> list[str]:
    """Return a command line whose first word, unless it is a flag, is the value of `flag`.

    Examples
    --------
    >>> with_flag(["photos", "--folds", "3"], "--data")
    ['--data', 'photos', '--folds', '3']
    """
    return [flag, *argv] if argv and not argv[0].startswith("-") else list(argv)


def program(script: str) -> str:
    """Return the command name for help texts: the console script in use, or "python SCRIPT"."""
    typed = Path(sys.argv[0]).name if sys.argv and sys.argv[0] else ""
    return typed if typed.startswith("foldblend-") else f"python {script}"


def _one_line(box: str) -> str:
    """Return the message of tyro's error box on one line, without its help text.

    The box has a title, a message and help, separated by lines of ─ (or of - on an ASCII
    terminal).
    """
    lines = [line.strip("│╭╮╰╯─|+ ") for line in box.splitlines()]
    body: list[str] = []
    for line in lines[1:]:
        is_rule = not line.strip("-")
        if (is_rule and body) or line.startswith(
            ("Argument helptext", "Perhaps you meant", "For full helptext")
        ):
            break
        if not is_rule:
            body.append(line)
    said = " ".join(body).rstrip(".")
    # A check of ours, wrapped by tyro: it names its own flag or path.
    if said.startswith("Error parsing") and ": --" in said:
        return said[said.index(": --") + 2 :]
    return re.sub(r"^Error parsing [A-Za-z]\w*: ", "", said)


def parse_flags(
    config_class: type[Parsed],
    argv: Sequence[str],
    about: About,
    *,
    default: Parsed | None = None,
) -> Parsed:
    """Parse flags into a dataclass with tyro. Raises a one-line UserError for wrong flags.

    With --help or --help-all it prints the help and exits.
    """
    prog = program(about.script)
    if asked := [word for word in argv if word in HELP_FLAGS]:
        print_line(help_text(config_class, about, prog=prog, everything="--help-all" in asked))
        raise SystemExit(0)
    known = [*cli_flags(config_class)]
    for word in argv:
        flag = word.partition("=")[0].replace("_", "-")
        if (
            flag.startswith("--")
            and len(flag) > 2
            and flag not in known
            and _plain(word) not in known
        ):
            near = did_you_mean(flag, known)
            raise UserError(
                f"{word.partition('=')[0]}: no such flag{near}; {prog} --help-all lists all"
            )
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                config_class,
                args=list(argv),
                prog=prog,
                default=tyro.MISSING_NONPROP if default is None else default,
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UserError(
            f"{_one_line(said.getvalue())}; {prog} --help-all lists all flags"
        ) from None


def run_command(
    command: Callable[[], object],
    *,
    place: str = "--output",
    resumes: bool = True,
    spare: str = CLOSE,
) -> int:
    """Run a command and return its exit code; print errors that a user can fix on one line.

    Parameters
    ----------
    command
        The function to call.
    place
        The flag that sets the output folder, for the message of a full disk.
    resumes
        Whether the same command continues an interrupted run.
    spare
        What to do where memory runs out.

    Returns
    -------
    int
        0 on success, 1 for a closed pipe, 2 for an error that the user can fix, 130 for Ctrl-C.
    """
    open_standard_streams()
    escape_unprintable()
    try:
        command()
        note = take_note()
        if note is not None:
            print_aside(printable(note))
        flush_output()
    except UserError as error:
        return _failed(str(error))
    except BrokenPipeError:  # the reader of a pipe, such as head, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except (OSError, MemoryError, RuntimeError) as error:
        failure = device_failure(error) or memory_failure(error, cure=spare)
        if failure is None and isinstance(error, OSError):
            failure = os_failure(error, place=place)
        if failure is None:
            raise
        return _failed(str(failure))
    except KeyboardInterrupt:
        what_next = "continues where it stopped" if resumes else "starts again"
        print_aside(f"stopped; the same command {what_next}")
        return 130
    return 0


def _failed(message: str) -> int:
    """Print the message of an error to standard error and return the exit code 2."""
    print_aside(f"error: {' '.join(message.split())}")
    return 2


def check_name(name: str | None) -> None:
    """Raise UserError for a --name that is not a valid folder name."""
    good = name is None or re.fullmatch(r"\w[\w.+-]*", name) is not None
    require(good, f"--name {name}: use letters, digits and . _ + - only")
    require(
        name is None or len(os.fsencode(name)) <= LONGEST_NAME,
        f"--name {shown(name, most=40)}: is too long; pass one of at most {LONGEST_NAME} bytes",
    )
