"""Further views of a finished run with a frozen backbone, by its saved backbone and heads."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pandas as pd

from foldblend.errors import counted
from foldblend.progress import Task
from foldblend.runs.run import Run
from pipeline.config.trust import Trust
from pipeline.fold_files import view_tables
from pipeline.job import FoldJob
from pipeline.predict.nets import Net
from pipeline.predict.recipe import recipe_of
from pipeline.predict.weights import FolderWeights
from tta.saved_views import add_rows, models_of, note_seconds, parts_of, saved_rows

__all__ = ["add_frozen_views"]


def _features(net: Net, job: FoldJob, table: pd.DataFrame, view: str) -> np.ndarray:
    """Return the features N x D of a table's images in a view."""
    images = job.feeder.source.of(table)
    ids = table["image_id"].tolist()
    size = net.recipe.batch_size
    found = []
    with Task(f"features, {view}", len(table), unit="images") as task:
        for start in range(0, len(table), size):
            rows = range(start, min(start + size, len(table)))
            stored = np.stack([images[row] for row in rows])
            found.append(net.features(stored, [ids[row] for row in rows], view, {}))
            task.add(len(rows))
    return np.concatenate(found)


def add_frozen_views(run: Run, job: FoldJob, names: Sequence[str], trust: Trust) -> None:
    """Predict the images of a run in further views, and keep the logits of each fold.

    Each image passes through the backbone once per view, whatever the number of folds. Views that
    every fold has are not computed again.

    Parameters
    ----------
    run
        The run.
    job
        Its data and its device.
    names
        Names of the views.
    trust
        Which parts of the user's own may be imported.
    """
    recipe = recipe_of(run, trust)
    net = Net(recipe, FolderWeights(run.path), job.compute, job.say)
    tables = {"oof": job.run.manifest.train, "test": job.run.manifest.test}
    for view in names:
        start = time.perf_counter()
        num = 0
        for part in parts_of(run):
            table = tables[part]
            models = [k for k in models_of(run) if part in parts_of(run, k)]
            todo = [k for k in models if view not in set(saved_rows(run, k, part)["view"])]
            if table is None or not todo:
                continue
            table = table.reset_index(drop=True)
            features_ND = _features(net, job, table, view)
            num += len(table)
            for model in todo:
                rows_N = np.ones(len(table), bool)
                if part == "oof":
                    rows_N = job.run.is_held_out(model)
                logits_NC = net.head_logits(model, features_ND[rows_N])
                job.check_finite(model, logits_NC)
                ids = table["image_id"][rows_N]
                add_rows(run, model, part, view_tables(ids, {view: logits_NC}))
        if num:
            note_seconds(run, {view: (num, time.perf_counter() - start)})
            job.say(f"{view}: predicted {counted(num, 'image')}")
