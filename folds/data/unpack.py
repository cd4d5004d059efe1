"""Images inside a Parquet file, written into the cache folder as files."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path, PurePosixPath

from foldblend.drafts import held_draft, sweep_drafts
from foldblend.errors import UserError
from foldblend.failures import failed_write
from foldblend.files import cache_folder, is_file
from foldblend.progress import Task
from foldblend.reading import open_regular, read_bounded
from foldblend.runs.folder import file_hash
from foldblend.tables import TextTable
from folds.data.finder import IMAGE_SUFFIXES, Found

__all__ = ["unpack_images"]

BATCH = 256
# First bytes of image formats, for images without a name.
MAGIC = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"GIF8": ".gif", b"BM": ".bmp"}


def _suffix(name: str, data: bytes) -> str:
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return suffix
    return next((one for magic, one in MAGIC.items() if data.startswith(magic)), ".img")


def _write(file: Path, data: bytes) -> None:
    """Write a file unless it has this content; without fsync, as it is compared every time."""
    if is_file(file) and read_bounded(file, most=max(len(data), file.stat().st_size)) == data:
        return
    try:
        with held_draft(file) as draft:
            try:
                draft.write_bytes(data)
                os.replace(draft, file)
            finally:
                with contextlib.suppress(OSError):
                    draft.unlink(missing_ok=True)
    except OSError as error:
        raise failed_write(file, error, needed=len(data)) or error from None


def unpack_images(table: TextTable, column: str) -> Found:
    """Write the images of a Parquet column {bytes, path} as files and return their places.

    They are in a folder of the cache that is named by the hash of the Parquet file. The id of an
    image is its path in the column, or the number of its row. Rows without bytes are missing.

    Raises
    ------
    UserError
        For a cache folder that cannot be written.
    """
    import pyarrow.parquet

    names = table.cells[column].tolist()
    folder = cache_folder() / "unpacked" / file_hash(table.file)
    ids: list[str] = []
    paths: list[Path] = []
    missing: list[int] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep_drafts(folder)
        with (
            open_regular(table.file) as opened,
            pyarrow.parquet.ParquetFile(opened) as source,
            Task("unpack images", len(names), unit="images") as task,
        ):
            for batch in source.iter_batches(batch_size=BATCH, columns=[f"{column}.bytes"]):
                for cell in batch.column(0).to_pylist():
                    row = len(ids)
                    data = (cell or {}).get("bytes") or b""
                    if not data:
                        missing.append(row)
                    ids.append(names[row] or f"{table.file.stem}-{row:06d}")
                    file = folder / f"{row:06d}{_suffix(names[row], data)}"
                    if data:
                        _write(file, data)
                    paths.append(file)
                task.add(batch.num_rows)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror}); set FOLDBLEND_CACHE to another folder"
        ) from None
    return Found(ids=ids, paths=paths, missing=missing, notes=[])
