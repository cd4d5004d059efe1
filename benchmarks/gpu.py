"""All benchmarks that need a GPU, one after the other, the most wanted first.

    python benchmarks/gpu.py --data DATA            # on the first CUDA device, at most 8 minutes
    python benchmarks/gpu.py --brief --device cpu   # only shows that they run

Each part has a share of the time, and makes fewer rounds if it does not suffice. A part for which
too little is left is left out, and named. Each result is in its file after every round, also if the
call is stopped (SIGTERM, Ctrl-C). --json is the folder of the results. --brief uses a tiny model
and a few steps; its times mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from common import exit_on_sigterm, parser, settled

from foldblend.errors import UserError

HERE = Path(__file__).resolve().parent
# Minutes of all parts by default; with more, each has more time for its rounds.
MINUTES = 8.0
# Seconds that a part may need beyond its share, for a round that takes longer than the one before.
GRACE = 30.0
# Seconds for the imports of a part, which its --seconds does not count.
IMPORTS = 12.0
# Seconds that a part has to end after SIGTERM.
PATIENCE = 8.0


@dataclass(frozen=True)
class Part:
    """A benchmark with its flags."""

    script: str
    flags: tuple[str, ...]
    seconds: float
    """Its share of the time, measured or estimated for an H100 with 16 cores."""
    least: float
    """Seconds without which it has no result."""

    @property
    def title(self) -> str:
        return f"{self.script} {' '.join(self.flags)}"


# A small model is the hardest to keep supplied with images.
SMALL = ("--backbone", "resnet18", "--img-size", "224")
LARGE = ("--backbone", "efficientnet_b3", "--img-size", "288")
STEPS = ("--steps", "40", "--pictures", "20000", "--rounds", "3", "--longest", "2")
ON_DEVICE = ("--augmented-on", "device")
ON_CPU = ("--augmented-on", "cpu")
FOLDS = ("--batch-size", "32", "--epochs", "3", "--pictures", "10000", "--rounds", "3")
VIEWS = ("--batch-size", "256", "--pictures", "1024", "--rounds", "3")
COMPILE = ("--steps", "40", "--rounds", "3")
PLAN = (
    Part("feeding", (*SMALL, "--batch-size", "256", *STEPS, *ON_DEVICE), 45, 30),
    Part("feeding", (*LARGE, "--batch-size", "64", *STEPS, *ON_DEVICE), 70, 45),
    Part("parallel", (*SMALL, *FOLDS), 125, 100),
    Part("tta_views", (*LARGE, *VIEWS), 55, 35),
    Part("compile", (*SMALL, "--batch-size", "256", *COMPILE), 50, 40),
    Part("feeding", (*SMALL, "--batch-size", "256", *STEPS, *ON_CPU), 85, 45),
    Part("feeding", (*LARGE, "--batch-size", "64", *STEPS, *ON_CPU), 85, 45),
    Part("compile", (*LARGE, "--batch-size", "64", *COMPILE), 120, 90),
)
TINY = ("--backbone", "test_efficientnet", "--img-size", "64", "--batch-size", "16")
FEW = ("--rounds", "1", "--steps", "2", "--pictures", "600")
SOON_COMPILED = ("--backbone", "test_vit", "--img-size", "160", "--batch-size", "4")
BRIEF = (
    Part("feeding", (*TINY, *FEW, *ON_DEVICE), 120, 0),
    Part("feeding", (*TINY, *FEW, *ON_CPU), 120, 0),
    Part("parallel", (*TINY, "--rounds", "1", "--epochs", "2"), 240, 0),
    Part("tta_views", (*TINY, "--rounds", "1", "--pictures", "64"), 120, 0),
    Part("compile", (*SOON_COMPILED, "--rounds", "1", "--steps", "2"), 120, 0),
)
SCRIPTS = sorted({part.script for part in PLAN})


def stop(child: subprocess.Popen[bytes]) -> None:
    """End a child and the processes that it has started, which are a group of their own."""
    # First the child alone: it ends its own, and removes its temporary folders.
    with contextlib.suppress(ProcessLookupError):
        child.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(PATIENCE)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def run(part: Part, args: argparse.Namespace, folder: Path, *, left: float) -> int | None:
    """Run a part; return its exit code, or None if it had to be stopped."""
    share = part.seconds * max(1.0, args.minutes / MINUTES)
    limit = min(share + GRACE, left)
    seconds = max(1.0, min(share, left) - IMPORTS)
    command = [sys.executable, str(HERE / f"{part.script}.py"), "--data", args.data]
    command += ["--device", args.device, "--json", str(folder / f"{part.script}.json")]
    command += [*part.flags, "--seconds", f"{seconds:.0f}", *(["--fresh"] if args.fresh else [])]
    # Nothing is looked up in a network.
    there = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    child = subprocess.Popen(command, env=there, start_new_session=True)
    try:
        return child.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:
        stop(child)


def main() -> int:
    """Run all of them, also after one that failed, and return the first exit code that is not 0."""
    exit_on_sigterm()
    cli = parser(__doc__, results="")
    cli.set_defaults(device="cuda")
    cli.add_argument("--brief", action="store_true", help="only show that the benchmarks run")
    cli.add_argument("--minutes", type=float, default=MINUTES, help="time for all of them")
    cli.add_argument("--only", nargs="+", choices=SCRIPTS, default=SCRIPTS)
    args = cli.parse_args()
    try:
        settled(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    start = time.monotonic()
    end = start + args.minutes * 60
    codes = []
    with tempfile.TemporaryDirectory() as scratch:
        keep = not args.brief or args.json.resolve() != HERE
        folder = args.json if keep else Path(scratch)
        for part in BRIEF if args.brief else PLAN:
            left = end - time.monotonic()
            if part.script not in args.only:
                continue
            if left < part.least:
                print(f"{part.title}: left out, only {left:.0f} s are left", flush=True)
                continue
            code = run(part, args, folder, left=left)
            codes.append(code or 0)
            how = "stopped" if code is None else "done" if code == 0 else f"exit code {code}"
            print(f"{part.title}: {how} at {time.monotonic() - start:.0f} s", flush=True)
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(main())
