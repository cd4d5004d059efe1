"""Sources of a run's images: files decoded each time, or a cache on disk, in RAM or on the GPU."""

from __future__ import annotations

import dataclasses
import math
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

from foldblend.cli import Say
from foldblend.errors import UserError, counted
from foldblend.files import exists
from foldblend.images import boxes_of, image_key
from foldblend.progress import Task
from pipeline.data.cache import CacheFailed, Store, cache_root, first_places, write_records
from pipeline.data.preprocess import Preprocess
from pipeline.data.records import Records
from pipeline.data.threads import in_threads
from pipeline.device import num_cores

__all__ = [
    "DEVICE_SHARE",
    "ImageSource",
    "ImageStore",
    "Room",
    "bytes_of",
    "choose_cache",
    "images_folder",
    "open_images",
]

GB = 10**9
# Share of the GPU's free memory that images may take where that of the model is not known.
DEVICE_SHARE = 0.4
# Bytes that stay free on the disk.
DISK_SPARE = GB
HAS_MEMFD = hasattr(os, "memfd_create")
# Raise this when decoding or resizing changes, so that old caches are not used.
IMAGES_VERSION = 1


class ImageStore(Protocol):
    """Protocol of a sequence of images: height x width x 3 uint8 at the stored size, by row."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> np.ndarray: ...


class Files:
    """Images that are decoded and resized at each access."""

    def __init__(
        self, table: pd.DataFrame, preprocess: Preprocess, *, verify: bool = False
    ) -> None:
        """Take the images of a table; with `verify`, check each file against its hash.

        The check is for caching, as the cache finds an image by the hash of its file.
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
class ImageSource:
    """All images of a run; `of` returns those of one table."""

    preprocess: Preprocess
    mode: str
    """Kind of cache: disk, ram, device or off."""
    records: Records | None = None
    row_of: dict[bytes, int] | None = None
    """From an image's key to its row in `records`."""

    @property
    def device_bytes(self) -> int:
        """Bytes of the images that are kept in GPU memory."""
        if self.mode != "device" or self.records is None:
            return 0
        return len(self.records) * math.prod(self.records.shape)

    def off_device(self) -> ImageSource:
        """Return the source of the same images without a copy on the GPU.

        The GPU's copy is made from records on disk or in RAM, so that these are there too.
        """
        return dataclasses.replace(self, mode="disk") if self.mode == "device" else self

    def rows(self, table: pd.DataFrame) -> np.ndarray:
        """Return the rows of the table's images in `records`."""
        assert self.row_of is not None
        return np.array([self.row_of[key] for key in _keys(table)], dtype=np.int64)

    def of(self, table: pd.DataFrame) -> ImageStore:
        """Return the images of a table, in the table's order."""
        if self.records is None:
            return Files(table, self.preprocess)
        return self.records.select(self.rows(table))


@dataclass(frozen=True)
class Room:
    """Free bytes of each place that can hold a cache.

    `device` is None without a GPU, or where nothing needs images there.
    """

    disk: int
    ram: int
    device: int | None


def _disk_fits(missing: int, room: Room) -> bool:
    return not missing or missing + DISK_SPARE <= room.disk


def choose_cache(
    wanted: str, *, size: int, missing: int, passes: int, room: Room
) -> tuple[str, str]:
    """Return the kind of cache to use and the reason, for the log.

    Parameters
    ----------
    wanted
        The value of --cache.
    size
        Bytes of all images.
    missing
        Bytes of the images that are not on disk yet.
    passes
        Number of times that the run reads each image.
    room
        Free bytes of each place.

    Raises
    ------
    UserError
        If a cache that the user asked for does not fit.
    """
    fits = {
        "device": room.device is None or size <= room.device,
        "disk": _disk_fits(missing, room),
        "ram": HAS_MEMFD and 2 * size <= room.ram,
        "off": True,
    }
    if wanted == "ram" and not HAS_MEMFD:
        raise UserError("--cache ram: needs Linux; pass --cache disk")
    if wanted != "auto":
        if not fits[wanted]:
            free = {
                "device": f"{_gb(room.device or 0)} of the GPU are free for images",
                "disk": f"{_gb(room.disk)} are free",
                "ram": f"{_gb(room.ram)} are free",
            }[wanted]
            raise UserError(
                f"--cache {wanted}: needs {_gb(missing if wanted == 'disk' else size)}, but only"
                f" {free}; pass --cache auto"
            )
        return wanted, f"--cache {wanted}"
    if missing and passes <= 1:
        return "off", "each is read only once"
    if room.device is not None and fits["device"] and (fits["disk"] or fits["ram"]):
        return (
            "device",
            f"they fit into the {_gb(room.device)} that folds leave of the GPU",
        )
    reasons = []
    if room.device is not None:
        reasons.append(f"too large for the GPU, of which folds leave {_gb(room.device)}")
    if fits["disk"]:
        return "disk", "; ".join(reasons)
    if fits["ram"]:
        return "ram", "; ".join([*reasons, f"the disk has only {_gb(room.disk)} free"])
    reasons.append(
        f"{_gb(size)} fit neither on disk ({_gb(room.disk)} free) nor in RAM ({_gb(room.ram)} free)"
    )
    return "off", "; ".join(reasons)


