"""Runs on images of more than 8 bits, on DICOM and on transparent images, up to predictions."""

import json
import re
import shutil

import cv2
import numpy as np
import pandas as pd
import PIL.Image
import pytest
import yaml

import foldblend as fb
import run_cv
import run_tta
from foldblend.errors import UserError
from foldblend.images import read_image
from foldblend.runs.run import Run
from pipeline.predict.config import PredictConfig
from pipeline.predict.inputs import read_inputs
from pipeline.predict.run import Prediction
from pipeline.predict.session import open_session
from tests.makers.constants import TINY

pytestmark = pytest.mark.slow

NUM = 16
SIDE = 40


def quiet(line):
    pass


def values_of(index, *, most=4095):
    """Return the values of an image, whose class is its brightness, with 12 bits."""
    rng = np.random.default_rng(index)
    grey = np.clip(rng.normal(900 + 1600 * (index % 2), 500, (SIDE, SIDE)), 0, 4095)
    return (grey * most / 4095).astype(np.uint16)


def written(folder, save, *, suffix, num_test=4):
    """Write images of two classes by `save(file, index)` with their tables; return the folder."""
    folder.mkdir(exist_ok=True)
    rows = []
    for index in range(NUM + num_test):
        save(folder / f"{index:02d}.{suffix}", index)
        rows.append((f"{index:02d}.{suffix}", "ab"[index % 2], f"g{index // 2}"))
    table = pd.DataFrame(rows, columns=["image", "label", "group"])
    table[:NUM].to_csv(folder / "train.csv", index=False)
    table[NUM:][["image"]].to_csv(folder / "test.csv", index=False)
    return folder


def save_12_bits(file, index):
    values = values_of(index)
    # The last image of the training set has the largest value; a test image is brighter.
    if index == 3:
        values[0, 0] = 4095
    if index == NUM + 1:
        values[:9] = 60000
    cv2.imwrite(str(file), values)


def command(folder, output, name="run", *more):
    return [
        "--csv", str(folder / "train.csv"), "--test", str(folder / "test.csv"), "--group-col",
        "group", "--output", str(output), "--name", name, "--backbone", "test_vit",
        "--batch-size", "8", "--cache-dir", str(output / "cache"), *TINY, *more,
    ]  # fmt: skip


def cross_validated(folder, output, name="run", *more):
    assert run_cv.main(command(folder, output, name, *more)) == 0
    return Run(output / name)


def logits(run, images):
    """Return the logits of images by a run's models, as predict.py has them."""
    config = PredictConfig(run=str(run.path))
    session = open_session(run.path, config, say=quiet)
    inputs = read_inputs(images, config.reading({}), run.classes)
    return Prediction(session, inputs, config, say=quiet).logits()[1]


def as_tested(run, folder):
    """Assert that test images are predicted as the run predicted them; return their logits."""
    table = run.test.set_index("image_id")
    found_NC = logits(run, [str(folder / name) for name in table.index])
    np.testing.assert_array_equal(found_NC, run.logits(table))
    return found_NC


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    return written(tmp_path_factory.mktemp("deep") / "data", save_12_bits, suffix="png")


@pytest.fixture(scope="module")
def run(deep, tmp_path_factory):
    return cross_validated(deep, tmp_path_factory.mktemp("outputs"))


def test_the_range_is_recorded_and_later_images_are_read_with_it(run, deep):
    record = run.info["preprocess"]
    assert record["pixel_range"] == [0, 4095]
    assert (
        record["bits"] == "8; values of more bits: 0 to 4095 become 0 to 255, rounded and clipped"
    )
    assert record["range_is_decided"] is True
    assert run.settings["pixel_range"] == "0,4095"
    assert "pixel values" in run.info["run_key"]
    found_NC = as_tested(run, deep)
    # The same pixels in memory are the same image.
    names = run.test["image_id"].tolist()
    arrays = [cv2.imread(str(deep / name), cv2.IMREAD_UNCHANGED) for name in names]
    np.testing.assert_array_equal(logits(run, arrays), found_NC)
    # So is an image of 8 bits with the same levels.
    levels = [np.rint(np.minimum(one, 4095) / 4095 * 255).astype(np.uint8) for one in arrays]
    np.testing.assert_array_equal(logits(run, levels), found_NC)


def test_test_images_outside_the_range_are_counted(run, deep):
    notes = json.loads((run.path / "report.json").read_text())["notes"]
    assert (
        "1 test image has pixel values outside 0 to 4095, the range of the training images, and"
        f" these are clipped: {NUM + 1}.png"
    ) in notes


