"""Links, devices and things of another kind in the place of every file and folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.faults.damage_weights import CACHES
from tests.faults.jobs import JOBS, reads
from tests.faults.judge import Case

__all__ = ["link_cases"]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _swap(make: Callable[[Path, Path], None]) -> Callable[[Path, str], None]:
    """Return a function that puts something else in the place of a path of the stage."""

    def put(stage: Path, name: str) -> None:
        path = stage / name
        _remove(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        make(path, stage / "canary")

    return put


def _copy_moved(stage: Path, name: str) -> None:
    """Move a file or folder among the canaries and leave a link: its content is right."""
    path = stage / name
    moved = stage / "canary" / "moved"
    if path.exists():
        shutil.move(path, moved)
    elif Path(name).suffix:
        moved.write_bytes(b"")
    else:
        moved.mkdir()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(moved)


def _loop(path: Path, _: Path) -> None:
    path.symlink_to(path.name)


PUT: dict[str, Callable[[Path, str], None]] = {
    "link to a file": _swap(lambda path, canary: path.symlink_to(canary / "file.txt")),
    "link to a folder": _swap(lambda path, canary: path.symlink_to(canary / "folder")),
    "hard link": _swap(lambda path, canary: os.link(canary / "file.txt", path)),
    "link to nothing": _swap(lambda path, canary: path.symlink_to(canary / "new.txt")),
    "link to itself": _swap(_loop),
    "moved, with a link": _copy_moved,
    "folder": _swap(lambda path, _: path.mkdir()),
    "file": _swap(lambda path, _: path.write_text("a file\n") and None),
    "FIFO": _swap(lambda path, _: os.mkfifo(path)),
    "link to /dev/zero": _swap(lambda path, _: path.symlink_to("/dev/zero")),
    "link to /dev/full": _swap(lambda path, _: path.symlink_to("/dev/full")),
}
RUN_FILES = {
    "full": (
        ".lock",
        "run.json",
        "config.yaml",
        "env.json",
        "folds.csv",
        "oof.parquet",
        "test.parquet",
        "test_fold_0.parquet",
        "pictures.parquet",
        "columns.parquet",
        "predictions.csv",
        "report.json",
        "report.txt",
        "explain.json",
        "reference.safetensors",
        "submission.csv",
        "test_labels.csv",
        "test_groups.csv",
        "sections",
        "sections/views.json",
        "tta",
        "tta/oof_fold_0.parquet",
        "fold_0",
        "fold_0/best.safetensors",
        "fold_0/done.json",
        "fold_0/log.csv",
        "fold_0/oof.parquet",
        "fold_0/tb",
        "logs",
        "inner",
    ),
    "frozen": ("backbone.safetensors", "tta", "tta/times.json", "fold_1", ".lock"),
    "half": (
        "fold_1",
        "fold_1/last.ckpt",
        "fold_1/tb",
        "fold_1/log.csv",
        "fold_1/oof.parquet",
        "fold_1/best.safetensors",
        "fold_1/done.json",
        "test_fold_1.parquet",
        "oof.parquet",
        "tta",
        ".lock",
        "run.json",
    ),
    "both": ("blend.yaml", "parameters.safetensors", "sections", "run.json", ".lock"),
}
JOBS_OF_RUN = {
    "full": ("again full", "resume full", "tta full", "report full", "predict full", "export full"),
    "frozen": ("again frozen", "resume frozen", "tta frozen", "predict frozen"),
    "half": ("resume half",),
    "both": ("report both", "predict both", "blend config", "export both"),
}
OUTPUTS = {
    "blend two": (
        "outputs/b2",
        "outputs/b2/.lock",
        "outputs/b2/sections",
        "outputs/b2/oof.parquet",
    ),
    "tta full": ("outputs/t2", "outputs/t2/.lock", "outputs/t2/run.json", "outputs/t2/sections"),
    "predict full": ("p.csv", "p_by_group.csv"),
    "export full": ("x.zip",),
    "explain full": ("outputs/full/explain.json",),
    "board": ("board.json",),
    "audit": ("audit_train.html",),
    "again full": ("outputs", "cache"),
}


def _case(
    where: str, what: str, job: str, names: tuple[str, ...], *more: str, run: str = ""
) -> Case:
    return Case(
        id=f"{where}: {what}, {job}{' ' + ' '.join(more) if more else ''}",
        kind="links",
        job=job,
        more=more,
        prepare=lambda stage: PUT[what](stage, where),
        names=names,
        bad_run=run,
        # A report written through no link is as right as an error.
        is_free=job.startswith("audit"),
        # Users keep these elsewhere: what they name on the command line may be a link.
        writes=NAMED.get((where, what), ()),
    )


def cache_places(base: Path) -> list[str]:
    """Return the files and folders of the cache."""
    found = [file.relative_to(base) for file in sorted((base / "cache").rglob("*"))]
    return [str(file) for file in found]


def link_cases(base: Path) -> Iterator[Case]:
    """Yield a case per place and thing; the commands that use the place take turns."""
    number = 0
    for run, names in RUN_FILES.items():
        for name in names:
            where = f"outputs/{run}/{name}"
            for what in PUT:
                for turn in range(2 if run == "full" else 1):
                    jobs = JOBS_OF_RUN[run]
                    job = jobs[(number + turn * 3) % len(jobs)]
                    words = (Path(name).name, f"outputs/{run}", run)
                    yield _case(where, what, job, words, run=run)
                number += 1
    for where in cache_places(base):
        for what in PUT:
            run = "frozen" if "features" in where else "full"
            job = (f"again {run}", f"tta {run}")[number % 2]
            number += 1
            yield _case(where, what, job, (Path(where).name, "cache"))
    for job, places in OUTPUTS.items():
        for where in places:
            for what in PUT:
                more = (
                    ("--overwrite",)
                    if "--overwrite" in OVERWRITES.get(JOBS[job].command, ())
                    else ()
                )
                number += 1
                given = more if number % 2 else ()
                yield _case(
                    where, what, job, (Path(where).name, "--output", "--name", "outputs"), *given
                )
    # Many runs, of which one has a thing in the place of a table.
    for job in ("blend all", "board"):
        for name in ("run.json", "oof.parquet", "test.parquet", ""):
            for what in PUT:
                where = f"outputs/frozen_tta/{name}".rstrip("/")
                yield _case(where, what, job, ("frozen_tta",), run="frozen_tta")


NAMED = {
    (place, what): writes
    for place in ("outputs", "cache")
    for what, writes in (
        ("link to a folder", ("canary/folder/full", *[f"canary/folder/{one}" for one in CACHES])),
        ("moved, with a link", ("canary/moved",)),
    )
}
NAMED |= {(f"outputs/{one}", "moved, with a link"): ("canary/moved",) for one in ("b2", "t2")}
OVERWRITES = {
    "blend": ("--overwrite",),
    "run_tta": ("--overwrite",),
    "predict": ("--overwrite",),
    "export_model": ("--overwrite",),
}
assert reads("full")
