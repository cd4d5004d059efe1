"""Wrong input of predict.py: one line, and nothing of the user's is replaced."""

from __future__ import annotations

import csv
import json
import os
import shutil

import numpy as np
import pandas as pd
import PIL.Image
import pytest

import export_model as export_script
import foldblend as fb
import predict as predict_script
from foldblend.errors import UserError
from tests.makers.edits import rehash


@pytest.fixture
def command(command_of):
    return command_of(predict_script.main)


@pytest.fixture
def image(tiny_layout):
    return min((tiny_layout / "eval" / "images").iterdir())


def quiet(_):
    pass


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--folds", "0,99"], "--folds 0,99: beta has 2 models"),
        (["--device", "meta"], "--device meta: this machine has no such GPU"),
        (["--threads", 1_000_000], "at most 1024"),
        (["--group-col", "nope"], "--group-col nope: no table of images has it"),
        (["--out", f"{'n' * 300}.csv"], "is too long, as a name may have 239 bytes"),
    ],
)
def test_flags_that_cannot_be_followed(command, tiny_runs, image, flags, words):
    command(tiny_runs / "beta", image, *flags).assert_one_line_error(words)


def test_pattern_that_fits_nothing_names_its_place(command, tiny_runs):
    command(tiny_runs / "beta", "nope*.jpg").assert_one_line_error("IMAGES nope*.jpg: no image")


def test_files_of_a_run_and_of_the_command_are_never_replaced(command, runs_copy, image, tmp_path):
    beta = runs_copy / "beta"
    before = (beta / "oof.parquet").read_bytes()
    for flag, name in (("--out", "oof.parquet"), ("--out", "new.csv"), ("--page", "report.html")):
        done = command(beta, image, flag, beta / name, "--overwrite")
        done.assert_one_line_error("is in the folder of a run")
    assert (beta / "oof.parquet").read_bytes() == before
    table = tmp_path / "table.csv"
    table.write_text(f"image\n{image}\n")
    done = command(beta, table, "--out", table, "--overwrite")
    done.assert_one_line_error("is read by this command")
    assert table.read_text() == f"image\n{image}\n"


def test_folders_of_what_is_written_are_made(command, tiny_runs, image, tmp_path):
    out = tmp_path / "new" / "of" / "beta.csv"
    page = tmp_path / "pages" / "beta.html"
    (tmp_path / "file").touch()
    done = command(tiny_runs / "beta", image, "--out", tmp_path / "file" / "beta.csv")
    done.assert_one_line_error("cannot be written (it is a file); pass another --out")
    done = command(tiny_runs / "beta", image, "--folds", "0,99", "--out", out)
    done.assert_one_line_error("--folds")
    assert not (tmp_path / "new").exists()
    assert command(tiny_runs / "beta", image, "--out", out, "--page", page).code == 0
    assert len(pd.read_csv(out)) == 1
    assert page.is_file()


def test_table_without_rows(command, tiny_runs, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("image\n")
    command(tiny_runs / "beta", table).assert_one_line_error("there are none in it")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no named pipes")
def test_a_pipe_is_no_image(command, tiny_runs, image, tmp_path):
    os.mkfifo(tmp_path / "image.jpg")
    command(tiny_runs / "beta", tmp_path).assert_one_line_error(
        "image.jpg: is a pipe or device, not a file"
    )
    os.mkfifo(tmp_path / "new.csv")
    done = command(tiny_runs / "beta", image, "--out", tmp_path / "new.csv", "--overwrite")
    done.assert_one_line_error("no file can be written there")


def test_names_in_odd_characters(command, tiny_runs, image, tmp_path):
    new = tmp_path / "new"
    new.mkdir()
    names = sorted(['a,b".jpg', "=cmd.jpg", "a\nb.jpg", "a\rb.jpg"])
    for name in names:
        shutil.copy(image, new / name)
    out = tmp_path / "found.csv"
    assert command(tiny_runs / "beta", new, "--out", out).code == 0
    with out.open(encoding="utf-8", newline="") as file:
        rows = [*csv.DictReader(file)]
    assert sorted(row["image_id"] for row in rows) == names
    try:
        shutil.copy(image, new / os.fsdecode(b"bad\xff.jpg"))
    except OSError:
        pytest.skip("names of files are text here")
    command(tiny_runs / "beta", new).assert_one_line_error("is not UTF-8 text")


@pytest.mark.parametrize("place", ["loop", "nul\0byte"])
def test_runs_that_have_no_folder(tiny_runs, image, tmp_path, place):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match="run"):
        fb.predict(f"{tmp_path}/{place}", image, say=quiet)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("run.json", {"classes": 3}),
        ("run.json", {"classes": []}),
        ("run.json", {"kind": "other"}),
        ("run.json", {"kind": "tta"}),
        ("run.json", {"views": [3]}),
        ("run.json", {"folds": [1, 2]}),
        ("run.json", {"preprocess": {"width": "32"}}),
        ("run.json", {"preprocess": []}),
        ("fold_0/done.json", {"files": []}),
    ],
)
def test_damaged_runs(command, runs_copy, image, name, change):
    file = runs_copy / "beta" / name
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    command(runs_copy / "beta", image).assert_one_line_error(str(runs_copy / "beta"))