def test_equal_levels_give_equal_logits(run, deep, tmp_path):
    """A data set of 8 bits with the same levels has the same logits, and no range."""

    def save(file, index):
        values = cv2.imread(str(deep / f"{index:02d}.png"), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(file), np.rint(np.minimum(values, 4095) / 4095 * 255).astype(np.uint8))

    folder = written(tmp_path / "data", save, suffix="png")
    plain = cross_validated(folder, tmp_path)
    assert plain.info["preprocess"]["pixel_range"] is None
    assert "pixel values" not in plain.info["run_key"]
    assert plain.settings["pixel_range"] == "auto"
    pd.testing.assert_frame_equal(plain.oof, run.oof, check_exact=True)
    pd.testing.assert_frame_equal(plain.test, run.test, check_exact=True)


def test_tta_and_exports_use_the_range(run, deep, tmp_path):
    assert run_tta.main([str(run.path), "--views", "identity,hflip", "--no-page"]) == 0
    augmented = Run(run.path.with_name(f"{run.path.name}_tta"))
    as_tested(augmented, deep)
    file = fb.export_model(run.path, tmp_path / "run.zip", say=quiet)
    images = [str(deep / name) for name in run.test["image_id"]]
    found = [fb.predict(one, images, say=quiet) for one in (run.path, file)]
    pd.testing.assert_frame_equal(*found, check_exact=True)


def test_floats_are_refused_by_a_range_that_was_decided_on_integers(run, deep, tmp_path):
    """Those from 0 to 1 would be black; a run whose range was typed takes them."""
    file = tmp_path / "a.tif"
    values = values_of(0)
    cv2.imwrite(str(file), (values / 4095).astype(np.float32))
    exported = fb.export_model(run.path, tmp_path / "run.zip", say=quiet)
    assert (
        run_tta.main([str(run.path), "--views", "identity,hflip", "--name", "turned", "--no-page"])
        == 0
    )
    turned = run.path.with_name("turned")
    text = re.escape(f"{file}: has decimal pixel values; train with --pixel-range LOW,HIGH")
    for one in (run.path, exported, turned):
        with pytest.raises(UserError, match=text):
            fb.predict(one, [str(file)], say=quiet)
        # Integers in memory and beside it are predicted.
        assert len(fb.predict(one, [values], say=quiet)) == 1
        images = [str(file), str(deep / "00.png")]
        assert len(fb.predict(one, images, on_bad_image="skip", say=quiet)) == 1
    # A run from before this was recorded goes on as it did, as one with a typed range.
    old = tmp_path / "old"
    shutil.copytree(run.path, old)
    info = json.loads((old / "run.json").read_text())
    del info["preprocess"]["range_is_decided"]
    (old / "run.json").write_text(json.dumps(info))
    assert len(fb.predict(old, [str(file)], say=quiet)) == 1


def test_whether_the_range_was_decided_outlasts_a_repeated_command(run, deep):
    before = (run.path / "run.json").read_bytes()
    again = cross_validated(deep, run.path.parent)
    assert again.info["preprocess"]["range_is_decided"] is True
    assert (run.path / "run.json").read_bytes() == before


def test_another_range_is_another_run_with_another_cache(run, deep, capsys):
    assert run_cv.main(command(deep, run.path.parent, "run", "--pixel-range", "0,2000")) == 2
    assert "was made with another --pixel-range, --dicom-window or" in capsys.readouterr().err
    other = cross_validated(deep, run.path.parent, "other", "--pixel-range", "0,2000")
    assert other.info["preprocess"]["pixel_range"] == [0, 2000]
    assert other.info["preprocess"]["range_is_decided"] is False
    assert not np.array_equal(run.logits(run.oof), other.logits(other.oof))
    as_tested(other, deep)


def test_features_of_a_frozen_backbone_are_cached_for_each_range(deep, tmp_path):
    found = {}
    for name, span in (("a", "0,4095"), ("b", "0,2000")):
        for cache in ("disk", "off"):
            more = ("--finetune", "head", "--pixel-range", span, "--cache", cache)
            found[name, cache] = cross_validated(deep, tmp_path, f"{name}-{cache}", *more).oof
        pd.testing.assert_frame_equal(found[name, "disk"], found[name, "off"], check_exact=True)
    logit_N = [found[name, "disk"]["logit_0"] for name in "ab"]
    assert not np.array_equal(*logit_N)


def test_thumbnails_of_the_page_have_the_range(run, deep):
    from foldblend.images import Levels
    from reports.html import thumbnail
    from reports.run.thumbnails import HEIGHT, QUALITY, gallery_images_of

    name = run.oof["image_id"].iloc[0]
    images = gallery_images_of(run, [name])
    image = read_image(deep / name, levels=Levels((0, 4095)))
    assert images.thumbnails[name] == thumbnail(image, height=HEIGHT, quality=QUALITY)


