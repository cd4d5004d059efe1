"""All benchmarks that need a GPU, one after the other.

    python benchmarks/gpu.py --data DATA            # on the first CUDA device
    python benchmarks/gpu.py --brief --device cpu   # only shows that they run

--brief uses a tiny model and a few steps; its times mean nothing.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from common import parser

LARGE = ("--backbone", "efficientnet_b3", "--img-size", "288", "--batch-size", "64")
# A small model is the hardest to keep supplied with images.
HARD = (
    "--backbone",
    "resnet18",
    "--img-size",
    "224",
    "--batch-size",
    "256",
)
STEPS = ("--steps", "60", "--pictures", "20000")
PLAN = (
    ("feeding", LARGE, STEPS),
    ("feeding", HARD, STEPS),
    ("compile", LARGE, ()),
    ("compile", HARD, ()),
    ("tta_views", LARGE, ("--pictures", "4000")),
    ("parallel", HARD, ("--epochs", "20")),
)
TINY = (
    "--backbone",
    "test_efficientnet",
    "--img-size",
    "64",
    "--batch-size",
    "16",
    "--rounds",
    "1",
)
BRIEF = {
    "feeding": (*TINY, "--steps", "2", "--pictures", "600"),
    "compile": (*TINY, "--steps", "2"),
    "tta_views": (*TINY, "--pictures", "64"),
    "parallel": (*TINY, "--epochs", "1"),
}


def main() -> int:
    """Run all of them and return the first exit code that is not 0."""
    cli = parser(__doc__, results="")
    cli.set_defaults(device="cuda")
    cli.add_argument("--brief", action="store_true", help="only show that the benchmarks run")
    args = cli.parse_args()
    here = Path(__file__).resolve().parent
    with tempfile.TemporaryDirectory() as scratch:
        for name, flags, more in PLAN:
            command = [
                sys.executable,
                str(here / f"{name}.py"),
                "--data",
                args.data,
                "--device",
                args.device,
                *flags,
            ]
            command += BRIEF[name] if args.brief else more
            command += ["--json", f"{scratch if args.brief else here}/{name}.json"]
            code = subprocess.run(
                [*command, *(["--fresh"] if args.fresh else [])], check=False
            ).returncode
            if code:
                return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
