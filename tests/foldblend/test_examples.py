"""Examples in the docstrings of foldblend/ that need no run folders."""

import doctest
import importlib
import pkgutil

import pytest

import foldblend as fb

# test_public.py runs the examples of these modules with run folders.
WITH_RUNS = ("foldblend.runs.check", "foldblend.runs.estimator", "foldblend.runs.run")
MODULES = [
    info.name
    for info in pkgutil.walk_packages(fb.__path__, "foldblend.")
    if info.name not in WITH_RUNS
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    module = importlib.import_module(name)
    assert doctest.testmod(module, extraglobs={"fb": fb}).failed == 0
