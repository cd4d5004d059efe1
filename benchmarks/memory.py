"""Memory over epochs, over folds and of a large manifest, and the gain of keeping it.

    python benchmarks/memory.py [--epochs 100]

Resident memory is read after every epoch of a run of a tiny test model with many epochs, and of
another with many folds. A manifest of a million images is read. Steps are timed with freed memory
kept by the process, and with freed memory given back to the system.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from common import Results, parser, print_rows, settled, shown, spread

from pipeline.config.settings import make_config
from pipeline.cv import cross_validate
from pipeline.device import compute_of
from pipeline.models.timm_import import timm

PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_mb() -> float:
    """Return the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 2**20


def over_epochs(args: argparse.Namespace, *, folds: int, epochs: int) -> list[float]:
    """Return the resident memory in MB after every epoch that a run reports."""
    seen: list[float] = []

    def say(line: str) -> None:
        if " epoch " in line:
            seen.append(resident_mb())

    with tempfile.TemporaryDirectory() as folder:
        config = make_config(
            data=args.data,
            backbone="test_efficientnet",
            pretrained="none",
            img_size=64,
            folds=folds,
            epochs=epochs,
            batch_size=32,
            device="cpu",
            cache_dir=folder,
            output=folder,
            name="run",
        )
        cross_validate(config, say=say)
    return seen


def million_rows() -> dict[str, float]:
    """Return memory and time to read a manifest of a million images, which are empty files."""
    from folds.config import DataConfig
    from folds.data.source import load_manifest

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        num = 1_000_000
        for shard in range(1000):
            (folder / f"{shard:03d}").mkdir()
        for index in range(num):
            (folder / f"{index % 1000:03d}" / f"{index}.jpg").touch()
        index_N = pd.Series(range(num))
        files = (index_N % 1000).map("{:03d}".format) + "/" + index_N.astype(str) + ".jpg"
        table = pd.DataFrame({"file": files, "label": index_N % 18, "who": index_N // 7})
        table.to_csv(folder / "table.csv", index=False)
        del table, files, index_N
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        start = time.perf_counter()
        config = DataConfig(
            csv=str(folder / "table.csv"), image_col="file", label_col="label", group_col="who"
        )
        manifest = load_manifest(config)
        assert len(manifest.train) == num
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return {
            "peak_mb": round(peak),
            "before_mb": round(before),
            "seconds": round(time.perf_counter() - start, 1),
        }


def step_milliseconds(*, keep: bool) -> dict[str, Any]:
    """Return the milliseconds of inference and training steps, with freed memory kept or not."""
    from pipeline import device as device_module

    if not keep:
        device_module._keep_freed_memory = lambda: None
    compute = compute_of(settled(argparse.Namespace(data="demo", device="cpu")).machine)
    model = timm.create_model("tf_efficientnet_lite0", num_classes=18).to(
        memory_format=compute.memory_format
    )
    optimizer = torch.optim.AdamW(model.parameters(), 1e-6)
    large = torch.randn(64, 3, 224, 168).contiguous(memory_format=compute.memory_format)
    small = torch.randn(32, 3, 128, 128).contiguous(memory_format=compute.memory_format)
    times: dict[str, list[float]] = {"infer 64 at 168x224": [], "train 32 at 128": []}
    for _ in range(8):
        start = time.perf_counter()
        with torch.inference_mode():
            model.eval()(large)
        times["infer 64 at 168x224"].append((time.perf_counter() - start) * 1000)
        start = time.perf_counter()
        loss = model.train()(small).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        times["train 32 at 128"].append((time.perf_counter() - start) * 1000)
    return {name: spread(values[2:], 0) for name, values in times.items()}


def in_new_process(part: str, args: argparse.Namespace) -> Any:
    """Return the result of one part, run in a new process whose memory has nothing else in it."""
    import json

    command = [
        sys.executable,
        __file__,
        "--part",
        part,
        "--data",
        args.data,
        "--epochs",
        str(args.epochs),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])


PARTS = {
    "epochs": lambda args: over_epochs(args, folds=2, epochs=args.epochs),
    "folds": lambda args: over_epochs(args, folds=10, epochs=3),
    "million": lambda _: million_rows(),
    "kept": lambda _: step_milliseconds(keep=True),
    "given back": lambda _: step_milliseconds(keep=False),
}


def growth(seen: list[float]) -> dict[str, Any]:
    """Return the growth of memory: the mean of the last tenth over that of the second tenth.

    The first tenth is left out as a warm-up.
    """
    tenth = max(1, len(seen) // 10)
    early = sum(seen[tenth : 2 * tenth]) / tenth
    late = sum(seen[-tenth:]) / tenth
    return {
        "ratio": round(late / early, 3),
        "early_mb": round(early),
        "late_mb": round(late),
        "most_mb": round(max(seen)),
        "n": len(seen),
    }


def main() -> None:
    """Measure the parts that the JSON file does not have, and print the table."""
    import json

    cli = parser(__doc__, results="memory.json")
    cli.add_argument("--epochs", type=int, default=100)
    cli.add_argument("--part", choices=PARTS)
    args = cli.parse_args()
    if args.part:
        print(json.dumps(PARTS[args.part](args)))
        return
    results = Results(args, device="cpu")
    for part in PARTS:
        if part not in results:
            found = in_new_process(part, args)
            results.put(part, growth(found) if part in ("epochs", "folds") else found)
    rows = []
    for part, what in (
        ("epochs", f"{args.epochs} epochs x 2 folds"),
        ("folds", "3 epochs x 10 folds"),
    ):
        one = results[part]
        rows.append(
            (
                f"resident memory, {what}",
                (
                    f"{one['late_mb']} MB late / {one['early_mb']} MB early = {one['ratio']}"
                    f" (maximum {one['most_mb']} MB)"
                ),
            )
        )
    million = results["million"]
    rows.append(
        (
            "a manifest of a million images",
            f"peak {million['peak_mb']} MB, {million['seconds']} s",
        )
    )
    kept = results["kept"]
    given = results["given back"]
    for name, value in kept.items():
        rows.append(
            (f"{name}, ms: memory kept / given back", f"{shown(value)} / {shown(given[name])}")
        )
    print_rows("memory", rows)


if __name__ == "__main__":
    main()
