"""Labels of models: who labels for which fold, what is learned, and what must not change."""

import json
import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from ensemble.blend import blend
from foldblend.errors import UserError
from foldblend.runs.folder import file_hash, read_json, write_json, write_table
from foldblend.runs.run import Run
from foldblend.scores.metrics import softmax
from foldblend.scores.temperature import best_temperature
from pipeline.config.identity import identity_settings
from pipeline.config.settings import flatten, make_config
from pipeline.config.train import AugmentConfig
from pipeline.cv import cross_validate
from pipeline.data.feeding import Feeder
from pipeline.frozen.choose_l2 import choose_l2
from pipeline.frozen.linear_heads import fit_heads
from pipeline.labels.kept import keep, kept
from pipeline.labels.pseudo import judged
from pipeline.predict.nets import Net
from pipeline.run_tta import run_tta
from pipeline.training.mixing import Mixing
from tests.makers.drawn import WORDS, write_csv

SETTINGS = {
    "epochs": 1,
    "img_size": "32",
    "pretrained": "none",
    "workers": 0,
    "threads": 1,
    "log_pictures": False,
    "page": False,
    "backbone": "test_resnet",
    "infer_engine": "torch",
}
HEAD = {"finetune": "head", "head_l2": "0.1"}


HEADER = "image,label,group"
FOLDS = 3


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return a folder of images of noisy colours: a table of 15 groups, and 12 test images."""
    root = tmp_path_factory.mktemp("data")
    rows = [(f"{i:03d}.png", WORDS[i % 3], f"p{i // 3}") for i in range(57)]
    for index, (name, word, _) in enumerate(rows):
        rng = np.random.default_rng(index)
        pixels = rng.normal(128, 40, (32, 32, 3)) + rng.normal(0, 25, 3)
        pixels[..., WORDS.index(word)] += 40
        cv2.imwrite(str(root / name), np.clip(pixels, 0, 255).astype(np.uint8))
    write_csv(root / "set.csv", rows[:45], header=HEADER)
    write_csv(root / "test.csv", [row[:1] for row in rows[45:]], header="image")
    return root


def student(data, output, name, say=lambda _: None, **settings):
    """Make a run; who gives labels is in the settings."""
    given = {"csv": str(data / "set.csv"), "test": str(data / "test.csv"), "group_col": "group"}
    return cross_validate(SETTINGS | given | settings, output=str(output), name=name, say=say)


@pytest.fixture(scope="module")
def outputs(data, tmp_path_factory):
    """Return a folder with two finished runs."""
    output = tmp_path_factory.mktemp("runs") / "outputs"
    student(data, output, "head", folds=FOLDS, finetune="head", tta="hflip")
    student(data, output, "net", folds=FOLDS, lr=3e-3, epochs=3, batch_size=8)
    return output


@pytest.fixture
def runs(outputs, tmp_path):
    """Return a copy of these runs that a test may change."""
    return shutil.copytree(outputs, tmp_path / "outputs")


@pytest.fixture
def taught(monkeypatch):
    """Return a list that receives the rows and shares of each fold in training."""
    seen = []
    train = Feeder.train

    def spied(self, rows, **how):
        seen.append((rows, how.get("share_NC")))
        return train(self, rows, **how)

    monkeypatch.setattr(Feeder, "train", spied)
    return seen


def kept_table(run, fold):
    return pd.read_parquet(run.path / f"labels/fold_{fold}.parquet")


def test_labels_of_each_fold_are_by_its_own_model(data, runs, taught):
    teacher = Run(runs / "net")
    made = student(data, runs, "made", teacher=str(teacher.path), unlabelled="test")
    assert (made.oof[["image_id", "fold"]] == teacher.oof[["image_id", "fold"]]).all(axis=None)
    for fold, (rows, share_NC) in enumerate(taught):
        held = made.oof[made.oof["fold"] == fold]
        assert not {*rows["image_id"]} & {*held["image_id"]}
        table = kept_table(made, fold)
        own = table[table["part"] == "train"].reset_index(drop=True)
        assert {*own["image_id"]} == {*made.oof["image_id"]} - {*held["image_id"]}
        others = table[table["part"] == "unlabelled"]
        # The test images are labelled as the model of this fold has predicted them.
        expected = teacher.test_fold(fold)
        assert others["image_id"].tolist() == expected["image_id"].tolist()
        np.testing.assert_array_equal(made.logits(others), teacher.logits(expected))
        proba_NC = softmax(made.logits(table).astype(float) / 2)
        num = len(own)
        true_NC = np.eye(3)[rows["label"][:num]]
        at_N = pd.Index(own["image_id"]).get_indexer(rows["image_id"][:num])
        np.testing.assert_allclose(share_NC[:num], (true_NC + proba_NC[at_N]) / 2, atol=1e-6)
        np.testing.assert_allclose(share_NC[num:], proba_NC[num:], atol=1e-6)
        assert (rows["label"][num:] == proba_NC[num:].argmax(1)).all()


@pytest.mark.parametrize("how", [{}, HEAD], ids=["trained", "frozen"])
def test_a_student_that_is_killed_makes_no_label_twice(how, data, outputs, tmp_path):
    given = {"teacher": str(outputs / "net"), "unlabelled": "test", **how}
    whole = student(data, tmp_path, "whole", **given)
    student(data, tmp_path, "parts", only_folds="0", **given)
    first = tmp_path / "parts/labels/fold_0.parquet"
    time = first.stat().st_mtime_ns
    parts = student(data, tmp_path, "parts", **given)
    assert first.stat().st_mtime_ns == time
    assert parts.oof.equals(whole.oof)
    # Of a damaged table, the same is made again.
    first.write_bytes(first.read_bytes()[:-9])
    shutil.rmtree(tmp_path / "parts/fold_0")
    again = student(data, tmp_path, "parts", **given)
    assert again.oof.equals(whole.oof)


def test_pseudo_labels_are_calibrated_on_the_other_folds(data, outputs, tmp_path, taught):
    source = Run(outputs / "head")
    least = 0.75
    made = student(data, tmp_path, "made", pseudo_from=str(source.path), pseudo_threshold=least)
    for fold, (rows, share_NC) in enumerate(taught):
        assert share_NC is None
        others = source.oof[source.oof["fold"] != fold]
        label_N = others["label"].to_numpy()
        scale = best_temperature(source.logits(others), label_N)
        proba_NC = softmax(source.logits(source.test_fold(fold)).astype(float) / scale)
        sure_N = proba_NC.max(axis=1) >= least
        assert 0 < sure_N.sum() < len(sure_N)
        extra = rows[~rows["image_id"].isin(source.oof["image_id"])]
        assert extra["image_id"].tolist() == source.test["image_id"][sure_N].tolist()
        assert extra["label"].tolist() == proba_NC.argmax(1)[sure_N].tolist()
        info = read_json(made.path / f"labels/fold_{fold}.json")
        assert info["temperature"] == pytest.approx(scale, rel=1e-3)
        one = judged(source.logits(others), info["temperature"], least)
        right_N = one.used_N & (one.label_N == label_N)
        assert (info["num_sure"], info["num_right"]) == (one.used_N.sum(), right_N.sum())


def relabel(run, fold):
    """Give the rows of a fold other labels in the oof.parquet of a run, as if they had had them."""
    table = pd.read_parquet(run.path / "oof.parquet")
    rows = (table["fold"] == fold).to_numpy()
    for column in ("label", "label_raw"):
        table.loc[rows, column] = (table.loc[rows, column] + 1) % 3
    write_table(run.path / "oof.parquet", table)
    info = read_json(run.path / "run.json")
    info["files"]["oof.parquet"] = file_hash(run.path / "oof.parquet")
    write_json(run.path / "run.json", info)


def source_of(outputs, kind):
    """Return a run, or make a TTA'd run, a blend, or a blend of such runs."""
    if kind == "run":
        return outputs / "head"
    if kind == "blend":
        members = [outputs / "head", outputs / "net"]
    else:
        seen = run_tta(
            run=str(outputs / "net"), views="hflip,vflip", merge="view", say=lambda _: None
        )
        if kind == "tta":
            return seen.path
        members = [outputs / "head", seen.path]
    return blend(members, method="stack", output=str(outputs), name=kind, say=lambda _: None).path


