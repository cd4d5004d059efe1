"""Configuration of a run: one frozen dataclass per group of flags, checked on construction.

Flags have timm's spelling. Every field is a flag of run_cv.py, a key of a YAML file and a keyword
of `settings.make_config`. None means that the value is chosen once data and backbone are known.

The string under a field is its help text, in --help and in docs/flags.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import tyro

from foldblend.cli import check_name
from foldblend.cluster.names import LOCAL, RAY, check_address
from foldblend.errors import listed, require
from foldblend.flags import NOT_A_FLAG, Needs, check_lengths, expand_home, flag, one_part
from foldblend.limits import check_machine
from foldblend.scores.by_group import GROUP, check_pool
from foldblend.scores.metrics import check_metric
from foldblend.torchrun import world_of
from folds.config import DataConfig, SplitConfig
from pipeline.config.labels import LabelsConfig
from pipeline.config.train import AUTO, AugmentConfig, LossConfig, TrainConfig
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
ON_RAY = Needs("--backend ray", lambda run: run.machine.backend == RAY)
SEVERAL_GPUS = Needs(
    "several processes (torchrun) on CUDA",
    lambda run: world_of().size > 1 and run.machine.device != "cpu",
)
BY_GROUP = Needs("--score-by group", lambda run: run.output.score_by == GROUP)


def parse_size(text: str | int) -> tuple[int, int]:
    """Return (width, height) in pixels from "224" (square) or "120x160" (width x height)."""
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", str(text).strip().lower())
    width, height = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    require(
        16 <= width <= 4096 and 16 <= height <= 4096,
        f"--img-size {text}: write a side such as 224, or width x height such as 120x160 (16 to"
        " 4096 pixels)",
    )
    return width, height


def parse_folds(text: str) -> tuple[int, ...]:
    """Return the fold numbers from text such as "0,2"."""
    parts = [part.strip() for part in text.split(",")]
    require(
        all(part.isdecimal() for part in parts),
        f"--only-folds {text}: write fold numbers such as 0 or 0,2",
    )
    return tuple(int(part) for part in parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    backbone: Annotated[str, _arg(aliases=["--model"])] = flag(
        "tf_efficientnet_lite0", common=True, parts=one_part
    )
    """Any timm model, such as resnet18; hf-hub:OWNER/NAME or local-dir:FOLDER, which have timm's
    config.json; or your own as module:name (see examples/).
    """
    pretrained: Literal["auto", "none"] = flag("auto", common=True)
    """Initial weights. auto: ImageNet weights from an installed package or timm's hub.
    none: random weights.
    """
    weights: str | None = flag(None, path=True)
    """File with initial weights of the backbone (.safetensors or .pth), instead of --pretrained."""
    img_size: str | None = flag(None, common=True, whole=True)
    """Input size in pixels: a side such as 224, or width x height such as 120x160.
    Default: the backbone's input size; 96x128 on the demo set.
    """
    crop: Literal["auto", "whole", "center", "face", "box"] = "auto"
    """Part of each image that is used: whole, center, face (found by a detector) or box.
    box needs boxes in the data (see --box-cols). auto: box if there are boxes, otherwise whole.
    """
    crop_share: float = flag(
        0.7, needs=Needs("--crop center or face", lambda run: run.model.crop in ("center", "face"))
    )
    """Width and height of --crop center as a share of the image, above 0 and up to 1.
    --crop face uses this crop where no face is found.
    """
    crop_pct: float = 1.0
    """Share of width and height that the model sees, 0.25 to 1; 1 is the whole image.
    Below 1, training takes random crops and inference takes the centre crop.
    """
    decode: Literal["scaled", "full"] = "scaled"
    """scaled: decode large JPEGs at 1/2, 1/4 or 1/8 of their size, never below the size needed.
    full: decode every image at full size, which takes about twice as long.
    """
    head: Literal["joint", "attributes"] = "joint"
    """joint: one head over all classes.
    attributes: one head per attribute, whose log-probabilities add up to the logits of classes.
    """
    ordinal: str | None = None
    """Comma-separated attributes with ordered values, such as age, for --head attributes.
    Default: no attribute is ordered.
    """
    drop: float = flag(0.0, steps=True)
    """Dropout rate before the head, at least 0 and below 1."""
    drop_path: float | str | None = flag(AUTO, steps=True, formerly=(None,))
    """Stochastic depth rate, at least 0 and below 1. auto: 0.1 where --layer-decay auto decays,
    otherwise as the backbone defines it.
    """

    def __post_init__(self) -> None:
        require(
            0 < self.crop_share <= 1, f"--crop-share {self.crop_share}: pass more than 0, up to 1"
        )
        require(0.25 <= self.crop_pct <= 1, f"--crop-pct {self.crop_pct}: pass 0.25 to 1")
        require(0 <= self.drop < 1, f"--drop {self.drop}: pass 0 up to, not including, 1")
        rate = self.drop_path
        if isinstance(rate, str):
            require(rate == AUTO, f"--drop-path {rate}: pass a number or {AUTO}")
        else:
            fine = rate is None or 0 <= rate < 1
            require(fine, f"--drop-path {rate}: pass 0 up to, not including, 1")
        require(
            self.ordinal is None or self.head == "attributes",
            "--ordinal: goes with --head attributes",
        )
        if self.img_size is not None:
            parse_size(self.img_size)


@dataclass(frozen=True, kw_only=True, slots=True)
class InferConfig:
    tta: str = flag("none", common=True)
    """Test-time augmentation of held-out and test images: none, or a list such as hflip,scale:1.15.
    Predictions of all views are averaged.
    Views: hflip, vflip, scale:F, xshift:S, yshift:S, rotate:DEGREES, crop:S:WHERE,
    five[:S] and ten[:S] (crops), brightness:F, contrast:F, gamma:F;
    and products such as hflip*scale:1.15. docs/tta.md explains them.
    """
    validation_batch_size: Annotated[int | None, _arg(aliases=["-vb"])] = None
    """Images per forward pass at inference; default: 256 on CUDA, 64 on the CPU.
    It changes the last bits of the logits, so another value is another run.
    """
    infer_engine: Literal["auto", "torch", "compile", "onnx", "openvino"] = flag(
        "auto", before="torch"
    )
    """What runs the forward passes of inference: torch, torch.compile, ONNX Runtime (extra onnx) or
    OpenVINO (extra openvino). auto: on the CPU the fastest one, which is measured; on CUDA torch.
    It changes the last bits of the logits, so another value is another run.
    """

    def __post_init__(self) -> None:
        size = self.validation_batch_size
        require(size is None or size >= 1, f"--validation-batch-size {size}: pass 1 or more")
        random = [name for name in parse_views(self.tta) if not is_device_view(name)]
        require(
            not random,
            f"--tta {listed(random)}: random views need a finished run; use python run_tta.py"
            " outputs/RUN --views",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineConfig:
    device: str = flag("auto", common=True)
    """cpu, cuda, or one GPU such as cuda:1. auto: cuda if there is a GPU, otherwise cpu."""
    amp: bool = True
    """Use mixed precision on CUDA; the CPU always uses float32."""
    amp_dtype: Literal["auto", "bfloat16", "float16"] = "auto"
    """Number type of mixed precision. auto: bfloat16 if the GPU supports it, otherwise float16."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Use torch.compile for the training steps.
    auto: on CUDA, for runs that are long enough to gain from it.
    """
    deterministic: bool = flag(False, before=False)
    """Use deterministic algorithms on CUDA, which are slower: the same command then gives the same
    bits on the same card. The CPU does so anyway, at equal threads.
    """
    cache: Literal["auto", "disk", "ram", "device", "off"] = flag("auto", identity=False)
    """Where decoded and resized images are cached: disk, ram, device (GPU memory) or off.
    auto: chosen by size and free space; the log has the choice and its reason.
    """
    cache_dir: str | None = flag(None, identity=False, path=True)
    """Folder of the disk cache, shared by all runs.
    Default: $FOLDBLEND_CACHE, or ~/.cache/foldblend if that is not set.
    """
    augment_on: Literal["auto", "cpu", "device"] = "auto"
    """cpu: augment training images one by one, with albumentations. device: in whole batches.
    auto: device on CUDA, otherwise cpu.
    """
    parallel_folds: str = flag("auto", identity=False)
    """Number of folds trained at the same time, one process each.
    auto: as many as fit into GPU memory (measured); 1 on the CPU and in short runs.
    """
    sync_bn: bool = flag(False, before=False, needs=SEVERAL_GPUS)
    """Batch norm of the images of all processes of torchrun, not of each one's own; on CUDA."""
    channels_last: bool = True
    """Use the channels-last memory layout, which is faster on CUDA and on the CPU."""
    backend: Literal["local", "ray"] = flag(LOCAL, before=LOCAL, identity=False)
    """Where folds are trained. local: on this machine. ray: on all nodes of a Ray cluster that runs
    already, from a folder that they share (extra ray; docs/cluster.md).
    """
    ray_address: str = flag("auto", before="auto", identity=False, needs=ON_RAY)
    """The cluster: auto ($RAY_ADDRESS, or the one of this machine), host:port, or ray://host:port
    from a machine that is no part of it.
    """
    workers: Annotated[int | None, _arg(aliases=["-j"])] = flag(None, identity=False, common=True)
    """Processes that load images; 0: a thread loads them. Default: one per core, at most 8, on
    CUDA; 0 on the CPU.
    """
    threads: int | None = None
    """Number of CPU threads of torch; default: torch's default, divided among parallel folds.
    It changes the last bits of the logits, so another value is another run.
    """

    def __post_init__(self) -> None:
        check_machine(threads=self.threads, workers=self.workers)
        check_address(self.ray_address)
        parallel = self.parallel_folds
        valid = parallel == "auto" or (parallel.isdecimal() and int(parallel) >= 1)
        require(valid, f"--parallel-folds {parallel}: pass auto, or 1 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputConfig:
    # Where a run is kept and how it is shown does not change its logits.
    GROUP: ClassVar = {"identity": False}

    config: Annotated[str | None, _arg(aliases=["-c"])] = flag(None, common=True)
    """YAML file with any of these settings; flags override it."""
    output: str = flag("outputs", common=True)
    """Folder that holds all runs."""
    name: str | None = flag(None, common=True)
    """Name of the run and its folder; default: from data and backbone.
    An unfinished run of that name is resumed.
    """
    resume: bool = flag(True, common=True)
    """Resume a run of the same name, even in mid-fold; --no-resume starts it again from scratch."""
    dry_run: bool = flag(False, before=False, common=True)
    """Check all, print the plan of folds, train nothing."""
    save_every: float = 60.0
    """Seconds between two checkpoints within a fold; 0 saves after every step."""
    only_folds: str | None = None
    """Train these folds only, such as 0 or 0,2; default: all folds.
    The same command without this flag trains the rest.
    """
    log_pictures: bool = True
    """Also log batches, mistakes and the confusion matrix to TensorBoard as images."""
    wandb: bool = False
    """Also log to Weights & Biases, one run per fold. Needs the extra wandb.
    WANDB_MODE=offline is respected.
    """
    trust_parts: bool = flag(False, before=False)
    """Import your own parts (module:name) that a --config beside a run.json names, if their source
    is what the run was made with. Parts that you type are always imported.
    """
    safe_csv: bool = flag(False, before=False)
    """Put an apostrophe before file and class names in submission, predictions and suspects that a
    spreadsheet would take for a formula (they start with = + - @).
    """
    page: bool = True
    """Also write report.html, which shows images."""
    report: Literal["short", "full"] = flag("short", common=True)
    """What is printed at the end: a first screen, or all of report.txt."""
    metric: str = flag("f1_macro", common=True)
    """Main score of the reports, which --select uses too.
    One of f1_macro, accuracy, balanced_accuracy, roc_auc_ovr, log_loss, kappa_quadratic.
    """
    score_by: Literal["image", "group"] = flag("image", before="image", common=True)
    """What the main score counts: images, or groups by the mean logits of their images."""
    group_pool: str = flag("mean", before="mean", needs=BY_GROUP)
    """How a group's images become one prediction: mean, max or noisy-or (any image shows it)."""

    def __post_init__(self) -> None:
        expand_home(self, "output", "config")
        check_lengths(self, "output")
        check_name(self.name)
        require(self.save_every >= 0, f"--save-every {self.save_every}: pass 0 or more")
        check_metric(self.metric)
        check_pool(self.group_pool)
        if self.only_folds is not None:
            parse_folds(self.only_folds)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """All settings of a cross-validated run."""

    data: DataConfig = field(default_factory=DataConfig)
    """Where images and labels come from."""
    split: SplitConfig = field(default_factory=SplitConfig)
    """How the data is split into folds."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The model, its initial weights and its input."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How each fold is trained."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The loss, and how rows are sampled."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """How training images are augmented."""
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    """Labels that the models of a finished run give."""
    infer: InferConfig = field(default_factory=InferConfig)
    """How predictions are made."""
    machine: MachineConfig = field(default_factory=MachineConfig)
    """Hardware, precision, caching and parallelism."""
    output: OutputConfig = field(default_factory=OutputConfig)
    """Where runs are kept, how they are logged and scored."""
    typed: Annotated[frozenset[str], tyro.conf.Fixed, tyro.conf.Suppress] = field(
        default=frozenset(), compare=False, repr=False, metadata=NOT_A_FLAG
    )
    """Names of the settings given by flags, keywords or the file of --config."""
    read_back: Annotated[Mapping[str, str], tyro.conf.Fixed, tyro.conf.Suppress] = field(
        default_factory=dict, compare=False, repr=False, metadata=NOT_A_FLAG
    )
    """File of each setting that was read from a run's folder and not typed; code that it names is
    not imported unasked (see pipeline.config.trust).
    """
