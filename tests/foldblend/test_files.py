"""Files on disk: fast CSVs read as those of pandas, and nothing is lost or written elsewhere."""

import errno
import fcntl
import io
import os
import shutil
import tempfile
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import Timeout

from foldblend.drafts import DRAFT, draft_folder, sweep_drafts
from foldblend.errors import UserError
from foldblend.failures import WriteFailed, os_failure
from foldblend.files import (
    cache_folder,
    check_writable,
    open_in_place,
    write_bytes,
    write_with,
)
from foldblend.locks import hold, is_held
from foldblend.runs.folder import clear_folder, sweep, write_table

PLAIN = pd.DataFrame({"image_id": ["a/1.jpg", "b/2.jpg"], "label": [3, 0], "proba": [1e-12, 1 / 3]})
TABLES = {
    "plain": PLAIN,
    "commas": PLAIN.assign(true=["worn, female", 'said "no"']),
    "line ends": PLAIN.assign(true=["two\nlines", "one"]),
    "missing": PLAIN.assign(fold=pd.array([1, None], dtype="Int64"), true=["worn, male", None]),
    "truth values": PLAIN.assign(right=[True, False], true=["a, b", "c"]),
    "mixed": PLAIN.assign(value=pd.Series(["a", 3], dtype=object)),
    "none": PLAIN.iloc[:0],
    "other scripts": PLAIN.assign(true=["wörn, ✓", "口罩"]),
}


@pytest.mark.parametrize("name", TABLES)
def test_csvs_read_like_those_of_pandas(tmp_path, name):
    table = TABLES[name]
    write_table(tmp_path / "a.csv", table)
    expected = pd.read_csv(io.StringIO(table.to_csv(index=False)))
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "a.csv"), expected, check_exact=True)


def test_a_large_csv_keeps_every_digit(tmp_path):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"true": ["a, b"] * 5000, "x": np.exp(rng.normal(size=5000) * 30)})
    write_table(tmp_path / "a.csv", table)
    # pandas 2 rounds the last digit unless it is asked not to.
    read = pd.read_csv(tmp_path / "a.csv", float_precision="round_trip")
    assert (read["x"] == table["x"]).all()


