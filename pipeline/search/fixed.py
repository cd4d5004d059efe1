"""Settings that all trials of a search share, with the reasons."""

from __future__ import annotations

import dataclasses

from folds.config import DataConfig, SplitConfig
from pipeline.config.labels import LabelsConfig
from pipeline.config.run import MachineConfig, OutputConfig

__all__ = ["FIXED"]

_GROUPS = {
    DataConfig: "all trials have the same data",
    SplitConfig: "trials are compared on the same folds",
    MachineConfig: "it changes the speed, not what is learned",
    LabelsConfig: "a search tries no labels of other models",
    OutputConfig: "it belongs to the whole search",
}
_SCORES = "trials are compared by one score"
_AFTER = "it comes after the folds, whose score it does not change"

FIXED: dict[str, str] = {
    **{field.name: why for group, why in _GROUPS.items() for field in dataclasses.fields(group)},
    "metric": _SCORES,
    "score_by": _SCORES,
    "group_pool": _SCORES,
    "seed": "the best seed is luck; train several seeds and blend them (--seeds)",
    "seeds": "a trial is one run; train several seeds of the best settings afterwards",
    "soup": "a trial is one run; make a soup of the best settings afterwards",
    "refit": _AFTER,
    "refit_models": _AFTER,
    "refit_share": _AFTER,
    "select": "scores of epochs that are chosen differently cannot be compared",
    "validation_batch_size": "it changes the speed, not what is learned",
    "infer_engine": "it changes the speed, not what is learned",
}
"""Why a setting cannot be in a space, by its name."""
