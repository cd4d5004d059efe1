"""plan.py with wrong input: one line, exit code 2, nothing written."""

import pytest
import yaml

from foldblend.runs.folder import lock_folder
from pipeline.models.pretrained import HubUnreachableError
from pipeline.plan import draft as draft_of_plan
from pipeline.plan.config import make_plan_config
from pipeline.plan.draft import Draft
from pipeline.plan.estimate import Speed
from pipeline.plan.make import make_plan
from pipeline.plan.plan_file import write_plan
from pipeline.time_limit import Clock
from plan import main as plan_main
from tests.makers.plans import SMALL, silent, small_plan

FLAGS = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items() if name != "page"]


@pytest.fixture
def plan(command_of, tiny_layout, tmp_path):
    """Return plan.py as a function, called in this process on small data."""
    command = command_of(plan_main)

    def call(*words):
        return command(*words, "--output", str(tmp_path / "outputs"))

    return call


def error_of(done):
    assert done.code == 2, done
    [line] = done.err.strip().splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--time-limit: missing"),
        (["--time-limit", "soon"], "--time-limit soon: write a time"),
        (["--time-limit", "1s", "--epoch", "3"], "--epoch: no such flag"),
        (["--plan", "no.yaml"], "no.yaml"),
        (["--time-limit", "1m", "--data", "nowhere"], "nowhere"),
        (["--time-limit", "1m", "--views", "all"], "--views"),
        (["--time-limit", "1m", "--seeds", "2"], "--seeds: of one run, and not of a plan"),
        (["--time-limit", "1m", "--only-folds", "0"], "--only-folds: of one run"),
        (["--time-limit", "1m", "--no-resume"], "--no-resume: of one run"),
        (["--time-limit", "1m", "--sweep"], "--sweep: goes with --plan FILE"),
        (["--plan", "x.yaml", "--sweep", "--dry-run"], "--sweep with --dry-run: pass one"),
    ],
)
def test_wrong_flags_are_one_line(plan, tmp_path, words, said):
    assert said in error_of(plan(*words))
    assert not (tmp_path / "outputs").exists()


def test_a_time_that_is_too_short_says_what_suffices(plan, tiny_layout, tmp_path):
    line = error_of(
        plan(str(tiny_layout), "--time-limit", "2s", "--backbone", "test_resnet", *FLAGS)
    )
    assert "--time-limit 2s: one run (test_resnet at 32x32, frozen) takes about" in line
    assert "pass at least" in line
    assert not (tmp_path / "outputs").exists()


def test_a_plan_file_takes_no_settings_from_the_command(plan, tiny_layout, tmp_path):
    made = small_plan(tiny_layout, tmp_path)
    write_plan(made)
    line = error_of(plan("--plan", str(made.file), "--folds", "5"))
    assert "with --folds: runs of a plan have the settings of its file" in line


def test_other_flags_for_a_plan_that_is_there_are_refused(plan, tiny_layout, tmp_path):
    made = small_plan(tiny_layout, tmp_path / "outputs")
    write_plan(made)
    line = error_of(
        plan(str(tiny_layout), "--time-limit=5m", "--name=p", *FLAGS, "--metric=accuracy")
    )
    assert "plan.yaml: has runs with other settings (metric); pass the same flags" in line


def test_code_in_a_plan_that_is_there_must_be_typed(plan, tiny_layout, tmp_path):
    made = small_plan(tiny_layout, tmp_path / "outputs")
    write_plan(made)
    content = yaml.safe_load(made.file.read_text())
    content["runs"][0] |= {"backbone": "evil:model", "finetune": "full"}
    made.file.write_text(yaml.safe_dump(content))
    line = error_of(plan(str(tiny_layout), "--time-limit=5m", "--name=p", *FLAGS))
    assert "backbone evil:model of run frozen is code of its own; type --plan" in line


def test_another_folder_in_the_place_of_the_blend_stays(plan, tiny_layout, tmp_path):
    made = small_plan(tiny_layout, tmp_path / "outputs")
    made.folder.mkdir(parents=True)
    (made.folder / "mine.txt").write_text("mine")
    write_plan(made)
    line = error_of(plan("--plan", str(made.file)))
    assert "exists and is no blend of a plan; pass another --name" in line
    assert [file.name for file in made.folder.iterdir()] == ["mine.txt"]


