"""How a model is trained: optimisation, loss, augmentation. Frozen dataclasses, checked when
made.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import tyro

from foldblend.errors import require
from foldblend.flags import Needs, flag
from foldblend.plugins import is_custom

__all__ = [
    "AugmentConfig",
    "Finetune",
    "LossConfig",
    "TrainConfig",
    "loss_names",
    "parse_finetune",
    "parse_l2",
    "parse_loss",
]

_arg = tyro.conf.arg


def parse_l2(text: str) -> tuple[float, ...] | None:
    """Return the strengths of "1e-3,1e-2", or None for "auto"."""
    if text == "auto":
        return None
    try:
        strengths = tuple(float(part) for part in text.split(","))
    except ValueError:
        strengths = ()
    valid = bool(strengths) and all(0 < one < 1e6 for one in strengths)
    require(valid, f"--head-l2 {text}: pass auto, or positive numbers such as 1e-3,1e-2")
    return tuple(dict.fromkeys(strengths))


@dataclass(frozen=True, slots=True)
class Finetune:
    """How much of a backbone is trained, as --finetune says."""

    last_stages: int | None
    """How many of the last stages; None for all, 0 for none: linear heads on frozen features."""

    @property
    def frozen(self) -> bool:
        """Whether the backbone stays as it is, so that its features can be kept."""
        return self.last_stages == 0


def parse_finetune(text: str) -> Finetune:
    """Return what "full", "head" or a number of stages means."""
    if text in ("full", "head"):
        return Finetune(None if text == "full" else 0)
    valid = text.isdecimal() and int(text) >= 1
    require(
        valid,
        f"--finetune {text}: pass full, head, or the number of last stages to train, such as 2",
    )
    return Finetune(int(text))


def parse_loss(text: str) -> list[tuple[float, str]]:
    """Return (weight, name) of each term of "0.4*f1+0.6*focal"; a weight left out is 1."""
    number = r"(\d+\.?\d*|\.\d+)"
    name = r"([A-Za-z_][\w.]*(?::\w+)?)"
    terms = [
        re.fullmatch(rf"(?:{number}\s*\*\s*)?{name}", part.strip()) for part in text.split("+")
    ]
    valid = all(term is not None and float(term[1] or 1) > 0 for term in terms)
    require(valid, f"--loss {text}: write a name such as ce, or a sum such as 0.4*f1+0.6*focal")
    return [(float(term[1] or 1), term[2]) for term in terms if term is not None]


def loss_names(text: str) -> set[str]:
    """Return the names of the terms of --loss."""
    return {name for _, name in parse_loss(text)}


# What flags go with; a user's own loss or schedule may read any flag.
def _loss(*names: str) -> Needs:
    def met(run: Any) -> bool:
        used = loss_names(run.loss.loss)
        return bool(used & {*names}) or any(map(is_custom, used))

    return Needs(f"--loss {' or '.join(names)}", met)


def _sched(*names: str) -> Needs:
    return Needs(
        f"--sched {' or '.join(names)}",
        lambda run: run.train.sched in names or is_custom(run.train.sched),
    )


WARMS_UP = Needs("another --sched than onecycle", lambda run: run.train.sched != "onecycle")
FROZEN = Needs("--finetune head", lambda run: run.train.frozen)
AUGMENTS = Needs(
    "another --finetune than head", lambda run: not run.train.frozen or run.train.feature_views > 0
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    GROUP: ClassVar = {"steps": True}

    finetune: str = flag("full", worded=True, steps=False)
    """full; the number of last stages to train, such as 2; or head: a linear head on features taken
    once.
    """
    head_l2: str = flag("auto", worded=True, steps=False, needs=FROZEN)
    """Regularisation of --finetune head, such as 1e-3,1e-2: chosen among them within each fold's
    training groups.
    """
    feature_views: int = flag(0, worded=True, steps=False, needs=FROZEN)
    """Augmented copies of each training image for --finetune head."""
    epochs: int | None = flag(None, worded=True, steps=False)
    """Number of epochs, fixed beforehand; default 10, on the demo set 4."""
    batch_size: Annotated[int | None, _arg(aliases=["-b"])] = flag(None, steps=False)
    """Images a forward pass; default 32, on the demo set 16."""
    grad_accum_steps: int = 1
    """Batches that make one training step."""
    opt: str = flag("adamw", worded=True)
    """Any timm optimiser."""
    lr: float = flag(1e-3, worded=True)
    """Peak learning rate."""
    layer_decay: float | None = None
    """Factor of the learning rate from each layer to the one before it, such as 0.75; default:
    none.
    """
    weight_decay: float = 0.02
    """Weight decay; biases and norms are left out."""
    sched: str = flag("cosine", worded=True)
    """Learning rate over the steps: cosine, onecycle, step, plateau, constant, or your own as
    module:name.
    """
    warmup_epochs: float = flag(1.0, needs=WARMS_UP)
    """Epochs of linear warm-up (one-cycle has its own)."""
    min_lr: float = flag(0.0, needs=_sched("cosine", "plateau"))
    """Where cosine and plateau end."""
    decay_epochs: float = flag(3.0, needs=_sched("step"))
    """Epochs between two drops of --sched step."""
    decay_rate: float = flag(0.1, needs=_sched("step", "plateau"))
    """Factor of each drop of --sched step and plateau."""
    patience_epochs: int = flag(2, needs=_sched("plateau"))
    """Epochs without a lower training loss before --sched plateau drops."""
    clip_grad: float | None = None
    """Largest gradient norm."""
    model_ema: bool = flag(False, worded=True)
    """Score the moving average of the weights instead of the last ones."""
    model_ema_decay: float = flag(0.99, needs=Needs("--model-ema", lambda run: run.train.model_ema))
    """Decay of the moving average, a step."""
    average_last: int = flag(0, worded=True)
    """Score the mean of the weights after each of the last so many epochs instead of the last
    ones.
    """
    select: Literal["last", "inner", "best"] = flag("last", worded=True, steps=False)
    """Which epoch is scored: the last; the best on a fifth of the training groups, held out for
    that; or the best on the very rows that are scored, which flatters: that run is marked
    optimistic everywhere.
    """
    seed: int = flag(0, worded=True, steps=False)
    """Seed of weights, order and augmentation."""
    seeds: int = flag(1, worded=True, steps=False, identity=False)
    """Runs with seeds from --seed on, on the same folds, each in a folder of its own."""

    def __post_init__(self) -> None:
        parse_l2(self.head_l2)
        parse_finetune(self.finetune)
        require(self.feature_views >= 0, f"--feature-views {self.feature_views}: pass 0 or more")
        require(self.epochs is None or self.epochs >= 1, f"--epochs {self.epochs}: pass 1 or more")
        require(
            self.batch_size is None or self.batch_size >= 2,
            f"--batch-size {self.batch_size}: pass 2 or more",
        )
        require(
            self.grad_accum_steps >= 1,
            f"--grad-accum-steps {self.grad_accum_steps}: pass 1 or more",
        )
        require(self.lr > 0, f"--lr {self.lr}: pass more than 0")
        decay = self.layer_decay
        require(
            decay is None or 0 < decay <= 1, f"--layer-decay {decay}: pass more than 0, up to 1"
        )
        require(self.weight_decay >= 0, f"--weight-decay {self.weight_decay}: pass 0 or more")
        require(
            0 <= self.warmup_epochs < 1e6, f"--warmup-epochs {self.warmup_epochs}: pass 0 or more"
        )
        require(
            0 <= self.min_lr < self.lr,
            f"--min-lr {self.min_lr}: pass 0 up to, not including, --lr {self.lr:g}",
        )
        require(self.decay_epochs > 0, f"--decay-epochs {self.decay_epochs}: pass more than 0")
        require(0 < self.decay_rate < 1, f"--decay-rate {self.decay_rate}: pass between 0 and 1")
        require(
            self.patience_epochs >= 0, f"--patience-epochs {self.patience_epochs}: pass 0 or more"
        )
        require(
            0 < self.model_ema_decay < 1,
            f"--model-ema-decay {self.model_ema_decay}: pass between 0 and 1",
        )
        require(
            self.clip_grad is None or self.clip_grad > 0,
            f"--clip-grad {self.clip_grad}: pass more than 0",
        )
        require(self.average_last >= 0, f"--average-last {self.average_last}: pass 0 or more")
        twice = self.model_ema and self.average_last > 0
        require(
            not twice,
            "--model-ema with --average-last: two averages of the same weights; pass one of them",
        )
        require(self.seed >= 0, f"--seed {self.seed}: pass 0 or more")
        require(self.seeds >= 1, f"--seeds {self.seeds}: pass 1 or more")

    @property
    def tuned(self) -> Finetune:
        """What --finetune means."""
        return parse_finetune(self.finetune)

    @property
    def frozen(self) -> bool:
        """Whether nothing but linear heads is trained, on features taken once."""
        return self.tuned.frozen


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    GROUP: ClassVar = {"steps": True}

    loss: str = "ce"
    """ce (cross entropy), focal, f1 (soft macro F1), your own as module:name, or a sum such as
    0.4*f1+0.6*focal.
    """
    smoothing: float = flag(0.1, needs=_loss("ce", "focal"))
    """Label smoothing of ce and focal."""
    focal_gamma: float = flag(2.0, needs=_loss("focal"))
    """How much the focal loss turns from rows that are right already; 0 is cross entropy."""
    logit_adjust: float = 0.0
    """Multiple of the log class frequencies that ce and focal add to the logits; 1 is the balanced
    softmax.
    """
    sampler: Literal["none", "balanced", "group"] = "none"
    """Rows of an epoch: each once; drawn by class; or drawn so that every group is as likely,
    however many it has.
    """
    sampler_power: float = flag(
        1.0, needs=Needs("--sampler balanced", lambda run: run.loss.sampler == "balanced")
    )
    """Of --sampler balanced: images are drawn in proportion to their class's size to minus this;
    1 evens all out.
    """

    def __post_init__(self) -> None:
        parse_loss(self.loss)
        require(
            0 <= self.smoothing < 1, f"--smoothing {self.smoothing}: pass 0 up to, not including, 1"
        )
        require(self.focal_gamma >= 0, f"--focal-gamma {self.focal_gamma}: pass 0 or more")
        require(self.logit_adjust >= 0, f"--logit-adjust {self.logit_adjust}: pass 0 or more")
        require(
            0 < self.sampler_power <= 2,
            f"--sampler-power {self.sampler_power}: pass more than 0, up to 2",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    GROUP: ClassVar = {"steps": True}

    augment: str = flag("default", steps=False, needs=AUGMENTS)
    """Training augmentation: default, none, or your own as module:name."""
    mixup: float = 0.0
    """Mixup: two images are averaged, with weights from Beta(this, this); 0 is off."""
    cutmix: float = 0.0
    """CutMix: a box of an image, whose share is from Beta(this, this), is taken from another; 0 is
    off.
    """
    cutmix_mode: Literal["any", "class", "half"] = "any"
    """CutMix's partner: any; of the same class; or the left or right half of one from a rare
    class.
    """
    mixup_prob: float = flag(1.0, needs=Needs("--mixup or --cutmix", lambda run: run.augment.mixes))
    """Share of batches that are mixed; with both mixup and CutMix on, half of these each."""
    reprob: float = 0.0
    """Probability of erasing a random box of an image."""

    def __post_init__(self) -> None:
        require(self.mixup >= 0, f"--mixup {self.mixup}: pass 0 or more")
        require(self.cutmix >= 0, f"--cutmix {self.cutmix}: pass 0 or more")
        needs = self.cutmix_mode == "any" or self.cutmix > 0
        require(needs, f"--cutmix-mode {self.cutmix_mode}: goes with --cutmix 1")
        require(0 <= self.mixup_prob <= 1, f"--mixup-prob {self.mixup_prob}: pass 0 to 1")
        require(0 <= self.reprob <= 1, f"--reprob {self.reprob}: pass 0 to 1")

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with others."""
        return self.mixup > 0 or self.cutmix > 0
