"""Whether two configurations make the same run: what a run key hashes, and what an existing run
keeps.

`pipeline.prepare` joins the hash with those of data and weights into the run key; `pipeline.cv`
compares that with the one in run.json. Which settings decide the logits is said at their fields
(see `foldblend.flags.Flag.identity`).
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

__all__ = ["changed_keys", "identity_hash", "keep_defaults"]


def _identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that decide the logits; a flag that came later only where it changes what
    was before it.
    """
    # of a later version, or somebody's own line
    known = flags_of(RunConfig)
    other = Flag()
    chooses = settings.get("select", "last") != "last"  # an epoch, by --metric
    return {
        key: value
        for key, value in settings.items()
        if (key == "metric" and chooses)
        or (known.get(key, other).identity and value != known.get(key, other).before)
    }


def identity_hash(config: RunConfig) -> str:
    """Hash of the settings that decide the logits."""
    text = json.dumps(_identity(flatten(config)), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def changed_keys(old: Mapping[str, Any], new: RunConfig) -> str:
    """Return "epochs 4 -> 8, lr 0.001 -> 0.01": the deciding settings that differ, or ""."""
    before = values_before() | _identity(old)
    after = values_before() | _identity(flatten(new))
    changed = (
        f"{key} {before.get(key)} -> {value}"
        for key, value in after.items()
        if before.get(key) != value
    )
    return listed(changed, most=5)


def keep_defaults(config: RunConfig, written: Mapping[Any, Any]) -> RunConfig:
    """Return the settings with defaults that have changed as a run has them that was started
    before.

    `written` is its config.yaml, as a mapping. What was typed stays as it was typed.
    """
    kept = {}
    for name, about in flags_of(RunConfig).items():
        value = written.get(name, about.before)
        was_default = value in about.formerly or (name not in written and value is not ALWAYS)
        if written and was_default and name not in config.typed:
            kept[name] = value
    return dataclasses.replace(replace(config, **kept), typed=config.typed)
