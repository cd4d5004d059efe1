"""Tests of plurals."""

import pytest

from foldblend.errors import counted
from foldblend.words import plural


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("group", "groups"),
        ("person", "people"),
        ("Person", "People"),
        ("patient", "patients"),
        ("category", "categories"),
        ("day", "days"),
        ("box", "boxes"),
        ("batch", "batches"),
        ("lens", "lenses"),
        ("analysis", "analyses"),
        ("child", "children"),
        ("woman", "women"),
        ("salesman", "salesmen"),
        ("human", "humans"),
        ("species", "species"),
        ("mouse", "mice"),
        ("other file", "other files"),
        ("family member", "family members"),
    ],
)
def test_plurals(one, many):
    assert plural(one) == many


def test_numbers_with_nouns():
    assert counted(1, "person") == "1 person"
    assert counted(2, "person") == "2 people"
    assert counted(1200, "decoded image") == "1,200 decoded images"
    assert counted(0, "category") == "0 categories"
