"""Members that hurt a blend are named, and dropped with --drop-harmful."""

import numpy as np
import pytest
import yaml

from ensemble.auto import blend_arrays
from ensemble.candidates import methods_to_try
from ensemble.config import BlendConfig, decisions, read_blend_file
from ensemble.crossfit import splits_of
from ensemble.drop import dropping, kept
from ensemble.harm import Harm, leave_out_again, leave_out_each
from ensemble.harm_section import harm_note, harm_section
from ensemble.leave_out import vote_without, without
from ensemble.methods.base import Evidence
from ensemble.methods.registry import METHODS
from ensemble.methods.trees import Trees
from ensemble.methods.vote import POOLS, Vote
from ensemble.saved import load_blend
from ensemble.subsets import few, within
from foldblend.errors import UserError
from foldblend.runs.run import Run
from foldblend.scores.metrics import METRICS, softmax
from foldblend.scores.rows import Rows
from foldblend.scores.score import left_out_score
from folds.split import assign_folds
from tests.makers.synthetic_runs import write_synthetic_run

NUM_ROWS = 240
QUIET = {"page": False, "say": lambda _: None}


def evidence_of(strengths, *, seed=0, metric="f1_macro", loud=1.0, odds=(0.25,) * 4):
    """Return members that see the label to some extent; the last is `loud` times as confident."""
    rng = np.random.default_rng(seed)
    label_N = rng.choice(4, NUM_ROWS, p=odds)
    group_N = np.arange(NUM_ROWS) // 2
    logits = [
        (strength * np.eye(4)[label_N] + rng.normal(size=(NUM_ROWS, 4))).astype(np.float32)
        for strength in strengths
    ]
    logits[-1] *= loud
    fold_N = assign_folds(label_N, group_N, num_folds=4, seed=0)
    return Evidence(logits, Rows.of(label_N, group_N).in_folds(fold_N), metric)


def one_that_hurts(metric="f1_macro"):
    """Return three good members and one that is confident and knows nothing."""
    return evidence_of((2.0, 2.0, 2.0, 0.0), loud=6.0, metric=metric)


def harms_of(evidence, *names, decide=False):
    methods = {name: METHODS[name] for name in names}
    blended = blend_arrays(evidence, methods, decide=decide)
    members = [f"m{place}" for place in range(len(evidence.logits_MNC))]
    return leave_out_each(evidence, splits_of(evidence), blended, lambda _: methods, members)


@pytest.mark.parametrize("pool", POOLS)
def test_a_vote_without_a_member_is_the_vote_of_the_others(pool):
    logits = evidence_of((1.0, 2.0, 0.5)).logits_MNC
    weights = np.array([1.0, 2.0, 3.0])
    vote = Vote(pool, tuple(weights), (1.0, 1.0, 1.0))
    for member in range(3):
        left = [place for place in range(3) if place != member]
        expected_NC = POOLS[pool]([logits[place] for place in left], weights[left])
        found_NC = vote_without(pool, vote(logits), logits[member], vote.shares[member])
        np.testing.assert_allclose(softmax(found_NC), softmax(expected_NC), atol=1e-12)
    assert vote_without(pool, logits[0], logits[0], 1.0) is None


@pytest.mark.parametrize("name", ["tempered", "rank", "weights", "greedy", "stack"])
def test_a_fitted_method_without_a_member_takes_the_others(name):
    evidence = evidence_of((2.0, 1.5, 1.0))
    fitted = METHODS[name].fit(evidence)
    for member in range(3):
        fewer = without(fitted, evidence)(member)
        left = few(evidence, [place for place in range(3) if place != member])
        assert len(fewer.shares) == 2
        assert sum(fewer.shares) == pytest.approx(1)
        again = METHODS[name].fit(left)
        score = METRICS["f1_macro"].score
        found, refitted = (
            score(evidence.rows.label_N, softmax(one(left.logits_MNC))) for one in (fewer, again)
        )
        assert found == pytest.approx(refitted, abs=0.1)


