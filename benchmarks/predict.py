"""Speed and memory of predict.py on many images, and what kills do to it.

Speed: 100,000 generated images with tf_efficientnet_lite0 and one fold's model. The images per
second of the whole command are compared with those of the bare forward pass on the same batches,
measured before and after in the same process. Memory and kills: a tiny model, whose time goes into
reading and writing; the resident size late in the run over that early in it, and the bytes of the
file after three kills.

    python benchmarks/predict.py --images 100000
"""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

import foldblend as fb
from benchmarks.common import ROOT, Results, parser
from pipeline.infer import logits_of
from pipeline.predict.config import PredictConfig
from pipeline.predict.session import open_session
from tta.views.names import view_of

SIZE = "128x128"
ROUNDS = 5
BATCHES = 6  # per round of the bare forward pass


def quiet(_: str) -> None:
    """Print nothing."""


def make_images(folder: Path, num: int) -> None:
    """Write JPEG images of 168 x 224 pixels: smooth random colours, each another one."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(num):
        small = rng.integers(0, 255, (7, 9, 3), np.uint8)
        image = cv2.resize(small, (168, 224), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{index:06d}.jpg"), image)


def train(output: Path, backbone: str, size: str) -> Path:
    """Make a run of two folds on the demo set, without pretrained weights."""
    run = fb.cross_validate(
        data="demo",
        backbone=backbone,
        pretrained="none",
        folds=2,
        epochs=1,
        img_size=size,
        output=str(output),
        name=backbone,
        page=False,
        say=quiet,
    )
    return run.path


def bare(run: Path) -> list[float]:
    """Return the images per second of the bare forward pass, in rounds."""
    session = open_session(run, PredictConfig(run=str(run), folds="0"), say=quiet)
    [net] = session.stream.nets.values()
    recipe = net.recipe
    model = net.use(0)
    torch.set_num_threads(recipe.threads)
    shape = (recipe.batch_size, recipe.preprocess.height, recipe.preprocess.width, 3)
    images = torch.randint(0, 255, shape, dtype=torch.uint8)
    speeds = []
    with torch.inference_mode():
        for _ in range(ROUNDS):
            start = time.perf_counter()
            for _ in range(BATCHES):
                logits_of(model, images, recipe.preprocess, net.compute, [view_of("identity")])
            speeds.append(BATCHES * len(images) / (time.perf_counter() - start))
    return speeds


def speed(place: Path, num: int) -> dict[str, Any]:
    """Return the speed of predict.py beside that of the bare forward pass."""
    run = train(place / "outputs", "tf_efficientnet_lite0", SIZE)
    folder = place / "many"
    make_images(folder, num)
    before = bare(run)
    start = time.perf_counter()
    subprocess.run(
        [
            sys.executable,
            ROOT / "predict.py",
            run,
            folder,
            "--folds",
            "0",
            "--out",
            place / "a.csv",
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    seconds = time.perf_counter() - start
    rows = sum(1 for _ in (place / "a.csv").open()) - 1
    each = [*before, *bare(run)]
    shutil.rmtree(folder)
    return {
        "images": rows,
        "seconds": round(seconds, 1),
        "images_per_s": round(rows / seconds, 2),
        "bare_images_per_s": [round(one, 2) for one in each],
        "ratio": round(rows / seconds / statistics.median(each), 4),
    }


def _resident(pid: int) -> int:
    """Return the resident bytes of a process, 0 if it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _watched(words: list[Any], out: Path) -> list[tuple[int, int]]:
    """Run a command, and return the sizes of its journal with the resident sizes, over time."""
    rows = out.with_name(f".{out.name}.partial") / "rows"
    found = []
    with subprocess.Popen([*words, out], stdout=subprocess.DEVNULL) as child:
        while child.poll() is None:
            time.sleep(0.2)
            done = rows.stat().st_size if rows.is_file() else 0
            found.append((done, _resident(child.pid)))
    return [one for one in found if all(one)]


def memory(place: Path, num: int) -> dict[str, Any]:
    """Return the resident size over a run with a tiny model, and whether kills change the file."""
    run = train(place / "outputs", "test_resnet", "32")
    folder = place / "many"
    make_images(folder, num)
    words = [sys.executable, ROOT / "predict.py", run, folder, "--folds", "0", "--out"]
    found = _watched(words, place / "whole.csv")
    end = max(done for done, _ in found)
    early, late = (
        statistics.median(size for done, size in found if low <= done / end <= high)
        for low, high in ((0.05, 0.15), (0.85, 1.0))
    )
    killed = place / "killed.csv"
    rows = killed.with_name(f".{killed.name}.partial") / "rows"
    kills = []
    for share in (0.2, 0.5, 0.8):
        with subprocess.Popen([*words, killed], stdout=subprocess.DEVNULL) as child:
            while child.poll() is None:
                if rows.is_file() and rows.stat().st_size > share * end:
                    kills.append(round(rows.stat().st_size / end, 2))
                    child.send_signal(signal.SIGKILL)
                    break
                time.sleep(0.02)
    subprocess.run([*words, killed], check=True, stdout=subprocess.DEVNULL)
    return {
        "images": num,
        "early_mb": round(early / 1e6, 1),
        "late_mb": round(late / 1e6, 1),
        "late_over_early": round(late / early, 4),
        "killed_at": kills,
        "equal_bytes": killed.read_bytes() == (place / "whole.csv").read_bytes(),
    }


def main() -> None:
    """Measure and keep the results."""
    made = parser(__doc__, results="predict.json")
    made.add_argument("--images", type=int, default=100_000)
    made.add_argument("--only", choices=("speed", "memory"))
    args = made.parse_args()
    results = Results(args, device="cpu")
    for name, measure in (("speed", speed), ("memory", memory)):
        if args.only in (None, name):
            if name not in results:
                with tempfile.TemporaryDirectory() as place:
                    results.put(name, measure(Path(place), args.images))
            print(name, results[name])


if __name__ == "__main__":
    main()
