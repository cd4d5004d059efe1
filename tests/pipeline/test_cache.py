"""The cache of decoded images: content, crashes, errors, and loading from it."""

import dataclasses
import hashlib
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from foldblend.errors import UserError
from folds.config import DataConfig
from folds.data.load import load_data
from pipeline.data.augment import build_augmentation
from pipeline.data.cache import Store, known_keys
from pipeline.data.dataset import (
    ImageDataset,
    ResidentLoader,
    eval_loader,
    resident_pixels,
    resident_train_loader,
    train_loader,
)
from pipeline.data.images import ImageSource, Room, choose_cache, open_images
from pipeline.data.preprocess import Preprocess
from pipeline.data.records import KEY_BYTES, SUM_BYTES
from pipeline.data.threads import in_threads

ROOT = Path(__file__).resolve().parents[2]
GB = 10**9
PREPROCESS = Preprocess(width=24, height=32, mean=(0.5,) * 3, std=(0.5,) * 3)


def key(number):
    return number.to_bytes(KEY_BYTES, "big")


def record(number):
    return np.full((3, 2), number, np.uint8)


@pytest.fixture
def store(tmp_path):
    return Store.at(tmp_path, (3, 2), "uint8", {"kind": "test"})


def fill(store, numbers, made=None):
    def make(index):
        if made is not None:
            made.append(numbers[index])
        return record(numbers[index])

    store.fill([key(number) for number in numbers], lambda todo: in_threads(make, todo, workers=2))


def values(store, numbers):
    return store.records([key(number) for number in numbers]).take(slice(None))[:, 0, 0].tolist()


def test_records_are_found_by_key_in_any_order(store):
    fill(store, [5, 3, 5, 9])
    assert values(store, [9, 5, 3, 5]) == [9, 5, 3, 5]
    assert store.records([key(3)])[0].shape == (3, 2)


def test_only_missing_records_are_made(store):
    made = []
    fill(store, [1, 2, 2], made)
    fill(store, [2, 3, 1], made)
    assert sorted(made) == [1, 2, 3]
    assert values(store, [1, 2, 3]) == [1, 2, 3]


def test_another_policy_or_shape_is_another_store(store, tmp_path):
    others = [
        Store.at(tmp_path, (3, 2), "uint8", {"kind": "b"}),
        Store.at(tmp_path, (2, 3), "uint8", {"kind": "test"}),
    ]
    assert len({one.folder for one in [store, *others]}) == 3
    assert Store.at(tmp_path, (3, 2), "uint8", {"kind": "test"}) == store


def test_records_cut_by_a_kill_are_made_again(store):
    fill(store, [1, 2])
    with (store.folder / "records").open("ab") as file:
        file.write(b"half a rec")
    with (store.folder / "keys").open("ab") as file:
        file.write(b"half a key")
    assert values(store, [1, 2]) == [1, 2]
    assert store.missing([key(1), key(3)]) == [1]
    fill(store, [3, 4])
    assert values(store, [4, 3, 2, 1]) == [4, 3, 2, 1]
    assert (store.folder / "keys").stat().st_size == 4 * KEY_BYTES


def damage(store, slot):
    """Turn one bit of a record."""
    with (store.folder / "records").open("r+b") as file:
        file.seek(slot * store.size)
        byte = file.read(1)[0]
        file.seek(slot * store.size)
        file.write(bytes([byte ^ 4]))


def test_one_wrong_bit_of_a_record_is_found_and_the_record_is_made_again(store):
    made = []
    fill(store, [1, 2, 3], made)
    damage(store, 1)
    records = store.records([key(1), key(2), key(3)])
    assert records[0][0, 0] == 1
    with pytest.raises(UserError, match=r"records: record 1 of the cache is damaged"):
        records.take(slice(None))
    assert store.missing([key(1), key(2), key(3)]) == [1]
    fill(store, [1, 2, 3], made)
    assert made == [1, 2, 3, 2]
    assert values(store, [3, 2, 1]) == [3, 2, 1]


def test_records_of_earlier_versions_get_a_checksum_when_they_are_read(store):
    fill(store, [1, 2, 3])
    (store.folder / "sums").unlink()
    assert values(store, [1, 3]) == [1, 3]
    damage(store, 1)
    assert values(store, [2]) == [6]  # unknown, as it was never read
    damage(store, 2)
    with pytest.raises(UserError, match="record 2 of the cache is damaged"):
        values(store, [3])
    fill(store, [4])
    assert values(store, [4, 1]) == [4, 1]
    assert (store.folder / "sums").stat().st_size == 4 * SUM_BYTES


