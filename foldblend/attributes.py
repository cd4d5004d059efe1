"""Attributes: what a class implies, such as the gender within a joint class of mask, gender and
age.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Attribute", "attribute_view"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Attribute:
    """A property that each class implies, such as the gender within a joint class."""

    name: str
    """What reports call it."""
    values: tuple[str, ...]
    """Names of its values."""
    of_class: tuple[int, ...]
    """For each class, the index of the value that it implies."""

    def __post_init__(self) -> None:
        assert set(self.of_class) <= set(range(len(self.values))), self


def attribute_view(
    attribute: Attribute, label_N: np.ndarray, proba_NC: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return what the classes imply of an attribute: its true values N, and the predicted ones
    one-hot, N x V.
    """
    value_of_class = np.asarray(attribute.of_class)
    return value_of_class[label_N], np.eye(len(attribute.values))[
        value_of_class[proba_NC.argmax(1)]
    ]
