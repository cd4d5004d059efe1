"""Methods of blending and merges of views as operations on tensors, from which graphs are made.

Each function mirrors the one on arrays that has its name, in float64. The order of sums may differ,
so the last bits do too.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ensemble.methods.mixture import Mixture
from ensemble.methods.stack import LOWEST, Stack
from ensemble.methods.trees import Trees
from ensemble.methods.vote import TIE, RankVote, Vote
from ensemble.parameters import Parameters
from ensemble.subsets import FewerMembers
from foldblend.errors import UserError, listed
from pipeline.predict.tree import Augmented, Blend, Leaf, Node
from tta.policy import Policy

__all__ = ["Seen", "check_node", "mean_of", "node_logits"]

Seen = Mapping[tuple[str, int], Mapping[str, Tensor]]
"""Logits N x C float32 of each view, by key of a leaf and number of its model."""
LOG_TINY = math.log(np.finfo(np.float64).tiny)


def log_softmax(logits_NC: Tensor) -> Tensor:
    """Return log-probabilities N x C float64."""
    return torch.log_softmax(logits_NC.double(), dim=1)


def _constant(values: Any) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(values))


def _total(terms: Sequence[Tensor]) -> Tensor:
    return functools.reduce(torch.add, terms)


def _shares(weights: Sequence[float]) -> list[float]:
    total = sum(weights)
    return [one / total for one in weights]


def _log(share_NC: Tensor) -> Tensor:
    return share_NC.clamp(min=float(np.finfo(np.float64).tiny)).log()


def soft_vote(logits: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the log of the weighted mean of probabilities."""
    pairs = zip(logits, _shares(weights), strict=True)
    return _log(_total([log_softmax(one).exp() * share for one, share in pairs]))