def test_a_time_that_is_too_short_for_a_plan_file_is_said_before_a_file_is_written(
    plan, tiny_layout, tmp_path
):
    made = small_plan(tiny_layout, tmp_path)
    write_plan(made)
    line = error_of(plan("--plan", str(made.file), "--time-limit", "3s"))
    assert "and the first run with its blend takes about" in line
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("more", [{"backbone": "resnot50"}, {}])
def test_a_plan_is_checked_to_its_last_run_before_the_first(plan, tiny_layout, tmp_path, more):
    made = small_plan(tiny_layout if more else tmp_path / "absent", tmp_path)
    write_plan(made)
    content = yaml.safe_load(made.file.read_text())
    content["runs"][-1] |= more
    made.file.write_text(yaml.safe_dump(content))
    line = error_of(plan("--plan", str(made.file), "--dry-run"))
    assert ("run other: --backbone resnot50: timm has no such model" if more else "absent") in line


def test_flags_of_a_plan_go_before_its_file(plan, tiny_layout, tmp_path, monkeypatch):
    made = small_plan(tiny_layout, tmp_path, views="none", stop_losers=False, time_limit="1h")
    write_plan(made)
    seen = []
    monkeypatch.setattr("pipeline.plan.api.check_existing", seen.append)
    plan("--plan", str(made.file), "--dry-run")
    plan("--plan", str(made.file), "--dry-run", "--views=auto", "--stop-losers", "--time-limit=2h")
    found = [(one.views, one.stop_losers, one.time_limit) for one in seen]
    assert found == [("none", False, "1h"), ("auto", True, "2h")]


def test_a_plan_in_the_making_is_not_measured_again(plan, tiny_layout, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.plan.draft.speed_of", pytest.fail)
    with lock_folder(tmp_path / "outputs" / "p-runs"):
        line = error_of(plan(str(tiny_layout), "--time-limit=5m", "--name=p", *FLAGS))
    assert "p-runs: another process makes this plan; wait for it" in line


def test_a_plan_with_a_rate_test_is_measured(tiny_layout):
    made = make_plan(draft_of(tiny_layout, backbone="test_resnet", lr="find"))
    assert any(run.settings["finetune"] == "full" for run in made.runs)


def draft_of(tiny_layout, limit=3600.0, **more):
    settings = {**SMALL, "data": str(tiny_layout), **more}
    return Draft(make_plan_config(settings), Clock(limit), silent)


def test_without_a_hub_families_are_left_out_and_named(tiny_layout, monkeypatch):
    real = draft_of_plan.prepare

    def prepare(config, say):
        if config.model.backbone != "tf_efficientnet_lite0":
            raise HubUnreachableError("no hub")
        return real(config, say)

    quick = Speed(read=0.001, infer=0.001, train=0.003, pixels=32 * 32)
    monkeypatch.setattr(draft_of_plan, "prepare", prepare)
    monkeypatch.setattr(draft_of_plan, "speed_of", lambda run, learns: quick)
    draft = draft_of(tiny_layout)
    made = make_plan(draft)
    assert {run.settings["backbone"] for run in made.runs} == {"tf_efficientnet_lite0"}
    assert "convnext_tiny.in12k_ft_in1k" in made.about["left_out"]
    assert "hub cannot be reached" in made.about["left_out"]["resnet50.a1_in1k"]


def test_a_plan_has_frozen_runs_first_and_fits_into_the_time(tiny_layout):
    draft = draft_of(tiny_layout, backbone="test_resnet")
    made = make_plan(draft)
    kinds = [run.settings["finetune"] for run in made.runs]
    assert kinds == sorted(kinds, reverse=True)
    assert kinds[0] == "head"
    assert "full" in kinds
    assert sum(run.seconds for run in made.runs) <= 3600
    # Equal runs are refused when a plan is read.
    assert len({run.name for run in made.runs}) == len(made.runs)


def test_a_disk_that_is_too_small_is_said_before_the_first_run(tiny_layout, monkeypatch):
    monkeypatch.setattr("foldblend.failures.free_bytes", lambda path: 10_000)
    with pytest.raises(Exception, match="need at least"):
        make_plan(draft_of(tiny_layout, backbone="test_resnet"))
