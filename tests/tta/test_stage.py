"""Tests of test-time augmentation as a stage, which writes a new run next to the original one."""

import hashlib
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

import run_cv
from ensemble.blend import blend
from ensemble.find import find_members
from foldblend.errors import UserError
from foldblend.runs.costs import device_of, num_passes, pass_seconds, picture_seconds
from foldblend.runs.folder import write_json, write_table
from foldblend.runs.run import Run
from foldblend.runs.search import search_note
from foldblend.scores.metrics import METRICS
from leaderboard import main as leaderboard
from pipeline.data.preprocess import Preprocess
from pipeline.models.backbones import build_model
from run_tta import main
from tests.makers.constants import TINY
from tests.makers.edits import edit_run
from tests.makers.synthetic_runs import write_synthetic_run
from tta import stage as tta_stage
from tta.config import TtaConfig
from tta.merge import mean_proba
from tta.saved_views import saved_rows, view_seconds
from tta.stage import augment_run

VIEWS = ("identity", "hflip")
LOGITS = [f"logit_{index}" for index in range(18)]


@pytest.fixture
def tta_command(command_of):
    return command_of(main)


def views_of(run, index, names, part="oof"):
    table = saved_rows(run, index, part).set_index("image_id")
    ids = table[table["view"] == "identity"].index
    return ids, np.stack(
        [table[table["view"] == name].loc[ids, LOGITS].to_numpy() for name in names]
    )


def test_given_views_are_merged_into_a_new_run(runs_copy, tta_command):
    beta = Run(runs_copy / "beta")
    kept = (beta.path / "oof.parquet").read_bytes()
    done = tta_command(beta.path, "--views", "hflip,vflip", "--merge", "prob", "--no-page")
    assert done.code == 0, done.err
    run = Run(runs_copy / "beta_tta")
    names = ("identity", "hflip", "vflip")
    assert (beta.path / "oof.parquet").read_bytes() == kept
    assert (run.info["kind"], run.info["status"], run.info["views"]) == ("tta", "done", list(names))
    oof = run.oof.set_index("image_id")
    tests = []
    for index in (0, 1):
        ids, logits = views_of(beta, index, names)
        np.testing.assert_array_equal(oof.loc[ids, LOGITS].to_numpy(), mean_proba(logits))
        ids, logits = views_of(beta, index, names, "test")
        tests.append(mean_proba(logits))
        np.testing.assert_array_equal(
            run.test_fold(index).set_index("image_id").loc[ids, LOGITS], tests[-1]
        )
    np.testing.assert_allclose(run.logits(run.test), np.mean(tests, axis=0), atol=1e-6)
    assert (run.path / "submission.csv").is_file()
    text = " ".join((run.path / "report.txt").read_text().split())
    assert "Test-time augmentation, out of fold" in text
    assert "cost: views are added in the order given, merged by prob; one pass takes" in text
    table = pd.read_csv(run.path / "effects.csv")
    assert set(table["policy"]) >= {
        "identity",
        "identity + vflip",
        "all 3 views (prob)",
        "this run",
    }
    assert set(table["of"]) == {"class", "mask", "gender", "age"}
    seconds = view_seconds(beta)
    # Two models see each test image in three views.
    each = [pass_seconds(beta), seconds["hflip"], seconds["vflip"]]
    assert picture_seconds(run) == pytest.approx(2 * sum(each))
    assert (num_passes(run), device_of(run)) == (6, device_of(beta))
    again = tta_command(beta.path, "--views", "hflip,vflip", "--merge", "prob", "--no-page")
    assert again.code == 0
    # Nothing is computed again.
    assert "fold 0: hflip" not in again.out
    other = tta_command(beta.path, "--views", "hflip", "--no-page")
    other.assert_one_line_error("beta_tta", "--overwrite")


def test_blends_of_what_was_made_of_a_searched_run_say_so(runs_copy, tta_command):
    search = {
        "study": "s",
        "trial": "trial_00002",
        "num_trials": 50,
        "num_configurations": 40,
        "optimism": {"value": 0.02, "error": 0.01},
        "expected": {"value": 0.4, "low": 0.3, "high": 0.5},
    }
    own = search_note(search, METRICS["f1_macro"].title)
    edit_run(runs_copy / "beta", search=search, notes=[own])
    assert tta_command(runs_copy / "beta", "--views", "identity", "--no-page").code == 0
    augmented = Run(runs_copy / "beta_tta")
    # What the note of the run expects is not what to expect with further views.
    assert own not in augmented.info["notes"]
    more = {"method": "soft", "page": False, "say": lambda _: None}
    alpha = runs_copy / "alpha"
    first = blend([alpha, augmented], name="first", **more)
    second = blend([alpha, first], name="second", include_blends=True, **more)
    note = (
        "the settings of beta were chosen from 50 trials on these folds, so this score is somewhat"
        " optimistic (by about 0.020 for beta alone)"
    )
    for run in (augmented, first, second):
        assert run.info["searches"] == {"beta": search}
        assert note in run.info["notes"]
    assert "searches" not in Run(alpha).info


