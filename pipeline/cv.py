"""Cross-validation: from settings to a run folder with out-of-fold and test logits."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from foldblend.cli import Say
from foldblend.errors import UserError, counted, listed
from foldblend.progress import lines_to, write
from foldblend.runs.check import check_rows_once
from foldblend.runs.environment import describe_environment
from foldblend.runs.folder import (
    FORMAT,
    PICTURES,
    file_hash,
    lock_folder,
    logit_columns,
    read_json,
    read_table,
    sweep,
    write_json,
    write_section,
    write_table,
)
from foldblend.runs.rows import mean_over_folds, write_submission, write_test_labels
from foldblend.runs.run import Run
from foldblend.scores.metrics import METRICS, is_ordered
from folds.data.manifest import Manifest
from folds.fold_file import read_fold_file
from folds.split import SPLITTERS
from pipeline.config.about import describe_run
from pipeline.config.run import RunConfig, parse_folds
from pipeline.config.settings import make_config, replace
from pipeline.data.preprocess import region_of
from pipeline.fold_files import finished_fold
from pipeline.frozen.run_heads import run_heads
from pipeline.job import Prepared, TrainingJob, job_of
from pipeline.open_folder import open_folder, write_config
from pipeline.predict.compare import add_reference
from pipeline.predict.weights import FolderWeights
from pipeline.prepare import prepare
from pipeline.training.checkpoint import CHECKPOINT
from pipeline.training.parallel_folds import run_folds
from pipeline.watch.progress import Progress
from reports.run.screen import finish
from tta.report import view_section

__all__ = ["cross_validate", "cross_validate_seeds"]


Settings = RunConfig | Mapping[str, Any]


def _folds(folder: Path, run: Prepared) -> np.ndarray:
    """Return the R x N folds of the training rows, from folds.csv or written there."""
    train = run.manifest.train
    file = folder / "folds.csv"
    if file.is_file():
        fold_RN = read_fold_file(
            file,
            train,
            leaks=SPLITTERS[run.config.split.split].leaks,
            group_name=run.manifest.group_name,
        )
        if fold_RN.shape != run.fold_RN.shape or fold_RN.max() != run.fold_RN.max():
            raise UserError(
                f"{file}: has a different number of folds or repeats; remove it to write it again"
            )
        return fold_RN
    rows = [
        train[["image_id", "group", "label"]].assign(repeat=repeat, fold=fold_N)
        for repeat, fold_N in enumerate(run.fold_RN)
    ]
    write_table(file, pd.concat(rows))
    return run.fold_RN


def _assemble(folder: Path, manifest: Manifest, num_models: int) -> None:
    """Combine the tables of all folds into oof.parquet, test.parquet and submission.csv."""
    columns = logit_columns(manifest.num_classes)
    oof = pd.concat(
        [read_table(folder / f"fold_{index}" / "oof.parquet") for index in range(num_models)]
    )
    for repeat, rows in oof.groupby("repeat"):
        check_rows_once(
            rows["image_id"], manifest.train["image_id"], f"{folder}/oof.parquet, repeat {repeat}"
        )
    write_table(folder / "oof.parquet", oof.sort_values(["repeat", "image_id"], ignore_index=True))
    if manifest.test is None:
        return
    tables = [read_table(folder / f"test_fold_{index}.parquet") for index in range(num_models)]
    for fold, table in enumerate(tables):
        check_rows_once(
            table["image_id"], manifest.test["image_id"], f"{folder}/test_fold_{fold}.parquet"
        )
    test = mean_over_folds(tables, columns)
    write_table(folder / "test.parquet", test)
    write_submission(folder, test, manifest.answers, manifest.submission)
    write_test_labels(folder, manifest.test, manifest.classes)


def _record(run: Prepared, folder: Path) -> dict[str, Any]:
    """Return the content of run.json before the first fold."""
    manifest = run.manifest
    model = run.config.model
    region = region_of(model.crop, model.crop_share, has_boxes="box" in manifest.train)
    return {
        "format": FORMAT,
        "kind": "cv",
        "status": "running",
        "name": folder.name,
        "run_key": run.run_key,
        "data": {
            "name": manifest.name,
            "hash": run.run_key["data"],
            "train_ids_hash": manifest.ids_hash(),
            "num_images": len(manifest.train),
            "num_groups": int(manifest.train["group"].nunique()),
            "group_name": manifest.group_name,
            "num_test": 0 if manifest.test is None else len(manifest.test),
            "is_demo": manifest.is_demo,
        },
        "classes": list(manifest.classes),
        "answers": list(manifest.answers),
        "ordered": is_ordered(manifest.classes, manifest.ordered),
        **({} if manifest.submission is None else {"submission": manifest.submission.record()}),
        "attributes": [dataclasses.asdict(attribute) for attribute in manifest.attributes],
        "num_folds": run.num_folds,
        "num_repeats": run.num_repeats,
        "has_test": manifest.test is not None,
        "num_test_folds": 0 if manifest.test is None else run.num_models,
        "leaks": SPLITTERS[run.config.split.split].leaks,
        "optimistic": run.config.train.select == "best",
        "views": list(run.views),
        "preprocess": run.preprocess.record(region),
        "metric": run.config.output.metric,
    }


def _write_image_paths(folder: Path, manifest: Manifest) -> None:
    """Write the paths of all images, with which reports show images; no result depends on it."""
    tables = [manifest.train.assign(part="train")]
    if manifest.test is not None:
        tables.append(manifest.test.assign(part="test"))
    table = pd.concat(tables, ignore_index=True)
    table["path"] = [str(Path(path).resolve()) for path in table["path"]]
    write_table(
        folder / PICTURES,
        table[[name for name in ("part", "image_id", "path", "box", "content") if name in table]],
    )


def _run_folds(
    run: Prepared, folder: Path, info: dict[str, Any], only: Sequence[int], say: Say
) -> bool:
    """Train the unfinished folds, or those of `only`, and return whether all are finished.

    If all are finished, their rows are combined. `info` receives what run.json records of them.
    """
    run = dataclasses.replace(run, fold_RN=_folds(folder, run))
    info["folds_hash"] = file_hash(folder / "folds.csv")
    environment = describe_environment(weights=run.origin)
    # A resumed run keeps the environment of its start; each fold records its own as well.
    if not (folder / "env.json").is_file():
        write_json(folder / "env.json", environment)
    fold_key = run.run_key | {"folds": info["folds_hash"]}
    done = {index: finished_fold(folder, index, fold_key) for index in range(run.num_models)}
    # A process that was killed just after a fold's last file leaves a checkpoint behind.
    for index in [index for index, fold in done.items() if fold is not None]:
        (folder / f"fold_{index}" / CHECKPOINT).unlink(missing_ok=True)
    todo = [index for index, fold in done.items() if fold is None and (not only or index in only)]
    if todo:
        with contextlib.closing(Progress(len(todo))) as progress:
            shared = job_of(run, folder, say=say)
            job = TrainingJob(
                **vars(shared),
                fold_key=fold_key,
                environment=environment,
                progress=progress,
                padded=info["padded"],
            )
            for index in [index for index, fold in done.items() if fold is not None]:
                say(f"{job.title(index)}: finished before, kept")
            run_todo = run_heads if run.config.train.frozen else run_folds
            done |= run_todo(job, todo)
    left = [str(index) for index, fold in done.items() if fold is None]
    if not left and not todo:
        say(f"{folder}: finished before, so nothing was trained (--no-resume starts it again)")
    if left:
        say(
            f"{folder}: folds {listed(left, most=9)} are left; run the same command without"
            " --only-folds to train them"
        )
        return False
    info["folds"] = [done[index] for index in range(run.num_models)]
    _assemble(folder, run.manifest, run.num_models)
    return True


def _begin(run: Prepared, folder: Path, info: dict[str, Any], say: Say) -> dict[str, Any]:
    """Write the first files of the run folder and return its previous run.json.

    A new run gets the time of its start instead.
    """
    machine = run.config.machine
    data = info["data"]
    say(
        f"{folder}: {counted(data['num_images'], 'image')} of"
        f" {counted(data['num_groups'], data['group_name'])},"
        f" {run.manifest.num_classes} classes, {data['num_test']:,} test images;"
        f" {machine.device}, {machine.amp_dtype if machine.amp else 'float32'},"
        f" {counted(machine.threads, 'thread')}, {counted(machine.workers, 'worker')}"
    )
    before = (
        read_json(folder / "run.json")
        if (folder / "run.json").is_file()
        else {"started": round(time.time())}
    )
    # A resumed run keeps its first start. Runs of earlier versions have none.
    if "started" in before:
        info["started"] = before["started"]
    # A run of an earlier version goes on with short last batches, so that its folds are alike.
    info["padded"] = bool(before.get("padded", "run_key" not in before))
    # So does the record of the pixels, which has the version of OpenCV.
    if "preprocess" in before:
        info["preprocess"] = before["preprocess"]
    # run.json comes first, because it marks the folder as a run.
    write_json(folder / "run.json", info)
    write_config(folder, run.config)
    _write_image_paths(folder, run.manifest)
    return dict(before)


def _finish(run: Prepared, folder: Path, info: dict[str, Any], before: Mapping[str, Any]) -> None:
    """Write the final run.json; a run that was already finished keeps its time."""
    files = ["oof.parquet", *(["test.parquet", "submission.csv"] if info["has_test"] else [])]
    info["files"] = {name: file_hash(folder / name) for name in files}
    unchanged = before.get("folds") == info["folds"]
    info |= {"status": "done", "finished": before["finished"] if unchanged else round(time.time())}
    info["seconds"] = round(sum(fold["seconds"] for fold in info["folds"]), 1)
    info["about"], info["notes"] = describe_run(
        run.config, run.manifest, origin=run.origin["source"], views=run.views, folds=info["folds"]
    )
    write_json(folder / "run.json", info)


def _configured(config: Settings | None, settings: Mapping[str, Any]) -> RunConfig:
    """Return the configuration of a call; keyword settings override `config`."""
    if config is None or isinstance(config, Mapping):
        return make_config(config, **settings)
    if not isinstance(config, RunConfig):
        raise UserError(
            f"{config!r}: not a configuration; pass one of make_config, or settings by keyword"
        )
    return replace(config, **settings)


def cross_validate(config: Settings | None = None, /, *, say: Say = write, **settings: Any) -> Run:
    """Train and score all folds of a run, and return the run.

    If the run folder ``<output>/<name>/`` has finished folds of an equal run, they are kept, and an
    interrupted fold continues from its checkpoint. README.md describes the files of the folder.

    Parameters
    ----------
    config
        A configuration of `make_config`, or a mapping of settings; default: only the keyword
        settings.
    say
        Function that prints one line of the log.
    settings
        Settings by keyword, spelt as the flags of run_cv.py: ``backbone``, ``data``, ``folds``,
        ``epochs`` ... They override `config`.

    Returns
    -------
    Run
        The finished run; with ``only_folds`` it may lack folds.

    Raises
    ------
    UserError
        In one line that reports what to fix: a setting, a file, an image or the run folder.

    Examples
    --------
    >>> run = fb.cross_validate(data=data, backbone="test_resnet", folds=2, epochs=1, img_size=32,
    ...                         pretrained="none", output=output, name="c", say=silent)
    >>> run.oof.shape[0], len(run.classes)
    (84, 18)
    """
    config = _configured(config, settings)
    resume = config.output.resume
    only = () if config.output.only_folds is None else parse_folds(config.output.only_folds)
    with lines_to(say):
        run = prepare(config, say)
    if only and max(only) >= run.num_models:
        raise UserError(
            f"--only-folds {max(only)}: there are {run.num_models} folds, numbered from 0; pass"
            " smaller numbers"
        )
    folder = Path(run.config.output.output) / run.config.output.name
    info = _record(run, folder)
    with lock_folder(folder), lines_to(say):
        open_folder(folder, run.config, info, data=run.manifest, resume=resume)
        sweep(folder)
        before = _begin(run, folder, info, say)
        if not _run_folds(run, folder, info, only, say):
            return Run(folder)
        _finish(run, folder, info, before)
        add_reference(FolderWeights(folder), held=True, say=say)
        if len(run.views) > 1:
            write_section(folder, "views", view_section(Run(folder)))
        output = run.config.output
        finish(Run(folder), page=output.page, report=output.report, say=say)
    return Run(folder)


def cross_validate_seeds(
    config: Settings | None = None, /, *, say: Say = write, **settings: Any
) -> list[Run]:
    """Make one run per seed, on the same folds, and return the runs.

    With ``seeds=3`` and ``seed=0`` they are named <name>-seed0 to <name>-seed2. Each equals the run
    that `cross_validate` makes with that ``seed``. Parameters and errors are those of
    `cross_validate`.
    """
    config = _configured(config, settings)
    first = config.train.seed
    num = config.train.seeds
    runs = [
        cross_validate(replace(config, seed=seed), say=say) for seed in range(first, first + num)
    ]
    if num > 1 and config.output.only_folds is None:
        scores = [run.report["headline"]["value"] for run in runs]
        title = METRICS[config.output.metric].title
        spread = f"{min(scores):.4f} to {max(scores):.4f}"
        say(f"{num} seeds: OOF {title} {np.mean(scores):.4f} on average ({spread}); blend them:")
        say(f"python blend.py {' '.join(str(run.path) for run in runs)}")
    return runs
