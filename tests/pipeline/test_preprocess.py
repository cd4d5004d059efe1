"""The record of preprocessing in run.json: it is enough to make the same pixels again."""

import json

import cv2
import numpy as np
import PIL.Image
import pytest
import torch

from foldblend.images import read_image
from pipeline.data.preprocess import Preprocess, region_of

FILTERS = {"area": cv2.INTER_AREA, "cubic": cv2.INTER_CUBIC}
SCALED = {
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
RECORDED = {
    "library": "opencv",
    "color": "RGB",
    "grey": "repeated in three channels",
    "alpha": "dropped; colour TIFF with unassociated alpha: colours are multiplied by alpha;"
    " GIF: transparent pixels have the background colour",
    "bits": "8; the upper 8 of 16",
    "orientation": "upright by EXIF, except AVIF",
    "frame": "first",
    "aspect": "stretched",
    "crop": "center",
    "value_range": [0, 255],
    "normalize": "(value - 255 * mean) / (255 * std)",
    "layout": "NCHW float32",
}


def pixels_by(record, file, box=None):
    """Return the model's input for a file, made with OpenCV and numpy from a record only."""
    assert {key: record[key] for key in RECORDED} == RECORDED
    # OpenCV itself turns images upright, treats alpha, drops the lower bits, and repeats grey.
    image = cv2.imread(str(file), cv2.IMREAD_COLOR)
    height, width = image.shape[:2]
    scaled = record["scaled_decode"]
    at_least = scaled["at_least"]
    with PIL.Image.open(file) as header:
        is_scaled = header.format in scaled["formats"]
    if is_scaled and (box is None or scaled["of_boxed_images"]):
        for factor in sorted(scaled["factors"], reverse=True):
            if width >= factor * at_least[0] and height >= factor * at_least[1]:
                image = cv2.imread(str(file), SCALED[factor])
                break
    if box is not None:
        assert record["region"]["rounding"] == "outwards, inside the image"
        left, top = (max(0, int(np.floor(value))) for value in box[:2])
        image = image[top : int(np.ceil(box[3])), left : int(np.ceil(box[2]))]
    height, width = image.shape[:2]
    size = tuple(record["stored_size"])
    case = "otherwise"
    if (width, height) == size:
        case = "equal"
    elif width > size[0] or height > size[1]:
        case = "a_side_shrinks"
    if record["resize"][case] != "none":
        image = cv2.resize(image, size, interpolation=FILTERS[record["resize"][case]])
    left = (size[0] - record["width"]) // 2
    top = (size[1] - record["height"]) // 2
    image = image[top : top + record["height"], left : left + record["width"], ::-1]
    mean, std = (np.float32(record[key]) * np.float32(255) for key in ("mean", "std"))
    return ((image.astype(np.float32) - mean) / std).transpose(2, 0, 1)[None]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return image files of many kinds, in sizes above, below and equal to the model's."""
    folder = tmp_path_factory.mktemp("kinds")
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (200, 300, 3), dtype=np.uint8)
    photo = cv2.GaussianBlur(noise, (0, 0), 2)
    large = cv2.resize(photo, (900, 600), interpolation=cv2.INTER_CUBIC)
    turned = PIL.Image.Exif()
    turned[0x0112] = 6
    PIL.Image.fromarray(large).save(folder / "large.jpg")
    PIL.Image.fromarray(large).save(folder / "turned.jpg", exif=turned)
    PIL.Image.fromarray(large).save(folder / "turned.png", exif=turned)
    PIL.Image.fromarray(photo).save(folder / "photo.jpg")
    PIL.Image.fromarray(large[..., 0]).save(folder / "grey.jpg")
    PIL.Image.fromarray(photo[..., 0]).save(folder / "grey.png")
    PIL.Image.fromarray(np.dstack([photo, noise[..., 0]])).save(folder / "alpha.png")
    PIL.Image.fromarray(np.dstack([photo, noise[..., 0]])).save(folder / "alpha.tif")
    PIL.Image.fromarray(photo[:20, :30]).save(folder / "small.png")
    PIL.Image.fromarray(photo[:20]).save(folder / "low.png")
    PIL.Image.fromarray(photo[:24, :32]).save(folder / "equal.png")
    PIL.Image.fromarray(photo).convert("CMYK").save(folder / "cmyk.jpg")
    cv2.imwrite(str(folder / "deep.png"), rng.integers(0, 65535, (60, 90, 3), dtype=np.uint16))
    cv2.imwrite(str(folder / "deep.tif"), rng.integers(0, 65535, (60, 90), dtype=np.uint16))
    return sorted(folder.iterdir())


