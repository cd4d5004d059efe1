"""Training of one fold, from its rows to its weights and logits.

The state is saved regularly, and a killed fold continues from its last checkpoint.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from foldblend.errors import UserError, counted, listed, shown
from foldblend.failures import check_room
from foldblend.runs.folder import check_there, write_json, write_table
from foldblend.scores.metrics import METRICS, softmax
from pipeline.config.settings import flatten
from pipeline.config.train import FIND
from pipeline.data.parts import WHOLE
from pipeline.data.sampling import class_counts
from pipeline.engines.forward import Forward
from pipeline.engines.measured import saves
from pipeline.fold_files import fold_record, least_room, start_fold, write_fold
from pipeline.infer import Model
from pipeline.job import TrainingJob
from pipeline.labels.rows import taught
from pipeline.seeding import derive_seed
from pipeline.training.batch_norm import with_synced_norm
from pipeline.training.checkpoint import CHECKPOINT, Checkpoints, NoCheckpoints
from pipeline.training.finite import NotFiniteError
from pipeline.training.fit import Epoch, Fit
from pipeline.training.fold_log import NUM_SHOWN, scalars_of, show_mistakes
from pipeline.training.fold_predictions import FoldPredictions
from pipeline.training.fold_rate import FoldRate
from pipeline.training.from_checkpoint import not_used, trained
from pipeline.training.inner import inner_split
from pipeline.training.saved_state import Course, MisfitError, check_course, tensors_in
from pipeline.watch.progress import FoldProgress
from pipeline.watch.tracking import Trackers, open_trackers, tracking_id
from tta.merge import mean_logit

__all__ = ["FoldTraining", "run_fold", "state_of"]


class FoldTraining:
    """A fold during its training.

    Subclasses train further models of a run: they choose other rows, and end in other files.
    """

    stop_after: int | None = None
    """Number of epochs after which training ends before the end of its schedule."""

    def __init__(self, job: TrainingJob, index: int) -> None:
        config = job.run.config
        self.job = job
        self.index = index
        self.title = self._title()
        self.folder = self._folder()
        self.num_epochs = config.train.epochs
        self.select = config.train.select
        self.seed_parts = self._seed_parts()
        self.metric = METRICS[config.output.metric]
        if job.compute.is_cuda:
            torch.cuda.reset_peak_memory_stats(job.compute.device)
        self.held_out, self.selection_rows, train = self._rows_to_use()
        train, share_NC = taught(job, index, train)
        self.part = WHOLE if job.team is None else job.team.part
        self.part.check(len(train), config.train.batch_size, config.train.grad_accum_steps)
        self.loader = job.feeder.train(
            train, seed_parts=self.seed_parts, share_NC=share_NC, say=job.say, part=self.part
        )
        self.count_C = class_counts(train, job.run.manifest.num_classes)
        self.rate = None
        if config.train.lr == FIND:
            self.rate = FoldRate(job, index, train, self.count_C, share_NC)
        self.settings = config if self.rate is None else self.rate.settings
        self.fit = self._new_fit()
        tables = (self.held_out, self.selection_rows)
        self.predict = FoldPredictions(job, self.fit.say, tables)
        self.course = Course()
        self.key = self._key()
        kind = Checkpoints if job.writes else NoCheckpoints
        self.checkpoints = kind(self.folder, self.key, config.output.save_every)
        if self._restore():
            where = (
                "trained"
                if self.fit.is_done
                else f"epoch {self.fit.epoch + 1} step {self.fit.step + 1}"
            )
            job.say(f"{self.title}: continued at {where}")
        elif job.writes:
            self._start()
        if self.rate is not None:
            self.rate.write()
        tensors = [*tensors_in(self.fit.model.state_dict())]
        tensors += tensors_in(self.fit.average.state_dict())
        check_room(self.folder, least_room(job, tensors, len(self.held_out)))
        self.start = time.perf_counter() - self.course.seconds
        if self.rate is not None and not self.course.seconds:
            self.start -= self.rate.info["seconds"]

    def _folder(self) -> Path:
        """Return the folder of the model."""
        return self.job.folder / self.job.run.name_of(self.index)

    def _title(self) -> str:
        """Return the name of the model in the log."""
        return self.job.title(self.index)

    @property
    def _tracked(self) -> str:
        """Name of the model for TensorBoard and W&B."""
        return self.folder.relative_to(self.job.folder).as_posix().replace("/", "_")

    def _key(self) -> dict[str, str]:
        """Return the hashes by which a checkpoint is continued from."""
        return self.job.fold_key

    def _seed_parts(self) -> tuple[int, ...]:
        """Return what the order of rows and their augmentation are derived from."""
        return (self.job.run.config.train.seed, self.index)

    def _start(self) -> None:
        """Make an empty folder for the model."""
        start_fold(self.job, self.index)

    def _rows_to_use(self) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        """Return the held-out rows, those that choose the epoch, and the training rows."""
        job = self.job
        is_held_out = job.run.is_held_out(self.index)
        held_out = job.run.manifest.train[is_held_out].reset_index(drop=True)
        learns_N = ~is_held_out
        selection_rows = held_out
        if self.select == "inner":
            selection_rows, learns_N = inner_split(job.run, learns_N, self.index)
        return held_out, selection_rows, job.run.manifest.training_rows(learns_N)

    def _new_fit(self) -> Fit:
        """Return the fold before its first step."""
        job = self.job
        config = self.settings
        # Only dropout and the new head draw from torch's global generator (see dataset._loader).
        torch.manual_seed(derive_seed("torch", config.train.seed, self.index))
        model = job.new_model()
        if config.machine.sync_bn and job.team is not None and job.compute.is_cuda:
            model = with_synced_norm(model)
        return Fit(
            model,
            config,
            job.run.preprocess,
            job.compute,
            steps_per_epoch=len(self.loader),
            count_C=self.count_C,
            augment=job.feeder.device_augmentation,
            seed_parts=self.seed_parts,
            micro_batch=job.limits.micro_batch,
            stop_after=self.stop_after,
            say=lambda line: job.say(f"{self.title}: {line}"),
            team=job.team,
        )

    def _restore(self) -> bool:
        """Return whether the fold continues from its checkpoint; say why one is not used."""
        saved = self.checkpoints.load()
        why = self.checkpoints.problem
        if self.job.team is not None:
            saved, why = self.job.team.from_leader((saved, why))
        if saved is not None:
            model = self.fit.model.state_dict()
            try:
                if not isinstance(saved.get("fit"), dict):
                    raise MisfitError("no state of training")
                self.course = check_course(saved.get("course"), model, epochs=self.num_epochs)
                self.fit.load_state_dict(saved["fit"])
                self._say_other_team(saved.get("processes", 1))
                return True
            except MisfitError as error:
                why = shown(str(error))
        if why is not None:
            self.job.say(not_used(self.title, self.folder / CHECKPOINT, why))
            # What was restored in part is of no use.
            self.course = Course()
            self.fit = self._new_fit()
        return False

    def _say_other_team(self, before: int) -> None:
        """Say so if another number of processes has trained the fold so far."""
        if before != self.part.size:
            self.job.say(
                f"{self.title}: {counted(before, 'process')} trained it so far, and now"
                f" {self.part.size}, so its logits are not exactly those of either number"
            )

    def run(self) -> dict[str, Any]:
        """Train the remaining steps, write logits and weights, and return done.json.

        done.json is written last: a fold without it is not finished.
        """
        job = self.job
        steps = len(self.loader)
        done_steps = self.fit.epoch * steps + self.fit.step
        with (
            self._open_trackers() as self.trackers,
            FoldProgress(
                job.progress,
                self.title,
                epochs=self.num_epochs,
                steps=steps,
                done_steps=done_steps,
            ) as progress,
        ):
            # A fold that is continued within epoch 0 shows the batch again, since opening the
            # trackers has removed what an earlier process logged for that epoch.
            if job.run.config.output.log_pictures and not self.fit.epoch:
                self.fit.watch = self._show_batch

            def after_step() -> None:
                progress.step()
                if job.team is not None:
                    job.team.heed_stop()
                self.checkpoints.save_if_due(self._state)

            for epoch in self._epochs(after_step):
                progress.epoch()
                self._end_epoch(epoch)
            return self._finish()

    def _open_trackers(self) -> Trackers:
        job = self.job
        if not job.writes:
            return Trackers([], job.say)
        return open_trackers(
            self.folder,
            run_name=job.folder.name,
            fold_title=self._tracked,
            run_id=tracking_id(job.folder.name, self.key, self.index),
            use_wandb=job.run.config.output.wandb,
            purge_step=min(self.fit.epoch, self.num_epochs - 1),
            say=job.say,
        )

    def _epochs(self, after_step: Any) -> Any:
        try:
            yield from self.fit.epochs(self.loader, after_step=after_step)
        except NotFiniteError as error:
            # Continuing from the checkpoint would repeat the same steps and fail again.
            self.checkpoints.remove()
            images = listed(self.loader.names(error.epoch, error.step), most=4)
            raise UserError(
                f"{self.title} {error}, with the images {images};"
                f" {self.job.compute.cure_of_infinity}"
            ) from None

    def _show_batch(self, pixels: torch.Tensor) -> None:
        """Show the first training batch as the model sees it, augmented and mixed."""
        self.trackers.images(
            "train/batch", self.job.run.preprocess.to_images(pixels[:NUM_SHOWN]), None, 0
        )
        self.fit.watch = None

    def _state(self) -> dict[str, Any] | None:
        """Return the state to save, None where training from it could not go on."""
        check_there(self.job.folder)
        self.course.seconds = time.perf_counter() - self.start
        state: dict[str, Any] = {"fit": self.fit.state_dict(), "course": dict(vars(self.course))}
        if self.part.size > 1:
            state["processes"] = self.part.size
        return state if self.fit.is_finite() else None

    def _for_epoch(self, model: torch.nn.Module) -> Model:
        """Return the model of an epoch as its score is computed: by the engine where that pays.

        Scores that choose the epoch are always torch's, since what pays is measured.
        """
        job = self.job
        is_shown_only = self.select == "last"
        if job.spec is None or not is_shown_only:
            return model
        num = len(self.held_out)
        return job.forward(self.index, model) if saves(job.spec, job.compute, num) else model

    def _score(self, table: pd.DataFrame, logits_VNC: np.ndarray) -> float:
        self.job.check_finite(self.index, logits_VNC)
        return self.metric.score(table["label"].to_numpy(), softmax(mean_logit(logits_VNC)))

    def _end_epoch(self, epoch: Epoch) -> None:
        """Log an epoch, compare it with the best one under --select, and save the last one."""
        if self.job.team is not None:
            self.job.team.share_state(epoch.model)
        course = self.course
        course.train_seconds += epoch.seconds
        course.train_images += epoch.images
        row: dict[str, float] = {
            "epoch": epoch.index,
            "lr": epoch.lr,
            "train_loss": epoch.train_loss,
            "images_per_s": epoch.images / max(epoch.seconds, 1e-9),
            # Of all processes that trained the fold; readers of a running run need it.
            "seconds": time.perf_counter() - self.start,
        }
        self._log_epoch(row, epoch)
        if self.fit.is_done and self.job.writes:
            self.checkpoints.save(self._state())

    def _log_epoch(self, row: dict[str, float], epoch: Epoch) -> None:
        """Log an epoch with its scores; `row` has what is known without them."""
        select = self.select
        if select != "last":
            score = self._score(
                self.selection_rows,
                self.predict(epoch.model, self.selection_rows, self.job.run.views[:1]),
            )
            self._choose(epoch, score)
            row[f"{select}_{self.job.run.config.output.metric}"] = score
        self.course.rows.append(row)
        # With --select last, the last epoch is logged with the logits that `_finish` writes, so
        # that these rows are not predicted twice.
        if not self.fit.is_done or select != "last":
            model = self._for_epoch(epoch.model)
            self._note(row, self.predict(model, self.held_out, self.job.run.views[:1]))

    def _choose(self, epoch: Epoch, score: float) -> None:
        config = self.job.run.config
        if not np.isfinite(score):
            raise UserError(
                f"{self.title}: --metric {config.output.metric} is undefined on the"
                f" rows that --select {config.train.select} scores epochs on; pass another"
                " --metric, or --select last"
            )
        sign = self.metric.sign
        best = self.course.best_score
        better = best is None or sign * score > sign * best
        if better:
            state = {
                name: value.detach().cpu().clone()
                for name, value in epoch.model.state_dict().items()
            }
            self.course.best_score = score
            self.course.best_epoch = epoch.index
            self.course.best_state = state

    def _note(self, row: dict[str, float], logits_VNC: np.ndarray) -> float:
        """Log an epoch with its score on the held-out rows and return that score."""
        job = self.job
        metric = self.job.run.config.output.metric
        label_N = self.held_out["label"].to_numpy()
        score = row[f"val_{metric}"] = self._score(self.held_out, logits_VNC)
        proba_NC = softmax(mean_logit(logits_VNC))
        row["val_log_loss"] = METRICS["log_loss"].score(label_N, proba_NC)
        self._write_log()
        epoch = int(row["epoch"])
        self.trackers.scalars(scalars_of(row, job, label_N, proba_NC), epoch)
        left = job.progress.left()
        shown = f"{score:.4f}" if np.isfinite(score) else "undefined"
        job.say_epoch(
            f"{self.title} epoch {epoch + 1}/{self.num_epochs}: loss"
            f" {row['train_loss']:.3f}, held-out {self.metric.title} {shown},"
            f" {row['images_per_s']:.0f} images/s" + (f", {left}" if left else "")
        )
        return score

    def _write_log(self) -> None:
        if self.job.writes:
            check_there(self.job.folder)
            write_table(self.folder / "log.csv", pd.DataFrame(self.course.rows))

    def _finish(self) -> dict[str, Any]:
        job = self.job
        course = self.course
        model = self.fit.scored
        if course.best_state is not None:
            model.load_state_dict(course.best_state)
        forward = job.forward(self.index, model)
        # Logits that are kept do not depend on how many images are predicted together.
        size = job.run.config.infer.validation_batch_size if job.padded else None
        start = time.perf_counter()
        held_VNC = self.predict(forward, self.held_out, job.run.views, pad_to=size)
        infer_seconds = time.perf_counter() - start
        if self.select == "last":
            score = self._note(course.rows[-1], held_VNC)
        else:
            score = self._score(self.held_out, held_VNC)
        if job.run.config.output.log_pictures and job.writes:
            proba_NC = softmax(mean_logit(held_VNC))
            show_mistakes(self.trackers, job, self.held_out, proba_NC, self.num_epochs - 1)
        self.trackers.hparams(flatten(self.settings), {job.run.config.output.metric: score})
        test_VNC = (
            None
            if job.run.manifest.test is None
            else self.predict(forward, job.run.manifest.test, job.run.views, pad_to=size)
        )
        if not job.writes:
            return {}
        files = write_fold(
            job, self.index, state=state_of(model), held_VNC=held_VNC, test_VNC=test_VNC
        )
        num_inferred = len(self.held_out) * len(job.run.views)
        done = fold_record(job, self.index, files, score)
        done |= self._facts(forward, num_inferred / infer_seconds)
        if course.best_state is not None:
            done["epoch"] = course.best_epoch
        return self._write_done(done)

    def _facts(self, forward: Forward, infer_images_per_s: float | None) -> dict[str, Any]:
        """Return what done.json has on the time, memory and engine of the model."""
        job = self.job
        course = self.course
        done: dict[str, Any] = {
            "seconds": time.perf_counter() - self.start,
            "train_images_per_s": course.train_images / max(course.train_seconds, 1e-9),
            "infer_images_per_s": infer_images_per_s,
            "micro_batch": self.fit.micro_batch,
        }
        chunk = self.predict.chunks.most
        if chunk is not None and chunk < job.run.config.infer.validation_batch_size:
            done["inference_chunk"] = chunk
        if job.spec is not None:
            done["engine"] = forward.engine
        if job.compute.compile:
            done["compiled"] = self.fit.forward is not self.fit.model
        if job.team is not None:
            done["processes"] = job.team.size
        if job.compute.is_cuda:
            done["gpu_memory"] = torch.cuda.max_memory_reserved(job.compute.device)
        if self.rate is not None:
            done |= self.rate.record()
        return done

    def _write_done(self, done: dict[str, Any]) -> dict[str, Any]:
        """Write done.json, after which the checkpoint is not needed, and return its content."""
        check_there(self.job.folder)
        write_json(self.folder / "done.json", done)
        self.checkpoints.remove()
        return done


def state_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights of a model as they are written to files."""
    return {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}


def run_fold(job: TrainingJob, index: int) -> dict[str, Any]:
    """Train and score one fold, from its checkpoint if it has one, and return its done.json.

    Raises UserError for what the device cannot do.
    """
    file = job.folder / job.run.name_of(index) / CHECKPOINT
    return trained(job, job.title(index), file, lambda: FoldTraining(job, index))