@pytest.mark.slow
def test_views_of_a_fold_are_chosen_on_the_other_folds(runs_copy, tta_command):
    beta = Run(runs_copy / "beta")
    done = tta_command(beta.path, "--no-page", "--budget", "2", "--name", "chosen")
    assert done.code == 0, done.err
    run = Run(runs_copy / "chosen")
    assert [(part["repeat"], part["part"]) for part in run.info["parts"]] == [(0, 0), (0, 1)]
    assert len(run.info["views"]) <= 2
    oof = run.oof.set_index("image_id")
    for part in run.info["parts"]:
        policy = part["policy"]
        if policy["views"] == ["identity"]:
            rows = beta.oof[beta.oof["fold"] == part["part"]].set_index("image_id")
            np.testing.assert_array_equal(oof.loc[rows.index, LOGITS], rows[LOGITS])
    text = " ".join((run.path / "report.txt").read_text().split())
    assert "Test set, decided on all rows." in text
    assert "views are added greedily, each fold's by a search on the other folds" in text
    assert (
        tta_command(
            beta.path, "--merge", "prob", "--overwrite", "--no-page", "--name", "chosen"
        ).code
        == 0
    )
    policies = [one["policy"] for one in Run(runs_copy / "chosen").info["parts"]]
    assert {policy["merge"] for policy in policies if len(policy["views"]) > 1} <= {"prob"}
    weighted = tta_command(
        beta.path,
        "--views",
        "hflip,scale:1.2",
        "--merge",
        "view",
        "--no-page",
        "--name",
        "weighted",
    )
    assert weighted.code == 0, weighted.err
    assert len(Run(runs_copy / "weighted").info["parts"]) == 2


@pytest.fixture
def synthetic(tmp_path, monkeypatch):
    """Return a run of synthetic logits that are much better for mirrored images."""
    run = Run(write_synthetic_run(tmp_path / "synthetic", num_people=30, num_test=20, strength=0.6))
    truth = run.oof.set_index("image_id")["label"]

    def saved_rows(run, index, part):
        repeat, fold = divmod(index, 5)
        oof = run.oof
        rows = (
            oof[(oof["repeat"] == repeat) & (oof["fold"] == fold)]
            if part == "oof"
            else run.test_fold(fold)
        )
        plain = rows[["image_id", *LOGITS]]
        clear = plain.copy()
        if part == "oof":
            noise = np.random.default_rng(fold).normal(size=(len(rows), 18)).astype(np.float32)
            clear[LOGITS] += 3 * np.eye(18, dtype=np.float32)[truth[rows["image_id"]]] + 3 * noise
        return pd.concat(
            [plain.assign(view="identity"), clear.assign(view="hflip")], ignore_index=True
        )

    for name, stand_in in {
        "open_models": Run,
        "saved_rows": saved_rows,
        "kept_views": lambda _: VIEWS,
    }.items():
        monkeypatch.setattr(tta_stage, name, stand_in)
    return run


def made(folder, **settings):
    config = TtaConfig(run=str(folder), page=False, **settings)
    return augment_run(config, add_views=None, say=lambda _: None)


@pytest.mark.parametrize("settings", [{"budget": 2}, {"views": "hflip", "merge": "class"}])
def test_labels_of_a_fold_do_not_affect_its_rows(synthetic, settings):
    before = made(synthetic.path, name="before", **settings)
    oof = synthetic.oof
    assert all("hflip" in part["policy"]["views"] for part in before.info["parts"])
    in_fold_N = (oof["fold"] == 0).to_numpy()
    label_N = oof["label"].to_numpy().copy()
    label_N[in_fold_N] = np.random.default_rng(0).permutation(label_N[in_fold_N])
    write_table(synthetic.path / "oof.parquet", oof.assign(label=label_N))
    after = made(synthetic.path, name="after", **settings)
    np.testing.assert_array_equal(
        before.oof.loc[in_fold_N, LOGITS], after.oof.loc[in_fold_N, LOGITS]
    )
    # Weights of the other folds were learned on these labels, so they change.
    if "merge" in settings:
        assert not before.oof.loc[~in_fold_N, LOGITS].equals(after.oof.loc[~in_fold_N, LOGITS])


def key_before_prefer(run, names, budget):
    """Return the run key that versions without --prefer gave to --views auto."""
    decided = [sorted(names), True, None, budget, run.oof_hash]
    return hashlib.blake2b(json.dumps(decided).encode(), digest_size=16).hexdigest()


