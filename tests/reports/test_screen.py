"""Tests of the first screen of a report, and of the next steps that it suggests."""

import copy
from pathlib import Path

import pytest

from foldblend.runs.folder import write_section
from foldblend.runs.run import Run
from reports.blocks import section, table_block, text_block
from reports.run.next_steps import next_steps
from reports.run.report import write_report
from reports.run.screen import MOST_LINES, finish, screen_lines
from reports.run.text import single_model_note
from tests.makers.synthetic_runs import write_synthetic_run


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    run = write_synthetic_run(
        tmp_path_factory.mktemp("screen") / "synthetic", num_people=20, num_test=30, seed=1
    )
    write_report(run, page=False)
    return Run(run)


def test_the_screen_is_short_and_has_the_numbers_of_the_report(synthetic):
    lines = screen_lines(synthetic, width=80)
    report = synthetic.report
    assert len(lines) <= MOST_LINES
    assert max(len(line) for line in lines if str(synthetic.path) not in line) <= 80
    assert lines[0].startswith(f"OOF macro F1 {report['headline']['value']:.4f} [")
    shown = "\n".join(lines)
    for row in report["attributes"]:
        assert f"{row['name']} {row['f1_macro']['value']:.4f}" in shown
    worst = sorted(report["per_class"], key=lambda row: row["f1"])[:3]
    for row in worst:
        assert f"{row['f1']:.3f}" in shown
    assert f"report: {synthetic.path / 'report.txt'}" in lines
    assert any(
        line.startswith("page: not drawn; ") and line.endswith(f"{synthetic.path} draws it")
        for line in lines
    )
    assert lines[-1] == f"submission: {synthetic.path / 'submission.csv'}"


def test_a_narrow_terminal_drops_columns_and_lists_them(synthetic):
    lines = screen_lines(synthetic, width=40)
    wide = [line for line in lines if len(line) > 40]
    assert all(str(synthetic.path) in line for line in wide)
    assert any(line.startswith("(columns left out") for line in lines)


def test_short_and_full(synthetic):
    short = []
    finish(synthetic, page=False, report="short", say=short.append)
    full = []
    finish(synthetic, page=False, report="full", say=full.append)
    text = (synthetic.path / "report.txt").read_text()
    assert full[0] == text
    assert full[-1] == short[-1]
    assert text not in "\n".join(short)


def test_a_table_of_a_stage_replaces_the_worst_classes(synthetic, tmp_path):
    run = Run(write_synthetic_run(tmp_path / "staged", num_people=20, seed=1))
    methods = section(
        "Methods",
        text_block("all of it"),
        screen=[table_block(["", "score"], [["soft (taken)", "0.5"]]), text_block("No better.")],
    )
    write_section(run.path, "9_methods", methods)
    write_report(run, page=False)
    lines = screen_lines(Run(run.path), width=80)
    assert lines.index("soft (taken)    0.5") < lines.index("No better.")
    assert "all of it" not in lines
    assert not any(line.startswith("worst classes") for line in lines)
    assert "screen" not in section("Others", text_block("x"))


def steps(report, folder="outputs/a", **changes):
    return next_steps({**copy.deepcopy(report), **changes}, Path(folder))


def test_suspected_labels_come_first_with_the_flag_to_pass(synthetic):
    finding = {"image_ids": ["a", "b"]}
    found = steps(synthetic.report, suspects={"findings": [finding, {"image_ids": ["b"]}]})
    assert found[0].startswith(f"2 of {synthetic.report['num_images']:,} labels look wrong")
    assert found[0].endswith("--corrections outputs/a/suspects.csv")
    none = steps(synthetic.report, suspects={"findings": []})
    assert not any("wrong" in step for step in none)
    assert steps(synthetic.report, suspects={"skipped": "why"}) == none


def test_rare_classes(synthetic):
    per_class = copy.deepcopy(synthetic.report["per_class"])
    for row in per_class:
        row["groups"] = 9
    none = steps(synthetic.report, per_class=per_class)
    assert not any("groups" in step for step in none)
    per_class[0]["groups"] = 4
    [one] = set(steps(synthetic.report, per_class=per_class)) - set(none)
    name = per_class[0]["name"]
    assert one.startswith(f"1 class has fewer than 5 groups ({name}: 4)")


@pytest.mark.parametrize(
    ("ece", "temperature", "applied", "expected"),
    [
        (0.02, 1.5, True, None),
        (0.2, 1.0, True, None),
        (0.2, 1.5, False, None),
        (0.2, 1.5, True, "too confident"),
        (0.2, 0.7, True, "not confident"),
    ],
)
def test_calibration_only_beyond_chance(synthetic, ece, temperature, applied, expected):
    one = {
        "ece": ece,
        "ece_by_chance": {"mean": 0.01, "high": 0.03},
        "temperature": temperature,
        "applied": applied,
    }
    found = [step for step in steps(synthetic.report, calibration=one) if "confident" in step]
    if expected is None:
        assert found == []
    else:
        assert expected in found[0]
        assert "outputs/a/predictions.csv are corrected" in found[0]


def test_a_blend_is_compared_rather_than_blended(synthetic):
    assert any("run_tta.py outputs/a" in step for step in steps(synthetic.report, kind="cv"))
    found = steps(synthetic.report, kind="blend")
    assert any("leaderboard.py outputs/*" in step for step in found)
    assert not any("run_tta.py" in step for step in found)


def test_heads_on_a_frozen_backbone_are_not_augmented_afterwards(synthetic, tmp_path):
    (tmp_path / "config.yaml").write_text("finetune: head\n")
    found = steps(synthetic.report, tmp_path, kind="cv")
    assert not any("run_tta.py" in step for step in found)
    assert any("--tta hflip" in step for step in found)


def test_the_score_of_single_models_has_a_note(synthetic):
    assert synthetic.report["test"]["num_models"] > 1
    note = single_model_note(synthetic.report)
    assert f"averages {synthetic.report['test']['num_models']} models" in note
    words = " ".join("\n".join(screen_lines(synthetic, width=80)).split())
    assert note in words
    assert note in " ".join((synthetic.path / "report.txt").read_text().split())
    assert single_model_note(synthetic.report | {"test": None}) is None


def test_the_page_has_the_note_and_the_steps(tmp_path):
    run = Run(write_synthetic_run(tmp_path / "paged", num_people=20, num_test=30, seed=1))
    write_report(run)
    page = (run.path / "report.html").read_text()
    assert "What to look at next" in page
    assert "The submission averages" in page
    assert "run_tta.py" in page


def test_groups_of_a_class_are_counted_once(synthetic):
    oof = synthetic.oof
    for row in synthetic.report["per_class"]:
        groups = oof[oof["label"] == row["class"]]["group"].nunique()
        assert row["groups"] == groups
