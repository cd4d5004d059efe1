"""Attributes: properties that each class implies, such as the colour in "red, round"."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Attribute", "attribute_view"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Attribute:
    """A property that each class implies, such as the colour of "red, round".

    Examples
    --------
    >>> pet = fb.Attribute(name="pet", values=("no", "yes"), of_class=(1, 1, 0))
    >>> [pet.values[index] for index in pet.of_class]
    ['yes', 'yes', 'no']
    """

    name: str
    """Name of the attribute in reports."""
    values: tuple[str, ...]
    """Names of its values."""
    of_class: tuple[int, ...]
    """For each class, the index of its value in `values`."""
    ordered: bool = False
    """Whether the values have an order, which --ordinal needs."""

    def __post_init__(self) -> None:
        assert set(self.of_class) <= set(range(len(self.values))), self


def attribute_view(
    attribute: Attribute, label_N: np.ndarray, proba_NC: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the true and predicted values of an attribute.

    Parameters
    ----------
    attribute
        The attribute whose values are returned.
    label_N
        True class of each row.
    proba_NC
        Class probabilities of each row; the predicted class is the most likely one.

    Returns
    -------
    tuple[np.ndarray, np.ndarray]
        True values, N, and one-hot predicted values, N x len(attribute.values).

    Examples
    --------
    >>> pet = Attribute(name="pet", values=("no", "yes"), of_class=(1, 1, 0))
    >>> true_N, predicted = attribute_view(pet, np.array([0, 2]), np.eye(3)[[1, 0]])
    >>> true_N.tolist(), predicted.tolist()
    ([1, 0], [[0.0, 1.0], [0.0, 1.0]])
    """
    value_of_class = np.asarray(attribute.of_class)
    predicted_N = value_of_class[proba_NC.argmax(1)]
    return value_of_class[label_N], np.eye(len(attribute.values))[predicted_N]
