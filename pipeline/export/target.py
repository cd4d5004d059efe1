"""Places that an export is written to, which must not hold what a user needs."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import safetensors

from foldblend.cli import Say
from foldblend.drafts import draft_folder
from foldblend.errors import UserError, printable
from foldblend.failures import failed_write
from foldblend.files import check_writable, exists, home, is_file
from pipeline.predict.open import Predictor

__all__ = ["target_file", "target_folder", "write_folder"]


def target_file(to: str, *, overwrite: bool) -> Path:
    """Return the file to write; raise UserError if it cannot be, or is there already."""
    path = home(to)
    try:
        is_folder = path.is_dir()
        path.lstat()
    except FileNotFoundError:
        return path
    except (OSError, ValueError):  # the name is too long, or no file can have it
        raise UserError(f"--to {path}: no file can be written there; pass another") from None
    if is_folder:
        raise UserError(f"--to {path}: is a folder; pass a file in it, such as {path}/model.zip")
    if not overwrite:
        raise UserError(f"--to {path}: is there already; pass --overwrite to replace it")
    if exists(path) and not is_file(path):
        raise UserError(f"--to {path}: is no regular file; pass another")
    # A slip would destroy the tables of a run.
    of_run = any(is_file(folder / "run.json") for folder in Path(os.path.realpath(path)).parents)
    if of_run and not zipfile.is_zipfile(path):
        raise UserError(f"--to {path}: is a file of a run, so it is not replaced; pass another")
    return path


def target_folder(given: str, *, flag: str, overwrite: bool) -> Path:
    """Return the folder to write; raise UserError for one that has files, unless asked."""
    folder = home(given)
    # Neither timm's nor onnxruntime's reader takes such a path.
    if printable(str(folder)) != str(folder):
        raise UserError(f"{flag} {folder}: is not a plain UTF-8 name; pass another folder")
    check_writable(folder, flag=flag)
    if exists(folder.parent):
        check_writable(folder.parent, flag=flag)
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise UserError(
            f"{flag} {folder}: has files already; pass --overwrite to replace those of the same"
            " name, or another folder"
        )
    return folder


def write_folder(
    folder: Path, predictor: Predictor, write_models: Callable[..., object], say: Say
) -> None:
    """Write models into a draft beside a folder, and move them there when all are checked."""
    try:
        with draft_folder(folder) as draft:
            made = draft / folder.name
            made.mkdir()
            write_models(
                predictor, made, say=lambda line: say(line.replace(str(made), str(folder)))
            )
            folder.mkdir(exist_ok=True)
            for item in sorted(made.iterdir()):
                place = folder / item.name
                if place.is_dir() and not place.is_symlink():
                    # Of a folder with this name, only the files of models are replaced.
                    for file in sorted(item.iterdir()):
                        file.replace(place / file.name)
                else:
                    item.replace(place)
    except UserError as error:
        # It may name a file in the draft.
        text = str(error).replace(printable(str(made)), printable(str(folder)))
        raise UserError(text) from None
    except (OSError, safetensors.SafetensorError) as error:
        raise failed_write(folder, error) or error from None
