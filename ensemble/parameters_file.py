"""Write the fitted method of a blend as arrays and JSON, and read it back without running code.

A fitted method is a frozen dataclass. Its fields are numbers, texts, None, arrays, further fitted
objects, or tuples of these. The arrays are tensors of a safetensors file, and the structure is
JSON in the metadata of the file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from ensemble.methods.column_stack import ColumnStack
from ensemble.methods.column_trees import ColumnTrees
from ensemble.methods.encoding import CategoryCode, Encoding, NumberCode
from ensemble.methods.forest import Forest
from ensemble.methods.mixture import Mixture
from ensemble.methods.stack import Stack
from ensemble.methods.trees import Trees
from ensemble.methods.vote import RankVote, Vote
from ensemble.parameters import Parameters
from ensemble.subsets import FewerMembers
from foldblend.arrays_file import read_arrays
from foldblend.errors import UserError, in_a_line, listed
from foldblend.image_columns import ImageColumns
from foldblend.reading import parse_json

__all__ = [
    "KINDS",
    "PARAMETERS",
    "content_hash",
    "decode",
    "encode",
    "from_bytes",
    "read_parameters",
    "to_bytes",
]

PARAMETERS = "parameters.safetensors"
# Raise it where a class of KINDS, or a constant that its call uses (such as SHARE of the trees),
# changes, so that older files are read as they were meant.
VERSION = 1
# The only key of the metadata: safetensors writes several in a random order.
KEY = "blend"
# Names in the file, which stay the same when a class is renamed.
KINDS: dict[str, type] = {
    "blend": Parameters,
    "vote": Vote,
    "rank": RankVote,
    "stack": Stack,
    "stack with columns": ColumnStack,
    "trees": Trees,
    "trees with columns": ColumnTrees,
    "columns": Encoding,
    "column of numbers": NumberCode,
    "column of categories": CategoryCode,
    "forest": Forest,
    "fewer members": FewerMembers,
    "mixture": Mixture,
}


def encode(value: Any, arrays: dict[str, np.ndarray], name: str = KEY) -> Any:
    """Return a fitted object as values that JSON has, and add its arrays to `arrays`.

    Parameters
    ----------
    value
        An object of a class of KINDS, or a value of one of its fields.
    arrays
        Takes the arrays, by the path of their field.
    name
        Path of the value.

    Raises
    ------
    TypeError
        For a value of another type.

    Examples
    --------
    >>> arrays = {}
    >>> encode((0.5, None, np.arange(2)), arrays)
    [0.5, None, {'array': 'blend.2', 'axes': [0]}]
    >>> arrays
    {'blend.2': array([0, 1])}
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, tuple):
        return [encode(one, arrays, f"{name}.{place}") for place, one in enumerate(value)]
    if isinstance(value, np.ndarray):
        # The order of the axes in memory is kept, because it decides the last bit of sums.
        # The stride of an axis of size 1 means nothing.
        steps = zip(value.strides, value.shape, strict=True)
        order = [-abs(stride) if size > 1 else -np.inf for stride, size in steps]
        axes = np.argsort(order, kind="stable").tolist()
        arrays[name] = np.ascontiguousarray(value.transpose(axes))
        return {"array": name, "axes": axes}
    kind = next((kind for kind, one in KINDS.items() if type(value) is one), None)
    if kind is None:
        raise TypeError(f"{name}: {type(value).__name__} is not in ensemble.parameters_file.KINDS")
    fields = {
        one.name: encode(getattr(value, one.name), arrays, f"{name}.{one.name}")
        for one in dataclasses.fields(value)
    }
    return {"kind": kind, "fields": fields}


