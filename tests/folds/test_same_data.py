"""The same images in each layout make the same folds and logits."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest

from foldblend.runs.run import Run
from folds.config import DataConfig
from folds.data.source import load_manifest
from folds.kfold import stratified_group_folds
from tests.makers.constants import LONDON, TINY


def as_tables(manifest, folder):
    """Write a manifest's images as CSV, TSV, JSON lines and Parquet, and return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    train = manifest.train
    rows = [
        {"image": path, "label": manifest.classes[label], "group": group}
        for path, label, group in zip(
            train["image_id"], train["label"], train["group"], strict=True
        )
    ]
    for name, dialect in (("a.csv", csv.excel), ("b.tsv", csv.excel_tab)):
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]), dialect=dialect)
            writer.writeheader()
            writer.writerows(rows)
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / "c.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    images = [
        {"bytes": Path(path).read_bytes(), "path": name}
        for path, name in zip(train["path"], train["image_id"], strict=True)
    ]
    frame = pd.DataFrame(rows).assign(image=images)
    pyarrow.parquet.write_table(pyarrow.Table.from_pandas(frame), folder / "d.parquet")
    return [folder / name for name in ("a.csv", "b.tsv", "c.jsonl", "d.parquet")]


def as_class_folders(manifest, folder):
    """Link a manifest's images into a folder per class, with the group in the file's name."""
    train = manifest.train
    for path, label, group in zip(train["path"], train["label"], train["group"], strict=True):
        file = folder / f"{label:02d}" / f"{group}__{Path(path).name}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.symlink_to(Path(path).resolve())


def folds_of(manifest, num_folds):
    """Return {group: fold}."""
    train = manifest.train
    fold_N = stratified_group_folds(train["label"], train["group"], num_folds=num_folds, seed=0)
    return dict(zip(train["group"], fold_N, strict=True))


def runs_of(cv_command, files, output, root, order, *flags):
    for file in files:
        done = cv_command(
            *("--csv", file, "--group-col", "group", "--image-root", root, "--class-order", order),
            *("--output", output, "--name", file.suffix[1:], "--no-page", *flags),
        )
        assert done.code == 0, done.err
    return [Run(output / file.suffix[1:]) for file in files]


def check_equal(runs):
    first, *others = runs
    for run in others:
        for column in ("image_id", "group", "label", "fold"):
            assert run.oof[column].equals(first.oof[column]), (run.path, column)
        assert np.array_equal(run.logits(run.oof), first.logits(first.oof)), run.path


def order_file(manifest, folder):
    file = folder / "order.txt"
    present = sorted(set(manifest.train["label"]))
    file.write_text("\n".join(manifest.classes[label] for label in present), encoding="utf-8")
    return file


@pytest.mark.slow
def test_every_format_of_a_table_gives_the_same_logits(tiny_layout, tmp_path, cv_command):
    manifest = load_manifest(DataConfig(data=str(tiny_layout)))
    files = as_tables(manifest, tmp_path)
    root = tiny_layout / "train" / "images"
    order = order_file(manifest, tmp_path)
    flags = ("--backbone", "test_resnet", *TINY)
    check_equal(runs_of(cv_command, files, tmp_path / "runs", root, order, *flags))


def test_class_folders_give_the_folds_of_the_layout(tiny_layout, tmp_path):
    manifest = load_manifest(DataConfig(data=str(tiny_layout)))
    as_class_folders(manifest, tmp_path / "classes")
    other = load_manifest(DataConfig(data=str(tmp_path / "classes"), group_regex="/(.*)__"))
    assert other.classes == tuple(f"{label:02d}" for label in range(18))
    assert folds_of(other, 2) == folds_of(manifest, 2)


@pytest.mark.slow
@pytest.mark.skipif(not LONDON.is_dir(), reason="needs the real faces")
def test_real_faces_in_every_layout(tmp_path, cv_command):
    manifest = load_manifest(DataConfig(data=str(LONDON)))
    order = order_file(manifest, tmp_path)
    root = LONDON / "train" / "images"
    # The engine that `auto` finds faster may be another one in a later run, with other last bits.
    common = ("--finetune", "head", "--img-size", "96x128", "--head-l2", "0.03")
    flags = (*common, "--folds", "3", "--infer-engine", "torch")
    runs = runs_of(
        cv_command, as_tables(manifest, tmp_path), tmp_path / "runs", root, order, *flags
    )
    check_equal(runs)
    output = ("--output", tmp_path / "runs", "--no-page", *flags)
    assert cv_command("--data", LONDON, "--name", "layout", *output).code == 0
    layout = Run(tmp_path / "runs" / "layout")
    assert layout.oof["fold"].equals(runs[0].oof["fold"])
    # The layout has classes that nobody of these people is in.
    present = sorted(set(manifest.train["label"]))
    assert np.array_equal(layout.logits(layout.oof)[:, present], runs[0].logits(runs[0].oof))
    as_class_folders(manifest, tmp_path / "classes")
    folders = ("--data", tmp_path / "classes", "--group-regex", "/(.*)__", "--name", "folders")
    assert cv_command(*folders, *output).code == 0
    folders = Run(tmp_path / "runs" / "folders")
    oof = folders.oof
    oof["image_id"] = [name.partition("/")[2].replace("__", "/") for name in oof["image_id"]]
    oof = oof.set_index("image_id").loc[layout.oof["image_id"]].reset_index()
    assert oof["fold"].equals(layout.oof["fold"])
    assert np.array_equal(np.array(present)[oof["label"]], layout.oof["label"])
    # Rows are in another order, in which sums of floats are rounded otherwise.
    difference = np.abs(folders.logits(oof) - layout.logits(layout.oof)[:, present])
    print("largest difference of logits of class folders:", difference.max())
    assert difference.max() < 1e-3
    shutil.rmtree(tmp_path / "classes")
