"""Failures of disks, memory and streams, as one line with what failed and the cure."""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path

from foldblend.errors import UserError, in_a_line

__all__ = [
    "CLOSE",
    "DRAFT",
    "OUR_DRAFT",
    "WriteFailed",
    "check_room",
    "device_failure",
    "failed_write",
    "free_bytes",
    "memory_failure",
    "os_failure",
]

# Prefix of unfinished files, by which leftovers of a killed process are found and removed.
DRAFT = ".draft-"
# Start of the names of these files, which the name of the file that they are to be follows.
OUR_DRAFT = re.compile(re.escape(DRAFT) + "[0-9a-f]{8}-")
CLOSE = "close other programs"
SPACE = "free some space there, or write to another disk"
# Cures by the cause of a failed write.
CURES = {
    errno.ENOSPC: SPACE,
    errno.EDQUOT: "your quota is used up: remove other files of yours, or write to another disk",
    errno.EFBIG: "the limit of file sizes is reached: raise it (ulimit -f)",
    errno.EIO: "the disk failed: look at the system's log, or write to another disk",
    errno.EROFS: "write to another disk",
    errno.EACCES: "change its permissions, or write elsewhere",
    errno.EPERM: "change its owner or permissions, or write elsewhere",
    errno.EISDIR: "a folder stands in the file's place: remove it",
    errno.ENOTDIR: "a file stands in a folder's place: remove it",
    errno.EEXIST: "something else stands in its place: remove it",
    errno.ENOTEMPTY: "a folder stands in the file's place: remove it",
    errno.ELOOP: "a link stands in its place: remove it",
    errno.ENXIO: "a pipe or device stands in its place: remove it",
    errno.ENOENT: "its folder was removed meanwhile: run the same command again",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n)",
    errno.ENFILE: "too many files are open on this machine: close other programs",
    errno.ENOLCK: "its file system has no locks: write to a local disk",
    errno.ESTALE: "its folder was removed meanwhile: run the same command again",
    errno.ETXTBSY: "another program runs it: stop that program",
}
# Libraries in Rust and C++ raise other types than OSError, with the cause in the text.
RUST_ERROR = re.compile(r"os error (\d+)")
TORCH_ERROR = re.compile(r"PytorchStreamWriter|inline_container|basic_ios|unexpected pos")
MEMORY_ERROR = re.compile(
    r"(can't|cannot|unable to|failed to) (allocate|map|mmap)|not enough memory|bad_alloc"
    r"|malloc of size|Insufficient memory|can't start new thread|could not execute a primitive",
    re.IGNORECASE,
)
# A process that the system has killed, as torch's loaders and joblib tell it.
KILLED_ERROR = re.compile(
    r"DataLoader worker .*(killed by signal|exited unexpectedly)"
    r"|worker process .*unexpectedly terminated",
    re.DOTALL,
)
# Errors of CUDA, of torch's deterministic algorithms and of loaders, with what is wrong and the
# cure. {device} is the GPU, {0} what the error names.
DEVICE_ERRORS = {
    re.compile(r"(\w+)\W? does not have a deterministic implementation"): (
        "--deterministic: {0} has no deterministic algorithm on CUDA; leave --deterministic out, or"
        " pass another --backbone"
    ),
    re.compile(r"(CUBLAS_WORKSPACE_CONFIG)"): (
        "--deterministic: cuBLAS is not deterministic with the {0} that Python was started with;"
        " set it to :4096:8 in the environment and start again"
    ),
    re.compile(r"CUDA-capable device\(s\) is/are busy or unavailable"): (
        "{device}: another process holds it, and its compute mode allows one process only (with"
        " several folds at once this may be one of ours); allow more with nvidia-smi -c 0, or pass"
        " another --device or --parallel-folds 1"
    ),
    re.compile(
        r"CUDA (?:error: )?out of memory|CU(?:BLAS|DNN)_STATUS_(?:ALLOC_FAILED|NOT_INITIALIZED)"
    ): (
        "{device}: its memory ran out; end other programs that use it (nvidia-smi lists them), take"
        " smaller images, batches or a smaller model, or pass --device cpu"
    ),
    re.compile(r"DataLoader worker.*Bus error|</?torch_\S+>: No space left on device", re.DOTALL): (
        "/dev/shm: it is full, so that processes that load images cannot hand them over; pass"
        " --workers 0, or in a container docker run --shm-size=8g"
    ),
}


class WriteFailed(UserError):
    """A file that could not be written; `errno` is the system's error number.

    The message names the final path, what failed, and the bytes needed and free.
    """

    # Exceptions are rebuilt from their message alone when they come from another process.
    def __init__(self, message: str, number: int = 0) -> None:
        super().__init__(message)
        self.errno = number


def free_bytes(path: Path) -> int | None:
    """Return the free bytes of the disk of a path, which need not exist, or None if unknown."""
    for folder in (path, *path.absolute().parents):
        try:
            return shutil.disk_usage(folder).free
        except OSError:
            continue
    return None