def given_labels(data, outputs, kind):
    """Return what each fold would learn: logits, and what was fitted to calibrate them."""
    source = str(source_of(outputs, kind))
    tables = {}
    for what, given in (
        ("teacher", {"teacher": source, "unlabelled": "test"}),
        ("pseudo", {"pseudo_from": source, "pseudo_threshold": 0.3}),
    ):
        made = student(data, outputs, f"{kind}_{what}", **HEAD, **given)
        for fold in range(FOLDS):
            info = read_json(made.path / f"labels/fold_{fold}.json")
            told = {name: info.get(name) for name in ("temperature", "num_sure", "num_right")}
            tables[what, fold] = (made.logits(kept_table(made, fold)), told)
    return tables


@pytest.mark.parametrize("kind", ["run", "tta", "blend", "blend_of_tta"])
def test_labels_of_a_fold_do_not_depend_on_its_own_labels(kind, data, outputs, tmp_path):
    """Relabel the rows of fold 0: what fold 0 learns stays equal to the last bit."""
    before = given_labels(data, shutil.copytree(outputs, tmp_path / "before"), kind)
    changed = shutil.copytree(outputs, tmp_path / "after")
    for name in ("head", "net"):
        relabel(Run(changed / name), 0)
    after = given_labels(data, changed, kind)
    for what in ("teacher", "pseudo"):
        np.testing.assert_array_equal(after[what, 0][0], before[what, 0][0])
        assert after[what, 0][1] == before[what, 0][1]
    # The other folds were calibrated and combined on these labels, so the check can fail.
    assert after["pseudo", 1][1] != before["pseudo", 1][1]
    if kind != "run":
        assert (after["teacher", 1][0] != before["teacher", 1][0]).any()