def test_a_stack_without_a_copy_of_a_member_predicts_the_same():
    """The other one takes its weights, because it tells all that the copy did."""
    logits = evidence_of((1.5, 1.5)).logits_MNC
    rows = evidence_of((1.5, 1.5)).rows
    evidence = Evidence([logits[0], logits[1], logits[1]], rows)
    fitted = METHODS["stack"].fit(evidence)
    assert fitted.spread > 0
    fewer = without(fitted, evidence)(2)
    linear, before = (np.abs(one.weight_MCE[1]).sum() for one in (fewer, fitted))
    assert linear > 1.5 * before
    agree = fewer(evidence.logits_MNC[:2]).argmax(1) == fitted(evidence.logits_MNC).argmax(1)
    assert agree.mean() > 0.9


def test_what_cannot_be_left_out_is_fitted_again():
    evidence = evidence_of((0.5, 2.0, 1.0))
    best = METHODS["single"].fit(evidence)
    assert without(best, evidence)(1) is None
    assert without(best, evidence)(0).shares == (1.0, 0.0)
    [_, second, _] = harms_of(evidence, "single")
    alone = [softmax(one) for one in evidence.logits_MNC]
    rows = evidence.rows
    third, middle = (left_out_score(evidence.score, rows, alone[place]) for place in (2, 1))
    assert second.score.value == pytest.approx(third.value)
    assert second.gain.value == pytest.approx(third.value - middle.value)


@pytest.mark.parametrize("metric", ["f1_macro", "log_loss", "roc_auc_ovr"])
def test_the_member_that_hurts_is_named_for_metrics_of_both_signs(metric):
    evidence = one_that_hurts(metric)
    harms = harms_of(evidence, "soft")
    assert [one.hurts for one in harms] == [False, False, False, True]
    left = few(evidence, [0, 1, 2])
    expected = METRICS[metric].score(
        evidence.rows.label_N, softmax(METHODS["soft"].fit(left)(left.logits_MNC))
    )
    assert METRICS[metric].sign * harms[3].score.value == pytest.approx(expected)
    note = harm_note(harms, can_drop=True)
    sign = "+" if METRICS[metric].sign > 0 else "-"
    lower = "; lower is better" if metric == "log_loss" else ""
    assert note.startswith(f"the blend is better without m3 ({sign}0.")
    assert note.endswith(f"]{lower}): leave it out, or pass --drop-harmful")
    found = harm_section(harms, METRICS[metric], note, how="kept")
    rows = next(block for block in found["blocks"] if block["kind"] == "table")["rows"]
    assert rows[0][0] == "without m3"
    assert "m3" in found["screen"][0]["text"]
    nothing = harm_note(harms[:3], can_drop=True)
    assert nothing is None
    assert "screen" not in harm_section(harms[:3], METRICS[metric], nothing, how="kept")


def test_a_note_names_three_and_counts_the_others():
    harms = [Harm(f"m{place}", *[one_that_hurts_gain()] * 2) for place in range(5)]
    note = harm_note(harms, can_drop=False)
    assert note.endswith("and 2 more: leave out the first and blend again")
    assert note.count("m") >= 3


def one_that_hurts_gain():
    return harms_of(one_that_hurts(), "soft")[3].gain


def test_trees_stay_without_a_member():
    evidence = evidence_of((2.0, 1.5))
    fitted = Trees((1.0, 2.0), 1.0, np.arange(4), 0)
    fewer = without(fitted, evidence)(0)
    assert fewer.temperatures == (2.0,)
    left = evidence.logits_MNC[1]
    np.testing.assert_array_equal(fewer([left]).argmax(axis=1), left.argmax(axis=1))


