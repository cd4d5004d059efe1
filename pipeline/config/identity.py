"""Identity of a configuration: the settings that decide a run's logits, and their hash.

`pipeline.prepare` joins the hash with those of data and weights into the run key; `pipeline.cv`
compares the key with the one in run.json. Each setting's field has a mark that tells whether it
decides the logits (see `foldblend.flags.Flag.identity`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from foldblend.errors import listed
from foldblend.flags import ALWAYS, Flag, flags_of
from pipeline.config.run import RunConfig
from pipeline.config.settings import flatten, replace, values_before

__all__ = ["changed_keys", "identity_hash", "identity_settings", "keep_defaults"]


def identity_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that decide the logits.

    A setting that was added later is left out while it has the value that reproduces older
    versions, so that the keys of their runs stay valid.
    """
    known = flags_of(RunConfig)
    # For a setting of a later version, or an unknown line in a user's file.
    other = Flag()
    # --select inner and best choose the epoch by --metric, which then decides the logits too.
    chooses = settings.get("select", "last") != "last"
    return {
        key: value
        for key, value in settings.items()
        if (key == "metric" and chooses)
        or (known.get(key, other).identity and value != known.get(key, other).before)
    }


def identity_hash(config: RunConfig) -> str:
    """Return the hash of the settings that decide the logits."""
    text = json.dumps(identity_settings(flatten(config)), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def changed_keys(old: Mapping[str, Any], new: RunConfig) -> str:
    """Return the settings that decide the logits and differ, or "" where none does.

    The text is a list such as "epochs 4 -> 8, lr 0.001 -> 0.01".
    """
    before = values_before() | identity_settings(old)
    after = values_before() | identity_settings(flatten(new))
    changed = (
        f"{key} {before.get(key)} -> {value}"
        for key, value in after.items()
        if before.get(key) != value
    )
    return listed(changed, most=5)


def keep_defaults(config: RunConfig, written: Mapping[Any, Any]) -> RunConfig:
    """Return the settings with the defaults that a run was started with, where they have changed.

    A run of an earlier version can so be resumed. Settings that the user gave stay as given.

    Parameters
    ----------
    config
        The settings of the command.
    written
        The config.yaml of the existing run, as a mapping; empty where there is no run.
    """
    kept = {}
    for name, about in flags_of(RunConfig).items():
        value = written.get(name, about.before)
        was_default = value in about.formerly or (name not in written and value is not ALWAYS)
        if written and was_default and name not in config.typed:
            kept[name] = value
    return dataclasses.replace(replace(config, **kept), typed=config.typed)