def test_a_store_that_is_cut_while_it_is_read_is_an_error_and_no_signal(store):
    fill(store, range(200))
    records = store.records([key(number) for number in range(200)])
    assert records[5][0, 0] == 5
    os.truncate(store.folder / "records", 6)
    with pytest.raises(UserError, match="the cache was removed or truncated while in use"):
        records.take(slice(None))
    assert pickle.loads(pickle.dumps(records))[0][0, 0] == 0


def test_records_are_read_in_the_order_that_is_asked_for(store):
    numbers = [7, 3, 9, 1, 4, 8]
    fill(store, numbers)
    records = store.records([key(number) for number in numbers])
    rows = np.array([4, 5, 0, 1, 1, 3, 2])
    assert records.take(rows)[:, 0, 0].tolist() == [numbers[row] for row in rows]
    assert records.take(np.array([], int)).shape == (0, 3, 2)
    assert records.select(rows).take(slice(1, 3))[:, 0, 0].tolist() == [8, 7]


@pytest.mark.parametrize("name", ["keys", "records", "sums", "lock"])
def test_nothing_is_written_through_links_of_a_cache(store, tmp_path, name):
    precious = tmp_path / "elsewhere"
    precious.write_text("precious")
    store.folder.mkdir()
    (store.folder / name).symlink_to(precious)
    if name == "lock":
        fill(store, [1])
    else:
        with pytest.raises(UserError, match=f"{name}: a link stands in its place; remove it"):
            fill(store, [1])
    assert precious.read_text() == "precious"


def test_a_store_that_is_cut_before_it_is_read_is_an_error(store):
    fill(store, [1, 2])
    os.truncate(store.folder / "keys", KEY_BYTES)
    with pytest.raises(UserError, match="the cache was removed or truncated while in use"):
        values(store, [1, 2])


def test_a_store_that_cannot_be_read_does_not_stop_the_others(store, tmp_path):
    fill(store, [1, 2])
    (tmp_path / "odd").mkdir()
    os.mkfifo(tmp_path / "odd" / "keys")
    (tmp_path / "folder" / "keys").mkdir(parents=True)
    assert known_keys(tmp_path) == {key(1), key(2)}


def test_a_store_that_is_a_link_is_refused(store, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    store.folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is a link to another folder, in which nothing is written"):
        fill(store, [1])
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_failing_record_keeps_the_finished_ones(store, monkeypatch):
    # Flush after two records.
    monkeypatch.setattr("pipeline.data.cache.FLUSH_BYTES", 12)

    def make(index):
        if index == 5:
            raise UserError("broken")
        return record(index)

    with pytest.raises(UserError, match="broken"):
        store.fill(
            [key(number) for number in range(8)], lambda todo: in_threads(make, todo, workers=2)
        )
    assert store.missing([key(number) for number in range(8)]) == [5, 6, 7]
    assert values(store, [0, 1, 2, 3, 4]) == [0, 1, 2, 3, 4]


def _fill_slowly(store, numbers, made):
    def make(index):
        time.sleep(0.02)
        made.put(numbers[index])
        return record(numbers[index])

    store.fill([key(number) for number in numbers], lambda todo: map(make, todo))


def test_two_processes_share_the_work(store):
    context = multiprocessing.get_context("fork")
    made = context.Queue()
    tasks = [
        context.Process(target=_fill_slowly, args=(store, list(numbers), made))
        for numbers in ([*range(20)], [*range(10, 30)])
    ]
    for task in tasks:
        task.start()
    done = sorted(made.get(timeout=60) for _ in range(30))
    for task in tasks:
        task.join(timeout=60)
    assert [task.exitcode for task in tasks] == [0, 0]
    assert done == [*range(30)]
    assert made.empty()
    assert values(store, range(30)) == [*range(30)]


def test_a_killed_fill_is_finished_later(store):
    script = (
        "import sys, time, numpy as np; from pathlib import Path; import pipeline.data.cache as c;"
        " c.FLUSH_BYTES = 60\nstore = c.Store(Path(sys.argv[1]), (3, 2), 'uint8')\ndef make(i):"
        " time.sleep(0.005); return np.full((3, 2), i, np.uint8)\nstore.fill([i.to_bytes(16, 'big')"
        " for i in range(200)], lambda todo: map(make, todo))"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(store.folder)], cwd=ROOT)
    until = time.monotonic() + 60
    while (
        not (store.folder / "keys").exists()
        or (store.folder / "keys").stat().st_size < 40 * KEY_BYTES
    ):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    made = []
    fill(store, [*range(200)], made)
    assert 0 < len(made) <= 160
    assert values(store, range(200)) == [*range(200)]


