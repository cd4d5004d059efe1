"""Description of the environment of a run: versions, hardware, commit and command line."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["describe_environment", "processor"]

DISTRIBUTIONS = (
    "torch",
    "torchvision",
    "timm",
    "albumentations",
    "opencv-python-headless",
    "scikit-learn",
    "pandas",
    "pyarrow",
    "numpy",
    "scipy",
    "safetensors",
    "joblib",
    "onnx",
    "onnxruntime",
    "openvino",
)


def _git_commit() -> str | None:
    """Return the commit of this source tree, with "-dirty" if edited, or None outside git."""
    here = Path(__file__).resolve().parent
    try:
        describe = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        done = subprocess.run(
            describe, cwd=here, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def processor() -> str:
    """Return the name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def describe_environment(*, weights: dict[str, str] | None = None) -> dict[str, Any]:
    """Return versions, hardware, commit and command line, for env.json.

    `weights` are the origin and licence of the pretrained weights.
    """
    # A blend does not use torch and must not load it just for this description.
    torch = sys.modules.get("torch")
    versions = {}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "absent"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        # With a driver that is too old for torch, GPUs are counted but cannot be asked.
        "gpus": []
        if torch is None or not torch.cuda.is_available()
        else [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cuda": None if torch is None else torch.version.cuda,
        "packages": versions,
        "git_commit": _git_commit(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "weights": weights,
    }
