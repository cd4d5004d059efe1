"""Tests that the example notebook runs and is saved with its output."""

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "reports.ipynb"
nbformat = pytest.importorskip(
    "nbformat", reason="nbformat is not installed: pip install nbclient ipykernel"
)


def shown(notebook) -> list[dict[str, str]]:
    return [
        dict(one.data)
        for cell in notebook.cells
        for one in cell.get("outputs", [])
        if "data" in one
    ]


def check(notebook) -> None:
    """Check that the output has seven tables and two figures, and no error."""
    outputs = shown(notebook)
    html = [one["text/html"] for one in outputs if "text/html" in one]
    assert sum("<table" in one for one in html) == 7
    assert sum(one.startswith("<svg") for one in html) == 2
    assert "'low'" in outputs[0]["text/plain"]
    assert not [
        one
        for cell in notebook.cells
        for one in cell.get("outputs", [])
        if one.output_type == "error"
    ]


def test_the_notebook_is_kept_with_its_output():
    notebook = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(notebook)
    check(notebook)
    # The output has no paths or warnings of the machine that it was made on.
    text = NOTEBOOK.read_text()
    for word in ("/root", "/home", "/tmp", "stderr"):
        assert word not in text


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    client = pytest.importorskip(
        "nbclient", reason="nbclient is not installed: pip install nbclient ipykernel"
    )
    pytest.importorskip("ipykernel", reason="ipykernel is not installed: pip install ipykernel")
    notebook = nbformat.read(NOTEBOOK, 4)
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = []
    resources = {"metadata": {"path": str(tmp_path)}}
    client.NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources=resources
    ).execute()
    check(notebook)
    assert {one.name for one in (tmp_path / "outputs").iterdir()} == {"small", "large", "both"}
