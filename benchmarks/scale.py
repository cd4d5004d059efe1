"""Seconds and peak memory of each stage with up to millions of images, and costs per image.

    python benchmarks/scale.py [--rows 10000 100000 1000000]

A table of images in groups of about seven, with 18 imbalanced classes, and features that depend on
the class are generated. They take the way of a run with a frozen backbone: table, folds, linear
heads, blend of two runs, reports, leaderboard. Each stage is a process of its own on one thread, of
which the time and the peak of resident memory are recorded. There are no images: the table names
empty files, and the cache of features is filled with the generated ones. What each image costs
before that (checks, hashes, decoding, the cache) is measured on --images generated photographs.

Processor time is the measure of a stage, since it depends less on what else the machine does.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import ROOT, Results, parser, print_rows

CLASSES = tuple(f"class {index:02d}" for index in range(18))
# Backbones of the runs, and the dimensions of their features.
BACKBONES = {
    "a": ("test_convnext", 64),
    "b": ("test_convnext", 64),
    "wide": ("test_efficientnet", 256),
}
GROUP_SIZE = 7
# Test images for each labelled one.
TEST_SHARE = 0.1
BATCH = 2**16
PER_IMAGE = "per image"
ROWS = (10_000, 100_000, 1_000_000)
# Runs that are blended.
RUNS = ("a", "b")
# Share of the images of a group that have the class of the group.
SAME = 0.7


# Generated data.


def labels_and_groups(num: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the class and the group of each image; the rarest class has about 1 in 60."""
    rng = np.random.default_rng(num)
    odds_C = 1 / (np.arange(len(CLASSES)) + 1.0)
    odds_C /= odds_C.sum()
    group_N = np.sort(rng.integers(max(num // GROUP_SIZE, 20), size=num))
    of_group = rng.choice(len(CLASSES), size=int(group_N.max()) + 1, p=odds_C)
    other_N = rng.choice(len(CLASSES), size=num, p=odds_C)
    return np.where(rng.random(num) < SAME, of_group[group_N], other_N), group_N


def names_of(num: int, part: str) -> list[str]:
    """Return the names of images, in folders of a thousand."""
    return [f"{part}/{index // 1000:04d}/{index:07d}.jpg" for index in range(num)]


def generated_features(label_N: np.ndarray, num: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the features of images, float32, in batches; the runs' are equally hard."""
    centre_CD = 2.7 / num**0.5 * np.random.default_rng(7).normal(size=(len(CLASSES), num))
    for start in range(0, len(label_N), BATCH):
        label_B = label_N[start : start + BATCH]
        rng = np.random.default_rng((seed, start))
        noise_BD = rng.standard_normal((len(label_B), num), np.float32)
        yield noise_BD + centre_CD[label_B].astype(np.float32)


# Stages, each of which runs in a process of its own.


def make_table(folder: Path, num: int) -> None:
    """Write the table and its empty files; this is not measured."""
    label_N, group_N = labels_and_groups(num)
    names = names_of(num, "train")
    tested = names_of(int(num * TEST_SHARE), "test")
    for parent in sorted({str(Path(name).parent) for name in (*names, *tested)}):
        (folder / parent).mkdir(parents=True)
    for name in (*names, *tested):
        os.close(os.open(folder / name, os.O_CREAT | os.O_WRONLY))
    table = pd.DataFrame(
        {
            "image": names,
            "label": np.array(CLASSES)[label_N],
            "who": pd.Series(group_N).map("g{:07d}".format),
        }
    )
    table.to_csv(folder / "train.csv", index=False)
    pd.DataFrame({"image": tested}).to_csv(folder / "test.csv", index=False)


def loaded(folder: Path) -> Any:
    """Return the manifest of the table, with a hash of each file's name for that of its content."""
    import dataclasses

    from folds.config import DataConfig
    from folds.data.source import load_manifest

    config = DataConfig(
        csv=str(folder / "train.csv"),
        test=str(folder / "test.csv"),
        group_col="who",
        group_name="patient",
    )
    manifest = load_manifest(config)

    def with_content(table: pd.DataFrame) -> pd.DataFrame:
        content = [
            hashlib.blake2b(name.encode(), digest_size=16).hexdigest() for name in table["image_id"]
        ]
        return table.assign(content=content)

    return dataclasses.replace(
        manifest, train=with_content(manifest.train), test=with_content(manifest.test)
    )


def read_table(folder: Path, num: int) -> None:
    """Read the table to a manifest, and keep it for the other stages."""
    import pickle

    manifest = loaded(folder)
    assert len(manifest.train) == num
    (folder / "manifest.pickle").write_bytes(pickle.dumps(manifest))


def kept_manifest(folder: Path) -> Any:
    import pickle

    return pickle.loads((folder / "manifest.pickle").read_bytes())


def make_folds(folder: Path, num: int) -> None:
    """Make five folds and their table."""
    from folds.config import SplitConfig
    from folds.plan import plan_folds

    fold_RN = plan_folds(SplitConfig(), kept_manifest(folder), print)
    assert fold_RN.shape == (1, num)


def config_of(folder: Path, name: str) -> Any:
    from pipeline.config.settings import make_config

    return make_config(
        data="demo",
        backbone=BACKBONES[name][0],
        pretrained="none",
        finetune="head",
        img_size=32,
        infer_engine="torch",
        seed=[*BACKBONES].index(name),
        device="cpu",
        threads=1,
        workers=0,
        cache_dir=str(folder / "cache"),
        output=str(folder / "outputs"),
        name=name,
    )


def give_manifest(folder: Path) -> None:
    """Make runs of this process use the generated data instead of reading and checking images."""
    import pipeline.prepare

    manifest = kept_manifest(folder)
    digest = hashlib.blake2b(manifest.labels_hash().encode(), digest_size=16).hexdigest()
    pipeline.prepare.load_data = lambda *_, **__: (manifest, digest)  # type: ignore[assignment]


def fill_features(folder: Path, _: int, *, name: str) -> None:
    """Write generated features to the cache in which the run looks for those of its backbone."""
    from foldblend.cli import quiet
    from pipeline.frozen.feature_cache import keys_of
    from pipeline.frozen.features import Backbone, Features
    from pipeline.job import job_of
    from pipeline.prepare import prepare

    give_manifest(folder)
    run = prepare(config_of(folder, name), quiet)
    job = job_of(run, folder / "outputs" / name, say=quiet)
    store = Features(job, Backbone(job)).store
    assert store is not None
    seed = [*BACKBONES].index(name)
    num_test = len(run.manifest.test)
    unknown_N = np.random.default_rng(seed).integers(len(CLASSES), size=num_test)
    for table, label_N, part in (
        (run.manifest.train, run.manifest.train["label"].to_numpy(), 0),
        (run.manifest.test, unknown_N, 1),
    ):
        features = generated_features(label_N, BACKBONES[name][1], 2 * seed + part)
        store.fill(keys_of(table, "identity"), lambda _, made=features: made)


def fit_run(folder: Path, _: int, *, name: str) -> None:
    """Make a run: folds, heads of all folds, tables, and its report."""
    from pipeline.cv import cross_validate

    give_manifest(folder)
    run = cross_validate(config_of(folder, name))
    assert len(run.oof) == len(kept_manifest(folder).train)


def per_image(folder: Path, num: int) -> None:
    """Measure what each image costs before it is a row of features; write it to a JSON file."""
    import cv2

    from foldblend.cli import quiet
    from foldblend.image_checks import Checked, check_images
    from foldblend.images import image_key
    from folds.config import DataConfig
    from folds.data.duplicates import duplicate_pairs, prints_of
    from folds.data.source import load_manifest
    from pipeline.data.images import open_images
    from pipeline.data.preprocess import Preprocess

    rng = np.random.default_rng(0)
    names = [f"{index:06d}.jpg" for index in range(num)]
    for name in names:
        coarse = rng.integers(0, 256, size=(24, 32, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (512, 384), interpolation=cv2.INTER_CUBIC)
        noise = rng.normal(0, 6, size=image.shape)
        noisy = np.clip(image + noise, 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / name), noisy, [cv2.IMWRITE_JPEG_QUALITY, 90])
    table = pd.DataFrame({"image": names, "label": np.arange(num) % 2})
    table.to_csv(folder / "table.csv", index=False)
    found: dict[str, Any] = {"images": num, "file_bytes": mean_bytes(folder, names)}
    train = load_manifest(DataConfig(csv=str(folder / "table.csv"))).train

    def timed(name: str, action: Callable[[], Any]) -> Any:
        start = time.process_time()
        result = action()
        found[name] = {"cpu_seconds_per_million": round((time.process_time() - start) / num * 1e6)}
        return result

    checked = timed("check and hash the files", lambda: check_images(train))
    content = [one.content for one in checked if isinstance(one, Checked)]
    train = train.assign(content=content)
    known = frozenset(image_key(one, None) for one in content)
    timed("hash files that were checked before", lambda: check_images(train, known))
    preprocess = Preprocess(width=224, height=224, mean=(0.5,) * 3, std=(0.5,) * 3)
    common: dict[str, Any] = {"cache": "disk", "passes": 10, "device_room": None, "say": quiet}
    source = timed(
        "decode into the cache, 224 x 224",
        lambda: open_images([train], preprocess, cache_dir=str(folder / "cache"), **common),
    )
    found["decode into the cache, 224 x 224"]["bytes_per_image"] = round(
        size_mb(folder / "cache") * 1e6 / num
    )
    records = source.of(train)
    timed("read from the cache, with its checksum", lambda: [records[row] for row in range(num)])
    timed("read from the cache again", lambda: [records[row] for row in range(num)])
    prints = timed("fingerprints of --merge-duplicates", lambda: prints_of(train))
    timed("search for near duplicates", lambda: duplicate_pairs(prints))
    (folder / "per_image.json").write_text(json.dumps(found))


def mean_bytes(folder: Path, names: Sequence[str]) -> int:
    return round(sum((folder / name).stat().st_size for name in names) / len(names))


STAGES: dict[str, Callable[[Path, int], None]] = {
    "table": read_table,
    "folds": make_folds,
    **{f"features {name}": functools.partial(fill_features, name=name) for name in BACKBONES},
    **{f"heads {name}": functools.partial(fit_run, name=name) for name in BACKBONES},
    PER_IMAGE: per_image,
}


def commands(folder: Path) -> dict[str, list[str]]:
    """Return the commands of users that are measured after the stages, by name."""
    outputs = folder / "outputs"
    runs = [str(outputs / name) for name in RUNS]
    return {
        "soft vote": ["blend.py", *runs, "--method", "soft", "--name", "soft"],
        "blend": ["blend.py", *runs, "--name", "ab"],
        "report of a run": ["report.py", runs[0]],
        "report of a blend": ["report.py", str(outputs / "soft")],
        "leaderboard": [
            "leaderboard.py",
            *runs,
            str(outputs / "soft"),
            "--page",
            str(folder / "board.html"),
        ],
    }


# Measurement.


# A process inherits the peak memory of its parent, so that stages get a parent that has none.
LEAN = """
import json, os, subprocess, sys, time
start = time.perf_counter()
child = subprocess.Popen(sys.argv[2:], stdout=open(sys.argv[1], "w"), stderr=subprocess.STDOUT)
_, status, usage = os.wait4(child.pid, 0)
print(json.dumps({
    "code": os.waitstatus_to_exitcode(status),
    "seconds": round(time.perf_counter() - start, 1),
    "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
    "peak_mb": round(usage.ru_maxrss / 1024),
}))
"""


def measured(command: list[str], log: Path) -> dict[str, Any]:
    """Run a command; return its seconds and the peak of its resident memory in MB."""
    threads = {"OMP_NUM_THREADS": "1", "SM_CHANNEL_TRAIN": "", "PYTHONPATH": str(ROOT)}
    lean = [sys.executable, "-I", "-S", "-c", LEAN, str(log), sys.executable, *command]
    done = subprocess.run(
        lean, env=os.environ | threads, stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    if found.pop("code"):
        raise SystemExit(f"{' '.join(command)}: {log.read_text()[-3000:]}")
    return found


def size_mb(folder: Path) -> float:
    return round(sum(one.stat().st_size for one in folder.rglob("*") if one.is_file()) / 1e6, 1)


def all_stages(num: int, folder: Path, keep: Callable[[str, Any], None], wanted: list[str]) -> None:
    """Measure the stages one after the other."""
    if not (folder / "train.csv").is_file():
        make_table(folder, num)
    own = {
        name: [__file__, "--stage", name, "--folder", str(folder), "--rows", str(num)]
        for name in STAGES
        if name != PER_IMAGE
    }
    users = {name: [str(ROOT / one[0]), *one[1:]] for name, one in commands(folder).items()}
    for name, command in {**own, **users}.items():
        if wanted and name not in wanted:
            continue
        found = measured(command, folder / f"{name}.log")
        if name == "table":
            # Reports then need not find out image by image that the files are empty.
            (folder / "train").rename(folder / "train-gone")
        if name == "heads a":
            found["run_mb"] = size_mb(folder / "outputs" / "a")
            found["page_mb"] = size_mb_of(folder / "outputs" / "a" / "report.html")
        if name == "features a":
            found["cache_mb"] = size_mb(folder / "cache" / "features")
        keep(name, found)
        print(f"{num:,} rows, {name}: {found}", flush=True)


def size_mb_of(file: Path) -> float:
    return round(file.stat().st_size / 1e6, 1) if file.is_file() else 0.0


def main() -> None:
    cli = parser(__doc__, results="scale.json")
    cli.set_defaults(data="generated", device="cpu")
    cli.add_argument("--rows", type=int, nargs="+", default=list(ROWS))
    cli.add_argument("--stage", choices=STAGES)
    cli.add_argument("--only", nargs="+", default=[], help="measure these stages only")
    cli.add_argument("--images", type=int, default=2000, help="photographs of the costs per image")
    cli.add_argument("--folder", type=Path, help="where to keep the generated data")
    args = cli.parse_args()
    if args.stage:
        STAGES[args.stage](args.folder, args.rows[0])
        return
    results = Results(args, device="cpu")
    if PER_IMAGE not in results:
        with tempfile.TemporaryDirectory() as scratch:
            own = [__file__, "--stage", PER_IMAGE, "--folder", scratch, "--rows", str(args.images)]
            measured(own, Path(scratch) / "log")
            results.put(PER_IMAGE, json.loads((Path(scratch) / "per_image.json").read_text()))
    for name, one in results[PER_IMAGE].items():
        print(f"{name}: {one}", flush=True)
    for num in args.rows:
        name = f"{num:,} rows"
        if name in results and not args.only:
            continue
        found: dict[str, Any] = {}
        if name in results:
            found = results[name]
        root = args.folder or Path(tempfile.mkdtemp())
        folder = root / str(num)
        folder.mkdir(parents=True, exist_ok=True)

        def keep(stage: str, one: Any, name: str = name, found: dict[str, Any] = found) -> None:
            found[stage] = one
            results.put(name, found, partial=True)

        try:
            all_stages(num, folder, keep, args.only)
            results.put(name, found)
        finally:
            if args.folder is None:
                shutil.rmtree(root)
    for num in args.rows:
        rows = [("stage", "seconds", "processor seconds", "peak MB")]
        rows += [
            (name, *(f"{one[key]:,}" for key in ("seconds", "cpu_seconds", "peak_mb")))
            for name, one in results[f"{num:,} rows"].items()
        ]
        print_rows(f"{num:,} images", rows)


if __name__ == "__main__":
    main()