def test_a_run_from_before_ranges_keeps_the_upper_8_bits(deep, tmp_path, capsys):
    """Its files lack all settings of levels; the same command has nothing to do."""
    old = cross_validated(
        deep, tmp_path, "run", "--pixel-range", "off", "--alpha-background", "drop"
    )
    assert "pixel values" not in old.info["run_key"]
    config = yaml.safe_load((old.path / "config.yaml").read_text())
    info = json.loads((old.path / "run.json").read_text())
    for name in ("pixel_range", "dicom_window", "alpha_background"):
        del config[name]
    for name in ("pixel_range", "dicom_window", "background"):
        del info["preprocess"][name]
    (old.path / "config.yaml").write_text(yaml.safe_dump(config))
    info.pop("config_hash", None)
    (old.path / "run.json").write_text(json.dumps(info))
    capsys.readouterr()
    again = cross_validated(deep, tmp_path)
    assert again.info["finished"] == info["finished"]
    assert again.info["run_key"] == info["run_key"]
    assert "keeps its treatment" not in capsys.readouterr().out
    # Without --name, the run is found after its data are read.
    named = old.path.rename(tmp_path / "train_test_vit")
    argv = command(deep, tmp_path)
    place = argv.index("--name")
    assert run_cv.main([*argv[:place], *argv[place + 2 :]]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "keeps its treatment of values of more than 8 bits" in said
    assert "will look nearly black" in said
    again = Run(named)
    assert again.info["finished"] == info["finished"]
    upper = [str(deep / name) for name in again.test["image_id"]]
    arrays = [cv2.imread(one) for one in upper]
    assert max(one.max() for one in arrays) > 200
    np.testing.assert_array_equal(logits(again, arrays), again.logits(again.test))


def save_transparent(file, index):
    pixels = np.zeros((SIDE, SIDE, 4), np.uint8)
    pixels[..., :3] = (values_of(index) >> 4)[..., None]
    pixels[: SIDE // 2, :, 3] = 255
    PIL.Image.fromarray(pixels).save(file)


def test_transparent_images_are_laid_over_the_recorded_background(tmp_path):
    folder = written(tmp_path / "data", save_transparent, suffix="png")
    found = {}
    for name in ("white", "black", "drop"):
        more = () if name == "white" else ("--alpha-background", name)
        one = cross_validated(folder, tmp_path, name, *more)
        assert one.info["preprocess"]["background"] == (None if name == "drop" else name)
        found[name] = as_tested(one, folder)
        images = [PIL.Image.open(folder / image) for image in one.test["image_id"]]
        np.testing.assert_array_equal(logits(one, images), found[name])
    assert not np.array_equal(found["white"], found["black"])
    assert not np.array_equal(found["white"], found["drop"])


def test_dicom_from_folders_without_suffixes_to_predictions(tmp_path):
    pytest.importorskip("pydicom")
    from tests.makers.dicom_files import write_dicom

    for index in range(NUM):
        folder = tmp_path / "data" / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        name = f"1.2.{index}" if index % 3 else f"IM{index}.dcm"
        write_dicom(
            folder / name, values_of(index), BitsStored=12, RescaleSlope="1",
            RescaleIntercept="-1024",
        )  # fmt: skip
    (tmp_path / "data" / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    argv = command(tmp_path, tmp_path)
    argv = ["--data", str(tmp_path / "data"), *argv[argv.index("--output") :]]
    for name, more, wanted in (
        ("full", (), {"pixel_range": [-1024, 3071], "dicom_window": "full"}),
        ("window", ("--dicom-window", "0,1500"), {"pixel_range": None, "dicom_window": "0,1500"}),
    ):
        assert run_cv.main([*argv, "--name", name, *more]) == 0
        found = Run(tmp_path / name)
        assert len(found.oof) == NUM
        record = found.info["preprocess"]
        assert {key: record[key] for key in wanted} == wanted
        # Predicting is the same from a copy of another name.
        file = next((tmp_path / "data" / "a").iterdir())
        shutil.copy(file, tmp_path / "copy")
        np.testing.assert_array_equal(
            logits(found, [str(file)]), logits(found, [str(tmp_path / "copy")])
        )


def test_bad_images_are_named_in_one_line(tmp_path):
    folder = written(
        tmp_path / "data",
        lambda file, index: cv2.imwrite(str(file), values_of(index).astype(np.float32)),
        suffix="tif",
    )
    config = {"csv": folder / "train.csv", "group_col": "group", "output": tmp_path}
    text = re.escape(f"{folder / '00.tif'}: has decimal pixel values; train with --pixel-range")
    with pytest.raises(UserError, match=text):
        fb.cross_validate(**config, say=quiet)
    assert not any(one.name != "data" for one in tmp_path.iterdir())
    found = cross_validated(folder, tmp_path, "run", "--pixel-range", "0,4095")
    as_tested(found, folder)
