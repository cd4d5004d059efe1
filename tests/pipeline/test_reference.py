"""Comparison of new images with the training images: distances, and the file in a run folder."""

from __future__ import annotations

import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
import safetensors.numpy

import foldblend as fb
import predict as predict_script
from foldblend.errors import UserError
from foldblend.runs.folder import PICTURES, lock_folder, write_table
from pipeline.predict import reference as module
from pipeline.predict.compare import (
    REFERENCE,
    add_reference,
    keep_reference,
    rows_of_fold,
    watched_of,
)
from pipeline.predict.inputs import Inputs
from pipeline.predict.nets import Net
from pipeline.predict.open import open_predictor
from pipeline.predict.reference import Reference, choose_rows, differences, make_reference
from pipeline.predict.stream import Stream
from pipeline.predict.weights import FolderWeights
from tests.makers.edits import rehash


def quiet(_):
    pass


def clusters(rng, num, centre_CD):
    """Return features of classes that are Gaussian around their centres."""
    centres_ND = centre_CD[rng.integers(0, len(centre_CD), num)]
    return centres_ND + rng.normal(0, 0.3, centres_ND.shape)


@pytest.mark.parametrize("num_features", [8, 64, 300])
def test_percentiles_of_images_like_the_held_out_ones_are_even(num_features):
    rng = np.random.default_rng(num_features)
    centre_CD = rng.normal(0, 1, (5, num_features))
    train_ND, held_ND, new_ND = (clusters(rng, num, centre_CD) for num in (1500, 800, 800))
    reference = make_reference(train_ND, held_ND, np.ones((1500, 3)))
    found_N = reference.percentile(new_ND)
    # The standard error of the mean is 29 / sqrt(400) = 1.4, and that of a decile is 1.5.
    assert abs(found_N.mean() - 50) < 5
    share_T = np.histogram(found_N, np.linspace(0, 100.1, 11))[0] / len(found_N)
    assert np.abs(share_T - 0.1).max() < 0.06
    assert (reference.percentile(held_ND) < 100).all()


@pytest.mark.parametrize("num_features", [8, 64, 300])
def test_images_of_another_kind_have_the_percentile_100(num_features):
    rng = np.random.default_rng(num_features)
    centre_CD = rng.normal(0, 1, (5, num_features))
    reference = make_reference(
        clusters(rng, 1500, centre_CD), clusters(rng, 800, centre_CD), np.ones((1500, 3))
    )
    shifted_ND = clusters(rng, 50, -2 * centre_CD[:1])
    assert (reference.percentile(shifted_ND) == 100).all()


def test_what_no_axis_shows_counts_too():
    """Training images use 64 of 300 features; images that use others are far from them all."""
    rng = np.random.default_rng(0)
    scale_D = np.where(np.arange(300) < 64, 1, 0)

    def drawn(num, scale_D):
        return 1 + rng.normal(0, 1, (num, 300)) * scale_D

    reference = make_reference(drawn(500, scale_D), drawn(300, scale_D), np.ones((500, 3)))
    assert (reference.percentile(drawn(50, 1 - scale_D)) == 100).all()
    assert 30 < reference.percentile(drawn(300, scale_D)).mean() < 70


def test_length_of_features_does_not_count():
    rng = np.random.default_rng(0)
    train_ND = rng.normal(size=(40, 6))
    reference = make_reference(train_ND, train_ND[:9] + 0.1, np.ones((40, 3)))
    new_ND = rng.normal(size=(7, 6))
    np.testing.assert_allclose(
        reference.distances(new_ND), reference.distances(new_ND * 37), rtol=1e-4
    )
    assert np.isfinite(reference.distances(np.zeros((1, 6)))).all()


def test_distances_are_those_to_the_nearest_rows():
    rng = np.random.default_rng(0)
    train_ND = rng.normal(size=(60, 12))
    new_ND = rng.normal(size=(9, 12))
    reference = make_reference(train_ND, new_ND, np.ones((60, 3)))
    unit_ND, at_ND = (
        one / np.linalg.norm(one, axis=1, keepdims=True) for one in (train_ND, new_ND)
    )
    each_NM = np.linalg.norm(at_ND[:, None] - unit_ND, axis=2)
    expected_N = np.sort(each_NM, axis=1)[:, : module.NEIGHBOURS].mean(axis=1)
    # All 12 axes are kept, in half precision.
    np.testing.assert_allclose(reference.distances(new_ND), expected_N, atol=2e-3)
    np.testing.assert_allclose(reference.distance_N, np.sort(expected_N), atol=2e-3)


