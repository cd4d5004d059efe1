"""Means of the weights of models that began with the same weights (soups)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

from foldblend.errors import UserError
from pipeline.job import Prepared
from pipeline.seeding import derive_seed

__all__ = ["check_starts", "greedy_soup", "mean_state", "share_of_start"]

# Models that begin with the same backbone differ in their heads only, which are small.
LEAST_SHARED = 0.5


def mean_state(states: Iterable[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return the mean of the weights of models, tensor by tensor.

    Sums are in float64, and states are read one after the other. Counts and flags, which have no
    mean, are those of the first model.

    Parameters
    ----------
    states
        Weights by name, each with the same names and shapes; at least one.

    References
    ----------
    Wortsman et al. (2022): Model soups: averaging weights of multiple fine-tuned models improves
    accuracy without increasing inference time.

    Examples
    --------
    >>> mean_state([{"weight": torch.tensor([1.0])}, {"weight": torch.tensor([4.0])}])
    {'weight': tensor([2.5000])}
    """
    first: dict[str, torch.Tensor] = {}
    sums: dict[str, torch.Tensor] = {}
    num = 0
    for state in states:
        num += 1
        first = first or state
        for name, value in state.items():
            if value.is_floating_point():
                sums[name] = sums.get(name, 0) + value.double()
    assert num, "no weights"
    return {
        name: (sums[name] / num).to(value.dtype) if name in sums else value
        for name, value in first.items()
    }


def greedy_soup(
    score_M: Sequence[float], score_of: Callable[[list[int]], float], *, sign: int
) -> tuple[list[int], float]:
    """Return the models of a soup, chosen greedily, and its score.

    Models are tried from the best to the worst. Each one stays if the score of the mean weights
    does not fall.

    Parameters
    ----------
    score_M
        Score of each model alone.
    score_of
        Returns the score of the mean weights of several models.
    sign
        1 where a higher score is better, -1 where a lower one is.

    References
    ----------
    Wortsman et al. (2022): Model soups, algorithm 1.

    Examples
    --------
    >>> greedy_soup([0.5, 0.7, 0.6], lambda models: 0.8 - 0.3 * (0 in models), sign=1)
    ([1, 2], 0.8)
    """
    order = sorted(range(len(score_M)), key=lambda one: -sign * score_M[one])
    soup = order[:1]
    best = score_M[order[0]]
    for one in order[1:]:
        score = score_of([*soup, one])
        if sign * score >= sign * best:
            soup = [*soup, one]
            best = score
    return sorted(soup), best


def share_of_start(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Return the share of the weights that two models have in common, element by element."""
    same = 0
    num = 0
    for name, value in one.items():
        if value.is_floating_point():
            num += value.numel()
            same += int((value == other[name]).sum())
    return same / max(num, 1)


def check_starts(run: Prepared, what: str) -> None:
    """Raise UserError unless the models of two folds begin with the same backbone.

    The mean of weights that began at different places is no model at all. `what` is the flag that
    takes the mean.
    """
    states = []
    with torch.random.fork_rng(devices=[]):
        for index in range(2):
            torch.manual_seed(derive_seed("torch", run.config.train.seed, index))
            states.append(run.new_model().state_dict())
    if share_of_start(*states) < LEAST_SHARED:
        raise UserError(
            f"{what}: the models of the folds begin with different random weights, whose mean is no"
            " model; pass pretrained weights (--pretrained auto or --weights), or --refit full"
        )
