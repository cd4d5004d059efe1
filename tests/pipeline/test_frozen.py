"""Linear heads on frozen features: known answers, the feature cache and the run folder."""

import json
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from sklearn.linear_model import LogisticRegression
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from foldblend.errors import UserError
from foldblend.runs.costs import picture_seconds
from foldblend.runs.run import Run
from foldblend.scores.metrics import METRICS, softmax
from folds.config import DataConfig
from folds.data.layout import read_layout
from folds.data.load import load_data
from folds.kfold import stratified_group_folds
from pipeline.config.run import ModelConfig
from pipeline.config.settings import make_config
from pipeline.config.train import parse_l2
from pipeline.cv import cross_validate
from pipeline.frozen import linear_heads
from pipeline.frozen.axes import own_scales, principal_axes
from pipeline.frozen.choose_l2 import choose_l2
from pipeline.frozen.features import Backbone, Features
from pipeline.frozen.fold_heads import logits_of
from pipeline.frozen.linear_heads import fit_heads
from pipeline.models.backbones import build_model, check_backbone, preprocess_of
from pipeline.watch.tracking import attribute_scores
from tests.makers.constants import TINY
from tests.makers.jobs import fake_job
from tta.views.names import VIEWS

PREPROCESS = preprocess_of(ModelConfig(img_size="32"), check_backbone("test_efficientnet"))
SMALL = {
    "folds": 2,
    "img_size": 32,
    "pretrained": "none",
    "workers": 0,
    "threads": 1,
    "backbone": "test_efficientnet",
    "finetune": "head",
    "validation_batch_size": 16,
    "page": False,
}