def test_few_images():
    rng = np.random.default_rng(0)
    one = make_reference(rng.normal(size=(1, 5)), np.empty((0, 5)), np.ones((1, 3)))
    assert one.percentile(rng.normal(size=(3, 5))).tolist() == [0, 0, 0]
    assert one.percentile(np.empty((0, 5))).shape == (0,)


def test_arrays_hold_the_reference():
    rng = np.random.default_rng(0)
    made = make_reference(
        rng.normal(size=(300, 200)), rng.normal(size=(50, 200)), rng.random((300, 3))
    )
    arrays = made.as_arrays()
    assert arrays["axes_DX"].shape == (200, 64)
    assert arrays["rows_NX"].shape == (300, 64)
    assert arrays["axes_DX"].dtype == arrays["rows_NX"].dtype == np.float16
    data = safetensors.numpy.save(arrays)
    again = Reference.from_arrays(safetensors.numpy.load(data))
    new_ND = rng.normal(size=(20, 200))
    np.testing.assert_array_equal(again.percentile(new_ND), made.percentile(new_ND))
    np.testing.assert_array_equal(again.look_3X, made.look_3X)
    with pytest.raises(LookupError):
        Reference.from_arrays({name: arrays[name] for name in list(arrays)[1:]})


@pytest.mark.parametrize("seed", range(20))
def test_rows_are_from_as_many_groups_as_possible(seed):
    rng = np.random.default_rng(seed)
    group_N = np.array([f"g{one}" for one in rng.zipf(1.5, rng.integers(1, 200)).clip(0, 30)])
    most = int(rng.integers(1, 220))
    chosen_N = choose_rows(group_N, most)
    assert len(chosen_N) == min(most, len(group_N))
    assert (np.diff(chosen_N) > 0).all()
    names, size_G = np.unique(group_N, return_counts=True)
    count_G = np.array([(group_N[chosen_N] == one).sum() for one in names])
    assert (count_G > 0).sum() == min(most, len(names))
    # A group has fewer rows than another only if it has no more, or by one.
    assert (count_G >= np.minimum(size_G, count_G.max() - 1)).all()
    np.testing.assert_array_equal(chosen_N, choose_rows(group_N, most))


def test_at_most_5000_rows_are_compared():
    rng = np.random.default_rng(0)
    fold_N = rng.integers(0, 5, 20_000)
    train_N, held_N = rows_of_fold(fold_N, rng.integers(0, 900, 20_000))
    assert len(train_N) + len(held_N) <= 5000
    assert (fold_N[held_N] == 0).all()
    assert (fold_N[train_N] != 0).all()


def test_sentences_on_how_images_differ():
    rng = np.random.default_rng(0)
    look_N3 = np.column_stack(
        [rng.uniform(0.3, 0.7, 500), rng.integers(90, 110, 500), rng.integers(190, 210, 500)]
    )
    features_ND = rng.normal(size=(500, 4))
    reference = make_reference(features_ND, features_ND, look_N3)
    even_N = np.linspace(0, 100, 200)
    assert differences(reference, even_N, look_N3) == []
    (line,) = differences(reference, np.where(even_N > 50, 100, even_N), look_N3)
    words = "50 % of the images are further from the training images than 99 % of held-out images"
    assert line == f"{words} are"
    (line,) = differences(reference, even_N, look_N3 * [0.1, 1, 1])
    middle = np.median(look_N3[:, 0])
    words = f"their brightness is {middle / 10:.2f} (median), and {middle:.2f} in training"
    assert line == f"{words} (0 is black, 1 is white)"
    (line,) = differences(reference, even_N, look_N3[:, [0, 2, 1]])
    width, height = np.median(look_N3[:, 1:], axis=0).round().astype(int)
    assert line == (
        f"their size is {height}x{width} pixels (median), and {width}x{height} in training"
    )
    assert len(differences(reference, even_N + 100, look_N3 * 3)) == 3


