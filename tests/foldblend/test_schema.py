"""Content of JSON files of run folders: what is wrong is one line with the place and the cure."""

import copy
import json
import shutil

import pytest

from ensemble.blend import blend
from ensemble.find import find_members
from foldblend.errors import UserError
from foldblend.runs.check import NEEDED, why_unfinished
from foldblend.runs.costs import device_of, num_passes, picture_seconds
from foldblend.runs.info import FoldInfo
from foldblend.runs.run import Run
from foldblend.runs.schema import DONE, check_info, problem_of_info, read_checked, read_done
from foldblend.scores.run_metric import metric_of
from reports.block_kinds import section_html, section_lines
from reports.board.find import find_runs
from reports.board.leaderboard import leaderboard
from reports.run.compute import compute_report
from reports.run.screen import screen_lines
from reports.sections_file import read_sections
from tests.makers.mutations import mutations
from tests.makers.small_runs import LABELS, write_run


@pytest.fixture(scope="module")
def kinds(tiny_runs, tmp_path_factory):
    """Return outputs/ with runs alpha and beta and a blend of them, named blend; read-only."""
    outputs = shutil.copytree(tiny_runs, tmp_path_factory.mktemp("kinds") / "outputs")
    members = [outputs / "alpha", outputs / "beta"]
    blend(members, method="soft", name="blend", page=False, say=lambda line: None)
    return outputs


def message_of(call):
    """Return the message of a call's UserError, which is one line, or None if it returns."""
    try:
        call()
    except UserError as error:
        message = str(error)
    else:
        return None
    assert len(message.splitlines()) == 1
    assert "\x1b" not in message
    return message


def info_of(folder):
    info = json.loads((folder / "run.json").read_text())
    # Versions of packages are many and not read.
    for fold in info.get("folds", ()):
        fold["environment"]["packages"] = {}
    return info


def change(folder, value):
    # Infinity is written as a number that is too large for one.
    text = json.dumps(value).replace("Infinity", "1e999")
    (folder / "run.json").write_text(text)


@pytest.mark.parametrize("name", ["alpha", "blend"])
def test_run_json_is_right_as_it_is_written(kinds, name):
    info = info_of(kinds / name)
    assert check_info(info, kinds / name / "run.json") is info
    assert problem_of_info(info | {"of_a_later_version": {"x": [1, None]}}) is None


@pytest.mark.parametrize("name", ["alpha", "blend"])
def test_every_change_of_run_json_is_right_or_one_line(kinds, name):
    """Readers that need no table are tried on what is accepted."""
    folder = kinds / name
    accepted = []
    for what, changed in mutations(info_of(folder)):
        if any(key not in changed for key in NEEDED):
            continue

        def read(changed=changed):
            run = Run(folder)
            vars(run)["info"] = check_info(changed, folder / "run.json")
            num_passes(run)
            picture_seconds(run)
            device_of(run)
            metric_of(run.info)
            assert run.attributes is not run.hashes is not run.tables

        if message_of(read) is None:
            accepted.append(what)
    # Free texts and names are accepted as they are, but no number of folds.
    assert not [one for one in accepted if one.startswith("num_folds")]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alpha", "blend"])