def _size(count: int) -> str:
    """Return a number of bytes in the unit that suits it.

    >>> _size(512), _size(3_400_000)
    ('512 bytes', '3.4 MB')
    """
    if count < 1000:
        return f"{count} bytes"
    unit = next(unit for unit in (3, 6, 9, 12) if count < 1000 ** (unit // 3 + 1) or unit == 12)
    return f"{count / 10**unit:.3g} {'kMGT'[unit // 3 - 1]}B"


def check_room(folder: Path, needed: int) -> None:
    """Raise WriteFailed if a folder's disk has less than `needed` free bytes."""
    free = free_bytes(folder)
    if free is not None and free < needed:
        raise WriteFailed(
            f"{folder}: its files need at least {_size(needed)}, and {_size(free)} are free;"
            f" {CURES[errno.ENOSPC]}",
            errno.ENOSPC,
        )


def _number(error: BaseException) -> int | None:
    """Return the system's number of an error that a failed write raised, or None for others."""
    if isinstance(error, OSError):
        return error.errno or errno.EIO
    found = RUST_ERROR.search(str(error))
    if found:
        return int(found[1])
    if TORCH_ERROR.search(str(error)):
        # torch drops the cause; a full disk is by far the most frequent one.
        return errno.ENOSPC
    return None


def _final(path: Path | str) -> str:
    """Return a path with the final names of drafts in it.

    >>> _final("outputs/.draft-0123abcd-oof.parquet")
    'outputs/oof.parquet'
    """
    folder, slash, name = str(path).rpartition("/")
    start = f"{_final(folder)}{slash}" if DRAFT in folder else f"{folder}{slash}"
    return start + OUR_DRAFT.sub("", name, count=1)


def failed_write(
    path: Path, error: BaseException, *, needed: int | None = None
) -> WriteFailed | None:
    """Return the error for people of a write to `path` that failed, or None for other errors.

    Parameters
    ----------
    path
        The path, or that of a draft, whose final path is then named.
    error
        What the write raised.
    needed
        Number of bytes that the file needs, if it is known.
    """
    number = _number(error)
    if number is None:
        return None
    path = Path(_final(path))
    cure = CURES.get(number, "write elsewhere")
    room = ""
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        parts = [f"{_size(needed)} needed"] if needed is not None else []
        free = free_bytes(path)
        parts += [f"{_size(free)} free"] if free is not None else []
        room = "".join(f", {part}" for part in parts)
    return WriteFailed(f"{path}: cannot be written ({os.strerror(number)}{room}); {cure}", number)


def os_failure(error: OSError, *, place: str) -> UserError:
    """Return the error for people of an OSError that nothing nearer to its cause has handled.

    `place` is the flag that sets the output folder.
    """
    number = error.errno or errno.EIO
    what = os.strerror(number) if error.errno else in_a_line(error)
    name = error.filename
    if isinstance(name, bytes):
        name = os.fsdecode(name)
    if name is None or isinstance(name, int):
        cure = CURES.get(number, f"check the disk, or pass another {place}")
        return UserError(f"a file could not be read or written ({what}); {cure}")
    name = _final(name)
    if number == errno.ENOENT:
        return UserError(f"{name}: {what}; check the path, or run the same command again")
    cure = CURES.get(number, f"check its disk, or pass another {place}")
    return UserError(f"{name}: {what}; {cure}")


def device_failure(error: BaseException, *, device: str = "the GPU") -> UserError | None:
    """Return the error for people of what a GPU cannot do, or None for other errors.

    `device` is its name, if it is known.

    Examples
    --------
    >>> told = "adaptive_max_pool2d_backward_cuda does not have a deterministic implementation"
    >>> str(device_failure(RuntimeError(told)))[:51]
    '--deterministic: adaptive_max_pool2d_backward_cuda '
    """
    if isinstance(error, RuntimeError):
        for pattern, message in DEVICE_ERRORS.items():
            found = pattern.search(str(error))
            if found:
                return UserError(message.format(*found.groups(), device=device))
    return None


def memory_failure(error: BaseException, *, cure: str = CLOSE) -> UserError | None:
    """Return the error for people of memory that ran out, or None for other errors.

    `cure` says what the command can do with less memory.
    """
    if isinstance(error, RuntimeError) and KILLED_ERROR.search(str(error)):
        return UserError(
            f"memory: a process that this one had started was killed ({in_a_line(error)}),"
            f" probably because memory ran out; {cure}"
        )
    told = isinstance(error, MemoryError) or (
        isinstance(error, OSError) and error.errno == errno.ENOMEM
    )
    if not told and not (isinstance(error, RuntimeError) and MEMORY_ERROR.search(str(error))):
        return None
    return UserError(f"memory: there is too little of it ({in_a_line(error)}); {cure}")
