"""Tests of the pages in a browser (slow; they need Chromium and playwright)."""

import json

import pytest

import foldblend as fb
import run_cv
from foldblend.runs.run import Run
from reports.run.report import write_report
from tests.makers.constants import LONDON
from tests.makers.synthetic_runs import write_synthetic_run

NASTY = [
    "</script><script>window.hit=1</script>",
    '"><img src=x onerror="window.hit=2">',
    "it's $x$ {{ 1 }}",
]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def london(tmp_path_factory):
    """Return a finished run on real faces."""
    if not LONDON.is_dir():
        pytest.skip("the London masks data set is not here")
    output = tmp_path_factory.mktemp("browser") / "outputs"
    flags = [
        "--img-size",
        "64x80",
        "--finetune",
        "head",
        "--folds",
        "3",
        "--threads",
        "1",
        "--name",
        "london",
    ]
    assert run_cv.main(["--data", str(LONDON), "--output", str(output), *flags]) == 0
    return Run(output / "london")


def found(page) -> tuple[int, int]:
    """Return the numbers of matching rows and of shown rows that the page reports."""
    words = page.inner_text("#found").replace(",", "").split()
    assert int(words[-2]) == page.locator("#tiles button").count()
    return int(words[0]), int(words[-2])


def test_a_confusion_cell_opens_its_images(london, open_page):
    page = open_page(london.path / "report.html")
    report = london.report
    num_wrong = round(report["num_images"] * (1 - report["scores"]["accuracy"]))
    assert found(page)[0] == num_wrong
    counts = report["attributes"][0]["confusion"]["counts"]
    page.click("button[data-which='0'][data-true='1'][data-predicted='0']")
    assert found(page)[0] == counts[1][0] > 0
    for text in page.locator("#tiles button").all_inner_texts():
        true, _, predicted = text.partition("→")
        assert true.strip().startswith("incorrect,")
        assert predicted.strip().startswith("worn,")
    counts = report["confusion"]["counts"]
    # A cell on the diagonal opens images that are predicted correctly.
    page.click("button[data-which='-1'][data-true='0'][data-predicted='0']")
    assert found(page)[0] == counts[0][0] > 0
    assert page.locator("#tiles button.wrong").count() == 0
    assert page.locator("#tiles img").count() == page.locator("#tiles button").count()
    sizes = page.evaluate(
        "[...document.querySelectorAll('#tiles img')].map(one => one.naturalHeight)"
    )
    assert set(sizes) == {112}
    page.check("#as-shares")
    cell = page.locator("button[data-which='0'][data-true='1'][data-predicted='1']")
    of_mask = report["attributes"][0]["confusion"]["counts"][1]
    assert cell.inner_text() == f"{of_mask[1] / sum(of_mask) * 100:.0f}"