def decode(plain: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Return the object that `encode` has written.

    Raises
    ------
    ValueError
        For an unknown kind, fields that the class does not have, or an array that is absent or not
        finite.

    Examples
    --------
    >>> decode([0.5, {"array": "blend.1", "axes": [0]}], {"blend.1": np.arange(2)})
    (0.5, array([0, 1]))
    """
    if isinstance(plain, list):
        return tuple(decode(one, arrays) for one in plain)
    if not isinstance(plain, dict):
        return plain
    if "array" in plain:
        name = plain["array"]
        if name not in arrays:
            raise ValueError(f"the array {name} is missing")
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"the array {name} is not finite")
        return arrays[name].transpose(np.argsort(plain["axes"]))
    kind = plain.get("kind")
    if kind not in KINDS:
        raise ValueError(f"the kind {kind!r} is unknown; there are {listed(KINDS, most=20)}")
    fields = {name: decode(one, arrays) for name, one in plain["fields"].items()}
    try:
        return KINDS[kind](**fields)
    except TypeError as error:
        raise ValueError(f"{kind}: {error}") from None


def content_hash(structure: Any, arrays: Mapping[str, np.ndarray]) -> str:
    """Return a hash of what `encode` returns, by which a changed digit is found."""
    found = hashlib.blake2b(json.dumps(structure, allow_nan=False).encode(), digest_size=16)
    for name in sorted(arrays):
        array = arrays[name]
        found.update(f"{name} {array.dtype} {array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def to_bytes(parameters: Parameters, key: str) -> bytes:
    """Return the content of parameters.safetensors; equal parameters give equal bytes.

    `key` is the run key of the blend, by which a file of another blend is recognised.
    """
    arrays: dict[str, np.ndarray] = {}
    structure = encode(parameters, arrays)
    header = {
        "version": VERSION,
        "key": key,
        "hash": content_hash(structure, arrays),
        KEY: structure,
    }
    return safetensors.numpy.save(arrays, {KEY: json.dumps(header)})


def _sizes(value: Any, num_classes: int) -> Iterator[str]:
    """Yield what is wrong with the shapes of arrays, which the letters of their names give."""
    if isinstance(value, tuple):
        for one in value:
            yield from _sizes(one, num_classes)
    if not dataclasses.is_dataclass(value):
        return
    sizes = {"C": num_classes}
    for field in dataclasses.fields(value):
        one = getattr(value, field.name)
        letters = re.search(r"(?<=_)[A-Z]+$", field.name)
        if letters is None or one is None:
            yield from _sizes(one, num_classes)
        elif not isinstance(one, np.ndarray) or one.ndim != len(letters[0]):
            yield f"{field.name} has not {len(letters[0])} axes"
        else:
            for letter, size in zip(letters[0], one.shape, strict=True):
                if sizes.setdefault(letter, size) != size:
                    yield f"{field.name} has {size} {letter}, not {sizes[letter]}"


def _check(found: Any, num_members: int, num_classes: int) -> Parameters:
    """Return parameters that can be applied; raise ValueError for others."""
    if not isinstance(found, Parameters):
        raise ValueError("it is not a blend")
    wrong = next(_sizes(found, num_classes), None)
    if wrong is not None:
        raise ValueError(wrong)
    if len(found.fitted.shares) != num_members:
        raise ValueError(f"it is of {len(found.fitted.shares)} members, not {num_members}")
    columns = ImageColumns.empty(found.fitted.needs, 1)
    tried_NC = found.apply([np.zeros((1, num_classes))] * num_members, columns)
    if tried_NC.shape != (1, num_classes) or not np.isfinite(tried_NC).all():
        raise ValueError("its logits are not finite")
    # The summary is compared with that of blend.yaml.
    json.dumps(found.as_dict(), allow_nan=False)
    return found


def _read(
    header: Any,
    arrays: Mapping[str, np.ndarray],
    key: str,
    place: object,
    *,
    num_members: int,
    num_classes: int,
    cure: str,
) -> Parameters:
    """Return the parameters of a header and its arrays; raise UserError or another error."""
    version = header["version"]
    if type(version) is not int or version < 1:
        raise ValueError(f"version {version!r}")
    if version > VERSION:
        raise UserError(
            f"{place}: written by a newer version of foldblend (format {version}; this one"
            f" reads {VERSION}); install the newer version"
        )
    if header["key"] != key:
        raise UserError(f"{place}: it is of another blend; {cure}")
    structure = header[KEY]
    if header["hash"] != content_hash(structure, arrays):
        raise ValueError("its content has changed")
    with np.errstate(all="ignore"):
        return _check(decode(structure, arrays), num_members, num_classes)


def from_bytes(content: bytes, key: str, *, num_members: int, num_classes: int) -> Parameters:
    """Return parameters from what `to_bytes` returned; nothing in it can execute code.

    Raises UserError for a newer version. Other content may raise any error.
    """
    arrays = safetensors.numpy.load(content)
    length = int.from_bytes(content[:8], "little")
    header = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][KEY])
    return _read(
        header,
        arrays,
        key,
        PARAMETERS,
        num_members=num_members,
        num_classes=num_classes,
        cure="export it again",
    )


def read_parameters(file: Path, key: str, *, num_members: int, num_classes: int) -> Parameters:
    """Read parameters.safetensors; nothing in it can execute code.

    Parameters
    ----------
    file
        The file, which must exist.
    key
        Run key of the blend.
    num_members, num_classes
        Numbers that the parameters must fit.

    Raises
    ------
    UserError
        If the file is damaged, does not fit the blend, or is of a newer version.
    """
    cure = f"remove {file.name}, and the blend is refitted from its members"
    try:
        metadata, read = read_arrays(file, cure=cure)
        header = parse_json(metadata[KEY], file, cure=cure)
        # A copy: arrays of a file that was read cannot be written.
        arrays = {name: np.array(array) for name, array in read.items()}
        return _read(
            header,
            arrays,
            key,
            file,
            num_members=num_members,
            num_classes=num_classes,
            cure=cure,
        )
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); check the file") from None
    except ValueError as error:
        raise UserError(f"{file}: damaged ({' '.join(str(error).split())[:200]}); {cure}") from None
    # A damaged file may fail anywhere, from its header to the first use of its parameters.
    except Exception as error:
        raise UserError(f"{file}: damaged ({in_a_line(error)}); {cure}") from None
