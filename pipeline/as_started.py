"""Settings with which an existing run is continued: those that it was started with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foldblend.flags import flags_of
from pipeline.config.identity import keep_defaults
from pipeline.config.run import RunConfig
from pipeline.config.settings import flatten, replace
from pipeline.engines.registry import ENGINES, TORCH

__all__ = ["as_started"]

# Settings whose "auto" is decided once per run, with the values that it may become.
DECIDED = {
    "compile": ("on", "off"),
    "amp_dtype": ("bfloat16", "float16"),
    "infer_engine": (TORCH, *ENGINES),
}
# A refit that a run has stays when the command does not name one.
REFIT = ("refit", "refit_models", "refit_share")


def as_started(config: RunConfig, written: Mapping[Any, Any]) -> RunConfig:
    """Return the settings for continuing a run; `written` is its config.yaml.

    Defaults that changed in the meantime keep the values that the run was started with, and so do
    the number of threads and what "auto" has decided of --compile, --amp-dtype and --infer-engine,
    which may change the last bits of results.
    """
    threads = written.get("threads")
    config = keep_defaults(config, written)
    given = flatten(config)
    for name, values in DECIDED.items():
        value = written.get(name, flags_of(RunConfig)[name].before) if written else None
        if given[name] == "auto" and value in values:
            config = replace(config, **{name: value})
    if config.machine.threads is None and isinstance(threads, int):
        config = replace(config, threads=threads)
    if config.train.refit is None and written.get("refit") is not None:
        kept = [name for name in REFIT if name in written and name not in config.typed]
        config = replace(config, **{name: written[name] for name in kept})
    return config
