"""Hooks of the documentation site: pages and files from outside docs/, and links that fit.

The same Markdown is read in the repository and on the site, where docs/ is the root.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
# Path on the site -> path in the repository. Pages link to these.
BROUGHT_IN = {"index.md": "README.md"}
BROUGHT_IN |= {
    name: name
    for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "LICENSE", "setup.cfg")
}
for pattern in ("examples/*.py", "examples/*.ipynb", "recipes/*.yaml"):
    for file in ROOT.glob(pattern):
        name = f"{file.parent.name}/{file.name}"
        BROUGHT_IN[name] = name
# Parts of links, in order: a pattern and what replaces it.
LINKS = (
    (r"\]\((?:\.\./)+README\.md", "](index.md"),
    (r"\]\((?:\.\./)+(?=[A-Za-z])", "]("),
    (r"\]\(docs/", "]("),
    (r"\]\(adr/?\)", "](adr/README.md)"),
    # Pages that are made after the site (docs/demo_pages.py); as HTML, they are not looked for yet.
    (r"`site/(demo/[\w/]+\.html)`", r'<a href="\1">\1</a>'),
)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages and files that lie outside docs/."""
    for uri, path in BROUGHT_IN.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return a page whose links fit the site; pages in folders keep theirs."""
    if "/" in page.file.src_uri:
        return markdown
    for pattern, fitting in LINKS:
        markdown = re.sub(pattern, fitting, markdown)
    return markdown
