"""One training step of a small model, by one process or by those that torchrun starts.

As a script it writes the gradients of each case and process to FOLDER/RANK.pt.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch

from foldblend.errors import UserError
from foldblend.torchrun import world_of
from pipeline.config.settings import make_config
from pipeline.data.dataset import train_loader
from pipeline.data.device_augment import device_augmentation
from pipeline.data.parts import WHOLE
from pipeline.data.preprocess import Preprocess
from pipeline.device import Compute
from pipeline.training.fit import Fit
from pipeline.training.team import Team
from tests.makers.constants import RATES

CPU = Compute(torch.device("cpu"), None, torch.contiguous_format)
PREPROCESS = Preprocess(width=16, height=16, mean=(0.5,) * 3, std=(0.5,) * 3)
NUM_CLASSES = 3
# Settings, number of rows (if fewer than a step's), whether rows learn shares of classes, and
# whether the device augments.
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulated": {"grad_accum_steps": 3},
    "cutmix": {"cutmix": 1.0, "smoothing": 0.1},
    "cutmix, accumulated": {"cutmix": 1.0, "grad_accum_steps": 2, "loss": "focal"},
    "mixup, erased": {"mixup": 0.4, "reprob": 0.5},
    "clipped": {"clip_grad": 0.01},
    "short": {"rows": 7},
    "short, mixed": {"rows": 11, "grad_accum_steps": 2, "mixup": 0.4},
    "shares": {"shares": True},
    "on the device": {"augments": True},
}


class Images:
    """Random images with labels, as a data set of train_loader."""

    seed_parts = (0, 0)

    def __init__(self, num: int) -> None:
        rng = np.random.default_rng(3)
        self.images_N = rng.integers(256, size=(num, 16, 16, 3), dtype=np.uint8)
        self.label_N = rng.integers(NUM_CLASSES, size=num)
        self.share_NC = rng.dirichlet(np.ones(NUM_CLASSES), num).astype(np.float32)
        self.loaded = 0

    def __len__(self) -> int:
        return len(self.label_N)

    def __getitems__(self, keys: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        rows = [index for _, index, _ in keys]
        self.loaded += len(rows)
        return torch.from_numpy(self.images_N[rows]), torch.from_numpy(self.label_N[rows])


class Small(torch.nn.Module):
    """A model without batch norm or dropout: a batch is the sum of its rows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.conv = torch.nn.Conv2d(3, 6, 3, padding=1)
        self.head = torch.nn.Linear(6 * 16, NUM_CLASSES)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        seen = torch.nn.functional.gelu(self.conv(pixels))
        found: torch.Tensor = self.head(torch.nn.functional.avg_pool2d(seen, 4).flatten(1))
        return found


class Idle(Small):
    """A model with a weight that its output does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = torch.nn.Parameter(torch.zeros(2))


def step_of(
    case: str, team: Team | None = None, kind: type[torch.nn.Module] = Small
) -> SimpleNamespace:
    """Return gradients, loss and number of loaded images of the first step of a case."""
    given = dict(CASES[case])
    num = given.pop("rows", 48)
    shares = given.pop("shares", False)
    augment = device_augmentation("default", PREPROCESS) if given.pop("augments", False) else None
    config = make_config({**RATES, "epochs": 1, "batch_size": 8, "warmup_epochs": 0, **given})
    data = Images(num)
    loader = train_loader(
        data,  # type: ignore[arg-type]
        pd.DataFrame({"image_id": np.arange(num), "label": data.label_N}),
        batch_size=8 * config.train.grad_accum_steps,
        workers=0,
        share_NC=data.share_NC if shares else None,
        part=WHOLE if team is None else team.part,
        split=8,
    )
    fit = Fit(
        kind(),
        config,  # type: ignore[arg-type]
        PREPROCESS,
        CPU,
        steps_per_epoch=len(loader),
        count_C=np.ones(NUM_CLASSES, int),
        augment=augment,
        team=team,
    )
    loader.enter(0, 0)
    images, labels = next(iter(loader))
    fit._train_step(images, labels, loader)
    gradients = {name: one.grad.clone() for name, one in fit.model.named_parameters()}  # type: ignore[union-attr]
    return SimpleNamespace(
        gradients=gradients, loss=float(fit.loss_sum) / fit.images_seen, loaded=len(images)
    )


def main(folder: Path) -> None:
    """Write the steps of all cases, as this process of a team sees them."""
    torch.set_num_threads(1)
    store, _, _ = next(torch.distributed.rendezvous("env://"))
    team = Team.join(world_of(), store, "gloo")
    steps = {case: vars(step_of(case, team)) for case in CASES}
    try:
        step_of("plain", team, Idle)
    except UserError as error:
        steps["idle"] = {"error": str(error)}
    torch.save(steps, folder / f"{team.world.rank}.pt")
    Team.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
