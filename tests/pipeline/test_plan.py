"""Plans as a whole: runs within the time, blends in between, and going on after any end."""

import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import foldblend as fb
from foldblend.runs.check import why_unfinished
from foldblend.scores.race import PAIRED, RULES
from pipeline.plan import execute as execution
from pipeline.plan import work as working
from pipeline.plan.blended import blended_plan, heal
from pipeline.plan.choices import Choices, sweep
from pipeline.plan.done import progress_of
from pipeline.plan.execute import execute
from pipeline.plan.existing import check_existing
from pipeline.plan.fold_rows import fold_rows
from pipeline.plan.plan_file import PlannedRun, read_plan, write_plan
from pipeline.time_limit import Clock, TimeUp
from tests.makers.constants import ROOT
from tests.makers.drawn import draw
from tests.makers.plans import FROZEN, OTHER, TUNED, silent, small_plan

pytestmark = pytest.mark.slow


def make(plan, *, limit=None, say=silent):
    """Make the runs of a plan, as the command does."""
    write_plan(plan)
    return execute(plan, Clock(limit), say=say)


def blended_runs(plan):
    """Return the names of the runs in the blend of a plan."""
    return {*blended_plan(plan)["runs"]}


def logits_of(folder):
    run = fb.load(folder)
    return run.logits(run.oof), run.logits(run.test)


def assert_equal_runs(one, other):
    for mine, its in zip(logits_of(one), logits_of(other), strict=True):
        np.testing.assert_array_equal(mine, its)


@pytest.fixture(scope="module")
def whole(tiny_layout, tmp_path_factory):
    """Return a plan of three runs that was made at once, and the lines that it said."""
    plan = small_plan(tiny_layout, tmp_path_factory.mktemp("whole"), stop_losers=False)
    lines = []
    make(plan, say=lines.append)
    return plan, lines


def test_a_plan_ends_with_a_blend_of_all_runs(whole):
    plan, lines = whole
    assert blended_runs(plan) == {"frozen", "tuned", "other"}
    blend = fb.load(plan.folder)
    assert blend.info["kind"] == "blend"
    assert blend.info["name"] == "p"
    assert (plan.folder / "submission.csv").is_file()
    assert blend.info["plan"]["runs"] == ["frozen", "other", "tuned"]
    [section] = [one for one in blend.report["sections"] if one["title"] == "Plan"]
    rows = next(block for block in section["blocks"] if block["kind"] == "table")["rows"]
    assert [row[:3] for row in rows] == [[run.name, "done", "3"] for run in plan.runs]
    assert any("best score of the plan's 3 predictions" in note for note in blend.info["notes"])
    # The first blend was there after the first run.
    assert re.search("blend of 1 run,", "\n".join(lines))
    assert {file.name for file in plan.folder.parent.iterdir()} == {"p", "p-runs"}


def test_the_members_of_the_blend_are_found_from_its_folder(whole, tmp_path):
    plan, _ = whole
    again = fb.blend([plan.folder], name="again", output=tmp_path, page=False, say=silent)
    assert again.info["kind"] == "blend"
    text = (plan.folder / "blend.yaml").read_text()
    assert "../p-runs/frozen" in text


def test_a_plan_that_is_made_again_does_nothing(whole):
    plan, _ = whole
    before = {file: file.stat().st_mtime_ns for file in plan.folder.iterdir() if file.is_file()}
    lines = []
    make(plan, say=lines.append)
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert lines == []


def test_runs_equal_those_of_run_cv(whole, tmp_path):
    plan, _ = whole
    settings = {**plan.settings, **TUNED.settings, "output": str(tmp_path), "name": "alone"}
    fb.cross_validate(settings, say=silent)
    assert_equal_runs(plan.runs_folder / "tuned", tmp_path / "alone")


