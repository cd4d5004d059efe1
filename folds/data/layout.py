"""Reader of the mask competition's folder layout.

`train/train.csv` lists people (id, gender, race, age, path), `train/images/<path>/` holds the seven
images of a person, and `eval/info.csv` (ImageID, ans) and `eval/images/` are the test set. In the
real data some ids repeat or have suffixes, so the group is the folder and not the id. Files named
`._*` were left by a file manager and are ignored.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pandas as pd

from foldblend.errors import UserError, counted, listed
from foldblend.tables import read_text_table
from folds.config import LAYOUTS
from folds.data.finder import find_images
from folds.data.labels import (
    ATTRIBUTES,
    CLASSES,
    MASKS,
    age_group,
    encode,
    gender_code,
    training_labels,
)
from folds.data.manifest import ImageTable, Manifest, build_manifest

__all__ = ["find_layout_root", "layout_table", "read_layout", "relabel_for_training"]

MASK_OF_STEM = {**{f"mask{i}": 0 for i in range(1, 6)}, "incorrect_mask": 1, "normal": 2}
SUFFIXES = (".jpg", ".jpeg", ".png")
COLUMNS = {"gender", "age", "path"}


def _has_people(listing: Path) -> bool:
    """Return whether a train.csv lists people, by two of its three columns."""
    try:
        columns = read_text_table(listing).cells.columns
    except UserError:
        # Of a file beside train/images, reading it again gives the user the error.
        return (listing.parent / "images").is_dir()
    return len(COLUMNS & set(columns)) > 1


def find_layout_root(path: Path) -> Path | None:
    """Return the folder whose `train/train.csv` lists people, or None.

    It is `path`, or up to three folders above it if `path` is in its train/ or eval/, because
    public baselines pass train/images.
    """
    path = path.expanduser().resolve()
    if not path.exists():
        return None
    for folder in (path, *list(path.parents)[:3]):
        listing = folder / "train" / "train.csv"
        inside = path.relative_to(folder).parts[:1] in ((), ("train",), ("eval",))
        if inside and listing.is_file() and _has_people(listing):
            return folder
    return None


def _read_table(file: Path, columns: set[str]) -> pd.DataFrame:
    return read_text_table(file).filled(sorted(columns))


def _person_images(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Return the images of a person by stem, and the names of all other files."""
    found: dict[str, Path] = {}
    stray: list[str] = []
    for file in sorted(folder.iterdir()):
        # File managers leave hidden files such as ._mask1.jpg.
        if file.name.startswith("."):
            continue
        if file.stem not in MASK_OF_STEM or file.suffix.lower() not in SUFFIXES:
            stray.append(f"{folder.name}/{file.name}")
        elif file.stem in found:
            raise UserError(
                f"{folder}: {found[file.stem].name} and {file.name} are the same image; keep one"
            )
        else:
            found[file.stem] = file
    return found, stray


def _read_test(root: Path) -> list[tuple[str, Path]] | None:
    info = root / "eval" / "info.csv"
    if not info.is_file():
        return None
    ids = _read_table(info, {"ImageID"})["ImageID"].tolist()
    images = find_images(ids, [root / "eval" / "images"], where=str(info), cure="remove one")
    return list(zip(ids, images.paths, strict=True))


def _mask_code(text: str, where: str) -> int:
    if text in MASK_OF_STEM:
        return MASK_OF_STEM[text]
    if text not in MASKS:
        raise UserError(f"{where}: unknown mask {text!r}; write {listed(MASKS)}")
    return MASKS.index(text)


def _gender_code(text: str, where: str) -> int:
    return gender_code(text, where=where)


def _age_code(text: str, where: str) -> int:
    return age_group(text, where=where)


def read_layout(
    root: Path, *, name: str | None = None, is_demo: bool = False, skip_missing: bool = False
) -> Manifest:
    """Read and check a data set in the mask competition's layout (see `layout_table`)."""
    return build_manifest(layout_table(root, name=name, is_demo=is_demo, skip_missing=skip_missing))