def _gb(size: int) -> str:
    return f"{size / GB:.2f} GB" if size < 10 * GB else f"{size / GB:,.0f} GB"


def free_ram() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(
            int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")
        )
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _free_disk(folder: Path) -> int:
    """Return the free bytes at a folder that may not exist yet; 0 if it cannot be written."""
    there = next((path for path in (folder, *folder.parents) if exists(path)), Path("/"))
    return shutil.disk_usage(there).free if os.access(there, os.W_OK) else 0


def images_folder(cache_dir: str | None) -> Path:
    """Return the cache folder of decoded images."""
    return cache_root(cache_dir) / "pictures"


def _keys(table: pd.DataFrame) -> list[bytes]:
    return [image_key(*source) for source in zip(table["content"], boxes_of(table), strict=True)]


def bytes_of(tables: Iterable[pd.DataFrame | None], preprocess: Preprocess) -> int:
    """Return the bytes of a run's images when they are decoded and resized, each counted once."""
    keys = {key for table in tables if table is not None for key in _keys(table)}
    width, height = preprocess.stored_size
    return len(keys) * width * height * 3


def open_images(
    tables: Iterable[pd.DataFrame | None],
    preprocess: Preprocess,
    *,
    cache: str,
    cache_dir: str | None,
    passes: int,
    device_room: int | None,
    say: Say,
    needs_levels: bool = False,
) -> ImageSource:
    """Decode the images that are not cached yet and return all images of a run.

    Before it decodes, it logs the kind of cache, its size and the free space.

    Parameters
    ----------
    tables
        The tables of a manifest, with the column `content` (see folds.data.load).
    preprocess
        Decodes and resizes the images.
    cache, cache_dir
        The values of --cache and --cache-dir.
    passes
        Number of times that the run reads each image.
    device_room
        Bytes of GPU memory that they may take, None if they are not needed there.
    say
        Writes a line to the log.
    needs_levels
        Whether there are images of more than 8 bits, or with transparency.

    Raises
    ------
    UserError
        If the cache does not fit or cannot be written.
    """
    every = pd.concat([table for table in tables if table is not None], ignore_index=True)
    keys = _keys(every)
    first = first_places(keys)
    unique = [*first]
    width, height = preprocess.stored_size
    policy = {"pictures": IMAGES_VERSION, "decode": preprocess.decode, "opencv": cv2.__version__}
    if needs_levels:
        policy["levels"] = preprocess.levels.key
    store = Store.at(images_folder(cache_dir), (height, width, 3), "uint8", policy)
    num_missing = 0 if cache == "off" else len(store.missing(unique))
    room = Room(_free_disk(store.folder), free_ram(), device_room)
    size = len(unique) * store.size
    mode, why = choose_cache(
        cache, size=size, missing=num_missing * store.size, passes=passes, room=room
    )
    if mode == "off":
        say(f"Not caching decoded images: {why}.")
        return ImageSource(preprocess, mode)
    # The GPU's copy is filled from a cache on disk or in RAM.
    to_disk = mode == "disk" or (
        mode == "device" and (_disk_fits(num_missing * store.size, room) or not HAS_MEMFD)
    )
    say(
        f"Caching {counted(len(unique), 'decoded image')} at {width}x{height}, {_gb(size)},"
        + (" on the GPU and" if mode == "device" else "")
        + (
            f" on disk in {store.folder.parent} ({_gb(room.disk)} free)"
            if to_disk
            else f" in RAM ({_gb(room.ram)} free)"
        )
        + (f": {why}." if why else ".")
    )
    files = Files(every.iloc[[*first.values()]], preprocess, verify=True)
    try:
        records = _on_disk(store, unique, files, say) if to_disk else _in_ram(store, files)
    except CacheFailed as error:
        # What was asked for is not left out. A disk that fills up was not seen before.
        if cache == "disk":
            raise
        if not (HAS_MEMFD and 2 * size <= room.ram):
            say(f"{error.what}, so each image is decoded whenever it is read.")
            return ImageSource(preprocess, "off")
        say(f"{error.what}, so the images are kept in RAM.")
        mode = "ram" if mode == "disk" else mode
        records = _in_ram(store, files)
    return ImageSource(preprocess, mode, records, {key: row for row, key in enumerate(unique)})


def _on_disk(store: Store, keys: Sequence[bytes], files: Files, say: Say) -> Records:
    with Task("decode images", len(keys), unit="images") as task:
        store.fill(
            keys,
            lambda todo: in_threads(files.__getitem__, todo, workers=num_cores()),
            progress=task.add,
            wait=lambda: say(f"Waiting for another process, which is filling {store.folder}."),
        )
    return store.records(keys)


def _in_ram(store: Store, files: Files) -> Records:
    """Decode the images into anonymous memory, which other processes can map.

    The memory is freed when the records are deleted or this process ends.
    """
    file = os.memfd_create("pictures")
    images = in_threads(files.__getitem__, range(len(files)), workers=num_cores())
    try:
        with Task("decode images", len(files), unit="images") as task:
            write_records(file, 0, images, size=store.size, progress=task.add)
    except BaseException:
        os.close(file)
        raise
    records = Records(
        Path(f"/proc/{os.getpid()}/fd/{file}"), store.shape, store.dtype, np.arange(len(files))
    )
    weakref.finalize(records, os.close, file)
    return records
