"""Reading of small safetensors files as a whole: regular files of bounded size, without a map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from foldblend.errors import UserError
from foldblend.reading import MOST_JSON, parse_json, read_bounded

__all__ = ["read_arrays"]

# Bytes of arrays that are read at once; those of a blend or a reference have some megabytes.
MOST_BYTES = 2**32
# The file starts with the length of its header.
LENGTH = 8


def read_arrays(path: Path, *, cure: str) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Return the metadata and the arrays of a safetensors file.

    Parameters
    ----------
    path
        The file.
    cure
        What to do if it cannot be read.

    Raises
    ------
    UserError
        If it is absent, too large or no regular file, or if its header is no JSON.
    Exception
        For other damage; safetensors has errors of its own.
    """
    data = read_bounded(path, most=MOST_BYTES, cure=cure)
    length = int.from_bytes(data[:LENGTH], "little")
    if length > MOST_JSON:
        raise UserError(f"{path}: damaged (its header is too long); {cure}")
    try:
        header: Any = parse_json(data[LENGTH : LENGTH + length], "its header", cure=cure)
    except UserError as error:
        why = str(error).removesuffix(f"; {cure}")
        raise UserError(f"{path}: damaged ({why}); {cure}") from None
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    known = metadata if isinstance(metadata, dict) else {}
    return known, dict(safetensors.numpy.load(data))
