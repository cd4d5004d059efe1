"""Tests that the documentation agrees with the code."""

import json
import re
import shutil

import jsonschema
import pytest

from docs import generate
from foldblend.runs.info import RunInfo
from foldblend.siblings import PACKAGES
from tests.makers.constants import ROOT


@pytest.mark.parametrize("name", generate.FILES)
def test_generated_files_are_up_to_date(name):
    """Compare the files that `python -m docs.generate` writes with the code."""
    assert (generate.HERE / name).read_text(encoding="utf-8") == generate.FILES[name]()


def test_run_json_matches_its_schema(tiny_runs, tmp_path, blend_command, command_of):
    import run_tta

    outputs = shutil.copytree(tiny_runs, tmp_path / "outputs")
    assert command_of(run_tta.main)(outputs / "beta", "--views", "hflip", "--no-page").code == 0
    done = blend_command(
        outputs / "alpha", outputs / "beta_tta", "--method", "soft", "--name", "both", "--no-page"
    )
    assert done.code == 0, done.err
    schema = json.loads((ROOT / "docs" / "run.schema.json").read_text(encoding="utf-8"))
    for name in ("alpha", "beta_tta", "both"):
        info = json.loads((outputs / name / "run.json").read_text(encoding="utf-8"))
        jsonschema.validate(info, schema)
        assert set(info) <= set(RunInfo.__annotations__), name
        for part, typed in (("data", "DataInfo"), ("folds", "FoldInfo"), ("members", "MemberInfo")):
            known = schema["properties"][part].get("items", schema["properties"][part])[
                "properties"
            ]
            found = info.get(part, [])
            for one in [found] if part == "data" else found:
                assert set(one) <= set(known), (name, typed)


def test_paths_in_the_documentation_exist():
    """Check the files that texts mention in backquotes or links."""
    folders = tuple(
        f"{name}/" for name in (*PACKAGES, "foldblend", "tests", "benchmarks", "docs", "examples")
    )
    absent = set()
    for text in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for word in re.split(r"[\s()`]+", text.read_text(encoding="utf-8")):
            name = word.strip(".,;:\"'").partition("#")[0]
            if (
                name.startswith(folders)
                and name.endswith((".py", ".md", ".json"))
                and not [*ROOT.glob(name)]
            ):
                absent.add(f"{text.name}: {name}")
    assert not absent


def anchors(page):
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    heads = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.strip().lower()).replace(" ", "-") for head in heads}


def test_links_between_pages_are_not_broken():
    broken = set()
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for link in re.findall(r"\]\((?!http)([^)]+)\)", text):
            file, _, anchor = link.partition("#")
            target = page.parent / file if file else page
            if not target.exists() or (anchor and anchor not in anchors(target)):
                broken.add(f"{page.name}: {link}")
    assert not broken


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= 10_000
