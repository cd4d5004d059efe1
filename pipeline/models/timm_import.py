"""Import of timm, also where torchvision and a CPU build of torch do not match.

timm imports torchvision, which PyPI has for CUDA only.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import torch

__all__ = ["timm"]

# torch removes the operators when this object is deleted, so a global keeps it.
_stub_library: Any = None


def _import_torchvision() -> None:
    """Import torchvision; with a CPU build of torch, declare the two operators that it lacks.

    With a CPU build of torch, PyPI's torchvision fails with "operator torchvision::nms does not
    exist". Image classification never calls these operators, so declaring them is enough.
    """
    global _stub_library
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        _stub_library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            _stub_library.define(
                f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
        importlib.import_module("torchvision")


_import_torchvision()
# timm imports wandb if it is installed, which takes most of a second and replaces sys.stdout.write,
# so it is hidden during the import.
_hides_wandb = "wandb" not in sys.modules
if _hides_wandb:
    sys.modules["wandb"] = None  # type: ignore[assignment]
timm: Any = importlib.import_module("timm")
for _part in ("models", "optim", "utils"):
    importlib.import_module(f"timm.{_part}")
if _hides_wandb:
    del sys.modules["wandb"]
