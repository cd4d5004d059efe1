"""Recipes have valid settings, and their headers have the command that runs them."""

import json
from pathlib import Path

import pytest

from foldblend.help import About
from pipeline.checks import check_flags
from pipeline.config.command_line import parse_run_config
from pipeline.config.settings import read_config_file
from pipeline.models.backbones import check_backbone

ROOT = Path(__file__).resolve().parents[2]
# The space of a search is no file of settings; tests/pipeline/test_search_input.py reads it.
SPACE = ROOT / "recipes" / "space.yaml"
RECIPES = sorted({*(ROOT / "recipes").rglob("*.yaml")} - {SPACE})


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_recipe(file):
    config = read_config_file(file)
    check_flags(config)
    check_backbone(config.model.backbone)
    header = [line for line in file.read_text().splitlines() if line.startswith("#")]
    named = file.relative_to(ROOT)
    commands = [line for line in header if "python run_cv.py --config" in line]
    assert commands
    assert str(named) in commands[0] or f"{named.parent}/*.yaml" in commands[0]
    assert any("macro F1" in line or "Not scored" in line for line in header)


def test_three_families_are_blended():
    assert len(list((ROOT / "recipes" / "ensemble").glob("*.yaml"))) == 3


def test_the_debugger_starts_one_fold_of_the_demo_set():
    launch = json.loads((ROOT / ".vscode" / "launch.json").read_text())
    config = parse_run_config(launch["configurations"][0]["args"], About("run_cv.py"))
    assert (config.data.data, config.output.only_folds, config.machine.workers) == ("demo", "0", 0)
