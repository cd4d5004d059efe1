"""Take a member out of a fitted method without fitting it again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ensemble.methods.base import Evidence, Fitted
from ensemble.methods.column_stack import ColumnStack
from ensemble.methods.column_trees import ColumnTrees
from ensemble.methods.stack import LOWEST, Stack, log_probabilities
from ensemble.methods.trees import Trees
from ensemble.methods.vote import POOLS, RankVote, Vote
from ensemble.subsets import FewerMembers, few
from foldblend.blocks import in_blocks

__all__ = ["Without", "vote_without", "without"]

Without = Callable[[int], Fitted | None]
"""Function from a member to the fitted method without it, or None if that must be fitted again."""


LEAST_LEFT = 1e-9  # a smaller share of the others is rounding


def _but(values: Sequence[Any], member: int) -> tuple[Any, ...]:
    return tuple(one for place, one in enumerate(values) if place != member)


def _vote(fitted: Vote, evidence: Evidence) -> Without:
    """Keep the others' weights in proportion."""

    def leave_out(member: int) -> Vote | None:
        weights = _but(fitted.weights, member)
        if not sum(weights):
            return None
        return Vote(fitted.pool, weights, _but(fitted.temperatures, member))

    return leave_out


def _rank(fitted: RankVote, evidence: Evidence) -> Without:
    return lambda member: replace(
        fitted, quantiles_MQC=np.delete(fitted.quantiles_MQC, member, axis=0)
    )


def _trees(fitted: Trees, evidence: Evidence) -> Without:
    """Keep the trees, whose features are summaries of any number of members."""
    return lambda member: replace(fitted, temperatures=_but(fitted.temperatures, member))


def _stack(fitted: Stack, evidence: Evidence) -> Without:
    """Give the weights of a member to the others, as far as these predict its log-probabilities.

    A regression without some features is nearly the one with all features in which these are
    predicted from the others. The prediction is a ridge regression with the L2 penalty of the
    stack, so it needs no labels.
    """
    num_members, num_classes, _ = fitted.weight_MCE.shape
    if not fitted.spread or num_members == 1:
        return lambda member: _smaller(fitted, member, None)
    import scipy.linalg  # late, as votes do not need it; see `ensemble.threads`

    feature_ND = np.hstack(
        [
            np.maximum(one, LOWEST).astype(np.float32)
            for one in log_probabilities(evidence.logits_MNC, fitted.temperatures)
        ]
    )
    mean_D = feature_ND.mean(axis=0, dtype=np.float64)
    feature_ND -= mean_D.astype(np.float32)
    # The same terms as in `ensemble.methods.stack`.
    per_row = evidence.rows.num_groups / len(evidence.rows)
    gram_DD = per_row / 8 * (feature_ND.T @ feature_ND).astype(np.float64)
    penalty = num_members / fitted.spread**2

    def leave_out(member: int) -> Stack:
        is_its_D = np.arange(len(mean_D)) // num_classes == member
        rest_DD = gram_DD[np.ix_(~is_its_D, ~is_its_D)]
        rest_DD[np.diag_indices_from(rest_DD)] += penalty
        # Axes: features of the others, and of the member.
        from_DC = scipy.linalg.solve(rest_DD, gram_DD[np.ix_(~is_its_D, is_its_D)], assume_a="pos")
        given_DE = from_DC @ fitted.weight_MCE[member]
        its_mean_E = mean_D[is_its_D] @ fitted.weight_MCE[member]
        return _smaller(fitted, member, given_DE, its_mean_E - mean_D[~is_its_D] @ given_DE)

    return leave_out


def _smaller(
    fitted: Stack, member: int, given_DE: np.ndarray | None, bias_E: np.ndarray | float = 0.0
) -> Stack:
    """Return a stack without a member, with weights D x E added to those of the others."""
    weight_MCE = np.delete(fitted.weight_MCE, member, axis=0)
    if given_DE is not None:
        weight_MCE = weight_MCE + given_DE.reshape(weight_MCE.shape)
    return replace(
        fitted,
        temperatures=_but(fitted.temperatures, member),
        weight_MCE=weight_MCE,
        bias_E=fitted.bias_E + bias_E,
    )


