"""Write docs/flags.md, the list of all flags, from the fields of the settings: python docs/flag_tables.py

A test holds the file against the settings, so that a flag that comes, goes or changes its default is seen in review.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ensemble.config import BlendConfig
from foldblend.cli import cli_flags
from foldblend.flags import ALWAYS, Flag, flags_of
from folds.config import AuditConfig
from pipeline.config.run import RunConfig
from reports.commands import BoardConfig, ReportConfig
from tta.config import TtaConfig

FILE = Path(__file__).with_name("flags.md")
COMMANDS = {
    "run_cv.py": RunConfig,
    "blend.py": BlendConfig,
    "run_tta.py": TtaConfig,
    "run_audit.py": AuditConfig,
    "leaderboard.py": BoardConfig,
    "report.py": ReportConfig,
}
INTRO = """# All flags

Made by `python docs/flag_tables.py` from the fields of the settings; `--help` of each command says the same. Every
flag of `run_cv.py` is also a key of its YAML files and a keyword of `fb.cross_validate`. "Another run": another value
makes another run, which does not go on under the same name.
"""


def helps(config_class: Any) -> dict[str, str]:
    """Return the text under each field of a dataclass."""
    [node] = ast.parse(textwrap.dedent(inspect.getsource(config_class))).body
    assert isinstance(node, ast.ClassDef)
    found = {}
    for field, text in zip(node.body, node.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            found[field.target.id] = " ".join(str(text.value.value).split())
    return found


def _rows(config_class: Any, known: dict[str, Flag], spelt: dict[str, list[str]]) -> Iterator[tuple[str, ...]]:
    """Yield the cells of each flag of a group."""
    texts = helps(config_class)
    for field in dataclasses.fields(config_class):
        if field.name not in spelt:
            continue
        about = known[field.name]
        default = "" if field.default in (None, ()) else f"`{field.default}`"
        notes = [
            *(["another run"] if about.identity and config_class.__module__.startswith(("pipeline", "folds")) else []),
            *([f"goes with {about.needs.what}"] if about.needs else []),
            *(["goes with --csv"] if about.csv_only else []),
            *(["not for --finetune head"] if about.steps else []),
            *([f"runs from before it are at {about.before}"] if about.before is not ALWAYS else []),
            *([f"earlier defaults {', '.join(map(str, about.formerly))}"] if about.formerly else []),
        ]
        flags = ", ".join(f"`{flag}`" for flag in spelt[field.name])
        assert field.name in texts, f"{config_class.__name__}.{field.name} has no help"
        yield flags, default, texts[field.name].replace("|", "\\|"), "; ".join(notes)


def page() -> str:
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
        for name, group in [(field.name, field.default_factory) for field in groups] or [("", config_class)]:
            parts.append(f"\n### {name}\n" if name else "")
            parts.append("\n| flag | default | what it does | |\n| --- | --- | --- | --- |\n")
            parts += [f"| {' | '.join(row)} |\n" for row in _rows(group, known, spelt)]
    return "".join(parts)


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
