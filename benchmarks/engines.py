"""Speed of the engines of inference on a CPU, against eager torch.

    python benchmarks/engines.py [--rounds 7 --images 32 --models tf_efficientnet_lite0@168x224]

Forward passes of all engines take turns, with one thread and with two. Torch runs twice: as it
comes (channels-last, batches of 16, in a process of its own), and as this project runs it, where
memory that is freed is kept for the next pass.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from common import Results, parser, print_rows, ratios, settled, shown, spread

from pipeline.config.run import parse_size
from pipeline.data.preprocess import Preprocess
from pipeline.device import Compute, open_compute
from pipeline.engines.choose import LEAST_RATIO
from pipeline.engines.forward import Forward
from pipeline.engines.registry import ENGINES, TORCH
from pipeline.engines.spec import spec_of
from pipeline.models.timm_import import timm

MODELS = (
    "tf_efficientnet_lite0@168x224",
    "efficientnet_b3@288x288",
    "resnet18@224x224",
    "vit_small_patch16_224@224x224",
)
THREADS = (1, 2)
PLAIN = "torch as it comes"
PLAIN_BATCH = 16
GRAPHS = [name for name, kind in ENGINES.items() if kind.is_graph and not kind.absent]


def built(name: str) -> tuple[torch.nn.Module, int, int]:
    """Return a model with random weights, the same in each process, and its input size."""
    backbone, _, size = name.partition("@")
    width, height = parse_size(size)
    torch.manual_seed(0)
    model = timm.create_model(backbone, num_classes=18).eval()
    return model.to(memory_format=torch.channels_last), width, height


def pixels_for(num: int, width: int, height: int) -> torch.Tensor:
    return torch.randn(num, 3, height, width, generator=torch.Generator().manual_seed(1))


def plain(pipe: Any, name: str, threads: int, num: int) -> None:
    """Serve timings of torch as it comes: seconds of all images, whenever asked."""
    torch.set_num_threads(threads)
    model, width, height = built(name)
    pixels = pixels_for(num, width, height).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        while pipe.recv():
            start = time.perf_counter()
            for part in pixels.split(PLAIN_BATCH):
                model(part)
            pipe.send(time.perf_counter() - start)


@contextlib.contextmanager
def plain_torch(name: str, threads: int, num: int) -> Iterator[Callable[[], float]]:
    """Give the function that times torch as it comes, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=plain, args=(theirs, name, threads, num), daemon=True)
    process.start()

    def seconds() -> float:
        ours.send(True)
        return float(ours.recv())

    yield seconds
    ours.send(False)
    process.join()


def forwards(
    name: str, model: torch.nn.Module, width: int, height: int, compute: Compute, threads: int
) -> dict[str, Forward]:
    """Return the forward passes of all engines that are installed."""
    preprocess = Preprocess(width=width, height=height, mean=(0.5,) * 3, std=(0.5,) * 3)
    found = {TORCH: Forward(model, preprocess, compute)}
    for engine in GRAPHS:
        spec = spec_of(
            engine,
            backbone=name,
            kwargs={},
            num_classes=18,
            attributes=(),
            ordinal=None,
            frozen=False,
            preprocess=preprocess,
            batch_size=64,
            threads=threads,
            folder=None,
        )
        found[engine] = Forward(model, preprocess, compute, spec, say=print)
    return found


def measure(args: argparse.Namespace, name: str, threads: int) -> dict[str, Any]:
    compute = open_compute("cpu", threads=threads, amp_dtype=None, channels_last=True)
    model, width, height = built(name)
    pixels = pixels_for(args.images, width, height)
    made = forwards(name, model, width, height, compute, threads)
    times: dict[str, list[float]] = {PLAIN: [], **{way: [] for way in made}}
    with plain_torch(name, threads, args.images) as seconds, torch.inference_mode():
        seconds()
        for forward in made.values():
            forward(pixels)
        for _ in range(args.rounds):
            times[PLAIN].append(seconds() / args.images)
            for way, forward in made.items():
                start = time.perf_counter()
                forward(pixels)
                times[way].append((time.perf_counter() - start) / args.images)
    return {
        "ms_per_image": {
            way: spread([one * 1000 for one in values], 2) for way, values in times.items()
        },
        "plain_over": {way: ratios(times[PLAIN], times[way]) for way in made},
        "torch_over": {way: ratios(times[TORCH], times[way]) for way in GRAPHS},
        "difference": {way: made[way].difference for way in GRAPHS},
    }


def main() -> None:
    """Measure what the JSON file does not have yet, and print the tables."""
    cli = parser(__doc__, results="engines.json")
    cli.add_argument("--models", nargs="+", default=MODELS)
    cli.add_argument("--rounds", type=int, default=7)
    cli.add_argument("--images", type=int, default=32)
    args = cli.parse_args()
    results = Results(args, device=settled(args).machine.device)
    for name in args.models:
        for threads in THREADS:
            key = f"{name}, threads {threads}"
            if key not in results:
                results.put(key, measure(args, name, threads))
            found = results[key]
            best = max(GRAPHS, key=lambda way: found["torch_over"][way]["median"])
            faster = found["torch_over"][best]["median"] >= LEAST_RATIO
            rows = [("engine", "ms per image", f"{PLAIN} / it", "torch here / it", "difference")]
            for way, about in found["ms_per_image"].items():
                over = found["plain_over"].get(way)
                own = found["torch_over"].get(way)
                difference = found["difference"].get(way)
                rows.append(
                    (
                        way,
                        shown(about),
                        "" if over is None else shown(over),
                        "" if own is None else shown(own),
                        "" if difference is None else f"{difference:.1e}",
                    )
                )
            print_rows(f"{key}: auto takes {best if faster else TORCH}", rows)


if __name__ == "__main__":
    main()
