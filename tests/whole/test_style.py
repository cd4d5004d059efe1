"""Rules of style that ruff cannot hold: see CONTRIBUTING.md."""

import ast
import re
import subprocess

import pytest

from tests.makers.constants import ROOT

CLAUSES = {"as", "because", "how", "if", "that", "what", "when", "where", "whether", "who", "why"}


@pytest.fixture(scope="module")
def trees():
    """Return the syntax tree of each Python file that git knows, by name."""
    listed = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    names = listed.stdout.split()
    if not names:
        pytest.skip("not a git checkout")
    return {name: ast.parse((ROOT / name).read_text(encoding="utf-8")) for name in names}


def is_double(node):
    """Return whether a statement assigns several values to several names, and is not a swap."""
    if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Tuple):
        return False
    if not isinstance(node.value, ast.Tuple):
        return False
    targets = {ast.unparse(one) for one in node.targets[0].elts}
    read = {ast.unparse(one) for one in ast.walk(node.value) if isinstance(one, ast.expr)}
    return not targets & read


def test_one_assignment_a_line(trees):
    found = [
        f"{name}:{node.lineno}"
        for name, tree in trees.items()
        for node in ast.walk(tree)
        if is_double(node)
    ]
    assert found == []


def test_a_swap_is_not_a_double_assignment():
    [swap, double] = ast.parse("a, b = b, a\nc, d = 1, e").body
    assert not is_double(swap)
    assert is_double(double)


def test_no_docstring_opens_on_a_clause(trees):
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    found = [
        f"{name}: {text.splitlines()[0]}"
        for name, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, kinds) and (text := ast.get_docstring(node))
        if text.split()[0].lower() in CLAUSES
    ]
    assert found == []


def test_letters_of_shapes_are_those_of_the_table(trees):
    table = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("| letter |")[1]
    rows = re.findall(r"^\| ([A-Z](?:, [A-Z])*) \|", table, flags=re.MULTILINE)
    known = set("".join(rows).replace(", ", ""))
    assert {"N", "C", "K"} <= known
    found = {
        f"{name}: {node.id}"
        for name, tree in trees.items()
        if not name.startswith(("tests/", "benchmarks/"))
        for node in ast.walk(tree)
        if isinstance(node, ast.Name)
        and (suffix := re.fullmatch(r"_?[a-z][a-z_]*_([A-Z]{1,4})", node.id))
        and not set(suffix[1]) <= known
    }
    assert found == set()
