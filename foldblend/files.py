"""Write files whole or in place, and find the cache folder and that for temporary files."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from foldblend.drafts import LONGEST_NAME, draft_of, held_draft, sweep_own
from foldblend.errors import UserError
from foldblend.failures import check_room, failed_write

__all__ = [
    "cache_folder",
    "check_no_link",
    "check_writable",
    "exists",
    "home",
    "is_file",
    "is_link",
    "open_in_place",
    "page_file",
    "remove",
    "temporary_folder",
    "write_all",
    "write_bytes",
    "write_with",
]

IN_PLACE = {errno.ELOOP: "a link", errno.EISDIR: "a folder", errno.ENXIO: "a pipe or device"}


def home(path: str | Path) -> Path:
    """Return a path with ~ replaced by the home folder.

    A name such as ~x, where x is no user, is taken as it is if there is such a file or folder.

    Raises UserError for the home folder of an unknown user, or if the user has none.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        is_own = Path(path).parts[0] == "~"
        if exists(Path(path)) and not is_own:
            return Path(path)
        why = "you have no home folder" if is_own else "no such user"
        raise UserError(f"{path}: {why}; write the path without ~") from None


def exists(path: Path) -> bool:
    """Return whether a path exists; False for names that are too long or have a NUL byte.

    `Path.exists` and `Path.is_file` raise OSError or ValueError for these.
    """
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def is_file(path: Path) -> bool:
    """Return whether a path is a file; False for names that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_link(path: Path) -> bool:
    """Return whether a path is a link; False for names that none can have."""
    try:
        return path.is_symlink()
    except (OSError, ValueError):
        return False


def check_writable(folder: Path, *, flag: str = "--output") -> None:
    """Raise UserError if no file can be written into a folder; leave the folder unchanged.

    Folders that had to be created for the check are removed again, and so are temporary files in
    the folder whose writer is gone.
    """
    made = [one for one in (folder, *folder.parents) if not exists(one)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep_own(folder)
        draft = draft_of(folder / "check")
        draft.touch()
        draft.unlink()
    except (OSError, ValueError) as error:  # a name with a NUL byte is a ValueError
        why = getattr(error, "strerror", None) or "no file has such a name"
        why = "it is a file" if isinstance(error, FileExistsError) else why
        raise UserError(f"{folder}: cannot be written ({why}); pass another {flag}") from None
    finally:
        for one in made:
            # The folder may be absent, or another process may use it by now.
            with contextlib.suppress(OSError, ValueError):
                one.rmdir()


def page_file(name: str | Path, *, flag: str) -> Path:
    """Return the path of a file to write in a folder that exists, such as a page.

    Raises UserError if it cannot be written. Temporary files there whose writer is gone are
    removed.
    """
    file = home(name)
    folder = file.absolute().parent
    if (exists(file) and file.is_dir()) or not (exists(folder) and folder.is_dir()):
        raise UserError(
            f"{flag} {file}: no file can be written there; pass a file in a folder that exists"
        )
    if "\0" in str(file):
        raise UserError(f"{flag} {file}: no file has such a name; pass another")
    if len(os.fsencode(file.name)) > LONGEST_NAME:
        raise UserError(f"{flag} {file}: the name is too long; choose a shorter one")
    check_writable(folder, flag=flag)
    return file


def write_with(path: Path, write: Callable[[Path], object], *, needed: int | None = None) -> None:
    """Write a file atomically: `write` fills a temporary file, which then replaces `path`.

    The temporary file is in the same folder and is flushed to disk before it is moved.

    Parameters
    ----------
    path
        The file. A link in its place is replaced and not followed.
    write
        Fills the file whose path it gets. It must not replace the file, which would lose its lock.
    needed
        Number of bytes that the file needs, for the message of a full disk.

    Raises
    ------
    WriteFailed
        If the disk is full, read-only or broken, or something else stands in the file's place.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with held_draft(path) as draft:
            try:
                write(draft)
                with draft.open("rb+") as file:
                    os.fsync(file.fileno())
                os.replace(draft, path)
            finally:
                with contextlib.suppress(OSError):
                    draft.unlink(missing_ok=True)
    except Exception as error:
        failure = None if isinstance(error, UserError) else failed_write(path, error, needed=needed)
        if failure is None:
            raise
        raise failure from None


