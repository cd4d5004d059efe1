"""Page of predictions: counts by class, and images that are unsure or unlike the training ones."""

from __future__ import annotations

import html
import re
import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import PIL.Image
import pytest

import foldblend as fb
import predict as predict_script
from pipeline.data.preprocess import Preprocess
from pipeline.predict.inputs import Inputs
from pipeline.predict.open import Predictor, open_predictor
from pipeline.predict.page import _score, predictions_page
from pipeline.predict.picks import Picks
from pipeline.predict.tree import Leaf

NASTY = "</script><script>window.hit=1</script>"

PREPROCESS = Preprocess(width=32, height=32, mean=(0.5,) * 3, std=(0.5,) * 3)


def quiet(_):
    pass


@pytest.fixture
def command(command_of):
    return command_of(predict_script.main)


@pytest.fixture
def images(tiny_layout, tmp_path):
    """Return a folder with nothing but the test images."""
    return shutil.copytree(tiny_layout / "eval" / "images", tmp_path / "new")


def sections(page):
    """Return the parts of a page by the id of their heading."""
    parts = re.split(r'<h2 id="([a-z-]+)">', page)
    return dict(zip(["top", *parts[1::2]], parts[::2], strict=True))


def tiles(part):
    """Return the name of each image in a part of a page, and whether it has a picture."""
    found = re.findall(r'<div class="pair">(.*?)<span class="tag">(.*?)</span></div>', part)
    return [(name, 'src="data:image/jpeg;base64,' in inside) for inside, name in found]


def rows_of(part):
    cells = re.findall(r"<tr>(.*?)</tr>", part)
    each = [re.findall(r"<t[hd]>(.*?)</t[hd]>", one) for one in cells]
    return [[html.unescape(cell) for cell in row] for row in each]


def test_picks_are_those_of_the_whole_table():
    rng = np.random.default_rng(0)
    proba_NC = rng.dirichlet(np.ones(5), 3000)
    class_N = proba_NC.argmax(axis=1)
    class_N[::7] = 2  # a decision rule may take another than the most probable class
    odd_N = rng.integers(0, 101, 3000).astype(np.float32)
    picks = Picks(5, most=4)
    for start in range(0, 3000, 700):
        rows = slice(start, start + 700)
        image_N = np.arange(3000)[rows]
        picks.add(image_N, class_N[rows], proba_NC[rows], odd_N[rows])
        assert sum(map(len, picks.lists.values())) <= 4 * (5 + 2)
    picks.add(np.empty(0, int), np.empty(0, int), np.empty((0, 5)))
    proba_N = proba_NC[np.arange(3000), class_N]
    assert picks.count_C.tolist() == np.bincount(class_N, minlength=5).tolist()
    assert picks.unsure["image"].tolist() == np.argsort(proba_N, kind="stable")[:4].tolist()
    assert picks.odd["image"].tolist() == np.argsort(-odd_N, kind="stable")[:4].tolist()
    for code in range(5):
        of_class_N = np.flatnonzero(class_N == code)
        first_N = of_class_N[np.argsort(-proba_N[of_class_N], kind="stable")[:4]]
        assert picks.of_class(code)["image"].tolist() == first_N.tolist()
    for row in picks.unsure.itertuples():
        others = np.delete(np.arange(5), row[2])
        assert row.second == others[proba_NC[row.image, others].argmax()]
        assert row.proba_second == proba_NC[row.image, row.second]


def test_picks_of_nothing_and_of_one_class():
    picks = Picks(1)
    for table in (picks.unsure, picks.odd, picks.of_class(0)):
        assert table.empty
    picks.add(np.arange(2), np.zeros(2, int), np.ones((2, 1)))
    assert picks.unsure["second"].tolist() == [-1, -1]
    assert picks.odd.empty


