"""Scores by group: the predictions for a group's images become one prediction for the group."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from foldblend.attributes import Attribute
from foldblend.blocks import in_blocks
from foldblend.errors import UserError, did_you_mean, require
from foldblend.scores.metrics import Metric
from foldblend.scores.rows import Rows

__all__ = [
    "GROUP",
    "IMAGE",
    "MEAN",
    "POOLS",
    "TINY",
    "attribute_proba",
    "by_group",
    "check_one_label",
    "check_pool",
    "check_pool_is_used",
    "chosen_pool",
    "group_codes",
    "metric_by_group",
    "mixed_group",
    "pooled",
    "scored_by_group",
    "suited",
]

IMAGE: Literal["image"] = "image"
GROUP: Literal["group"] = "group"
MEAN = "mean"
GROUPS_AT_ONCE = 2**17
TINY = float(np.finfo(np.float64).tiny)

# Pools get log-probabilities N x C that are sorted by group, and the first row of each group.
Pool = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _mean(log_NC: np.ndarray, first_G: np.ndarray) -> np.ndarray:
    """Return the mean of the log-probabilities of each group's images, G x C.

    It equals the mean of the logits up to a constant, so the probabilities are the same.
    """
    size_G = np.diff(np.r_[first_G, len(log_NC)])
    return np.asarray(np.add.reduceat(log_NC, first_G, axis=0) / size_G[:, None])


def _max(log_NC: np.ndarray, first_G: np.ndarray) -> np.ndarray:
    """Return the log-probabilities of each group by its most suspicious image, G x C.

    The first class means "nothing found". A group has it only as far as the image with the least
    probability of it has; the other classes share the rest by their largest probabilities.
    """
    nothing_G = np.minimum.reduceat(log_NC[:, 0], first_G)
    largest_GC = np.maximum.reduceat(log_NC, first_G, axis=0)
    return _first_and_rest(nothing_G, largest_GC)


def _noisy_or(log_NC: np.ndarray, first_G: np.ndarray) -> np.ndarray:
    """Return the log-probabilities that any image of a group shows a class, G x C.

    Images are taken as independent: a group has the first class, "nothing found", only if all its
    images have. The other classes share the rest by the probability that any image has them.
    """
    nothing_G = np.add.reduceat(log_NC[:, 0], first_G)
    missing_NC = np.log1p(-np.minimum(np.exp(log_NC), 1 - np.finfo(np.float64).eps))
    any_GC = np.log(-np.expm1(np.minimum(np.add.reduceat(missing_NC, first_G, axis=0), -TINY)))
    return _first_and_rest(nothing_G, any_GC)


def _first_and_rest(nothing_G: np.ndarray, log_GC: np.ndarray) -> np.ndarray:
    """Return log-probabilities: `nothing_G` for the first class, the others share the rest."""
    rest_G = np.log(np.maximum(-np.expm1(nothing_G), TINY))
    others_GC = log_GC[:, 1:]
    total_G = np.logaddexp.reduce(others_GC, axis=1)
    return np.column_stack([nothing_G, rest_G[:, None] + others_GC - total_G[:, None]])


POOLS: dict[str, Pool] = {MEAN: _mean, "max": _max, "noisy-or": _noisy_or}
"""Functions that make one prediction of a group's images, by name.

They take log-probabilities N x C, sorted by group, and the number of each group's first row.
"""


def check_pool(name: str) -> None:
    """Raise UserError for an unknown --group-pool and suggest similar names."""
    if name not in POOLS:
        near = did_you_mean(name, POOLS)
        raise UserError(f"--group-pool {name}: unknown{near}; choose from {', '.join(POOLS)}")


def check_pool_is_used(name: str | None, *, by_group: bool) -> None:
    """Raise UserError for a --group-pool other than the default if nothing is scored by group."""
    require(
        by_group or name in (None, MEAN),
        f"--group-pool {name}: has no effect without --score-by group",
    )


def metric_by_group(metric: Metric, pool: str = MEAN, group_name: str = "group") -> Metric:
    """Return the metric computed over groups: their images' predictions are pooled first.

    Parameters
    ----------
    metric
        The metric by image.
    pool
        A key of POOLS.
    group_name
        What a group is, in the singular, for the title.

    Examples
    --------
    >>> from foldblend.scores.metrics import METRICS
    >>> metric_by_group(METRICS["accuracy"], group_name="patient").title
    'accuracy by patient'
    """
    return dataclasses.replace(metric, pool=pool, title=f"{metric.title} by {group_name}")


def scored_by_group(pool: str) -> dict[str, str]:
    """Return the keys of run.json of a run that is scored by group; others have neither."""
    return {"score_by": GROUP, "group_pool": pool}


def _common_pool(infos: Sequence[Mapping[str, Any]]) -> str:
    """Return how all runs pool the images of a group, or "" if any is scored by image.

    Runs with different pools get the mean.
    """
    if any(info.get("score_by", IMAGE) == IMAGE for info in infos):
        return ""
    pools = {info.get("group_pool", MEAN) for info in infos}
    return pools.pop() if len(pools) == 1 else MEAN


def chosen_pool(
    infos: Sequence[Mapping[str, Any]], score_by: str | None, group_pool: str | None
) -> str:
    """Return how groups' images are pooled for the score of runs, or "" for a score by image.

    Parameters
    ----------
    infos
        The run.json of each run. If all are scored by group, that is the default.
    score_by, group_pool
        Values of --score-by and --group-pool, or None for the default.

    Raises UserError for a pool where nothing is scored by group.

    Examples
    --------
    >>> by_group = {"score_by": "group", "group_pool": "max"}
    >>> chosen_pool([by_group, by_group], None, None), chosen_pool([by_group, {}], None, None)
    ('max', '')
    """
    common = _common_pool(infos)
    is_by_group = score_by == GROUP or (score_by is None and bool(common))
    check_pool_is_used(group_pool, by_group=is_by_group)
    return (group_pool or common or MEAN) if is_by_group else ""


def _starts(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Return the order of rows by repeat and group, N, and the first place of each group there."""
    code_N = np.unique(rows.group_N, return_inverse=True)[1]
    order_N = np.lexsort([code_N, rows.repeat_N])
    repeat_N = rows.repeat_N[order_N]
    code_N = code_N[order_N]
    is_first_N = np.r_[True, (code_N[1:] != code_N[:-1]) | (repeat_N[1:] != repeat_N[:-1])]
    return order_N, np.flatnonzero(is_first_N)


