"""The help of the commands: short, examples first, and true to the settings."""

import re
import shlex
from dataclasses import replace

import pytest

from ensemble.commands import ABOUT as BLEND
from ensemble.config import BlendConfig
from ensemble.methods.registry import METHODS
from foldblend.cli import cli_flags, parse_flags, with_flag
from foldblend.flags import flags_of
from foldblend.help import help_text, texts_of
from foldblend.scores.metrics import METRICS
from folds.commands import ABOUT as AUDIT
from folds.commands import ABOUT_IMPORT
from folds.config import AuditConfig
from folds.import_config import ImportConfig
from pipeline.commands import ABOUT_CV, ABOUT_TTA
from pipeline.config.run import InferConfig, OutputConfig, RunConfig
from reports.commands import ABOUT_BOARD, ABOUT_REPORT, BoardConfig, ReportConfig
from tta.config import TtaConfig
from tta.learn import WEIGHTINGS
from tta.merge import MERGES
from tta.views.names import describe_views

COMMANDS = [
    (RunConfig, ABOUT_CV),
    (BlendConfig, BLEND),
    (TtaConfig, ABOUT_TTA),
    (AuditConfig, AUDIT),
    (ImportConfig, ABOUT_IMPORT),
    (BoardConfig, ABOUT_BOARD),
    (ReportConfig, ABOUT_REPORT),
]
BY_SCRIPT = pytest.mark.parametrize(
    ("config_class", "about"), COMMANDS, ids=[about.script for _, about in COMMANDS]
)


def help_of(config_class, about, capsys, flag, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stop:
        parse_flags(config_class, [flag], about)
    assert stop.value.code == 0
    return capsys.readouterr().out


@BY_SCRIPT
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_is_short_and_begins_with_examples(config_class, about, flag, capsys, monkeypatch):
    shown = help_of(config_class, about, capsys, flag, monkeypatch)
    lines = shown.splitlines()
    assert len(lines) < 120
    assert "None" not in shown
    assert lines.index("Examples:") < next(
        i for i, line in enumerate(lines) if line.startswith("  -") or line.startswith("  RUN")
    )
    example = max(len(line) for line in lines if line.startswith("  python "))
    assert max(map(len, lines)) <= max(example, 80, *map(len, about.more), 0)


@BY_SCRIPT
def test_help_all_has_every_flag_with_a_text(config_class, about, capsys, monkeypatch):
    shown = help_of(config_class, about, capsys, "--help-all", monkeypatch)
    heads = [line for line in shown.splitlines() if re.match(r"  \S", line)]
    spelt = {word for line in heads for word in re.findall(r"(?<![\w-])--?[a-z][\w-]*", line)}
    positional = {"runs", "run"} & flags_of(config_class).keys()
    expected = {flag for flag, name in cli_flags(config_class).items() if name not in positional}
    assert expected <= spelt
    assert "(default: None)" not in shown


def test_a_flag_that_is_on_shows_how_to_turn_it_off(capsys, monkeypatch):
    shown = help_of(BlendConfig, BLEND, capsys, "--help", monkeypatch)
    assert re.search(r"--page, --no-page .*(\n {10,}.*)*\(default: on\)", shown)


def test_a_flag_that_is_not_common_is_in_help_all_alone(capsys, monkeypatch):
    assert "--grad-accum-steps" not in help_of(RunConfig, ABOUT_CV, capsys, "--help", monkeypatch)
    assert "--grad-accum-steps" in help_of(RunConfig, ABOUT_CV, capsys, "--help-all", monkeypatch)


@pytest.mark.parametrize(("config_class", "about"), COMMANDS)
def test_examples_parse(config_class, about, tmp_path):
    for example in about.examples:
        if "--config" not in example:
            words = shlex.split(example)
            argv = with_flag(words, "--data") if about.first == "[DATA]" else words
            parse_flags(config_class, argv, about)


def test_metric_lists_the_metrics():
    text = texts_of(OutputConfig)["metric"]
    for name in METRICS:
        assert name in text


def test_tta_lists_the_views():
    text = texts_of(InferConfig)["tta"]
    names = [re.split(r"[\s:\[]", line)[0] for line in describe_views()]
    for name in names:
        assert name in text or name in ("identity", "train", "albu")


def test_method_and_merge_list_what_they_take():
    text = texts_of(BlendConfig)["method"]
    for name in METHODS:
        assert name in text
    text = texts_of(TtaConfig)["merge"]
    for name in (*MERGES, *WEIGHTINGS):
        assert name in text


def test_lines_after_the_flags_are_wrapped_under_their_text(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    about = replace(ABOUT_TTA, more=("Views:", "  crop  " + "part of the image " * 8))
    lines = help_text(TtaConfig, about, prog="run_tta.py", everything=False).splitlines()
    first, *rest = lines[lines.index("Views:") + 1 :]
    assert first.startswith("  crop  part")
    assert rest
    assert all(re.match(r" {8}\S", line) for line in rest)
    assert max(map(len, [first, *rest])) <= 80


@pytest.mark.parametrize(
    ("config_class", "about", "words"),
    [
        (TtaConfig, ABOUT_TTA, "RUN [flags]"),
        (BlendConfig, BLEND, "RUNS ... [flags]"),
        (AuditConfig, AUDIT, "[DATA] [flags]"),
        (RunConfig, ABOUT_CV, "[DATA] [flags]"),
    ],
)
def test_usage_shows_what_comes_before_the_flags(config_class, about, words):
    shown = help_text(config_class, about, prog="x.py", everything=False)
    assert shown.splitlines()[0] == f"usage: x.py {words}"
