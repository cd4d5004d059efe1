"""Where a run's images come from: decoded anew each time, or once into a cache on disk, in RAM or
on the device.
"""

from __future__ import annotations

import os
import shutil
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from foldblend.cli import Say
from foldblend.errors import UserError, counted
from foldblend.images import boxes_of, picture_key
from pipeline.data.cache import Records, Store, cache_root, first_places, in_threads, write_records
from pipeline.data.preprocess import Preprocess
from pipeline.device import num_cores

__all__ = ["PictureSource", "Pictures", "Room", "choose_cache", "open_pictures", "pictures_folder"]

GB = 10**9
DEVICE_SHARE = 0.4  # of the free memory: the rest is the model's
DISK_SPARE = GB
HAS_MEMFD = hasattr(os, "memfd_create")
PICTURES_VERSION = 1  # to be raised when decoding or resizing changes


class Pictures(Protocol):
    """Images by row of a table: height x width x 3 uint8 at the stored size."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> np.ndarray: ...


class Files:
    """Images decoded and resized each time they are asked for."""

    def __init__(
        self, table: pd.DataFrame, preprocess: Preprocess, *, verify: bool = False
    ) -> None:
        """With `verify`, a file must still be the one that was hashed: what is kept is kept under
        that hash.
        """
        self.paths = table["path"].tolist()
        self.contents = table["content"].tolist() if verify else [None] * len(table)
        self.boxes = boxes_of(table)
        self.preprocess = preprocess

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.preprocess.load(self.paths[index], self.boxes[index], self.contents[index])


@dataclass(frozen=True)
class PictureSource:
    """All images of a run; `of` gives those of one of its tables."""

    preprocess: Preprocess
    mode: str
    """disk, ram, device or off."""
    records: Records | None = None
    row_of: dict[bytes, int] | None = None
    """Key of an image -> its place in `records`."""

    def rows(self, table: pd.DataFrame) -> np.ndarray:
        """Return where in `records` the table's images lie."""
        assert self.row_of is not None
        return np.array([self.row_of[key] for key in _keys(table)], dtype=np.int64)

    def of(self, table: pd.DataFrame) -> Pictures:
        """Return the images of a table, in its order."""
        if self.records is None:
            return Files(table, self.preprocess)
        records = self.records
        return Records(records.path, records.shape, records.dtype, records.slot_N[self.rows(table)])


@dataclass(frozen=True)
class Room:
    """Free bytes where a cache could lie; `device` is None without a GPU, or where the workers
    augment.
    """

    disk: int
    ram: int
    device: int | None


def _disk_fits(missing: int, room: Room) -> bool:
    return not missing or missing + DISK_SPARE <= room.disk


def choose_cache(
    wanted: str, *, size: int, missing: int, passes: int, room: Room
) -> tuple[str, str]:
    """Return the kind of cache and why, of bytes in all, bytes not cached yet, and passes over the
    images.

    Raises UserError where what was asked for does not fit.
    """
    fits = {
        "device": room.device is None or size <= room.device * DEVICE_SHARE,
        "disk": _disk_fits(missing, room),
        "ram": HAS_MEMFD and 2 * size <= room.ram,
        "off": True,
    }
    if wanted == "ram" and not HAS_MEMFD:
        raise UserError("--cache ram: needs Linux; pass --cache disk")
    if wanted != "auto":
        if not fits[wanted]:
            free = {"device": room.device or 0, "disk": room.disk, "ram": room.ram}[wanted]
            raise UserError(
                f"--cache {wanted}: {_gb(missing if wanted == 'disk' else size)} do not fit into"
                f" the {_gb(free)} that are free; pass --cache auto"
            )
        return wanted, "as asked"
    if missing and passes <= 1:
        return "off", "each image is read once"
    if room.device is not None and fits["device"] and (fits["disk"] or fits["ram"]):
        return (
            "device",
            f"they fit into {DEVICE_SHARE:.0%} of the {_gb(room.device)} free on the GPU",
        )
    why = (
        "nothing of it is needed on a GPU"
        if room.device is None
        else f"too large for the GPU, which has {_gb(room.device)} free"
    )
    if fits["disk"]:
        return "disk", why
    if fits["ram"]:
        return "ram", f"{why}, and the disk has only {_gb(room.disk)} free"
    return (
        "off",
        f"{why}, and neither disk ({_gb(room.disk)} free) nor RAM ({_gb(room.ram)} free) has room",
    )


