"""Exported files that are damaged or hostile are refused on one line, and nothing of them runs."""

import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

import foldblend as fb
import run_cv
from ensemble.blend import blend
from foldblend.errors import UserError
from pipeline.export.file import DIGITS, FORMAT, Archive, plain_json, write_archive
from pipeline.export.read import read_export
from pipeline.export.write import export_model
from pipeline.predict.stream import Stream
from tests.makers.constants import TINY

REFUSED = r"export the run again|is no exported file"


def quiet(_):
    pass


@pytest.fixture(scope="module")
def outputs(tiny_runs, tiny_layout, tmp_path_factory):
    """Return a folder with a frozen run and a blend."""
    folder = Path(shutil.copytree(tiny_runs, tmp_path_factory.mktemp("export") / "outputs"))
    base = ["--data", tiny_layout, "--output", folder, "--backbone", "test_efficientnet", *TINY]
    frozen = [*base, "--finetune", "head", "--name", "frozen"]
    assert run_cv.main(list(map(str, frozen))) == 0
    members = [folder / "alpha", folder / "frozen"]
    blend(members, name="vote", page=False, say=quiet, method="soft")
    return folder


def test_every_changed_byte_is_refused_on_one_line(outputs, tmp_path):
    content = export_model(outputs / "frozen", tmp_path / "m.zip", say=quiet).read_bytes()
    file = tmp_path / "changed.zip"
    rng = np.random.default_rng(0)
    ends = [*range(200), *range(len(content) - 3000, len(content), 7)]
    for place in [*ends, *rng.integers(0, len(content), 60).tolist(), len(content) - 1]:
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(changed)
        with pytest.raises(UserError, match=REFUSED) as caught:
            read_export(file, say=quiet)
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(str(file))
    for cut in (0, 1, 3, 100, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:cut])
        with pytest.raises(UserError, match=REFUSED):
            read_export(file, say=quiet)
    file.write_bytes(content + b"x")
    with pytest.raises(UserError, match="export the run again"):
        read_export(file, say=quiet)


def sealed(file):
    """Give a ZIP file a right hash, as a hostile writer can."""
    content = bytearray(file.read_bytes())
    digest = hashlib.blake2b(content[:-DIGITS], digest_size=DIGITS // 2).hexdigest()
    content[-DIGITS:] = digest.encode()
    file.write_bytes(content)


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../up", "a/../../up", "a\\b", "C:/x", "a//b", "./a", "a/", ".hidden", "ä"],
)
def test_names_that_leave_a_folder_are_refused(name, tmp_path):
    file = tmp_path / "hostile.zip"
    write_archive(file, [("aXXb", b"1"), ("model.json", b"{}")])
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(name, b"2")
    sealed(file)
    with pytest.raises(UserError, match=r"would leave its folder; do not use this file"):
        Archive(file)


def test_an_entry_that_is_there_twice_is_refused(tmp_path):
    file = tmp_path / "hostile.zip"
    write_archive(file, [("model.json", b"{}")])
    with (
        zipfile.ZipFile(file, "a") as archive,
        pytest.warns(UserWarning, match="Duplicate name"),
    ):
        archive.writestr("model.json", b"2")
    sealed(file)
    with pytest.raises(UserError, match="is there twice"):
        Archive(file)


def test_a_compressed_entry_is_refused(tmp_path):
    file = tmp_path / "hostile.zip"
    write_archive(file, [("model.json", b"{}")])
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("bomb", bytes(10_000_000), zipfile.ZIP_DEFLATED)
    sealed(file)
    with pytest.raises(UserError, match="is compressed"):
        Archive(file)