def test_written_files_are_as_readable_as_others(tmp_path):
    (tmp_path / "plain").touch()
    write_bytes(tmp_path / "written", b"a")
    assert (tmp_path / "written").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_unwritable_folder_is_an_error_and_others_stay_unchanged(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/a: cannot be written .* --output"):
        check_writable(tmp_path / "file" / "a")
    check_writable(tmp_path / "new" / "deep")
    check_writable(tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def failing(number):
    def write(draft):
        draft.write_bytes(b"half")
        raise OSError(number, os.strerror(number), str(draft))

    return write


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "No space left on device, 5 MB needed, .* free"),
        (errno.EDQUOT, "your quota is used up"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EIO, "the disk failed"),
        (errno.EROFS, "write to another disk"),
    ],
)
def test_a_failed_write_is_one_line_with_the_final_path_and_leaves_the_old_file(
    tmp_path, number, words
):
    (tmp_path / "a").write_text("old")
    with pytest.raises(WriteFailed, match=rf"/a: cannot be written \(.*{words}") as caught:
        write_with(tmp_path / "a", failing(number), needed=5_000_000)
    assert caught.value.errno == number
    assert DRAFT not in str(caught.value)
    assert [one.name for one in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


@pytest.mark.parametrize(
    "text",
    [
        "I/O error: No space left on device (os error 28)",
        "PytorchStreamWriter failed writing file data/7",
    ],
)
def test_libraries_that_raise_other_errors_are_understood(tmp_path, text):
    def write(draft):
        raise RuntimeError(text)

    with pytest.raises(WriteFailed, match="No space left on device"):
        write_with(tmp_path / "a", write)


def test_other_errors_and_those_for_people_stay_what_they_are(tmp_path):
    for error in (RuntimeError("a fault of ours"), UserError("--lr 9: too much")):

        def write(draft, error=error):
            raise error

        with pytest.raises(type(error)) as caught:
            write_with(tmp_path / "a", write)
        assert caught.value is error


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(WriteFailed, match=r"a: cannot be written .* a folder stands in"):
        write_bytes(tmp_path / "a", b"1")


def test_a_link_is_replaced_and_its_target_stays(tmp_path):
    target = tmp_path / "elsewhere"
    target.write_text("precious")
    (tmp_path / "a").symlink_to(target)
    write_bytes(tmp_path / "a", b"new")
    assert target.read_text() == "precious"
    assert not (tmp_path / "a").is_symlink()


def test_drafts_of_killed_writers_are_swept_and_others_stay(tmp_path):
    (tmp_path / "tta").mkdir()
    (tmp_path / "tta" / f"{DRAFT}1-a").write_text("half")
    (tmp_path / f"{DRAFT}0123abcd-folder").mkdir()
    precious = tmp_path / "elsewhere"
    precious.write_text("precious")
    (tmp_path / f"{DRAFT}0123abcd-link").symlink_to(precious)
    own = tmp_path / f"{DRAFT}notes.txt"
    own.write_text("no file of ours")
    seen = []

    def write(draft):
        draft.write_text("whole")
        sweep_drafts(tmp_path)
        seen.append(draft.read_text())

    write_with(tmp_path / "b", write)
    assert seen == ["whole"]
    assert {one.name for one in tmp_path.rglob("*")} == {"tta", "elsewhere", "b", own.name}
    assert precious.read_text() == "precious"


def test_writers_and_sweepers_do_not_disturb_each_other(tmp_path):
    """A sweep may take a file that is not locked yet for a leftover; it is made again."""
    ended = threading.Event()
    failed = []

    def sweep_on():
        while not ended.is_set():
            try:
                sweep_drafts(tmp_path)
            except Exception as error:
                failed.append(error)

    def come_and_go():
        while not ended.is_set():
            (tmp_path / "fold" / "tb").mkdir(parents=True)
            shutil.rmtree(tmp_path / "fold")

    threads = [threading.Thread(target=one) for one in (sweep_on, come_and_go)]
    for one in threads:
        one.start()
    for number in range(300):
        write_bytes(tmp_path / "a", str(number))
    ended.set()
    for one in threads:
        one.join()
    assert failed == []
    assert (tmp_path / "a").read_text() == "299"


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOLCK, errno.ENOSYS])
def test_a_lock_that_fails_names_its_file_and_never_a_draft(tmp_path, monkeypatch, number):
    def flock(handle, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(OSError, match=r"lock'$") as caught, hold(tmp_path / "lock"):
        pass
    assert str(os_failure(caught.value, place="--output")).startswith(f"{tmp_path}/lock: ")
    with pytest.raises(WriteFailed, match=r"/a: cannot be written"):
        write_bytes(tmp_path / "a", b"1")
    with (
        pytest.raises(OSError, match="draft") as caught,
        draft_folder(tmp_path / "models"),
    ):
        pass
    assert str(os_failure(caught.value, place="--to")).startswith(f"{tmp_path}/models/.lock: ")


def put(path, kind, target):
    """Put something else in the place of a file."""
    target.write_text("precious")
    if kind == "link":
        path.symlink_to(target)
    elif kind == "dangling link":
        path.symlink_to(target.with_name("absent"))
    elif kind == "further name":
        path.hardlink_to(target)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()


def test_a_file_with_further_names_is_written_as_a_copy_of_its_own(tmp_path):
    put(tmp_path / "a", "further name", tmp_path / "elsewhere")
    (tmp_path / "a").chmod(0o600)
    handle = open_in_place(tmp_path / "a", os.O_WRONLY | os.O_APPEND)
    os.write(handle, b" and more")
    os.close(handle)
    assert (tmp_path / "elsewhere").read_text() == "precious"
    assert (tmp_path / "a").read_text() == "precious and more"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
    assert {one.name for one in tmp_path.iterdir()} == {"a", "elsewhere"}


def test_a_file_with_further_names_is_refused_where_it_must_not_be_copied(tmp_path, monkeypatch):
    put(tmp_path / "a", "further name", tmp_path / "elsewhere")
    with pytest.raises(UserError, match="a: a file with further names stands in its place"):
        open_in_place(tmp_path / "a", os.O_WRONLY, copy=False)
    monkeypatch.setattr("foldblend.failures.free_bytes", lambda path: 3)
    with pytest.raises(WriteFailed, match="need at least 8 bytes, and 3 bytes are free"):
        open_in_place(tmp_path / "a", os.O_WRONLY)
    assert (tmp_path / "a").samefile(tmp_path / "elsewhere")


def test_a_pipe_with_further_names_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "a")
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    reader = os.open(tmp_path / "b", os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(UserError, match="a: a pipe or device stands in its place; remove it"):
        open_in_place(tmp_path / "a", os.O_WRONLY)
    os.close(reader)


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "folder"])
def test_nothing_is_written_in_place_through_something_else(tmp_path, kind):
    target = tmp_path / "elsewhere"
    put(tmp_path / "a", kind, target)
    with pytest.raises(UserError, match=r"a: a .* stands in its place; remove it"):
        open_in_place(tmp_path / "a", os.O_WRONLY | os.O_TRUNC)
    assert target.read_text() == "precious"
    assert not target.with_name("absent").exists()


