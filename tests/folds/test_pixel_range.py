"""The range of pixel values that is decided for a data set, and warnings on images outside it."""

import base64
import dataclasses
import io
import re

import cv2
import numpy as np
import PIL.Image
import pytest

from foldblend.errors import UserError
from foldblend.images import AS_BEFORE, Levels, Values, read_image
from folds.audit.run import run_audit
from folds.config import AuditConfig, DataConfig
from folds.data import load
from folds.data.class_folders import images_below
from folds.data.load import load_data
from folds.data.manifest import build_manifest
from folds.data.pixel_range import decided, with_levels_found


def values_up_to(most, *, shape=(12, 10)):
    return np.linspace(0, most, shape[0] * shape[1]).reshape(shape).astype(np.uint16)


def loaded(monkeypatch, folder, train, test=(), **settings):
    """Write arrays or PIL images as files, and return the manifest and the log."""
    files = {}
    for part, images in (("a", train), ("t", test)):
        for index, image in enumerate(images):
            is_float = isinstance(image, np.ndarray) and image.dtype.kind == "f"
            file = folder / f"{part}{index}.{'tif' if is_float else 'png'}"
            if isinstance(image, np.ndarray):
                cv2.imwrite(str(file), image)
            else:
                image.save(file)
            files[file.name] = file
    ours = [name for name in files if name.startswith("a")]
    manifest = build_manifest(
        name="zoo", root=folder, image_id=ours, path=[files[name] for name in ours], group=ours,
        label=[index % 2 for index in range(len(ours))], classes=["x", "y"], answers=["x", "y"],
        test=[(name, files[name]) for name in files if name.startswith("t")] or None,
    )  # fmt: skip
    monkeypatch.setattr(load, "load_manifest", lambda config: manifest)
    lines = []
    config = DataConfig(**settings)
    found, _ = load_data(config, lines.append)
    # The audit, which reads only the values first, decides the same.
    seen, _ = with_levels_found(manifest, config, lambda line: None)
    assert (seen.levels, seen.needs_levels) == (found.levels, found.needs_levels)
    assert seen.notes == found.notes
    return found, lines


PLAIN = np.full((9, 9), 200, np.uint8)


@pytest.mark.parametrize(
    ("peaks", "high"), [([1500], 4095), ([255], 255), ([900, 1023], 1023), ([1024], 4095)]
)
def test_the_smallest_depth_that_holds_all_training_images(monkeypatch, tmp_path, peaks, high):
    train = [*map(values_up_to, peaks), PLAIN]
    found, lines = loaded(monkeypatch, tmp_path, train)
    assert found.levels == Levels((0, high), background="white", range_is_decided=True)
    assert found.needs_levels
    many = "1 training image" if len(peaks) == 1 else f"{len(peaks)} training images"
    assert lines == [f"Pixel values from 0 to {high} become 0 to 255 ({many} of over 8 bits)."]
    assert not found.notes


def test_a_range_decided_on_integers_is_not_used_for_floats(monkeypatch, tmp_path):
    train = [values_up_to(4000), PLAIN]
    test = [np.ones((9, 9), np.float32)]
    text = r"t0\.tif: has decimal pixel values; train with --pixel-range LOW,HIGH"
    with pytest.raises(UserError, match=text):
        loaded(monkeypatch, tmp_path, train, test)
    found, _ = loaded(monkeypatch, tmp_path, train, test, pixel_range="0,4095")
    assert found.levels == Levels((0, 4095), background="white")
    # Values that a run with a typed range has found do not let the image pass.
    remembered = {}
    manifest = load.load_manifest(DataConfig())
    load_data(DataConfig(pixel_range="0,4095"), lambda line: None, remembered=remembered)
    assert len(remembered) == 2
    assert manifest.test is not None
    with pytest.raises(UserError, match=text):
        load_data(DataConfig(), lambda line: None, remembered=remembered)


def test_test_images_do_not_count_and_are_clipped(monkeypatch, tmp_path):
    test = [values_up_to(5000), values_up_to(300), PLAIN, values_up_to(65535)]
    found, lines = loaded(monkeypatch, tmp_path, [values_up_to(4000), PLAIN], test)
    assert found.levels.pixel_range == (0, 4095)
    [note] = found.notes
    assert note == (
        "2 test images have pixel values outside 0 to 4095, the range of the training images, and"
        " these are clipped: t0.png, t3.png"
    )
    assert lines[1] == f"warning: {note}"
    assert read_image(found.test["path"][0], levels=found.levels).max() == 255


def test_a_range_that_is_given_is_used_for_integers_too(monkeypatch, tmp_path):
    found, _ = loaded(monkeypatch, tmp_path, [values_up_to(4000), PLAIN], pixel_range="100,2000")
    assert found.levels.pixel_range == (100, 2000)


