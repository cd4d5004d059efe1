"""Configuration of a run: frozen dataclasses, one a group of flags, checked when made.

Flags are spelt as timm spells them. Every field is a flag of run_cv.py, a key of a YAML file and a
keyword of `settings.make_config`; None means that the value is chosen once the data and backbone
are known.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import tyro

from foldblend.cli import check_name
from foldblend.errors import listed, require
from foldblend.flags import NOT_A_FLAG, Needs, flag
from foldblend.scores.metrics import check_metric
from folds.config import DataConfig, SplitConfig
from pipeline.config.train import AugmentConfig, LossConfig, TrainConfig
from tta.views.names import is_device_view, parse_views

__all__ = [
    "InferConfig",
    "MachineConfig",
    "ModelConfig",
    "OutputConfig",
    "RunConfig",
    "parse_folds",
    "parse_size",
]

_arg = tyro.conf.arg


def parse_size(text: str | int) -> tuple[int, int]:
    """Return (width, height) in pixels of "224" (square) or "120x160" (width x height)."""
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", str(text).strip().lower())
    width, height = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    require(
        16 <= width <= 4096 and 16 <= height <= 4096,
        f"--img-size {text}: write a side such as 224, or width x height such as 120x160 (16 to"
        " 4096)",
    )
    return width, height


def parse_folds(text: str) -> tuple[int, ...]:
    """Return the fold numbers of "0,2"."""
    parts = [part.strip() for part in text.split(",")]
    require(
        all(part.isdecimal() for part in parts),
        f"--only-folds {text}: write fold numbers such as 0 or 0,2",
    )
    return tuple(int(part) for part in parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    backbone: Annotated[str, _arg(aliases=["--model"])] = "tf_efficientnet_lite0"
    """Any timm model name, or your own as module:name (see examples/)."""
    pretrained: Literal["auto", "none"] = "auto"
    """ImageNet weights: from an installed package or timm's hub, or none."""
    weights: str | None = flag(None, path=True)
    """File with the backbone's weights (.safetensors or .pth), instead of --pretrained."""
    img_size: str | None = None
    """Side in pixels, or width x height; default: the backbone's own."""
    crop: Literal["auto", "whole", "center", "face", "box"] = "auto"
    """Part of each image that is used: the middle, the face that a detector finds, or the
    manifest's boxes; auto: boxes where there are any, else the whole image.
    """
    crop_share: float = flag(
        0.7, needs=Needs("--crop center or face", lambda run: run.model.crop in ("center", "face"))
    )
    """Share of width and height of --crop center, and of --crop face where no face is found."""
    crop_pct: float = 1.0
    """Share of width and height in a crop: random in training, central otherwise; 1 shows the whole
    image.
    """
    decode: Literal["scaled", "full"] = "scaled"
    """Decode much larger JPEGs at 1/2, 1/4 or 1/8, never below the size needed; full takes about
    twice as long.
    """
    head: Literal["joint", "attributes"] = "joint"
    """One head over all classes, or one an attribute, whose log-probabilities add up to the
    classes' logits.
    """
    ordinal: str | None = None
    """Attributes whose values are ordered, such as age, for --head attributes; comma-separated."""
    drop: float = flag(0.0, steps=True)
    """Dropout before the head."""
    drop_path: float | None = flag(None, steps=True)
    """Stochastic depth; default: the backbone's own."""

    def __post_init__(self) -> None:
        require(
            0 < self.crop_share <= 1, f"--crop-share {self.crop_share}: pass more than 0, up to 1"
        )
        require(0.25 <= self.crop_pct <= 1, f"--crop-pct {self.crop_pct}: pass 0.25 to 1")
        require(0 <= self.drop < 1, f"--drop {self.drop}: pass 0 up to, not including, 1")
        require(
            0 <= (self.drop_path or 0) < 1,
            f"--drop-path {self.drop_path}: pass 0 up to, not including, 1",
        )
        require(
            self.ordinal is None or self.head == "attributes",
            "--ordinal: goes with --head attributes",
        )
        if self.img_size is not None:
            parse_size(self.img_size)


