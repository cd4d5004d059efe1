"""The container of an exported model: a ZIP file, every byte of which a hash covers.

The hash is at the end of the ZIP comment, which is the end of the file. Entries are stored without
compression (weights do not compress) and with a fixed time, so equal models make equal files.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from foldblend.errors import UserError, in_a_line
from foldblend.files import write_with

__all__ = [
    "DAMAGED",
    "FORMAT",
    "WITHOUT_LEVELS",
    "WITHOUT_REFITS",
    "Archive",
    "plain_json",
    "write_archive",
]

# Raise it when older versions could not read a file, or would read it wrongly.
FORMAT = 3
# Of files without refits, and of those whose images moreover have the levels of versions without
# them: older versions can read these as well.
WITHOUT_REFITS = 2
WITHOUT_LEVELS = 1
MARK = b"foldblend export, blake2b "
DIGITS = 32
SUMS = "SHA256SUMS"
CHUNK = 1 << 20
MOST_ENTRIES = 100_000
MOST_DEPTH = 50
# JSON of a model; a blend of many runs with thousands of classes has some megabytes.
MOST_JSON = 200 << 20
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*", re.ASCII)
DAMAGED = "it is damaged or was changed; export the run again"


def _entry(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    # As on Unix: a file that everybody may read.
    info.create_system = 3
    info.external_attr = 0o100644 << 16
    return info


def _digest(path: Path, size: int) -> str:
    """Return the hash of all bytes of a file but the hash itself."""
    found = hashlib.blake2b(digest_size=DIGITS // 2)
    left = size - DIGITS
    with path.open("rb") as file:
        while left > 0:
            part = file.read(min(CHUNK, left))
            if not part:
                break
            found.update(part)
            left -= len(part)
    return found.hexdigest()


def write_archive(
    path: Path, entries: Iterable[tuple[str, bytes]], *, needed: int | None = None
) -> None:
    """Write an exported file from the names and contents of its entries, atomically.

    A list of SHA-256 sums, which `sha256sum -c` reads, is added. `needed` is about the number of
    bytes, for the message of a full disk.
    """

    def write(draft: Path) -> None:
        sums = []
        with zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as archive:
            for name, content in entries:
                archive.writestr(_entry(name), content)
                sums.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
            archive.writestr(_entry(SUMS), "".join(sums))
            archive.comment = MARK + b"0" * DIGITS
        digest = _digest(draft, draft.stat().st_size)
        with draft.open("rb+") as file:
            file.seek(-DIGITS, os.SEEK_END)
            file.write(digest.encode())

    write_with(path, write, needed=needed)


def plain_json(content: bytes) -> Any:
    """Return what JSON describes; raise ValueError for JSON that is large, deep or not finite."""

    def refuse(text: str) -> float:
        raise ValueError(f"the number {text}")

    if len(content) > MOST_JSON:
        raise ValueError("JSON is too long")
    try:
        found = json.loads(content.decode(), parse_constant=refuse)
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None
    waiting = [(found, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > MOST_DEPTH:
            raise ValueError("JSON is nested too deeply")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError("a number is not finite")
        parts = value.values() if isinstance(value, dict) else value
        if isinstance(value, (dict, list)):
            waiting += [(one, depth + 1) for one in parts]
    return found


class Archive:
    """The entries of an exported file, which are read into memory when they are needed.

    Nothing is written to disk. Raises UserError for a file that `write_archive` has not made, that
    was changed since, or whose entries could leave a folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        try:
            self._stat = self._now()
            self.digest = self._verified()
            with zipfile.ZipFile(path) as archive:
                self.sizes = dict(self._checked(archive.infolist()))
        except UserError:
            raise
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); check the file") from None
        except Exception as error:  # zipfile raises many kinds of errors
            raise UserError(
                f"{path}: is no exported file ({in_a_line(error)}); {DAMAGED}"
            ) from None

    def _now(self) -> tuple[int, int, int]:
        found = self.path.stat()
        return found.st_size, found.st_mtime_ns, found.st_ino

    def _verified(self) -> str:
        size = self._stat[0]
        length = len(MARK) + DIGITS
        with self.path.open("rb") as file:
            start = file.read(2)
            file.seek(max(0, size - length))
            end = file.read()
        if not end.startswith(MARK) and start != b"PK":
            raise UserError(
                f"{self.path}: is no exported file; pass a run folder or a file of export_model.py"
            )
        digest = _digest(self.path, size)
        if not end.startswith(MARK) or end[-DIGITS:] != digest.encode():
            raise UserError(f"{self.path}: {DAMAGED}")
        return digest

    def _checked(self, entries: list[zipfile.ZipInfo]) -> Iterator[tuple[str, int]]:
        """Yield the names and sizes of entries; a file with a right hash may still be hostile."""
        seen: set[str] = set()
        total = 0
        if len(entries) > MOST_ENTRIES:
            raise UserError(f"{self.path}: has {len(entries)} entries; do not use this file")
        for one in entries:
            # zipfile ends names at a NUL byte and turns the system's separator into /.
            name = one.orig_filename
            shown = "".join(letter if letter.isprintable() else "?" for letter in name[:60])
            total += one.file_size
            if NAME.fullmatch(name) is None:
                why = "would leave its folder"
            elif name in seen:
                why = "is there twice"
            elif one.compress_type != zipfile.ZIP_STORED or one.file_size != one.compress_size:
                why = "is compressed"
            elif one.flag_bits & 1:
                why = "is encrypted"
            elif total > self._stat[0]:
                why = "is larger than the file"
            else:
                seen.add(name)
                yield name, one.file_size
                continue
            raise UserError(f"{self.path}: its entry {shown!r} {why}; do not use this file")

    def read(self, name: str) -> bytes:
        """Return the content of an entry.

        Raises UserError if the file is gone or was replaced since it was checked, and KeyError if
        it has no such entry.
        """
        if name not in self.sizes:
            raise KeyError(name)
        try:
            if self._now() != self._stat:
                raise UserError(f"{self.path}: was replaced while it was in use; start again")
            with zipfile.ZipFile(self.path) as archive:
                return archive.read(name)
        except (OSError, zipfile.BadZipFile) as error:
            raise UserError(f"{self.path}: cannot be read ({error}); check the file") from None
