"""The text of --help: examples first, then flags in groups, made from the settings' fields."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import shutil
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from foldblend.flags import Flag, aliases_of, flag_name, flags_of

__all__ = ["HELP_FLAGS", "About", "help_text", "texts_of"]

HELP_FLAGS = ("-h", "--help", "--help-all")
INDENT = 24  # columns before a flag's text
WIDEST = 100
NAMES = {str: "TEXT", int: "INT", float: "NUMBER"}


@dataclass(frozen=True, slots=True)
class About:
    """The text of a command's help, apart from its flags."""

    script: str
    """File name of the command, such as "run_cv.py"."""
    text: str = ""
    """One or two sentences on what it does."""
    examples: tuple[str, ...] = ()
    """Words after the command, one text per example."""
    more: tuple[str, ...] = ()
    """Lines after the flags."""
    first: str = ""
    """An optional first word, such as "[DATA]", that the command itself turns into a flag."""


def texts_of(config_class: Any) -> dict[str, str]:
    """Return the text under each field of a dataclass or typed dictionary, by field name."""
    # A typed dictionary has no base class with fields.
    bases = [one for one in config_class.__mro__[::-1] if dataclasses.is_dataclass(one)]
    return {name: text for one in bases or [config_class] for name, text in _own_texts(one).items()}


def _own_texts(config_class: Any) -> dict[str, str]:
    """Return the texts of the fields that a class itself declares."""
    [node] = ast.parse(textwrap.dedent(inspect.getsource(config_class))).body
    assert isinstance(node, ast.ClassDef)
    found = {}
    for field, text in zip(node.body, node.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            assert isinstance(field.target, ast.Name)
            found[field.target.id] = " ".join(str(text.value.value).split())
    return found


def _groups(config_class: Any) -> list[tuple[str, Any]]:
    """Return a title and a dataclass for each group of flags."""
    texts = texts_of(config_class)
    groups: list[tuple[str, Any]] = []
    for field in dataclasses.fields(config_class):
        if dataclasses.is_dataclass(field.default_factory):
            title = texts.get(field.name, field.name).rstrip(".")
            groups.append((title, field.default_factory))
    return groups or [("Flags", config_class)]


def _spellings(field: dataclasses.Field[Any], hint: Any, aliases: Mapping[str, str]) -> str:
    own = [alias for alias, name in aliases.items() if name == field.name]
    flag = flag_name(field.name)
    plain = typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
    if plain is bool and field.default is True:
        flag += f", {flag_name(f'no-{field.name}')}"
    value = _value_name(plain)
    short = [alias for alias in own if not alias.startswith("--")]
    long = [alias for alias in own if alias.startswith("--")]
    return ", ".join([*short, flag, *long]) + (f" {value}" if value else "")


def _value_name(hint: Any) -> str:
    """Return what stands after a flag, such as INT or {auto,none}; "" for a switch."""
    if isinstance(hint, types.UnionType):
        hint = next(one for one in typing.get_args(hint) if one is not type(None))
    if typing.get_origin(hint) is Literal:
        return "{" + ",".join(map(str, typing.get_args(hint))) + "}"
    if typing.get_origin(hint) is tuple:
        return f"{NAMES[typing.get_args(hint)[0]]} ..."
    return NAMES.get(hint, "")


def _text(field: dataclasses.Field[Any], text: str) -> str:
    """Return the text of a flag, with the default where it has one that the text does not give."""
    default = field.default
    if default is True:
        return f"{text} (default: on)"
    if default is False or default in (None, (), "") or re.search(r"\b[Dd]efault:", text):
        return text
    return f"{text} (default: {default})"


def _lines(flag: str, text: str, width: int) -> list[str]:
    body = textwrap.wrap(text, width - INDENT, break_long_words=False, break_on_hyphens=False)
    head = f"  {flag}"
    if len(head) + 2 > INDENT:
        return [head, *(" " * INDENT + line for line in body)]
    first, *rest = body or [""]
    return [head.ljust(INDENT) + first, *(" " * INDENT + line for line in rest)]


def _hanging(line: str, width: int) -> list[str]:
    """Return a line wrapped under its second column, which begins after two or more spaces."""
    first = re.match(r" *\S+ {2,}", line)
    return textwrap.wrap(
        line,
        width,
        subsequent_indent=" " * (first.end() if first else 0),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _is_positional(hint: Any) -> bool:
    marks = typing.get_args(hint)[1:] if typing.get_origin(hint) is Annotated else ()
    return any("Positional" in repr(mark) for mark in marks)


def _positionals(config_class: Any) -> list[str]:
    """Return the words that come before the flags, such as RUN, or "RUNS ..." for several."""
    hints = typing.get_type_hints(config_class, include_extras=True)
    return [
        name.upper() + (" ..." if typing.get_origin(typing.get_args(hint)[0]) is tuple else "")
        for name, hint in hints.items()
        if _is_positional(hint)
    ]


def _group_lines(
    title: str, group: Any, shown: Mapping[str, Flag], aliases: Mapping[str, str], width: int
) -> Iterator[str]:
    texts = texts_of(group)
    hints = typing.get_type_hints(group, include_extras=True)
    fields = [field for field in dataclasses.fields(group) if field.name in shown]
    if not fields:
        return
    yield ""
    yield f"{title}:"
    for field in fields:
        hint = hints[field.name]
        spelling = field.name.upper() if _is_positional(hint) else ""
        spelling = spelling or _spellings(field, hint, aliases)
        yield from _lines(spelling, _text(field, texts[field.name]), width)


def help_text(config_class: Any, about: About, *, prog: str, everything: bool) -> str:
    """Return the help of a command.

    Parameters
    ----------
    config_class
        Dataclass of its settings, in groups or flat.
    about
        What it does, and examples.
    prog
        The command as it was typed, such as "python run_cv.py".
    everything
        Show all flags; otherwise only those marked as common, or all if none is marked.
    """
    width = min(shutil.get_terminal_size((80, 24)).columns, WIDEST)
    known = flags_of(config_class)
    common = {name: flag for name, flag in known.items() if flag.common}
    shown = known if everything or not common else common
    first = "".join(f"{word} " for word in [*_positionals(config_class), about.first] if word)
    lines = [
        f"usage: {prog} {first}[flags]",
        "",
        *textwrap.wrap(about.text, width),
        "",
        "Examples:",
    ]
    lines += [f"  {prog} {example}".rstrip() for example in about.examples]
    aliases = aliases_of(config_class)
    for title, group in _groups(config_class):
        lines += _group_lines(title, group, shown, aliases, width)
    if about.more:
        lines += ["", *(part for line in about.more for part in _hanging(line, width))]
    if len(shown) < len(known):
        more = f"These are the common flags. {prog} --help-all lists all {len(known)}."
        lines += ["", *textwrap.wrap(more, width)]
    return "\n".join(lines)