def test_offsets_and_weights_of_methods_stay_without_a_member():
    """It changes as much as a new blend of the others, and a member that is silent nothing."""
    evidence = evidence_of((2.0, 1.5, 1.5, 0.0), odds=(0.7, 0.2, 0.07, 0.03), loud=0.0)
    methods = {name: METHODS[name] for name in ("single", "weights")}
    blended = blend_arrays(evidence, methods)
    assert any(trial.strength for trial in blended.trials)
    names = ["a", "b", "c", "silent"]
    harms = leave_out_each(evidence, splits_of(evidence), blended, lambda _: methods, names)
    again = leave_out_again(
        evidence, blended, lambda _: methods, names, decide=True, prefer="score"
    )
    for found in (harms, again):
        assert min(found, key=lambda one: one.gain.value).name == "a"
        assert abs(found[-1].gain.value) < 0.03


@pytest.mark.parametrize("name", ["soft", "log", "hard", "rank"])
def test_votes_drop_the_member_that_hurts_them_and_no_other(name):
    assert kept(METHODS[name], one_that_hurts()) == (0, 1, 2)
    good = evidence_of((2.0, 2.0, 2.0, 2.0))
    assert kept(METHODS[name], good) == (0, 1, 2, 3)
    fitted = dropping(METHODS[name]).fit(good)
    assert fitted.as_dict() == METHODS[name].fit(good).as_dict()


def test_a_member_that_a_method_corrects_is_not_dropped_from_it():
    """Temperature scaling makes a confident member that knows nothing harmless."""
    assert kept(METHODS["tempered"], one_that_hurts()) == (0, 1, 2, 3)


def test_one_member_is_always_kept():
    assert kept(METHODS["soft"], evidence_of((1.0,))) == (0,)
    bad = evidence_of((3.0, 0.0, 0.0, 0.0), loud=9.0)
    assert kept(METHODS["soft"], bad) == (0,)
    assert len(kept(METHODS["stack"], evidence_of((0.0, 0.0)))) >= 1


def test_members_dropped_within_a_budget_keep_their_numbers():
    evidence = few(one_that_hurts(), [3, 0, 1, 2])

    # The budget takes only members that help, so a choice is made for it here.
    method = within(dropping(METHODS["soft"]), np.array([1.0, 1.0, 1.0, 1.0]), 4)
    assert method.fit(evidence).as_dict()["members"] == [1, 2, 3]
    fitted = dropping(METHODS["soft"]).fit(evidence)
    assert fitted.as_dict()["members"] == [1, 2, 3]
    assert fitted.shares == pytest.approx((0, 1 / 3, 1 / 3, 1 / 3))


def test_the_choice_is_cross_fitted():
    """Each fold drops members on the other folds."""
    evidence = one_that_hurts()
    blended = blend_arrays(evidence, {"soft": dropping(METHODS["soft"])}, decide=False)
    [trial] = blended.trials
    assert [part.members for part in trial.parts] == [(0, 1, 2)] * 4
    plain = blend_arrays(few(evidence, [0, 1, 2]), {"soft": METHODS["soft"]}, decide=False)
    np.testing.assert_allclose(trial.logits_NC, plain.trials[0].logits_NC, atol=1e-5)


def test_settings():
    with pytest.raises(UserError, match=r"^--weights 1.0, 2.0: --drop-harmful chooses the members"):
        BlendConfig(weights=(1.0, 2.0), drop_harmful=True)
    assert "drop_harmful" not in decisions(BlendConfig())
    assert decisions(BlendConfig(drop_harmful=True))["drop_harmful"] is True
    with pytest.raises(UserError, match=r"^--drop-harmful: members have different folds"):
        methods_to_try(
            BlendConfig(drop_harmful=True), why_not="members have different folds", num_members=2
        )
    assert methods_to_try(BlendConfig(drop_harmful=True), why_not="too few", num_members=1)


