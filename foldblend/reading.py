"""Reading of files that anyone may have written: regular files only, of bounded size and depth."""

from __future__ import annotations

import io
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

import yaml

from foldblend.errors import UserError, in_a_line, shown

__all__ = [
    "MOST_JSON",
    "MOST_TEXT",
    "MOST_YAML",
    "is_deeper",
    "open_regular",
    "parse_json",
    "parse_yaml",
    "read_bounded",
    "read_json_file",
    "read_yaml_file",
]

# Most bytes of files that are read as a whole. Ten million rows of a table fit into MOST_TEXT.
MOST_YAML = 2**24
MOST_JSON = 2**28
MOST_TEXT = 2**32
# Deeper nesting is not written by any program that makes such files.
MOST_DEPTH = 100
# Values of a YAML file, each alias counted with all that it stands for.
MOST_VALUES = 1_000_000


def open_regular(path: str | Path, *, cure: str = "check the path") -> BinaryIO:
    """Open a regular file for reading, without a buffer; links are followed.

    Reading a pipe would wait for ever, and a device may have no end.

    Raises
    ------
    UserError
        If it is absent, cannot be read, or is a folder, pipe or device.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:  # a name with a NUL byte is a ValueError
        why = error.strerror if isinstance(error, OSError) else "no file has such a name"
        raise UserError(f"{path}: {why}; {cure}") from None
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe or device"
        raise UserError(f"{path}: is {what}, not a file; {cure}")
    return cast("BinaryIO", io.FileIO(handle))


def read_bounded(path: str | Path, *, most: int, cure: str = "check the path") -> bytes:
    """Return the content of a regular file of at most `most` bytes.

    Raises UserError if it is larger or cannot be read (see `open_regular`).
    """
    with open_regular(path, cure=cure) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise UserError(
                f"{path}: has {size:,} bytes, and at most {most:,} are read of such a file; {cure}"
            )
        try:
            # A file that grows while it is read stays within the bound.
            data = b"".join(_chunks(file, most, size + 1))
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); {cure}") from None
    return data


def _chunks(file: BinaryIO, most: int, step: int) -> Iterator[bytes]:
    # Memory for a whole step is asked for before it is read.
    while most > 0 and (data := file.read(min(most, step))):
        most -= len(data)
        yield data


def read_json_file(path: str | Path, *, cure: str, absent: str | None = None) -> Any:
    """Return the content of a JSON file.

    Parameters
    ----------
    path
        The file.
    cure
        What to do if the content is not valid JSON.
    absent
        What to do if the file cannot be read (default: `cure`).

    Raises
    ------
    UserError
        If it cannot be read, is too large or nested too deeply, or is not valid JSON. NaN and
        infinity are not valid.
    """
    data = read_bounded(path, most=MOST_JSON, cure=absent or cure)
    return parse_json(data, path, cure=cure)


def parse_json(data: bytes | str, name: str | Path, *, cure: str) -> Any:
    """Return the value of a JSON text; `name` starts the messages (see `read_json_file`)."""
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise UserError(f"{name}: not valid JSON ({shown(why)}); {cure}") from None
    if is_deeper(value, MOST_DEPTH):
        raise UserError(f"{name}: not valid JSON (nested too deeply); {cure}")
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")


def is_deeper(value: Any, most: int) -> bool:
    """Return whether lists and objects of JSON are nested deeper than `most`.

    >>> is_deeper([[1]], 2), is_deeper([[1]], 1)
    (False, True)
    """
    level = [value]
    for _ in range(most):
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def read_yaml_file(path: str | Path, *, cure: str, absent: str | None = None) -> Any:
    """Return the content of a YAML file; parameters and errors are those of `read_json_file`.

    Aliases are allowed, but not so many that the content explodes. A key that is written twice is
    an error: the first of its values would be lost without a word.
    """
    data = read_bounded(path, most=MOST_YAML, cure=absent or cure)
    return parse_yaml(data, path, cure=cure)


def parse_yaml(data: bytes | str, name: str | Path, *, cure: str) -> Any:
    """Return the value of a YAML text; `name` starts the messages (see `read_yaml_file`)."""
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            if _num_values(node) > MOST_VALUES:
                raise ValueError(f"over {MOST_VALUES:,} values")
            _check_keys(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except UnicodeDecodeError:
        raise UserError(f"{name}: not a text file; {cure}") from None
    except RecursionError:
        raise UserError(f"{name}: not valid YAML (nested too deeply); {cure}") from None
    # Its constructors raise any of these for odd dates, keys and numbers.
    except (yaml.YAMLError, ValueError, TypeError, LookupError, OverflowError) as error:
        why = in_a_line(error) if not isinstance(error, yaml.YAMLError) else _where(error)
        raise UserError(f"{name}: not valid YAML ({shown(why, most=200)}); {cure}") from None


def _where(error: yaml.YAMLError) -> str:
    """Return what is wrong and in which line."""
    problem = getattr(error, "problem", None) or str(error)
    mark = getattr(error, "problem_mark", None)
    return problem if mark is None else f"{problem}, line {mark.line + 1}"


def _num_values(node: yaml.Node, depth: int = 0, known: dict[int, int] | None = None) -> int:
    """Return the number of values of a node, each alias counted with all that it stands for.

    Raises RecursionError for nesting deeper than MOST_DEPTH, or a node that holds itself.
    """
    known = {} if known is None else known
    if depth > MOST_DEPTH:
        raise RecursionError
    if id(node) not in known:
        inner: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            inner = list(node.value)
        elif isinstance(node, yaml.MappingNode):
            inner = [one for pair in node.value for one in pair]
        known[id(node)] = 1 + sum(_num_values(one, depth + 1, known) for one in inner)
    return known[id(node)]


def _check_keys(node: yaml.Node) -> None:
    """Raise ValueError if a mapping within a node has a key twice."""
    left = [node]
    known: set[int] = set()
    while left:
        one = left.pop()
        if id(one) in known or not isinstance(one, yaml.CollectionNode):
            continue
        known.add(id(one))
        if not isinstance(one, yaml.MappingNode):
            left.extend(one.value)
            continue
        keys: set[str] = set()
        for key, value in one.value:
            left.append(value)
            if isinstance(key, yaml.ScalarNode):
                if key.value in keys:
                    line = key.start_mark.line + 1
                    raise ValueError(f"{key.value} is written twice, again in line {line}")
                keys.add(key.value)
