"""Pluggable parts by name: built-in ones from a registry, users' own as module:name."""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import CodeType
from typing import Any

from foldblend.errors import UserError, did_you_mean, in_a_line, shown
from foldblend.siblings import PACKAGES

__all__ = [
    "find_part",
    "is_custom",
    "is_downloaded",
    "is_own",
    "load_custom",
    "parse_parts",
    "source_hash",
]

# Prefixes of backbones that are described by a config.json on a hub or in a folder.
ELSEWHERE = ("hf-hub:", "hf_hub:", "local-dir:")


def is_downloaded(name: str) -> bool:
    """Return whether a name refers to a backbone on a hub or in a folder (hf-hub:, local-dir:)."""
    return name.startswith(ELSEWHERE)


def is_custom(name: str) -> bool:
    """Return whether a name refers to a user's own part, module:name."""
    return ":" in name and not is_downloaded(name)


def is_own(name: str) -> bool:
    """Return whether a name refers to anything but built-in parts and models of timm."""
    return ":" in name


def parse_parts(text: str | None) -> frozenset[str]:
    """Return the names of parts from the text of --parts, such as "shapes:Net,shapes:Loss".

    Examples
    --------
    >>> sorted(parse_parts("shapes:Net, shapes:Loss"))
    ['shapes:Loss', 'shapes:Net']
    """
    names = [] if text is None else [one.strip() for one in text.split(",")]
    if not all(map(is_own, names)):
        raise UserError(f"--parts {shown(text)}: write names of your own parts, as module:name")
    return frozenset(names)


class _FromSource(importlib.machinery.SourceFileLoader):
    """Loader of a module that compiles its source and takes no compiled file for it.

    A compiled file may be of another source than the one whose hash is compared and recorded.
    """

    def get_code(self, fullname: str) -> CodeType:
        file = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(file), file)
        return code


class _OwnSources:
    """Find users' own modules; those that are installed, and ours, are left to Python."""

    def __init__(self, is_own_source: Callable[[Path], bool]) -> None:
        self.is_own_source = is_own_source

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] in ("foldblend", *PACKAGES):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or type(spec.loader) is not importlib.machinery.SourceFileLoader:
            return None
        if not self.is_own_source(Path(spec.loader.path)):
            return None
        spec.loader = _FromSource(spec.loader.name, spec.loader.path)
        return spec


def _compile_from_source() -> None:
    """Compile users' own modules that this process imports from now on from their source.

    A part may import further modules when it is called.
    """
    if any(isinstance(finder, _OwnSources) for finder in sys.meta_path):
        return
    # The finder must import nothing itself, which would call it again without an end.
    from foldblend.sources import is_own_source

    is_own_source(Path(__file__))
    finders = [*sys.meta_path]
    searches_path = importlib.machinery.PathFinder
    place = finders.index(searches_path) if searches_path in finders else len(finders)
    sys.meta_path.insert(place, _OwnSources(is_own_source))


def load_custom(name: str, flag: str) -> Any:
    """Import a user's own part module:name; the current folder is searched too.

    Raises
    ------
    UserError
        If the module cannot be imported or has no such name; `flag` starts the message.
    """
    module_name, _, attribute = name.partition(":")
    if module_name.partition(".")[0] in PACKAGES:
        raise UserError(
            f"{flag} {name}: {module_name} is one of foldblend's packages; rename your module"
        )
    here = str(Path.cwd())
    if here not in sys.path:
        # At the end, so that a user's random.py does not hide the standard library's.
        sys.path.append(here)
    try:
        _compile_from_source()
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        own = error.name is not None and (
            module_name == error.name or module_name.startswith(error.name + ".")
        )
        why = (
            f"there is no module {module_name}, neither in the current folder nor installed"
            if own
            else f"{module_name} needs {error.name}, which is not installed"
        )
        raise UserError(f"{flag} {name}: {why}") from None
    except Exception as error:  # a user's module may raise anything
        raise UserError(f"{flag} {name}: cannot be imported ({in_a_line(error)})") from None
    if not hasattr(module, attribute):
        raise UserError(
            f"{flag} {name}: {module_name} has no"
            f" {attribute!r}{did_you_mean(attribute, vars(module))}"
        )
    return getattr(module, attribute)


def find_part(name: str, registry: Mapping[str, Any], flag: str) -> Any:
    """Return the entry of a registry, or a user's own part for module:name.

    Raises UserError for an unknown name and suggests similar ones.

    Examples
    --------
    >>> find_part("ce", {"ce": "cross entropy"}, "--loss")
    'cross entropy'
    """
    if is_custom(name):
        return load_custom(name, flag)
    if name not in registry:
        choice = did_you_mean(name, registry) or f"; choose from {', '.join(registry)}"
        raise UserError(f"{flag} {name}: unknown{choice} (your own parts: module:name)")
    return registry[name]


def source_hash(names: Iterable[str]) -> str | None:
    """Return a hash of the source files of users' own parts, or None if all are built in.

    The hash is part of the run key, so an edited file makes a different run. Modules that these
    files import are not included.
    """
    files: set[str] = set()
    for name in filter(is_custom, names):
        part = load_custom(name, name)
        # A part may be defined in another module than the one it is imported from.
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