def log_vote(logits: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the weighted mean of log-probabilities, normalised."""
    pairs = zip(logits, _shares(weights), strict=True)
    return log_softmax(_total([log_softmax(one) * share for one, share in pairs]))


def hard_vote(logits: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the log of the share of votes for each class."""
    terms = []
    for logits_NC, share in zip(logits, _shares(weights), strict=True):
        classes_C = torch.arange(logits_NC.shape[1])
        votes_NC = (logits_NC.argmax(dim=1, keepdim=True) == classes_C).double()
        terms.append(log_softmax(logits_NC).exp() * (TIE * share) + votes_NC * ((1 - TIE) * share))
    return _log(_total(terms))


POOLS = {"soft": soft_vote, "log": log_vote, "hard": hard_vote}


def _vote(vote: Vote, logits: Sequence[Tensor]) -> Tensor:
    pairs = zip(logits, vote.temperatures, strict=True)
    return POOLS[vote.pool](
        [one if at == 1 else one.double() / at for one, at in pairs], vote.weights
    )


def interpolated(value_NC: Tensor, quantiles_QC: np.ndarray) -> Tensor:
    """Return the level, 0 to 1, of values among the quantiles of their class, as np.interp does.

    Graphs have no search in a sorted list, so it is halved step by step.
    """
    num, num_classes = quantiles_QC.shape
    flat = _constant(quantiles_QC.T.reshape(-1))
    first_C = torch.arange(num_classes) * num

    def at(place_NC: Tensor) -> Tensor:
        return flat.index_select(0, (place_NC + first_C).reshape(-1)).reshape(-1, num_classes)

    place_NC = torch.zeros_like(value_NC, dtype=torch.int64)
    step = 1 << max(num - 2, 1).bit_length()
    while step:
        probe_NC = (place_NC + step).clamp(max=num - 1)
        place_NC = torch.where(at(probe_NC) <= value_NC, probe_NC, place_NC)
        step //= 2
    low_NC = at(place_NC)
    gap_NC = at((place_NC + 1).clamp(max=num - 1)) - low_NC
    # Beyond both ends the level is that of the end.
    part_NC = ((value_NC - low_NC) / torch.where(gap_NC > 0, gap_NC, 1.0)).clamp(0, 1)
    part_NC = torch.where(gap_NC > 0, part_NC, 0.0)
    return (place_NC.double() + part_NC) / (num - 1)


def _rank(vote: RankVote, logits: Sequence[Tensor]) -> Tensor:
    occurs_C = _constant(vote.occurs_C.astype(np.float64))
    terms = []
    for logits_NC, quantiles_QC in zip(logits, vote.quantiles_MQC, strict=True):
        log_NC = log_softmax(logits_NC)
        rank_NC = interpolated(log_NC, quantiles_QC)
        terms.append((1 - TIE) * rank_NC * occurs_C + TIE * log_NC.exp())
    return _log(_total(terms) / len(terms)) / vote.temperature


def _summed(logits: Sequence[Tensor], temperatures: Sequence[float]) -> tuple[Tensor, list[Tensor]]:
    """Return the log of the members' summed probabilities, and each one's log-probabilities."""
    pairs = zip(logits, temperatures, strict=True)
    log_MNC = [log_softmax(one.double() / at) for one, at in pairs]
    return functools.reduce(torch.logaddexp, log_MNC), log_MNC


def _stack(stack: Stack, logits: Sequence[Tensor]) -> Tensor:
    sum_NC, log_MNC = _summed(logits, stack.temperatures)
    class_E = _constant(stack.class_E.astype(np.int64))
    vote_NC = log_softmax(sum_NC / stack.vote_temperature)
    terms = [
        log_NC.clamp(min=LOWEST) @ _constant(weight_CE)
        for log_NC, weight_CE in zip(log_MNC, stack.weight_MCE, strict=True)
    ]
    known_NE = vote_NC.index_select(1, class_E)
    log_NE = log_softmax(log_softmax(known_NE) + (_total(terms) + _constant(stack.bias_E)))
    log_NE = log_NE + known_NE.logsumexp(dim=1, keepdim=True)
    # Columns of classes without rows are those of the vote.
    place_C = np.arange(vote_NC.shape[1])
    place_C[stack.class_E] = len(place_C) + np.arange(len(stack.class_E))
    return torch.cat([vote_NC, log_NE], dim=1).index_select(1, _constant(place_C))


def _trees(trees: Trees, logits: Sequence[Tensor]) -> Tensor:
    assert trees.forest is None
    return log_softmax(_summed(logits, trees.temperatures)[0] / trees.vote_temperature)


def _fewer(fewer: FewerMembers, logits: Sequence[Tensor]) -> Tensor:
    return blended(fewer.fitted, [logits[place] for place in sorted(fewer.members)])


def decided(logits_NC: Tensor, offsets_C: np.ndarray) -> Tensor:
    """Return logits after offsets per class are added to the log-probabilities."""
    if not offsets_C.any():
        return logits_NC
    return log_softmax(log_softmax(logits_NC) + _constant(offsets_C.astype(np.float64)))


def _mixture(mixture: Mixture, logits: Sequence[Tensor]) -> Tensor:
    pairs = zip(mixture.parts, mixture.offsets_SC, strict=True)
    return soft_vote(
        [decided(blended(part, logits), one_C) for part, one_C in pairs], mixture.weights
    )


METHODS: dict[type, Callable[[Any, Sequence[Tensor]], Tensor]] = {
    Vote: _vote,
    RankVote: _rank,
    Stack: _stack,
    Trees: _trees,
    FewerMembers: _fewer,
    Mixture: _mixture,
}


def blended(fitted: Any, logits: Sequence[Tensor]) -> Tensor:
    """Return logits N x C float64 of a fitted method from the logits of each member."""
    return METHODS[type(fitted)](fitted, logits)


def _gaps(logits_VNC: Sequence[Tensor]) -> list[Tensor]:
    first_NC = log_softmax(logits_VNC[0])
    return [log_softmax(one) - first_NC for one in logits_VNC]


def _log_of_mean(logits_VNC: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """Return the first view's logits plus the log of the weighted mean of odds against it."""
    gap_VNC = torch.stack(_gaps(logits_VNC))
    weight_VNC = torch.stack([one.expand_as(logits_VNC[0]) for one in weights])
    top_NC = torch.where(weight_VNC > 0, gap_VNC, -math.inf).amax(dim=0)
    # The gap of a view without weight may be far above, and its exponential infinite.
    total_NC = (weight_VNC * (gap_VNC - top_NC).clamp(max=0).exp()).sum(dim=0)
    return logits_VNC[0] + (top_NC + (total_NC / weight_VNC.sum(dim=0)).log())


def merged(policy: Policy, logits_VNC: Sequence[Tensor]) -> Tensor:
    """Return the merged logits N x C float32 of a policy's views, as `Policy.apply` does."""
    if policy.weights is None and policy.merge == "mean":
        return mean_logit(logits_VNC)
    num_views = len(policy.views)
    given = np.ones(num_views) if policy.weights is None else np.asarray(policy.weights, float)
    weight_VC = given[:, None] if given.ndim == 1 else given
    used = [place for place in range(num_views) if weight_VC[place].any()]
    logits_VNC = [logits_VNC[place] for place in used]
    weights = [_constant(weight_VC[place]).reshape(1, -1) for place in used]
    if policy.merge == "mean":
        pairs = zip(_gaps(logits_VNC), weights, strict=True)
        change_NC = _total([gap_NC * weight_C for gap_NC, weight_C in pairs])
        found = logits_VNC[0] + change_NC / _constant(weight_VC.sum(axis=0))
    elif policy.merge == "prob":
        found = _log_of_mean(logits_VNC, weights)
    else:
        assert policy.merge == "entropy"
        logs = [log_softmax(one) for one in logits_VNC]
        sure = [(one.exp() * one).sum(dim=1, keepdim=True).exp() for one in logs]
        pairs = zip(weights, sure, strict=True)
        found = _log_of_mean(logits_VNC, [weight_C * one for weight_C, one in pairs])
    return found.float()


def mean_logit(logits: Sequence[Tensor]) -> Tensor:
    """Return the mean N x C float32, taken in float64."""
    if len(logits) == 1:
        return logits[0].float()
    return (_total([one.double() for one in logits]) / len(logits)).float()


def mean_of(node: Node, logits_KNC: Sequence[Tensor]) -> Tensor:
    """Return the mean of models N x C float32, as the node takes it."""
    if isinstance(node, Blend) and node.parameters.of_shares:
        terms = [log_softmax(one).exp() for one in logits_KNC]
        return _log(_total(terms) / len(terms)).float()
    return mean_logit(logits_KNC)


def _views(leaf: Leaf, seen: Seen, model: int, views: Sequence[str]) -> list[Tensor]:
    """Return the logits of a model in each view, with the share of the refits that are seen."""
    refits = [seen[leaf.key, one] for one in leaf.recipe.refits if (leaf.key, one) in seen]
    own = seen.get((leaf.key, model))
    if not refits:
        assert own is not None
        return [own[view] for view in views]
    share = leaf.recipe.refit_share
    found = []
    for view in views:
        mean_NC = torch.stack([one[view].double() for one in refits]).mean(dim=0)
        if own is not None:
            mean_NC = (1 - share) * own[view].double() + share * mean_NC
        found.append(mean_NC.float())
    return found


def node_logits(node: Node, seen: Seen, model: int, *, plain: bool = False) -> Tensor:
    """Return the logits N x C float32 of one model of a node; `plain` ones are without offsets."""
    if isinstance(node, Leaf):
        return mean_logit(_views(node, seen, model, node.recipe.views))
    if isinstance(node, Augmented):
        return merged(node.policy, _views(node.leaf, seen, model, node.policy.views))
    assert isinstance(node, Blend)
    parameters: Parameters = node.parameters.plain() if plain else node.parameters
    zeros_NC = torch.zeros_like(next(iter(next(iter(seen.values())).values())))
    members = []
    for member, used in zip(node.members, node.used, strict=True):
        if not used:
            members.append(zeros_NC)
        elif node.of_means:
            every = [node_logits(member, seen, one) for one in range(member.num_models)]
            members.append(mean_of(member, every))
        else:
            members.append(node_logits(member, seen, model))
    return decided(blended(parameters.fitted, members), parameters.offsets_C).float()


def _trees_in(fitted: Any) -> bool:
    if isinstance(fitted, Trees):
        return fitted.forest is not None
    if isinstance(fitted, Mixture):
        return any(_trees_in(one) for one in fitted.parts)
    return isinstance(fitted, FewerMembers) and _trees_in(fitted.fitted)


def check_node(node: Node) -> None:
    """Raise UserError if a blend of the node has a method that a graph cannot have."""
    if not isinstance(node, Blend):
        return
    if needs := node.parameters.fitted.needs:
        raise UserError(
            f"--onnx: {node.name} needs the columns {listed(needs, most=9)} (--meta-cols), and a"
            " graph takes only pixels; blend again without --meta-cols"
        )
    if _trees_in(node.parameters.fitted):
        # A rounding error that moves a value across a threshold changes a tree's whole answer.
        raise UserError(
            f"--onnx: {node.name} uses boosted trees (method trees), which cannot go into a graph;"
            " blend again without --thorough or with another --method"
        )
    if type(node.parameters.fitted) not in METHODS:
        kind = type(node.parameters.fitted).__name__
        raise UserError(f"--onnx: {node.name}: {kind} cannot go into a graph; pass --method soft")
    for member, used in zip(node.members, node.used, strict=True):
        if used:
            check_node(member)
