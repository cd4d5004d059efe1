"""Which methods a blend may try on its members, and what marks its score as too high."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from ensemble.align import Aligned
from ensemble.auto import SIMPLE
from ensemble.config import AUTO, BlendConfig, parse_budget
from ensemble.drop import dropping
from ensemble.methods.base import Method
from ensemble.methods.registry import METHODS, WITH_COLUMNS, WITHOUT, method_of, weighted_vote
from ensemble.methods.vote import POOLS
from ensemble.subsets import within
from foldblend.errors import UserError, listed

__all__ = [
    "choosing_members",
    "methods_to_try",
    "num_parts",
    "optimism_marks",
    "streams",
    "why_not_fit",
]


def why_not_fit(aligned: Aligned, config: BlendConfig) -> str | None:
    """Return why methods must not be fitted on these members' rows, or None if they may."""
    if not aligned.same_folds and not config.allow_different_folds:
        return (
            "members have different folds, so a method fitted on them would use labels of held-out"
            f" {aligned.groups}; vote (--method soft), or pass --allow-different-folds"
        )
    if aligned.imported_means:
        return (
            f"test predictions of {listed(aligned.imported_means)} were imported as their mean over"
            " folds, which is smoother than the single models that a method is fitted on; vote"
            " (--method soft), leave it out, or import it again with one test file per fold"
        )
    if aligned.test_folds == [None]:
        return (
            "members differ in the number of test folds, so their test logits are means over folds,"
            " which are smoother than the single models that a method is fitted on; vote (--method"
            " soft), or blend only runs with equally many folds"
        )
    if aligned.tests_are_means:
        means = listed(run.name for run in aligned.runs if run.info.get("test_is_mean"))
        return (
            f"test logits of {means} are means over folds, which are smoother than the single"
            " models that a method is fitted on; vote (--method soft)"
        )
    if num_parts(aligned) < 2:
        return (
            f"members have too few folds or {aligned.groups} for cross-fitting; vote (--method"
            " soft)"
        )
    return None


def optimism_marks(aligned: Aligned, *, fits: bool) -> dict[str, bool]:
    """Return whether the score of a blend is optimistic, by kind: leaks, optimistic.

    A blend inherits the marks of its members. One that `fits` on members of different folds leaks.
    """
    return {
        "leaks": (
            any(run.info["leaks"] for run in aligned.runs) or (fits and not aligned.same_folds)
        ),
        "optimistic": any(run.info.get("optimistic") for run in aligned.runs),
    }


def num_parts(aligned: Aligned) -> int:
    """Return the number of parts into which groups can be dealt for cross-fitting."""
    rows = aligned.coded_rows
    parts = pd.DataFrame({"repeat": rows.repeat_N, "fold": rows.fold_N, "group": rows.group_N})
    return int(parts.groupby("repeat").nunique().to_numpy().min())


def _with_columns() -> dict[str, Method]:
    """Return all methods, each with columns after the one that it is without them."""
    found = {}
    for name, method in METHODS.items():
        found[name] = method
        found |= {one: WITH_COLUMNS[one] for one, base in WITHOUT.items() if base == name}
    return found


def methods_to_try(
    config: BlendConfig, *, why_not: str | None, num_members: int, only_soft: bool = False
) -> dict[str, Method]:
    """Return the methods that a blend uses or chooses from.

    Parameters
    ----------
    config
        The settings of the blend.
    why_not
        Why nothing may be fitted, or None. Then only votes are returned.
    num_members
        Number of members.
    only_soft
        Whether --method auto is the soft vote, so that not even votes are weighted by their scores.

    Raises
    ------
    UserError
        If the settings ask for a method that must not be fitted.
    """
    name = config.method
    if config.weights is not None:
        name = "soft" if name == AUTO else name
        return {name: replace(METHODS[name], fit=weighted_vote(name, config.weights))}
    asked = f"--budget {config.budget}" if config.budget is not None else f"--method {name}"
    drops = config.drop_harmful and num_members > 1
    asked = "--drop-harmful" if drops else asked
    asked = f"--meta-cols {config.meta_cols}" if config.meta_cols is not None else asked
    chooses = config.budget is not None or drops or config.meta_cols is not None
    if why_not is not None and (chooses or (name != AUTO and method_of(name).fits)):
        raise UserError(f"{asked}: {why_not}")
    if name != AUTO or only_soft:
        name = "soft" if name == AUTO else name
        return {name: method_of(name)}
    known = dict(METHODS) if config.meta_cols is None else _with_columns()
    found = {key: one for key, one in known.items() if config.thorough or not one.thorough}
    # The best single member is no method of the earlier versions, whose choice "simple" keeps.
    if config.rule == SIMPLE:
        del found["single"]
    # Methods that only weight members against each other change nothing for a single member.
    if num_members == 1:
        useful = ("soft", "tempered", "stack", "trees", *WITH_COLUMNS)
        found = {key: one for key, one in found.items() if key in useful}
    return {key: one for key, one in found.items() if why_not is None or not one.fits}


def streams(config: BlendConfig, methods: Mapping[str, Method]) -> bool:
    """Return whether nothing is fitted or chosen.

    Then members are read one after the other, and memory does not grow with their number.
    """
    given = config.method != AUTO or config.weights is not None
    chooses = config.budget is not None or config.drop_harmful
    return given and set(methods) <= set(POOLS) and not chooses


def choosing_members(
    methods: Mapping[str, Method], config: BlendConfig, cost_M: np.ndarray
) -> dict[str, Method]:
    """Return the methods with the choice of members that the settings ask for."""
    found = dict(methods)
    if config.drop_harmful and len(cost_M) > 1:
        found = {name: dropping(one) for name, one in found.items()}
    if config.budget is not None:
        budget = parse_budget(config.budget)
        found = {name: within(one, cost_M, budget) for name, one in found.items()}
    return found
