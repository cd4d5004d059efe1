"""Reader of the mask competition's folder layout, with the quirks of the real data.

`train/train.csv` lists people (id, gender, race, age, path); `train/images/<path>/` holds seven
images each; `eval/info.csv` (ImageID, ans) and `eval/images/` are the test set. Ids repeat or
carry suffixes, so a person is the folder, not the id. `._*` files are litter of a file manager.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pandas as pd

from foldblend.errors import UserError, counted, listed
from foldblend.tables import read_csv_text
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

__all__ = ["find_layout_root", "read_layout", "relabel_for_training"]

MASK_OF_STEM = {**{f"mask{i}": 0 for i in range(1, 6)}, "incorrect_mask": 1, "normal": 2}
SUFFIXES = (".jpg", ".jpeg", ".png")


def find_layout_root(path: Path) -> Path | None:
    """Return `path` or the nearest of three folders above it that holds `train/train.csv`, or
    None.
    """
    path = path.expanduser().resolve()
    if not path.exists():
        return None
    for folder in (path, *list(path.parents)[:3]):
        if (folder / "train" / "train.csv").is_file():
            return folder
    return None


def _read_table(file: Path, columns: set[str]) -> pd.DataFrame:
    table = read_csv_text(file)
    absent = columns - set(table.columns)
    if absent:
        raise UserError(
            f"{file}: lacks the column {listed(sorted(absent))}; it has"
            f" {listed(table.columns, most=9)}"
        )
    return table


def _person_pictures(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Return the seven images by stem, and names of files that are none of them."""
    found: dict[str, Path] = {}
    stray: list[str] = []
    for file in sorted(folder.iterdir()):
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
    ids = _read_table(info, {"ImageID"})["ImageID"]
    return [(image_id, root / "eval" / "images" / image_id) for image_id in ids]


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
    """Read the competition's layout below `root`; the group is the person's folder.

    `skip_missing` passes over images that are not there (said in the manifest's warnings) where
    otherwise they stop the reader. Raises UserError naming file and row for anything it cannot use.
    """
    listing = root / "train" / "train.csv"
    table = _read_table(listing, {"gender", "age", "path"})
    twice = table.loc[table["path"].duplicated(), "path"].unique()
    if len(twice):
        raise UserError(
            f"{listing}: folder {listed(twice)} is listed more than once; keep one row a person"
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
            raise UserError(f"{where}: no folder {folder}; put it back or take the row out")
        if row.get("id"):
            aliases[row["id"]] = (*aliases.get(row["id"], ()), row["path"])
        pictures, others = _person_pictures(folder)
        stray += others
        missing += [f"{row['path']}/{stem}" for stem in MASK_OF_STEM if stem not in pictures]
        for stem, file in pictures.items():
            image_id.append(f"{row['path']}/{file.name}")
            path.append(file)
            group.append(row["path"])
            years.append(float(row["age"]))
            label.append(encode(MASK_OF_STEM[stem], gender, age))
    warnings = []
    if missing:
        said = (
            f"{root / 'train' / 'images'}: {counted(len(missing), 'image')} missing:"
            f" {listed(missing)}"
        )
        if not skip_missing:
            raise UserError(f"{said}; put them back or pass --on-bad-image skip")
        warnings.append(f"{said}; skipped")
    if (root / "eval" / "images").is_dir() and not (root / "eval" / "info.csv").is_file():
        warnings.append(
            f"{root / 'eval'}: has images but no info.csv, so there will be no test logits"
        )
    if stray:
        warnings.append(
            f"{root / 'train' / 'images'}: passed over {len(stray)} other files: {listed(stray)}"
        )
    found = ImageTable(
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
        aliases=aliases,
        codes={"mask": _mask_code, "gender": _gender_code, "age": _age_code},
        extra={"age": years},
    )
    return build_manifest(found)


def _span(text: str) -> tuple[float, float]:
    """Return the ages of "57-59", both ends included."""
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", text.strip())
    ages = (float(found[1]), float(found[2] or found[1])) if found else (1.0, 0.0)
    if ages[0] > ages[1]:
        raise UserError(f"--drop-ages {text}: write a span of years such as 57-59")
    return ages


def relabel_for_training(
    manifest: Manifest, *, old_from: float | None, drop_ages: str | None
) -> Manifest:
    """Return the manifest with `label_fit`, the class to train on or -1, where either is asked for.

    People from `old_from` years count as 60+, those of the span `drop_ages` are left out. Scores
    stay with the labels. Raises UserError for a data set without ages or a span that is none.
    """
    if old_from is None and drop_ages is None:
        return manifest
    train = manifest.train
    if "age" not in train:
        raise UserError(
            "--old-from and --drop-ages: only for the competition's layout, which has ages; leave"
            " them out"
        )
    label_N = train["label"].to_numpy()
    span = None if drop_ages is None else _span(drop_ages)
    fit_N = training_labels(label_N, train["age"].to_numpy(), old_from=old_from, drop_ages=span)
    notes = []
    if old_from is not None:
        notes.append(
            f"--old-from {old_from:g}: {((fit_N >= 0) & (fit_N != label_N)).sum()} images are"
            " trained as 60+"
        )
    if (fit_N < 0).all():
        raise UserError(
            f"--drop-ages {drop_ages}: leaves nobody to train on; write a narrower span"
        )
    if drop_ages is not None:
        notes.append(
            f"--drop-ages {drop_ages}: {(fit_N < 0).sum()} images are left out of training"
        )
    return dataclasses.replace(
        manifest, train=train.assign(label_fit=fit_N), notes=(*manifest.notes, *notes)
    )
