"""Plurals of English nouns, for texts that name the groups of a data set."""

from __future__ import annotations

__all__ = ["plural"]

# Nouns that can name a group and that no ending tells.
IRREGULAR = {
    "person": "people",
    "child": "children",
    "man": "men",
    "woman": "women",
    "mouse": "mice",
    "goose": "geese",
    "foot": "feet",
    "tooth": "teeth",
    "leaf": "leaves",
    "calf": "calves",
    "wolf": "wolves",
    "loaf": "loaves",
    "half": "halves",
    "shelf": "shelves",
    "knife": "knives",
    "life": "lives",
    "ox": "oxen",
    "potato": "potatoes",
    "tomato": "tomatoes",
    "hero": "heroes",
    "quiz": "quizzes",
    "matrix": "matrices",
    "phenomenon": "phenomena",
    "criterion": "criteria",
    **dict.fromkeys(["sheep", "fish", "deer", "species", "series", "aircraft"], ""),
}


def plural(noun: str) -> str:
    """Return the plural of an English noun; of several words, the last is changed.

    Examples
    --------
    >>> [plural(noun) for noun in ("group", "person", "category", "box", "other file", "day")]
    ['groups', 'people', 'categories', 'boxes', 'other files', 'days']
    """
    # "salesperson" and "wood mouse" end as their last part does.
    word = noun.rpartition(" ")[2]
    lower = word.lower()
    for one, many in IRREGULAR.items():
        if lower == one or (one in {"person", "man", "child"} and _ends_in(lower, one)):
            changed = many or one
            start = word[: len(word) - len(one)]
            cased = changed if word[len(start)].islower() else changed.capitalize()
            return noun[: len(noun) - len(word)] + start + cased
    if lower.endswith("y") and lower[-2:-1] not in {*"aeiou", ""}:
        return noun[:-1] + "ies"
    if lower.endswith("sis"):
        return noun[:-2] + "es"
    if lower.endswith(("s", "x", "z", "ch", "sh")):
        return noun + "es"
    return noun + "s"


def _ends_in(word: str, part: str) -> bool:
    """Return whether a compound ends in a noun; "human", "German" and "woman" do not."""
    return word.endswith(part) and word not in {"human", "german", "roman", "woman"}
