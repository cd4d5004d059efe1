"""Changes to the files of run folders."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from foldblend.runs.folder import write_json, write_table


def edit_run(folder: Path, *, without: Sequence[str] = (), **changes: Any) -> None:
    """Change keys of a run's run.json, or remove them."""
    info = json.loads((folder / "run.json").read_text()) | changes
    write_json(
        folder / "run.json", {key: value for key, value in info.items() if key not in without}
    )


def edit_table(file: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Replace a parquet table by a function of it."""
    write_table(file, change(pd.read_parquet(file)))
