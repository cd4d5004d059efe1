"""Where the data comes from: a CSV, the competition's layout, or the embedded demo set."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from folds.corrections import apply_corrections
from folds.demo import make_demo
from folds.errors import UserError, listed
from folds.generic import read_csv_manifest
from folds.layout import find_layout_root, read_layout, relabel_for_training
from folds.manifest import Manifest

__all__ = ["load_manifest"]

CHANNEL = "SM_CHANNEL_TRAIN"


def _named_layout(path: str, flag: str) -> Path:
    root = find_layout_root(Path(path))
    if root is None:
        raise UserError(
            f"{path} ({flag}): no train/train.csv there; point at the folder that holds train/, or use --csv"
        )
    return root


def _data_root(data: str | None, environ: Mapping[str, str]) -> Path | None:
    """Return the layout's root by precedence --data, $SM_CHANNEL_TRAIN, data/; None means demo."""
    if data == "demo":
        return None
    if data is not None:
        return _named_layout(data, "--data")
    if environ.get(CHANNEL):
        return _named_layout(environ[CHANNEL], f"${CHANNEL}")
    if Path("data").is_dir():
        return _named_layout("data", "the data folder here; pass --data demo for the embedded set")
    return None


def load_manifest(
    *,
    data: str | None = None,
    csv: str | None = None,
    image_col: str = "image",
    label_col: str = "label",
    group_col: str | None = None,
    image_root: str | None = None,
    test_csv: str | None = None,
    corrections: str | None = None,
    old_from: float | None = None,
    drop_ages: str | None = None,
    skip_missing: bool = False,
    environ: Mapping[str, str] = os.environ,
) -> Manifest:
    """Load the data set that the flags name, or the embedded demo set if they name none.

    Corrections are laid over its labels; `old_from` and `drop_ages` then decide what is learnt from
    which ages, and touch no score. Raises UserError where what is named is not there or cannot be used.
    """
    manifest = _read(
        data=data,
        csv=csv,
        image_col=image_col,
        label_col=label_col,
        group_col=group_col,
        image_root=image_root,
        test_csv=test_csv,
        skip_missing=skip_missing,
        environ=environ,
    )
    if corrections is not None:
        manifest = apply_corrections(manifest, corrections)
    return relabel_for_training(manifest, old_from=old_from, drop_ages=drop_ages)


def _read(
    *,
    data: str | None,
    csv: str | None,
    image_col: str,
    label_col: str,
    group_col: str | None,
    image_root: str | None,
    test_csv: str | None,
    skip_missing: bool,
    environ: Mapping[str, str],
) -> Manifest:
    """Return the data set as its files have it."""
    given = {
        "--image-col": image_col != "image",
        "--label-col": label_col != "label",
        "--group-col": group_col is not None,
        "--image-root": image_root is not None,
        "--test-csv": test_csv is not None,
    }
    if csv is None and any(given.values()):
        raise UserError(f"{listed(flag for flag in given if given[flag])}: only for --csv; pass it too")
    if csv is not None:
        if data is not None:
            raise UserError("--csv and --data: two data sets are named; pass one")
        return read_csv_manifest(
            Path(csv),
            image_col=image_col,
            label_col=label_col,
            group_col=group_col,
            image_root=None if image_root is None else Path(image_root),
            test_csv=None if test_csv is None else Path(test_csv),
            skip_missing=skip_missing,
        )
    root = _data_root(data, environ)
    if root is None:
        return read_layout(make_demo(), name="demo", is_demo=True)
    return read_layout(root, skip_missing=skip_missing)
