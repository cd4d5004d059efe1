"""Dry run: the folds, the GPU memory of a fold and the plan of folds on GPUs, without training."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from foldblend.cli import Say
from foldblend.errors import counted
from foldblend.files import exists
from foldblend.runs.refit import KINDS
from pipeline.begin import first_record, folds_of, record_before, words_of_training_only
from pipeline.data.images import bytes_of
from pipeline.fold_files import finished_fold, fold_key
from pipeline.fold_memory import FoldMemory
from pipeline.job import Prepared
from pipeline.open_folder import is_obsolete
from pipeline.training.count_fold import steps_of
from pipeline.training.gpu_cards import cards_of
from pipeline.training.gpu_share import count_memory, plan_of, room_for_images

__all__ = ["say_plan"]


def say_plan(run: Prepared, folder: Path, only: Sequence[int], *, resume: bool, say: Say) -> None:
    """Say what a run would do, without writing to its folder.

    Raises UserError where the run itself would at its start, or if no GPU has memory for a single
    image.
    """
    every = sorted({*only}) or [*range(run.num_models)]
    run, todo = _unfinished(run, folder, every, resume=resume, say=say)
    manifest = run.manifest
    train = run.config.train
    num_test = 0 if manifest.test is None else len(manifest.test)
    say(
        f"dry run of {folder}: {counted(len(manifest.train), 'image')} of"
        f" {counted(int(manifest.train['group'].nunique()), manifest.group_name)},"
        f"{words_of_training_only(first_record(run, folder)['data'])}"
        f" {manifest.num_classes} classes, {num_test:,} test images; nothing is trained or written"
    )
    say(f"folds: {len(todo)} to train, {len(every) - len(todo)} finished before")
    if train.num_refits:
        what = counted(train.num_refits, "model")
        say(f"--refit {train.refit}: after the folds, {what} {KINDS[str(train.refit)]}")
    if train.frozen:
        say("--finetune head: the backbone is not trained, so no fold needs the GPU for long")
        return
    steps = steps_of(run)
    images = min(
        train.batch_size * train.grad_accum_steps, manifest.num_training_rows(run.num_folds)
    )
    say(
        f"training: {counted(train.epochs, 'epoch')} of {counted(steps, 'step')} with"
        f" {images:,} images per fold,"
        f" {counted(len(todo) * train.epochs * steps, 'step')} in all"
    )
    if train.soup:
        say(f"--soup: so many steps for each of {train.num_ingredients} seeds")
    memory = count_memory(run, say)
    if memory is None:
        return
    for line in memory_lines(memory):
        say(line)
    machine = run.config.machine
    cards = cards_of(machine.device)
    if not cards:
        say(f"--device {machine.device}: no GPU is used, so this memory is not needed here")
        return
    images = _images_on_gpu(run, room_for_images(memory, cards) or 0)
    if not todo:
        return
    for plan in plan_of(run, memory, cards, num_todo=len(todo), images=images):
        say(plan.line)


def _unfinished(
    run: Prepared, folder: Path, every: Sequence[int], *, resume: bool, say: Say
) -> tuple[Prepared, list[int]]:
    """Return the run with the folds of its folder, and those of `every` that are to be trained."""
    if not exists(folder):
        return run, [*every]
    info = first_record(run, folder)
    if is_obsolete(folder, run.config, info, data=run.manifest, resume=resume):
        return run, [*every]
    folds = folds_of(run, folder, record_before(folder, info), say)
    run = dataclasses.replace(run, fold_RN=folds.fold_RN)
    info["folds_hash"] = folds.digest
    key = fold_key(run, info)
    return run, [index for index in every if finished_fold(folder, index, key, say) is None]


def memory_lines(memory: FoldMemory) -> list[str]:
    """Return the table of the GPU memory of a fold."""
    parts = memory.parts(memory.batch, memory.rows)
    whole = memory.total(memory.batch, memory.rows, releases=False)
    least = memory.total(memory.batch, memory.rows, releases=True)
    rows = {
        **parts,
        "all of it": whole,
        "where training gives its memory to inference and back": least,
    }
    width = max(map(len, rows))
    lines = [f"  {name:{width}} {size / 1e9:7.2f} GB" for name, size in rows.items()]
    return ["GPU memory of a fold (counted):", *lines]


def _images_on_gpu(run: Prepared, room: int) -> int:
    """Return the bytes of the images that would be kept in GPU memory."""
    machine = run.config.machine
    size = bytes_of(run.manifest.tables, run.preprocess)
    fits = size <= room and machine.augment_on == "device"
    return size if machine.cache == "device" or (machine.cache == "auto" and fits) else 0