def test_a_full_disk_is_one_line_with_a_solution(store, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(UserError, match=r"No space left on device.*--cache-dir.*--cache off"):
        fill(store, [1])


def test_pickled_records_open_the_file_again(store):
    fill(store, [7, 8])
    records = store.records([key(8), key(7)])
    assert records[0][0, 0] == 8
    again = pickle.loads(pickle.dumps(records))
    assert len(pickle.dumps(records)) < 2000
    assert again.take(slice(None))[:, 0, 0].tolist() == [8, 7]
    (store.folder / "records").unlink()
    with pytest.raises(UserError, match="removed or truncated while in use"):
        pickle.loads(pickle.dumps(records))[0]


@pytest.mark.parametrize(
    ("wanted", "passes", "room", "mode", "words"),
    [
        ("auto", 9, Room(90 * GB, 90 * GB, None), "disk", ""),
        ("auto", 9, Room(90 * GB, 90 * GB, 80 * GB), "device", "folds leave of the GPU"),
        ("auto", 9, Room(90 * GB, 90 * GB, 4 * GB), "disk", "too large for the GPU"),
        ("auto", 9, Room(4 * GB, 90 * GB, None), "ram", "4.00 GB free"),
        ("auto", 9, Room(4 * GB, 9 * GB, None), "off", "neither on disk"),
        ("auto", 9, Room(0, 9 * GB, 80 * GB), "off", "neither on disk"),
        ("auto", 1, Room(90 * GB, 90 * GB, 80 * GB), "off", "read only once"),
        ("disk", 1, Room(90 * GB, 90 * GB, None), "disk", "--cache disk"),
        ("ram", 9, Room(0, 90 * GB, None), "ram", "--cache ram"),
        ("device", 9, Room(0, 90 * GB, None), "device", "--cache device"),
        ("off", 9, Room(0, 0, None), "off", "--cache off"),
    ],
)
def test_choice_of_cache(wanted, passes, room, mode, words):
    found, why = choose_cache(wanted, size=5 * GB, missing=5 * GB, passes=passes, room=room)
    assert found == mode
    assert words in why


def test_a_cache_that_does_not_fit_is_an_error_unless_it_exists():
    for wanted in ("disk", "ram", "device"):
        with pytest.raises(UserError, match=f"--cache {wanted}: needs 5.00 GB"):
            choose_cache(wanted, size=5 * GB, missing=5 * GB, passes=2, room=Room(GB, GB, GB))
    assert (
        choose_cache("disk", size=5 * GB, missing=0, passes=2, room=Room(0, 0, None))[0] == "disk"
    )


@pytest.fixture(scope="module")
def tables(tiny_layout):
    manifest, _ = load_data(DataConfig(data=str(tiny_layout)), say=lambda _: None)
    return manifest.train, manifest.test


def opened(tables, tmp_path, cache, preprocess=PREPROCESS, said=None, *, needs_levels=False):
    say = (lambda _: None) if said is None else said.append
    return open_images(
        tables,
        preprocess,
        cache=cache,
        cache_dir=str(tmp_path),
        passes=2,
        device_room=None,
        say=say,
        needs_levels=needs_levels,
    )


@pytest.mark.parametrize("cache", ["disk", "ram", "device"])
def test_cached_images_equal_the_decoded_ones(tables, tmp_path, cache):
    said = []
    source = opened(tables, tmp_path, cache, said=said)
    assert source.mode == cache
    assert "126 decoded images at 24x32" in said[0]
    for table in tables:
        rows = table.iloc[::-3]
        for image, path in zip(source.of(rows), rows["path"], strict=True):
            assert np.array_equal(image, PREPROCESS.load(path))


def test_a_later_run_decodes_only_new_images(tables, tmp_path, tiny_layout, monkeypatch):
    train, _ = tables
    opened((train.iloc[:-1],), tmp_path, "disk")
    decoded = []
    load = Preprocess.load
    monkeypatch.setattr(
        Preprocess,
        "load",
        lambda self, path, *rest: decoded.append(path) or load(self, path, *rest),
    )
    opened((train.iloc[:-1],), tmp_path, "disk")
    assert decoded == []
    opened((train,), tmp_path, "disk")
    assert decoded == [train["path"].iloc[-1]]
    known = known_keys(tmp_path / "pictures")
    monkeypatch.setattr("foldblend.image_checks.decode", None)
    monkeypatch.setattr("foldblend.image_values.decode", None)
    assert (
        load_data(DataConfig(data=str(tiny_layout)), lambda _: None, _with_test(known, tables))[0]
        is not None
    )


def _with_test(known, tables):
    from pipeline.data.images import _keys

    return known | {*_keys(tables[1])}


def test_another_size_or_decoding_has_another_cache(tables, tmp_path):
    opened(tables, tmp_path, "disk")
    opened(
        tables, tmp_path, "disk", Preprocess(width=32, height=24, mean=(0.5,) * 3, std=(0.5,) * 3)
    )
    opened(
        tables,
        tmp_path,
        "disk",
        Preprocess(width=24, height=32, mean=(0.5,) * 3, std=(0.5,) * 3, decode="full"),
    )
    margin = Preprocess(width=24, height=32, mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=0.8)
    assert opened(tables, tmp_path, "disk", margin).of(tables[0])[0].shape == (40, 30, 3)
    assert len([*(tmp_path / "pictures").iterdir()]) == 4


def test_images_that_need_levels_have_a_cache_for_each(tables, tmp_path):
    """Other images do not, so that caches of earlier versions are used."""
    opened(tables, tmp_path, "disk")
    many = [PREPROCESS]
    many += [dataclasses.replace(PREPROCESS, pixel_range=span) for span in ((0, 9.0), (0, 99.0))]
    many.append(dataclasses.replace(PREPROCESS, background="white"))
    # The pixels do not depend on how the range came about.
    many.append(dataclasses.replace(many[1], range_is_decided=True))
    for preprocess in many:
        opened(tables, tmp_path, "disk", preprocess)
    assert len([*(tmp_path / "pictures").iterdir()]) == 1
    for preprocess in many:
        opened(tables, tmp_path, "disk", preprocess, needs_levels=True)
    assert len([*(tmp_path / "pictures").iterdir()]) == 5


def test_ram_is_freed(tables, tmp_path):
    source = opened(tables, tmp_path, "ram")
    file = source.records.path
    assert file.exists()
    del source
    assert not file.exists()


@pytest.mark.parametrize("crop_pct", [1.0, 0.8])
def test_images_on_the_device_have_the_same_order_as_from_workers(tables, tmp_path, crop_pct):
    preprocess = Preprocess(width=24, height=32, mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=crop_pct)
    source = opened(tables, tmp_path, "device", preprocess)
    table = tables[0]
    pixels = resident_pixels(source, torch.device("cpu"))
    whole = ImageDataset(table, source, seed_parts=(3, 1), whole=True)
    pairs = (
        (
            train_loader(whole, table, batch_size=25, workers=2),
            resident_train_loader(table, source, pixels, batch_size=25, seed_parts=(3, 1)),
        ),
        (
            eval_loader(ImageDataset(table, source), batch_size=25, workers=0),
            ResidentLoader(table, source, pixels, batch_size=25),
        ),
    )
    for loaded, resident in pairs:
        assert len(loaded) == len(resident)
        for _ in range(2):  # epochs
            for one, other in zip(loaded, resident, strict=True):
                assert torch.equal(one[0], other[0])
                assert torch.equal(one[1], other[1])
    both = pairs[0]
    for loader in both:
        loader.enter(7, 2)
    entered = [list(loader) for loader in both]
    assert len(entered[0]) == len(entered[1]) == len(both[0]) - 2
    for step, (one, other) in enumerate(zip(*entered, strict=True)):
        assert torch.equal(one[0], other[0])
        assert one[1].tolist() == both[0].labels(7, step + 2).tolist()


def test_an_image_drawn_twice_in_an_epoch_is_augmented_differently(tables, tmp_path):
    preprocess = Preprocess(width=24, height=32, mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=0.8)
    source = opened(tables, tmp_path, "disk", preprocess)
    table = tables[0]
    train = ImageDataset(
        table, source, random_crop=True, seed_parts=(0,), augment=build_augmentation("default")
    )
    seen = {train.image(0, 3, draw).tobytes() for draw in range(8)}
    assert len(seen) == 8
    odds_N = np.full(len(table), 0.1 / (len(table) - 1))
    odds_N[3] = 0.9
    images, _ = next(iter(train_loader(train, table, batch_size=16, workers=0, odds_N=odds_N)))
    assert len({one.numpy().tobytes() for one in images}) == 16


def test_crops_are_random_in_training_and_central_otherwise(tables, tmp_path):
    preprocess = Preprocess(width=24, height=32, mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=0.8)
    source = opened(tables, tmp_path, "disk", preprocess)
    table = tables[0]
    stored = source.of(table)[0]
    windows = {stored[y : y + 32, x : x + 24].tobytes() for y in range(9) for x in range(7)}
    train = ImageDataset(table, source, random_crop=True, seed_parts=(0,))
    seen = {train.image(epoch, 0).tobytes() for epoch in range(30)}
    assert seen <= windows
    assert len(seen) > 10
    assert np.array_equal(ImageDataset(table, source).image(0, 0), stored[4:36, 3:27])


def test_off_reads_files(tables, tmp_path):
    source = opened(tables, tmp_path, "off")
    assert isinstance(source, ImageSource)
    assert np.array_equal(source.of(tables[0])[3], PREPROCESS.load(tables[0]["path"][3]))
    assert not (tmp_path / "pictures").exists()


def test_a_damaged_image_stops_before_training(tmp_path, damaged_table):
    with pytest.raises(UserError, match=r"b.png: damaged PNG"):
        opened((damaged_table,), tmp_path, "disk")


@pytest.fixture
def damaged_table(tmp_path):
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((40, 30, 3), np.uint8))
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:40])
    paths = [str(tmp_path / name) for name in ("a.png", "b.png")]
    content = [
        hashlib.blake2b(Path(path).read_bytes(), digest_size=16).hexdigest() for path in paths
    ]
    return pd.DataFrame({"image_id": ["a", "b"], "path": paths, "content": content})


