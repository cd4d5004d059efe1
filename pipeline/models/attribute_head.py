"""Heads of --head attributes: one per attribute, joined to the logits of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812 - as all torch code names it

from foldblend.attributes import Attribute
from foldblend.errors import UserError, did_you_mean

__all__ = ["AttributeJoin", "attach", "make_join", "ordinal_names"]


class AttributeJoin(torch.nn.Module):
    """Layer that turns the outputs of a linear layer into the logits of the classes, N x C.

    A class's logit is the sum over attributes of the log-probability of the class's value. An
    attribute with k unordered values uses k outputs (softmax). An ordered attribute uses k - 1
    outputs: the logits of exceeding each value, given that the value is reached (a
    continuation-ratio model).

    Parameters
    ----------
    attributes
        The attributes and their value for each class.
    ordinal
        Names of the attributes with ordered values.

    References
    ----------
    Shi, Cao and Raschka 2021, "Deep neural networks for rank-consistent ordinal regression based on
    conditional probabilities" (CORN).
    """

    def __init__(self, attributes: Sequence[Attribute], ordinal: Sequence[str] = ()) -> None:
        super().__init__()
        # Buffers move to the model's device with it; they are not saved with the weights.
        self.names = [f"of_class_{index}" for index in range(len(attributes))]
        for name, attribute in zip(self.names, attributes, strict=True):
            self.register_buffer(name, torch.tensor(attribute.of_class), persistent=False)
        self.ordered = [attribute.name in ordinal for attribute in attributes]
        self.sizes = [
            len(attribute.values) - ordered
            for attribute, ordered in zip(attributes, self.ordered, strict=True)
        ]

    @property
    def num_inputs(self) -> int:
        """Number of outputs that the linear layer must have."""
        return sum(self.sizes)

    def forward(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return logits, N x C float32, from the linear layer's outputs, N x num_inputs."""
        parts = []
        columns = outputs.float().split(self.sizes, dim=1)
        for part, name, ordered in zip(columns, self.names, self.ordered, strict=True):
            log_p = log_continuation(part) if ordered else F.log_softmax(part, dim=1)
            parts.append(log_p.index_select(1, self.get_buffer(name)))
        return torch.stack(parts).sum(dim=0)


def log_continuation(outputs: torch.Tensor) -> torch.Tensor:
    """Return the log-probabilities of k ordered values, N x k.

    `outputs` are N x (k - 1) logits of exceeding each value, given that the value is reached.

    Examples
    --------
    >>> log_continuation(torch.zeros(1, 2)).exp().tolist()
    [[0.5, 0.25, 0.25]]
    """
    reached = F.pad(F.logsigmoid(outputs).cumsum(dim=1), (1, 0))
    return reached + F.pad(F.logsigmoid(-outputs), (0, 1))


def ordinal_names(ordinal: str | None) -> list[str]:
    """Return the names in a value of --ordinal.

    Examples
    --------
    >>> ordinal_names("age, size")
    ['age', 'size']
    """
    return [name.strip() for name in ordinal.split(",")] if ordinal else []


def make_join(attributes: Sequence[Attribute], ordinal: str | None) -> AttributeJoin:
    """Return the joining layer of --head attributes.

    `ordinal` is the value of --ordinal. Raises UserError if there are no attributes, one is
    unknown, or two classes have equal attributes.
    """
    names = [attribute.name for attribute in attributes]
    if not names:
        raise UserError(
            "--head attributes: the data has no attributes; pass columns with --attribute-cols"
        )
    ordered = ordinal_names(ordinal)
    for name in ordered:
        if name not in names:
            hint = did_you_mean(name, names) or f"; there are {', '.join(names)}"
            raise UserError(f"--ordinal {name}: no such attribute{hint}")
    combinations = list(zip(*(attribute.of_class for attribute in attributes), strict=True))
    if len(set(combinations)) < len(combinations):
        raise UserError(
            "--head attributes: two classes have the same attributes; pass --head joint"
        )
    return AttributeJoin(attributes, ordered)


def attach(model: Any, join: AttributeJoin) -> None:
    """Add the joining layer after a model's linear classifier, in place.

    Raises UserError for an architecture whose head is not a single linear layer.
    """
    head = model.get_classifier() if hasattr(model, "get_classifier") else None
    if not isinstance(head, torch.nn.Linear):
        raise UserError(
            "--head attributes: the head of this backbone is not a single linear layer; pass --head"
            " joint"
        )
    path = next(name for name, module in model.named_modules() if module is head)
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, torch.nn.Sequential(head, join))
