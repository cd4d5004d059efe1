"""Look at a node: the versions of its packages, and which files it sees.

Ray sends this module to the nodes as source, so that it runs where foldblend is not installed. It
imports the standard library only.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["difference", "look", "versions"]

# Distributions that logits depend on.
DISTRIBUTIONS = (
    "torch",
    "torchvision",
    "timm",
    "albumentations",
    "opencv-python-headless",
    "numpy",
    "pandas",
    "pyarrow",
)
SOURCE = "foldblend's source"
OURS = ("foldblend", "folds", "pipeline", "ensemble", "tta", "reports")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _source() -> str | None:
    """Return a hash of the source of our packages, or None where they are not there."""
    try:
        spec = importlib.util.find_spec("foldblend")
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    root = Path(spec.origin).parents[1]
    digest = hashlib.blake2b(digest_size=8)
    for package in OURS:
        for file in sorted(Path(root, package).rglob("*.py")):
            digest.update(str(file.relative_to(root)).encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def versions() -> dict[str, str | None]:
    """Return the versions of Python and of packages, and a hash of foldblend's source."""
    return {
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "foldblend": _version("foldblend"),
        SOURCE: _source(),
        **{name: _version(name) for name in DISTRIBUTIONS},
    }


def difference(
    ours: Mapping[str, str | None], theirs: Mapping[str, str | None], where: str
) -> str | None:
    """Return what a node has other than this process, in words, or None for equal versions.

    `where` are words for this process.
    """
    for name, version in ours.items():
        if theirs.get(name) == version:
            continue
        if theirs.get(SOURCE) is None:
            return "has no foldblend"
        if name == SOURCE:
            return f"has another source of foldblend than {where}"
        return f"has {name} {theirs.get(name)}, and {where} has {version}"
    return None


def _size(path: str) -> int | None:
    try:
        return Path(path).stat().st_size
    except (OSError, ValueError):
        return None


def look(token: tuple[str, str] | None, files: Sequence[str]) -> Mapping[str, Any]:
    """Return what a node has and sees.

    Parameters
    ----------
    token
        A file that the caller has written where results are to go, and one beside it that the node
        writes, for which the caller then looks.
    files
        Further files, which the node must see.

    Returns
    -------
    mapping
        The `versions`; the content of the token and the sizes of `files`, None where they are not
        seen; and why the token cannot be read or answered, or None.
    """
    content = None
    problem = None
    try:
        if token is not None:
            file, answer = token
            content = Path(file).read_text(encoding="utf-8")
            Path(answer).write_text(content, encoding="utf-8")
    except OSError as error:
        problem = error.strerror or str(error)
    return {
        "versions": versions(),
        "token": content,
        "files": [_size(file) for file in files],
        "problem": problem,
    }