def mixed_group(rows: Rows) -> str | None:
    """Return the first group that has images of two labels, or None.

    Examples
    --------
    >>> mixed_group(Rows.of(np.array([0, 0, 1, 0]), np.array(["a", "a", "b", "b"])))
    'b'
    """
    if not len(rows):
        return None
    order_N, first_G = _starts(rows)
    label_N = rows.label_N[order_N]
    differs_G = np.maximum.reduceat(label_N, first_G) != np.minimum.reduceat(label_N, first_G)
    if not differs_G.any():
        return None
    return str(rows.group_N[order_N[first_G[differs_G.argmax()]]])


def check_one_label(rows: Rows) -> None:
    """Raise UserError, naming a group, if its images differ in their class (--score-by group)."""
    name = mixed_group(rows)
    if name is not None:
        raise UserError(
            f"--score-by group: {rows.group_name} {name} has images of more than one class, so"
            f" there is no score by {rows.group_name}; pass --score-by image (every report scores"
            " attributes with one value per group by group, too)"
        )


def by_group(rows: Rows, proba_NC: np.ndarray, pool: str = MEAN) -> tuple[Rows, np.ndarray]:
    """Return one row per group (and repeat), and the probabilities of the groups.

    Parameters
    ----------
    rows
        Labels, groups, repeats and folds of N images. Groups are pooled within each repeat. Where
        a group's labels differ, the first one counts (see `check_one_label`).
    proba_NC
        Class probabilities of the images.
    pool
        A key of POOLS.

    Returns
    -------
    tuple[Rows, np.ndarray]
        Rows of the G groups, sorted by repeat and group, and their probabilities G x C, float64.

    Examples
    --------
    >>> rows = Rows.of(np.array([0, 1, 1]), np.array(["a", "b", "b"]))
    >>> proba_NC = np.array([[0.6, 0.4], [0.6, 0.4], [0.1, 0.9]])
    >>> groups, proba_GC = by_group(rows, proba_NC)
    >>> groups.group_N.tolist(), proba_GC.round(2).tolist()
    (['a', 'b'], [[0.6, 0.4], [0.29, 0.71]])
    """
    order_N, first_G = _starts(rows)
    end_G = np.append(first_G[1:], len(rows))

    def of_groups(first_G: np.ndarray, end_G: np.ndarray) -> np.ndarray:
        these = order_N[first_G[0] : end_G[-1]]
        log_NC = np.log(np.maximum(proba_NC[these].astype(np.float64), TINY))
        log_GC = POOLS[pool](log_NC, first_G - first_G[0])
        log_GC -= log_GC.max(axis=1, keepdims=True)
        proba_GC = np.exp(log_GC)
        proba_GC /= proba_GC.sum(axis=1, keepdims=True)
        return proba_GC

    return rows.take(order_N[first_G]), in_blocks(of_groups, first_G, end_G, size=GROUPS_AT_ONCE)


def group_codes(rows: Rows) -> np.ndarray:
    """Return the number of each image's row among those of `by_group`, N.

    Examples
    --------
    >>> group_codes(Rows.of(np.array([1, 0, 1]), np.array(["b", "a", "b"]))).tolist()
    [1, 0, 1]
    """
    order_N, first_G = _starts(rows)
    code_N = np.empty(len(rows), np.int64)
    code_N[order_N] = np.repeat(np.arange(len(first_G)), np.diff(np.r_[first_G, len(rows)]))
    return code_N


def pooled(metric: Metric, rows: Rows, proba_NC: np.ndarray) -> tuple[Rows, np.ndarray]:
    """Return what a metric is computed of: groups for a metric by group, else the images."""
    return by_group(rows, proba_NC, metric.pool) if metric.pool else (rows, proba_NC)


def suited(metric: Metric, rows: Rows) -> Metric:
    """Return the metric, or the one by image where images of a group differ in their label."""
    return metric.by_image if metric.pool and mixed_group(rows) is not None else metric


def attribute_proba(attribute: Attribute, proba_NC: np.ndarray) -> np.ndarray:
    """Return the probability of each value of an attribute, N x values: the sum over its classes.

    Examples
    --------
    >>> pet = Attribute(name="pet", values=("no", "yes"), of_class=(1, 1, 0))
    >>> attribute_proba(pet, np.array([[0.2, 0.3, 0.5]])).tolist()
    [[0.5, 0.5]]
    """
    return proba_NC @ np.eye(len(attribute.values))[np.asarray(attribute.of_class)]