@pytest.mark.slow
def test_a_run_of_a_version_without_prefer_stays_as_it_is(synthetic):
    """It was made with "simple", which the same command keeps and --prefer score replaces."""
    before = made(synthetic.path, budget=2, prefer="simple")
    names = before.info["tta"]["views"]
    assert before.info["run_key"] == {"tta": key_before_prefer(synthetic, names, 2)}
    settings = {key: value for key, value in before.info["tta"].items() if key != "prefer"}
    write_json(before.path / "run.json", before.info | {"tta": settings})
    kept = (before.path / "oof.parquet").read_bytes()
    left = synthetic.path / "tta" / ".draft-0123abcd-times.json"
    left.parent.mkdir(exist_ok=True)
    left.write_text("half")
    said = []
    config = TtaConfig(run=str(synthetic.path), page=False, budget=2)
    again = augment_run(config, add_views=None, say=said.append)
    assert "was made with --prefer simple, which is kept" in said[0]
    assert not left.exists()
    assert again.info["run_key"] == before.info["run_key"]
    assert (again.path / "oof.parquet").read_bytes() == kept
    assert again.info["tta"] == settings | {"prefer": "simple"}
    with pytest.raises(UserError, match="other runs or settings; pass another --name or --over"):
        made(synthetic.path, budget=2, prefer="score")
    changed = made(synthetic.path, budget=2, prefer="score", overwrite=True)
    assert changed.info["tta"]["prefer"] == "score"
    assert changed.info["run_key"] != before.info["run_key"]


@pytest.mark.slow
def test_score_is_the_default_and_stays(synthetic):
    first = made(synthetic.path, budget=2)
    assert first.info["tta"]["prefer"] == "score"
    assert first.info["policy"]["views"] == ["identity", "hflip"]
    assert made(synthetic.path, budget=2).info["run_key"] == first.info["run_key"]
    text = " ".join((first.path / "report.txt").read_text().split())
    assert "the best score" in text
    assert "on held-out" in text
    with pytest.raises(UserError, match="--name or --overwrite"):
        made(synthetic.path, budget=2, prefer="simple")
    given = made(synthetic.path, views="hflip", name="given")
    assert "prefer" not in given.info["tta"]


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["log_loss", "roc_auc_ovr"])
def test_repeats_without_a_test_set_and_other_metrics(synthetic, metric):
    """A second repeat with the same folds and logits gets the same choice, made separately."""
    write_table(
        synthetic.path / "oof.parquet",
        pd.concat([synthetic.oof, synthetic.oof.assign(repeat=1)], ignore_index=True),
    )
    state = {"num_repeats": 2, "has_test": False, "num_test_folds": 0, "metric": metric}
    write_json(synthetic.path / "run.json", synthetic.info | state)
    run = made(f"{synthetic.path}/", budget=2)
    # No times were measured.
    assert picture_seconds(run) is None
    assert [(part["repeat"], part["part"]) for part in run.info["parts"]] == [
        (r, f) for r in (0, 1) for f in range(5)
    ]
    assert "hflip" in run.info["views"]
    first, second = (
        run.oof.loc[run.oof["repeat"] == repeat, LOGITS].to_numpy() for repeat in (0, 1)
    )
    np.testing.assert_array_equal(first, second)
    assert run.test is None


@pytest.mark.slow
def test_blends_take_it_and_the_leaderboard_lists_it(runs_copy, tta_command, tmp_path):
    assert tta_command(runs_copy / "beta", "--views", "hflip", "--no-page").code == 0
    members, skipped = find_members(sorted(runs_copy.iterdir()))
    assert [run.name for run in members] == ["alpha", "beta_tta"]
    assert [(path.name, why) for path, why in skipped] == [
        ("beta", "beta_tta, which merges its views, is in the blend")
    ]
    assert (
        tta_command(runs_copy / "beta", "--views", "vflip", "--name", "later", "--no-page").code
        == 0
    )
    later = Run(runs_copy / "later")
    write_json(later.path / "run.json", later.info | {"finished": later.info["finished"] + 9})
    members, skipped = find_members(
        [runs_copy / "later", runs_copy / "beta_tta", runs_copy / "beta"]
    )
    assert [run.name for run in members] == ["later"]
    assert {path.name for path, _ in skipped} == {"beta", "beta_tta"}
    shutil.rmtree(later.path)
    both = blend(sorted(runs_copy.iterdir()), say=lambda _: None, page=False)
    assert [one["name"] for one in both.info["members"]] == ["alpha", "beta_tta"]
    file = tmp_path / "board.json"
    assert (
        leaderboard([*map(str, sorted(runs_copy.iterdir())), "--no-page", "--json", str(file)]) == 0
    )
    rows = {row["name"]: row for row in json.loads(file.read_text())["boards"][0]["rows"]}
    assert (rows["beta"]["passes"], rows["beta_tta"]["passes"]) == (2, 4)


