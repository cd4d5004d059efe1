"""Training settings: optimisation, loss and augmentation, checked on construction.

See `pipeline.config.run` for the rules that fields and their help texts follow.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import tyro

from foldblend.errors import require
from foldblend.flags import Needs, flag, one_part
from foldblend.plugins import is_custom

__all__ = [
    "AUTO",
    "FIND",
    "AugmentConfig",
    "Finetune",
    "LossConfig",
    "TrainConfig",
    "check_min_lr",
    "loss_names",
    "parse_finetune",
    "parse_l2",
    "parse_loss",
]

_arg = tyro.conf.arg
AUTO = "auto"
FIND = "find"


def check_min_lr(min_lr: float, lr: float | None, *, whence: str = "") -> None:
    """Raise UserError unless a lowest learning rate is below the peak; None: not decided yet.

    `whence` says what has decided the peak, if the user has not.
    """
    require(min_lr >= 0, f"--min-lr {min_lr}: pass 0 or more")
    require(
        lr is None or min_lr < lr,
        f"--min-lr {min_lr}: pass 0 up to, not including, --lr {lr or 0:g}{whence}",
    )


def parse_l2(text: str) -> tuple[float, ...] | None:
    """Return the L2 penalties from text such as "1e-3,1e-2", or None for "auto"."""
    if text == "auto":
        return None
    try:
        penalties = tuple(float(part) for part in text.split(","))
    except ValueError:
        penalties = ()
    valid = bool(penalties) and all(0 < one < 1e6 for one in penalties)
    require(valid, f"--head-l2 {text}: pass auto, or positive numbers such as 1e-3,1e-2")
    return tuple(dict.fromkeys(penalties))


@dataclass(frozen=True, slots=True)
class Finetune:
    """The part of a backbone that is trained (--finetune)."""

    last_stages: int | None
    """Number of last stages that are trained; None: all; 0: only linear heads, on features."""

    @property
    def frozen(self) -> bool:
        """Return whether the backbone is not trained, so that its features can be cached."""
        return self.last_stages == 0


def parse_finetune(text: str) -> Finetune:
    """Return the trained part from "full", "head" or a number of stages."""
    if text in ("full", "head"):
        return Finetune(None if text == "full" else 0)
    valid = text.isdecimal() and int(text) >= 1
    require(
        valid,
        f"--finetune {text}: pass full, head, or the number of last stages to train, such as 2",
    )
    return Finetune(int(text))


def parse_loss(text: str) -> list[tuple[float, str]]:
    """Return (weight, name) of each term of text such as "0.4*f1+0.6*focal".

    A missing weight is 1.
    """
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


# Conditions under which flags have an effect. A user's own loss or schedule may read any of these
# flags, so it always meets the condition.
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


WARMS_UP = Needs("a --sched other than onecycle", lambda run: run.train.sched != "onecycle")
FROZEN = Needs("--finetune head", lambda run: run.train.frozen)
AUGMENTS = Needs(
    "a --finetune other than head", lambda run: not run.train.frozen or run.train.feature_views > 0
)


REFITS = Needs("--refit full or soup", lambda run: run.train.refit in ("full", "soup"))
# There is one soup, and linear heads do not depend on a seed.
SEVERAL_REFITS = Needs(
    "--refit full with a --finetune other than head",
    lambda run: run.train.refit == "full" and not run.train.frozen,
)
# Settings of what comes after the folds, whose logits do not depend on them.
LATER: dict[str, Any] = {"identity": False, "worded": True, "steps": False}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    # Has an effect only where training steps are taken, so not with --finetune head.
    GROUP: ClassVar = {"steps": True}

    finetune: str = flag("full", worded=True, steps=False, common=True)
    """How much of the backbone is trained: full, the number of its last stages (such as 2), or head
    (only a linear head, on features that are computed once).
    """
    head_l2: str = flag("auto", worded=True, steps=False, needs=FROZEN)
    """L2 penalty of --finetune head: a number, a list such as 1e-3,1e-2, or auto (1,0.3,0.1,0.03).
    Each fold chooses from a list by cross-validation within its training groups.
    """
    feature_views: int = flag(0, worded=True, steps=False, needs=FROZEN)
    """Number of augmented copies of each training image that --finetune head also trains on."""
    epochs: int | None = flag(None, worded=True, steps=False, common=True)
    """Number of epochs, fixed in advance; default: 10, or 4 on the demo set."""
    batch_size: Annotated[int | None, _arg(aliases=["-b"])] = flag(None, steps=False, common=True)
    """Images per forward pass in training; default: 32, or 16 on the demo set."""
    grad_accum_steps: int = 1
    """Number of batches whose gradients make one training step (gradient accumulation)."""
    opt: str = flag("adamw", worded=True)
    """Any timm optimiser, such as adamw or sgd."""
    lr: float | str = flag(AUTO, worded=True, common=True, formerly=(1e-3,))
    """Peak learning rate, auto or find."""
    layer_decay: float | str | None = flag(AUTO, worded=True, formerly=(None,))
    """Layer-wise learning rate decay: each layer learns at this factor, such as 0.75, of the rate
    of the next layer; 1: all layers have the same rate. auto: as published for the fine-tuning of
    transformers and other models without batch norm, 1 for others.
    """
    weight_decay: float = 0.02
    """Weight decay; biases and norm layers are exempt."""
    sched: str = flag("cosine", worded=True, parts=one_part)
    """Learning rate schedule, updated after every step.
    One of cosine, onecycle, step, plateau, constant, or your own as module:name.
    """
    warmup_epochs: float = flag(1.0, needs=WARMS_UP)
    """Epochs of linear warm-up. --sched onecycle ignores it, since it includes a warm-up."""
    min_lr: float = flag(0.0, needs=_sched("cosine", "plateau"))
    """Lowest learning rate of --sched cosine and plateau."""
    decay_epochs: float = flag(3.0, needs=_sched("step"))
    """Epochs between two drops of the learning rate with --sched step."""
    decay_rate: float = flag(0.1, needs=_sched("step", "plateau"))
    """Factor of the learning rate at each drop of --sched step and plateau, between 0 and 1."""
    patience_epochs: int = flag(2, needs=_sched("plateau"))
    """Epochs without a lower training loss before --sched plateau drops the learning rate."""
    clip_grad: float | None = None
    """Clip the norm of the gradient to this value; default: no clipping."""
    model_ema: bool = flag(False, worded=True)
    """Score an exponential moving average (EMA) of the weights instead of the last weights."""
    model_ema_decay: float = flag(0.99, needs=Needs("--model-ema", lambda run: run.train.model_ema))
    """Decay of the moving average per step, between 0 and 1."""
    average_last: int = flag(0, worded=True)
    """Score the mean of the weights after each of the last N epochs; 0 scores the last weights."""
    select: Literal["last", "inner", "best"] = flag("last", worded=True, steps=False)
    """last: score the last epoch. inner: the best epoch on a held-out fifth of the training groups.
    best: the best epoch on the scored rows themselves. That score is too high (selection optimism),
    so the run is marked optimistic everywhere.
    """
    soup: bool = flag(False, before=False, worded=True)
    """Make one run, in which each fold's model has the mean weights of some of its --seeds.
    They begin with the same weights, and are chosen on a fifth of the fold's training groups.
    """
    seed: int = flag(0, worded=True, steps=False, common=True)
    """Random seed of initial weights, row order and augmentation."""
    seeds: int = flag(1, worded=True, steps=False, identity=False, common=True)
    """Number of runs with the seeds --seed, --seed + 1 and so on.
    They have the same folds, and each is written to a separate folder.
    """

    refit: Literal["none", "full", "soup"] | None = flag(None, **LATER)
    """Model of all rows that joins a finished run, and has a share in its test predictions.
    full: trained on all rows, as long as the folds. soup: the mean of the weights of the folds'
    models. The score stays that of the folds. Default: what the run has, for a new one none.
    """
    refit_models: int = flag(1, **LATER, needs=SEVERAL_REFITS)
    """Number of models of --refit full, which differ in their seeds."""
    refit_share: float | str = flag(AUTO, **LATER, needs=REFITS)
    """Share of --refit in the test predictions, above 0 and up to 1; at 1 the models of the folds
    are not needed to predict. auto: 1 for a soup; otherwise that of one more model.
    """

    def __post_init__(self) -> None:
        require(self.refit_models >= 1, f"--refit-models {self.refit_models}: pass 1 or more")
        share = self.refit_share
        known = share == AUTO if isinstance(share, str) else 0 < share <= 1
        require(known, f"--refit-share {share}: pass more than 0, up to 1, or {AUTO}")
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
        lr = self.lr
        if isinstance(lr, str):
            require(lr in (AUTO, FIND), f"--lr {lr}: pass a number, {AUTO} or {FIND}")
        else:
            require(0 < lr < math.inf, f"--lr {lr}: pass a finite number of more than 0")
        decay = self.layer_decay
        if isinstance(decay, str):
            require(decay == AUTO, f"--layer-decay {decay}: pass a number or {AUTO}")
        else:
            fine = decay is None or 0 < decay <= 1
            require(fine, f"--layer-decay {decay}: pass more than 0, up to 1")
        require(self.weight_decay >= 0, f"--weight-decay {self.weight_decay}: pass 0 or more")
        require(
            0 <= self.warmup_epochs < 1e6, f"--warmup-epochs {self.warmup_epochs}: pass 0 or more"
        )
        check_min_lr(self.min_lr, None if isinstance(lr, str) else lr)
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
    def num_ingredients(self) -> int:
        """Number of models of each fold whose weights may be averaged, 0 without --soup."""
        return self.seeds if self.soup else 0

    @property
    def num_refits(self) -> int:
        """Number of models of all rows that --refit asks for.

        There is one soup, and heads on a frozen backbone do not depend on a seed.
        """
        if self.refit in (None, "none"):
            return 0
        return 1 if self.frozen or self.refit == "soup" else self.refit_models

    @property
    def num_runs(self) -> int:
        """Number of runs of the command, one for each seed."""
        return 1 if self.soup else self.seeds

    @property
    def peak_lr(self) -> float:
        """The peak learning rate, once it is decided: in each fold for --lr find."""
        assert not isinstance(self.lr, str), self.lr
        return self.lr

    @property
    def tuned(self) -> Finetune:
        """The part of the backbone that is trained."""
        return parse_finetune(self.finetune)

    @property
    def frozen(self) -> bool:
        """Return whether only linear heads are trained, on features that are computed once."""
        return self.tuned.frozen


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    GROUP: ClassVar = {"steps": True}

    loss: str = flag("ce", common=True, parts=lambda text: [name for _, name in parse_loss(text)])
    """ce (cross entropy), focal, f1 (soft macro F1), or your own as module:name.
    Weighted sums such as 0.4*f1+0.6*focal are possible.
    """
    smoothing: float = flag(0.1, needs=_loss("ce", "focal"))
    """Label smoothing of --loss ce and focal, at least 0 and below 1."""
    focal_gamma: float = flag(2.0, needs=_loss("focal"))
    """How strongly --loss focal down-weights easy examples; 0 is cross entropy."""
    logit_adjust: float = 0.0
    """Logit adjustment: ce and focal add this multiple of the log class frequencies to the logits.
    0 is off, 1 is the balanced softmax.
    """
    sampler: Literal["none", "balanced", "group"] = flag("none", common=True)
    """How an epoch samples its rows. none: each row once. balanced: by class, see --sampler-power.
    group: every group is equally likely, whatever its size.
    """
    sampler_power: float = flag(
        1.0, needs=Needs("--sampler balanced", lambda run: run.loss.sampler == "balanced")
    )
    """Weight of a row with --sampler balanced is class size ** -power, where power is this value.
    1 makes all classes equally likely.
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

    augment: str = flag("default", steps=False, needs=AUGMENTS, parts=one_part)
    """Training augmentation: default, none, or your own as module:name.
    default has horizontal flips, affine transforms and colour jitter.
    """
    mixup: float = 0.0
    """Mixup: average pairs of images; 0 is off.
    The weights come from Beta(a, a) where a is this value.
    """
    cutmix: float = 0.0
    """CutMix: replace a box of each image by the same box of another image; 0 is off.
    The share that is kept comes from Beta(a, a) where a is this value.
    """
    cutmix_mode: Literal["any", "class", "half"] = "any"
    """Image that CutMix takes the box from. any: any of the batch. class: one of the same class.
    half: the box is the left or right half, and images of rare classes are more likely.
    """
    mixup_prob: float = flag(1.0, needs=Needs("--mixup or --cutmix", lambda run: run.augment.mixes))
    """Share of batches that are mixed, 0 to 1.
    With both --mixup and --cutmix, each is used for about half of them.
    """
    reprob: float = 0.0
    """Probability of replacing a random box of a training image by noise (random erasing)."""

    def __post_init__(self) -> None:
        require(self.mixup >= 0, f"--mixup {self.mixup}: pass 0 or more")
        require(self.cutmix >= 0, f"--cutmix {self.cutmix}: pass 0 or more")
        needs = self.cutmix_mode == "any" or self.cutmix > 0
        require(needs, f"--cutmix-mode {self.cutmix_mode}: goes with --cutmix 1")
        require(0 <= self.mixup_prob <= 1, f"--mixup-prob {self.mixup_prob}: pass 0 to 1")
        require(0 <= self.reprob <= 1, f"--reprob {self.reprob}: pass 0 to 1")

    @property
    def mixes(self) -> bool:
        """Return whether images are mixed (mixup or CutMix)."""
        return self.mixup > 0 or self.cutmix > 0
