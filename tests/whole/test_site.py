"""Tests that the site builds without a warning and loads nothing from other machines."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from tests.makers.constants import ROOT

pytest.importorskip("mkdocs", reason="the docs extra is not installed")
pytestmark = pytest.mark.slow

# Attributes that make a browser fetch something. An <a href> is only followed by a click.
FETCHES = ("src", "srcset", "data", "poster", "style")
ELSEWHERE = re.compile(r"(?:https?:)?//")
# Addresses in the script of the theme. It fetches the first two where a page has a diagram or a
# browser lacks ResizeObserver (older than 2020), and the others where `repo_url` is set.
NOT_REACHED = {
    "https://unpkg.com/mermaid@",
    "https://unpkg.com/resize-observer-polyfill",
    "https://api.github.com/",
    "https://${e}/api/v4/projects/",
}


class Fetches(HTMLParser):
    """Parser that collects the addresses on other machines that a page fetches."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.classes: set[str] = set()

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            fetched = name in FETCHES or (name == "href" and tag != "a")
            if fetched and ELSEWHERE.search(value or ""):
                self.found.append(f"{tag} {name}={value}")
            if name == "class":
                self.classes.update((value or "").split())


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return folder


def test_every_page_of_the_documentation_is_on_the_site(site):
    pages = {str(file.relative_to(ROOT / "docs")) for file in (ROOT / "docs").rglob("*.md")}
    pages |= {"index.md", "CONTRIBUTING.md", "CHANGELOG.md"}
    made = {re.sub(r"\bREADME", "index", page).replace(".md", ".html") for page in pages}
    assert made <= {str(file.relative_to(site)) for file in site.rglob("*.html")}


def test_pages_fetch_nothing_from_other_machines(site):
    for file in site.rglob("*.html"):
        page = Fetches()
        page.feed(file.read_text(encoding="utf-8"))
        assert page.found == [], file
        assert "mermaid" not in page.classes, file


def test_styles_and_scripts_fetch_nothing_from_other_machines(site):
    for file in site.rglob("*.css"):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", text), file
    for file in site.rglob("bundle.*.js"):
        text = file.read_text(encoding="utf-8")
        for known in NOT_REACHED:
            text = text.replace(known, "")
        assert not re.findall(r"[\"'`]https?://[^\"'`]*", text), file


def test_lists_and_tables_are_not_run_into_a_paragraph(site):
    # GitHub starts a list right after a line of text; the site needs an empty line before it.
    for file in site.rglob("*.html"):
        text = file.read_text(encoding="utf-8")
        paragraphs = re.findall(r"<p>(.*?)</p>", text, flags=re.DOTALL)
        assert [one for one in paragraphs if re.search(r"\n(?:[-*|] |\d+\. )", one)] == [], file


def test_decisions_are_all_listed():
    listed = (ROOT / "docs" / "adr" / "README.md").read_text(encoding="utf-8")
    for file in (ROOT / "docs" / "adr").glob("0*.md"):
        assert f"]({file.name})" in listed