def test_page_of_a_run(command, alpha, images, tmp_path):
    file = tmp_path / "found.html"
    done = command(alpha.path, images, "--out", tmp_path / "found.csv", "--page", file)
    assert done.code == 0, done.err
    assert f"page: {file}" in done.out
    page = file.read_text(encoding="utf-8")
    table = pd.read_csv(tmp_path / "found.csv").sort_values("image_id")
    parts = sections(page)
    assert "Predictions of alpha" in parts["top"]
    assert "42 images" in parts["top"]
    headline = alpha.report["headline"]
    assert f"<b>{headline['value']:.4f}</b> [{headline['low']:.4f}" in parts["top"]
    header, *rows = rows_of(parts["counts"])
    assert header == ["class", "images", "share", "share in training", "difference"]
    assert [row[0] for row in rows] == list(alpha.classes)
    counts = table["class"].value_counts()
    assert [int(row[1]) for row in rows] == [int(counts.get(one, 0)) for one in alpha.classes]
    train_C = np.bincount(alpha.oof["label"], minlength=len(alpha.classes)) / len(alpha.oof)
    assert [row[3] for row in rows] == [f"{100 * share:.1f} %" for share in train_C]
    # The lists, the first of which are unsure, odd and most probable.
    unsure = tiles(parts["unsure"])
    assert len(unsure) == 24
    assert all(has_picture for _, has_picture in unsure)
    proba = table.set_index("image_id")["proba"]
    shown = proba[[name for name, _ in unsure]]
    assert shown.is_monotonic_increasing
    assert shown.iloc[-1] <= proba.drop(shown.index).min()
    odd = table.set_index("image_id")["odd"]
    shown = odd[[name for name, _ in tiles(parts["odd"])]]
    assert shown.is_monotonic_decreasing
    assert shown.iloc[-1] >= odd.drop(shown.index).max()
    gallery = [name for name, _ in tiles(parts["images"])]
    first = table.sort_values("proba", ascending=False).groupby("class").head(24)
    assert sorted(gallery) == sorted(first["image_id"])
    assert "left-out" not in parts
    # Nothing is loaded from elsewhere, and there is a dark mode.
    assert "default-src 'none'" in page
    assert "prefers-color-scheme: dark" in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)


def test_the_first_screen_says_score_likeness_and_what_is_unsure(alpha, images, tmp_path):
    found = {}
    for name, odd in (("with", True), ("without", False)):
        file = tmp_path / f"{name}.html"
        table = fb.predict(alpha.path, images, page=str(file), odd=odd, say=quiet)
        found[name] = sections(file.read_text())
    top = found["with"]["top"]
    headline = alpha.report["headline"]
    strip = f'aria-label="{headline["value"]:.4f} [{headline["low"]:.4f}'
    assert top.count(strip) == 1
    assert 'role="tooltip">Out of fold (OOF): each image' in top
    assert len(re.findall('<span class="tiles"><img', top)) == 8
    lowest = table.sort_values("proba", kind="stable").head(8)
    shown = re.findall(r"<div><span.*?</span><span>(.*?)</span>", top)
    assert shown == [html.escape(f"{row['class']} {row.proba:.3f}") for _, row in lowest.iterrows()]
    verdicts = ("Like the training images", "Unlike the training images", "Not compared with")
    assert sum(one in html.unescape(top) for one in verdicts) == 1
    assert verdicts[2] in found["without"]["top"]
    # The title of the figure has the class whose share differs most from training.
    train_C = np.bincount(alpha.oof["label"], minlength=len(alpha.classes)) / len(alpha.oof)
    counts = table["class"].value_counts()
    share_C = np.array([counts.get(one, 0) for one in alpha.classes]) / len(table)
    most = int(np.abs(share_C - train_C).argmax())
    words = f"{alpha.classes[most]} is {100 * share_C[most]:.1f} % of these images"
    assert words in html.unescape(top)


@pytest.mark.parametrize(
    ("headline", "is_shown"),
    [
        ({"value": 0.5, "low": None, "high": None}, True),
        ({"value": 0.5, "low": 0.4, "high": 1e300}, False),
        ({"value": float("nan"), "low": 0.4, "high": 0.6}, False),
        ({"value": True}, False),
    ],
)
def test_only_a_sensible_score_is_shown(headline, is_shown):
    report = {"metric": "f1_macro", "headline": headline}
    predictor = SimpleNamespace(extras={"report": report}, run=None)
    assert (_score(predictor) is not None) == is_shown


def test_the_page_shows_who_was_left_out_and_who_is_gone(command, alpha, images, tmp_path):
    names = sorted(item.name for item in images.iterdir())
    (images / names[3]).write_bytes(b"")
    file = tmp_path / "found.html"
    flags = ("--page", file, "--on-bad-image", "skip", "--no-odd")
    done = command(alpha.path, images, *flags)
    assert done.code == 0, done.err
    assert f"page: {file}" in done.err
    parts = sections(file.read_text(encoding="utf-8"))
    assert parts["left-out"].startswith("Left out (1)")
    assert names[3] in parts["left-out"]
    assert "41 images" in parts["top"]
    assert "odd" not in parts
    assert "were not compared" in parts["training"]


def test_images_that_are_gone_by_now_have_no_picture(alpha, images, tmp_path, monkeypatch):
    files = sorted(images.iterdir())
    write = Picks.add

    def then_gone(self, *values):
        write(self, *values)
        files[0].unlink(missing_ok=True)
        files[1].write_bytes(b"no image any more")

    monkeypatch.setattr(Picks, "add", then_gone)
    fb.predict(alpha.path, [*map(str, files[:4])], page=str(tmp_path / "a.html"), say=quiet)
    found = dict(tiles(sections((tmp_path / "a.html").read_text())["unsure"]))
    assert found == {str(file): place > 1 for place, file in enumerate(files[:4])}
    assert "no picture" in (tmp_path / "a.html").read_text()


