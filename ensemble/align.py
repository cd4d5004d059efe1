"""The rows of several runs as one table: joined on image ids, checked to be of the same images,
read as needed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd

from foldblend.errors import UserError, listed
from foldblend.runs.check import ROW_COLUMNS, check_rows, check_rows_once
from foldblend.runs.folder import logit_columns, read_table
from foldblend.runs.run import Run

__all__ = ["Aligned", "Member", "align"]

MOST_KEPT = 2**29  # bytes of out-of-fold logits, up to which those of all members stay in memory
READERS = 2  # threads that read ahead


@dataclass(frozen=True)
class Member:
    """A run, and where the rows of a blend lie in its tables; None where they lie in the same
    order.
    """

    run: Run
    oof_order_N: np.ndarray | None
    test_ids: pd.Series | None
    all_test_ids: bool
    """Whether these are all that its tables may hold."""

    def _read(self, name: str) -> tuple[pd.Series, np.ndarray]:
        """Return a table's ids and logits, N x C float32. Raises UserError for logits that are no
        finite numbers.
        """
        path = self.run.path / f"{name}.parquet"
        columns = logit_columns(len(self.run.classes))
        table = read_table(path, columns=["image_id", *columns])
        try:
            logits_NC = np.stack([table[column].to_numpy(np.float32) for column in columns], axis=1)
        except (TypeError, ValueError):
            raise UserError(f"{path}: its logits are no numbers; run it again") from None
        finite_N = np.isfinite(logits_NC).all(axis=1)
        if not finite_N.all():
            bad = listed(table["image_id"][~finite_N])
            raise UserError(
                f"{path}: logits of {bad} are not finite; leave the run out or run it again"
            )
        return table["image_id"], logits_NC

    def read_oof(self) -> np.ndarray:
        """Return the out-of-fold logits, N x C float32."""
        logits_NC = self._read("oof")[1]
        return logits_NC if self.oof_order_N is None else logits_NC[self.oof_order_N]

    def read_test(self, fold: int | None) -> np.ndarray:
        """Return the test logits of one fold's models, or the mean over folds, N x C float32,
        joined on ids.
        """
        assert self.test_ids is not None
        name = "test" if fold is None else f"test_fold_{fold}"
        ids, logits_NC = self._read(name)
        if len(ids) == len(self.test_ids) and (ids.to_numpy() == self.test_ids.to_numpy()).all():
            return logits_NC
        expected = (
            self.test_ids
            if self.all_test_ids
            else pd.concat([self.test_ids, ids]).drop_duplicates()
        )
        check_rows_once(ids, expected, f"{self.run.path}/{name}.parquet")
        return logits_NC[_order(ids, self.test_ids)]


@dataclass(frozen=True)
class Aligned:
    """Members of a blend with the rows they have in common."""

    members: tuple[Member, ...]
    rows: pd.DataFrame
    """The columns of oof.parquet before the logits, sorted by (repeat, image_id)."""
    same_folds: bool
    corrections_differ: bool
    """Whether members were corrected in several ways, so that labels are those of the files."""
    test_ids: pd.Series | None
    """Images of the test set, or None where a member has none."""
    num_left_out: int
    """Test images that not all members have."""

    @property
    def runs(self) -> list[Run]:
        return [member.run for member in self.members]

    @functools.cached_property
    def _kept(self) -> list[np.ndarray] | None:
        size = 4 * len(self.rows) * len(self.members) * len(self.runs[0].classes)
        return list(_ahead(self.members, Member.read_oof)) if size <= MOST_KEPT else None

    def oof(self) -> Iterator[np.ndarray]:
        """Yield the out-of-fold logits of each member, N x C float32: from disk where they are too
        many to keep.
        """
        return iter(self._kept) if self._kept is not None else _ahead(self.members, Member.read_oof)

    @property
    def tests_are_means(self) -> bool:
        """Whether a member's test logits, as they are read, are means over folds: smoother than any
        one model's.
        """
        read = self.test_ids is not None
        return read and (
            self.test_folds == [None] or any(run.info.get("test_is_mean") for run in self.runs)
        )

    @property
    def test_folds(self) -> list[int | None]:
        """The folds whose models are blended each by themselves; [None] for means where members
        differ in number.
        """
        num_folds = {run.info["num_test_folds"] for run in self.runs}
        if self.test_ids is None:
            return []
        return [None] if len(num_folds) > 1 else list(range(num_folds.pop()))

    def test(self, fold: int | None) -> Iterator[np.ndarray]:
        """Yield the test logits of each member's models of a fold, N x C float32."""
        return _ahead(self.members, lambda member: member.read_test(fold))


