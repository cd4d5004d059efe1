"""Names of images and groups, compared and found as Arrow's texts, without Python's objects."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.compute

__all__ = ["codes_of", "is_increasing", "places_of"]


def _texts(names: pd.Series) -> Any:
    """Return names of any type of pandas as Arrow's texts, also where there are none."""
    return pyarrow.array(names, pyarrow.large_string())


def is_increasing(names: pd.Series) -> bool:
    """Return whether each name is greater than the one before, so that none occurs twice.

    Examples
    --------
    >>> is_increasing(pd.Series(["a", "b", "c"])), is_increasing(pd.Series(["a", "a"]))
    (True, False)
    """
    texts = _texts(names)
    later = pyarrow.compute.less(texts[:-1], texts[1:])
    return bool(pyarrow.compute.all(later, min_count=0).as_py())


def places_of(wanted: pd.Series, names: pd.Series) -> np.ndarray:
    """Return the place of each wanted name among names that occur once, and -1 for absent ones.

    Examples
    --------
    >>> places_of(pd.Series(["c", "a", "x"]), pd.Series(["a", "b", "c"])).tolist()
    [2, 0, -1]
    """
    found = pyarrow.compute.index_in(_texts(wanted), _texts(names))
    return np.asarray(found.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)


def codes_of(names: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of each name, in the order of the names, and the names.

    Examples
    --------
    >>> code_N, name_G = codes_of(pd.Series(["b", "a", "b"]))
    >>> code_N.tolist(), name_G.tolist()
    ([1, 0, 1], ['a', 'b'])
    """
    code_N, name_G = pd.factorize(names, sort=True)
    return code_N, np.asarray(name_G, dtype=object)
