"""Settings of a run as config.yaml has them, decided by flags, data and machine."""

from __future__ import annotations

import dataclasses
import glob
from pathlib import Path

from foldblend.cluster.names import AUTO, LOCAL
from foldblend.files import exists, home, is_file
from foldblend.flags import flags_of
from foldblend.plugins import is_custom
from folds.data.manifest import Manifest
from pipeline.cluster.settings import decide_machine
from pipeline.config.labels import TEST
from pipeline.config.run import RunConfig
from pipeline.config.settings import flatten, replace
from pipeline.levels import levels_settings
from pipeline.machine import rows_of
from pipeline.models.elsewhere import absolute

__all__ = ["settings_of_run"]


def _whole_pattern(text: str | None) -> str | None:
    """Return --test as an absolute path or pattern.

    The part that is added to a pattern is taken literally, as folders may have [ or * in their
    names.
    """
    if text is None:
        return None
    path = home(text)
    if exists(path) or path.is_absolute():
        return str(path.resolve())
    return str(Path(glob.escape(str(Path.cwd())), path))


def settings_of_run(config: RunConfig, manifest: Manifest, size: str, name: str) -> RunConfig:
    """Return the settings, with all decided that depend on the data and the machine.

    Paths are absolute, so that config.yaml can be used from any folder (modules of custom parts
    must be importable there).
    """
    given = flatten(config)
    paths = {
        key: given[key] and str(home(given[key]).resolve())
        for key in (name for name, about in flags_of(RunConfig).items() if about.path)
    }
    paths["test"] = _whole_pattern(config.data.test)
    if config.labels.unlabelled != TEST:
        paths["unlabelled"] = _whole_pattern(config.labels.unlabelled)
    order = config.data.class_order
    if order is not None and is_file(home(order)):
        paths["class_order"] = str(home(order).resolve())
    root = None if config.data.csv else str(manifest.root.resolve())
    # For a custom data set, --data may be anything that its reader understands.
    if config.data.dataset and config.data.data:
        root = (
            str(Path(config.data.data).resolve())
            if Path(config.data.data).exists()
            else config.data.data
        )
    paths["backbone"] = absolute(config.model.backbone)
    chosen = config.machine
    if config.train.frozen:
        # The heads of all folds are fitted together.
        chosen = dataclasses.replace(chosen, parallel_folds="1")
    if is_custom(config.augment.augment):
        # Custom augmentations run on the CPU.
        chosen = dataclasses.replace(chosen, augment_on="cpu")
    machine = decide_machine(chosen)
    batch_size = config.infer.validation_batch_size or rows_of(machine["device"])
    decided = replace(
        config,
        **paths,
        **levels_settings(manifest),
        data="demo" if manifest.is_demo else root,
        img_size=size,
        name=name,
        seeds=max(config.train.num_ingredients, 1),
        config=None,
        # Where the same command runs another time is not for config.yaml to say.
        backend=LOCAL,
        ray_address=AUTO,
        only_folds=None,
        resume=True,
        trust_parts=False,
        validation_batch_size=batch_size,
        **machine,
    )
    # What was decided here was not typed.
    return dataclasses.replace(decided, typed=config.typed)