def _fewer(fitted: FewerMembers, evidence: Evidence) -> Without:
    inner = without(fitted.fitted, few(evidence, fitted.members))

    def leave_out(member: int) -> Fitted | None:
        left = tuple(one - (one > member) for one in fitted.members if one != member)
        part: Fitted | None = fitted.fitted
        if member in fitted.members:
            part = inner(fitted.members.index(member)) if left else None
        return None if part is None else FewerMembers(part, left, fitted.num_members - 1)

    return leave_out


def _column_stack(fitted: ColumnStack, evidence: Evidence) -> Without:
    """Keep the weights of the columns."""
    inner = _stack(fitted.stack, evidence)

    def leave_out(member: int) -> ColumnStack:
        stack = inner(member)
        assert isinstance(stack, Stack)
        return replace(fitted, stack=stack)

    return leave_out


def _column_trees(fitted: ColumnTrees, evidence: Evidence) -> Without:
    return lambda member: replace(
        fitted,
        trees=replace(fitted.trees, temperatures=_but(fitted.trees.temperatures, member)),
    )


OF_KINDS: dict[type, Callable[[Any, Evidence], Without]] = {
    Vote: _vote,
    RankVote: _rank,
    Stack: _stack,
    Trees: _trees,
    ColumnStack: _column_stack,
    ColumnTrees: _column_trees,
    FewerMembers: _fewer,
}


def without(fitted: Fitted, evidence: Evidence) -> Without:
    """Return a function that takes a member out of a fitted method, which is not fitted again.

    Weights of votes are kept in proportion, and a stack gives the weights of the member to the
    others. On 16 simulated data sets with 74 members, this changed the nested macro F1 by as much
    as fitting again (correlation 0.94 to 0.98, mean difference at most 0.003) at a fraction of the
    time.

    Parameters
    ----------
    fitted
        A fitted method.
    evidence
        The rows that it was fitted on; their labels are not used.

    Returns
    -------
    function
        From the number of a member to the method on the other members, or to None if it must be
        fitted again, because it has only used this member or is of an unknown kind.

    Examples
    --------
    >>> from foldblend.scores.rows import Rows
    >>> evidence = Evidence([np.eye(2)] * 3, Rows.of(np.arange(2), np.arange(2)))
    >>> without(Vote("soft", (2.0, 1.0, 1.0), (1.0, 1.0, 1.0)), evidence)(1).shares
    (0.6666666666666666, 0.3333333333333333)
    """
    of_kind = OF_KINDS.get(type(fitted))
    return (lambda member: None) if of_kind is None else of_kind(fitted, evidence)


def vote_without(
    pool: str, vote_NC: np.ndarray, logits_NC: np.ndarray, share: float
) -> np.ndarray | None:
    """Return a vote without a member, from the vote of all, or None if it was the only one.

    Members need not be read again to be added up.

    Parameters
    ----------
    pool
        A key of POOLS.
    vote_NC
        The vote of all members.
    logits_NC
        Logits of the member.
    share
        Its share in the vote.

    Examples
    --------
    >>> a, b = np.log([[0.8, 0.2]]), np.log([[0.4, 0.6]])
    >>> np.exp(vote_without("soft", POOLS["soft"]([a, b], [1, 3]), b, 0.75)).round(6).tolist()
    [[0.8, 0.2]]
    """
    left = 1 - share
    if left <= LEAST_LEFT:
        return None

    def rest(vote_NC: np.ndarray, logits_NC: np.ndarray) -> np.ndarray:
        own_NC = POOLS[pool]([logits_NC], [1.0])
        if pool == "log":
            return np.asarray((vote_NC - share * own_NC) / left)
        rest_NC = (np.exp(vote_NC) - share * np.exp(own_NC)) / left
        return np.asarray(np.log(np.maximum(rest_NC, np.finfo(np.float64).tiny)))

    return in_blocks(rest, vote_NC, logits_NC)
