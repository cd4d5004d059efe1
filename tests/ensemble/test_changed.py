"""Tests of the section on images that a blend repairs and breaks."""

import numpy as np
import pandas as pd

from ensemble.changed import MOST_IMAGES, changed_section

CLASSES = ["cat", "dog"]


def made(label, single, blend, confidence, names=None):
    other = 1 - np.array(confidence)
    proba = np.column_stack([other, confidence])
    is_cat = np.array(blend) == 0
    proba[is_cat] = proba[is_cat, ::-1]
    ids = pd.Series(names or [f"{number}.png" for number in range(len(label))])
    return changed_section(
        ids, np.array(label), np.array(single), proba, classes=CLASSES, single="a"
    )


def test_repaired_and_broken_images_by_hand():
    #             right in both, repaired, repaired, broken, wrong in both
    found = made([0, 0, 1, 1, 1], [0, 1, 0, 1, 0], [0, 0, 1, 0, 0], [0.9, 0.6, 0.8, 0.7, 0.9])
    text, repaired, broken = found["blocks"]
    assert "the blend repairs 2 that a gets wrong, and breaks 1 that it gets right" in text["text"]
    # The most confident first.
    assert repaired["images"] == [
        {"image_id": "2.png", "text": "dog; a: cat"},
        {"image_id": "1.png", "text": "cat; a: dog"},
    ]
    assert broken["images"] == [{"image_id": "3.png", "text": "dog; blend: cat"}]
    assert repaired["caption"] == "Repaired: 2 images"
    assert broken["caption"] == "Broken: 1 image"


def test_an_image_of_two_repeats_is_shown_once():
    found = made([0, 0], [1, 1], [0, 0], [0.6, 0.8], names=["x.png", "x.png"])
    text, repaired = found["blocks"]
    assert text["text"].startswith("Of 2 predictions, the blend repairs 2 that")
    assert repaired["caption"] == "Repaired: 2 predictions, the first 1 shown"
    assert [one["image_id"] for one in repaired["images"]] == ["x.png"]


def test_many_images_are_cut_and_the_caption_says_so():
    num = MOST_IMAGES + 5
    found = made([0] * num, [1] * num, [0] * num, [0.9] * num)
    _, repaired = found["blocks"]
    assert len(repaired["images"]) == MOST_IMAGES
    assert repaired["caption"] == f"Repaired: {num} images, the first {MOST_IMAGES} shown"


def test_equal_predictions_have_a_sentence_only():
    assert len(made([0, 1], [0, 0], [0, 0], [0.9, 0.9])["blocks"]) == 1