def test_without_labels_of_models_nothing_changes(data, outputs, tmp_path, taught):
    former = Run(outputs / "net")
    settings = identity_settings(flatten(make_config(backbone="test_resnet")))
    assert not {"teacher_share", "pseudo_threshold", "pseudo_rounds", "unlabelled"} & {*settings}
    made = student(data, tmp_path, "net", folds=FOLDS, lr=3e-3, epochs=3, batch_size=8)
    assert made.info["run_key"] == former.info["run_key"]
    assert made.oof.equals(former.oof)
    assert made.test.equals(former.test)
    assert [share_NC for _, share_NC in taught] == [None] * FOLDS


def test_mixing_of_whole_labels_as_shares_is_that_of_labels():
    label_N = np.arange(24) % 4
    pixels = torch.rand(24, 3, 8, 8)
    share_NC = np.eye(4, dtype=np.float32)[label_N]
    for config in (AugmentConfig(mixup=0.4), AugmentConfig(cutmix=1.0)):
        mixing = Mixing.of(config, np.full(4, 6))
        plain = mixing(pixels, label_N, np.random.default_rng(1))
        shares = mixing(pixels, label_N, np.random.default_rng(1), share_NC)
        assert torch.equal(plain[0], shares[0])
        np.testing.assert_array_equal(plain[1], shares[1])
    soft_NC = np.random.default_rng(0).dirichlet(np.ones(4), 24).astype(np.float32)
    mixed = Mixing.of(AugmentConfig(mixup=0.4), np.full(4, 6))(
        pixels, label_N, np.random.default_rng(1), soft_NC
    )[1]
    np.testing.assert_allclose(mixed.sum(axis=1), 1, atol=1e-6)


def heads_of(rows_NX, label_N, weight_N, **how):
    variance_X = np.full(rows_NX.shape[1], 1 / rows_NX.shape[1])
    return fit_heads(
        rows_NX,
        label_N,
        weight_N[None],
        np.array([0.5]),
        num_classes=3,
        variance_X=variance_X,
        **how,
    ).logits(rows_NX, 0)


def test_heads_on_shares_are_those_of_weighted_rows():
    rng = np.random.default_rng(0)
    rows_NX = rng.normal(size=(40, 5))
    label_N = rng.integers(0, 3, 40)
    ones_N = np.ones(40)
    by_label = heads_of(rows_NX, label_N, ones_N)
    by_share = heads_of(rows_NX, label_N, ones_N, share_NC=np.eye(3)[label_N])
    np.testing.assert_allclose(by_share, by_label, atol=1e-4)
    share_NC = rng.dirichlet(np.ones(3), 40)
    soft = heads_of(rows_NX, label_N, ones_N, share_NC=share_NC)
    each = heads_of(np.tile(rows_NX, (3, 1)), np.repeat(np.arange(3), 40), share_NC.T.ravel())
    np.testing.assert_allclose(soft, each[:40], atol=1e-4)


