"""Prediction of new images by a finished run, TTA'd run, blend or exported file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from foldblend.cli import Say
from foldblend.cluster.cluster import opened
from foldblend.errors import UserError, counted, listed
from foldblend.files import write_bytes
from foldblend.progress import Task
from foldblend.scores.run_metric import metric_of
from foldblend.spreadsheets import safe_csv
from pipeline.cluster.images import predict_on
from pipeline.predict.answers import Answers, write_answers
from pipeline.predict.by_group import Groups, groups_of_run
from pipeline.predict.columns import Columns
from pipeline.predict.compare import watched_of
from pipeline.predict.config import PredictConfig
from pipeline.predict.inputs import Inputs
from pipeline.predict.journal import Journal
from pipeline.predict.known import Known
from pipeline.predict.picks import Picks
from pipeline.predict.reference import differences
from pipeline.predict.session import Session
from pipeline.predict.sets import Sets, sets_of
from pipeline.predict.stream import Predicted

__all__ = ["Prediction", "predict_session"]


class Prediction:
    """One prediction of images, from decoding to tables."""

    def __init__(
        self, session: Session, inputs: Inputs, config: PredictConfig, *, say: Say
    ) -> None:
        self.session = session
        self.inputs = inputs
        self.config = config
        self.say = say
        predictor = session.predictor
        self.sets: Sets | None = sets_of(predictor, session.stream, config, say=say)
        self.watched = None
        if config.odd:
            self.watched = watched_of(predictor, session.stream, say=say)
        session.stream.watch(None if self.watched is None else self.watched.key)
        self.columns = Columns(
            len(predictor.classes),
            session.stream.has_offsets,
            self.sets is not None,
            self.watched is not None,
        )
        self.answers = Answers(
            classes=predictor.classes,
            calibration=predictor.calibration,
            unsure=config.unsure,
        )
        self.picks = None if config.page is None else Picks(len(predictor.classes))
        self.known = Known(inputs)
        # Four numbers per image, for the comparison at the end.
        self.odd: list[np.ndarray] = []
        self.look: list[np.ndarray] = []

    def rows(self, first: int = 0) -> Iterator[tuple[np.ndarray, dict[int, str]]]:
        """Yield the rows of each block and the errors of its images that are left out."""
        num = len(self.inputs) - first
        start = time.monotonic()
        seen = 0
        good = 0
        with Task("predict", num, unit="images") as task:
            for one in self._predicted(first):
                self._check_finite(one)
                inside_NC = None if self.sets is None else self.sets.of(one.plain_KNC)
                bad = {index: error.problem for index, error in one.block.bad.items()}
                odd_N = None
                if self.watched is not None and one.features_ND is not None:
                    odd_N = self.watched.reference.percentile(one.features_ND)
                yield self.columns.pack(one.block.size, one, inside_NC, odd_N), bad
                seen += one.block.size
                good += len(one.block.good)
                rate = seen / max(time.monotonic() - start, 1e-9)
                task.what = f"predict ({rate:,.0f} images/s)"
                task.add(one.block.size)
        if good:
            spent = time.monotonic() - start
            self.say(
                f"predicted {counted(seen, 'image')} in {spent:.1f} s"
                f" ({seen / max(spent, 1e-9):,.1f} images/s)"
            )

    def _predicted(self, first: int) -> Iterator[Predicted]:
        """Yield the predictions of all blocks, by this process or the nodes of a cluster."""
        config = self.config
        with opened(config.backend, config.ray_address, self.say) as cluster:
            if cluster is None:
                skip = config.on_bad_image == "skip"
                yield from self.session.stream.run(self.inputs, first=first, skip=skip)
                return
            yield from predict_on(
                cluster, self.session, self.inputs, config, first=first, say=self.say
            )

    def _check_finite(self, one: Predicted) -> None:
        """Raise UserError for logits that are not finite; NaN marks images that are left out."""
        bad_N = ~(np.isfinite(one.logits_NC) & np.isfinite(one.plain_NC)).all(axis=1)
        if bad_N.any():
            names = [self.inputs.ids[one.block.good[row]] for row in np.flatnonzero(bad_N)]
            raise UserError(f"{listed(names)}: the logits are not finite; pass --device cpu")

    def logits(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the numbers of the images that can be used, and their logits and plain logits."""
        rows_NX = np.concatenate([rows for rows, _ in self.rows()])
        index_N = np.flatnonzero(np.isfinite(rows_NX[:, 0]))
        found = self.columns.unpack(rows_NX[index_N])
        return index_N, found.logits_NC, found.plain_NC

    def table(self, first: int, rows_NX: np.ndarray) -> pd.DataFrame:
        """Return the table of rows, without images that are left out."""
        index_N = first + np.flatnonzero(np.isfinite(rows_NX[:, 0]))
        found = self.columns.unpack(rows_NX[index_N - first])
        if found.odd_N is not None:
            self.odd.append(found.odd_N.copy())
            self.look.append(found.look_N3.copy())
        self.known.add(index_N, found.logits_NC)
        groups = self.inputs.groups
        table = self.answers.table(
            [self.inputs.ids[index] for index in index_N.tolist()],
            found.logits_NC,
            found.plain_NC,
            groups=None if groups is None else [groups[index] for index in index_N.tolist()],
            inside_NC=found.inside_NC,
            odd_N=found.odd_N,
        )
        if self.picks is not None:
            proba_NC = table.iloc[:, -found.logits_NC.shape[1] :].to_numpy()
            self.picks.add(index_N, found.logits_NC.argmax(axis=1), proba_NC, found.odd_N)
        return table

    def add_to(self, sums: Groups, first: int, rows_NX: np.ndarray) -> None:
        """Add rows to those of their groups."""
        groups = self.inputs.groups
        if groups is not None:
            index_N = first + np.flatnonzero(np.isfinite(rows_NX[:, 0]))
            found = self.columns.unpack(rows_NX[index_N - first])
            names = [groups[index] for index in index_N.tolist()]
            sums.add(names, found.logits_NC, found.plain_NC)

    def finish(self, bad: Mapping[int, str]) -> None:
        """Report the score of labelled images and differences to training, and write the page."""
        score = self.known.sentence(metric_of(self.session.predictor.info))
        if score is not None:
            self.say(score)
        lines = None
        if self.watched is not None and self.odd:
            odd_N = np.concatenate(self.odd)
            lines = differences(self.watched.reference, odd_N, np.concatenate(self.look))
        for line in lines or ():
            self.say(f"warning: {line}; their predictions may be worse than the score says")
        if self.picks is None:
            return
        # Importing matplotlib takes a while.
        from pipeline.predict.page import predictions_page

        assert self.config.page is not None
        path = Path(self.config.page)
        predictor = self.session.predictor
        page = predictions_page(predictor, self.inputs, self.picks, lines=lines, bad=bad)
        write_bytes(path, page)
        self.say(f"page: {path}")

    def say_bad(self, bad: Mapping[int, str]) -> None:
        """Report images that were left out; raise UserError if there is no other."""
        if bad and len(bad) == len(self.inputs):
            first = next(iter(bad.values()))
            raise UserError(f"{first}; none of the images can be used, so pass others")
        if bad:
            self.say(
                f"warning: {counted(len(bad), 'image')} of {len(self.inputs):,} left out:"
                f" {listed(bad.values())}"
            )


