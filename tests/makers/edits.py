"""Changes to the files of run folders."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from foldblend.runs.folder import file_hash, write_json, write_table


def edit_run(folder: Path, *, without: Sequence[str] = (), **changes: Any) -> None:
    """Change keys of a run's run.json, or remove them."""
    info = json.loads((folder / "run.json").read_text()) | changes
    write_json(
        folder / "run.json", {key: value for key, value in info.items() if key not in without}
    )


def edit_table(file: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Replace a parquet table by a function of it; its hash in run.json, if any, is kept right."""
    write_table(file, change(pd.read_parquet(file)))
    rehash(file)


def rehash(file: Path) -> None:
    """Write the hash of a changed file of a run where its old one is recorded."""
    folder = next(one for one in file.parents if (one / "run.json").is_file())
    name = str(file.relative_to(folder))
    info = json.loads((folder / "run.json").read_text())
    for files in [info.get("files", {}), *(one.get("files", {}) for one in info.get("folds", ()))]:
        if name in files:
            files[name] = file_hash(file)
    write_json(folder / "run.json", info)


def assert_left_out(command: Any, good: Path, bad: Path, *words: str) -> None:
    """Assert that a damaged run is an error if it is blended alone, and else left out by name."""
    argv = ["--method", "soft", "--name", "rest", "--no-page"]
    command(bad, *argv).assert_one_line_error(*words)
    assert not (bad.parent / "rest").exists()
    done = command(good, bad, *argv)
    assert done.code == 0, done.err
    printed = " ".join(done.out.split())
    assert bad.name in printed
    assert all(word in printed for word in words), printed
    info = json.loads((good.parent / "rest" / "run.json").read_text())
    assert [one["name"] for one in info["members"]] == [good.name]