def test_penalties_are_not_scored_on_labels_of_models():
    rng = np.random.default_rng(0)
    rows_NX = rng.normal(size=(60, 5))
    label_N = (rows_NX[:, 0] > 0).astype(int)
    scored_N = np.arange(60) < 40
    common = {"seed": 0, "num_classes": 2, "variance_X": np.full(5, 0.2)}
    penalties = (1.0, 0.01)

    def losses(further_N):
        label = np.r_[label_N[:40], further_N]
        return choose_l2(
            rows_NX, label, np.arange(60), np.ones((1, 60)), penalties, scored_N=scored_N, **common
        )[1]

    # Their loss is not counted, but they are trained on.
    right = losses(label_N[40:])
    wrong = losses(1 - label_N[40:])
    assert (right < wrong).all()
    alone = choose_l2(
        rows_NX[:40], label_N[:40], np.arange(40), np.ones((1, 40)), penalties, **common
    )[1]
    assert (right < alone).any()


def test_rounds_are_runs_that_label_by_the_one_before(data, runs):
    given = {"pseudo_from": str(runs / "head"), "pseudo_threshold": 0.5, **HEAD}
    last = student(data, runs, "made", pseudo_rounds=2, **given)
    first = Run(runs / "made-round1")
    assert first.info["labels"]["of"]["name"] == "head"
    assert last.info["labels"]["of"] == {"name": "made-round1", "oof": first.oof_hash}
    alone = student(data, runs, "alone", **given | {"pseudo_from": str(first.path)})
    assert alone.oof.equals(last.oof)


