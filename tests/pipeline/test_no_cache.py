"""A cache that cannot be written stops no run: images and features are made in memory."""

import errno
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from foldblend.errors import UserError
from foldblend.files import temporary_folder
from folds.data.demo import make_demo
from pipeline.cv import cross_validate
from pipeline.data import cache, images
from pipeline.data.cache import CacheFailed, Store
from pipeline.data.kept import kept_or_made
from tests.pipeline.test_resume import config_of


def quiet(line):
    del line


@pytest.fixture
def full_disk(monkeypatch):
    """Let the records of all caches run out of space; other files are written."""

    def fails(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache, "write_records", fails)


def config(layout, output, **flags):
    return config_of(
        layout, output, epochs=1, save_every=60.0, cache_dir=str(output / "c"), **flags
    )


@pytest.mark.parametrize("flags", [{}, {"finetune": "head"}], ids=["trained", "frozen"])
def test_a_run_goes_on_without_a_cache_and_says_so_once(
    flags, tiny_layout, tmp_path, full_disk, monkeypatch
):
    said = []
    made = cross_validate(config(tiny_layout, tmp_path, **flags), say=said.append)
    lines = [line for line in said if "the cache cannot be written (No space left" in line]
    assert len(lines) == 1
    assert lines[0].startswith(str(tmp_path / "c"))
    monkeypatch.undo()
    usual = cross_validate(config(tiny_layout, tmp_path / "usual", **flags), say=quiet)
    assert np.array_equal(made.logits(made.oof), usual.logits(usual.oof))
    with monkeypatch.context() as patch:
        patch.setattr(cache, "write_records", full_disk_error)
        disk = config(tiny_layout, tmp_path / "disk", cache="disk", **flags)
        with pytest.raises(CacheFailed, match="or pass --cache-dir with another folder"):
            cross_validate(disk, say=quiet)


def full_disk_error(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_images_are_read_from_files_where_ram_is_short_too(
    tiny_layout, tmp_path, full_disk, monkeypatch
):
    monkeypatch.setattr(images, "free_ram", lambda: 0)
    said = []
    source = cross_validate(config(tiny_layout, tmp_path), say=said.append)
    assert any("so each image is decoded whenever it is read" in line for line in said)
    assert len(source.oof)


@pytest.mark.parametrize("what", ["a file", "read-only"])
def test_a_cache_folder_that_is_none_is_gone_without(what, tiny_layout, tmp_path):
    if what == "a file":
        (tmp_path / "c").write_text("no folder")
    elif os.getuid() == 0:
        pytest.skip("root may write everywhere")
    else:
        (tmp_path / "c").mkdir(mode=0o500)
    made = cross_validate(config(tiny_layout, tmp_path, finetune="head"), say=quiet)
    assert len(made.oof)


def test_records_are_made_anew_in_the_order_of_their_keys(tmp_path, full_disk):
    store = Store.at(tmp_path, (2,), "float32", {})
    keys = [bytes([index] * 16) for index in (3, 1, 3)]
    said = []

    def make(todo):
        yield np.array([[index, 1] for index in todo], np.float32)

    rows, is_kept = kept_or_made(store, keys, make, say=said.append)
    assert rows.tolist() == [[0, 1], [1, 1], [2, 1]]
    assert rows.dtype == np.float32
    assert not is_kept
    assert len(said) == 1
    rows, _ = kept_or_made(store, [], make, say=quiet)
    assert rows.shape == (0, 2)


def test_errors_of_caches_survive_another_process():
    import pickle

    error = CacheFailed("/x", "No space left on device")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_the_demo_is_drawn_elsewhere_if_the_cache_cannot_be_written(tmp_path, monkeypatch, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    monkeypatch.setenv("FOLDBLEND_CACHE", str(blocked))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for _ in range(2):
        root = make_demo(num_train=6, num_test=6)
        assert (root / "train" / "train.csv").is_file()
        assert temporary_folder() in root.parents
    said = capsys.readouterr()
    assert (said.out + said.err).count("so the demo set is drawn in") == 1
    with pytest.raises(UserError, match="cannot be written"):
        make_demo(blocked / "demo", num_train=6, num_test=6)


def test_a_temporary_folder_of_somebody_else_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ours = temporary_folder()
    assert ours == temporary_folder()
    assert stat.S_IMODE(ours.stat().st_mode) == 0o700
    ours.chmod(0o777)
    assert temporary_folder() != ours
    ours.rmdir()
    other = tmp_path / "other"
    other.mkdir()
    Path(ours).symlink_to(other)
    assert temporary_folder() != ours
