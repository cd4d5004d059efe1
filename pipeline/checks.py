"""Checks at the start of a run: contradicting flags, unused flags and broken custom parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foldblend.errors import listed, require
from foldblend.flags import flag_name, flags_of
from foldblend.plugins import find_part, is_custom
from foldblend.scores.by_group import GROUP, check_one_label
from foldblend.scores.metrics import check_order, is_ordered
from foldblend.scores.rows import Rows
from folds.data.manifest import Manifest
from pipeline.config.resolved import ResolvedConfig
from pipeline.config.run import RunConfig
from pipeline.config.settings import flatten
from pipeline.config.train import loss_names
from pipeline.data.augment import check_augmentation
from pipeline.data.preprocess import Preprocess
from pipeline.models.attribute_head import ordinal_names
from pipeline.training.losses import check_loss, loss_parts, takes_mixed
from pipeline.training.optim import SCHEDULES

__all__ = ["check_flags", "check_orders", "check_recipe", "check_score_by", "explain"]


def check_flags(config: RunConfig) -> None:
    """Raise UserError for flags that contradict each other, before data are read."""
    train = config.train
    loss = config.loss
    augment = config.augment
    machine = config.machine
    find_part(train.sched, SCHEDULES, "--sched")
    loss_parts(loss)
    # CutMix within a class keeps labels whole, so --loss f1 can be computed from them.
    within = augment.mixup == 0 and augment.cutmix_mode == "class"
    require(
        not augment.mixes or within or takes_mixed(loss),
        f"--loss {loss.loss} with {'--mixup' if augment.mixup else '--cutmix'}: F1 needs whole"
        " labels, and mixed images have shares of two; leave out one of them",
    )
    require(
        config.labels.source is None or train.refit != "full",
        f"--refit full with {config.labels.source_flag}: no model of it has seen all images, so"
        " none may label them for a refit; leave --refit out, or pass --refit soup",
    )
    require(
        config.labels.teacher is None or takes_mixed(loss),
        f"--loss {loss.loss} with --teacher: F1 needs whole labels, and a teacher gives shares of"
        " classes; leave out one of them",
    )
    require(
        not (loss.logit_adjust and loss.sampler == "balanced"),
        "--logit-adjust with --sampler balanced: both correct for class sizes, so together they"
        " correct twice; pass one",
    )
    require(
        not loss.logit_adjust or bool(loss_names(loss.loss) & {"ce", "focal"}),
        f"--logit-adjust with --loss {loss.loss}: only ce and focal can be adjusted;"
        " add one of them",
    )
    own = is_custom(augment.augment)
    require(
        not (own and machine.augment_on == "device"),
        f"--augment {augment.augment} with --augment-on device: a custom augmentation runs on"
        " the CPU; leave --augment-on out",
    )
    require(
        train.select == "last" or not train.frozen,
        f"--select {train.select} with --finetune head: it has no epochs to choose from; leave"
        " --select out",
    )
    require(
        not (train.soup and train.seeds == 1),
        "--soup: it averages the weights of several seeds; add --seeds 3",
    )
    require(
        not (train.soup and train.frozen),
        "--soup with --finetune head: a linear head is the same for every seed; pass --finetune"
        " full, or leave --soup out",
    )
    require(
        not (train.soup and train.select == "best"),
        "--soup with --select best: the epochs would be chosen on the rows that are scored; pass"
        " --select inner, or leave --select out",
    )
    require(
        not (train.select != "last" and train.average_last),
        "--average-last with --select: the average is over the last epochs, not around the best"
        " one; pass one of them",
    )
    require(
        config.model.head == "joint" or not train.frozen,
        "--head attributes with --finetune head: its heads are joint over all classes; pass"
        " --finetune 1, or leave --head out",
    )
    require(
        not (train.frozen and is_custom(config.model.backbone)),
        f"--finetune head with --backbone {config.model.backbone}: it needs a backbone of"
        " timm; pass --finetune full",
    )


def check_orders(config: RunConfig, manifest: Manifest, written: Mapping[Any, Any]) -> None:
    """Raise UserError for a setting that needs an order which classes or an attribute lack.

    Parameters
    ----------
    config
        The settings.
    manifest
        The data.
    written
        The config.yaml of the run that is continued; its settings were accepted before. Empty for
        a new run.
    """
    metric = config.output.metric
    own = config.data.dataset is not None
    if written.get("metric") != metric:
        cure = "pass --class-order a,b,c" if not own else "give the ImageTable ordered=True"
        ordered = is_ordered(manifest.classes, manifest.ordered)
        check_order(metric, ordered=ordered, cure=cure)
    ordinal = config.model.ordinal
    if ordinal is None or written.get("ordinal") == ordinal:
        return
    cure = "give its Attribute ordered=True"
    if not own:
        cure = (
            "pass --class-order a,b,c, along which values take the order in which they first occur"
        )
    for one in manifest.attributes:
        asked = one.name in ordinal_names(ordinal)
        require(
            not asked or is_ordered(one.values, one.ordered),
            f"--ordinal {one.name}: its values are words without an order ({listed(one.values)});"
            f" {cure}",
        )


def check_score_by(config: RunConfig, manifest: Manifest) -> None:
    """Raise UserError for --score-by group if images of a group differ in their class."""
    if config.output.score_by == GROUP:
        train = manifest.train
        rows = Rows.of(
            train["label"].to_numpy(), train["group"].to_numpy(), group_name=manifest.group_name
        )
        check_one_label(rows)


def check_recipe(config: RunConfig, preprocess: Preprocess, *, num_classes: int) -> None:
    """Call custom augmentations and losses once; raise UserError if one fails."""
    width, height = preprocess.stored_size
    check_augmentation(config.augment.augment, width=width, height=height)
    has_shares = config.augment.mixes or config.labels.teacher is not None
    check_loss(config.loss, num_classes, mixed=has_shares)


def _idle_flags(config: RunConfig) -> dict[str, str]:
    """Return {setting: what it needs} of changed settings that have no effect in this run."""
    given = flatten(config)
    default = flatten(RunConfig())
    idle = {}
    for name, about in flags_of(RunConfig).items():
        needs = needs_of(name, config)
        if needs is not None and given[name] not in (default[name], *about.formerly):
            idle[name] = needs
    return idle


def needs_of(name: str, config: RunConfig) -> str | None:
    """Return what a setting needs to have an effect in this run, or None if it has one."""
    about = flags_of(RunConfig)[name]
    if about.steps and config.train.frozen:
        return "a --finetune other than head"
    if about.needs is not None and not about.needs.met(config):
        return about.needs.what
    return None


def explain(config: ResolvedConfig) -> list[str]:
    """Return notes on flags whose effect may surprise, one line each."""
    train = config.train
    lines = [
        f"{flag_name(name)} has no effect here: it needs {needs}"
        for name, needs in _idle_flags(config).items()
    ]
    if train.grad_accum_steps > 1 and "f1" in loss_names(config.loss.loss):
        lines.append(
            "--loss f1 with --grad-accum-steps: F1 is computed per batch, not over all"
            " batches of a step"
        )
    if train.average_last > train.epochs:
        lines.append(
            f"--average-last {train.average_last}: the run has {train.epochs} epochs, so all are"
            " averaged"
        )
    if train.select == "best":
        lines.append(
            "--select best chooses the epoch on the held-out rows that are also scored, so this run"
            " is marked OPTIMISTIC"
        )
    return lines