def test_an_interrupted_flush_lists_no_record_twice(store, monkeypatch):
    real = os.fsync
    calls = []

    def interrupt(file):
        calls.append(file)
        real(file)
        # The keys are written then, but not yet counted.
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fill(store, [1, 2, 3, 4])
    monkeypatch.setattr(os, "fsync", real)
    fill(store, [5, 6])
    assert values(store, [1, 2, 3, 4, 5, 6]) == [1, 2, 3, 4, 5, 6]


def test_a_disk_that_accepts_only_a_part(store, monkeypatch):
    """A disk that fills up writes a part without an error; the part is not a record."""
    real = os.pwrite
    room = [5 * store.size - 2]

    def partly(file, data, offset):
        if not room[0]:
            raise OSError(28, "No space left on device")
        taken = real(file, bytes(data)[: room[0]], offset)
        room[0] -= taken
        return taken

    monkeypatch.setattr(os, "pwrite", partly)
    with pytest.raises(UserError, match="No space left"):
        fill(store, [*range(9)])
    monkeypatch.setattr(os, "pwrite", real)
    fill(store, [*range(9)])
    assert values(store, range(9)) == [*range(9)]


def test_truncated_or_removed_records_are_made_again(store):
    fill(store, [1, 2, 3])
    os.truncate(store.folder / "records", 2 * store.size + 1)
    assert store.missing([key(number) for number in (1, 2, 3)]) == [2]
    fill(store, [1, 2, 3, 4])
    assert values(store, [1, 2, 3, 4]) == [1, 2, 3, 4]
    (store.folder / "records").unlink()
    fill(store, [4, 1])
    assert values(store, [1, 4]) == [1, 4]


def test_a_complete_store_is_not_locked(store, monkeypatch):
    fill(store, [1, 2])
    monkeypatch.setattr("pipeline.data.cache.hold", None)
    fill(store, [2, 1])


def test_an_image_that_changed_after_hashing_is_not_cached(tables, tmp_path):
    changed = tables[0].iloc[:3].assign(content="another")
    with pytest.raises(UserError, match="changed while it was in use"):
        opened((changed,), tmp_path, "disk")


def test_a_file_in_place_of_the_folder_is_a_one_line_error(tables, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cache cannot be written.*--cache-dir"):
        opened(tables, tmp_path / "file", "disk")