@pytest.mark.parametrize("decode", ["scaled", "full"])
@pytest.mark.parametrize("crop_pct", [1.0, 0.8])
@pytest.mark.parametrize("box", [None, (3.5, 2.0, 24.25, 18.0)])
def test_the_record_gives_the_same_pixels(files, decode, crop_pct, box):
    preprocess = Preprocess(
        width=32, height=24, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
        crop_pct=crop_pct, decode=decode,
    )  # fmt: skip
    region = region_of("auto", 0.7, has_boxes=box is not None)
    record = json.loads(json.dumps(preprocess.record(region)))
    for file in files:
        stored = preprocess.load(str(file), box)
        ours = preprocess.normalise(torch.from_numpy(preprocess.crop(stored[None]).copy()))
        assert np.array_equal(ours.numpy(), pixels_by(record, file, box)), file


def test_another_filter_would_give_other_pixels(files):
    preprocess = Preprocess(width=32, height=24, mean=(0.5,) * 3, std=(0.5,) * 3)
    record = preprocess.record(region_of("auto", 0.7, has_boxes=False))
    record["resize"] = record["resize"] | {"a_side_shrinks": "cubic"}
    stored = preprocess.load(str(files[-2]))
    ours = preprocess.normalise(torch.from_numpy(stored[None].copy())).numpy()
    assert not np.array_equal(ours, pixels_by(record, files[-2]))


def test_the_record_tells_what_happens_to_transparency(tmp_path):
    row, column = np.mgrid[:64, :64].astype(np.uint8)
    half = np.where(column > 32, 255, 100).astype(np.uint8)
    stored = np.dstack([column * 3, row * 3, row + column])
    image = PIL.Image.fromarray(np.dstack([stored, half]))
    image.save(tmp_path / "a.webp", lossless=True, exact=True)
    image.save(tmp_path / "a.avif", quality=100)
    grey = PIL.Image.fromarray(np.dstack([column * 3, half]), "LA")
    grey.save(tmp_path / "grey.tif")
    for name in ("a.png", "a.bmp", "a.jp2", "a.tif"):
        image.save(tmp_path / name)
    palette = PIL.Image.fromarray((column > 32).astype(np.uint8), "P")
    palette.putpalette([9, 20, 30, 100, 0, 0, 0, 0, 99])
    palette.save(tmp_path / "a.gif", transparency=1, background=2, optimize=False)
    for name in ("a.png", "a.webp", "a.bmp", "a.jp2"):
        assert np.array_equal(read_image(tmp_path / name), stored), name
    assert np.abs(read_image(tmp_path / "a.avif").astype(int) - stored).mean() < 2
    assert np.array_equal(read_image(tmp_path / "grey.tif")[..., 0], column * 3)
    multiplied = np.round(stored.astype(float) * half[..., None] / 255)
    assert np.array_equal(read_image(tmp_path / "a.tif"), multiplied)
    assert read_image(tmp_path / "a.gif")[0, [0, 63]].tolist() == [[9, 20, 30], [0, 0, 99]]


def test_the_record_names_the_part_that_is_used():
    where = {"boxes": "column box of pictures.parquet", "rounding": "outwards, inside the image"}
    assert region_of("auto", 0.7, has_boxes=False) == {"kind": "whole"}
    assert region_of("auto", 0.7, has_boxes=True) == {"kind": "box", **where}
    assert region_of("box", 0.7, has_boxes=True) == {"kind": "box", **where}
    assert region_of("face", 0.6, has_boxes=True) == {"kind": "face", "share": 0.6, **where}


def test_settings_of_a_record_make_the_preprocessing(alpha):
    record = alpha.info["preprocess"]
    assert record["version"] == cv2.__version__
    settings = {key: record[key] for key in Preprocess.__dataclass_fields__}
    preprocess = Preprocess(**settings)
    assert preprocess.stored_size == tuple(record["stored_size"])
    assert json.loads(json.dumps(preprocess.record(record["region"]))) == record


def test_a_run_that_is_repeated_keeps_its_record(runs_copy, cv_command):
    file = runs_copy / "alpha" / "run.json"
    before = json.loads(file.read_text(encoding="utf-8"))
    before["preprocess"]["version"] = "0.0"
    file.write_text(json.dumps(before), encoding="utf-8")
    done = cv_command("--config", runs_copy / "alpha" / "config.yaml", "--output", runs_copy)
    assert done.code == 0, done.err
    assert json.loads(file.read_text(encoding="utf-8"))["preprocess"] == before["preprocess"]
