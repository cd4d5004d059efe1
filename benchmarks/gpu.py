"""All benchmarks that need a GPU, one after the other, the hardest first.

    python benchmarks/gpu.py --data DATA            # on the first CUDA device
    python benchmarks/gpu.py --brief --device cpu   # only shows that they run

--minutes stops them earlier; each benchmark keeps what it
has measured after every round. --json is the folder of the results. --brief uses a tiny model and a
few steps; its times mean nothing.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import parser

LARGE = ("--backbone", "efficientnet_b3", "--img-size", "288")
# A small model is the hardest to keep supplied with images.
SMALL = ("--backbone", "resnet18", "--img-size", "224")
STEPS = ("--steps", "40", "--pictures", "20000", "--rounds", "3", "--longest", "2")
PLAN = (
    ("feeding", SMALL, ("--batch-size", "256", *STEPS)),
    ("feeding", LARGE, ("--batch-size", "64", *STEPS)),
    ("tta_views", LARGE, ("--batch-size", "256", "--pictures", "1024", "--rounds", "3")),
    ("parallel", SMALL, ("--batch-size", "32", "--epochs", "10", "--rounds", "3")),
    ("compile", SMALL, ("--batch-size", "256", "--steps", "40", "--rounds", "3")),
    (
        "parallel",
        SMALL,
        ("--batch-size", "256", "--epochs", "4", "--pictures", "10000", "--rounds", "3"),
    ),
    ("compile", LARGE, ("--batch-size", "64", "--steps", "40", "--rounds", "3")),
)
TINY = ("--backbone", "test_efficientnet", "--img-size", "64", "--batch-size", "16")
BRIEF = {
    "feeding": (*TINY, "--rounds", "1", "--steps", "2", "--pictures", "600"),
    "compile": (*TINY, "--rounds", "1", "--steps", "2"),
    "tta_views": (*TINY, "--rounds", "1", "--pictures", "64"),
    "parallel": (*TINY, "--rounds", "1", "--epochs", "1"),
}
# Seconds that a benchmark needs at least; with less left, it is not started.
LEAST = 20


def main() -> int:
    """Run all of them, also after one that failed, and return the first exit code that is not 0."""
    cli = parser(__doc__, results="")
    cli.set_defaults(device="cuda")
    cli.add_argument("--brief", action="store_true", help="only show that the benchmarks run")
    cli.add_argument("--minutes", type=float, default=60, help="time for all of them")
    cli.add_argument("--only", nargs="+", choices=sorted(BRIEF), default=sorted(BRIEF))
    args = cli.parse_args()
    here = Path(__file__).resolve().parent
    end = time.monotonic() + args.minutes * 60
    codes = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = scratch if args.brief and args.json.resolve() == here else args.json
        plan = [one for one in PLAN if one[0] in args.only]
        if args.brief:
            plan = [(name, BRIEF[name], ()) for name in args.only]
        for name, flags, more in plan:
            left = end - time.monotonic()
            if left < LEAST:
                print(f"{name} {' '.join(flags)}: left out, the time is over", flush=True)
                continue
            command = [sys.executable, str(here / f"{name}.py"), "--data", args.data]
            command += ["--device", args.device, "--json", f"{folder}/{name}.json"]
            command += [*flags, *more, *(["--fresh"] if args.fresh else [])]
            try:
                codes.append(subprocess.run(command, check=False, timeout=left).returncode)
            except subprocess.TimeoutExpired:
                print(f"{name} {' '.join(flags)}: stopped, the time is over", flush=True)
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(main())
