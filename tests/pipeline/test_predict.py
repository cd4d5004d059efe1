"""Prediction of new images: equal to the runs' own test logits, streaming and resumable."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
from sklearn.metrics import f1_score

import foldblend as fb
import predict as predict_script
from ensemble.methods.registry import METHODS
from ensemble.within import vote_within
from foldblend.errors import UserError
from foldblend.runs.calibrated import calibration_of, conformal_of, plain_test
from foldblend.runs.run import Run
from foldblend.scores.coverage import out_of_fold_coverage
from pipeline.predict.config import PredictConfig
from pipeline.predict.inputs import Inputs, read_inputs
from pipeline.predict.journal import Journal
from pipeline.predict.open import member_runs, open_predictor
from pipeline.predict.run import Prediction
from pipeline.predict.session import open_session
from pipeline.predict.stream import Stream, block_size
from tests.makers.edits import rehash


def quiet(_):
    pass


@pytest.fixture(scope="module")
def outputs(tiny_runs, tiny_layout, tmp_path_factory):
    """Return a folder with runs of every kind, in another place than they were made in."""
    made = tmp_path_factory.mktemp("made") / "outputs"
    shutil.copytree(tiny_runs, made)
    common = {
        "data": str(tiny_layout),
        "output": str(made),
        "img_size": "32",
        "pretrained": "none",
        "workers": 0,
        "threads": 1,
        "page": False,
        "say": quiet,
    }
    fb.cross_validate(
        backbone="test_efficientnet", finetune="head", folds=2, tta="hflip", name="frozen", **common
    )
    fb.cross_validate(
        backbone="test_resnet", folds=3, epochs=1, crop="center", name="three", **common
    )
    short = {"page": False, "say": quiet}
    fb.run_tta(made / "beta", views="hflip,train#0,scale:1.2", name="beta_tta", **short)
    fb.run_tta(made / "frozen", views="vflip,gamma:1.2", name="frozen_tta", **short)
    members = [made / "alpha", made / "beta", made / "frozen_tta"]
    for method in METHODS:
        fb.blend(members, method=method, name=f"by_{method}", **short)
    fb.blend(members, name="auto", **short)
    fb.blend([made / "by_soft", made / "three"], include_blends=True, name="of_blends", **short)
    fb.blend([made / "by_stack", made / "auto"], include_blends=True, name="twice", **short)
    return made.rename(tmp_path_factory.mktemp("moved") / "outputs")


@pytest.fixture(scope="module")
def images(tiny_layout, tmp_path_factory):
    """Return a folder with nothing but the test images."""
    return shutil.copytree(
        tiny_layout / "eval" / "images", tmp_path_factory.mktemp("images") / "new"
    )


def logits_of(place, images, **settings):
    """Return the ids, logits and plain logits that a run or file predicts."""
    config = PredictConfig(run=str(place), **settings)
    session = open_session(place, config, say=quiet)
    inputs = read_inputs(images, config.reading(session.predictor.settings), ())
    _, logits_NC, plain_NC = Prediction(session, inputs, config, say=quiet).logits()
    return inputs.ids, logits_NC, plain_NC


KINDS = ("alpha", "beta", "frozen", "three", "beta_tta", "frozen_tta", "auto", "of_blends", "twice")


@pytest.mark.parametrize("name", [*KINDS, *(f"by_{method}" for method in METHODS)])
def test_test_images_are_predicted_as_the_run_predicted_them(outputs, images, name):
    """Bit for bit: logits, probabilities and the submission, without the training data."""
    run = Run(outputs / name)
    ids, logits_NC, plain_NC = logits_of(run.path, images)
    table = run.test.set_index("image_id").loc[ids]
    np.testing.assert_array_equal(logits_NC, run.logits(table))
    plain = plain_test(run).set_index("image_id").loc[ids]
    np.testing.assert_array_equal(plain_NC, run.logits(plain))
    found = fb.predict(run.path, images, say=quiet)
    submission = pd.read_csv(run.path / "submission.csv").set_index("ImageID").loc[ids, "ans"]
    np.testing.assert_array_equal(
        [run.classes.index(one) for one in found["class"]], submission.to_numpy()
    )
    proba_NC = calibration_of(run).proba(run.logits(plain))
    np.testing.assert_array_equal(
        found[[f"proba_{one}" for one in run.classes]].to_numpy(), proba_NC
    )


def test_logits_of_an_image_do_not_depend_on_the_others(outputs, images):
    files = sorted(images.iterdir())
    for name in ("alpha", "frozen"):
        ids, together_NC, _ = logits_of(outputs / name, [str(one) for one in files])
        assert ids == [str(one) for one in files]
        order = np.random.default_rng(0).permutation(len(files))
        _, shuffled_NC, _ = logits_of(outputs / name, [str(files[row]) for row in order])
        np.testing.assert_array_equal(shuffled_NC, together_NC[order])
        _, alone_NC, _ = logits_of(outputs / name, str(files[7]))
        np.testing.assert_array_equal(alone_NC[0], together_NC[7])


def test_paths_arrays_and_pil_images_are_equal(outputs, images, tmp_path):
    # A PNG holds the pixels as they are, so that all ways of reading give the same.
    files = []
    for place, file in enumerate(sorted(images.iterdir())[:3]):
        files.append(tmp_path / f"{place}.png")
        cv2.imwrite(str(files[-1]), cv2.imread(str(file)))
    arrays = [cv2.cvtColor(cv2.imread(str(one)), cv2.COLOR_BGR2RGB) for one in files]
    pil = [PIL.Image.open(one) for one in files]
    expected = logits_of(outputs / "beta", files)[1]
    mixed = [files[0], arrays[1], pil[2]]
    for given in (arrays, pil, mixed, np.stack(arrays), str(tmp_path / "*.png"), tmp_path):
        np.testing.assert_array_equal(logits_of(outputs / "beta", given)[1], expected)
    np.testing.assert_array_equal(logits_of(outputs / "beta", arrays[0])[1], expected[:1])
    grey = arrays[0][..., 0]
    coloured = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(
        logits_of(outputs / "beta", [grey])[1], logits_of(outputs / "beta", [coloured])[1]
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "none are given"),
        ([np.zeros((4, 4, 3))], "no image"),
        ([np.zeros((4, 4, 2), np.uint8)], "no image"),
        ([np.zeros((0, 4, 3), np.uint8)], "no pixel"),
        (3, "cannot be read"),
        ("no/such/folder", "No such file"),
        (["a.jpg", "a.jpg"], "given twice"),
    ],
)
def test_images_that_cannot_be_read(outputs, given, words):
    with pytest.raises(UserError, match=words):
        logits_of(outputs / "beta", given)


def test_one_folds_models(outputs, images):
    run = Run(outputs / "alpha")
    for fold in (0, 1):
        ids, logits_NC, _ = logits_of(run.path, images, folds=str(fold))
        expected = run.logits(run.test_fold(fold).set_index("image_id").loc[ids])
        np.testing.assert_array_equal(logits_NC, expected)
    with pytest.raises(UserError, match="--folds 2: alpha has 2 models"):
        logits_of(run.path, images, folds="2")


def test_members_without_a_share_are_not_run(outputs):
    root = open_predictor(outputs / "by_single", say=quiet).root
    stream = Stream(root, say=quiet)
    assert len(stream.nets) == 1
    assert len(root.members) == 3


def test_runs_that_share_a_leaf_run_it_once(outputs):
    """By_stack is in the other blend too, and its members are members of both."""
    stream = Stream(open_predictor(outputs / "twice", say=quiet).root, say=quiet)
    assert sorted(leaf.name for leaf in stream.leaves.values()) == ["alpha", "beta", "frozen"]


def test_blocks_fill_the_batches_of_all_runs():
    assert block_size([64, 48, 32]) == 192
    assert block_size([64, 1000, 7]) == 1000


@pytest.fixture
def command(command_of):
    return command_of(predict_script.main)


READERS = {
    "csv": lambda file: pd.read_csv(file),
    "parquet": pd.read_parquet,
    "jsonl": lambda file: pd.read_json(file, lines=True),
}


def test_formats_hold_the_same_table(command, outputs, images, tmp_path):
    tables = {}
    for suffix, read in READERS.items():
        file = tmp_path / f"found.{suffix}"
        done = command(outputs / "alpha", images, "--out", file, "--unsure", 0.5)
        assert done.code == 0, done.err
        assert "42 predictions" in done.out
        assert "images/s" in done.out
        tables[suffix] = read(file)
    for table in tables.values():
        pd.testing.assert_frame_equal(table, tables["parquet"], check_exact=False)
    table = tables["parquet"]
    assert (table["unsure"] == (1 - table["proba"] > 0.5)).all()
    assert sorted(item.name for item in tmp_path.iterdir()) == [
        f"found.{suffix}" for suffix in sorted(READERS)
    ]
    command(outputs / "alpha", images, "--out", file).assert_one_line_error("--overwrite")
    shown = command(outputs / "alpha", images / table["image_id"][0])
    assert shown.out.splitlines()[0].startswith("image_id,class,proba,")
    assert len(shown.out.splitlines()) == 2


def test_killed_prediction_continues_with_the_same_bytes(
    command, outputs, images, tmp_path, monkeypatch
):
    for file in sorted(images.iterdir()):
        for copy in range(4):
            shutil.copy(file, tmp_path / f"{copy}_{file.name}")
    whole = tmp_path / "whole.csv"
    assert command(outputs / "auto", tmp_path, "--out", whole, "--coverage", 0.8).code == 0
    broken = tmp_path / "broken.csv"
    add = Journal.add

    def dies(self, rows_NX, bad):
        if self.done:
            self._rows.write(rows_NX.tobytes()[:70])
            raise KeyboardInterrupt
        add(self, rows_NX, bad)

    monkeypatch.setattr(Journal, "add", dies)
    again = ("--out", broken, "--coverage", 0.8, "--on-bad-image", "stop")
    whole_again = tmp_path.rename(tmp_path.with_name("elsewhere")).rename(tmp_path)
    assert command(outputs / "auto", whole_again / "*.jpg", *again).code == 130
    assert not broken.exists()
    monkeypatch.setattr(Journal, "add", add)
    done = command(outputs / "auto", whole_again / "*.jpg", *again)
    assert done.code == 0, done.err
    assert "continued after 64 images" in done.out
    assert broken.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob(".*partial*"))


def test_bad_images_stop_or_are_left_out(command, outputs, images, tmp_path):
    new = shutil.copytree(images, tmp_path / "new")
    names = sorted(item.name for item in new.iterdir())
    (new / names[3]).write_bytes((new / names[3]).read_bytes()[:200])
    (new / names[5]).write_bytes(b"")
    out = tmp_path / "found.csv"
    command(outputs / "alpha", new, "--out", out).assert_one_line_error(
        names[3], "--on-bad-image skip"
    )
    assert not out.exists()
    done = command(outputs / "alpha", new, "--out", out, "--on-bad-image", "skip")
    assert done.code == 0, done.err
    assert "2 images of 42 left out" in done.out
    left = pd.read_csv(tmp_path / "found_left_out.csv")
    assert left["image_id"].tolist() == [names[3], names[5]]
    found = pd.read_csv(out)
    good = [name for place, name in enumerate(names) if place not in (3, 5)]
    assert found["image_id"].tolist() == good
    whole = fb.predict(outputs / "alpha", images, say=quiet).set_index("image_id")
    assert found["proba"].tolist() == whole.loc[good, "proba"].tolist()
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "a.jpg").write_bytes(b"")
    command(outputs / "alpha", empty, "--on-bad-image", "skip").assert_one_line_error("a.jpg")


def test_groups_are_predicted_by_their_mean_logits(command, outputs, images, tmp_path):
    names = sorted(item.name for item in images.iterdir())
    table = pd.DataFrame({"image": names, "who": [f"p{place % 4}" for place in range(len(names))]})
    table.to_csv(tmp_path / "new.csv", index=False)
    out = tmp_path / "found.csv"
    flags = ("--image-root", images, "--group-col", "who", "--out", out)
    assert command(outputs / "auto", tmp_path / "new.csv", *flags).code == 0
    found = pd.read_csv(tmp_path / "found_by_group.csv").set_index("group")
    run = Run(outputs / "auto")
    logits = pd.DataFrame(run.logits(run.test.set_index("image_id").loc[names]))
    mean = logits.astype(float).groupby(table["who"]).mean()
    assert found["images"].to_dict() == table["who"].value_counts().to_dict()
    assert found.loc[mean.index, "class"].tolist() == [
        run.classes[code] for code in mean.to_numpy().argmax(axis=1)
    ]
    assert pd.read_csv(out)["group"].tolist() == table["who"].tolist()


def test_budget_votes_of_fewer_members(outputs, images):
    said = []
    table = fb.predict(outputs / "auto", images, budget="1x", say=said.append)
    line = next(one for one in said if one.startswith("--budget 1x"))
    assert "soft vote of 1 of 3 members" in line
    assert "its own OOF" in line
    name = line.partition("members (")[2].partition(")")[0]
    own = fb.predict(outputs / name, images, say=quiet)
    assert table["class"].tolist() == own["class"].tolist()
    # A vote of several is the mean of their probabilities, over the folds' models.
    said.clear()
    fb.predict(outputs / "by_stack", images, budget="4x", say=said.append)
    line = next(one for one in said if one.startswith("--budget 4x"))
    blend = Run(outputs / "by_stack")
    found = vote_within(blend, member_runs(blend), "4x")
    assert ", ".join(found.members) in line
    assert f"{found.score.value:.4f}" in line
    # Sets of classes have the vote's own coverage.
    fb.predict(outputs / "by_stack", images, budget="4x", coverage=0.8, say=said.append)
    share = out_of_fold_coverage(
        found.logits_NC, found.rows, 0.8, temperature=found.calibration.temperature
    ).share
    assert any(str(share) in one for one in said)
    with pytest.raises(UserError, match="is no blend"):
        fb.predict(outputs / "alpha", images, budget="1x", say=quiet)


def test_sets_of_classes_have_the_coverage_of_the_out_of_fold_rows(outputs, images):
    said = []
    table = fb.predict(outputs / "frozen", images, coverage=0.7, say=said.append)
    assert any("out of fold, sets of" in line for line in said)
    run = Run(outputs / "frozen")
    ids = sorted(item.name for item in images.iterdir())
    folds = [run.logits(run.test_fold(k).set_index("image_id").loc[ids]) for k in (0, 1)]
    inside_NC = conformal_of(run).sets(folds, 0.7)
    names = np.array(run.classes, dtype=object)
    assert table["classes"].tolist() == ["|".join(names[one]) for one in inside_NC]
    sizes = inside_NC.sum(axis=1)
    wide = fb.predict(outputs / "frozen", images, coverage=0.95, say=quiet)
    assert (wide["classes"].str.count(r"\|") + 1 >= sizes).all()
    said.clear()
    fb.predict(outputs / "frozen", images, coverage=0.9, coverage_by="class", say=said.append)
    assert any("no promise" in line for line in said)
    # Means of runs with different folds are compared with all rows.
    assert fb.predict(outputs / "of_blends", images, coverage=0.9, say=quiet)["classes"].all()


def test_members_that_are_gone_or_made_again(outputs, images, tmp_path):
    alone = shutil.copytree(outputs / "by_soft", tmp_path / "by_soft")
    with pytest.raises(UserError, match=r"frozen_tta|alpha.*gone.*export_model.py"):
        fb.predict(alone, images, say=quiet)
    copy = shutil.copytree(outputs, tmp_path / "copy")
    oof = copy / "beta" / "oof.parquet"
    table = pd.read_parquet(oof)
    table["logit_0"] += 1
    table.to_parquet(oof)
    rehash(oof)
    with pytest.raises(UserError, match=r"beta: this member of the blend .* made again"):
        fb.predict(copy / "by_soft", images, say=quiet)
    with pytest.raises(UserError, match=r"beta: this run it was made from .* made again"):
        fb.predict(copy / "beta_tta", images, say=quiet)
    weights = copy / "alpha" / "fold_1" / "best.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    with pytest.raises(UserError, match=r"best.safetensors: has changed since training"):
        fb.predict(copy / "alpha", images, say=quiet)


def test_blend_that_is_its_own_member(outputs, images, tmp_path):
    copy = shutil.copytree(outputs, tmp_path / "copy")
    for name in ("by_soft", "by_log"):
        info = json.loads((copy / name / "run.json").read_text())
        other = "by_log" if name == "by_soft" else "by_soft"
        info["members"][0] |= {"name": other, "oof": Run(copy / other).oof_hash}
        (copy / name / "run.json").write_text(json.dumps(info))
        (copy / name / "blend.yaml").unlink()
    with pytest.raises(UserError, match="member of itself"):
        fb.predict(copy / "by_soft", images, say=quiet)


def test_own_code_is_not_imported_unasked(runs_copy, images):
    file = runs_copy / "beta" / "config.yaml"
    file.write_text(file.read_text().replace("backbone: test_resnet", "backbone: evil:Model"))
    with pytest.raises(UserError, match="--trust-parts"):
        fb.predict(runs_copy / "beta", images, say=quiet)


def test_run_is_a_fitted_classifier_for_scikit_learn(outputs, images, tiny_layout):
    from sklearn.base import is_classifier
    from sklearn.frozen import FrozenEstimator
    from sklearn.metrics import ConfusionMatrixDisplay, get_scorer
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.utils.validation import check_is_fitted

    run = fb.load(outputs / "alpha")
    check_is_fitted(run)
    assert is_classifier(run)
    paths = [str(one) for one in sorted(images.iterdir())]
    names = run.predict(paths)
    assert run.classes_.tolist() == list(run.classes)
    assert run.predict_proba(paths).sum(axis=1) == pytest.approx(1)
    assert run.score(paths, names) == 1
    assert get_scorer("accuracy")(run, paths, names) == 1
    ConfusionMatrixDisplay.from_estimator(run, paths, names)
    chained = make_pipeline(FrozenEstimator(run))
    assert chained.predict(np.array(paths)).tolist() == names.tolist()
    parts = cross_val_score(FrozenEstimator(run), np.array(paths), names, cv=[([0], [1, 2])])
    assert parts.tolist() == [1]
    with pytest.raises(UserError, match="labels cat: no classes of the run"):
        run.score(paths, ["cat"] * len(paths))
    with pytest.raises(UserError, match="one per image"):
        run.score(paths, names[:3])
    with pytest.raises(UserError, match="no labels"):
        run.score(images)
    with pytest.raises(UserError, match="out: a score has no table; leave it out"):
        run.score(paths, names, out="scored.csv")


def test_repeated_paths_are_predicted_once_and_keep_their_rows(outputs, images, tmp_path):
    run = fb.load(outputs / "alpha")
    paths = np.array(sorted(map(str, images.iterdir()))[:4])
    order = [2, 0, 2, 3, 2, 1]
    proba_NC = run.predict_proba(paths)
    np.testing.assert_array_equal(run.predict_proba(paths[order]), proba_NC[order])
    table = fb.predict(run, [*paths[order]], odd=False, say=quiet)
    assert table["image_id"].tolist() == paths[order].tolist()
    drawn = fb.predict(run, (path for path in paths[order]), odd=False, say=quiet)
    pd.testing.assert_frame_equal(drawn, table)
    pd.testing.assert_frame_equal(
        fb.predict(run, (x for x in paths), odd=False, say=quiet),
        fb.predict(run, [*paths], odd=False, say=quiet),
    )
    # As by scikit-learn, with the rows that were drawn.
    names = np.roll(run.predict(paths), 1)
    truth = [run.classes.index(name) for name in names[order]]
    expected = f1_score(truth, proba_NC[order].argmax(axis=1), average="macro")
    assert run.score(paths[order], names[order]) == pytest.approx(expected)
    with pytest.raises(UserError, match="given twice"):
        fb.predict(run, [*paths[order]], out=tmp_path / "a.csv", say=quiet)
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(b"no image")
    given = [paths[0], str(damaged), paths[1], paths[0], str(damaged)]
    kept = fb.predict(run, given, on_bad_image="skip", odd=False, say=quiet)
    assert kept["image_id"].tolist() == [paths[0], paths[1], paths[0]]
    # Labels stay with their rows: the last but one is wrong.
    labels = run.predict([paths[0], paths[0], paths[1], paths[0], paths[0]])
    expected = run.score([paths[0], paths[1], paths[0]], [labels[0], names[1], labels[0]])
    labels[2] = names[1]
    settings = {"on_bad_image": "skip", "say": quiet, "out": None, "coverage": None}
    assert fb.score_images(run, given, labels, **settings) == expected < 1


def test_the_process_keeps_its_number_of_threads(outputs, images):
    before = torch.get_num_threads()
    fb.predict(outputs / "alpha", images, threads=before + 1, odd=False, say=quiet)
    assert torch.get_num_threads() == before


def test_score_reads_labels_from_a_table(outputs, tiny_layout, tmp_path):
    run = fb.load(outputs / "alpha")
    rows = run.oof.iloc[::5]
    classes = [run.classes[code] for code in rows["label"]]
    pd.DataFrame({"image": rows["image_id"], "kind": classes}).to_csv(
        tmp_path / "known.csv", index=False
    )
    root = str(tiny_layout / "train" / "images")
    found = run.score(tmp_path / "known.csv", label_col="kind", image_root=root)
    paths = [f"{root}/{name}" for name in rows["image_id"]]
    assert found == run.score(paths, classes)


def test_a_set_up_run_is_not_opened_again(outputs, images, monkeypatch):
    path = str(sorted(images.iterdir())[0])
    run = fb.load(outputs / "beta")
    first = run.predict(path)
    monkeypatch.setattr("pipeline.predict.session.open_predictor", None)
    assert run.predict(path) == first


def test_what_else_begins_a_prediction_again(command, outputs, images, tmp_path, monkeypatch):
    """A journal is of the same columns and boxes; it goes on with --on-bad-image skip."""
    new = shutil.copytree(images, tmp_path / "new")
    for copy in range(2):
        for file in sorted(images.iterdir()):
            shutil.copy(file, new / f"{copy}_{file.name}")
    last = sorted(new.iterdir())[-1]
    last.write_bytes(b"")
    out = tmp_path / "found.csv"
    command(outputs / "alpha", new, "--out", out).assert_one_line_error("--on-bad-image skip")
    copied = shutil.copytree(tmp_path / ".found.csv.partial", tmp_path / ".plain.csv.partial")
    done = command(outputs / "alpha", new, "--out", out, "--on-bad-image", "skip")
    assert "continued after 64 images" in done.out
    plain = tmp_path / "plain.csv"
    done = command(
        outputs / "alpha", new, "--out", plain, "--on-bad-image", "skip", "--no-odd", "--overwrite"
    )
    assert "continued" not in done.out
    assert not copied.exists()
    columns = ["image_id", "class", "proba"]
    both = [pd.read_csv(one)[columns] for one in (out, plain)]
    pd.testing.assert_frame_equal(*both)


def test_images_in_memory_are_never_taken_for_others():
    grey = np.zeros((4, 4), np.uint8)
    assert Inputs(["image 0"], [grey]).key() != Inputs(["image 0"], [grey]).key()
    boxes = [[(0, 0, 2, 2)], [(0, 0, 3, 3)]]
    first, second = (Inputs(["a"], ["a.jpg"], one).key() for one in boxes)
    assert first != second


def test_names_stay_texts_when_a_table_is_read_back(outputs, images, tmp_path):
    shutil.copy(sorted(images.iterdir())[0], tmp_path / "007.jpg")
    (tmp_path / "table.csv").write_text("image,who\n007.jpg,007\n")
    flags = {"group_col": "who", "say": quiet}
    shown = fb.predict(outputs / "alpha", tmp_path / "table.csv", **flags)
    for suffix in READERS:
        out = str(tmp_path / f"out.{suffix}")
        found = fb.predict(outputs / "alpha", tmp_path / "table.csv", out=out, **flags)
        assert found["group"].tolist() == ["007"]
        np.testing.assert_allclose(found["proba"], shown["proba"], rtol=1e-12)


def test_runs_of_early_versions_lack_hashes_of_images(outputs, images, tmp_path):
    copy = shutil.copytree(outputs / "beta", tmp_path / "beta")
    (copy / "reference.safetensors").unlink()
    file = copy / "pictures.parquet"
    pd.read_parquet(file).drop(columns="content").to_parquet(file)
    rehash(file)
    old = fb.predict(copy, images, say=quiet)
    pd.testing.assert_frame_equal(old, fb.predict(outputs / "beta", images, say=quiet))


def test_large_models_take_turns_in_memory(outputs, images, monkeypatch):
    expected = logits_of(outputs / "three", images)[1]
    monkeypatch.setattr("pipeline.predict.nets.KEPT_BYTES", 0)
    stream = Stream(open_predictor(outputs / "three", say=quiet).root, say=quiet)
    inputs = read_inputs(images, PredictConfig(run="r").reading({}), ())
    [found] = list(stream.run(inputs))
    np.testing.assert_array_equal(found.logits_NC, expected)
    [net] = stream.nets.values()
    assert net.use(1) is net.use(2) is net.model


def test_labelled_images_are_scored(command, outputs, tiny_layout, tmp_path):
    run = Run(outputs / "alpha")
    rows = run.oof.iloc[::4]
    classes = [run.classes[code] for code in rows["label"]]
    table = pd.DataFrame({"image": rows["image_id"], "kind": classes, "who": rows["group"]})
    table.to_csv(tmp_path / "known.csv", index=False)
    root = tiny_layout / "train" / "images"
    flags = ("--image-root", root, "--label-col", "kind", "--group-col", "who")
    done = command(run.path, tmp_path / "known.csv", *flags, "--out", tmp_path / "a.csv")
    value = fb.load(run.path).score(tmp_path / "known.csv", label_col="kind", image_root=str(root))
    assert f"macro F1 {value:.4f} [" in done.out, done.out + done.err
    assert f"on {len(rows)} labelled images" in done.out


def test_groups_from_the_folder_of_files(outputs, images, tmp_path):
    for name in ("p1", "p2"):
        shutil.copytree(images, tmp_path / name)
    found = fb.predict(
        outputs / "beta", [tmp_path / "p1", tmp_path / "p2"], group_from="parent", say=quiet
    )
    assert found["group"].value_counts().to_dict() == {"p1": 42, "p2": 42}