def _ahead(members: Sequence[Member], read: Callable[[Member], np.ndarray]) -> Iterator[np.ndarray]:
    """Yield what is read of each member, a few ahead."""
    with ThreadPoolExecutor(READERS) as pool:
        waiting = [pool.submit(read, member) for member in members[: READERS + 1]]
        for place in range(len(members)):
            yield waiting.pop(0).result()
            if place + READERS + 1 < len(members):
                waiting.append(pool.submit(read, members[place + READERS + 1]))


def _keys(run: Run) -> pd.DataFrame:
    """Return a run's rows without logits."""
    return read_table(run.path / "oof.parquet", columns=ROW_COLUMNS)


def _order(ids: pd.Series, wanted: pd.Series) -> np.ndarray:
    """Return where each wanted id lies; -1 where it does not."""
    if len(ids) == len(wanted) and (ids.to_numpy() == wanted.to_numpy()).all():
        return np.arange(len(ids))
    return np.asarray(pd.Index(ids).get_indexer(pd.Index(wanted)))


def _oof_order(rows: pd.DataFrame, blended: pd.DataFrame) -> np.ndarray:
    """Return where the blend's rows lie among a member's, -1 for nowhere; fewer repeats serve again
    from the first.
    """
    num_repeats = int(rows["repeat"].max()) + 1
    orders = []
    for repeat in range(int(blended["repeat"].max()) + 1):
        own_N = np.flatnonzero(rows["repeat"] == repeat % num_repeats)
        wanted = blended.loc[blended["repeat"] == repeat, "image_id"]
        at_N = _order(rows["image_id"].iloc[own_N], wanted)
        orders.append(np.where(at_N >= 0, own_N[at_N], -1))
    return np.concatenate(orders)


def _unless_equal(order_N: np.ndarray) -> np.ndarray | None:
    return None if (order_N == np.arange(len(order_N))).all() else order_N


def _check_classes(run: Run, first: Run) -> None:
    if run.classes != first.classes:
        odd = listed(sorted(set(run.classes) ^ set(first.classes))) or "their order"
        raise UserError(
            f"{first.path} and {run.path}: different classes ({odd}); blend runs of equal classes"
            " only"
        )


def _check_rows(run: Run, rows: pd.DataFrame, first: Run, reference: pd.DataFrame) -> None:
    """Raise UserError unless rows that were joined are of equal raw labels and groups."""
    for column, what in (("label_raw", "label"), ("group", "group")):
        differs = np.flatnonzero(rows[column].to_numpy() != reference[column].to_numpy())
        if len(differs):
            place = differs[0]
            image, *values = (
                table.iloc[place]
                for table in (reference["image_id"], reference[column], rows[column])
            )
            raise UserError(
                f"{first.path} and {run.path}: {len(differs)} images differ in {what}, first"
                f" {image} ({values[0]} and {values[1]}); run one of them again"
            )


