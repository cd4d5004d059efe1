"""Damage to JSON and YAML files that commands read back: every key, with values of every kind."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.faults.hashes import with_hash
from tests.faults.jobs import reads
from tests.faults.judge import Case

__all__ = ["json_cases", "yaml_cases"]

ABSENT = object()
ESCAPED = "red\x1b[31m\x07\u202e\nnext line\r\x9b2J"
DEEP = 600
# What is put in a key's place. Those of JSON that YAML has no word for are left out there.
VALUES: dict[str, Any] = {
    "removed": ABSENT,
    "null": None,
    "a word": "word",
    "a number": 7,
    "a list": ["x", 1],
    "an object": {"a": 1},
    "negative": -1,
    "huge": 10**9,
    "beyond floats": 10**400,
    "float": 1e308,
    "escapes": ESCAPED,
    "long": "y" * 1_000_000,
    "true": True,
    "empty": "",
}
RAW = {"NaN": "NaN", "infinite": "-Infinity", "nested": "[" * DEEP + "]" * DEEP}
# The JSON files of a run, and the runs that the readers of these take.
JSON_FILES = {
    "outputs/full/run.json": "full",
    "outputs/full/fold_0/done.json": "full",
    "outputs/full/sections/views.json": "full",
    "outputs/full/report.json": "full",
    "outputs/full/explain.json": "full",
    "outputs/full/env.json": "full",
    "outputs/frozen/run.json": "frozen",
    "outputs/frozen/fold_1/done.json": "frozen",
    "outputs/frozen/refit_0/done.json": "frozen",
    "outputs/frozen/tta/times.json": "frozen",
    "outputs/frozen_tta/run.json": "frozen_tta",
    "outputs/frozen_tta/sections/tta.json": "frozen_tta",
    "outputs/both/run.json": "both",
    "outputs/both/sections/1_members.json": "both",
    "outputs/both/sections/2_errors.json": "both",
    "outputs/both/sections/3_methods.json": "both",
    "outputs/half/run.json": "half",
    "outputs/half/fold_0/done.json": "half",
}
# Files that few commands read; the others take all that read the run.
READERS: dict[str, tuple[str, ...]] = {
    "done.json": ("resume",),
    "views.json": ("report", "resume full"),
    "tta.json": ("report",),
    "1_members.json": ("report", "board"),
    "2_errors.json": ("report",),
    "3_methods.json": ("report",),
    "report.json": ("report", "board"),
    "explain.json": ("explain",),
    "env.json": ("resume", "report", "export"),
    "times.json": ("tta", "blend", "board"),
    "blend.yaml": ("blend config", "predict", "export"),
    "config.yaml": ("resume", "tta", "predict", "export", "board", "blend all", "report"),
}


def key_paths(value: Any, depth: int = 3) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every key, to a depth; of a list the first element stands for all."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list) and value:
        items = [(0, value[0])]
    for key, inner in items:
        yield (key,)
        if depth > 1 and key not in ("environment", "packages"):
            for rest in key_paths(inner, depth - 1):
                yield (key, *rest)


def changed(whole: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return a copy of nested dicts and lists with another value at a path."""
    copy = json.loads(json.dumps(whole))
    place = copy
    for key in path[:-1]:
        place = place[key]
    if value is ABSENT:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return copy


def _is_of_type(whole: Any, path: tuple[Any, ...], mutation: str) -> bool:
    """Return whether a word takes a word's place: only what it says is another, as users may do."""
    for key in path:
        whole = whole[key]
    new = VALUES.get(mutation)
    return isinstance(whole, str | bool) and type(new) is type(whole)


def _writer(file: str, path: tuple[Any, ...], mutation: str) -> Callable[[Path], None]:
    def prepare(stage: Path) -> None:
        target = stage / file
        whole = json.loads(target.read_text())
        mark = "MARK OF A VALUE"
        raw = RAW.get(mutation)
        text = json.dumps(changed(whole, path, mark if raw else VALUES[mutation]))
        target.write_text(text.replace(f'"{mark}"', raw) if raw else text)

    return prepare


