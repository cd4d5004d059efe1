"""Your own model, augmentation, loss, schedule and data set, by name: nothing in the project is
edited.

From the folder that holds this one (any module that Python can import will do):

    python run_cv.py --data demo --img-size 64 --epochs 2 \\
        --backbone examples.own_parts:TinyNet --augment examples.own_parts:Shuffled \\
        --loss "0.5*ce+0.5*examples.own_parts:Brier" --sched examples.own_parts:HalfCosine
    python run_cv.py --dataset examples.own_parts:read_folders --data /pictures --backbone resnet18

Each is tried once before the first fold, so a wrong one fails at the start. The file in which a
part is written is hashed: when it is edited, a run under the old name is not continued with it.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

import foldblend as fb


class TinyNet(torch.nn.Module):
    """--backbone: a module made with `num_classes` (and `drop_rate`, `drop_path_rate` where those
    flags are given).

    N x 3 x height x width standardised pixels -> N x num_classes logits. Pretrained weights are its
    own affair, or --weights FILE.
    """

    # What it was made for; left out, 224 x 224 and ImageNet's mean and deviation are taken.
    default_cfg = {"input_size": (3, 64, 64), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}  # noqa: RUF012

    def __init__(self, num_classes: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 5, stride=4),
            torch.nn.BatchNorm2d(16),
            torch.nn.ReLU(),
            torch.nn.Conv2d(16, 32, 3, stride=2),
            torch.nn.BatchNorm2d(32),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
            torch.nn.Dropout(drop_rate),
        )
        self.head = torch.nn.Linear(32, num_classes)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.body(pixels))
        return logits


class Shuffled:
    """--augment: made without arguments; image (height x width x 3 uint8) and seed -> an image
    of that size.

    Everything drawn must follow from the seed: then order, workers and a restart make no
    difference.
    """

    def __call__(self, image: np.ndarray, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        shift = rng.integers(-4, 5, size=2)
        moved = np.roll(image, shift, axis=(0, 1))
        return np.ascontiguousarray(moved[:, ::-1] if rng.random() < 0.5 else moved)


class Brier:
    """--loss: made once a fold with the class counts and the flags of the loss; called with logits
    and targets.

    `target` is N class indices, or N x C shares where images are mixed. Returns the mean over
    rows.
    """

    def __init__(self, count_C: torch.Tensor, config: fb.LossConfig) -> None:
        self.num_classes = len(count_C)

    def __call__(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        share_NC = F.one_hot(target, self.num_classes).float() if target.ndim == 1 else target
        return (logits.softmax(dim=1) - share_NC).square().sum(dim=1).mean()


class HalfCosine(torch.optim.lr_scheduler.LambdaLR):
    """--sched: made with optimiser, training flags and steps an epoch; stepped after every training
    step.

    `state_dict` must be plain numbers, as torch's schedulers have it: a killed fold begins from it
    again.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, config: fb.TrainConfig, steps_per_epoch: int
    ) -> None:
        steps = (config.epochs or 1) * steps_per_epoch
        super().__init__(optimizer, lambda step: math.cos(math.pi / 2 * min(1.0, step / steps)))


def read_folders(config: fb.DataConfig) -> fb.Manifest:
    """--dataset: the data flags -> a checked manifest. Here: --data ROOT with
    ROOT/<class>/<group>_<number>.jpg.
    """
    root = Path(config.data or ".")
    files = sorted(root.glob("*/*_*.jpg"))
    if not files:
        raise fb.UserError(f"{root}: no <class>/<group>_<number>.jpg there; check --data")
    classes = sorted({file.parent.name for file in files})
    return fb.build_manifest(
        name=root.name,
        root=root,
        image_id=[file.name for file in files],
        path=files,
        group=[file.stem.rpartition("_")[0] for file in files],
        label=[classes.index(file.parent.name) for file in files],
        test=None,
        classes=classes,
        answers=classes,
    )
