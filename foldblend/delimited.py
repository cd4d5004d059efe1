"""Text files of separated values (CSV, TSV), parsed with the file's own line numbers."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from foldblend.errors import UserError, shown
from foldblend.limits import MAX_ROWS
from foldblend.reading import MOST_TEXT, open_regular, read_bounded
from foldblend.words import tidy

__all__ = ["Records", "check_size", "parse_delimited", "read_text"]

SEPARATORS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a vertical bar"}
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
GZIP = b"\x1f\x8b"
OTHER_FORMATS = {
    b"PK\x03\x04": "an Excel workbook or a zip archive",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    GZIP: "a gzip archive",
    b"PAR1": "a Parquet file",
}
# Spreadsheets write a first line such as "sep=;".
SEP_LINE = re.compile(r"sep=(.)\r?\n")
# Columns of a table: nobody labels images with more, and memory is rows times columns.
MOST_COLUMNS = 10_000
# Records by which a separator is recognised.
MOST_TRIED = 50
# Bytes in which NULs are looked for before the whole file is read.
HEAD = 2**16
# The default, 131,072 characters, is too few for some notes.
csv.field_size_limit(2**31 - 1)


@dataclass(frozen=True, kw_only=True)
class Records:
    """Rows of a text table, each as long as the header."""

    header: list[str]
    rows: list[list[str]]
    lines: list[int]
    """Line of the file in which each row starts, from 1."""


def check_size(file: Path, *, rows: int, columns: int, max_rows: int | None) -> None:
    """Raise UserError for a table that is too large to be read.

    Parameters
    ----------
    file
        The table, for messages.
    rows, columns
        Its size, as far as it is known.
    max_rows
        Most rows (--max-rows); None: MAX_ROWS, where the user has no such flag.
    """
    if rows > (max_rows or MAX_ROWS):
        cure = (
            "leave out rows" if max_rows is None else "if that is right, pass a larger --max-rows"
        )
        raise UserError(f"{file}: has over {max_rows or MAX_ROWS:,} rows; {cure}")
    if columns > MOST_COLUMNS:
        raise UserError(
            f"{file}: has {columns:,} columns, and at most {MOST_COLUMNS:,} are read; leave out"
            " columns"
        )


def read_text(file: Path, encoding: str | None = None, *, cure: str = "save it as UTF-8") -> str:
    """Return the text of a file: by `encoding`, else by its byte-order mark, else as UTF-8.

    Raises UserError, with `cure`, if the file cannot be read or is not text.
    """
    with open_regular(file) as opened:
        head = opened.read(HEAD)
    has_mark = any(head.startswith(mark) for mark in MARKS)
    # Before gigabytes are read. Which other format it is, the table of formats may tell.
    is_other = any(head.startswith(magic) for magic in OTHER_FORMATS)
    if b"\0" in head and not (encoding or has_mark or is_other):
        raise UserError(f"{file}: contains NUL bytes, so it is not plain text; {cure}")
    data = read_bounded(file, most=MOST_TEXT)
    for magic, what in OTHER_FORMATS.items():
        if data.startswith(magic):
            cure = "unpack it" if magic == GZIP else "save it as UTF-8 CSV"
            raise UserError(f"{file}: is {what}, not text; {cure}")
    # The mark of UTF-32 starts with that of UTF-16, so it stands first in the table.
    known = encoding or next((name for mark, name in MARKS.items() if data.startswith(mark)), None)
    try:
        text = data.decode(known or "utf-8")
    except LookupError:
        raise UserError(
            f"--encoding {shown(encoding)}: no such encoding; pass one such as utf-8, cp949 or"
            " cp1252"
        ) from None
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(
            f"{file}: line {line} is not {(known or 'UTF-8').upper()} text; {cure}"
        ) from None
    text = text.removeprefix("\ufeff")
    if "\0" in text:
        raise UserError(f"{file}: contains NUL bytes, so it is not plain text; {cure}")
    return text


class _LostQuoteError(Exception):
    """A double quote that is not closed; the argument is the line in which the record starts."""


def _records(text: str, sep: str, *, blanks: bool) -> Iterator[tuple[int, list[str]]]:
    """Yield the first line and the cells of each record, without blank lines."""
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=sep, strict=True, skipinitialspace=blanks
    )
    line = 1
    try:
        for cells in reader:
            # A line of blanks only is as empty as a blank line.
            if cells and not (len(cells) == 1 and not cells[0].strip()):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error:
        raise _LostQuoteError(line) from None


def _fits(text: str, sep: str) -> int:
    """Return the number of header fields if the first rows have as many, else 0."""
    sizes = []
    try:
        for _, cells in _records(text, sep, blanks=False):
            sizes.append(len(cells))
            if len(sizes) == MOST_TRIED:
                break
    except _LostQuoteError:
        return 0
    return sizes[0] if len(set(sizes)) == 1 else 0


def _separator(text: str, file: Path) -> str:
    """Return the separator of a table, by its header and, if that is not enough, by its rows."""
    header = next((line for line in text.splitlines() if line.strip()), "")
    found = [sep for sep in SEPARATORS if sep in header]
    if file.suffix.lower() == ".tsv" and "\t" in found:
        return "\t"
    if len(found) < 2:
        return found[0] if found else ","
    sizes = {sep: _fits(text, sep) for sep in found}
    fit = [sep for sep in found if sizes[sep] > 1]
    if len(fit) == 1:
        return fit[0]
    names = " and ".join(SEPARATORS[sep] for sep in found)
    raise UserError(f"{file}: {names} could both be the separator; pass --sep ',' for example")


def _given_separator(sep: str | None) -> str | None:
    """Return the separator that a user typed; \\t and tab mean a tab.

    Raises UserError unless it is one character.
    """
    one = "\t" if sep in ("\\t", "tab") else sep
    if one is not None and (len(one) != 1 or one in '"\r\n'):
        raise UserError(f"--sep {sep!r}: pass one character such as ';', or tab")
    return one


def parse_delimited(
    text: str, file: Path, *, sep: str | None = None, max_rows: int | None = None
) -> Records:
    """Parse a text of separated values whose first row is the header.

    Parameters
    ----------
    text
        Content of the file.
    file
        The file, for error messages and for its suffix.
    sep
        The separator; default: a comma, semicolon, tab or vertical bar, as the header shows.
    max_rows
        Most rows (see `check_size`).

    Raises
    ------
    UserError
        With file and line, if a row does not have as many fields as the header, a quote is not
        closed, or the header is repeated; if the table is too large.

    Examples
    --------
    >>> parse_delimited("image;label\\n\\na.jpg;cat", Path("t.csv")).lines
    [3]
    """
    sep = _given_separator(sep)
    told = SEP_LINE.match(text)
    if told:
        # The line stays as a blank one, so that line numbers are the file's.
        text = text[told.end() - 1 :]
        sep = sep or told[1]
    sep = _separator(text, file) if sep is None else sep
    header: list[str] = []
    rows = []
    lines = []
    most = max_rows or MAX_ROWS
    try:
        # A blank after each separator of the header is a style of the file, not part of a cell.
        first = next((cells for _, cells in _records(text, sep, blanks=False)), [])
        blanks = len(first) > 1 and all(name.startswith(" ") for name in first[1:])
        for line, cells in _records(text, sep, blanks=blanks):
            if not header:
                check_size(file, rows=0, columns=len(cells), max_rows=max_rows)
                header = [tidy(cell) for cell in cells]
                continue
            if len(cells) != len(header):
                raise UserError(
                    f"{file}: line {line} has {len(cells)} fields, the header {len(header)};"
                    f" {_cure(cells, header, sep)}"
                )
            if [tidy(cell) for cell in cells] == header and len(header) > 1:
                raise UserError(f"{file}: line {line} repeats the header; remove the line")
            rows.append(cells)
            lines.append(line)
            if len(lines) > most:
                check_size(file, rows=len(lines), columns=len(header), max_rows=max_rows)
    except _LostQuoteError as error:
        raise UserError(
            f"{file}: line {error} opens a double quote that is not closed or has text behind it;"
            ' write "..." around the cell and "" for a quote inside'
        ) from None
    if not header:
        raise UserError(f"{file}: the file is empty; write a header line and rows")
    return Records(header=header, rows=rows, lines=lines)


def _cure(cells: list[str], header: list[str], sep: str) -> str:
    what = SEPARATORS.get(sep, repr(sep))
    if len(cells) < len(header):
        return "add the missing cells"
    if not any(cells[len(header) :]):
        return f"remove {what.replace('a ', 'the ', 1)} at the end of the lines"
    return f"put cells that contain {what} in double quotes"
