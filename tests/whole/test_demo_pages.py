"""Tests of the demo pages and of the screenshots that the documentation has of them."""

import doctest
import io
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from docs import demo_pages, screenshots
from docs.demo_pages import PAGES, Plan, build, without_local_links, work_folder
from docs.screenshots import SHOTS, smallest_loss
from foldblend.errors import UserError
from tests.makers.constants import ROOT

TRAINING = ("run_cv.py", "run_tta.py", "blend.py")
SMALL = ("--folds", "2", "--img-size", "32", "--pretrained", "none", "--threads", "1")


@pytest.mark.parametrize("module", [demo_pages, screenshots])
def test_examples_run(module):
    done = doctest.testmod(module)
    assert done.attempted > 0 == done.failed


def test_the_documentation_lists_all_demo_pages():
    text = (ROOT / "docs" / "demo_pages.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`site/demo/([\w/]+\.html)`", text)) == set(PAGES)


def test_a_changed_plan_has_a_folder_of_its_own(tmp_path):
    first = Plan(runs={"a": ("--seed", "1")})
    second = Plan(runs={"a": ("--seed", "2")})
    assert work_folder(first, tmp_path) != work_folder(second, tmp_path)
    assert work_folder(first, tmp_path) == work_folder(Plan(runs=dict(first.runs)), tmp_path)


def test_only_the_folder_of_images_is_taken_out_of_a_page():
    page = '<script>{"links":{"root":"/a \\"b\\"/c","below":["1.jpg"]},"root":"/kept"}</script>'
    kept = '<script>{"links":{"root":null,"below":["1.jpg"]},"root":"/kept"}</script>'
    assert without_local_links(page) == kept
    assert without_local_links(kept) == kept


def test_a_failed_command_is_one_line_with_a_cure(tmp_path):
    plan = Plan(runs={"only": ("--backbone", "resnet_unknown")}, data=str(tmp_path / "absent"))
    with pytest.raises(UserError, match=r"^demo pages: run_cv\.py failed \(.*remove .* and try"):
        build(tmp_path / "site", plan, parent=tmp_path, say=lambda _: None)
    assert not (tmp_path / "site").exists()


def test_a_second_call_trains_nothing_but_draws_all_pages_again(tmp_path, monkeypatch):
    """Replace the commands by one that writes an empty file where they write a page."""
    called = []

    def command(work, script, *words):
        called.append(script)
        files = [f"outputs/{words[-2]}/report.json"] if script in TRAINING else []
        files += [f"{one}/report.html" for one in words if script == "report.py" and "/" in one]
        files += ["leaderboard.html"] * (script == "leaderboard.py")
        files += [one for one in words if one in ("predictions.html", "audit.html")]
        for file in files:
            (work / file).parent.mkdir(parents=True, exist_ok=True)
            (work / file).write_text("")

    monkeypatch.setattr(demo_pages, "command", command)
    plan = Plan(runs={"lite0": (), "trained": ()}, data=str(tmp_path))
    first = build(tmp_path / "site", plan, parent=tmp_path, say=lambda _: None)
    assert [one for one in called if one in TRAINING] == ["run_cv.py", *TRAINING]
    drawn = [one for one in called if one not in TRAINING]
    del called[:]
    assert build(tmp_path / "site", plan, parent=tmp_path, say=lambda _: None) == first
    assert called == drawn


def test_screenshots_get_as_many_colours_as_fit():
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8))

    def colours(files):
        return len(Image.open(io.BytesIO(files["noise.png"])).convert("RGB").getcolors())

    all_of_them = smallest_loss({"noise.png": noise}, 100_000)
    assert colours(all_of_them) > 200
    fewer = smallest_loss({"noise.png": noise}, 3_500)
    assert len(fewer["noise.png"]) <= 3_500
    assert colours(fewer) < colours(all_of_them)
    with pytest.raises(UserError, match="lower a height"):
        smallest_loss({"noise.png": noise}, 100)


def test_missing_demo_pages_are_one_line(tmp_path):
    line = [sys.executable, "-m", "docs.screenshots", "--site", str(tmp_path)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith("missing; run make docs\n")
    assert done.stderr.count("\n") == 1


def test_images_of_the_documentation_are_used_and_small():
    folder = ROOT / "docs" / "images"
    files = [*folder.iterdir()]
    assert sum(file.stat().st_size for file in files) <= screenshots.MOST_BYTES
    assert {file.name for file in files} >= set(SHOTS)
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    for file in files:
        assert re.search(rf"!\[[^\]]{{20,}}\]\((?:docs/)?images/{file.name}\)", text), file.name


@pytest.mark.slow
def test_pages_of_small_runs_link_to_each_other(tiny_layout, tmp_path):
    runs = {
        "lite0": ("--backbone", "test_resnet", "--finetune", "head", *SMALL),
        "trained": ("--backbone", "test_resnet", "--epochs", "1", *SMALL),
    }
    plan = Plan(runs=runs, data=str(tiny_layout), audit=("--quick",))
    folder = tmp_path / "site" / "demo"
    pages = build(folder, plan, parent=tmp_path / "work", say=lambda _: None)
    assert {folder / name for name in PAGES} <= {*pages}
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r'href="([^"#:]+)"', text):
            assert (page.parent / link).is_file(), (page, link)
        assert f'"root":"{tiny_layout}' not in text
