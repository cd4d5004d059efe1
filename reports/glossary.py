"""Words of the reports and what they mean, shown on hover and on focus."""

from __future__ import annotations

from markupsafe import Markup

__all__ = ["WORDS", "marked", "term"]

WORDS = {
    "out of fold": (
        "Out of fold (OOF): each image is predicted by a model that did not train on it, nor on"
        " other images of its group (unless the page says that groups leak)."
    ),
    "F1": (
        "The harmonic mean of precision and recall: high only if few images of a class are missed"
        " and few others are taken for it."
    ),
    "macro F1": "The mean of the classes' F1; each class counts the same, however rare it is.",
    "accuracy": "The share of images whose predicted class is right; frequent classes dominate it.",
    "precision": "Of the images predicted as a class, the share that is of it.",
    "recall": "Of the images of a class, the share that is predicted as it.",
    "95 % interval": (
        "A range that contains the true score in about 95 of 100 such data sets. It comes from"
        " leaving groups out, never single images, as images of one group are alike."
    ),
    "paired": (
        "Two predictions are compared on the same groups, so what makes groups easy or hard cancels"
        " out. If its interval does not contain 0, chance alone is an unlikely reason."
    ),
    "nested": (
        "What is chosen or fitted for a fold uses the other folds only, so a blend is scored on"
        " groups that its weights have not seen."
    ),
    "cross-fitted": (
        "Fitted on some folds and applied to another, in turn, so that no row is predicted by"
        " something fitted on it."
    ),
    "held out": "Not used for training or choosing, so that it can test what was trained.",
    "optimism": (
        "How much a score is too high because something was chosen on the very rows that are"
        " scored, such as the best of ten runs."
    ),
    "calibrated": (
        "Confidences mean what they say: of the predictions with confidence 0.8, four in five are"
        " right."
    ),
    "baseline": (
        "The score of a simple guess, such as guessing at random with one attribute known. A useful"
        " model beats it clearly."
    ),
    "by chance": (
        "The score of predictions that say nothing about their image: the same ones shuffled over"
        " the images or, for a loss or a cost, the best constant prediction."
    ),
    "test-time augmentation": (
        "Predicting several views of an image, such as its mirror image, and averaging them."
    ),
    "soft vote": "The mean of the members' probabilities, possibly weighted.",
}


def term(word: str, shown: str | None = None) -> Markup:
    """Return a word with its explanation, which a page shows on hover and on focus.

    Parameters
    ----------
    word
        A key of WORDS.
    shown
        What the page shows instead of the word.

    Raises
    ------
    KeyError
        For a word that has no explanation.

    Examples
    --------
    >>> term("paired")[:36]
    Markup('<span class="term" tabindex="0">pair')
    """
    return Markup('<span class="term" tabindex="0">{}<span role="tooltip">{}</span></span>').format(
        word if shown is None else shown, WORDS[word]
    )


def marked(text: str) -> str | Markup:
    """Return a heading with the first word that it starts or ends with explained, or as it is."""
    for word in WORDS:
        if text.lower() == word.lower():
            return term(word, text)
        if text.lower().endswith(f", {word}"):
            return Markup("{}{}").format(text[: -len(word)], term(word, text[-len(word) :]))
    return text
