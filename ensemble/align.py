"""Join the rows of several runs on image ids, and check that they are of the same images.

Out-of-fold logits are kept in memory unless they are too many. Others are read when they are
needed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from foldblend.ahead import ahead, threads_for
from foldblend.errors import UserError, listed
from foldblend.runs.broken import BrokenRun
from foldblend.runs.ids import is_increasing, places_of
from foldblend.runs.oof import coded_rows, rows_of
from foldblend.runs.refit import refit_share, with_refits
from foldblend.runs.rows import group_name_of
from foldblend.runs.run import Run
from foldblend.runs.tables import ROW_COLUMNS, check_rows_once
from foldblend.scores.rows import Rows
from foldblend.words import plural

__all__ = ["Aligned", "Member", "align"]

# Bytes of out-of-fold logits. Up to this size those of all members are kept in memory.
MOST_KEPT = 2**29


@dataclass(frozen=True)
class Member:
    """A run with the order of the blend's rows in its tables."""

    run: Run
    oof_order_N: np.ndarray | None
    """Row numbers of the blend's rows in oof.parquet; None where the order is the same."""
    test_ids: pd.Series | None
    """Test images of the blend; None where it has none."""
    all_test_ids: bool
    """Whether the run's tables may hold no other test images."""
    kept_NC: np.ndarray | None = None
    """Its out-of-fold logits in the blend's order, float32; None where they are read again."""

    def read_oof(self) -> np.ndarray:
        """Return the out-of-fold logits, N x C float32, in the blend's order."""
        if self.kept_NC is not None:
            return self.kept_NC
        return _ordered(self.run.table_and_logits("oof", [], unique=False)[1], self.oof_order_N)

    def read_test(self, fold: int | None) -> np.ndarray:
        """Return the test logits of a fold's models, or for None their mean over folds.

        They are N x C float32, in the order of `test_ids`.
        """
        assert self.test_ids is not None
        name = "test" if fold is None else f"test_fold_{fold}"
        # The ids are compared with those of the blend, which occur once.
        table, logits_NC = self.run.table_and_logits(name, ["image_id"], unique=False)
        ids = table["image_id"]
        if fold is not None:
            refits = self.run.refit_logits(ids, f"{name}.parquet")
            logits_NC = with_refits(logits_NC, refits, refit_share(self.run.info))
        if _are_equal(ids, self.test_ids):
            return logits_NC
        expected = (
            self.test_ids
            if self.all_test_ids
            else pd.concat([self.test_ids, ids]).drop_duplicates()
        )
        try:
            check_rows_once(ids, expected, f"{self.run.path}/{name}.parquet")
        except UserError as error:
            raise BrokenRun(error, self.run.path) from None
        return logits_NC[_order(ids, self.test_ids)]


@dataclass(frozen=True)
class Aligned:
    """Members of a blend with the rows that they have in common."""

    members: tuple[Member, ...]
    rows: pd.DataFrame
    """The columns of oof.parquet before the logits, sorted by (repeat, image_id)."""
    same_folds: bool
    """Whether all members have the same folds."""
    corrections_differ: bool
    """Whether members have different corrections; then labels are the original ones."""
    test_ids: pd.Series | None
    """Images of the test set, or None if a member has no test set."""
    num_left_out: int
    """Number of test images that some members lack."""

    @property
    def runs(self) -> list[Run]:
        return [member.run for member in self.members]

    @property
    def named_rows(self) -> Rows:
        """Labels, groups (by name), repeats and folds of the rows."""
        return rows_of(self.rows, self.group_name)

    @functools.cached_property
    def coded_rows(self) -> Rows:
        """The same with groups as numbers, in the order of their names."""
        return coded_rows(self.rows, self.group_name)

    @property
    def num_threads(self) -> int:
        """Number of threads that work on members, each with all probabilities of one."""
        return threads_for(8 * len(self.rows) * len(self.runs[0].classes))

    @property
    def group_name(self) -> str:
        """Name of a group in the singular."""
        return group_name_of(self.runs)

    @property
    def groups(self) -> str:
        """Name of groups in the plural."""
        return plural(self.group_name)

    def oof(self) -> Iterator[np.ndarray]:
        """Yield the out-of-fold logits of each member, N x C float32.

        They are read from disk every time if they are too large to keep in memory.
        """
        return ahead(Member.read_oof, self.members, num_threads=self.num_threads)

    @property
    def tests_are_means(self) -> bool:
        """Return whether test logits of a member are means over folds, smoother than a model's."""
        read = self.test_ids is not None
        return read and (
            self.test_folds == [None] or any(run.info.get("test_is_mean") for run in self.runs)
        )

    @property
    def imported_means(self) -> list[str]:
        """Imported runs in the blend of whose test logits only the mean over folds is known."""
        if self.test_ids is None:
            return []
        names = (name for run in self.runs for name in run.info.get("imported_means", ()))
        return [*dict.fromkeys(names)]

    @property
    def test_folds(self) -> list[int | None]:
        """The folds whose test logits are blended fold by fold.

        It is [None], for the means over folds, where members differ in the number of folds.
        """
        num_folds = {run.info["num_test_folds"] for run in self.runs}
        if self.test_ids is None:
            return []
        return [None] if len(num_folds) > 1 else list(range(num_folds.pop()))

    def test(self, fold: int | None) -> Iterator[np.ndarray]:
        """Yield the test logits N x C float32 of each member's models of a fold."""
        assert self.test_ids is not None
        num_threads = threads_for(8 * len(self.test_ids) * len(self.runs[0].classes))
        return ahead(lambda member: member.read_test(fold), self.members, num_threads=num_threads)


