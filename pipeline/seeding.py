"""Randomness from (seed, fold, epoch, image), never from a generator that others share."""

from __future__ import annotations

import hashlib

import numpy as np

__all__ = ["derive_rng", "derive_seed"]


def derive_seed(*parts: int | str) -> int:
    """Return a seed below 2**32 that depends on every part and on nothing else."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=4).digest(), "big")


def derive_rng(*parts: int | str) -> np.random.Generator:
    """Return a generator seeded by `derive_seed(*parts)`."""
    return np.random.default_rng(derive_seed(*parts))