def simulate(seed=0, num=120, dims=9, num_classes=4, noise=1.5):
    """Return simulated features around class centres, labels and groups of three rows."""
    rng = np.random.default_rng(seed)
    label = np.repeat(rng.integers(0, num_classes, num // 3), 3)
    group = np.repeat(np.arange(num // 3), 3)
    return (
        rng.normal(size=(num_classes, dims))[label] + noise * rng.normal(size=(num, dims)) + 3,
        label,
        group,
    )


def centred(logits):
    return logits - logits.mean(axis=1, keepdims=True)


@pytest.mark.parametrize("dims", [9, 300])
def test_axes_are_uncorrelated_and_of_unit_length_on_average(dims):
    features, _, _ = simulate(dims=dims)
    axes = principal_axes(features.astype(np.float32))
    rows = axes.of(features)
    covariance = rows.T @ rows / len(rows)
    np.testing.assert_allclose(covariance, np.diag(axes.variance_X), atol=1e-6)
    assert (rows**2).sum(axis=1).mean() == pytest.approx(1, abs=1e-5)
    scale = np.sqrt(((features - features.mean(0)) ** 2).sum(1).mean())
    np.testing.assert_allclose(
        rows @ rows.T,
        (features - features.mean(0)) @ (features - features.mean(0)).T / scale**2,
        atol=1e-4,
    )


@pytest.mark.parametrize("dims", [9, 300])
def test_heads_equal_those_of_scikit_learn_fitted_one_by_one(dims):
    features, label, group = simulate(dims=dims)
    axes = principal_axes(features)
    rows = axes.of(features)
    weight = np.stack([group % 3 != 0, group % 3 != 1, np.where(group % 2, 0.5, 1.0)]).astype(float)
    l2 = np.array([0.3, 0.03, 1.0])
    common = {"num_classes": 4, "variance_X": axes.variance_X}
    heads = fit_heads(rows, label, weight, l2, **common)
    for problem in range(3):
        model = LogisticRegression(C=1 / l2[problem], max_iter=50_000, tol=1e-11)
        model.fit(rows, label, sample_weight=weight[problem])
        ours = heads.logits(rows, problem)
        theirs = model.decision_function(rows)
        np.testing.assert_allclose(centred(ours), centred(theirs), atol=1e-4)
        alone = fit_heads(
            rows, label, weight[problem : problem + 1], l2[problem : problem + 1], **common
        )
        np.testing.assert_allclose(centred(alone.logits(rows, 0)), centred(ours), atol=1e-5)


def test_heads_are_found_where_a_step_goes_too_far(monkeypatch):
    features, label, _ = simulate(dims=9, noise=0.1)
    axes = principal_axes(features)
    rows = axes.of(features)
    along = linear_heads.Problems.along
    lengths = iter([1e6, float("nan")])

    def too_far(self, *parts):
        found = along(self, *parts)
        return found * next(lengths, 40.0)

    monkeypatch.setattr(linear_heads.Problems, "along", too_far)
    heads = fit_heads(
        rows,
        label,
        np.ones((1, len(rows))),
        np.array([0.03]),
        num_classes=4,
        variance_X=axes.variance_X,
    )
    model = LogisticRegression(C=1 / 0.03, max_iter=50_000, tol=1e-11).fit(rows, label)
    theirs = model.decision_function(rows)
    np.testing.assert_allclose(centred(heads.logits(rows, 0)), centred(theirs), atol=1e-3)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_heads_that_a_gpu_has_no_memory_for_are_fitted_on_the_cpu(monkeypatch, capsys, error):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 5))
    arguments = (rows, rng.integers(3, size=40), np.ones((2, 40)), np.array([1.0, 10.0]))
    more = {"num_classes": 4, "variance_X": rows.var(axis=0)}
    real = linear_heads.HeadRows

    def full(rows_NX, *, dtype, device):
        if device is not None:
            raise error
        return real(rows_NX, dtype=dtype, device=device)

    expected = fit_heads(*arguments, **more)
    monkeypatch.setattr(linear_heads, "HeadRows", full)
    found = fit_heads(*arguments, **more, device=torch.device("cuda"))
    np.testing.assert_array_equal(found.weight_ZXC, expected.weight_ZXC)
    said = capsys.readouterr().err
    assert said == "cuda: too little memory for the linear heads; the CPU fits them\n"


def test_heads_of_many_rows_are_fitted_in_blocks_and_one_after_the_other(monkeypatch):
    features, label, group = simulate(dims=9)
    weight = np.stack([group % 3 != fold for fold in range(3)]).astype(float)

    def found():
        axes = principal_axes(features)
        rows = axes.of(features)
        scales = own_scales(rows, weight)
        common = {"num_classes": 4, "variance_X": axes.variance_X}
        chosen, losses = choose_l2(rows, label, group, weight, (1.0, 0.1), seed=0, **common)
        heads = fit_heads(rows, label, weight, chosen * scales, **common)
        weight_DC = axes.turn_DX @ heads.weight_ZXC[0]
        logits = logits_of([features], weight_DC, heads.bias_ZC[0] - axes.mean_D @ weight_DC)
        return chosen, scales, losses, logits

    at_once = found()
    monkeypatch.setattr("pipeline.frozen.axes.AT_ONCE", 7)
    monkeypatch.setattr("pipeline.frozen.head_problems.ONE_PASS", 7)
    monkeypatch.setattr("pipeline.frozen.head_problems.BLOCK", 5)
    monkeypatch.setattr(linear_heads, "MOST_BYTES", 1)
    in_blocks = found()
    np.testing.assert_array_equal(in_blocks[0], at_once[0])
    for one, other, most in zip(in_blocks[1:], at_once[1:], (1e-12, 1e-3, 1e-5), strict=True):
        np.testing.assert_allclose(one, other, atol=most)


def test_the_penalty_of_many_rows_is_chosen_on_some_groups(monkeypatch):
    features, label, group = simulate(dims=9)
    axes = principal_axes(features)
    rows = axes.of(features)
    weight = np.stack([group % 3 != fold for fold in range(3)]).astype(float)
    penalties = (1.0, 0.1)
    common = {"seed": 0, "num_classes": 4, "variance_X": axes.variance_X}
    seen = []
    real = linear_heads.fit_heads
    monkeypatch.setattr(
        "pipeline.frozen.choose_l2.fit_heads",
        lambda rows, *rest, **more: seen.append(rows) or real(rows, *rest, **more),
    )
    monkeypatch.setattr("pipeline.frozen.choose_l2.MOST_ROWS", 50)
    monkeypatch.setattr("pipeline.frozen.choose_l2.LEAST_GROUPS", 2)
    found = choose_l2(rows, label, group, weight, penalties, **common)
    some = np.array([(seen[0] == row).all(axis=1).any() for row in rows])
    assert 30 < some.sum() <= 50
    assert not {*group[some]} & {*group[~some]}
    monkeypatch.undo()
    of_these = choose_l2(rows[some], label[some], group[some], weight[:, some], penalties, **common)
    np.testing.assert_array_equal(found[0], of_these[0])
    np.testing.assert_array_equal(found[1], of_these[1])


@pytest.mark.parametrize("num_others", [0, 90])
def test_the_penalty_is_chosen_on_enough_groups_however_large_they_are(monkeypatch, num_others):
    """Two folds leave out half of eight groups of 15 rows; other groups of one row are not scored.

    Without a lower limit, a fold would be left with one of these groups, or none.
    """
    features, label, _ = simulate(num=120 + num_others)
    rows_N = np.arange(len(label))
    scored_N = rows_N < 120
    group_N = np.where(scored_N, rows_N // 15, rows_N)
    weight = np.stack([~scored_N | (group_N % 2 != fold) for fold in range(2)]).astype(float)
    axes = principal_axes(features)
    arguments = (axes.of(features), label, group_N, weight, (1.0, 0.1))
    more = {"num_classes": 4, "variance_X": axes.variance_X, "scored_N": scored_N}
    monkeypatch.setattr("pipeline.frozen.choose_l2.MOST_ROWS", 20)
    for seed in range(3):
        assert np.isfinite(choose_l2(*arguments, seed=seed, **more)[1]).all()


def test_a_row_of_weight_0_has_no_influence():
    features, label, _ = simulate()
    axes = principal_axes(features)
    rows = axes.of(features)
    weight = np.ones((1, 120))
    weight[0, :60] = 0
    common = {"num_classes": 4, "variance_X": axes.variance_X}
    one = fit_heads(rows, label, weight, np.array([0.3]), **common)
    other = fit_heads(
        rows,
        np.where(np.arange(120) < 60, (label + 1) % 4, label),
        weight,
        np.array([0.3]),
        **common,
    )
    assert np.array_equal(one.weight_ZXC, other.weight_ZXC)


def test_a_class_without_training_rows_is_finite_and_never_wins():
    features, label, _ = simulate(num_classes=4)
    axes = principal_axes(features)
    rows = axes.of(features)
    weight = np.stack([label != 2, label >= 0]).astype(float)
    heads = fit_heads(
        rows, label, weight, np.array([0.1, 0.1]), num_classes=6, variance_X=axes.variance_X
    )
    for problem, present in enumerate(([0, 1, 3], [0, 1, 2, 3])):
        logits = heads.logits(rows * 9, problem)
        assert np.isfinite(logits).all()
        assert set(logits.argmax(1)) <= {*present}
        proba = np.exp(logits - np.logaddexp.reduce(logits, axis=1)[:, None])
        assert np.delete(proba, present, axis=1).max() < 1 / weight[problem].sum()
    model = LogisticRegression(C=10, max_iter=50_000, tol=1e-11).fit(
        rows[label != 2], label[label != 2]
    )
    ours = heads.logits(rows, 0)[:, [0, 1, 3]]
    np.testing.assert_allclose(centred(ours), centred(model.decision_function(rows)), atol=1e-4)


def test_the_penalty_is_chosen_by_inner_log_loss_of_each_problem():
    features, label, group = simulate(noise=4.0)
    axes = principal_axes(features)
    rows = axes.of(features)
    weight = np.stack([group % 4 != 0, group % 4 != 1]).astype(float)
    penalties = (10.0, 1.0, 0.01)
    common = {"seed": 5, "num_classes": 4, "variance_X": axes.variance_X}
    chosen, loss = choose_l2(rows, label, group, weight, penalties, **common)
    for problem in range(2):
        used = weight[problem] > 0
        folds = stratified_group_folds(label[used], group[used], num_folds=3, seed=5)
        for column, penalty in enumerate(penalties):
            total = 0.0
            for inner in range(3):
                train = np.flatnonzero(used)[folds != inner]
                held = np.flatnonzero(used)[folds == inner]
                own = rows[used].var(axis=0).sum()
                model = LogisticRegression(C=1 / penalty / own, max_iter=9999, tol=1e-9).fit(
                    rows[train], label[train]
                )
                total -= model.predict_log_proba(rows[held])[
                    np.arange(len(held)), label[held]
                ].sum()
            assert loss[problem, column] == pytest.approx(total / used.sum(), abs=0.01)
        assert chosen[problem] == penalties[loss[problem].argmin()]
    shuffled = np.where(weight[0] > 0, label, (label + 1) % 4)  # changes rows held out of problem 0
    again = choose_l2(rows, shuffled, group, weight[:1], penalties, **common)[1]
    np.testing.assert_allclose(again[0], loss[0], atol=1e-6)


def test_equal_features_are_an_error():
    with pytest.raises(UserError, match="same features"):
        principal_axes(np.ones((5, 3)))


def frozen(tiny_layout, output, said=None, **changes):
    settings = SMALL | {"data": str(tiny_layout), "output": str(output), "name": "frozen"} | changes
    return cross_validate(
        make_config(settings), say=(lambda _: None) if said is None else said.append
    )


@pytest.fixture(scope="module")
def run(tiny_layout, tmp_path_factory):
    return frozen(tiny_layout, tmp_path_factory.mktemp("frozen"), tta="hflip", head_l2="0.3")


def test_run_folder(run, alpha):
    assert {item.name for item in run.path.iterdir()} == {
        item.name for item in alpha.path.iterdir()
    } | {"backbone.safetensors"}
    assert list(run.oof.columns) == list(alpha.oof.columns)
    assert run.oof["image_id"].tolist() == alpha.oof["image_id"].tolist()
    assert run.oof["fold"].tolist() == alpha.oof["fold"].tolist()
    assert run.info["status"] == "done"
    assert "frozen backbone, one linear head per fold, L2 penalty 0.3, 0.3" in " ".join(
        (run.path / "report.txt").read_text().split()
    )
    assert json.loads((run.path / "fold_1" / "done.json").read_text())["l2"] == 0.3


def test_scores_and_settings_of_each_fold_reach_tensorboard(run):
    for fold in range(2):
        events = EventAccumulator(str(run.path / f"fold_{fold}" / "tb")).Reload()
        oof = pd.read_parquet(run.path / f"fold_{fold}" / "oof.parquet")
        label_N = oof["label"].to_numpy()
        proba_NC = softmax(run.logits(oof))
        expected = attribute_scores(label_N, proba_NC, run.attributes)
        score = METRICS["f1_macro"].score(label_N, proba_NC)
        expected |= {"val/f1_macro": score, "hparam/f1_macro": score}
        found = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
        assert {tag: [one.step for one in points] for tag, points in found.items()} == {
            tag: [0] for tag in expected
        }
        for tag, value in expected.items():
            assert found[tag][0].value == pytest.approx(value, abs=1e-6), tag
        settings = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
        assert b"head_l2" in settings


class FakeWandb:
    """Stands for the package wandb and for each of its runs, and keeps what it is given."""

    errors = SimpleNamespace(Error=LookupError)

    def __init__(self):
        self.runs = []

    def Settings(self, **options):  # noqa: N802
        return options

    def init(self, **options):
        self.runs.append(SimpleNamespace(options=options, logged=[], config={}, summary={}))
        run = self.runs[-1]
        run.define_metric = lambda *args, **options: None
        run.log = run.logged.append
        run.config = SimpleNamespace(update=lambda values, **options: None)
        run.finish = lambda exit_code: setattr(run, "code", exit_code)
        return run


def test_scores_reach_wandb_if_it_is_asked_for(run, tiny_layout, tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    again = frozen(tiny_layout, tmp_path, tta="hflip", head_l2="0.3", wandb=True)
    pd.testing.assert_frame_equal(again.oof, run.oof, check_exact=True)
    assert [one.options["name"] for one in fake.runs] == ["frozen/fold_0", "frozen/fold_1"]
    for fold, one in enumerate(fake.runs):
        [values] = one.logged
        done = json.loads((again.path / f"fold_{fold}" / "done.json").read_text())
        assert values["val/f1_macro"] == done["score"]
        assert one.summary == {"hparam/f1_macro": done["score"]}
        assert one.code == 0


def test_saved_weights_give_the_written_logits(run, tiny_layout):
    """Load backbone and head into an ordinary model, and read images one at a time."""
    state = safetensors.torch.load_file(run.path / "backbone.safetensors")
    state |= safetensors.torch.load_file(run.path / "fold_1" / "best.safetensors")
    model = build_model("test_efficientnet", num_classes=18, kwargs={}, weights=None).eval()
    model.load_state_dict(state, strict=True)
    rows = run.oof[run.oof["fold"] == 1].iloc[::9]
    images = [
        PREPROCESS.load(str(tiny_layout / "train" / "images" / name)) for name in rows["image_id"]
    ]
    with torch.inference_mode():
        pixels = PREPROCESS.normalise(torch.from_numpy(np.stack(images)))
        logits = (model(pixels) + model(pixels.flip(-1))) / 2
    np.testing.assert_allclose(logits.numpy(), run.logits(rows), atol=1e-4)


def naive_features(model, table, views, size=16):
    """Return the features of each view, batch by batch; the last batch is filled up."""
    images = np.stack([PREPROCESS.load(path) for path in table["path"]])
    parts = []
    for start in range(0, len(images), size):
        batch = images[start : start + size]
        batch = np.concatenate([batch, np.repeat(batch[-1:], size - len(batch), axis=0)])
        pixels = PREPROCESS.normalise(torch.from_numpy(batch)).contiguous(
            memory_format=torch.channels_last
        )
        parts.append(
            np.stack([model(VIEWS[view](pixels)).numpy() for view in views])[
                :, : len(images) - start
            ]
        )
    # scikit-learn would fit float32 features in float32.
    return np.concatenate(parts, axis=1).astype(np.float64)


@torch.inference_mode()
def test_logits_equal_those_of_a_naive_loop(run, tiny_layout):
    """Pass every image through the backbone for each fold, and fit with scikit-learn."""
    torch.set_num_threads(1)
    model = build_model("test_efficientnet", num_classes=18, kwargs={}, weights=None).eval()
    model.reset_classifier(0)
    model.load_state_dict(safetensors.torch.load_file(run.path / "backbone.safetensors"))
    model = model.to(memory_format=torch.channels_last)
    manifest = read_layout(tiny_layout)
    fold_N = run.oof.set_index("image_id").loc[manifest.train["image_id"], "fold"].to_numpy()
    label_N = manifest.train["label"].to_numpy()
    views = ("identity", "hflip")
    for fold in range(2):
        train = naive_features(model, manifest.train, views)
        test = naive_features(model, manifest.test, views)
        fitted = train[:, fold_N != fold]
        # The scale is that of the fold's training rows. With two views, each row counts half.
        scale = np.sqrt(fitted.reshape(-1, fitted.shape[-1]).var(axis=0).sum())
        head = LogisticRegression(C=1 / (2 * 0.3), max_iter=50_000, tol=1e-11)
        head.fit(np.concatenate(fitted) / scale, np.tile(label_N[fold_N != fold], 2))
        for features, found in (
            (train[:, fold_N == fold], run.oof[run.oof["fold"] == fold]),
            (test, run.test_fold(fold)),
        ):
            expected = head.decision_function(features.mean(0) / scale)
            ours = run.logits(found)[:, head.classes_]
            np.testing.assert_allclose(centred(ours), centred(expected), atol=1e-4)


def test_a_second_run_takes_all_features_from_the_cache(tiny_layout, tmp_path, monkeypatch):
    said = []
    cache = {"cache_dir": str(tmp_path / "cache")}
    one = frozen(tiny_layout, tmp_path / "one", said, **cache)
    assert "features: 126 x 256" in " ".join(said)
    speed = one.info["folds"][0]["infer_images_per_s"]
    # An image passes through the backbone once, for any number of heads.
    assert picture_seconds(one) == pytest.approx(1 / speed)
    del said[:]
    monkeypatch.setattr("pipeline.frozen.features.Features._compute", None)
    two = frozen(tiny_layout, tmp_path / "two", said, **cache)
    assert "126 of them from the cache" in " ".join(said)
    pd.testing.assert_frame_equal(one.oof, two.oof, check_exact=True)
    # The speed is the one that the first run measured.
    assert [fold["infer_images_per_s"] for fold in two.info["folds"]] == [speed] * 2
    [kept] = (tmp_path / "cache" / "features").glob("*/speed.json")
    assert json.loads(kept.read_text())["pictures"] == 128  # nine full batches, the first not timed
    kept.unlink()  # as with features of an earlier version
    three = frozen(tiny_layout, tmp_path / "three", folds=3, repeats=2, head_l2="0.5,0.1", **cache)
    assert len(three.oof) == 168
    assert picture_seconds(three) is None
    assert not list((tmp_path / "cache" / "pictures").glob("*")), (
        "images that are read once are not kept"
    )


def test_features_do_not_depend_on_other_images_or_order(tiny_layout, tmp_path):
    """Cached features of another run must equal those that would be computed."""
    manifest, _ = load_data(DataConfig(data=str(tiny_layout)), lambda _: None)
    changes = {
        "img_size": 32,
        "backbone": "test_efficientnet",
        "validation_batch_size": 16,
        "cache": "off",
    }
    job = fake_job(tmp_path, print, manifest=manifest, num_folds=2, **changes)
    features = Features(job, Backbone(job))
    whole = features.of(manifest.train, "hflip")
    for rows in (slice(0, 7), slice(40, 61), slice(None, None, -1)):
        np.testing.assert_array_equal(features.of(manifest.train.iloc[rows], "hflip"), whole[rows])


def test_unfinished_folds_are_bit_equal(run, tiny_layout, tmp_path):
    folder = shutil.copytree(run.path, tmp_path / "frozen")
    (folder / "fold_1" / "done.json").unlink()
    before = (folder / "fold_0" / "done.json").read_bytes()
    again = frozen(tiny_layout, tmp_path, tta="hflip", head_l2="0.3")
    pd.testing.assert_frame_equal(again.oof, run.oof, check_exact=True)
    pd.testing.assert_frame_equal(again.test, run.test, check_exact=True)
    assert (folder / "fold_0" / "done.json").read_bytes() == before


@pytest.mark.slow
def test_augmented_copies_and_crops_change_the_heads(tiny_layout, tmp_path):
    runs = [
        frozen(tiny_layout, tmp_path, name=name, head_l2="0.3", **changes)
        for name, changes in {
            "plain": {},
            "copies": {"feature_views": 2},
            "crops": {"feature_views": 1, "crop_pct": 0.8},
            "again": {"feature_views": 2, "cache": "off"},
        }.items()
    ]
    assert len({run.logits(run.oof).tobytes() for run in runs}) == 3
    np.testing.assert_array_equal(runs[1].logits(runs[1].oof), runs[3].logits(runs[3].oof))


def test_held_out_features_have_no_influence(tmp_path):
    """Shifting the rows that a problem does not use leaves its logits unchanged."""
    features, label, group = simulate()
    weight = (group % 3 != 0).astype(float)[None]
    heads = []
    for moved in (0.0, 50.0):
        other = features + moved * (weight[0] == 0)[:, None]
        axes = principal_axes(other)
        rows = axes.of(other)
        common = {"num_classes": 4, "variance_X": axes.variance_X}
        l2, _ = choose_l2(rows, label, group, weight, (1.0, 0.1), seed=0, **common)
        fitted = fit_heads(rows, label, weight, l2 * own_scales(rows, weight), **common)
        heads.append(centred(fitted.logits(rows[weight[0] > 0], 0)))
    np.testing.assert_allclose(heads[0], heads[1], atol=1e-4)


def test_corrections_repeats_boxes_and_no_test_set(tiny_layout, tmp_path, cv_command):
    manifest = read_layout(tiny_layout)
    table = pd.DataFrame(
        {
            "file": manifest.train["path"],
            "kind": manifest.train["label"] % 3,
            "who": manifest.train["group"],
        }
    ).assign(x1=10, y1=20, x2=300, y2=400)
    table.to_csv(tmp_path / "table.csv", index=False)
    name = manifest.train["path"][5]
    (tmp_path / "mend.csv").write_text(
        f"target,field,value\n{name},label,{(table['kind'][5] + 1) % 3}\n"
    )
    done = cv_command(
        "--csv",
        tmp_path / "table.csv",
        "--image-col",
        "file",
        "--label-col",
        "kind",
        "--group-col",
        "who",
        "--box-cols",
        "x1,y1,x2,y2",
        "--corrections",
        tmp_path / "mend.csv",
        "--repeats",
        "2",
        "--finetune",
        "head",
        "--backbone",
        "test_efficientnet",
        "--output",
        tmp_path,
        "--name",
        "run",
        *TINY,
    )
    assert done.code == 0, done.err
    run = Run(tmp_path / "run")
    assert len(run.oof) == 2 * len(table)
    assert run.oof.groupby("repeat").size().tolist() == [len(table)] * 2
    assert (run.oof["label"] != run.oof["label_raw"]).sum() == 2
    assert [fold["repeat"] for fold in run.info["folds"]] == [0, 0, 1, 1]
    assert run.test is None


def test_equal_penalties_are_merged():
    assert parse_l2("10,0.1,1e-1") == (10.0, 0.1)


@pytest.mark.slow
def test_frozen_and_trained_runs_blend(run, alpha, tmp_path, blend_command):
    done = blend_command(alpha.path, run.path, "--output", tmp_path)
    assert done.code == 0, done.err
    assert "frozen" in done.out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["--head-l2", "0"], ["--head-l2 0", "positive"]),
        (["--head-l2", "a,b"], ["--head-l2 a,b"]),
        (["--feature-views", "-1"], ["--feature-views -1"]),
        (["--crop-pct", "1.2"], ["--crop-pct 1.2"]),
        (["--parallel-folds", "some"], ["--parallel-folds some", "auto"]),
    ],
)
def test_bad_settings(changes, words, tiny_layout, tmp_path, cv_command):
    argv = [
        "--data",
        tiny_layout,
        "--output",
        tmp_path,
        "--finetune",
        "head",
        "--backbone",
        "test_efficientnet",
        *TINY,
    ]
    cv_command(*argv, *changes).assert_one_line_error(*words)
    assert not [*tmp_path.iterdir()]


def test_a_backbone_without_a_single_linear_head_is_an_error(tiny_layout, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "timm.models.efficientnet.EfficientNet.get_classifier", lambda self: (self.classifier,) * 2
    )
    with pytest.raises(UserError, match="does not end in one linear layer; pass --finetune full"):
        frozen(tiny_layout, tmp_path)
