"""Tests of results that threads compute ahead of their use."""

import pytest

from foldblend.ahead import NUM_THREADS, ahead


def test_results_are_in_order_and_few_wait():
    started = []

    def double(item):
        started.append(item)
        return 2 * item

    found = []
    for result in ahead(double, range(20)):
        found.append(result)
        # Those that wait, and the one that is started when the next is asked for.
        assert len(started) <= len(found) + NUM_THREADS + 1
    assert found == [2 * item for item in range(20)]
    assert sorted(started) == [*range(20)]


def test_an_error_is_raised_in_the_place_of_its_item():
    results = ahead(lambda item: 1 // (item - 2), range(5))
    assert [next(results), next(results)] == [-1, -1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_nothing_is_computed_of_nothing():
    assert [*ahead(abs, [])] == []
