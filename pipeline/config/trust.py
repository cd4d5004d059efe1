"""Which users' own parts are imported: those that are typed, and not what a run folder names.

A run folder may come from anybody, and importing a part runs its code. So a part that is named by
the config.yaml of a run is imported only if it is typed in this command, or with --trust-parts if
its source is what the run was made with. A part in a user's own settings counts as typed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foldblend.errors import UserError, shown
from foldblend.flags import flag_name, flags_of
from foldblend.plugins import is_downloaded, is_own
from foldblend.reading import read_json_file
from foldblend.sources import is_own_source, is_unchanged, joint_hash, module_file
from pipeline.config.run import RunConfig
from pipeline.config.settings import flatten, read_config_file, replace

__all__ = [
    "NOTHING",
    "OwnPartError",
    "Trust",
    "check_typed",
    "is_known",
    "own_parts",
    "trusted_config",
]


class OwnPartError(UserError):
    """Error for a user's own part that a run names, and that may not be imported."""


def own_parts(config: RunConfig, settings: Collection[str] | None = None) -> list[tuple[str, str]]:
    """Return (setting, name) of each part in the settings that is not built in.

    Parameters
    ----------
    config
        The settings.
    settings
        Settings that are looked at; None: all that can name parts.
    """
    given = flatten(config)
    return [
        (setting, name)
        for setting, about in flags_of(RunConfig).items()
        if about.parts is not None and (settings is None or setting in settings)
        for name in about.parts(given[setting])
        if is_own(name)
    ]


@dataclass(frozen=True, slots=True)
class Trust:
    """Hold what a user said about own parts that a run's settings name."""

    typed: frozenset[str] = field(default_factory=frozenset)
    """Names that the user typed in this command."""
    unchanged: bool = False
    """Whether parts are imported whose source is what the run was made with (--trust-parts)."""
    flag: str | None = "--parts"
    """Flag with which names are typed; None: that of each setting."""

    def check(self, file: Path, parts: Sequence[tuple[str, str]]) -> None:
        """Raise OwnPartError for the first part that may not be imported.

        Parameters
        ----------
        file
            config.yaml, which names the parts.
        parts
            Setting and name of each part that would be imported.
        """
        for setting, name in parts:
            if name in self.typed:
                continue
            flag = self.flag or flag_name(setting)
            what = f"{file}: {setting} {shown(name)}"
            # The whole name, as a name that is cut cannot be typed.
            cure = f"type {flag} {shown(name, most=400)}"
            if not self.unchanged:
                raise OwnPartError(
                    f"{what} is code of its own; {cure} again, or pass --trust-parts if its source"
                    " is unchanged"
                )
            known = is_known(file, name)
            if known is None:
                raise OwnPartError(
                    f"{what}: run.json has no hash that its source could be compared with; {cure}"
                    " to import it all the same"
                )
            if not known and _is_installed(name):
                raise OwnPartError(
                    f"{what} is of Python, of an installed package or compiled, and --trust-parts"
                    f" imports no such code; {cure} to import it"
                )
            if not known:
                raise OwnPartError(
                    f"{what}: its source is not what the run was made with; restore it, or {cure}"
                    " to import it as it is"
                )


NOTHING = Trust()
"""Trust in no part of a user's own."""


def _is_installed(name: str) -> bool:
    """Return whether a part's module is found and is no source of a user's own."""
    if is_downloaded(name):
        return False
    file = module_file(name.partition(":")[0])
    return file is not None and not is_own_source(file)


def _record(file: Path) -> Mapping[str, Any]:
    """Return the run.json beside a file of settings; empty if it cannot be used."""
    try:
        info = read_json_file(file.parent / "run.json", cure="run it again")
    except UserError:
        return {}
    return info if isinstance(info, dict) else {}


def is_known(file: Path, name: str) -> bool | None:
    """Return whether a part's source is that of its run, None where nothing can be compared.

    `file` is the config.yaml of the run. Nothing is imported.
    """
    info = _record(file)
    sources = info.get("sources")
    recorded = sources.get(name) if isinstance(sources, dict) else None
    if isinstance(recorded, dict):
        if is_downloaded(name):
            # Reads a file or the network, and runs nothing.
            from pipeline.models.elsewhere import description_hash

            return {"config.json": description_hash(name)} == recorded
        return is_unchanged(name, recorded)
    # Earlier versions kept one hash of all parts but readers of data.
    run_key = info.get("run_key")
    wanted = run_key.get("own modules") if isinstance(run_key, dict) else None
    flags = flags_of(RunConfig)
    parts = own_parts(read_config_file(file))
    names = [one for setting, one in parts if flags[setting].identity]
    if name not in names or not isinstance(wanted, str):
        return None
    # Where it differs, a part may have changed or be defined in another module.
    return True if joint_hash(names) == wanted else None


def check_typed(config: RunConfig) -> None:
    """Raise OwnPartError for a part that was read back from a run and may not be imported.

    Settings that the user typed, or has in a file of settings outside of run folders, are free.
    """
    trust = Trust(unchanged=config.output.trust_parts, flag=None)
    for setting, name in own_parts(config, config.read_back):
        trust.check(Path(config.read_back[setting]), [(setting, name)])


def trusted_config(file: Path, trust: Trust, settings: Collection[str]) -> RunConfig:
    """Return the settings of a run, after a check of the parts that the named settings have.

    Other settings that name a part of a user's own get their default, as the part is not needed.
    """
    config = read_config_file(file)
    trust.check(file, own_parts(config, settings))
    default = flatten(RunConfig())
    unused = {name: default[name] for name, _ in own_parts(config) if name not in settings}
    return dataclasses.replace(replace(config, **unused), read_back={})