def _key(prediction: Prediction) -> str:
    """Return what identifies a prediction, so that only the same one is continued."""
    session = prediction.session
    config = prediction.config
    # Predictions that were begun by a version without engines are continued.
    engine = [] if config.infer_engine is None else [config.infer_engine]
    decided = [
        session.predictor.fingerprint(),
        {key: list(models) for key, models in session.stream.models.items()},
        # A row has other columns with --no-odd, or where the reference is gone.
        dataclasses.astuple(prediction.columns),
        [config.coverage, config.coverage_by, config.device, config.threads, *engine],
        prediction.inputs.key(),
    ]
    return hashlib.blake2b(json.dumps(decided).encode(), digest_size=16).hexdigest()


def _write(prediction: Prediction, path: Path) -> None:
    """Predict all images and write the table, continuing an interrupted prediction."""
    config = prediction.config
    inputs = prediction.inputs
    journal = Journal(
        path.with_name(f".{path.name}.partial"),
        _key(prediction),
        width=prediction.columns.width,
        block=prediction.session.stream.block,
        resume=config.resume,
    )
    with journal, safe_csv(config.safe_csv):
        before = journal.bad()
        if before and config.on_bad_image == "stop":
            why = next(iter(before.values()))
            raise UserError(f"{why}; replace it, or pass --on-bad-image skip")
        if journal.done:
            prediction.say(f"{path}: continued after {counted(journal.done, 'image')}")
        for rows_NX, bad in prediction.rows(journal.done):
            journal.add(rows_NX, bad)
        bad = journal.bad()
        prediction.say_bad(bad)
        sums = groups_of_run(prediction.session.predictor.info)

        def tables() -> Iterator[pd.DataFrame]:
            for first, rows_NX in journal.chunks():
                prediction.add_to(sums, first, rows_NX)
                yield prediction.table(first, rows_NX)

        write_answers(path, tables())
        of_groups = sums.table(prediction.answers)
        # Those of an earlier prediction, which --overwrite replaces, would be taken for this one's.
        for what in ("by_group", "left_out") if config.overwrite else ():
            config.beside(what).unlink(missing_ok=True)
        if of_groups is not None:
            file = config.beside("by_group")
            write_answers(file, iter([of_groups]))
            prediction.say(f"{file}: {counted(len(of_groups), 'group')}")
        if bad:
            skipped = config.beside("left_out")
            rows = [(inputs.ids[index], why) for index, why in sorted(bad.items())]
            write_answers(skipped, iter([pd.DataFrame(rows, columns=["image_id", "why"])]))
            prediction.say(f"{skipped}: the images that were left out")
        prediction.finish(bad)
        journal.remove()
    prediction.say(f"{path}: {counted(len(inputs) - len(bad), 'prediction')}")


def _in_memory(prediction: Prediction) -> pd.DataFrame:
    """Predict all images and return the table."""
    found = []
    every: dict[int, str] = {}
    for rows_NX, bad in prediction.rows():
        found.append(rows_NX)
        every |= bad
    prediction.say_bad(every)
    table = prediction.table(0, np.concatenate(found))
    prediction.finish(every)
    return table


def predict_session(
    session: Session, inputs: Inputs, config: PredictConfig, *, say: Say
) -> pd.DataFrame | None:
    """Predict images and return their table, or None where it is written to a file."""
    for line in inputs.found:
        say(line)
    prediction = Prediction(session, inputs, config, say=say)
    if config.out is None:
        return _in_memory(prediction)
    _write(prediction, Path(config.out))
    return None