def test_images_of_8_bits_have_no_range(monkeypatch, tmp_path):
    """So their runs have the keys, and their caches the names, that they had before."""
    found, lines = loaded(monkeypatch, tmp_path, [PLAIN, PLAIN // 2])
    assert found.levels == Levels(background="white")
    assert not found.needs_levels
    assert lines == []
    # With a brighter image in the test set only, its upper 8 of 16 bits are read.
    dim = values_up_to(4000)
    found, lines = loaded(monkeypatch, tmp_path, [PLAIN, PLAIN // 2], [dim])
    assert found.levels.pixel_range is None
    assert found.needs_levels
    assert "1 test image has 16 bits but uses only values up to 4000 of 65535" in lines[0]


def test_off_is_what_earlier_versions_did(monkeypatch, tmp_path):
    train = [values_up_to(40000), PIL.Image.new("RGBA", (9, 9))]
    found, _ = loaded(monkeypatch, tmp_path, train, pixel_range="off", alpha_background="drop")
    assert found.levels == AS_BEFORE
    assert not found.needs_levels


def test_transparency_alone_needs_levels(monkeypatch, tmp_path):
    found, lines = loaded(monkeypatch, tmp_path, [PLAIN, PIL.Image.new("RGBA", (9, 9))])
    assert found.levels == Levels(background="white")
    assert found.needs_levels
    assert lines == []


def test_float_images_need_a_range(monkeypatch, tmp_path):
    train = [values_up_to(40).astype(np.float32) / 7, PLAIN]
    with pytest.raises(UserError, match=r"a0\.tif: has decimal pixel values; train with --pixel-r"):
        loaded(monkeypatch, tmp_path, train)
    found, _ = loaded(monkeypatch, tmp_path, train, pixel_range="0,5")
    assert found.levels.pixel_range == (0, 5)


def test_ranges_of_dicom_headers_are_joined_and_little_use_of_them_is_told():
    def values(low, high, span):
        return Values(span, low, high)

    config = DataConfig()
    spans = [values(0, 99, (-1024.0, 3071.0)), values(0, 9, (0.0, 4095.0)), None]
    assert decided(config, spans).pixel_range == (-1024, 4095)
    windowed = [dataclasses.replace(one, span=None, is_deep=False) for one in spans[:2]]
    assert decided(DataConfig(dicom_window="40,400"), windowed).pixel_range is None


def test_little_use_of_the_range_is_told(monkeypatch, tmp_path):
    pytest.importorskip("pydicom")
    from tests.makers.dicom_files import write_dicom

    files = []
    for index in range(4):
        pixels = (np.arange(100).reshape(10, 10) * 3 + index).astype(np.int16)
        file = tmp_path / f"{index}.dcm"
        files.append(write_dicom(file, pixels, RescaleSlope="1", RescaleIntercept="-100"))
    names = [one.name for one in files]
    manifest = build_manifest(
        name="zoo", root=tmp_path, image_id=names, path=files, group=names, label=[0, 1, 0, 1],
        classes=["x", "y"], answers=["x", "y"],
    )  # fmt: skip
    monkeypatch.setattr(load, "load_manifest", lambda config: manifest)
    found, _ = load_data(DataConfig(), lambda line: None)
    assert found.levels.pixel_range == (-32868, 32667)
    assert found.notes == (
        "training images have values from -100 to 200 only, of -32868 to 32667, so they will have"
        " few shades of grey; pass --pixel-range LOW,HIGH, or --dicom-window for DICOM",
    )
    found, _ = load_data(DataConfig(pixel_range="-100,200"), lambda line: None)
    assert not found.notes


def test_the_page_of_the_audit_shows_images_in_the_range(tmp_path):
    for index in range(8):
        folder = tmp_path / "data" / "xy"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{index}.png"), values_up_to(4000, shape=(40, 40)) + index)
    # Read with the upper 8 bits only, all these images would be black.
    cv2.imwrite(str(tmp_path / "data" / "x" / "float.tif"), np.ones((9, 9), np.float32))
    lines = []
    data = DataConfig(data=str(tmp_path / "data"))
    config = AuditConfig(data=data)
    config = dataclasses.replace(
        config,
        page=dataclasses.replace(config.page, page=str(tmp_path / "a.html"), quick=True),
        split=dataclasses.replace(config.split, folds=2),
    )
    run_audit(config, say=lines.append)
    assert (
        "Pixel values from 0 to 4095 become 0 to 255 (8 training images of over 8 bits)." in lines
    )
    assert any("has decimal pixel values" in line for line in lines)
    page = (tmp_path / "a.html").read_text()
    shown = re.findall(r"data:image/jpeg;base64,([\w+/=]+)", page)
    assert len(shown) == 8
    for one in shown:
        tile = np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(one))))
        assert tile.mean() == pytest.approx(125, abs=5)


def test_dicom_without_a_suffix_is_found_in_folders(tmp_path):
    (tmp_path / "a").mkdir()
    mark = bytes(128) + b"DICM"
    for name, content in {
        "IM0001": mark, "1.2.840.5": mark, "b.dcm": b"", "c.DICOM": b"", "DICOMDIR": mark,
        "README": b"words", "notes.txt": mark, "1.2.3": b"no",
    }.items():  # fmt: skip
        (tmp_path / "a" / name).write_bytes(content)
    found = images_below(tmp_path)
    assert found.images == ("a/1.2.840.5", "a/IM0001", "a/b.dcm", "a/c.DICOM")
    assert images_below(tmp_path, ".dcm").images == ("a/b.dcm",)
