"""The programs of docs/use_it.md give the classes of foldblend, without importing it."""

import re
import sys

import cv2
import numpy as np
import pytest

from pipeline.export.onnx_graph import write_onnx
from pipeline.export.timm_folder import write_timm
from pipeline.predict.inputs import Inputs
from pipeline.predict.open import open_predictor
from pipeline.predict.stream import Stream
from tests.makers.constants import LONDON, ROOT

NUM_FACES = 100


def programs():
    """Return the programs for timm and for onnxruntime, each with the function that reads."""
    text = (ROOT / "docs" / "use_it.md").read_text(encoding="utf-8")
    reading, *others = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert not re.search(r"^\s*(from|import) (foldblend|pipeline)", text, flags=re.MULTILINE)
    timm_program, onnx_program = (f"{reading}\n{one}" for one in others)
    return timm_program, onnx_program


def classes_of(predictor, paths):
    """Return the classes of images by the engine."""
    blocks = Stream(predictor.root, say=print).run(Inputs([*map(str, paths)], [*map(str, paths)]))
    return [predictor.classes[best] for one in blocks for best in one.logits_NC.argmax(axis=1)]


def printed_classes(program, paths, capsys, monkeypatch):
    """Return the classes that a program prints, in the order of the images."""
    monkeypatch.setattr(sys, "argv", ["program", *map(str, paths)])
    capsys.readouterr()
    exec(compile(program, "use_it.md", "exec"), {"__name__": "__main__"})
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == [*map(str, paths)]
    return [row[1] for row in rows]


@pytest.fixture(scope="module")
def images(tiny_layout, tmp_path_factory):
    """Return images of the tiny data set, and odd ones: small, large, PNG, and turned by EXIF."""
    folder = tmp_path_factory.mktemp("odd")
    paths = sorted(tiny_layout.rglob("*.jpg"))
    image = cv2.imread(str(paths[0]))
    for name, size in (("small.jpg", (20, 26)), ("mixed.jpg", (90, 20)), ("large.png", (300, 280))):
        cv2.imwrite(str(folder / name), cv2.resize(image, size))
    for turned in (3, 6):
        import PIL.Image

        exif = PIL.Image.Exif()
        exif[0x0112] = turned
        noise = np.random.default_rng(0).integers(256, size=(70, 270, 3), dtype=np.uint8)
        PIL.Image.fromarray(cv2.blur(noise, (9, 9))).save(folder / f"{turned}.jpg", exif=exif)
    faces = sorted((LONDON / "eval" / "images").glob("*.jpg"))[:NUM_FACES]
    return [*paths, *sorted(folder.iterdir()), *faces]


@pytest.mark.slow
def test_timm_gives_the_same_classes(tiny_runs, images, tmp_path, capsys, monkeypatch):
    predictor = open_predictor(tiny_runs / "beta")
    write_timm(predictor, tmp_path / "exported", say=print)
    monkeypatch.chdir(tmp_path)
    program = programs()[0].replace("RUN", "beta")
    assert printed_classes(program, images, capsys, monkeypatch) == classes_of(predictor, images)


@pytest.mark.slow
def test_onnxruntime_gives_the_same_classes(
    runs_copy, images, tmp_path, blend_command, capsys, monkeypatch
):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    done = blend_command(
        runs_copy / "alpha", runs_copy / "beta", "--method", "auto", "--name", "both", "--no-page"
    )
    assert done.code == 0, done.err
    predictor = open_predictor(runs_copy / "both")
    write_onnx(predictor, tmp_path / "exported", say=print)
    monkeypatch.chdir(tmp_path)
    found = printed_classes(programs()[1], images, capsys, monkeypatch)
    assert found == classes_of(predictor, images)


def test_programs_are_short():
    for program in re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "use_it.md").read_text(), flags=re.DOTALL
    ):
        assert len([line for line in program.splitlines() if line.strip()]) <= 28


@pytest.mark.skipif(not LONDON.is_dir(), reason="the real faces are not here")
def test_real_faces_are_among_the_images(images):
    assert sum(LONDON in path.parents for path in images) == NUM_FACES