@pytest.fixture(scope="module")
def outputs(tiny_runs, tiny_layout, tmp_path_factory):
    """Return a folder with the runs alpha, beta and frozen."""
    made = tmp_path_factory.mktemp("odd") / "outputs"
    shutil.copytree(tiny_runs, made)
    fb.cross_validate(
        data=str(tiny_layout),
        output=str(made),
        img_size="32",
        pretrained="none",
        workers=0,
        threads=1,
        page=False,
        backbone="test_efficientnet",
        finetune="head",
        folds=2,
        name="frozen",
        say=quiet,
    )
    return made


@pytest.fixture
def copy(outputs, tmp_path):
    """Return a copy that a test may damage."""
    return shutil.copytree(outputs, tmp_path / "outputs")


@pytest.fixture
def images(tiny_layout):
    """Return the paths of the test images."""
    return [str(one) for one in sorted((tiny_layout / "eval" / "images").iterdir())]


@pytest.mark.parametrize("name", ["alpha", "beta", "frozen"])
def test_runs_keep_their_reference(outputs, name, tmp_path):
    arrays = safetensors.numpy.load_file(outputs / name / REFERENCE)
    assert arrays["rows_NX"].dtype == arrays["axes_DX"].dtype == np.float16
    # Two folds of 42 images.
    assert len(arrays["rows_NX"]) == len(arrays["distance_N"]) == 42
    assert arrays["axes_DX"].shape[1] <= 64
    run = shutil.copytree(outputs / name, tmp_path / name)
    (run / REFERENCE).unlink()
    made = add_reference(FolderWeights(run), say=quiet)
    for key, values in made.as_arrays().items():
        np.testing.assert_allclose(
            values.astype(float), arrays[key].astype(float), atol=1e-3, err_msg=key
        )
    assert (run / REFERENCE).is_file()


@pytest.mark.parametrize("name", ["alpha", "beta", "frozen"])
def test_features_seen_during_prediction_are_the_models_own(outputs, images, name):
    predictor = open_predictor(outputs / name, say=quiet)
    stream = Stream(predictor.root, say=quiet)
    watched = watched_of(predictor, stream, say=quiet)
    stream.watch(watched.key)
    (block,) = stream.blocks(Inputs(images, images))
    found_ND = stream.predict(block, images).features_ND
    net = stream.nets[watched.key]
    stored = block.stored[net.recipe.look]
    np.testing.assert_array_equal(found_ND, net.penultimate(stored, images, {}))
    assert len(found_ND) == len(images)
    # They are those before the classifier: the first model's logits follow from them.
    if name != "frozen":
        head = net.use(0).get_classifier()
        linear = next(one for one in head.modules() if hasattr(one, "weight"))
        weight_DC = linear.weight.detach().numpy().T
        assert found_ND.shape[1] == len(weight_DC)
    stream.watch(None)
    (block,) = stream.blocks(Inputs(images[:3], images[:3]))
    assert stream.predict(block, images[:3]).features_ND is None


def test_watching_leaves_predictions_as_they_are(outputs, images):
    for name in ("alpha", "beta", "frozen"):
        table = fb.predict(outputs / name, images, say=quiet)
        plain = fb.predict(outputs / name, images, odd=False, say=quiet)
        assert "odd" in table
        assert "odd" not in plain
        np.testing.assert_array_equal(
            table.drop(columns="odd").to_numpy(), plain.to_numpy(), err_msg=name
        )


def test_noise_is_odder_than_test_images(outputs, images):
    rng = np.random.default_rng(0)
    # Blocks, because the noise of single pixels is grey once it is scaled down.
    noise = [
        cv2.resize(rng.integers(0, 256, (32, 32, 3), np.uint8), (96, 128), interpolation=0)
        for _ in range(20)
    ]
    for name in ("alpha", "beta", "frozen"):
        odd = fb.predict(outputs / name, noise, say=quiet)["odd"]
        assert odd.mean() > fb.predict(outputs / name, images, say=quiet)["odd"].mean() + 15, name
        assert odd.between(0, 100).all()