@dataclass(frozen=True, kw_only=True, slots=True)
class InferConfig:
    tta: str = "none"
    """Views beside the image itself for held-out and test rows alike, such as hflip."""
    validation_batch_size: Annotated[int | None, _arg(aliases=["-vb"])] = None
    """Images a forward pass, part of the record since it changes the last bits; default 64, on
    CUDA 256.
    """

    def __post_init__(self) -> None:
        size = self.validation_batch_size
        require(size is None or size >= 1, f"--validation-batch-size {size}: pass 1 or more")
        drawn = [name for name in parse_views(self.tta) if not is_device_view(name)]
        cure = "drawn views are for a finished run: python run_tta.py outputs/RUN --views"
        require(not drawn, f"--tta {listed(drawn)}: {cure}")


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineConfig:
    device: str = "auto"
    """cuda, cuda:1, cpu; auto takes a GPU where there is one."""
    amp: bool = True
    """Mixed precision on CUDA; on the CPU everything is float32."""
    amp_dtype: Literal["auto", "bfloat16", "float16"] = "auto"
    """Mixed precision's type; auto asks the card."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile for training steps; auto where there are steps enough on CUDA to pay for
    compiling.
    """
    cache: Literal["auto", "disk", "ram", "device", "off"] = flag("auto", identity=False)
    """Where images are kept once decoded and resized; auto chooses and says why."""
    cache_dir: str | None = flag(None, identity=False, path=True)
    """Folder of the disk cache, shared by runs; default $FOLDBLEND_CACHE or ~/.cache/foldblend."""
    augment_on: Literal["auto", "cpu", "device"] = "auto"
    """What augments: albumentations in the workers, or the device, batch by batch; auto: a GPU
    where there is one.
    """
    parallel_folds: str = flag("auto", identity=False)
    """Folds trained at once, a process each; auto: as many as the GPUs' memory holds (measured), 1
    on the CPU.
    """
    channels_last: bool = True
    """Memory layout; faster on CUDA and on the CPU."""
    workers: Annotated[int | None, _arg(aliases=["-j"])] = flag(None, identity=False)
    """Processes that read images; default: one a core with CUDA, 8 at most; on the CPU none, but
    a thread.
    """
    threads: int | None = None
    """CPU threads of torch; part of the record, since they change the last bits."""

    def __post_init__(self) -> None:
        require(
            self.workers is None or self.workers >= 0, f"--workers {self.workers}: pass 0 or more"
        )
        parallel = self.parallel_folds
        valid = parallel == "auto" or (parallel.isdecimal() and int(parallel) >= 1)
        require(valid, f"--parallel-folds {parallel}: pass auto, or 1 or more")
        require(
            self.threads is None or self.threads >= 1, f"--threads {self.threads}: pass 1 or more"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputConfig:
    GROUP: ClassVar = {"identity": False}  # where the run is kept, and how it is shown

    config: Annotated[str | None, _arg(aliases=["-c"])] = None
    """YAML file with any of these settings; flags win over it."""
    output: str = "outputs"
    """Folder of all runs."""
    name: str | None = None
    """Name of the run; default: data set and backbone. An unfinished run of that name is
    continued.
    """
    resume: bool = True
    """Go on with a run of that name, in the middle of a fold; --no-resume starts it afresh."""
    save_every: float = 60.0
    """Seconds between two checkpoints within a fold; 0 saves after every step."""
    only_folds: str | None = None
    """Folds to do now, such as 0 or 0,2; the same command without it does the rest."""
    log_pictures: bool = True
    """Show batches, mistakes and the confusion matrix in TensorBoard too."""
    wandb: bool = False
    """Report to Weights & Biases as well, a run a fold; the extra wandb installs it,
    WANDB_MODE=offline holds.
    """
    page: bool = True
    """Draw report.html too, with its images."""
    metric: str = "f1_macro"
    """The score that counts: f1_macro, accuracy, balanced_accuracy, roc_auc_ovr, log_loss,
    kappa_quadratic.
    """

    def __post_init__(self) -> None:
        check_name(self.name)
        require(self.save_every >= 0, f"--save-every {self.save_every}: pass 0 or more")
        check_metric(self.metric)
        if self.only_folds is not None:
            parse_folds(self.only_folds)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """Everything that decides a cross-validated run."""

    data: DataConfig = field(default_factory=DataConfig)
    """Where images and labels come from."""
    split: SplitConfig = field(default_factory=SplitConfig)
    """Who is held out when."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """What is trained."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How one fold is trained."""
    loss: LossConfig = field(default_factory=LossConfig)
    """What is minimised, and over which rows."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """What is done to training images."""
    infer: InferConfig = field(default_factory=InferConfig)
    """How logits are taken."""
    machine: MachineConfig = field(default_factory=MachineConfig)
    """What it runs on."""
    output: OutputConfig = field(default_factory=OutputConfig)
    """Where runs are kept and how they are scored."""
    typed: Annotated[frozenset[str], tyro.conf.Fixed, tyro.conf.Suppress] = field(
        default=frozenset(), compare=False, repr=False, metadata=NOT_A_FLAG
    )
    """Names of the settings that flags, keywords or a file of --config gave."""
