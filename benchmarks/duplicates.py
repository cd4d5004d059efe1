"""Time and memory of the duplicate search on many images and on many hashes.

    python benchmarks/duplicates.py [--data DATA] [--pictures 20000] [--hashes 1000000]

The images of the data set are decoded repeatedly, each time with another shift, until there are
--pictures of them. The hashes are a hard case: nine out of ten share their upper 32 bits with
45,000 others.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from foldblend.images import read_image
from folds.config import DataConfig
from folds.data.duplicates import RADIUS, Print, duplicate_pairs, print_of, stacked
from folds.data.hamming import near_pairs
from folds.data.source import load_manifest


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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="demo")
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--hashes", type=int, default=1_000_000)
    args = parser.parse_args()
    hash_N = crowded_hashes(args.hashes, np.random.default_rng(0))
    for radius in (3, RADIUS):
        start = time.perf_counter()
        num_pairs = sum(len(pairs) for pairs in near_pairs(hash_N, radius))
        hashes = {"hashes": args.hashes, "radius": radius, "pairs": num_pairs}
        hashes["seconds"] = round(time.perf_counter() - start, 1)
        hashes["peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        print(json.dumps(hashes), flush=True)
    paths = load_manifest(DataConfig(data=args.data)).train["path"].tolist()

    def shifted_print(index: int) -> Print:
        turn, row = divmod(index, len(paths))
        return print_of(np.roll(read_image(paths[row]), (17 * turn, 29 * turn), axis=(0, 1)))

    start = time.perf_counter()
    with ThreadPoolExecutor() as pool:
        prints = stacked(list(pool.map(shifted_print, range(args.pictures))))
    decoded = time.perf_counter()
    num_pairs = len(duplicate_pairs(prints))
    seconds = {
        "decode": round(decoded - start, 1),
        "search": round(time.perf_counter() - decoded, 1),
    }
    num_hashes = len(np.unique(prints.hash_N))
    print(
        json.dumps(
            {
                "pictures": args.pictures,
                "hashes": num_hashes,
                "pairs": num_pairs,
                "seconds": seconds,
            }
        )
    )


if __name__ == "__main__":
    main()