@pytest.fixture
def drawn(tmp_path):
    """Write outputs/ with two good runs, and one that is confident and knows nothing."""
    for name, strength, seed in (("a", 1.1, 0), ("b", 1.1, 1), ("c", 1.0, 2)):
        write_synthetic_run(
            tmp_path / "outputs" / name, num_people=24, num_test=20, strength=strength, seed=seed
        )
    # Logits of other rows.
    for file in ("oof.parquet", *(f"test_fold_{fold}.parquet" for fold in range(5))):
        shuffle(tmp_path / "outputs" / "c" / file)
    return tmp_path / "outputs"


def shuffle(file):
    import pandas as pd

    table = pd.read_parquet(file)
    columns = [name for name in table if name.startswith("logit")]
    order = np.random.default_rng(0).permutation(len(table))
    table[columns] = (5 * table[columns].to_numpy()[order]).astype(np.float32)
    table.to_parquet(file)


def section_named(run, words):
    return next(one for one in run.report["sections"] if words in one["title"])


@pytest.mark.parametrize("flags", [("--method", "soft"), ("--method", "log", "--budget", "9x")])
def test_a_report_names_the_member_that_hurts(drawn, blend_command, flags):
    done = blend_command(*sorted(drawn.iterdir()), "--name", "all", "--no-page", *flags)
    assert done.code == 0, done.err
    run = Run(drawn / "all")
    table = next(
        one for one in section_named(run, "without each member")["blocks"] if one["kind"] == "table"
    )
    assert len(table["rows"]) == 3
    if "--budget" in flags:  # a budget takes no member that lowers the score
        return
    assert table["rows"][0][0] == "without c"
    [note] = [one for one in run.info["notes"] if one.startswith("the blend is better without c")]
    assert note.endswith("leave it out, or pass --drop-harmful")
    assert "The blend is better without c" in " ".join(done.out.split())


def test_drop_harmful_is_a_part_of_a_blend_and_of_its_yaml(drawn, blend_command):
    flags = ("--method", "soft", "--drop-harmful", "--no-page")
    runs = sorted(drawn.iterdir())
    assert blend_command(*runs, "--name", "all", *flags).code == 0
    run = Run(drawn / "all")
    assert any(one == "--drop-harmful dropped c (soft)" for one in run.info["notes"])
    assert [one["weight"] for one in run.info["members"]] == [0.5, 0.5, 0]
    settings = yaml.safe_load((drawn / "all" / "blend.yaml").read_text())
    assert settings["drop_harmful"] is True
    assert settings["found"]["fitted"]["members"] == [0, 1]
    assert read_blend_file(drawn / "all" / "blend.yaml").drop_harmful
    dropped = section_named(run, "without each member")["blocks"][1]
    [[name, method, folds, on_all_rows]] = dropped["rows"]
    assert (name, method, on_all_rows) == ("c", "soft", "yes")
    assert folds.endswith(" of 5 folds")
    assert not any("better without" in one for one in run.info["notes"])
    again = ("--config", drawn / "all" / "blend.yaml", "--name", "again", "--no-page")
    assert blend_command(*again).code == 0
    for file in ("oof.parquet", "test.parquet", "blend.yaml", "parameters.safetensors"):
        assert (drawn / "all" / file).read_bytes() == (drawn / "again" / file).read_bytes(), file
    # Its parameters are kept, and can be found again.
    kept_before = load_blend(drawn / "all", say=print).shares
    (drawn / "all" / "parameters.safetensors").unlink()
    assert load_blend(drawn / "all", say=print).shares == kept_before == (0.5, 0.5, 0.0)


def test_nothing_happens_to_a_single_member(drawn, blend_command):
    done = blend_command(
        drawn / "a", "--method", "soft", "--drop-harmful", "--name", "one", "--no-page"
    )
    assert done.code == 0, done.err
    titles = [one["title"] for one in Run(drawn / "one").report["sections"]]
    assert not any("without each member" in title for title in titles)
