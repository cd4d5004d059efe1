"""Selection of the data source: a CSV, a folder, a user's reader or the demo set."""

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


def _layout_root(path: str, flag: str) -> Path:
    root = find_layout_root(Path(path))
    if root is None:
        raise UserError(
            f"{path} ({flag}): no train/train.csv there; pass the folder that holds train/, use"
            " --csv for a CSV of images, or use --dataset examples.own_parts:read_folders for"
            " one folder per class"
        )
    return root


def _data_root(data: str | None, environ: Mapping[str, str]) -> Path | None:
    """Return the root from --data, else $SM_CHANNEL_TRAIN, else data/; None means the demo."""
    if data == "demo":
        return None
    if data is not None:
        return _layout_root(data, "--data")
    if environ.get(CHANNEL):
        return _layout_root(environ[CHANNEL], f"${CHANNEL}")
    if Path("data").is_dir():
        return _layout_root("data", "the data folder here; pass --data demo for the embedded set")
    return None


def load_manifest(
    config: DataConfig | None = None, *, environ: Mapping[str, str] = os.environ
) -> Manifest:
    """Load the data set that the settings select, or the demo set if they select none.

    Label corrections are applied, then `old_from` and `drop_ages`, which change the labels for
    training only.

    Parameters
    ----------
    config
        Settings of the data.
    environ
        Environment variables, of which $SM_CHANNEL_TRAIN may give the folder of the data.

    Returns
    -------
    Manifest
        The checked data set.

    Raises
    ------
    UserError
        If the data are missing or cannot be used.
    """
    config = config or DataConfig()
    manifest = _read(config, environ)
    if config.corrections is not None:
        manifest = apply_corrections(manifest, config.corrections)
    return relabel_for_training(manifest, old_from=config.old_from, drop_ages=config.drop_ages)


def _read(config: DataConfig, environ: Mapping[str, str]) -> Manifest:
    """Return the data set with its original labels."""
    skip_missing = config.on_bad_image == "skip"
    default = DataConfig()
    for_csv = [name for name, about in flags_of(DataConfig).items() if about.csv_only]
    given = [flag_name(name) for name in for_csv if getattr(config, name) != getattr(default, name)]
    if config.csv is None and given:
        raise UserError(f"{listed(given)}: only for --csv; pass --csv as well")
    if config.dataset is not None:
        if config.csv is not None:
            raise UserError("--csv and --dataset: two data sets are given; pass one")
        return _from_reader(config.dataset, config)
    if config.csv is not None:
        if config.data is not None:
            raise UserError("--csv and --data: two data sets are given; pass one")
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


def _from_reader(name: str, config: DataConfig) -> Manifest:
    """Return the data set that the user's reader makes from the settings."""
    if not is_custom(name):
        raise UserError(f"--dataset {name}: pass your reader as module:name; see examples/")
    try:
        manifest = load_custom(name, "--dataset")(config)
    except UserError:
        # The reader's message for users is shown as it is.
        raise
    except Exception as error:  # A user's reader may raise anything.
        raise UserError(f"--dataset {name}: failed ({in_a_line(error)}); see examples/") from None
    if not isinstance(manifest, Manifest):
        raise UserError(
            f"--dataset {name}: returns a {type(manifest).__name__}; return the Manifest of"
            " build_manifest (see examples/)"
        )
    return manifest


def _names(text: str | None) -> tuple[str, ...]:
    return () if text is None else tuple(name.strip() for name in text.split(","))
