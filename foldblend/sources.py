"""Source files of users' own parts, found and hashed without importing anything."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.machinery
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from foldblend.errors import UserError
from foldblend.plugins import is_custom
from foldblend.reading import read_bounded
from foldblend.siblings import PACKAGES

__all__ = ["is_own_source", "is_unchanged", "joint_hash", "module_file", "source_hashes"]

OURS = {*PACKAGES, "foldblend"}
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


@functools.cache
def _library_folders() -> tuple[Path, ...]:
    """Return the folders of Python itself and of what is installed."""
    paths = sysconfig.get_paths()
    found = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    found |= {*site.getsitepackages(), site.getusersitepackages()}
    return tuple(Path(one).resolve() for one in found)


def is_outside(file: Path | None) -> bool:
    """Return whether a module's file is a user's own: neither installed nor of Python.

    What is installed has the same source on many machines, so that a hash of it says nothing.
    """
    if file is None:
        return False
    place = file.resolve()
    return not any(place.is_relative_to(folder) for folder in _library_folders())


def is_own_source(file: Path | None) -> bool:
    """Return whether a module's file is source code of a user (see `is_outside`)."""
    return file is not None and file.suffix == ".py" and is_outside(file)


def _is_import_call(node: ast.Call) -> bool:
    """Return whether a call imports a module by a name that stands in the source."""
    named = getattr(node.func, "attr", getattr(node.func, "id", ""))
    given = node.args[0] if node.args else None
    return (
        named in ("import_module", "__import__")
        and isinstance(given, ast.Constant)
        and isinstance(given.value, str)
        and not given.value.startswith(".")
    )


def _imports_of(module: str, file: Path) -> Iterator[str]:
    """Yield the modules that a source file may import, by its text."""
    try:
        tree = ast.parse(read_bounded(file, most=MOST_SOURCE))
    except (UserError, SyntaxError, ValueError, RecursionError, MemoryError):
        return
    parts = module.split(".")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.Call) and _is_import_call(node):
            yield str(node.args[0].value)  # type: ignore[attr-defined]
        elif isinstance(node, ast.ImportFrom):
            # One dot is the package itself, which a module's name has before its last part.
            last = len(parts) - node.level + (file.name == "__init__.py")
            outer = parts[:last] if node.level else []
            base = ".".join([*outer, *([node.module] if node.module else [])])
            yield base
            # A name may be that of a module as well.
            yield from (f"{base}.{one.name}" for one in node.names)


def _with_imported(modules: Iterable[str]) -> list[str]:
    """Return modules with the user's own ones that they import, directly or indirectly."""
    found = dict.fromkeys(modules)
    left = [*found]
    while left:
        module = left.pop()
        file = module_file(module)
        if file is None or not is_own_source(file) or module.partition(".")[0] in OURS:
            continue
        imported = {one for name in _imports_of(module, file) for one in _with_packages(name)}
        for name in sorted(imported - found.keys()):
            of_ours = name.partition(".")[0] in OURS
            # A compiled module is hashed too, though its imports are not known.
            if name and not of_ours and not _is_of_python(name) and is_outside(module_file(name)):
                found[name] = None
                left.append(name)
    return [*found]


def source_hashes(name: str, part: Any) -> dict[str, str]:
    """Return the hashes of a part's source files by module, for run.json.

    Modules of the user's own that they import are included.

    Parameters
    ----------
    name
        The part as module:name.
    part
        The imported part, which may be defined in another module.
    """
    modules = [name.partition(":")[0], getattr(part, "__module__", None) or ""]
    return _hashes(_with_imported(one for module in modules for one in _with_packages(module)))


def _is_of_python(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names


def is_unchanged(name: str, recorded: Mapping[str, Any]) -> bool:
    """Return whether the source of a part is what `source_hashes` recorded.

    Modules of Python itself and installed ones are never a user's part, and their hashes are known
    to everybody.
    """
    own = _with_packages(name.partition(":")[0])
    if _is_of_python(own[0]) or own[-1] not in recorded or not is_own_source(module_file(own[-1])):
        return False
    # Modules that are imported and were not there when the run was made count as a change.
    return _hashes(_with_imported([*own, *map(str, recorded)])) == dict(recorded)


def joint_hash(names: Iterable[str]) -> str | None:
    """Return the hash of the modules that parts are named after, as `plugins.source_hash` joins it.

    It differs from that one if a part is defined in another module. None where a module has no
    file, or is not a user's own.
    """
    modules = {name.partition(":")[0] for name in names if is_custom(name)}
    if any(_is_of_python(module) for module in modules):
        return None
    files = [module_file(module) for module in modules]
    if not files or not all(map(is_own_source, files)):
        return None
    return _hash_of(sorted({file for file in files if file is not None}, key=str))