def test_duplicates_and_groups_of_held_out_images_are_left_out(data, runs, taught):
    """An unlabelled copy, a crop saved again, and an image of a known group are not learned."""
    more = runs / "more"
    more.mkdir()
    shutil.copy(data / "000.png", more / "copy.png")
    image = cv2.imread(str(data / "003.png"))
    cv2.imwrite(str(more / "again.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 97])
    for name in ("050", "051", "052", "053"):
        shutil.copy(data / f"{name}.png", more)
    rows = [
        ("copy.png", ""),
        ("again.jpg", ""),
        ("050.png", "p2"),
        ("051.png", ""),
        ("052.png", ""),
    ]
    table = write_csv(more / "more.csv", rows, header="image,group")
    teacher = Run(runs / "head")
    made = student(data, runs, "made", teacher=str(teacher.path), unlabelled=str(table))
    fold_of = made.oof.groupby("group")["fold"].first()
    assert len({*fold_of[["p0", "p1", "p2"]]}) > 1
    for fold, (learnt, _) in enumerate(taught):
        names = {*learnt["image_id"]} - {*made.oof["image_id"]}
        away = {
            name
            for name, group in (("copy.png", "p0"), ("again.jpg", "p1"), ("050.png", "p2"))
            if fold_of[group] == fold
        }
        assert names == {name for name, _ in rows} - away
        assert read_json(made.path / f"labels/fold_{fold}.json")["num_left_out"] == len(away)


def test_the_report_tells_whose_labels_they_are(data, runs):
    made = student(data, runs, "made", teacher=str(runs / "net"), unlabelled="test", **HEAD)
    text = (made.path / "report.txt").read_text()
    for words in ("Student of net", "made - net:", "forward passes", "images without labels"):
        assert words in text
    shutil.rmtree(runs / "net")
    # A student is a run like any other when its teacher is gone.
    assert made.predict([str(data / "050.png")]) is not None
    seen = run_tta(run=str(made.path), views="hflip", say=lambda _: None)
    assert seen.info["of"]["name"] == "made"


def test_repeats_have_labels_of_their_own_models(data, tmp_path):
    source = student(data, tmp_path, "source", folds=2, repeats=2, **HEAD)
    made = student(data, tmp_path, "made", teacher=str(source.path), unlabelled="test", **HEAD)
    assert made.info["num_repeats"] == 2
    for index in range(4):
        table = kept_table(made, index)
        others = table[table["part"] == "unlabelled"]
        logits_NC = source.logits(source.test_fold(index))
        np.testing.assert_array_equal(made.logits(others), logits_NC)
        held = source.oof[(source.oof["repeat"] == index // 2) & (source.oof["fold"] == index % 2)]
        assert not {*table["image_id"]} & {*held["image_id"]}


def test_images_need_boxes_where_the_teacher_has_learned_boxes(data, runs):
    table = pd.read_csv(data / "set.csv")
    sides = {"x1": 2, "y1": 2, "x2": 30, "y2": 30}
    table.assign(**sides).to_csv(data / "boxed.csv", index=False)
    more = pd.DataFrame({"image": [f"{i:03d}.png" for i in range(50, 55)]})
    more.assign(**sides).to_csv(data / "boxed_more.csv", index=False)
    given = {"csv": str(data / "boxed.csv"), "box_cols": "x1,y1,x2,y2", "test": None, **HEAD}
    student(data, runs, "boxed", folds=FOLDS, **given)
    given |= {"teacher": str(runs / "boxed")}
    folder = data.parent / "folder"
    folder.mkdir(exist_ok=True)
    shutil.copy(data / "050.png", folder)
    with pytest.raises(UserError, match=r"--unlabelled.*has no boxes.*pass a table"):
        student(data, runs, "made", unlabelled=str(folder), **given)
    with pytest.raises(UserError, match=r"test \(--unlabelled\): has no boxes"):
        student(data, runs, "made", unlabelled="test", **given | {"test": str(folder)})
    without = {name: value for name, value in given.items() if name != "box_cols"}
    with pytest.raises(UserError, match=r"--teacher .*boxed was trained on boxes.*--box-cols"):
        student(data, runs, "made", **without)
    assert not (runs / "made").exists()
    made = student(data, runs, "made", unlabelled=str(data / "boxed_more.csv"), **given)
    assert (kept_table(made, 0)["part"] == "unlabelled").sum() == 5


def test_a_report_is_silent_on_images_without_labels_where_there_are_none(data, runs):
    made = student(data, runs, "made", teacher=str(runs / "head"), **HEAD)
    text = (made.path / "report.txt").read_text()
    assert "Student of head" in text
    assert "without a label" not in text
    assert "left out" not in text.split("Student of head")[1].split("Use and limits")[0]


@pytest.mark.parametrize("kind", ["teacher", "pseudo"])
def test_a_refit_of_the_teacher_never_labels(kind, data, runs):
    """It has learned the rows of every fold; pseudo-labels come from the run's test tables."""
    source = str(runs / "head")
    given = {"teacher": {"teacher": source}, "pseudo": {"pseudo_from": source}}[kind]
    given |= {"unlabelled": "test", **HEAD}
    if kind == "pseudo":
        given["pseudo_threshold"] = 0.3
    before = student(data, runs, "before", **given)
    student(data, runs, "head", folds=FOLDS, finetune="head", tta="hflip", refit="full")
    assert Run(runs / "head").info["refit"]["share"] > 0
    said: list[str] = []
    student(data, runs, "before", say=said.append, **given)
    assert any("nothing was trained" in line for line in said)
    after = student(data, runs, "after", **given)
    for fold in range(FOLDS):
        assert kept_table(after, fold).equals(kept_table(before, fold))


@pytest.mark.parametrize(
    "how",
    [
        {"select": "inner", "epochs": 2},
        {"lr": "find", "epochs": 20, "batch_size": 4},
        {"mixup": 0.4, "cutmix": 1.0, "loss": "0.5*ce+0.5*focal", "sampler": "balanced"},
        {"soup": True, "seeds": 2},
        {"parallel_folds": "2"},
        {"finetune": "head", "feature_views": 2},
    ],
    ids=lambda how: next(iter(how)),
)
@pytest.mark.parametrize("kind", ["teacher", "pseudo"])
def test_labels_go_with_other_ways_of_training(kind, how, data, outputs, tmp_path):
    given = {"teacher": str(outputs / "net"), "unlabelled": "test"}
    if kind == "pseudo":
        given = {"pseudo_from": str(outputs / "net"), "pseudo_threshold": 0.3}
    made = student(data, tmp_path, "made", **given, **how)
    assert made.info["labels"]["num_unlabelled"] == 12
    assert np.isfinite(made.logits(made.oof)).all()


def test_damaged_labels_count_as_absent(data, outputs, tmp_path):
    made = student(data, tmp_path, "made", pseudo_from=str(outputs / "net"), pseudo_threshold=0.3)
    record = made.path / "labels/fold_0.json"
    table = made.path / "labels/fold_0.parquet"
    whole = record.read_text()
    info = json.loads(whole)
    run = SimpleNamespace(
        manifest=SimpleNamespace(classes=made.classes, num_classes=3),
        num_folds=FOLDS,
        num_repeats=1,
        labels=SimpleNamespace(key=info["key"], is_teacher=False),
    )
    found = kept(made.path, 0, run)
    assert found is not None
    assert found.logits_NC.shape == (12, 3)
    texts = [json.dumps(info | {"temperature": value}) for value in (0, "1", None, [1.0])]
    texts += [json.dumps({name: info[name] for name in info if name != one}) for one in info]
    texts += ["", "[]", "[" * 600, "null", whole[:-9], json.dumps(info | {"key": "other"})]
    for text in texts:
        record.write_text(text)
        assert kept(made.path, 0, run) is None, text
    record.write_text(whole)
    pd.read_parquet(table).assign(logit_0=np.nan).to_parquet(table)
    assert kept(made.path, 0, run) is None
    table.unlink()
    table.mkdir()
    assert kept(made.path, 0, run) is None


def test_labels_of_the_test_set_are_not_read_and_its_score_is_marked(data, outputs, tmp_path):
    labels = [(f"{i:03d}.png", WORDS[i % 3]) for i in range(45, 57)]
    given = {"teacher": str(outputs / "head"), "unlabelled": "test", **HEAD}
    bare = student(data, tmp_path, "bare", **given)
    for shift in (0, 1):
        rows = [(name, WORDS[(WORDS.index(word) + shift) % 3]) for name, word in labels]
        table = write_csv(data / f"known{shift}.csv", rows, header="image,label")
        known = student(data, tmp_path, f"known{shift}", **given | {"test": str(table)})
        assert known.oof.equals(bare.oof)
        assert any("not one of unseen images" in note for note in known.info["notes"])
    # What is made of such a run says so too, as does one that learns from it.
    made = [
        run_tta(run=str(known.path), views="identity,hflip", merge="mean", say=lambda _: None),
        blend([bare, known], output=str(tmp_path), name="blended", say=lambda _: None),
    ]
    table = str(data / "known1.csv")
    made += [
        blend([bare, made[0]], output=str(tmp_path), name="twice", say=lambda _: None),
        student(data, tmp_path, "next", teacher=str(made[1].path), test=table, **HEAD),
    ]
    for run in made:
        assert run.info["test_learned_by"] == ["known1"]
        assert any("not one of unseen images" in note for note in run.info["notes"])


def test_features_of_a_frozen_teacher_come_from_the_cache(data, tmp_path, monkeypatch):
    """With a cache nothing is computed again, and the logits are those without one."""
    given = HEAD | {"tta": "hflip", "cache_dir": str(tmp_path / "cache")}
    source = student(data, tmp_path, "source", folds=FOLDS, **given)
    how = {"teacher": str(source.path), "unlabelled": "test", **HEAD}
    without = student(data, tmp_path, "without", cache="off", **how)
    monkeypatch.setattr(Net, "features", None)
    made = student(data, tmp_path, "made", cache_dir=str(tmp_path / "cache"), **how)
    for fold in range(FOLDS):
        assert kept_table(made, fold).equals(kept_table(without, fold))


def test_pseudo_labels_of_the_test_set_are_read_from_its_tables(data, runs, monkeypatch):
    """A run has predicted its test set already, by each fold's model; a copy is predicted anew."""
    given = {"pseudo_from": str(runs / "net"), "pseudo_threshold": 0.3}
    anew = student(data, runs, "anew", unlabelled=str(data / "test.csv"), **given)
    (anew.path / "labels").rename(runs / "elsewhere")
    (anew.path / "labels").symlink_to(runs / "elsewhere")
    before = {file.name: file.read_bytes() for file in (runs / "elsewhere").iterdir()}
    monkeypatch.setattr(Net, "logits", None)
    made = student(data, runs, "made", **given)
    for fold in range(FOLDS):
        assert kept_table(made, fold).equals(kept_table(anew, fold))
    # Files behind a link are left as they are.
    keep(anew.path, 0, kept_table(anew, 0)[["image_id", "part"]], np.zeros((12, 3)), {})
    assert before == {file.name: file.read_bytes() for file in (runs / "elsewhere").iterdir()}


def test_labels_of_a_mixed_blend_are_equal_with_and_without_a_cache(data, runs, tmp_path):
    """Of its members one is frozen, whose features are cached, and one is trained."""
    source = str(source_of(runs, "blend"))
    how = {"teacher": source, "unlabelled": "test", **HEAD}
    without = student(data, tmp_path, "without", cache="off", **how)
    made = student(data, tmp_path, "made", cache_dir=str(tmp_path / "cache"), **how)
    for fold in range(FOLDS):
        assert kept_table(made, fold).equals(kept_table(without, fold))