def test_what_reads_tables_too_works_on_every_accepted_change(kinds, tmp_path, name):
    outputs = shutil.copytree(kinds, tmp_path / "outputs")
    folder = outputs / name
    good = outputs / "beta"
    for what, changed in mutations(info_of(kinds / name)):
        change(folder, changed)
        if why_unfinished(folder) is not None:
            continue
        for read in (
            lambda: leaderboard(*find_runs([folder, good])),
            lambda: compute_report(Run(folder)),
            lambda: screen_lines(Run(folder)),
            lambda: find_members([folder, good], include_blends=True),
        ):
            try:
                message_of(read)
            except Exception as error:
                raise AssertionError(what) from error


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_folds": 10**9}, "num_folds: must be a whole number from 1 to 10,000"),
        ({"num_repeats": 10_000}, "num_folds: must be at most 10,000 with num_repeats"),
        ({"num_folds": True}, "num_folds: must be a whole number, not True"),
        ({"folds": [{"files": "x"}]}, "folds[0].files: must be an object, not 'x'"),
        ({"folds": [{}] * 3}, "folds: must be 2 entries, not 3"),
        ({"files": {"../x": "0"}}, "must be the path of a file in the run folder, without .."),
        ({"files": {"/etc/passwd": "0"}}, "must be the path of a file in the run folder"),
        ({"classes": ["cat", "cat", "owl"]}, "classes: must be different names, but 'cat'"),
        ({"classes": ["cat", " ", "owl"]}, "classes[1]: must be a text of 1 to"),
        ({"answers": [1]}, "answers: must be one for each of 3 classes, not 1"),
        (
            {"attributes": [{"name": "a", "values": ["b"], "of_class": [0, 0]}]},
            "attributes[0].of_class: must be one for each of 3 classes, not 2",
        ),
        (
            {"attributes": [{"name": "a", "values": ["b"], "of_class": [0, 0, 1]}]},
            "attributes[0].of_class: must be places of 1 values, not 1",
        ),
        ({"has_test": True, "num_test_folds": 1}, "num_test_folds: must be 2"),
        ({"metric": "evil:score"}, "metric: must be one that this version has, not 'evil:score'"),
        ({"metric": "mean_cost"}, "costs: must be there for the metric mean_cost"),
        ({"costs": [[0.0]]}, "costs: must be 3 rows of 3 numbers"),
        ({"kind": "blend", "members": []}, "members: must be at least one"),
        ({"kind": "blend"}, "members: must be there for the kind blend"),
        ({"members": [{"name": "../a", "oof": ""}]}, "members[0].name: must be the name of a file"),
        ({"views": ["hflip", "hflip"]}, "views: must be different ones"),
        ({"finished": 10**18}, "finished: must be a whole number from 0 to 250,000,000,000"),
        ({"seconds": "\x1b[31mred"}, "not '\\x1b[31mred'"),
    ],
)
def test_the_message_has_place_value_and_cure(tmp_path, changes, words):
    run = Run(write_run(tmp_path / "a", LABELS, **changes))
    with pytest.raises(UserError) as found:
        run.info  # noqa: B018
    assert str(found.value).startswith(f"{tmp_path}/a/run.json: ")
    assert words in str(found.value)
    assert str(found.value).endswith("; make the run again")
    assert why_unfinished(run.path) == str(found.value).removeprefix(f"{run.path}/")


def test_every_change_of_done_json_is_right_or_one_line(kinds, tmp_path):
    file = tmp_path / "fold_0" / "done.json"
    file.parent.mkdir()
    whole = json.loads((kinds / "alpha" / "fold_0" / "done.json").read_text())
    for what, changed in mutations(whole):
        file.write_text(json.dumps(changed))
        message = message_of(lambda: read_done(tmp_path, 0))
        if message is None:
            assert {*DONE} <= {*changed}
            assert all(isinstance(one, str) for one in changed["files"].values())
        else:
            assert "remove the folder fold_0" in message or "not valid JSON" in message, what
    assert read_checked(kinds / "alpha" / "fold_0" / "done.json", FoldInfo, cure="") == whole


def test_every_change_of_a_section_is_right_or_one_line(kinds, tmp_path):
    folder = shutil.copytree(kinds / "alpha", tmp_path / "alpha")
    whole = json.loads((folder / "sections" / "views.json").read_text())
    assert read_sections(folder) == [whole]
    report = json.loads((folder / "report.json").read_text())
    blocks = [block for one in report["sections"] for block in one["blocks"]]
    whole = copy.deepcopy(whole) | {"blocks": blocks}
    for what, changed in mutations(whole):
        (folder / "sections" / "views.json").write_text(json.dumps(changed))
        message = message_of(lambda: read_sections(folder))
        if message is None:
            section_lines(changed)
            section_html(changed, {})
        else:
            assert "views.json" in message, what


def test_every_change_of_report_json_is_read_or_one_line(kinds, tmp_path):
    folder = shutil.copytree(kinds / "alpha", tmp_path / "alpha")
    whole = json.loads((folder / "report.json").read_text())
    read = {key: whole[key] for key in ("headline", "metric", "num_images", "num_groups", "notes")}
    for _, changed in mutations(read):
        (folder / "report.json").write_text(json.dumps(changed))
        message = message_of(Run(folder)._facts)
        if message is not None:
            assert "report.json" in message
            assert "report.py" in message or "not valid JSON" in message
