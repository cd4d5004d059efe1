"""Logits of a source's models for each fold, before the folds are trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from foldblend.cli import Say
from foldblend.errors import UserError, counted
from foldblend.images import boxes_of
from foldblend.progress import Task
from foldblend.runs.run import Run
from pipeline.config.trust import Trust, own_parts
from pipeline.job import FoldJob, Prepared
from pipeline.labels.frozen import cached_leaves, seen_by_features
from pipeline.labels.given import Labels
from pipeline.labels.kept import TRAIN, UNLABELLED, Kept, keep, kept
from pipeline.labels.pseudo import Judged, calibrated, judged
from pipeline.labels.without import Source, remarks_on
from pipeline.predict.inputs import Inputs
from pipeline.predict.stream import Stream
from pipeline.predict.tree import Node

__all__ = ["images_of_fold", "make_labels", "pseudo_of"]

COLUMNS = ("part", "image_id", "path", "content", "box")


def images_of_fold(run: Prepared, index: int) -> pd.DataFrame:
    """Return the images that are labelled for a fold: part, image_id, path, and maybe box.

    A teacher labels those that the fold trains on. Images without labels are left out where one
    that they are the same as, or whose group they share, is held out.
    """
    labels = run.labels
    assert labels is not None
    manifest = run.manifest
    learns_N = ~run.is_held_out(index)
    parts = []
    if labels.is_teacher:
        parts.append(manifest.training_rows(learns_N).assign(part=TRAIN))
    if manifest.unlabelled is not None:
        free = manifest.unlabelled[manifest.free_unlabelled(learns_N)]
        parts.append(free.assign(part=UNLABELLED))
    table = pd.concat(parts, ignore_index=True)
    return table[[name for name in COLUMNS if name in table]]


def _logits(
    nodes: Mapping[int, Node],
    tables: Mapping[int, pd.DataFrame],
    run: Prepared,
    say: Say,
) -> dict[int, np.ndarray]:
    """Return the logits of each model for its own images; every image is decoded once."""
    table = pd.concat(tables.values(), ignore_index=True).drop_duplicates(["part", "image_id"])
    table = table.reset_index(drop=True)
    place = pd.Series(table.index, index=pd.MultiIndex.from_frame(table[["part", "image_id"]]))
    rows_of = {
        index: place.loc[pd.MultiIndex.from_frame(one[["part", "image_id"]])].to_numpy()
        for index, one in tables.items()
    }
    inputs = Inputs(
        table["image_id"].tolist(),
        table["path"].tolist(),
        boxes_of(table) if "box" in table else None,
        max_pixels=run.config.data.max_pixels,
    )
    machine = run.config.machine
    first = next(iter(nodes.values()))
    stream = Stream(
        first,
        models=[*nodes],
        device=machine.device if "device" in run.config.typed else None,
        also=[*nodes.values()],
        say=say,
    )
    cached = cached_leaves(stream, run)
    known = seen_by_features(stream, cached, run, table, [*nodes])
    stream.leave_out(cached)
    if not stream.leaves:
        return {index: node.logits(known, index)[rows_of[index]] for index, node in nodes.items()}
    found: dict[int, list[np.ndarray]] = {index: [] for index in nodes}
    names = ", ".join(map(str, nodes))
    with Task(f"labels of model {names}", len(inputs), unit="images") as task:
        for block in stream.blocks(inputs):
            if block.bad:
                raise next(iter(block.bad.values()))
            seen = {
                **stream.seen(block, [inputs.ids[row] for row in block.good]),
                **{
                    place: {view: logits_NC[block.good] for view, logits_NC in views.items()}
                    for place, views in known.items()
                },
            }
            for index, node in nodes.items():
                found[index].append(node.logits(seen, index))
            task.add(len(block.good))
    return {index: np.concatenate(parts)[rows_of[index]] for index, parts in found.items()}


def _from_test_tables(
    source: Source, tables: Mapping[int, pd.DataFrame], run: Prepared
) -> dict[int, np.ndarray] | None:
    """Return the logits that a cross-validated run has in its test tables, or None.

    They are there if all images are those of the test set, which the models of the folds have
    predicted.
    """
    manifest = run.manifest
    columns = ["image_id", "content"]
    is_same = (
        source.run.info["kind"] == "cv"
        and source.run.info["data"].get("hash") == run.run_key["data"]
        and manifest.test is not None
        and manifest.unlabelled is not None
        and manifest.unlabelled[columns].equals(manifest.test[columns])
        and all((one["part"] == UNLABELLED).all() for one in tables.values())
    )
    if not is_same:
        return None
    found = {}
    for index, one in tables.items():
        # Not `Run.test_fold`, in which refits have their share: they have learned all rows.
        test = source.run.table(f"test_fold_{index}").set_index("image_id")
        found[index] = source.run.logits(test.loc[one["image_id"]])
    return found


def make_labels(job: FoldJob, indices: Sequence[int]) -> None:
    """Compute and keep the logits of a source for these folds, unless they are kept already.

    Parameters
    ----------
    job
        The job, whose run has `labels`.
    indices
        Numbers of the folds (models).

    Raises
    ------
    UserError
        If the source is gone or was made again, or in a fold no pseudo-label reaches the threshold.
    """
    run = job.run
    labels = run.labels
    assert labels is not None
    todo = [index for index in indices if kept(job.folder, index, run) is None]
    if todo:
        parts = frozenset(name for _, name in own_parts(run.config))
        trust = Trust(parts, run.config.output.trust_parts, flag=None)
        source = Source.open(Run(labels.source), trust, job.say)
        if source.run.oof_hash != labels.oof:
            raise UserError(
                f"{labels.source}: was made again meanwhile; run the same command again"
            )
        what = "teacher" if labels.is_teacher else "pseudo-labels"
        for line in remarks_on(source.run):
            job.say(f"{what}: {line}")
        # Frozen backbones are passed once for all folds, and other models fold by fold.
        groups = [todo] if source.all_frozen else [[index] for index in todo]
        num_threads = torch.get_num_threads()
        try:
            for group in groups:
                _make(job, labels, source, {index: source.node_of(index) for index in group})
        finally:
            torch.set_num_threads(num_threads)
            if job.compute.is_cuda:
                torch.cuda.empty_cache()
    check_enough(job, labels, indices)


def _make(job: FoldJob, labels: Labels, source: Source, nodes: Mapping[int, Node]) -> None:
    tables = {index: images_of_fold(job.run, index) for index in nodes}
    logits = _from_test_tables(source, tables, job.run)
    if logits is None:
        logits = _logits(nodes, tables, job.run, job.say)
    for index, table in tables.items():
        job.check_finite(index, logits[index][None])
        info: dict[str, object] = {"key": labels.key, "num_left_out": num_left_out(job.run, index)}
        if not labels.is_teacher:
            info |= calibrated(*source.oof_without(index), threshold=labels.threshold)
        keep(job.folder, index, table[["image_id", "part"]], logits[index], info)
        counts = {part: int((table["part"] == part).sum()) for part in (TRAIN, UNLABELLED)}
        told = " and ".join(
            f"{counted(num, 'image')} {'without labels' if part == UNLABELLED else 'with labels'}"
            for part, num in counts.items()
            if num
        )
        job.say(f"{job.title(index)}: {labels.name} has labelled {told}")


def num_left_out(run: Prepared, index: int) -> int:
    """Return how many images without labels are left out of a fold."""
    manifest = run.manifest
    if manifest.unlabelled is None:
        return 0
    return int((~manifest.free_unlabelled(~run.is_held_out(index))).sum())


def check_enough(job: FoldJob, labels: Labels, indices: Sequence[int]) -> None:
    """Say how many pseudo-labels each fold has; raise UserError for a fold without any."""
    if labels.is_teacher:
        return
    for index in indices:
        found = kept(job.folder, index, job.run)
        assert found is not None, index
        one = pseudo_of(found, labels)
        title = job.title(index)
        if not one.used_N.any():
            highest = f"{one.top_N.max():.3f}" if len(one.top_N) else "none"
            raise UserError(
                f"--pseudo-threshold {labels.threshold:g}: {title} has no image that"
                f" {labels.name} is so sure of (the highest probability is {highest}); pass a lower"
                " --pseudo-threshold, or more images to --unlabelled"
            )
        job.say(
            f"{title}: {int(one.used_N.sum()):,} of {len(one.top_N):,} images have a probability of"
            f" {labels.threshold:g} or more, and join its training images"
        )


def pseudo_of(found: Kept, labels: Labels) -> Judged:
    """Return the pseudo-labels of a fold."""
    _, logits_NC = found.part(UNLABELLED)
    return judged(logits_NC, found.info["temperature"], labels.threshold)
