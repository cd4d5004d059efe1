"""Source files of users' own parts, found and hashed without importing anything."""

from __future__ import annotations

import hashlib
import importlib.machinery
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from foldblend.errors import UserError
from foldblend.plugins import is_custom
from foldblend.reading import read_bounded

__all__ = ["is_unchanged", "joint_hash", "module_file", "source_hashes"]

MOST_SOURCE = 2**28  # bytes, as a compiled module is hashed too


def _spec(name: str, places: Sequence[str]) -> importlib.machinery.ModuleSpec | None:
    """Return where a module is, one package after the other; no `__init__` runs."""
    spec = None
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        try:
            spec = importlib.machinery.PathFinder.find_spec(".".join(parts[:end]), places)
        except KeyError:
            # A package without __init__ within another one, for which Python looks up the outer
            # one among the imported ones.
            spec = None
            places = [str(Path(place, parts[end - 1])) for place in places]
            continue
        except (ImportError, OSError, ValueError):
            spec = None
        if spec is None:
            return None
        inside: Any = spec.submodule_search_locations
        # Listed otherwise, the places of a package without __init__ are computed anew.
        places = [*getattr(inside, "_path", inside or ())]
    return spec


def module_file(name: str) -> Path | None:
    """Return the file that an import of a module would execute, or has executed.

    None if there is none: the module is built in, absent, or a package without `__init__`.

    Examples
    --------
    >>> module_file("foldblend.sources").name
    'sources.py'
    """
    if name in sys.modules:
        file = getattr(sys.modules[name], "__file__", None)
        return None if file is None else Path(file)
    here = str(Path.cwd())
    spec = _spec(name, [*sys.path, *([] if here in sys.path else [here])])
    if spec is None or not spec.has_location or spec.origin is None:
        return None
    return Path(spec.origin)


def _with_packages(module: str) -> list[str]:
    """Return a module with the packages around it, all of which an import executes."""
    parts = module.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def _hash_of(files: Iterable[Path]) -> str | None:
    """Return the hash of files, None where one cannot be read."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        for file in files:
            digest.update(read_bounded(file, most=MOST_SOURCE))
    except UserError:
        return None
    return digest.hexdigest()


def _hashes(modules: Iterable[str]) -> dict[str, str]:
    """Return the hash of each module that has a file."""
    files = {module: module_file(module) for module in modules}
    found = {module: _hash_of([file]) for module, file in files.items() if file is not None}
    return {module: one for module, one in found.items() if one is not None}


def source_hashes(name: str, part: Any) -> dict[str, str]:
    """Return the hashes of a part's source files by module, for run.json.

    Parameters
    ----------
    name
        The part as module:name.
    part
        The imported part, which may be defined in another module.
    """
    modules = [name.partition(":")[0], getattr(part, "__module__", None) or ""]
    return _hashes(dict.fromkeys(one for module in modules for one in _with_packages(module)))


def _is_of_python(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names


def is_unchanged(name: str, recorded: Mapping[str, Any]) -> bool:
    """Return whether the source of a part is what `source_hashes` recorded.

    Modules of Python itself are never a user's part, and their hashes are known to everybody.
    """
    own = _with_packages(name.partition(":")[0])
    if _is_of_python(own[0]) or own[-1] not in recorded:
        return False
    return _hashes(dict.fromkeys([*own, *map(str, recorded)])) == dict(recorded)


def joint_hash(names: Iterable[str]) -> str | None:
    """Return the hash of the modules that parts are named after, as `plugins.source_hash` joins it.

    It differs from that one if a part is defined in another module. None where a module has no
    file, or is one of Python itself.
    """
    modules = {name.partition(":")[0] for name in names if is_custom(name)}
    if any(_is_of_python(module) for module in modules):
        return None
    files = [module_file(module) for module in modules]
    if not files or None in files:
        return None
    return _hash_of(sorted({file for file in files if file is not None}, key=str))
