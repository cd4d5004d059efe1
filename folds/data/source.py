"""Where the data comes from: a CSV, the competition's layout, or the embedded demo set."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from foldblend.errors import UserError, in_a_line, listed
from foldblend.flags import flag_name, flags_of
from foldblend.plugins import is_custom, load_custom
from folds.config import DataConfig
from folds.data.corrections import apply_corrections
from folds.data.demo import make_demo
from folds.data.generic import read_csv_manifest
from folds.data.layout import find_layout_root, read_layout, relabel_for_training
from folds.data.manifest import Manifest

__all__ = ["load_manifest"]

CHANNEL = "SM_CHANNEL_TRAIN"


def _named_layout(path: str, flag: str) -> Path:
    root = find_layout_root(Path(path))
    if root is None:
        raise UserError(
            f"{path} ({flag}): no train/train.csv there; point at the folder that holds train/,"
            " name others by --csv, or read a folder a class with --dataset"
            " examples.own_parts:read_folders"
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
    config: DataConfig | None = None, *, environ: Mapping[str, str] = os.environ
) -> Manifest:
    """Load the data set that the flags name, or the embedded demo set if they name none.

    Corrections are laid over its labels; `old_from` and `drop_ages` then decide what is learnt from
    which ages, and touch no score. Raises UserError where what is named is not there or cannot be
    used.
    """
    config = config or DataConfig()
    manifest = _read(config, environ)
    if config.corrections is not None:
        manifest = apply_corrections(manifest, config.corrections)
    return relabel_for_training(manifest, old_from=config.old_from, drop_ages=config.drop_ages)


def _read(config: DataConfig, environ: Mapping[str, str]) -> Manifest:
    """Return the data set as its files have it."""
    skip_missing = config.on_bad_image == "skip"
    default = DataConfig()
    for_csv = [name for name, about in flags_of(DataConfig).items() if about.csv_only]
    given = [flag_name(name) for name in for_csv if getattr(config, name) != getattr(default, name)]
    if config.csv is None and given:
        raise UserError(f"{listed(given)}: only for --csv; pass it too")
    if config.dataset is not None:
        if config.csv is not None:
            raise UserError("--csv and --dataset: two data sets are named; pass one")
        return _own(config.dataset, config)
    if config.csv is not None:
        if config.data is not None:
            raise UserError("--csv and --data: two data sets are named; pass one")
        return read_csv_manifest(
            Path(config.csv),
            image_col=config.image_col,
            label_col=config.label_col,
            group_col=config.group_col,
            image_root=None if config.image_root is None else Path(config.image_root),
            test_csv=None if config.test_csv is None else Path(config.test_csv),
            attribute_cols=_names(config.attribute_cols),
            box_cols=_names(config.box_cols),
            skip_missing=skip_missing,
        )
    root = _data_root(config.data, environ)
    if root is None:
        return read_layout(make_demo(), name="demo", is_demo=True)
    return read_layout(root, skip_missing=skip_missing)


def _own(name: str, config: DataConfig) -> Manifest:
    """Return what a user's own reader makes of the flags."""
    if not is_custom(name):
        raise UserError(f"--dataset {name}: name your own reader as module:name; see examples/")
    try:
        manifest = load_custom(name, "--dataset")(config)
    except UserError:
        raise
    except Exception as error:  # whatever a user's code may raise
        raise UserError(f"--dataset {name}: failed ({in_a_line(error)}); see examples/") from None
    if not isinstance(manifest, Manifest):
        raise UserError(
            f"--dataset {name}: returns a {type(manifest).__name__}, not what build_manifest makes;"
            " see examples/"
        )
    return manifest


def _names(text: str | None) -> tuple[str, ...]:
    return () if text is None else tuple(name.strip() for name in text.split(","))