def layout_table(
    root: Path, *, name: str | None = None, is_demo: bool = False, skip_missing: bool = False
) -> ImageTable:
    """Read a data set in the mask competition's layout; the group is the person's folder.

    Parameters
    ----------
    root
        Folder that holds train/ and, optionally, eval/.
    name
        Name of the data set, by default that of the folder.
    is_demo
        True for the demo set.
    skip_missing
        Skip missing labelled images with a warning, instead of an error.

    Returns
    -------
    ImageTable
        The data set, for `build_manifest` to check.

    Raises
    ------
    UserError
        With file and row, for anything that cannot be used.
    """
    listing = root / "train" / "train.csv"
    table = _read_table(listing, COLUMNS)
    twice = table.loc[table["path"].duplicated(), "path"].unique()
    if len(twice):
        raise UserError(
            f"{listing}: folder {listed(twice)} is listed more than once; keep one row per person"
        )
    image_id: list[str] = []
    path: list[Path] = []
    group: list[str] = []
    label: list[int] = []
    years: list[float] = []
    aliases: dict[str, tuple[str, ...]] = {}
    stray: list[str] = []
    missing: list[str] = []
    for row in table.to_dict("records"):
        where = f"{listing}: {row['path']}"
        gender = gender_code(row["gender"], where=where)
        age = age_group(row["age"], where=where)
        folder = root / "train" / "images" / row["path"]
        if not row["path"] or not folder.is_dir():
            raise UserError(f"{where}: no folder {folder}; restore it or remove the row")
        if row.get("id"):
            aliases[row["id"]] = (*aliases.get(row["id"], ()), row["path"])
        images, others = _person_images(folder)
        stray += others
        missing += [f"{row['path']}/{stem}" for stem in MASK_OF_STEM if stem not in images]
        for stem, file in images.items():
            image_id.append(f"{row['path']}/{file.name}")
            path.append(file)
            group.append(row["path"])
            years.append(float(row["age"]))
            label.append(encode(MASK_OF_STEM[stem], gender, age))
    warnings = []
    # Notes reach the report, which must tell what was left out.
    notes = []
    if missing:
        text = (
            f"{root / 'train' / 'images'}: {counted(len(missing), 'image')} missing:"
            f" {listed(missing)}"
        )
        if not skip_missing:
            raise UserError(f"{text}; restore them or pass --on-bad-image skip")
        notes.append(f"{text}; skipped")
    if (root / "eval" / "images").is_dir() and not (root / "eval" / "info.csv").is_file():
        warnings.append(f"{root / 'eval'}: has images but no info.csv, so there is no test set")
    if stray:
        warnings.append(
            f"{root / 'train' / 'images'}: ignored {counted(len(stray), 'other file')}:"
            f" {listed(stray)}"
        )
    return ImageTable(
        name=name or root.name,
        root=root,
        image_id=image_id,
        path=path,
        group=group,
        label=label,
        test=_read_test(root),
        classes=CLASSES,
        answers=range(len(CLASSES)),
        attributes=ATTRIBUTES,
        is_demo=is_demo,
        warnings=warnings,
        notes=notes,
        aliases=aliases,
        codes={"mask": _mask_code, "gender": _gender_code, "age": _age_code},
        extra={"age": years},
        group_name="person",
        found=[]
        if is_demo
        else [
            f"{root}: read as {LAYOUTS['mask']}; {counted(len(image_id), 'image')},"
            f" {len(CLASSES)} classes, {counted(len(set(group)), 'person')}"
        ],
    )


def _span(text: str) -> tuple[float, float]:
    """Return the lowest and the highest age of a span such as "57-59"."""
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", text.strip())
    ages = (float(found[1]), float(found[2] or found[1])) if found else (1.0, 0.0)
    if ages[0] > ages[1]:
        raise UserError(f"--drop-ages {text}: not a span of years; pass one such as 57-59")
    return ages


def relabel_for_training(
    manifest: Manifest, *, old_from: float | None, drop_ages: str | None
) -> Manifest:
    """Return the manifest with a column `label_fit` if ages are changed for training.

    `label_fit` is the class that training uses, or -1 for rows left out. People from `old_from`
    years count as 60+, and those within the span `drop_ages` are left out. Scores use the true
    labels. Raises UserError for a data set without ages or an invalid span.
    """
    if old_from is None and drop_ages is None:
        return manifest
    train = manifest.train
    if "age" not in train:
        raise UserError(
            "--old-from and --drop-ages: only for the mask competition's layout, which has ages;"
            " leave them out"
        )
    label_N = train["label"].to_numpy()
    span = None if drop_ages is None else _span(drop_ages)
    fit_N = training_labels(label_N, train["age"].to_numpy(), old_from=old_from, drop_ages=span)
    notes = []
    if old_from is not None:
        notes.append(
            f"--old-from {old_from:g}: {((fit_N >= 0) & (fit_N != label_N)).sum()} images count as"
            " 60+ in training"
        )
    if (fit_N < 0).all():
        raise UserError(
            f"--drop-ages {drop_ages}: leaves no image to train on; pass a narrower span"
        )
    if drop_ages is not None:
        notes.append(
            f"--drop-ages {drop_ages}: {(fit_N < 0).sum()} images are left out of training"
        )
    alone = manifest.train_only
    return dataclasses.replace(
        manifest,
        train=train.assign(label_fit=fit_N),
        # No age is known of further images.
        train_only=None if alone is None else alone.assign(label_fit=alone["label"]),
        notes=(*manifest.notes, *notes),
    )
