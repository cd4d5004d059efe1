"""Duplicate search: time on many pictures and on many hashes.

    python benchmarks/duplicates.py [--data DATA] [--pictures 20000] [--hashes 1000000]

The pictures of the data set are decoded again and again until there are as many as asked for; the
hashes crowd into twenty places: nine of ten share their upper half with 45,000 others.
"""

from __future__ import annotations

import argparse
import json
import resource
import time

import numpy as np

from folds.config import DataConfig
from folds.duplicates import duplicate_pairs, prints_of
from folds.hamming import near_pairs
from folds.source import load_manifest


def crowded_hashes(num: int, rng: np.random.Generator) -> np.ndarray:
    """Return hashes of which nine tenths share their upper 32 bits with one of twenty centres."""
    hash_N = rng.integers(0, 2**64, num, dtype=np.uint64)
    crowd = num * 9 // 10
    centre = rng.integers(0, 2**64, 20, dtype=np.uint64)[rng.integers(0, 20, crowd)]
    low = np.uint64(2**32 - 1)
    hash_N[:crowd] = (centre & ~low) | (hash_N[:crowd] & low)
    return hash_N


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="demo")
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--hashes", type=int, default=1_000_000)
    args = parser.parse_args()
    hash_N = crowded_hashes(args.hashes, np.random.default_rng(0))
    start = time.perf_counter()
    num_pairs = sum(len(pairs) for pairs in near_pairs(hash_N, 3))
    hashes = {"hashes": args.hashes, "pairs": num_pairs, "seconds": round(time.perf_counter() - start, 1)}
    hashes["peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print(json.dumps(hashes), flush=True)
    train = load_manifest(DataConfig(data=args.data)).train
    start = time.perf_counter()
    prints = prints_of(train.iloc[np.arange(args.pictures) % len(train)])
    decoded = time.perf_counter()
    num_pairs = len(duplicate_pairs(prints))
    done = time.perf_counter()
    seconds = {"decode": round(decoded - start, 1), "search": round(done - decoded, 1)}
    print(json.dumps({"pictures": args.pictures, "pairs": num_pairs, "seconds": seconds}))


if __name__ == "__main__":
    main()
