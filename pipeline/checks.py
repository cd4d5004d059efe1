"""Flags that do not go together, and parts of a user's own that are not what they should be: told
at the start.
"""

from __future__ import annotations

from foldblend.errors import require
from foldblend.flags import flag_name, flags_of
from foldblend.plugins import find_part, is_custom
from pipeline.config.resolved import ResolvedConfig
from pipeline.config.run import RunConfig
from pipeline.config.settings import flatten
from pipeline.config.train import loss_names, parse_loss
from pipeline.data.augment import check_augmentation
from pipeline.data.preprocess import Preprocess
from pipeline.training.losses import check_loss, loss_parts, takes_mixed
from pipeline.training.optim import SCHEDULES

__all__ = ["check_flags", "check_recipe", "explain", "own_parts"]


def own_parts(config: RunConfig) -> list[str]:
    """Return the names of the user's own parts that a run uses."""
    names = [config.model.backbone, config.augment.augment, config.train.sched]
    names += [
        name for _, name in parse_loss(config.loss.loss)
    ]  # in order: their sources are hashed in it
    return [name for name in names if is_custom(name)]


def check_flags(config: RunConfig) -> None:
    """Raise UserError for flags that contradict one another, before any data is read."""
    train = config.train
    loss = config.loss
    augment = config.augment
    machine = config.machine
    find_part(train.sched, SCHEDULES, "--sched")
    loss_parts(loss)
    within = (
        augment.mixup == 0 and augment.cutmix_mode == "class"
    )  # then labels stay whole, but not their type
    require(
        not augment.mixes or within or takes_mixed(loss),
        f"--loss {loss.loss} with {'--mixup' if augment.mixup else '--cutmix'}: F1 counts whole"
        " images, which mixed ones are not; leave out one of them",
    )
    require(
        not (loss.logit_adjust and loss.sampler == "balanced"),
        "--logit-adjust with --sampler balanced: both make up for class sizes, together they overdo"
        " it; pass one",
    )
    require(
        not loss.logit_adjust or bool(loss_names(loss.loss) & {"ce", "focal"}),
        f"--logit-adjust with --loss {loss.loss}: only ce and focal are adjusted; add one of them",
    )
    own = is_custom(augment.augment)
    require(
        not (own and machine.augment_on == "device"),
        f"--augment {augment.augment} with --augment-on device: your own runs on the CPU; leave"
        " --augment-on out",
    )
    require(
        train.select == "last" or not train.frozen,
        f"--select {train.select} with --finetune head: there are no epochs to choose from; leave"
        " it out",
    )
    require(
        not (train.select != "last" and train.average_last),
        "--average-last with --select: the mean is of the last epochs, whichever is best; pass one"
        " of them",
    )
    require(
        config.model.head == "joint" or not train.frozen,
        "--head attributes with --finetune head: its heads are joint ones; pass --finetune 1, or"
        " leave --head out",
    )
    require(
        not (train.frozen and is_custom(config.model.backbone)),
        f"--finetune head with --backbone {config.model.backbone}: needs one of timm's; pass"
        " --finetune full",
    )


def check_recipe(config: RunConfig, preprocess: Preprocess, *, num_classes: int) -> None:
    """Call the user's own augmentation and losses once. Raises UserError for one that is not what
    it should be.
    """
    width, height = preprocess.stored_size
    check_augmentation(config.augment.augment, width=width, height=height)
    augment = config.augment
    check_loss(config.loss, num_classes, mixed=augment.mixes)


def _idle_flags(config: RunConfig) -> dict[str, str]:
    """Return the flags that differ from their default and do nothing here, each with what it would
    need.
    """
    given = flatten(config)
    default = flatten(RunConfig())
    idle = {}
    for name, about in flags_of(RunConfig).items():
        if given[name] == default[name]:
            continue
        if about.steps and config.train.frozen:
            idle[name] = "another --finetune than head"
        elif about.needs is not None and not about.needs.met(config):
            idle[name] = about.needs.what
    return idle


def explain(config: ResolvedConfig) -> list[str]:
    """Return what a reader of the flags may not expect, one line each."""
    train = config.train
    lines = [
        f"{flag_name(name)} does nothing here: it needs {needs}"
        for name, needs in _idle_flags(config).items()
    ]
    if train.grad_accum_steps > 1 and "f1" in loss_names(config.loss.loss):
        lines.append(
            "--loss f1 with --grad-accum-steps: F1 is that of each batch, not of all that make a"
            " step"
        )
    if train.average_last > train.epochs:
        lines.append(
            f"--average-last {train.average_last}: there are {train.epochs} epochs, so the mean is"
            " of all"
        )
    if train.select == "best":
        lines.append(
            "--select best chooses the epoch on the rows that are scored: this run is marked"
            " optimistic"
        )
    return lines