def test_arrays_and_pil_images_have_pictures(alpha, images, tmp_path):
    files = sorted(images.iterdir())[:3]
    grey = cv2.imread(str(files[1]), cv2.IMREAD_GRAYSCALE)
    given = [files[0], grey, PIL.Image.open(files[2])]
    table = fb.predict(alpha.path, given, page=str(tmp_path / "a.html"), say=quiet)
    found = dict(tiles(sections((tmp_path / "a.html").read_text())["unsure"]))
    assert found == dict.fromkeys([str(files[0]), "image 1", "image 2"], True)
    assert len(table) == 3


def test_names_are_text_and_nothing_else(alpha):
    """Names of classes, files and folders come from users, and an exported file from anybody."""
    root = open_predictor(alpha.path, say=quiet).root
    assert isinstance(root, Leaf)
    info = {**alpha.info, "classes": [NASTY, "$x$ \udcff", *alpha.classes[2:]]}
    report = {"metric": "f1_macro", "headline": {"value": NASTY, "low": 0, "high": 1}}
    predictor = Predictor(
        root=root, source=alpha.path / NASTY, info=info, extras={"report": report}
    )
    inputs = Inputs([NASTY, "b\udcff.png"], [np.zeros((9, 9, 3), np.uint8), "no/such.png"])
    picks = Picks(len(info["classes"]))
    proba_NC = np.eye(len(info["classes"]))[:2]
    picks.add(np.arange(2), np.arange(2), proba_NC, np.array([3.0, 100.0]))
    lines = [NASTY]
    page = predictions_page(predictor, inputs, picks, lines=lines, bad={0: NASTY})
    # The one script is that of the glossary; the page allows no other.
    assert page.count("<script") == 1
    assert "window.hit" not in page[page.index("<script") :]
    assert page.count("window.hit=1") >= 6
    # The score of the file is no number, so it is left out; so are shares of training.
    assert "OOF" not in page
    assert rows_of(sections(page)["counts"])[0] == ["class", "images", "share"]
    page.encode()


def test_many_classes_share_the_room():
    num = 900
    picks = Picks(num)
    rng = np.random.default_rng(0)
    class_N = np.concatenate([np.arange(num), rng.integers(0, 50, 3000)])
    picks.add(np.arange(len(class_N)), class_N, np.eye(num)[class_N])
    pixels = np.zeros((4, 4, 3), np.uint8)
    inputs = Inputs([f"{index}" for index in range(len(class_N))], [pixels] * len(class_N))
    info = {"classes": [f"kind {index}" for index in range(num)]}
    root = Leaf(
        name="many",
        key="0 many",
        recipe=SimpleNamespace(preprocess=PREPROCESS),
        weights=None,
    )
    predictor = Predictor(root=root, source="many.zip", info=info)
    page = predictions_page(predictor, inputs, picks, lines=[], bad={})
    parts = sections(page)
    assert len(tiles(parts["images"])) == 400
    assert len(rows_of(parts["counts"])) == 401
    assert parts["images"].count("500 least frequent") == 1
    assert "No difference was found" in parts["training"]


def test_the_page_of_a_blend_within_a_cost_has_its_score(runs_copy, images, tmp_path):
    blend = fb.blend(
        [runs_copy / "alpha", runs_copy / "beta"], name="both", method="soft", page=False, say=quiet
    )
    said = []
    page = tmp_path / "a.html"
    fb.predict(blend.path, images, budget="1x", page=str(page), say=said.append)
    line = next(one for one in said if "its own OOF" in one)
    value = line.partition("its own OOF macro F1 ")[2].split()[0]
    assert f"<b>{value}</b>" in sections(page.read_text())["top"]


def test_pages_of_one_prediction_are_equal(alpha, images, tmp_path):
    pages = []
    for name in ("a.html", "b.html"):
        fb.predict(alpha.path, images, page=str(tmp_path / name), say=quiet)
        pages.append((tmp_path / name).read_bytes())
    assert pages[0] == pages[1]


def test_places_where_no_page_can_be_written(command, alpha, images, tmp_path):
    def tried(page):
        return command(alpha.path, images, "--page", page)

    tried(tmp_path / "a.txt").assert_one_line_error("--page", ".html")
    (tmp_path / "a.html").write_text("mine")
    below = tried(tmp_path / "a.html" / "b.html")
    below.assert_one_line_error("it is a file", "pass another --page")
    tried(tmp_path / "a.html").assert_one_line_error("--page", "--overwrite")
    assert (tmp_path / "a.html").read_text() == "mine"