def test_the_gallery_is_filtered_and_ordered(london, open_page):
    page = open_page(london.path / "report.html")
    oof = london.oof
    predicted = london.logits(oof).argmax(axis=1)
    wrong = oof["label"].to_numpy() != predicted
    page.select_option("#filters [name=fold]", label="2")
    assert found(page)[0] == int((wrong & (oof["fold"] == 2)).sum())
    page.select_option("#filters [name=kind]", label="all")
    assert found(page)[0] == int((oof["fold"] == 2).sum())
    page.click("#clear")
    page.select_option("#filters [name=kind]", label="gender wrong")
    gender = oof["label"].to_numpy() // 3 % 2 != predicted // 3 % 2
    assert found(page)[0] == int(gender.sum())
    page.select_option("#filters [name=kind]", label="only gender wrong")
    only = (
        gender
        & (oof["label"].to_numpy() // 6 == predicted // 6)
        & (oof["label"].to_numpy() % 3 == predicted % 3)
    )
    assert found(page)[0] == int(only.sum())
    page.click("#clear")
    group = oof["group"].iloc[0]
    page.select_option("#filters [name=kind]", label="all")
    page.fill("#filters [name=group]", group)
    assert found(page) == (7, 7)
    page.fill("#filters [name=group]", "")
    page.select_option("#filters [name=label]", label=london.classes[0])
    page.select_option("#filters [name=predicted]", label=london.classes[0])
    assert found(page)[0] == int(((oof["label"] == 0) & (predicted == 0)).sum())
    page.click("#clear")
    page.select_option("#filters [name=kind]", label="all")
    page.select_option("#filters [name=order]", label="least confident first")
    shares = [
        float(text.replace("\xa0", " ").split()[-2])
        for text in page.locator("#tiles button").all_inner_texts()
    ]
    assert shares == sorted(shares)
    page.click("#more")
    assert found(page) == (len(oof), 120)


def test_the_gallery_works_by_keyboard(london, open_page):
    page = open_page(london.path / "report.html")
    focused = "[...document.querySelectorAll('#tiles button')].indexOf(document.activeElement)"
    page.keyboard.press("/")
    page.keyboard.type("nobody at all")
    assert found(page) == (0, 0)
    page.fill("#filters [name=group]", "")
    page.locator("#tiles button").first.focus()
    columns = page.evaluate(
        "getComputedStyle(document.getElementById('tiles')).gridTemplateColumns.split(' ').length"
    )
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == columns + 1
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    assert page.evaluate(focused) == 0
    page.keyboard.press("End")
    assert page.evaluate(focused) == found(page)[0] - 1
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    first = page.inner_text("#one table")
    shown = {first}
    for _ in range(3):
        page.keyboard.press("ArrowRight")
        shown.add(page.inner_text("#one table"))
    assert len(shown) == 4
    page.keyboard.press("Escape")
    assert not page.is_visible("#one")
    assert page.evaluate(focused) == 3
    page.keyboard.press("Enter")
    group = page.locator("#one tr:nth-child(2) td").nth(1).inner_text()
    page.click("text=All of this person")
    assert found(page) == (7, 7)
    assert page.input_value("#filters [name=group]") == group
    assert page.evaluate(focused) == 0
    matrix = page.locator(".confusion").first
    assert matrix.locator("button[tabindex='-1']").count() == matrix.locator("button").count() - 1
    matrix.locator("button").first.focus()
    page.keyboard.press("ArrowDown")
    assert (
        page.evaluate(
            "document.activeElement.dataset.true + document.activeElement.dataset.predicted"
        )
        == "10"
    )


def test_an_image_is_linked_to_its_file(london, open_page):
    page = open_page(london.path / "report.html")
    page.locator("#tiles button").first.click()
    link = page.locator("#one a").get_attribute("href")
    image = page.locator("#one tr:first-child td").nth(1).inner_text()
    assert link == (LONDON / "train" / "images" / image).resolve().as_uri()


def test_the_page_fits_a_phone_and_paper_and_has_a_dark_mode(london, open_page):
    phone = {"width": 360, "height": 740}
    page = open_page(london.path / "report.html", viewport=phone, color_scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    paper = "getComputedStyle(document.body).backgroundColor"
    light = open_page(london.path / "report.html", color_scheme="light")
    assert light.evaluate(paper) == "rgb(255, 255, 255)" != page.evaluate(paper)
    # A sheet of A4 without its margins.
    sheet = {"width": 700, "height": 900}
    paper_sheet = open_page(london.path / "report.html", viewport=sheet)
    paper_sheet.emulate_media(media="print")
    assert paper_sheet.evaluate("document.documentElement.scrollWidth") <= 700
    assert (
        paper_sheet.evaluate("getComputedStyle(document.querySelector('.scroll')).overflowX")
        == "visible"
    )
    no_script = open_page(london.path / "report.html", java_script_enabled=False)
    assert "needs JavaScript" in no_script.inner_text("body")
    assert f"{london.report['headline']['value']:.4f}" in no_script.inner_text("body")


def test_the_page_of_predictions_fits_a_phone_and_has_no_script(london, open_page, tmp_path):
    file = tmp_path / "new.html"
    images = sorted(map(str, (LONDON / "eval" / "images").iterdir()))[:30]
    fb.predict(london, images, page=str(file), say=lambda _: None)
    phone = {"width": 360, "height": 740}
    page = open_page(file, viewport=phone, color_scheme="dark", java_script_enabled=False)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.locator("#images ~ .sheets img").count() == len(images)
    broken = "images => images.filter(one => one.complete && !one.naturalWidth).length"
    assert page.locator("img").evaluate_all(broken) == 0


def test_names_with_html_are_shown_as_text_in_a_browser(open_page, tmp_path):
    names = [*NASTY, *[f"class {index}" for index in range(3, 18)]]
    folder = write_synthetic_run(tmp_path / "run", num_people=12, names=names)
    info = json.loads((folder / "run.json").read_text())
    info["attributes"][0] |= {"name": NASTY[0], "values": NASTY}
    (folder / "run.json").write_text(json.dumps(info))
    write_report(Run(folder))
    page = open_page(folder / "report.html")
    page.select_option("#filters [name=kind]", label="all")
    page.select_option("#filters [name=label]", label=NASTY[0])
    assert NASTY[0] in page.locator("#tiles button").first.inner_text()
    page.locator("#tiles button").first.click()
    assert NASTY[0] in page.inner_text("#one")
    assert page.evaluate("window.hit") is None
    assert "no image" in page.inner_text("#one")
