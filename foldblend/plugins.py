"""Parts by name: built-in ones from a registry, your own as module:name."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from foldblend.errors import UserError, did_you_mean, in_a_line
from foldblend.siblings import PACKAGES

__all__ = ["find_part", "is_custom", "load_custom", "source_hash"]


def is_custom(name: str) -> bool:
    """Return whether a name is that of a user's own part: module:name."""
    return ":" in name


def load_custom(name: str, flag: str) -> Any:
    """Import module:name, also from the current folder. Raises UserError naming the flag and what
    is wrong.
    """
    module_name, _, attribute = name.partition(":")
    if module_name.partition(".")[0] in PACKAGES:
        raise UserError(
            f"{flag} {name}: {module_name} is a package of foldblend's own; give your module"
            " another name"
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # last: a user's random.py must not hide Python's
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        own = error.name is not None and (
            module_name == error.name or module_name.startswith(error.name + ".")
        )
        why = (
            f"no module {module_name} here or installed"
            if own
            else f"{module_name} needs {error.name}"
        )
        raise UserError(f"{flag} {name}: {why}") from None
    except Exception as error:  # whatever a user's module may raise
        raise UserError(f"{flag} {name}: cannot be imported ({in_a_line(error)})") from None
    if not hasattr(module, attribute):
        raise UserError(
            f"{flag} {name}: {module_name} has no"
            f" {attribute!r}{did_you_mean(attribute, vars(module))}"
        )
    return getattr(module, attribute)


def find_part(name: str, registry: Mapping[str, Any], flag: str) -> Any:
    """Return a registry's entry, or a user's own part. Raises UserError, with near names, for an
    unknown one.
    """
    if is_custom(name):
        return load_custom(name, flag)
    if name not in registry:
        choice = did_you_mean(name, registry) or f"; there are {', '.join(registry)}"
        raise UserError(f"{flag} {name}: unknown{choice}, or your own as module:name")
    return registry[name]


def source_hash(names: Iterable[str]) -> str | None:
    """Hash of the files in which users' own parts are written; None where all parts are built in.

    An edited file makes another run. What it imports is not followed.
    """
    files: set[str] = set()
    for name in filter(is_custom, names):
        part = load_custom(name, name)
        # Where it is written, which need not be the module that it is named in.
        modules = {name.partition(":")[0], getattr(part, "__module__", "")}
        files |= {
            getattr(sys.modules[module], "__file__", None) or ""
            for module in modules & sys.modules.keys()
        }
    if not files:
        return None
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(files - {""}):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()
