"""A small world that cases damage: images, tables, runs, a blend, an exported file and a cache.

It is made by the source tree under test, once, and copied to the same place for every case, since
runs record the paths of their data.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import stat
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from tests.faults.warm import Warm

__all__ = ["CLASSES", "CV", "FINETUNED", "FROZEN", "HALF", "make_base", "restore"]

CLASSES = ("cat", "dog", "owl")
NUM_TRAIN = 24
NUM_TEST = 6
DATA = ["data/train.csv", "--test", "data/test.csv", "--group-col", "group"]
TINY = ["--pretrained", "none", "--img-size", "32", "--folds", "2", "--epochs", "1"]
TINY += ["--batch-size", "8", "--workers", "0", "--threads", "1", "--no-page", "--device", "cpu"]
CV = [*DATA, *TINY, "--cache", "disk", "--cache-dir", "cache", "--output", "outputs"]
FINETUNED = [*CV, "--name", "full", "--backbone", "test_resnet", "--tta", "hflip"]
FROZEN = [*CV, "--name", "frozen", "--backbone", "test_efficientnet"]
FROZEN += ["--finetune", "head", "--head-l2", "0.3", "--refit", "full"]
# Two epochs with a checkpoint after each step, killed in the second fold.
HALF = [*CV, "--name", "half", "--backbone", "test_resnet", "--epochs", "4"]
HALF += ["--save-every", "0", "--no-log-pictures"]
BLEND = ["outputs/full", "outputs/frozen", "--method", "weights", "--name", "both", "--no-page"]
EXPLAIN = ["outputs/full", "--explain", "--no-page"]
EVIL = '''"""A part that leaves a mark when it is imported."""
import os
with open(os.environ["FAULT_MARKER"], "a") as mark:
    mark.write("evil.py was imported\\n")
class Model: pass
'''


def write_images(folder: Path) -> None:
    """Write images of three classes, whose mean colour tells the class, and their tables."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    rows = []
    for index in range(NUM_TRAIN + NUM_TEST):
        label = index % len(CLASSES)
        pixels = rng.integers(0, 90, size=(14 + index % 5, 18, 3), dtype=np.uint8)
        pixels[..., label] += 120
        name = f"image_{index:02d}.{'png' if index % 2 else 'jpg'}"
        Image.fromarray(pixels).save(folder / name)
        group = index // 2
        age = "" if group == 3 else str(20 + 7 * group % 40)
        row = {"image": name, "label": CLASSES[label], "group": f"g{group:02d}"}
        rows.append({**row, "age": age, "site": "ab"[group % 2]})
    table = pd.DataFrame(rows)
    table[:NUM_TRAIN].to_csv(folder / "train.csv", index=False)
    table[NUM_TRAIN:].to_csv(folder / "test.csv", index=False)


def write_outside(stage: Path) -> None:
    """Write the files that no command may touch, the current folder's evil.py, and a home."""
    canary = stage / "canary"
    (canary / "folder").mkdir(parents=True)
    (canary / "file.txt").write_text("nobody may write this\n")
    (canary / "folder" / "inner.txt").write_text("nor this\n")
    (canary / "table.csv").write_text("image,label,group\nimage_00.jpg,cat,g00\n")
    (stage / "evil.py").write_text(EVIL)
    (stage / "home").mkdir()
    (stage / "tmp").mkdir()


def _checked(warm: Warm, command: str, argv: Sequence[str]) -> None:
    done = warm.run(command, argv, timeout=300)
    if done.code:
        raise SystemExit(f"{command} {' '.join(argv)}\n{done.out[-3000:]}\n{done.err[-3000:]}")


def _killed_run(warm: Warm) -> None:
    """Make a run that is killed when its second fold has a checkpoint."""
    pid = warm.start("run_cv", HALF, timeout=300)
    checkpoint = warm.stage / "outputs" / "half" / "fold_1" / "last.ckpt"
    until = time.monotonic() + 300
    while not checkpoint.is_file() and time.monotonic() < until:
        time.sleep(0.002)
    warm.kill(pid)
    done = warm.wait(pid)
    if not checkpoint.is_file() or (checkpoint.parent / "done.json").exists():
        raise SystemExit(f"the run was not killed in its second fold\n{done.err[-3000:]}")


def _learn(warm: Warm, whole: Path) -> None:
    """Run some commands, whose late imports the server makes for all that follow."""
    restore(whole, warm.stage)
    for number, (command, argv) in enumerate(
        (
            ("blend", ["outputs/full", "outputs/frozen", "--name", "b2", "--no-page"]),
            ("run_audit", ["data/train.csv", "--quick"]),
        )
    ):
        warm.run(command, argv, timeout=120, learn=str(warm.logs / f"modules_{number}"))


def make_base(warm: Warm, store: Path) -> Path:
    """Make the world in the stage of `warm`, move a copy to `store`, and return that."""
    whole = store / "base"
    if (store / "made.json").is_file():
        _learn(warm, whole)
        return whole
    shutil.rmtree(whole, ignore_errors=True)
    shutil.rmtree(warm.stage, ignore_errors=True)
    warm.stage.mkdir(parents=True)
    write_images(warm.stage / "data")
    write_outside(warm.stage)
    started = time.monotonic()
    _checked(warm, "run_cv", FINETUNED)
    _checked(warm, "run_cv", FROZEN)
    _checked(warm, "run_tta", ["outputs/frozen", "--views", "hflip", "--no-page"])
    _checked(warm, "blend", BLEND)
    _checked(warm, "export_model", ["outputs/full", "--to", "model.zip"])
    _checked(warm, "report", EXPLAIN)
    _killed_run(warm)
    shutil.copytree(warm.stage, whole, symlinks=True)
    seconds = round(time.monotonic() - started, 1)
    (store / "made.json").write_text(json.dumps({"tree": str(warm.tree), "seconds": seconds}))
    _learn(warm, whole)
    return whole


def _state(path: Path) -> tuple[object, ...]:
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        return ("link", str(path.readlink()))
    if stat.S_ISDIR(found.st_mode):
        return ("folder", found.st_mode)
    return (found.st_mode, found.st_size, found.st_mtime_ns, found.st_nlink)


@functools.cache
def _undamaged(base: Path) -> dict[str, tuple[object, ...]]:
    return {str(file.relative_to(base)): _state(file) for file in sorted(base.rglob("*"))}


def restore(base: Path, stage: Path) -> None:
    """Make the stage the undamaged world again; nothing is followed out of the stage.

    Files that have kept their size, time and kind are not copied again: most of them are weights.
    """
    whole = _undamaged(base)
    stage.mkdir(parents=True, exist_ok=True)
    kept = set()
    for folder, folders, files in os.walk(stage):
        for name in [*folders, *files]:
            path = Path(folder) / name
            place = str(path.relative_to(stage))
            if whole.get(place) == _state(path):
                kept.add(place)
            elif path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
                folders.remove(name)
            else:
                path.unlink()
        folders[:] = [name for name in folders if not (Path(folder) / name).is_symlink()]
    for place, state in whole.items():
        if place in kept:
            continue
        source = base / place
        if state[0] == "folder":
            (stage / place).mkdir()
            shutil.copymode(source, stage / place)
        else:
            shutil.copy2(source, stage / place, follow_symlinks=False)
