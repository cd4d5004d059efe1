import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foldblend.errors import UserError
from folds.data.labels import (
    AGES,
    ATTRIBUTES,
    CLASSES,
    GENDERS,
    MASKS,
    age_group,
    decode,
    encode,
    gender_code,
)


def test_codec_equals_that_of_the_competition():
    assert encode(0, 0, 0) == 0
    assert encode(MASKS.index("incorrect"), GENDERS.index("female"), AGES.index("60+")) == 11
    assert encode(MASKS.index("not worn"), GENDERS.index("male"), AGES.index("30-59")) == 13
    assert len(set(CLASSES)) == 18


@given(st.integers(0, 17))
def test_decode_inverts_encode(label):
    assert encode(*decode(label)) == label


def test_codec_takes_arrays():
    labels = np.arange(18)
    mask, gender, age = decode(labels)
    assert np.array_equal(encode(mask, gender, age), labels)
    for attribute, codes in zip(ATTRIBUTES, (mask, gender, age), strict=True):
        assert np.array_equal(attribute.of_class, codes)


@pytest.mark.parametrize(
    ("years", "group"), [("18", 0), ("29", 0), ("29.9", 0), (30, 1), ("59", 1), ("60", 2), (120, 2)]
)
def test_age_groups_at_their_bounds(years, group):
    assert age_group(years, where="here") == group


@pytest.mark.parametrize("years", ["", "young", "nan", "0", "-3", "121", None])
def test_unknown_age_names_the_row(years):
    with pytest.raises(UserError, match="here: unknown age"):
        age_group(years, where="here")


def test_gender():
    assert gender_code(" Female", where="x") == 1
    with pytest.raises(UserError, match="row 3: unknown gender 'woman'"):
        gender_code("woman", where="row 3")