def test_an_entry_that_is_larger_than_the_file_is_refused(tmp_path):
    file = tmp_path / "hostile.zip"
    write_archive(file, [("model.json", b"{}")])
    content = file.read_bytes()
    # Both sizes in the last record of the directory.
    place = content.rindex(b"PK\x01\x02") + 20
    sizes = (1 << 30).to_bytes(4, "little") * 2
    file.write_bytes(content[:place] + sizes + content[place + 8 :])
    sealed(file)
    with pytest.raises(UserError, match="larger than the file"):
        Archive(file)


@pytest.fixture(scope="module")
def rewritten(outputs, tmp_path_factory):
    """Return a function that writes a file with a changed model.json and a right hash."""
    place = tmp_path_factory.mktemp("rewritten")
    sources = {
        name: Archive(export_model(outputs / name, place / f"{name}.zip", say=quiet))
        for name in ("frozen", "vote")
    }

    def write(change, name="frozen", **entries):
        source = sources[name]
        model = plain_json(source.read("model.json"))
        text = change(model)
        content = {one: source.read(one) for one in source.sizes if one != "SHA256SUMS"}
        content["model.json"] = text if isinstance(text, bytes) else json.dumps(model).encode()
        content |= entries
        file = place / "changed.zip"
        write_archive(file, content.items())
        return file

    return write


def refused(file, *words):
    with pytest.raises(UserError) as caught:
        read_export(file, say=quiet)
    text = str(caught.value)
    assert text.startswith(str(file))
    assert "\n" not in text
    assert len(text) < 600
    for word in words:
        assert word in text, text


def test_another_format_is_refused_with_the_version_that_reads_it(rewritten):
    def later(model):
        model["format"] = FORMAT + 1
        model["versions"]["foldblend"] = "9.1\n<b>"

    refused(
        rewritten(later), f"format {FORMAT + 1}", f"reads format {FORMAT}", "install foldblend 9.1b"
    )
    assert read_export(rewritten(lambda model: None), say=quiet).name == "frozen"


def set_at(*path, value):
    def change(model):
        place = model
        for one in path[:-1]:
            place = place[one]
        place[path[-1]] = value

    return change


RECIPE = ("leaves", 0, "recipe")


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ((*RECIPE, "backbone"), "os:system", "is not a name of timm"),
        ((*RECIPE, "backbone"), "hf-hub:someone/model", "is not a name of timm"),
        ((*RECIPE, "backbone"), "local-dir:/tmp", "is not a name of timm"),
        ((*RECIPE, "backbone"), "resnet999", "timm has no such model"),
        ((*RECIPE, "backbone"), "resnet18", ""),
        ((*RECIPE, "kwargs"), {"pretrained": True}, "pretrained"),
        ((*RECIPE, "kwargs"), {"checkpoint_path": "/etc/passwd"}, "checkpoint_path"),
        ((*RECIPE, "kwargs"), {"drop_rate": "0"}, "drop_rate"),
        ((*RECIPE, "kwargs"), [], ""),
        ((*RECIPE, "augment"), "os:system", "augment"),
        ((*RECIPE, "views"), ["albu:/etc/passwd.yaml#0"], "the pipeline"),
        ((*RECIPE, "views"), ["identity", "nonsense"], "no such view"),
        ((*RECIPE, "views"), [], "views"),
        ((*RECIPE, "device"), "/dev/sda", "device"),
        ((*RECIPE, "amp_dtype"), "load", "number format"),
        ((*RECIPE, "crop"), "os:system", "crop"),
        ((*RECIPE, "batch_size"), 10**12, "whole number"),
        ((*RECIPE, "threads"), 0, "whole number"),
        ((*RECIPE, "preprocess", "width"), 10**9, "whole number"),
        ((*RECIPE, "preprocess", "mean"), [0.5], "mean"),
        ((*RECIPE, "preprocess", "crop_pct"), 1e-9, "crop_pct"),
        ((*RECIPE, "padded"), [], "models"),
        ((*RECIPE, "surprise"), 1, "surprise"),
        (("leaves", 0, "models", 0, "file"), "../x", "../x"),
        (("leaves", 0, "models", 0, "shared"), {"a": 3}, ""),
        (("leaves",), "x", ""),
        (("leaves",), [], ""),
        (("tree",), {"kind": "cv", "leaf": 7}, "whole number"),
        (("tree",), {"kind": "cv", "leaf": True}, "whole number"),
        (("tree",), {"kind": "eval"}, "kind"),
        (("tree",), None, ""),
        (("info", "classes"), [1, 2], "texts"),
        (("info", "classes"), ["a", "b"], ""),
        (("info", "kind"), 3, "kind"),
        (("info", "metric"), "os.system", "metric"),
        (("info", "attributes"), [{"name": "a", "values": ["b"], "of_class": [9]}], ""),
        (("extras", "calibration", "temperature"), -1, "temperature"),
        (("extras", "calibration"), None, ""),
        (("extras", "coverages"), [{"wanted": 0.9}], "'share'"),
        (("extras", "coverages"), 0.9, ""),
        (("extras", "coverages", 0, "wanted"), "0.9", "shares of coverages"),
        (("extras", "coverages", 0, "share", "low"), 17, "shares of coverages"),
        (("extras", "coverages", 0, "width"), "inf", "width of coverages"),
        (("extras", "coverages", 0, "width"), 19, "width of coverages"),
        (("extras", "coverages", 0, "by_class"), "no", "by_class of coverages"),
        (("extras",), [], ""),
        (("report",), 3, ""),
    ],
)
def test_nothing_but_built_in_parts_is_accepted(path, value, words, rewritten):
    file = rewritten(set_at(*path, value=value))
    if value == "resnet18":
        # It is a model of timm, but the weights are those of another one.
        predictor = read_export(file, say=quiet)
        with pytest.raises(UserError, match="the weights do not fit"):
            Stream(predictor.root, say=quiet)
        return
    refused(file, words)


