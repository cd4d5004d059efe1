"""Names of code in files that are only read: nothing of them may be imported."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.faults.damage_weights import evil_pickle
from tests.faults.hashes import with_hash
from tests.faults.jobs import reads
from tests.faults.judge import Case

__all__ = ["code_cases"]

# Settings that name code, files or folders.
PARTS = ("backbone", "augment", "loss", "sched", "dataset", "tta", "weights", "cache_dir")
NAMES = {
    "module": "evil:Model",
    "submodule": "evil.Model:Model",
    "hub": "hf-hub:nobody/evil",
    "local folder": "local-dir:evil_model",
}
ALBU = {
    "__version__": "2.0.8",
    "transform": {"__class_fullname__": "evil.Model", "p": 1.0},
}


def _settings(file: str, change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def prepare(stage: Path) -> None:
        target = stage / file
        settings = yaml.safe_load(target.read_text())
        change(settings)
        target.write_text(yaml.safe_dump(settings, sort_keys=False))
        _local_model(stage)

    return with_hash(file, prepare)


def _local_model(stage: Path) -> None:
    """Write a folder for timm's local-dir: with a pickle that leaves a mark."""
    folder = stage / "evil_model"
    folder.mkdir()
    settings = {"architecture": "test_resnet", "num_classes": 3}
    (folder / "config.json").write_text(json.dumps(settings))
    evil_pickle(folder / "pytorch_model.bin", in_zip=True)
    (stage / "evil.yaml").write_text(yaml.safe_dump(ALBU))