def test_bad_input_is_one_line(runs_copy, tta_command, tmp_path, tiny_layout):
    beta = runs_copy / "beta"
    tta_command().assert_one_line_error("python run_tta.py outputs/RUN")
    tta_command(beta, "--views", "hflop").assert_one_line_error("--views hflop", "hflip")
    tta_command(beta, "--views", "scale:0").assert_one_line_error("--views scale:0")
    tta_command(beta, "--views", "crop:0.01:tl").assert_one_line_error("crop:0.01:tl")
    tta_command(beta, "--merge", "mena").assert_one_line_error("--merge mena", "mean")
    tta_command(beta, "--budget", "0").assert_one_line_error("--budget 0")
    tta_command(beta, "--views", "hflip", "--budget", "2").assert_one_line_error(
        "--budget 2", "--views auto"
    )
    tta_command(beta, "--views", "hflip", "--prefer", "score").assert_one_line_error(
        "--prefer score", "--views auto"
    )
    tta_command(beta, "--prefer", "best").assert_one_line_error("--prefer", "score", "simple")
    tta_command(tmp_path).assert_one_line_error(str(tmp_path), "not a run folder")
    blended = blend([runs_copy / "alpha", beta], say=lambda _: None, page=False)
    tta_command(blended.path).assert_one_line_error("is a blend")
    shutil.rmtree(beta / "fold_1")
    tta_command(beta, "--views", "hflip").assert_one_line_error("fold 1 is not finished")


@pytest.fixture
def heads(runs_copy, tiny_layout):
    """Return a run of linear heads on a frozen backbone, with the view hflip."""
    argv = ["--data", tiny_layout, "--output", runs_copy, "--name", "heads", *TINY]
    argv = list(map(str, argv))
    # Heads on a frozen backbone take no epochs.
    del argv[argv.index("--epochs") : argv.index("--epochs") + 2]
    argv += ["--finetune", "head", "--backbone", "test_efficientnet", "--tta", "hflip"]
    assert run_cv.main(argv) == 0
    return Run(runs_copy / "heads")


def test_frozen_runs_are_predicted_in_further_views(heads, tta_command, tiny_layout):
    """Compare with an ordinary model that has the backbone and the head of a fold."""
    assert tta_command(heads.path, "--views", "hflip", "--no-page").code == 0
    merged = Run(heads.path.with_name("heads_tta"))
    assert num_passes(heads) == num_passes(merged) == 2
    assert picture_seconds(heads) == picture_seconds(merged)
    done = tta_command(heads.path, "--views", "vflip,train#0", "--no-page", "--name", "further")
    assert done.code == 0, done.err
    again = tta_command(heads.path, "--views", "vflip", "--no-page", "--name", "again")
    assert "predicted" not in again.out.partition("Views merged")[0]
    model = build_model("test_efficientnet", num_classes=18, kwargs={}, weights=None).eval()
    state = safetensors.torch.load_file(heads.path / "backbone.safetensors")
    state |= safetensors.torch.load_file(heads.path / "fold_1" / "best.safetensors")
    model.load_state_dict(state)
    preprocess = Preprocess(**{**read_recipe(heads), "width": 32, "height": 32})
    for part, folder in (("oof", "train"), ("test", "eval")):
        table = saved_rows(heads, 1, part)
        rows = table[table["view"] == "vflip"]
        images = np.stack(
            [
                preprocess.load(str(tiny_layout / folder / "images" / name))
                for name in rows["image_id"]
            ]
        )
        with torch.inference_mode():
            expected = model(preprocess.normalise(torch.from_numpy(images)).flip(-2))
        np.testing.assert_allclose(heads.logits(rows), expected.numpy(), atol=1e-4)


def read_recipe(run):
    """Return the preprocessing of a run, as run.json has it."""
    names = ("mean", "std", "crop_pct", "decode")
    return {
        name: tuple(value) if isinstance(value := run.info["preprocess"][name], list) else value
        for name in names
    }


@pytest.mark.slow
def test_automatic_choice_of_a_frozen_run_keeps_what_earlier_versions_chose(
    heads, tta_command, monkeypatch
):
    """They could not predict further views of a frozen backbone."""
    with monkeypatch.context() as patch:
        patch.setattr("tta.stage.can_see", lambda run: False)
        assert tta_command(heads.path, "--no-page").code == 0
    made = Run(heads.path.with_name("heads_tta"))
    assert made.info["tta"]["views"] == ["identity", "hflip"]
    before = made.oof_hash
    assert tta_command(heads.path, "--no-page").code == 0
    assert Run(made.path).oof_hash == before
    assert tta_command(heads.path, "--no-page", "--overwrite").code == 0
    assert len(Run(made.path).info["tta"]["views"]) > 10