def test_a_batch_that_differs_gets_a_line(outputs):
    said = []
    fb.predict(outputs / "alpha", [np.zeros((30, 40, 3), np.uint8)], say=said.append)
    (line,) = [one for one in said if "brightness is 0.00" in one]
    assert line.startswith("warning: ")
    assert any("size is 40x30" in one for one in said)


def test_old_runs_get_their_reference_at_the_first_prediction(copy, images):
    expected = fb.predict(copy / "alpha", images, say=quiet)["odd"]
    data = (copy / "alpha" / REFERENCE).read_bytes()
    (copy / "alpha" / REFERENCE).unlink()
    again = fb.predict(copy / "alpha", images, say=quiet)["odd"]
    np.testing.assert_array_equal(again, expected)
    assert (copy / "alpha" / REFERENCE).read_bytes() == data


@pytest.mark.parametrize("damage", ["other weights", "no file of this kind", "a wrong bit"])
def test_a_reference_that_does_not_fit_is_made_again(copy, damage):
    file = copy / "beta" / REFERENCE
    data = file.read_bytes()
    if damage == "other weights":
        rng = np.random.default_rng(0)
        other = make_reference(rng.normal(size=(9, 4)), rng.normal(size=(9, 4)), np.ones((9, 3)))
        keep_reference(file.parent, "other", other)
    elif damage == "a wrong bit":
        file.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    else:
        file.write_bytes(data[:50])
    add_reference(FolderWeights(file.parent), say=quiet)
    assert file.read_bytes() == data


def test_without_training_images_predictions_lack_the_column(copy, images, tmp_path, command_of):
    for name in ("alpha", "frozen"):
        file = copy / name / PICTURES
        table = pd.read_parquet(file)
        table["path"] = "/gone" + table["path"]
        write_table(file, table)
        rehash(file)
        # A reference that is there needs no images.
        assert "odd" in fb.predict(copy / name, images, say=quiet)
        (copy / name / REFERENCE).unlink()
        done = command_of(predict_script.main)(copy / name, *images)
        assert done.code == 0, done.err
        (line,) = [one for one in done.err.splitlines() if "gone" in one]
        assert "its training images are gone" in line
        assert ",odd," not in done.out.splitlines()[0]
        assert not (copy / name / REFERENCE).exists()


def test_a_folder_in_use_goes_without_the_file(copy, images):
    (copy / "beta" / REFERENCE).unlink()
    with lock_folder(copy / "beta"):
        assert "odd" in fb.predict(copy / "beta", images, say=quiet)
        assert not (copy / "beta" / REFERENCE).exists()


def test_models_without_one_linear_layer_are_said(copy, images, monkeypatch):
    def refuses(*_):
        raise UserError("own:Net does not end in one linear layer")

    (copy / "beta" / REFERENCE).unlink()
    monkeypatch.setattr(Net, "penultimate", refuses)
    said = []
    assert "odd" not in fb.predict(copy / "beta", images, say=said.append)
    assert sum("does not end in one linear layer" in one for one in said) == 1


def test_blends_and_files_compare_with_the_member_of_the_greatest_share(copy, images, tmp_path):
    members = [copy / "alpha", copy / "beta"]
    blend = fb.blend(members, weights=[1, 3], name="both", page=False, say=quiet)
    expected = fb.predict(copy / "beta", images, say=quiet)["odd"]
    np.testing.assert_array_equal(fb.predict(blend, images, say=quiet)["odd"], expected)
    file = fb.export_model(blend, tmp_path / "both.zip", say=quiet)
    np.testing.assert_array_equal(fb.predict(file, images, say=quiet)["odd"], expected)


def test_one_folds_models(outputs, images):
    expected = fb.predict(outputs / "beta", images, say=quiet)["odd"]
    first = fb.predict(outputs / "beta", images, folds="0", say=quiet)["odd"]
    np.testing.assert_array_equal(first, expected)
    said = []
    assert "odd" not in fb.predict(outputs / "beta", images, folds="1", say=said.append)
    assert sum("without fold 0" in one for one in said) == 1


def test_no_odd_makes_no_reference(copy, images):
    (copy / "alpha" / REFERENCE).unlink()
    assert "odd" not in fb.predict(copy / "alpha", images, odd=False, say=quiet)
    assert not (copy / "alpha" / REFERENCE).exists()