def test_deep_json_and_wrong_rows(command, runs_copy, image):
    (runs_copy / "alpha" / "run.json").write_text("[" * 100_000)
    command(runs_copy / "alpha", image).assert_one_line_error("not valid JSON")
    beta = fb.load(runs_copy / "beta")
    beta.oof.assign(label=99).to_parquet(beta.path / "oof.parquet")
    rehash(beta.path / "oof.parquet")
    command(beta.path, image).assert_one_line_error("label must be from 0 to 17")


def test_member_that_is_made_again_between_two_predictions(runs_copy, image):
    made = fb.blend([runs_copy / "alpha", runs_copy / "beta"], name="two", page=False, say=quiet)
    blend = fb.load(made.path)
    blend.predict([image])
    shutil.rmtree(runs_copy / "beta")
    shutil.copytree(runs_copy / "alpha", runs_copy / "beta")
    with pytest.raises(UserError, match="made again"):
        blend.predict([image])


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pil_images_with_more_than_16_bits(tiny_runs, mode):
    image = PIL.Image.new(mode, (40, 40))
    with pytest.raises(UserError, match="scale it to 8 or 16 bits"):
        fb.predict(tiny_runs / "beta", image, say=quiet)


def test_images_with_16_bits_in_memory_are_those_of_their_file(tiny_runs, tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (40, 40), dtype=np.uint16)
    image = PIL.Image.fromarray(values)
    image.save(tmp_path / "a.png")
    found = [
        fb.predict(tiny_runs / "beta", one, odd=False, say=quiet).iloc[0, 1:].tolist()
        for one in (image, values, values.astype(">u2"), tmp_path / "a.png")
    ]
    assert found == found[:1] * 4


def test_export_replaces_no_table_of_a_run(command_of, runs_copy, tmp_path):
    export = command_of(export_script.main)
    beta = runs_copy / "beta"
    before = (beta / "oof.parquet").read_bytes()
    done = export(beta, "--to", beta / "oof.parquet", "--overwrite")
    done.assert_one_line_error("is a file of a run, so it is not replaced")
    assert (beta / "oof.parquet").read_bytes() == before
    export(beta, "--to", tmp_path / f"{'n' * 300}.zip").assert_one_line_error("is too long")
    assert export(beta, "--to", tmp_path / "model.zip").code == 0
    assert export(beta, "--to", tmp_path / "model.zip", "--overwrite").code == 0


def test_files_beside_the_table_are_not_replaced_and_never_of_another_one(
    command, tiny_runs, image, tmp_path
):
    out = tmp_path / "new.csv"
    for name, flags in (
        ("new_left_out.csv", ["--on-bad-image", "skip"]),
        ("new_by_group.csv", ["--group-from", "parent"]),
    ):
        (tmp_path / name).write_text("mine")
        done = command(tiny_runs / "beta", image, "--out", out, *flags)
        done.assert_one_line_error(f"{name}: is there already")
    assert command(tiny_runs / "beta", image, "--out", out, "--overwrite").code == 0
    assert [file.name for file in tmp_path.iterdir()] == ["new.csv"]
