"""Checks of imported predictions: the tables are read, compared with the data, and made logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from foldblend.errors import UserError, counted, listed, require
from foldblend.scores.by_group import GROUP, check_one_label
from foldblend.scores.metrics import check_order
from foldblend.scores.rows import Rows
from folds.data.imported.known import KnownData, read_known
from folds.data.imported.rows import check_labels, folds_of, in_fold_order, order_of_rows
from folds.data.imported.tables import (
    FOLD,
    PredictionTable,
    Table,
    frame_table,
    named_columns,
    read_predictions,
)
from folds.data.imported.values import Logits, logits_of
from folds.fold_file import training_only_rows
from folds.import_config import ImportConfig

__all__ = ["Imported", "read_imported"]


@dataclass(frozen=True, kw_only=True)
class Imported:
    """Predictions that were compared with their data, before they are written."""

    known: KnownData
    fold_RN: np.ndarray
    oof_RNC: np.ndarray
    """Out-of-fold logits, float32, of the images in the order of the data."""
    test_ids: list[str] | None
    tests: list[np.ndarray]
    """Test logits of each fold, or their mean."""
    files: list[str]
    made: Logits
    warnings: list[str]

    @property
    def num_models(self) -> int:
        return len(self.fold_RN) * (int(self.fold_RN.max()) + 1)

    @property
    def is_mean(self) -> bool:
        """Return whether the test predictions are the mean over folds."""
        return len(self.tests) == 1

    @property
    def rows(self) -> pd.DataFrame:
        """The columns of oof.parquet before the logits."""
        parts = [
            self.known.train.assign(repeat=repeat, fold=fold_N)
            for repeat, fold_N in enumerate(self.fold_RN)
        ]
        return pd.concat(parts, ignore_index=True)


def read_imported(
    config: ImportConfig, oof: Table, labels: Table, tests: Sequence[Table]
) -> Imported:
    """Read and check all tables of an import.

    Parameters
    ----------
    config
        The settings.
    oof, labels, tests
        The tables, which are the files of the settings, or DataFrames.

    Raises
    ------
    UserError
        With the file and line, if predictions do not fit the data.
    """
    frame = frame_table(labels, "labels") if isinstance(labels, pd.DataFrame) else None
    known = read_known(str(config.labels), config.data, frame)
    if config.folds is not None:
        alone = training_only_rows(config.folds, known.train["image_id"], flag="--folds")
        known = known.without({*alone})
    check_order(config.metric, ordered=bool(known.record.get("ordered", True)))
    if config.score_by == GROUP:
        label_N = known.train["label"].to_numpy()
        rows = Rows.of(label_N, known.groups, group_name=known.group_name)
        check_one_label(rows)
    about = {"id_col": config.id_col, "columns": named_columns(config.columns)}

    def read(source: Table, name: str) -> PredictionTable:
        return read_predictions(source, name, known, config.data, **about)

    predicted = read(oof, "oof" if isinstance(oof, pd.DataFrame) else "--oof")
    order_RN = order_of_rows(predicted, known.train["image_id"].tolist(), known.source)
    not_compared = check_labels(predicted, known, order_RN, config.data)
    fold_RN = folds_of(predicted, known, order_RN, config.folds)
    order = in_fold_order(config.test)
    names = [config.test[place] for place in order]
    read_tests = [
        read(tests[place], name if isinstance(tests[place], pd.DataFrame) else "--test")
        for place, name in zip(order, names, strict=True)
    ]
    num_models = fold_RN.shape[0] * (int(fold_RN.max()) + 1)
    _check_number(names, num_models)
    _check_test_folds(read_tests, int(fold_RN.max()) + 1)
    ids, orders = _test_order(read_tests, known)
    if ids is None and (config.test_csv or config.sample_submission):
        raise UserError(
            f"{config.test_csv or config.sample_submission}: there are no predictions of test"
            " images; pass --test"
        )
    made, warnings = logits_of([predicted, *read_tests], config.kind)
    oof_NC, *test_logits = made.tables
    in_order = [one[order_N] for one, order_N in zip(test_logits, orders, strict=True)]
    warnings += [*not_compared, *_equal_tests(names, in_order)]
    return Imported(
        known=known,
        fold_RN=fold_RN,
        oof_RNC=oof_NC[order_RN],
        test_ids=ids,
        tests=in_order,
        files=[str(config.oof), *names],
        made=made,
        warnings=warnings,
    )


def _check_number(names: Sequence[str], num_models: int) -> None:
    """Raise UserError unless there is a table for each fold, or one, or none."""
    twice = [one for place, one in enumerate(names) if one in names[:place]]
    require(not twice, f"--test: {listed(twice)} is given twice; pass a file for each fold")
    require(
        len(names) in (0, 1, num_models),
        f"--test: {counted(len(names), 'file')} for {num_models} models (folds x repeats):"
        f" {listed(names, most=9)}; pass one for each, in the order of the folds, or one with their"
        " mean",
    )


def _check_test_folds(tests: Sequence[PredictionTable], num_folds: int) -> None:
    """Raise UserError if tables with a column of folds are not in the order of the folds."""
    words = [set() if one.fold is None else {*one.fold} for one in tests]
    if len(tests) < num_folds or any(len(one) != 1 for one in words):
        return
    folds = [int(one.table.whole_numbers(FOLD)[0]) for one in tests]
    known = sorted({*folds})
    for place, (one, fold) in enumerate(zip(tests, folds, strict=True)):
        expected = place % num_folds
        if len(known) != num_folds or known[expected] != fold:
            raise UserError(
                f"{one.name}: column {FOLD!r} is {fold}, but it is number {place + 1} of the files"
                " of --test; pass them in the order of the folds, or remove the column"
            )


def _equal_tests(names: Sequence[str], tests: Sequence[np.ndarray]) -> list[str]:
    """Return warnings on tables of different folds with the same values."""
    alike: dict[bytes, list[str]] = {}
    for name, logits_NC in zip(names, tests, strict=True):
        alike.setdefault(logits_NC.tobytes(), []).append(name)
    if len(tests) > 1 and len(alike) == 1:
        return [
            f"{listed(names)}: all have the same values; if they are the mean over folds, pass one"
            " of them only, so that nothing fitted is applied to it"
        ]
    return [
        f"{listed(same)}: have the same values, though they are of different models; pass the file"
        " of each fold"
        for same in alike.values()
        if len(same) > 1
    ]


def _test_order(
    tests: Sequence[PredictionTable], known: KnownData
) -> tuple[list[str] | None, list[np.ndarray]]:
    """Return the test images in order, and the row number of each in each table.

    Raises UserError if tables have other images than the data, or than each other.
    """
    if not tests:
        return None, []
    first = tests[0]
    ids = known.test_ids
    what = f"the test set of {known.source}"
    if ids is None:
        ids = first.ids.drop_duplicates().tolist()
        what = first.name
    trained = {*ids} & {*known.train["image_id"]}
    if known.test_ids is None and trained:
        raise UserError(
            f"{first.name}: image {listed(sorted(trained))} is a labelled one of {known.source};"
            " --test is for predictions of test images"
        )
    orders = []
    for one in tests:
        order_RN = order_of_rows(one, ids, what)
        if len(order_RN) > 1:
            raise UserError(
                f"{one.name}: has several repeats; pass a file for each model, fold by fold of each"
                " repeat"
            )
        orders.append(order_RN[0])
    return ids, orders
