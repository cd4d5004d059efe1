"""One head an attribute, whose log-probabilities add up to the logits of the joint classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812 - as all torch code names it

from foldblend.attributes import Attribute
from foldblend.errors import UserError, did_you_mean

__all__ = ["AttributeJoin", "attach", "make_join"]


class AttributeJoin(torch.nn.Module):
    """Outputs of a linear layer -> N x C logits: the sum over attributes of the log-probability of
    each class's value.

    An unordered attribute of V values takes V outputs (softmax), an ordered one V - 1: the logits
    of exceeding each value once it is reached (CORN, Shi et al. 2021; a continuation-ratio model).
    """

    def __init__(self, attributes: Sequence[Attribute], ordinal: Sequence[str] = ()) -> None:
        super().__init__()
        # Buffers, so that they lie where the model does; of no weights file.
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
        """Number of outputs that the linear layer before it must have."""
        return sum(self.sizes)

    def forward(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return N x C float32 logits of N x num_inputs outputs."""
        parts = []
        columns = outputs.float().split(self.sizes, dim=1)
        for part, name, ordered in zip(columns, self.names, self.ordered, strict=True):
            log_p = log_continuation(part) if ordered else F.log_softmax(part, dim=1)
            parts.append(log_p.index_select(1, self.get_buffer(name)))
        return torch.stack(parts).sum(dim=0)


def log_continuation(outputs: torch.Tensor) -> torch.Tensor:
    """Return N x V log-probabilities of ordered values, of N x (V - 1) logits of exceeding each
    once it is reached.
    """
    goes_on = F.pad(F.logsigmoid(outputs).cumsum(dim=1), (1, 0))
    return goes_on + F.pad(F.logsigmoid(-outputs), (0, 1))


def make_join(attributes: Sequence[Attribute], ordinal: str | None) -> AttributeJoin:
    """Return the head of --head attributes. Raises UserError where the attributes do not tell the
    classes apart.
    """
    names = [attribute.name for attribute in attributes]
    if not names:
        raise UserError(
            "--head attributes: the data has no attributes; name columns with --attribute-cols"
        )
    ordered = [name.strip() for name in ordinal.split(",")] if ordinal else []
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
    """Put the join behind a timm model's linear classifier, in place.

    Raises UserError for an architecture whose head is not one linear layer.
    """
    head = model.get_classifier() if hasattr(model, "get_classifier") else None
    if not isinstance(head, torch.nn.Linear):
        raise UserError(
            "--head attributes: this backbone does not end in one linear layer; pass --head joint"
        )
    path = next(name for name, module in model.named_modules() if module is head)
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, torch.nn.Sequential(head, join))
