"""Words of users and of texts: tidy spelling of names and labels, plurals of nouns."""

from __future__ import annotations

import unicodedata

__all__ = ["plural", "tidy"]

# Characters without width, which no reader sees: zero-width space, word joiner, byte-order mark,
# soft hyphen. The joiners of emoji and of several scripts are not among them.
# Marks of the writing direction and variants of symbols are not seen either.
HIDDEN = dict.fromkeys(
    [
        *map(ord, "\u200b\u2060\ufeff\u00ad\u200e\u200f\ufe0e\ufe0f"),
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
    ]
)
# Nouns that can name a group and that no ending tells.
IRREGULAR = {
    "epoch": "epochs",
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


def tidy(word: str) -> str:
    """Return a text in Unicode's composed form (NFC), without hidden characters or outer blanks.

    Several blanks in a row become one.

    Examples
    --------
    >>> tidy(" wide\\u00a0cat ")
    'wide cat'
    """
    if word.isascii() and word.isprintable() and "  " not in word:
        return word.strip()
    shown = unicodedata.normalize("NFC", word).translate(HIDDEN)
    return " ".join("".join(one for one in shown if one.isspace() or ord(one) >= 32).split())


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