def test_a_file_written_in_place_is_never_truncated(tmp_path):
    (tmp_path / "a").write_text("content")
    os.close(open_in_place(tmp_path / "a", os.O_WRONLY | os.O_TRUNC))
    assert (tmp_path / "a").read_text() == "content"


@pytest.mark.parametrize("kind", ["link", "dangling link", "further name", "pipe"])
def test_a_lock_file_that_is_something_else_is_made_anew(tmp_path, kind):
    target = tmp_path / "elsewhere"
    put(tmp_path / "lock", kind, target)
    with hold(tmp_path / "lock"), pytest.raises(Timeout), hold(tmp_path / "lock"):
        pass
    assert target.read_text() == "precious"
    assert target.stat().st_nlink == 1
    assert not target.with_name("absent").exists()
    assert (tmp_path / "lock").is_file()
    assert not (tmp_path / "lock").is_symlink()


def test_a_lock_that_is_held_stays_when_it_gets_a_further_name(tmp_path):
    with hold(tmp_path / "lock"):
        (tmp_path / "backup").hardlink_to(tmp_path / "lock")
        with pytest.raises(Timeout), hold(tmp_path / "lock"):
            pass
    with hold(tmp_path / "lock"):
        assert (tmp_path / "lock").stat().st_nlink == 1


def test_a_look_at_a_lock_writes_nothing_and_ends_at_once(tmp_path):
    lock = tmp_path / "lock"
    assert not is_held(lock)
    assert not [*tmp_path.iterdir()]
    with hold(lock):
        assert is_held(lock)
    assert not is_held(lock)
    with hold(lock):
        pass
    for kind in ("link", "pipe"):
        put(tmp_path / kind, kind, tmp_path / "elsewhere")
        assert not is_held(tmp_path / kind)
    assert not is_held(tmp_path)
    assert not is_held(tmp_path / "nul\0")


def test_a_lock_waits_for_another_process_that_only_looks(tmp_path):
    lock = tmp_path / "lock"
    lock.touch()
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        with pytest.raises(Timeout), hold(lock):
            pass
        release = threading.Timer(0.05, fcntl.flock, (file, fcntl.LOCK_UN))
        release.start()
        # As long as the machine may be busy.
        with hold(lock, patience=60):
            assert is_held(lock)
        release.join()


def test_a_folder_in_the_place_of_a_lock_file_is_an_error(tmp_path):
    (tmp_path / "lock").mkdir()
    with (
        pytest.raises(UserError, match="lock: a folder stands in its place"),
        hold(tmp_path / "lock"),
    ):
        pass


def test_a_link_to_a_folder_is_refused_before_anything_is_written_through_it(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    run = tmp_path / "run"
    run.mkdir()
    (run / "tta").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="run/tta: is a link to another folder"):
        sweep(run)
    clear_folder(run)
    assert not list(run.iterdir())
    assert (tmp_path / "elsewhere").is_dir()


def test_without_a_home_the_cache_is_in_the_folder_for_temporary_files(monkeypatch):
    monkeypatch.delenv("FOLDBLEND_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def no_home(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", no_home)
    assert cache_folder().is_relative_to(tempfile.gettempdir())
