"""Custom model, augmentation, loss, schedule and data set, used by name as MODULE:NAME.

The parts may be in any module that Python can import. Examples, to be run from the folder that
contains `examples`:

    python run_cv.py --data demo --img-size 64 --epochs 2 \\
        --backbone examples.own_parts:TinyNet --augment examples.own_parts:Shuffled \\
        --loss "0.5*ce+0.5*examples.own_parts:Brier" --sched examples.own_parts:HalfCosine
    python run_cv.py --dataset examples.own_parts:read_folders --data /pictures --backbone resnet18

Each part is called once before the first fold, so errors show at the start. The source file of each
part is hashed: after an edit, a run of the same name is not continued.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

import foldblend as fb


class TinyNet(torch.nn.Module):
    """A small convolutional network, for --backbone.

    It is called with `num_classes`, and with `drop_rate` and `drop_path_rate` if --drop and
    --drop-path are given. It maps N x 3 x height x width standardised pixels to N x num_classes
    logits. Pretrained weights are loaded by the class itself or with --weights FILE.
    """

    # Input size and standardisation; default: 224 x 224 and ImageNet's mean and deviation.
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
    """A random shift and mirroring, for --augment.

    It is created without arguments, and called with an image (height x width x 3, uint8) and a
    seed. It returns an image of the same size. All random numbers must depend on the seed only, so
    that results do not depend on the order of images, on workers or on interruptions.
    """

    def __call__(self, image: np.ndarray, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        shift = rng.integers(-4, 5, size=2)
        moved = np.roll(image, shift, axis=(0, 1))
        return np.ascontiguousarray(moved[:, ::-1] if rng.random() < 0.5 else moved)


class Brier:
    """The Brier score, for --loss.

    It is created once per fold, with the number of training images of each class and the settings
    of the loss. It is called with N x C logits and a target, which is N class indices, or N x C
    class shares where images are mixed. It returns the mean over the rows.

    References
    ----------
    Brier (1950): Verification of forecasts expressed in terms of probability.
    """

    def __init__(self, count_C: torch.Tensor, config: fb.LossConfig) -> None:
        self.num_classes = len(count_C)

    def __call__(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        share_NC = F.one_hot(target, self.num_classes).float() if target.ndim == 1 else target
        return (logits.softmax(dim=1) - share_NC).square().sum(dim=1).mean()


class HalfCosine(torch.optim.lr_scheduler.LambdaLR):
    """Half a cosine from the peak learning rate to 0, for --sched.

    It is created with the optimiser, the training settings and the number of steps per epoch, and
    stepped after every training step. `state_dict` must contain plain numbers only, as in torch's
    schedulers; an interrupted fold continues from it.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, config: fb.TrainConfig, steps_per_epoch: int
    ) -> None:
        steps = (config.epochs or 1) * steps_per_epoch
        super().__init__(optimizer, lambda step: math.cos(math.pi / 2 * min(1.0, step / steps)))


def read_folders(config: fb.DataConfig) -> fb.Manifest:
    """Read a folder per class, for --dataset.

    Images are ROOT/<class>/<group>_<number>.jpg, with ROOT from --data. The function receives the
    data settings and returns a checked manifest.
    """
    root = Path(config.data or ".")
    files = sorted(root.glob("*/*_*.jpg"))
    if not files:
        raise fb.UserError(f"{root}: no image <class>/<group>_<number>.jpg; check --data")
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