def _ordered(values_N: np.ndarray, order_N: np.ndarray | None) -> np.ndarray:
    return values_N if order_N is None else values_N[order_N]


def _are_equal(ids: pd.Series, others: pd.Series) -> bool:
    """Return whether ids are equal and in the same order."""
    # Most are of one type and in one order, and need not become Python's texts to be compared.
    return ids.equals(others) or (
        len(ids) == len(others) and bool((ids.to_numpy() == others.to_numpy()).all())
    )


def _order(ids: pd.Series, wanted: pd.Series) -> np.ndarray:
    """Return the place of each wanted id, and -1 for those that are absent."""
    if _are_equal(ids, wanted):
        return np.arange(len(ids))
    return places_of(wanted, ids)


def _oof_order(rows: pd.DataFrame, blended: pd.DataFrame) -> np.ndarray:
    """Return the row numbers of the blend's rows in a member's table, -1 for absent rows.

    A member with fewer repeats than the blend uses its repeats again, from the first on.
    """
    num_repeats = int(rows["repeat"].max()) + 1
    orders = []
    for repeat in range(int(blended["repeat"].max()) + 1):
        own_N = np.flatnonzero(rows["repeat"] == repeat % num_repeats)
        wanted = blended.loc[blended["repeat"] == repeat, "image_id"]
        at_N = _order(rows["image_id"].iloc[own_N], wanted)
        orders.append(np.where(at_N >= 0, own_N[at_N], -1))
    return np.concatenate(orders)


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows sorted by repeat and image_id, and numbered from 0."""
    columns = table[[*ROW_COLUMNS]]
    # Most tables are, and sorting takes long.
    if (table["repeat"] == table["repeat"].iloc[0]).all() and is_increasing(table["image_id"]):
        return columns.reset_index(drop=True)
    return columns.sort_values(["repeat", "image_id"], ignore_index=True)


def _have_equal(table: pd.DataFrame, other: pd.DataFrame, columns: Sequence[str]) -> bool:
    """Return whether two tables have the same values in these columns, row by row."""
    return all(table[one].equals(other[one]) for one in columns)


def _unless_equal(order_N: np.ndarray) -> np.ndarray | None:
    return None if (order_N == np.arange(len(order_N))).all() else order_N


def _check_classes(run: Run, first: Run) -> None:
    if run.classes != first.classes:
        odd = listed(sorted(set(run.classes) ^ set(first.classes))) or "their order"
        raise UserError(
            f"{first.path} and {run.path}: different classes ({odd}); blend only runs with the same"
            " classes"
        )


def _check_rows(run: Run, rows: pd.DataFrame, first: Run, reference: pd.DataFrame) -> None:
    """Raise UserError unless joined rows have the same original labels and groups."""
    for column, what in (("label_raw", "label"), ("group", group_name_of([first, run]))):
        differs = np.flatnonzero(rows[column].to_numpy() != reference[column].to_numpy())
        if len(differs):
            place = differs[0]
            image, *values = (
                table.iloc[place]
                for table in (reference["image_id"], reference[column], rows[column])
            )
            raise UserError(
                f"{first.path} and {run.path}: {len(differs)} images differ in {what}; the first is"
                f" {image} ({values[0]} and {values[1]}); run one of them again"
            )


def _join(
    run: Run, own: pd.DataFrame, longest: Run, rows: pd.DataFrame, size: int
) -> tuple[np.ndarray | None, np.ndarray]:
    """Return the row numbers of the blend's rows in a run's table, and their folds in the run.

    The first is None where the rows are the same in the same order. Raises UserError if the images,
    labels or groups differ.
    """
    if _have_equal(own, rows, ("repeat", "image_id", "group", "label_raw")):
        return None, own["fold"].to_numpy()
    order_N = _oof_order(own, rows)
    ids = own.loc[own["repeat"] == 0, "image_id"]
    if len(ids) != size or (order_N < 0).any():
        odd = listed(sorted(set(ids) ^ set(rows["image_id"])))
        raise UserError(
            f"{longest.path} and {run.path}: different images ({odd}); blend only runs of the same"
            " data"
        )
    joined = own.iloc[order_N]
    _check_rows(run, joined, longest, rows)
    return _unless_equal(order_N), joined["fold"].to_numpy()


def _test_ids(runs: Sequence[Run], *, intersect: bool) -> tuple[pd.Series | None, list[pd.Series]]:
    """Return the test images to be blended, in the first run's order, and those that runs have.

    The first is None if a run has no test set. The second leaves out those equal to others.
    """
    if not all(run.info["has_test"] for run in runs):
        return None, []
    first, *others = ahead(lambda run: run.table("test", ["image_id"])["image_id"], runs)
    common = first
    own = [first]
    for run, ids in zip(runs[1:], others, strict=True):
        if _are_equal(ids, common):
            continue
        own.append(ids)
        missing = common[~common.isin(ids)]
        foreign = ids[~ids.isin(common)]
        if len(missing) or len(foreign):
            if not intersect:
                differ = [
                    f"{len(ids)} images only in the {which} ({listed(ids)})"
                    for which, ids in (("first", missing), ("second", foreign))
                    if len(ids)
                ]
                raise UserError(
                    f"{runs[0].path} and {run.path}: different test sets, {', '.join(differ)}; pass"
                    " --intersect to blend the common ones"
                )
            common = common[common.isin(ids)]
    if not len(common):
        raise UserError(
            f"{listed(run.path for run in runs)}: no test image is in all of them; blend other runs"
        )
    return common.reset_index(drop=True), own


def _rows(run: Run, *, keep: bool = True) -> tuple[pd.DataFrame, np.ndarray | None]:
    """Return a run's rows, and their logits if these are to be kept in memory."""
    if keep:
        return run.table_and_logits("oof", ROW_COLUMNS)
    return run.table("oof", ROW_COLUMNS), None