def test_files_of_earlier_versions_lack_the_coverage_out_of_fold(rewritten, tiny_layout):
    def earlier(model):
        del model["extras"]["coverages"]

    image = min((tiny_layout / "eval").rglob("*.jpg"))
    said = []
    fb.predict(rewritten(earlier), image, coverage=0.9, odd=False, say=said.append)
    assert any("lacks this coverage out of fold, as an earlier version" in one for one in said)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"3",
        b"{}",
        b"[" * 100_000 + b"]" * 100_000,
        b'{"format": 1, "info": ' + b'{"a":' * 80 + b"1" + b"}" * 80 + b"}",
        b'{"format": NaN}',
        b'{"format": 1e999}',
    ],
)
def test_json_that_is_none_or_too_deep_is_refused(text, rewritten):
    refused(rewritten(lambda model: text))


def test_entries_that_are_missing_or_wrong_are_refused(rewritten):
    refused(rewritten(lambda model: None, **{"conformal.safetensors": b"\x00" * 9}))
    file = rewritten(lambda model: None, **{"weights/0/backbone.safetensors": b"junk"})
    predictor = read_export(file, say=quiet)
    with pytest.raises(UserError, match=r"weights/0/backbone.safetensors cannot be used"):
        Stream(predictor.root, say=quiet)
    name = "blends/0/parameters.safetensors"
    refused(rewritten(lambda model: None, "vote", **{name: b"junk"}))
    refused(rewritten(set_at("tree", "of_means", value=True), "vote", **{name: b""}))
    refused(rewritten(set_at("tree", "members", value=[]), "vote"))
    refused(rewritten(set_at("tree", "parameters", value="x"), "vote"))


def test_settings_of_images_are_no_paths_or_code(rewritten):
    def change(model):
        model["extras"]["reading"] |= {"image_root": "/etc", "dataset": "os:system", "sep": [1]}

    found = read_export(rewritten(change), say=quiet).settings
    assert not {"image_root", "dataset", "sep"} & set(found)
    assert found["image_col"] == "image"