def _job(file: str, run: str, number: int) -> str:
    jobs = reads(run, only=READERS.get(Path(file).name, ()))
    return jobs[number % len(jobs)]


def _names(file: str, run: str) -> tuple[str, ...]:
    return (Path(file).name, run)


def json_cases(base: Path) -> Iterator[Case]:
    """Yield a case per key and value; the commands that read the file take turns."""
    number = 0
    for file, run in JSON_FILES.items():
        if not (base / file).is_file():
            continue
        whole = json.loads((base / file).read_text())
        for path in key_paths(whole):
            for mutation in (*VALUES, *RAW):
                number += 1
                fits = _is_of_type(whole, path, mutation)
                yield Case(
                    id=f"{file}: {'.'.join(map(str, path))} {mutation}",
                    kind="json",
                    job=_job(file, run, number),
                    prepare=_writer(file, path, mutation),
                    names=_names(file, run),
                    bad_run="" if fits else run,
                    is_free=fits,
                )
        yield from _broken(file, run)


def _broken(file: str, run: str) -> Iterator[Case]:
    """Yield cases in which the whole file is something else."""
    texts = {
        "empty": b"",
        "half": None,
        "a list": b"[]",
        "a number": b"3",
        "null": b"null",
        "no UTF-8": b'{"a": "\xff\xfe"}',
        "nested": b"[" * 100_000 + b"]" * 100_000,
        "zeros": bytes(4096),
        "bare key": b'{"a"',
    }
    for number, (what, text) in enumerate(texts.items()):

        def prepare(stage: Path, text: bytes | None = text) -> None:
            target = stage / file
            data = target.read_bytes()
            target.write_bytes(data[: len(data) // 2] if text is None else text)

        for job in {_job(file, run, number), _job(file, run, number + 3)}:
            yield Case(
                id=f"{file}: whole file {what}, {job}",
                kind="json",
                job=job,
                prepare=prepare,
                names=_names(file, run),
                bad_run=run,
            )


YAML_FILES = {
    "outputs/full/config.yaml": "full",
    "outputs/frozen/config.yaml": "frozen",
    "outputs/both/blend.yaml": "both",
}
YAML_TEXTS = {
    "explodes": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(
        f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "nested": "[" * 3000,
    "object": "!!python/object/apply:os.system ['touch $FAULT_MARKER']\n",
    "a list": "- 1\n",
    "zeros": "\0" * 100,
    "tabs": "\t: [\n",
    "empty": "",
    "recursive": "a: &a [*a]\n",
}


def yaml_cases(base: Path) -> Iterator[Case]:
    """Yield the same for the settings of runs and blends, which are YAML."""
    number = 0
    for file, run in YAML_FILES.items():
        whole = json.loads(json.dumps(yaml.safe_load((base / file).read_text())))
        for path in key_paths(whole, 3 if run == "both" else 1):
            # A value of the right type is a setting like any other.
            for mutation in (
                "removed",
                "an object",
                "a list",
                "beyond floats",
                "escapes",
                "long",
                "negative",
            ):
                number += 1

                def prepare(
                    stage: Path,
                    path: tuple[Any, ...] = path,
                    mutation: str = mutation,
                    file: str = file,
                ) -> None:
                    text = yaml.safe_load((stage / file).read_text())
                    new = changed(text, path, VALUES[mutation])
                    (stage / file).write_text(yaml.safe_dump(new, sort_keys=False))

                yield Case(
                    id=f"{file}: {'.'.join(map(str, path))} {mutation}",
                    kind="yaml",
                    job=_job(file, run, number),
                    prepare=with_hash(file, prepare),
                    # A setting of the right type is refused as one that was typed.
                    names=(*_names(file, run), f"--{str(path[0]).replace('_', '-')} "),
                    bad_run=run,
                )
        for what, text in YAML_TEXTS.items():
            for job in reads(run, only=READERS[Path(file).name]):

                def replace(stage: Path, text: str = text, file: str = file) -> None:
                    (stage / file).write_text(text)

                yield Case(
                    id=f"{file}: whole file {what}, {job}",
                    kind="yaml",
                    job=job,
                    prepare=with_hash(file, replace),
                    names=_names(file, run),
                    bad_run=run,
                )