def write_bytes(path: Path, data: bytes | memoryview | str) -> None:
    """Write a file atomically; text as UTF-8, in which names that have none are escaped."""
    content = data.encode(errors="backslashreplace") if isinstance(data, str) else data
    write_with(path, lambda draft: draft.write_bytes(content), needed=len(content))


def write_all(file: BinaryIO, data: bytes) -> None:
    """Write all of the data to a file without a buffer.

    A disk that fills up accepts a part of it without an error.
    """
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def remove(path: Path) -> None:
    """Remove a file, link or folder, if there is one. A link's target stays."""
    try:
        path.unlink(missing_ok=True)
    except (IsADirectoryError, PermissionError):  # as systems call a folder that is unlinked
        if not path.is_dir():
            raise
        shutil.rmtree(path)


def check_no_link(*folders: Path) -> None:
    """Raise UserError if one of these folders is a link, so that files go elsewhere."""
    for folder in folders:
        if folder.is_symlink():
            raise UserError(
                f"{folder}: is a link to another folder, in which nothing is written; remove the"
                " link"
            )


def open_in_place(path: Path, flags: int, *, copy: bool = True) -> int:
    """Open a file that is written in place, or create it, and return its descriptor.

    Parameters
    ----------
    path
        The file. Nothing but a regular file is opened. One with further names, as in a backup by
        hard links, is replaced by a copy first, so that no file elsewhere is changed.
    flags
        Flags of `os.open`; O_CREAT is added. The file is never truncated.
    copy
        Whether a file with further names is replaced. Where others may write to it meanwhile, which
        a copy would lose, it is refused.

    Raises
    ------
    UserError
        If a link, pipe, device or folder stands in the file's place, or the disk has no room for
        the copy.
    OSError
        If it cannot be opened.
    """
    handle = _opened(path, flags)
    about = os.fstat(handle)
    if copy and stat.S_ISREG(about.st_mode) and about.st_nlink > 1:
        os.close(handle)
        check_room(path.parent, about.st_size)
        _part_from_others(path)
        handle = _opened(path, flags)
    about = os.fstat(handle)
    if not stat.S_ISREG(about.st_mode) or about.st_nlink > 1:
        os.close(handle)
        what = "a file with further names" if stat.S_ISREG(about.st_mode) else "a pipe or device"
        raise UserError(f"{path}: {what} stands in its place; remove it")
    return handle


def _opened(path: Path, flags: int) -> int:
    """Open a file for `open_in_place`, which looks at what was opened."""
    safe = os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return os.open(path, (flags | safe) & ~os.O_TRUNC, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
        raise UserError(f"{path}: {IN_PLACE[error.errno]} stands in its place; remove it") from None


def _part_from_others(path: Path) -> None:
    """Replace a regular file by a copy, so that its other names keep what they have."""
    with held_draft(path) as draft:
        try:
            shutil.copyfile(path, draft, follow_symlinks=False)
            shutil.copymode(path, draft, follow_symlinks=False)
            os.replace(draft, path)
        except FileNotFoundError:  # removed meanwhile, so that it is created
            pass
        finally:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)


def temporary_folder() -> Path:
    """Return a folder for temporary files that only this user can write; it stays."""
    folder = Path(tempfile.gettempdir()) / f"foldblend-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    about = folder.lstat()
    # Anybody may have made a folder of this name before.
    ours = stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid()
    return folder if ours and not about.st_mode & 0o022 else Path(tempfile.mkdtemp())


def cache_folder() -> Path:
    """Return the cache folder: $FOLDBLEND_CACHE, or foldblend/ in the user's cache folder."""
    base = os.environ.get("FOLDBLEND_CACHE")
    if base:
        return home(base)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "foldblend"
    except RuntimeError:
        # A user without an entry in the list of users has no home, as in many containers.
        return Path(tempfile.gettempdir()) / f"foldblend-{os.getuid()}"
