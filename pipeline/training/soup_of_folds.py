"""One model with the mean weights of the models of the folds (--refit soup)."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from foldblend.runs.folder import check_there, write_json
from pipeline.fold_files import model_record, start_fold, write_fold
from pipeline.frozen.full_head import test_logits_of_head
from pipeline.infer import predict
from pipeline.job import TrainingJob
from pipeline.memory import Chunks
from pipeline.predict.weights import FolderWeights
from pipeline.training.batch_norm import renew_batch_norm
from pipeline.training.fold_training import state_of
from pipeline.training.weight_means import mean_state
from tta.views.names import view_of

__all__ = ["run_soup"]


def run_soup(job: TrainingJob, index: int) -> dict[str, Any]:
    """Average the weights of the folds' models into one, and return its done.json.

    Statistics of batch norm are computed anew on all training images.
    """
    start = time.perf_counter()
    run = job.run
    weights = FolderWeights(job.folder)
    state = mean_state(weights.read(one) for one in range(run.num_models))
    start_fold(job, index)
    engine: dict[str, Any] = {}
    shared: tuple[str, ...] = ()
    if run.config.train.frozen:
        test_VNC = test_logits_of_head(job, state)
        shared = ("backbone.safetensors",)
    else:
        model = job.new_model()
        model.load_state_dict(state)
        every = run.manifest.training_rows(np.ones(len(run.manifest.train), bool))
        renew_batch_norm(model, job, every, (run.config.train.seed, index))
        state = state_of(model)
        forward = job.forward(index, model)
        test_VNC = None
        if run.manifest.test is not None:
            test_VNC = predict(
                forward,
                job.feeder.rows(run.manifest.test, say=job.say),
                run.preprocess,
                job.compute,
                [view_of(name) for name in run.views],
                chunks=Chunks(job.say, most=job.limits.chunk),
                pad_to=run.config.infer.validation_batch_size if job.padded else None,
            )
        engine = {} if job.spec is None else {"engine": forward.engine}
    files = write_fold(job, index, state=state, held_VNC=None, test_VNC=test_VNC, shared=shared)
    done = {**model_record(job, files), **engine, "seconds": time.perf_counter() - start}
    check_there(job.folder)
    write_json(job.folder / run.name_of(index) / "done.json", done)
    job.say_done(index, done)
    return done