@pytest.mark.parametrize("after", [2, 5, 8])
def test_a_killed_plan_goes_on_and_its_runs_equal_unbroken_ones(
    whole, tiny_layout, tmp_path, after
):
    plan, _ = whole
    broken = replace(plan, output=str(tmp_path))
    write_plan(broken)
    words = [sys.executable, "plan.py", "--plan", str(broken.file)]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL)
    wait_for_files(broken, after)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if broken.folder.exists():
        assert why_unfinished(broken.folder) is None
    subprocess.run(words, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    for run in plan.runs:
        assert_equal_runs(plan.runs_folder / run.name, broken.runs_folder / run.name)
    assert_equal_runs(plan.folder, broken.folder)


def wait_for_files(plan, num):
    """Wait until some folds are finished."""
    end = time.monotonic() + 180
    while len([*plan.runs_folder.glob("*/fold_*/done.json")]) < num:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_end_of_the_time_leaves_a_blend_and_a_checkpoint(tiny_layout, tmp_path, monkeypatch):
    plan = small_plan(tiny_layout, tmp_path, FROZEN, TUNED)
    real = working.cross_validate

    def ends(config, **more):
        if not config.train.frozen:
            raise TimeUp
        return real(config, **more)

    monkeypatch.setattr(working, "cross_validate", ends)
    lines = []
    made = make(plan, say=lines.append)
    assert any("the time is up" in line for line in lines)
    assert blended_runs(plan) == {"frozen"}
    monkeypatch.setattr(working, "cross_validate", real)
    make(plan)
    assert blended_runs(plan) == {"frozen", "tuned"}
    assert made.path == plan.folder


def test_a_run_that_cannot_fit_is_not_begun(tiny_layout, tmp_path):
    long = replace(TUNED, seconds=1e6)
    plan = small_plan(tiny_layout, tmp_path, FROZEN, long)
    make(plan, limit=600)
    assert blended_runs(plan) == {"frozen"}
    assert not (plan.runs_folder / "tuned").exists()


def test_a_run_is_finished_in_the_time_of_one_that_is_too_slow(tiny_layout, tmp_path, monkeypatch):
    plan = small_plan(tiny_layout, tmp_path, stop_losers=False)
    # The other one is better after its first fold, and so the first to go on.
    seconds = {"frozen": (5, 5), "tuned": (400, 2000), "other": (400, 500)}

    def expected(work, run):
        return seconds[run.name][bool(work.progress(run).folds)]

    monkeypatch.setattr("pipeline.plan.work.Work.expected", expected)
    make(plan, limit=1000.0)
    assert progress_of(plan.runs_folder / "other").state == "done"
    assert len(progress_of(plan.runs_folder / "tuned").folds) == 1


def test_a_clear_loser_stops_and_is_not_blended(tiny_layout, tmp_path, monkeypatch):
    plan = small_plan(tiny_layout, tmp_path, FROZEN, TUNED, OTHER)
    monkeypatch.setitem(RULES, PAIRED, lambda found: [1][: len(found) - 1])
    monkeypatch.setattr(execution, "helpful", lambda *_: [])
    make(plan)
    choices = Choices.read(plan)
    assert choices.stopped.keys() == {"other"}
    assert choices.stopped["other"]["folds"] == 1
    assert blended_runs(plan) == {"frozen", "tuned"}
    assert len([*(plan.runs_folder / "other").glob("fold_*/done.json")]) == 1
    assert any("1 run of the plan stopped" in note for note in fb.load(plan.folder).info["notes"])
    assert fb.load(plan.folder).info["plan"]["stopped"].keys() == {"other"}
    # It stays stopped, and is no part of a further call, unless that stops none.
    make(plan)
    assert len([*(plan.runs_folder / "other").glob("fold_*/done.json")]) == 1
    make(replace(plan, stop_losers=False))
    assert blended_runs(plan) == {"frozen", "tuned", "other"}


def test_a_loser_that_helps_a_blend_goes_on(tiny_layout, tmp_path, monkeypatch):
    plan = small_plan(tiny_layout, tmp_path, TUNED, OTHER)
    monkeypatch.setitem(RULES, PAIRED, lambda found: [1][: len(found) - 1])
    monkeypatch.setattr(execution, "helpful", lambda *_: [1])
    make(plan)
    assert not Choices.read(plan).stopped
    assert blended_runs(plan) == {"tuned", "other"}


def test_a_run_that_cannot_be_made_leaves_the_others(tiny_layout, tmp_path):
    wrong = PlannedRun(name="wrong", settings={"backbone": "test_resnet", "opt": "nothing"})
    plan = small_plan(tiny_layout, tmp_path, wrong, FROZEN)
    lines = []
    make(plan, say=lines.append)
    assert blended_runs(plan) == {"frozen"}
    assert any(line.startswith("wrong: cannot be made: --opt nothing") for line in lines)
    only = small_plan(tiny_layout, tmp_path / "only", wrong)
    with pytest.raises(fb.UserError, match="no run could be finished"):
        make(only)


def test_views_are_added_where_there_is_time(tiny_layout, tmp_path):
    plan = small_plan(tiny_layout, tmp_path, FROZEN, views="auto")
    make(plan)
    assert blended_runs(plan) == {"frozen_tta"}
    assert fb.load(plan.runs_folder / "frozen_hflip").info["views"] == ["identity", "hflip"]
    assert fb.load(plan.runs_folder / "frozen_tta").info["kind"] == "tta"


def test_held_out_rows_of_unfinished_runs_equal_those_of_finished_ones(whole):
    plan, _ = whole
    folder = plan.runs_folder / "tuned"
    two = fold_rows(folder, 2)
    oof = fb.load(folder).oof
    expected = oof[oof["fold"] < 2].sort_values("image_id")
    assert two.table["image_id"].tolist() == expected["image_id"].tolist()
    np.testing.assert_array_equal(two.table["logit_0"], expected["logit_0"])
    other = fold_rows(plan.runs_folder / "other", 2)
    np.testing.assert_array_equal(other.like(two), other.like(other))


@pytest.mark.parametrize("moment", ["before", "between", "after"])
def test_a_blend_is_there_whenever_an_exchange_is_killed(whole, tmp_path, moment):
    plan, _ = whole
    copy = replace(plan, output=str(tmp_path))
    copy.runs_folder.symlink_to(plan.runs_folder)
    old = tmp_path / "p-former"
    new = tmp_path / "p-draft"
    for folder in (old, new):
        subprocess.run(["cp", "-r", plan.folder, folder], check=True)
    if moment == "before":
        old.rename(copy.folder)
    elif moment == "after":
        new.rename(copy.folder)
    heal(copy)
    assert why_unfinished(copy.folder) is None
    assert not old.exists()
    assert not new.exists()


def test_the_public_function_plans_and_goes_on(tiny_layout, tmp_path):
    settings = {
        "data": tiny_layout,
        "time_limit": "10m",
        "backbone": "test_resnet",
        "finetune": "head",
        "folds": 2,
        "img_size": 32,
        "pretrained": "none",
        "views": "none",
        "output": tmp_path,
        "name": "p",
        "page": False,
    }
    best = fb.plan(**settings, say=silent)
    assert best.path == tmp_path / "p"
    made = read_plan(tmp_path / "p-runs" / "plan.yaml")
    assert len(made.runs) == 1
    lines = []
    assert fb.plan(**settings, say=lines.append).path == best.path
    assert any("test_resnet-32x32-head   done" in line for line in lines)


def test_a_dry_run_writes_nothing(tiny_layout, tmp_path):
    lines = []
    fb.plan(
        data=tiny_layout,
        time_limit="10m",
        backbone="test_resnet",
        img_size=32,
        pretrained="none",
        output=tmp_path / "outputs",
        dry_run=True,
        say=lines.append,
    )
    assert not (tmp_path / "outputs").exists()
    assert any("test_resnet-32x32-full" in line and "left" in line for line in lines)


def test_a_stop_after_the_last_blend_is_told_all_the_same(tiny_layout, tmp_path, monkeypatch):
    plan = small_plan(tiny_layout, tmp_path, FROZEN, TUNED)
    monkeypatch.setitem(RULES, PAIRED, lambda found: [0])
    monkeypatch.setattr(execution, "helpful", lambda *_: [])
    make(plan)
    assert blended_runs(plan) == {"frozen"}
    assert fb.load(plan.folder).info["plan"]["stopped"].keys() == {"tuned"}


def test_a_stopped_run_that_is_finished_by_hand_is_a_run_like_others(tiny_layout, tmp_path):
    plan = small_plan(tiny_layout, tmp_path, FROZEN, TUNED)
    make(plan)
    choices = Choices.read(plan)
    choices.stopped["tuned"] = {"folds": 1, "lead": 0.2, "error": 0.05}
    choices.write(plan)
    assert not Choices.read(plan).stopped
    assert sweep(plan) == []
    assert (plan.runs_folder / "tuned").is_dir()


def test_folds_that_were_finished_out_of_order_are_kept(tiny_layout, tmp_path):
    plan = small_plan(tiny_layout, tmp_path, TUNED, OTHER)
    write_plan(plan)
    fb.cross_validate(plan.config_of(TUNED), only_folds="1", say=silent)
    before = (plan.runs_folder / "tuned" / "fold_1" / "done.json").read_bytes()
    make(plan)
    assert blended_runs(plan) == {"tuned", "other"}
    assert (plan.runs_folder / "tuned" / "fold_1" / "done.json").read_bytes() == before


def test_a_run_that_is_there_with_other_settings_is_refused(whole):
    plan, _ = whole
    check_existing(plan)
    changed = replace(FROZEN, settings={**FROZEN.settings, "head_l2": "0.5"})
    with pytest.raises(fb.UserError, match=r"head_l2 auto -> 0\.5.*; rename the run"):
        check_existing(replace(plan, runs=(changed, TUNED)))


@pytest.mark.parametrize(
    "more", [{"metric": "log_loss"}, {"repeats": 2}, {"score_by": "group"}, {"metric": "accuracy"}]
)
def test_a_plan_holds_for_other_scores_and_repeats(tiny_layout, tmp_path, more):
    plan = small_plan(tiny_layout, tmp_path, FROZEN, TUNED)
    settings = {**plan.settings, **more}
    if "score_by" in more:
        settings |= {"csv": str(groups_of_one_class(tmp_path))}
        settings.pop("data")
    plan = replace(plan, settings=settings)
    make(plan)
    assert blended_runs(plan) == {"frozen", "tuned"}
    assert np.isfinite(fb.load(plan.folder).report["headline"]["value"])


def groups_of_one_class(folder):
    """Write a table of images in groups of one class each, and return its file."""
    table = pd.DataFrame({"image": [f"{number}.png" for number in range(36)]})
    table["label"] = ["a", "b"] * 18
    table["group"] = [f"{label}{number // 6}" for number, label in enumerate(table["label"])]
    for number, name in enumerate(table["image"]):
        draw(folder / name, number)
    table.to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


def test_finished_runs_that_are_in_no_blend_are_blended_first(whole, tmp_path):
    plan, _ = whole
    copy = replace(plan, output=str(tmp_path))
    shutil.copytree(plan.runs_folder, copy.runs_folder)
    lines = []
    make(copy, say=lines.append)
    assert [line.partition(":")[0] for line in lines] == [str(copy.folder)]
    (copy.folder / "oof.parquet").unlink()
    make(copy)
    assert fb.load(copy.folder).oof.shape == fb.load(plan.folder).oof.shape


def test_frozen_runs_are_known_by_the_settings_of_all(tiny_layout, tmp_path):
    small = PlannedRun(name="small", settings={"backbone": "test_resnet"})
    plan = small_plan(tiny_layout, tmp_path, small)
    plan = replace(plan, settings={**plan.settings, "finetune": "head"})
    lines = []
    make(plan, say=lines.append)
    assert not any("fine-tuning" in line for line in lines)
