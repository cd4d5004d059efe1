"""The encoder of fitted methods: what is written is read back, equal objects give equal bytes."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from ensemble.methods.base import Evidence
from ensemble.methods.mixture import Mixture
from ensemble.methods.registry import METHODS
from ensemble.methods.vote import RankVote, Vote
from ensemble.parameters import Parameters
from ensemble.parameters_file import (
    KINDS,
    PARAMETERS,
    decode,
    encode,
    read_parameters,
    to_bytes,
)
from ensemble.subsets import FewerMembers
from foldblend.scores.rows import Rows

NUM_CLASSES = 3
finite = st.floats(allow_nan=False, allow_infinity=False)
numbers = st.lists(finite, min_size=1, max_size=4).map(tuple)
votes = st.builds(Vote, st.text(max_size=5), numbers, numbers)


@st.composite
def any_array(draw):
    """Draw an array whose axes lie in memory in any order."""
    kind = draw(st.sampled_from([np.float64, np.float32, np.int64, np.bool_]))
    shape = draw(array_shapes(min_dims=1, max_dims=3, max_side=4))
    elements = {"allow_nan": False, "allow_infinity": False} if kind().dtype.kind == "f" else None
    array = draw(arrays(kind, shape, elements=elements))
    if draw(st.booleans()):
        array = array[::-1]
    return array.transpose(draw(st.permutations(range(array.ndim))))


ranks = st.builds(RankVote, any_array(), any_array(), finite)
fitted = st.recursive(
    votes | ranks,
    lambda inner: (
        st.builds(FewerMembers, inner, st.lists(st.integers(0, 9)).map(tuple), st.integers(0, 9))
        | st.builds(
            Mixture,
            st.lists(st.text(max_size=3), max_size=3).map(tuple),
            st.lists(inner, max_size=3).map(tuple),
            numbers,
            any_array(),
        )
    ),
    max_leaves=5,
)


def memory_order(array):
    """Return the order of the axes in memory; that of an axis of size 1 means nothing."""
    return np.argsort(np.abs(array.squeeze().strides), kind="stable").tolist()


def assert_same(one, other):
    """Compare two objects down to the types and the memory order of their arrays."""
    assert type(one) is type(other)
    if dataclasses.is_dataclass(one):
        for field in dataclasses.fields(one):
            assert_same(getattr(one, field.name), getattr(other, field.name))
    elif isinstance(one, tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_same(*pair)
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
        assert memory_order(one) == memory_order(other)
    else:
        assert one == other


@settings(max_examples=60, deadline=None)
@given(fitted, arrays(np.float64, 3, elements=finite), st.booleans())
def test_what_is_written_is_read_back(one, offsets_C, of_shares):
    found = {}
    parameters = Parameters("any", one, offsets_C, of_shares)
    structure = json.loads(json.dumps(encode(parameters, found)))
    assert_same(decode(structure, found), parameters)
    assert to_bytes(decode(structure, found), "key") == to_bytes(parameters, "key")


def drawn(num_members=3, seed=0):
    rng = np.random.default_rng(seed)
    group_N = np.repeat(np.arange(30), 4)
    label_N = rng.integers(0, NUM_CLASSES, len(group_N))
    logits = [
        (2 * np.eye(NUM_CLASSES)[label_N] + rng.normal(size=(len(group_N), NUM_CLASSES))).astype(
            np.float32
        )
        for _ in range(num_members)
    ]
    return Evidence(logits, Rows.of(label_N, group_N))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("offsets", [[0.0, 0.0, 0.0], [0.25, -1.0, 0.1]])
def test_a_method_read_from_disk_answers_the_same_bits(name, offsets, tmp_path, monkeypatch):
    monkeypatch.setattr("ensemble.methods.trees._best_rounds", lambda *_: 10)
    evidence = drawn()
    parameters = Parameters(
        name, METHODS[name].fit(evidence), np.array(offsets), METHODS[name].of_shares
    )
    file = tmp_path / PARAMETERS
    file.write_bytes(to_bytes(parameters, "key"))
    again = read_parameters(file, "key", num_members=3, num_classes=NUM_CLASSES)
    fresh = drawn(seed=1).logits_MNC
    np.testing.assert_array_equal(again.apply(fresh), parameters.apply(fresh))
    # The layout in memory of what is given does not matter.
    turned = [np.asfortranarray(logits_NC.astype(np.float64)) for logits_NC in fresh]
    np.testing.assert_array_equal(again.apply(turned), parameters.apply(fresh))
    assert again.as_dict() == parameters.as_dict()


def test_an_object_of_another_class_cannot_be_written():
    with pytest.raises(TypeError, match=r"fitted\.parts\.1: Rows is not in"):
        encode(Mixture(("a", "b"), (None, drawn().rows), (1.0,), np.zeros(1)), {}, "fitted")


def test_names_of_kinds_are_unique():
    assert len(set(KINDS.values())) == len(KINDS)


@pytest.mark.slow
def test_bytes_are_the_same_in_another_process():
    code = (
        "import hashlib, tests.ensemble.test_parameters as t;"
        "p = t.Parameters('stack', t.METHODS['stack'].fit(t.drawn()), t.np.ones(3), False);"
        "print(hashlib.md5(t.to_bytes(p, 'key')).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
        ).stdout
        for seed in "12"
    }
    assert len(found) == 1
