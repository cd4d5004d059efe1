"""Label codec of the mask competition: (mask, gender, age group) <-> class 0..17."""

from __future__ import annotations

from typing import Any

import numpy as np

from foldblend.attributes import Attribute
from foldblend.errors import UserError

__all__ = [
    "AGES",
    "ATTRIBUTES",
    "CLASSES",
    "GENDERS",
    "MASKS",
    "age_group",
    "decode",
    "encode",
    "gender_code",
    "training_labels",
]

MASKS = ("worn", "incorrect", "not worn")
GENDERS = ("male", "female")
AGES = ("<30", "30-59", "60+")
AGE_BOUNDS = (30, 60)
OLDEST = 120


def encode(mask: Any, gender: Any, age: Any) -> Any:
    """Return the class 0..17 of mask 0..2, gender 0..1 and age group 0..2.

    Integers and arrays are accepted.

    Examples
    --------
    >>> encode(1, 1, 2)
    11
    """
    return 6 * mask + 3 * gender + age


def decode(label: Any) -> tuple[Any, Any, Any]:
    """Return (mask, gender, age group) of a class 0..17 (integer or array).

    Examples
    --------
    >>> decode(11)
    (1, 1, 2)
    """
    return label // 6, label // 3 % 2, label % 3


def gender_code(text: str, *, where: str) -> int:
    """Return 0 for male and 1 for female.

    Raises UserError, which starts with `where`, for anything else.
    """
    word = str(text).strip().lower()
    if word not in GENDERS:
        raise UserError(f"{where}: unknown gender {text!r}; write male or female")
    return GENDERS.index(word)


def age_group(years: str | float, *, where: str) -> int:
    """Return the age group 0..2 of an age in years.

    Raises UserError, which starts with `where`, for anything else.
    """
    try:
        number = float(years)
    except (TypeError, ValueError):
        number = float("nan")
    if not 0 < number <= OLDEST:
        raise UserError(
            f"{where}: unknown age {years!r}; write the years as a number from 1 to {OLDEST}"
        )
    return int(np.searchsorted(AGE_BOUNDS, number, side="right"))


def training_labels(
    label_N: np.ndarray,
    age_N: np.ndarray,
    *,
    old_from: float | None,
    drop_ages: tuple[float, float] | None,
) -> np.ndarray:
    """Return the class that training uses for each row, or -1 to leave the row out.

    Ages from `old_from` years count as 60+, because people of 58 and 59 look like 60. Ages within
    `drop_ages` are left out. Scores use the true labels.
    """
    mask_N, gender_N, group_N = decode(label_N)
    if old_from is not None:
        group_N = np.where(age_N >= old_from, len(AGES) - 1, group_N)
    fit_N = encode(mask_N, gender_N, group_N)
    if drop_ages is not None:
        fit_N = np.where((age_N >= drop_ages[0]) & (age_N <= drop_ages[1]), -1, fit_N)
    return np.asarray(fit_N)


_CODES = [decode(label) for label in range(18)]
CLASSES = tuple(f"{MASKS[mask]}, {GENDERS[gender]}, {AGES[age]}" for mask, gender, age in _CODES)
ATTRIBUTES = (
    # From covered to uncovered, and from young to old.
    Attribute(name="mask", values=MASKS, of_class=tuple(code[0] for code in _CODES), ordered=True),
    Attribute(name="gender", values=GENDERS, of_class=tuple(code[1] for code in _CODES)),
    Attribute(name="age", values=AGES, of_class=tuple(code[2] for code in _CODES), ordered=True),
)
