"""Generate docs/flags.md and docs/run.schema.json from the code.

Run ``python -m docs.generate``. A test compares both files with the code, so that a review shows
every flag or key that is added, removed or changed.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import operator
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ensemble.config import BlendConfig
from foldblend.cli import cli_flags
from foldblend.flags import ALWAYS, Flag, flags_of
from foldblend.help import texts_of
from foldblend.runs.checked import Rule
from foldblend.runs.info import RunInfo
from folds.config import LAYOUTS, AuditConfig
from folds.import_config import ImportConfig
from pipeline.config.run import RunConfig
from pipeline.export.config import ExportConfig
from pipeline.plan.config import PlanOptions
from pipeline.predict.config import PredictConfig
from pipeline.search.config import SearchConfig
from reports.commands import BoardConfig, ReportConfig
from tta.config import TtaConfig

HERE = Path(__file__).resolve().parent
BY_CONTENT = ("data", "dataset", "csv", "test_csv", "corrections", "fold_file", "weights")
COMMANDS = {
    "run_cv.py": RunConfig,
    "blend.py": BlendConfig,
    "run_tta.py": TtaConfig,
    "predict.py": PredictConfig,
    "export_model.py": ExportConfig,
    "plan.py": PlanOptions,
    "tune.py": SearchConfig,
    "run_audit.py": AuditConfig,
    "import_run.py": ImportConfig,
    "leaderboard.py": BoardConfig,
    "report.py": ReportConfig,
}
INTRO = """# All flags

`python -m docs.generate` makes this page from the settings; the commands' help has the same texts.
Every flag of `run_cv.py` is also a key of its YAML files and a keyword of `fb.cross_validate`.
"Another run" means: a different value makes a different run, which needs a name of its own.
"""


def _in_words(layouts: tuple[str, ...]) -> str:
    return " or ".join(LAYOUTS[one] for one in layouts)


def _rows(
    config_class: Any, known: dict[str, Flag], spelt: dict[str, list[str]], *, is_run: bool
) -> Iterator[tuple[str, ...]]:
    """Yield the cells of each flag of a group."""
    texts = texts_of(config_class)
    for field in dataclasses.fields(config_class):
        if field.name not in spelt:
            continue
        about = known[field.name]
        default = "" if field.default in (None, ()) else f"`{field.default}`"
        notes = [
            *(["another run"] if is_run and about.identity else []),
            *(["another run by its content"] if is_run and field.name in BY_CONTENT else []),
            *([f"goes with {about.needs.what}"] if about.needs else []),
            *([f"for {_in_words(about.layouts)}"] if about.layouts else []),
            *(["not for --finetune head"] if about.steps else []),
            *([f"runs from before it are at {about.before}"] if about.before is not ALWAYS else []),
            *(
                [f"earlier defaults {', '.join(map(str, about.formerly))}"]
                if about.formerly
                else []
            ),
        ]
        flags = ", ".join(f"`{flag}`" for flag in spelt[field.name])
        assert field.name in texts, f"{config_class.__name__}.{field.name} has no help"
        yield flags, default, texts[field.name].replace("|", "\\|"), "; ".join(notes)


def flags_page() -> str:
    """Return docs/flags.md."""
    parts = [INTRO]
    for command, config_class in COMMANDS.items():
        known = flags_of(config_class)
        spelt: dict[str, list[str]] = {}
        for flag, name in cli_flags(config_class).items():
            spelt.setdefault(name, []).append(flag)
        parts.append(f"\n## {command}\n")
        fields = dataclasses.fields(config_class)
        groups = [field for field in fields if dataclasses.is_dataclass(field.default_factory)]
        for name, group in [(field.name, field.default_factory) for field in groups] or [
            ("", config_class)
        ]:
            parts.append(f"\n### {name}\n" if name else "")
            parts.append("\n| flag | default | what it does | |\n| --- | --- | --- | --- |\n")
            parts += [
                f"| {' | '.join(row)} |\n"
                for row in _rows(group, known, spelt, is_run=config_class is RunConfig)
            ]
    return "".join(parts)


PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean"}


def _schema_of(hint: Any) -> dict[str, Any]:
    """Return the JSON schema of an annotation."""
    origin = typing.get_origin(hint)
    parts = typing.get_args(hint)
    if typing.is_typeddict(hint):
        return _object(hint)
    if origin is typing.Required:
        return _schema_of(parts[0])
    if origin is typing.Annotated:
        rules = [dict(one.schema) for one in parts[1:] if isinstance(one, Rule)]
        return functools.reduce(operator.or_, rules, _schema_of(parts[0]))
    if origin is typing.Literal:
        return {"enum": list(parts)}
    if origin is list:
        return {"type": "array", "items": _schema_of(parts[0])}
    if origin is dict:
        values = {} if parts[1] is Any else {"additionalProperties": _schema_of(parts[1])}
        return {"type": "object", **values}
    if isinstance(hint, types.UnionType) or origin is typing.Union:
        kinds = [{"type": "null"} if part is type(None) else _schema_of(part) for part in parts]
        if all({*kind} == {"type"} for kind in kinds):
            return {"type": [kind["type"] for kind in kinds]}
        return {"anyOf": kinds}
    return {"type": PLAIN[hint]}


def _object(typed: Any) -> dict[str, Any]:
    """Return the JSON schema of a TypedDict, with the text under each key."""
    texts = texts_of(typed)
    properties = {}
    for name, hint in typing.get_type_hints(typed, include_extras=True).items():
        said = {"description": texts[name]} if name in texts else {}
        properties[name] = said | _schema_of(hint)
    about = (inspect.getdoc(typed) or "").splitlines()[0]
    required = sorted(typed.__required_keys__)
    return {"description": about, "type": "object", "properties": properties, "required": required}


def run_schema() -> str:
    """Return docs/run.schema.json."""
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "run.json of a run folder",
    }
    return json.dumps(head | _object(RunInfo), indent=1) + "\n"


FILES = {"flags.md": flags_page, "run.schema.json": run_schema}

if __name__ == "__main__":
    for name, made in FILES.items():
        (HERE / name).write_text(made(), encoding="utf-8")