def _everywhere(value: Any, new: str, keys: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        return {
            key: new
            if key in keys and not isinstance(one, dict | list)
            else _everywhere(one, new, keys)
            for key, one in value.items()
        }
    return [_everywhere(one, new, keys) for one in value] if isinstance(value, list) else value


def _exported(new: str, key: str) -> Callable[[Path], None]:
    """Return a function that puts a name into the model.json of the exported file."""

    def prepare(stage: Path) -> None:
        _local_model(stage)
        whole = stage / "model.zip"
        with zipfile.ZipFile(whole) as old:
            members = [(one, old.read(one)) for one in old.infolist()]
            comment = old.comment
        with zipfile.ZipFile(whole, "w") as made:
            for info, data in members:
                if info.filename == "model.json":
                    text = json.loads(data)
                    data = json.dumps(_everywhere(text, new, (key,)), indent=1).encode()
                made.writestr(info, data)
            made.comment = comment
        _seal(whole)

    return prepare


def _seal(file: Path) -> None:
    """Make the checksums of an exported file right again, as whoever sends it would."""
    import hashlib

    with zipfile.ZipFile(file) as old:
        members = [(one, old.read(one)) for one in old.infolist()]
        comment = old.comment
    sums = "".join(
        f"{hashlib.sha256(data).hexdigest()}  {info.filename}\n"
        for info, data in members
        if info.filename != "SHA256SUMS"
    )
    with zipfile.ZipFile(file, "w") as made:
        for info, data in members:
            made.writestr(info, sums.encode() if info.filename == "SHA256SUMS" else data)
        made.comment = comment


def code_cases(base: Path) -> Iterator[Case]:
    """Yield a case per file, key and name; only a mark or an ugly end is a failure."""
    for run in ("full", "frozen"):
        for key in PARTS:
            for what, name in NAMES.items():
                if what != "module" and key not in ("backbone", "dataset", "weights"):
                    continue
                # Whatever else may read a run's settings is tried too.
                for job in reads(run):
                    yield Case(
                        id=f"outputs/{run}/config.yaml: {key} is {name}, {job}",
                        kind="code",
                        job=job,
                        prepare=_settings(
                            f"outputs/{run}/config.yaml",
                            lambda settings, key=key, name=name: settings.update({key: name}),
                        ),
                        names=("config.yaml", f"outputs/{run}", f"{run}:", f"--{key}", key),
                        bad_run=run,
                        is_free=True,
                    )
    yield from _views()
    yield from _blend_cases()
    for key in ("backbone", "augment", "loss", "module", "model", "metric", "kind", "views"):
        for name in NAMES.values():
            yield Case(
                id=f"model.zip: {key} is {name}",
                kind="code",
                job="predict file",
                prepare=_exported(name, key),
                names=("model.zip",),
                is_free=True,
            )
    yield from _pickles()


def _views() -> Iterator[Case]:
    for job in reads("full"):
        for view in ("albu:evil.yaml", "train:2", "evil:Model"):
            yield Case(
                id=f"outputs/full: views {view}, {job}",
                kind="code",
                job=job,
                prepare=_views_of(view),
                names=("full", "evil.yaml"),
                is_free=True,
                bad_run="full",
            )


def _views_of(view: str) -> Callable[[Path], None]:
    change = _settings(
        "outputs/full/config.yaml",
        lambda settings: settings.update({"tta": view, "augment": "evil:Model"}),
    )

    def prepare(stage: Path) -> None:
        change(stage)
        file = stage / "outputs/full/run.json"
        info = json.loads(file.read_text())
        info["views"] = ["identity", f"{view}#0" if view.startswith("train") else view]
        file.write_text(json.dumps(info))

    return prepare


def _blend_cases() -> Iterator[Case]:
    changes: dict[str, Callable[[dict[str, Any]], None]] = {
        "metric": lambda one: one.update(metric="evil:Model"),
        "method": lambda one: one.update(method="evil:Model"),
        "costs": lambda one: one.update(costs="canary/table.csv"),
        "output": lambda one: one.update(output="canary/folder"),
        "name": lambda one: one.update(name="../../canary/folder"),
        "members elsewhere": lambda one: one["members"][0].update(path="../../canary/folder"),
        "members absolute": lambda one: one["members"][0].update(path="/proc"),
        "itself a member": lambda one: one["members"][0].update(path="."),
        "fitted kind": lambda one: one["found"]["fitted"].update(vote="evil:Model"),
        "no members": lambda one: one.update(members=[]),
        "a thousand members": lambda one: one.update(members=one["members"] * 500),
    }
    for what, change in changes.items():
        for job in ("blend config", "predict both", "export both", "board", "report both"):
            yield Case(
                id=f"outputs/both/blend.yaml: {what}, {job}",
                kind="code",
                job=job,
                prepare=_settings("outputs/both/blend.yaml", change),
                names=("blend.yaml", "outputs/both", "both", "--metric", "--method"),
                bad_run="both",
                is_free=True,
            )


def _pickles() -> Iterator[Case]:
    for in_zip in (False, True):
        form = "torch's zip" if in_zip else "plain"
        places = {
            "outputs/half/fold_1/last.ckpt": "resume half",
            "outputs/full/fold_0/best.safetensors": "predict full",
            "outputs/frozen/backbone.safetensors": "predict frozen",
            "outputs/both/parameters.safetensors": "predict both",
            "model.zip": "predict file",
        }
        for file, job in places.items():
            yield Case(
                id=f"{file}: a pickle, {form}",
                kind="code",
                job=job,
                prepare=lambda stage, file=file, in_zip=in_zip: evil_pickle(
                    stage / file, in_zip=in_zip
                ),
                names=(Path(file).name,),
                is_free=file.endswith(".zip"),
            )
        for suffix in (".pth", ".ckpt", ".bin", ".safetensors", ".npz", ".pkl"):
            yield Case(
                id=f"--weights evil{suffix}: a pickle, {form}",
                kind="code",
                job="again full",
                more=("--weights", f"evil{suffix}", "--name", "w"),
                prepare=lambda stage, suffix=suffix, in_zip=in_zip: evil_pickle(
                    stage / f"evil{suffix}", in_zip=in_zip
                ),
                names=(f"evil{suffix}", "--weights"),
                writes=("outputs/w",),
                is_free=True,
                is_right=False,
            )