def align(runs: Sequence[Run], *, intersect: bool = False) -> Aligned:
    """Join runs of one data set, and check that images, original labels, groups and classes agree.

    Parameters
    ----------
    runs
        Finished runs of the same images.
    intersect
        Let test sets differ, and keep the test images that all runs have.

    Returns
    -------
    Aligned
        With as many repeats as the run with most repeats, whose folds are used where runs differ.
        Labels are the corrected ones if all corrected runs have the same corrections.

    Raises
    ------
    UserError
        If runs do not agree; the message has the runs and the first images that differ.
    """
    first = runs[0]
    longest = max(runs, key=lambda run: run.info["num_repeats"])
    of_longest = _rows(longest)
    checked = of_longest[0]
    rows = _in_order(checked)
    size = int((rows["repeat"] == 0).sum())
    bytes_of_one = 4 * len(rows) * len(longest.classes)
    keep = bytes_of_one * len(runs) <= MOST_KEPT
    same_folds = True
    orders = []
    kept = []
    corrected = []
    joined = _join(longest, checked, longest, rows, size)
    tables = ahead(
        lambda run: of_longest if run is longest else _rows(run, keep=keep),
        runs,
        num_threads=threads_for(bytes_of_one),
    )
    for run, (own, logits_NC) in zip(runs, tables, strict=True):
        _check_classes(run, first)
        # Most runs have the same rows as the longest one, and need no check of their own.
        order_N, fold_N = joined if own.equals(checked) else _join(run, own, longest, rows, size)
        same_folds &= bool((fold_N == rows["fold"].to_numpy()).all())
        labels = own["label"].to_numpy()[slice(size) if order_N is None else order_N[:size]]
        if (labels != rows["label_raw"].to_numpy()[:size]).any():
            corrected.append(labels)
        orders.append(order_N)
        kept.append(_ordered(logits_NC, order_N) if keep and logits_NC is not None else None)
    # If all corrected members have the same corrections, these hold for all. If not, none do.
    one_way = bool(corrected) and all((one == corrected[0]).all() for one in corrected)
    labels = corrected[0] if one_way else rows["label_raw"].to_numpy()[:size]
    rows = rows.assign(label=np.tile(labels, len(rows) // size))
    test_ids, own_ids = _test_ids(runs, intersect=intersect)
    left_out = (
        len(pd.concat(own_ids).drop_duplicates()) - len(test_ids) if test_ids is not None else 0
    )
    members = tuple(
        Member(run, order_N, test_ids, left_out == 0, logits_NC)
        for run, order_N, logits_NC in zip(runs, orders, kept, strict=True)
    )
    return Aligned(
        members, rows, same_folds, len(corrected) > 0 and not one_way, test_ids, left_out
    )