def _join(
    run: Run, own: pd.DataFrame, longest: Run, rows: pd.DataFrame, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return where the blend's rows lie among a run's, and their folds there. Raises UserError
    where they differ.
    """
    check_rows(run, own)
    order_N = _oof_order(own, rows)
    ids = own.loc[own["repeat"] == 0, "image_id"]
    if len(ids) != size or (order_N < 0).any():
        odd = listed(sorted(set(ids) ^ set(rows["image_id"])))
        raise UserError(
            f"{longest.path} and {run.path}: different images ({odd}); blend runs of equal data"
            " only"
        )
    joined = own.iloc[order_N]
    _check_rows(run, joined, longest, rows)
    return order_N, joined["fold"].to_numpy()


def _test_ids(runs: Sequence[Run], *, intersect: bool) -> tuple[pd.Series | None, list[pd.Series]]:
    """Return the test images to be blended, in the first run's order, and each run's own; None
    without test sets.
    """
    if not all(run.info["has_test"] for run in runs):
        return None, []
    own = [read_table(run.path / "test.parquet", columns=["image_id"])["image_id"] for run in runs]
    common = own[0]
    for run, ids in zip(runs, own, strict=True):
        if not ids.is_unique:
            twice = ids[ids.duplicated()]
            raise UserError(
                f"{run.path}/test.parquet: {len(twice)} doubled ({listed(twice)}); run it again"
            )
        if len(ids) == len(common) and (ids.to_numpy() == common.to_numpy()).all():
            continue
        missing = common[~common.isin(ids)]
        foreign = ids[~ids.isin(common)]
        if len(missing) or len(foreign):
            if not intersect:
                raise UserError(
                    f"{runs[0].path} and {run.path}: different test sets, {len(missing)} images"
                    f" only in the first ({listed(missing)}), {len(foreign)} only in the second"
                    f" ({listed(foreign)}); pass --intersect to blend what is common"
                )
            common = common[common.isin(ids)]
    if not len(common):
        raise UserError(
            f"{listed(run.path for run in runs)}: no test image is in all of them; name other runs"
        )
    return common.reset_index(drop=True), own


def align(runs: Sequence[Run], *, intersect: bool = False) -> Aligned:
    """Return runs of one data set, checked for equal images, raw labels, groups and classes.

    There are as many repeats as the run with most of them has, whose folds are shown where runs
    differ in them. Labels are the corrected ones if runs were corrected in one way. With
    `intersect`, test sets may differ. Raises UserError naming the runs and the first images in
    which they differ.
    """
    first = runs[0]
    longest = max(runs, key=lambda run: run.info["num_repeats"])
    checked = _keys(longest)
    rows = checked.sort_values(["repeat", "image_id"], ignore_index=True)[[*ROW_COLUMNS]]
    size = int((rows["repeat"] == 0).sum())
    same_folds = True
    orders = []
    corrected = []
    joined = _join(longest, checked, longest, rows, size)
    for run in runs:
        _check_classes(run, first)
        own = checked if run is longest else _keys(run)
        # Runs of one command line have equal rows, which need no second look.
        order_N, fold_N = joined if own.equals(checked) else _join(run, own, longest, rows, size)
        same_folds &= bool((fold_N == rows["fold"].to_numpy()).all())
        label_P = own["label"].to_numpy()[order_N[:size]]
        if (label_P != rows["label_raw"].to_numpy()[:size]).any():
            corrected.append(label_P)
        orders.append(_unless_equal(order_N))
    # One list of corrections among the members is everyone's; of several, none.
    one_way = bool(corrected) and all((one == corrected[0]).all() for one in corrected)
    label_P = corrected[0] if one_way else rows["label_raw"].to_numpy()[:size]
    rows["label"] = np.tile(label_P, len(rows) // size)
    test_ids, own_ids = _test_ids(runs, intersect=intersect)
    left_out = (
        len(pd.concat(own_ids).drop_duplicates()) - len(test_ids) if test_ids is not None else 0
    )
    members = tuple(
        Member(run, order_N, test_ids, left_out == 0)
        for run, order_N in zip(runs, orders, strict=True)
    )
    return Aligned(
        members, rows, same_folds, len(corrected) > 0 and not one_way, test_ids, left_out
    )