def _gb(size: int) -> str:
    return f"{size / GB:.2f} GB" if size < 10 * GB else f"{size / GB:,.0f} GB"


def _free_ram() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(
            int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")
        )
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _free_disk(folder: Path) -> int:
    """Return the free bytes where a folder lies or would be made; none where it may not be
    written.
    """
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(there).free if os.access(there, os.W_OK) else 0


def pictures_folder(cache_dir: str | None) -> Path:
    """Return the folder of decoded images."""
    return cache_root(cache_dir) / "pictures"


def _keys(table: pd.DataFrame) -> list[bytes]:
    return [picture_key(*source) for source in zip(table["content"], boxes_of(table), strict=True)]


def open_pictures(
    tables: Iterable[pd.DataFrame | None],
    preprocess: Preprocess,
    *,
    cache: str,
    cache_dir: str | None,
    passes: int,
    device_room: int | None,
    say: Say,
) -> PictureSource:
    """Decode what is not cached yet, with its size and the free room told first, and return the
    run's images.

    `tables` are those of a manifest, with the column `content` (see folds.data.load); `passes` is
    how often each image will be read, `device_room` the free bytes of the GPU. Raises UserError.
    """
    every = pd.concat([table for table in tables if table is not None], ignore_index=True)
    keys = _keys(every)
    first = first_places(keys)
    unique = [*first]
    width, height = preprocess.stored_size
    policy = {"pictures": PICTURES_VERSION, "decode": preprocess.decode, "opencv": cv2.__version__}
    store = Store.at(pictures_folder(cache_dir), (height, width, 3), "uint8", policy)
    num_missing = 0 if cache == "off" else len(store.missing(unique))
    room = Room(_free_disk(store.folder), _free_ram(), device_room)
    size = len(unique) * store.size
    mode, why = choose_cache(
        cache, size=size, missing=num_missing * store.size, passes=passes, room=room
    )
    say(
        f"cache: {mode} ({why}); {counted(len(unique), 'image')} at {width}x{height} are"
        f" {_gb(size)}"
        + (
            f", {_gb(room.disk)} are free in {store.folder.parent}"
            if mode in ("disk", "device")
            else ""
        )
        + (f", {_gb(room.ram)} of RAM are free" if mode == "ram" else "")
    )
    if mode == "off":
        return PictureSource(preprocess, mode)
    files = Files(every.iloc[[*first.values()]], preprocess, verify=True)
    to_disk = mode == "disk" or (
        mode == "device" and (_disk_fits(num_missing * store.size, room) or not HAS_MEMFD)
    )
    records = _on_disk(store, unique, files, say) if to_disk else _in_ram(store, files)
    return PictureSource(preprocess, mode, records, {key: row for row, key in enumerate(unique)})


def _on_disk(store: Store, keys: Sequence[bytes], files: Files, say: Say) -> Records:
    with tqdm(total=len(keys), desc="decode once", unit="image", disable=None, leave=False) as bar:
        store.fill(
            keys,
            lambda todo: in_threads(files.__getitem__, todo, workers=num_cores()),
            progress=bar.update,
            wait=lambda: say(f"cache: another process is filling {store.folder}; waiting for it"),
        )
    return store.records(keys)


def _in_ram(store: Store, files: Files) -> Records:
    """Hold the images in anonymous memory that other processes can map while this one lives."""
    file = os.memfd_create("pictures")
    pictures = in_threads(files.__getitem__, range(len(files)), workers=num_cores())
    try:
        with tqdm(
            total=len(files), desc="decode once", unit="image", disable=None, leave=False
        ) as bar:
            write_records(file, 0, pictures, size=store.size, progress=bar.update)
    except BaseException:
        os.close(file)
        raise
    records = Records(
        Path(f"/proc/{os.getpid()}/fd/{file}"), store.shape, store.dtype, np.arange(len(files))
    )
    weakref.finalize(records, os.close, file)
    return records
