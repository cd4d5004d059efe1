"""Cache of the features of frozen backbones: what identifies a store, and a record in it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch

from foldblend.images import boxes_of, image_key
from foldblend.runs.environment import processor
from pipeline.data.cache import Store, cache_root
from pipeline.data.images import IMAGES_VERSION
from pipeline.device import Compute
from pipeline.engines.registry import ENGINES, TORCH
from pipeline.models.timm_import import timm
from tta.views.names import VIEWS_VERSION

__all__ = ["fingerprint_of", "keys_of", "policy_of", "store_of"]


def fingerprint_of(state: Mapping[str, torch.Tensor]) -> str:
    """Return the hash of weights and buffers on the CPU."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(state.items()):
        digest.update(name.encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def policy_of(
    *,
    backbone: str,
    kwargs: Mapping[str, Any],
    weights: str,
    preprocess: Mapping[str, Any],
    batch_size: int,
    compute: Compute,
    threads: int,
    channels_last: bool,
    engine: str,
    deterministic: bool = False,
) -> dict[str, Any]:
    """Return everything that may change the last bit of a feature, which names its cache.

    Parameters
    ----------
    backbone, kwargs, weights
        Name of the backbone, keywords that build it, and the hash of its weights.
    preprocess
        Settings that make the pixels.
    batch_size
        Images per forward pass; short batches are filled up.
    compute, threads, channels_last, engine, deterministic
        Where and how the forward passes run.
    """
    policy = {
        "backbone": backbone,
        "kwargs": {key: str(value) for key, value in kwargs.items()},
        "weights": weights,
        "pictures": IMAGES_VERSION,
        "preprocess": preprocess,
        "batch_size": batch_size,
        "device": torch.cuda.get_device_name(compute.device) if compute.is_cuda else processor(),
        "amp_dtype": str(compute.amp_dtype),
        "threads": threads,
        "channels_last": channels_last,
        "views": VIEWS_VERSION,
        "versions": [
            *(one.__version__ for one in (torch, timm, cv2, np)),
            version("albumentations"),
        ],
    }
    if engine != TORCH:
        policy["engine"] = [engine, *ENGINES[engine].versions]
    if deterministic and compute.is_cuda:
        # Other runs' features may differ in their last bits. The key of these stays.
        policy["deterministic"] = True
    return policy


def store_of(cache_dir: str | None, num_features: int, policy: dict[str, Any]) -> Store:
    """Return the cache of features on disk."""
    folder = cache_root(cache_dir) / "features"
    return Store.at(folder, (num_features,), "float32", policy)


def keys_of(table: pd.DataFrame, what: str, *, named: bool = False) -> list[bytes]:
    """Return the key of each image's features in a store.

    `what` is the view, or describes an augmented copy. Augmentation is drawn by the image's name,
    so the key of a copy includes it (`named`).
    """
    keys = []
    for image, content, box in zip(
        table["image_id"], table["content"], boxes_of(table), strict=True
    ):
        own = f"{what} {image}" if named else what
        keys.append(
            hashlib.blake2b(image_key(content, box) + own.encode(), digest_size=16).digest()
        )
    return keys
