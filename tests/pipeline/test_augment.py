"""Augmentation on the device, against known answers and libraries for the CPU."""

import colorsys

import albumentations.augmentations.pixel.functional as colour
import cv2
import numpy as np
import pytest
import torch

from folds.data.demo_faces import draw_image, make_person
from pipeline.config.settings import make_config
from pipeline.data.augment import Recipe
from pipeline.data.colours import change_colours, colour_maps
from pipeline.data.device_augment import DeviceAugmentation, _grid, device_augmentation
from pipeline.data.preprocess import Preprocess
from pipeline.device import Compute
from pipeline.seeding import derive_rng
from pipeline.training.fit import Fit
from pipeline.training.mixing import Mixing, erase
from tests.makers.traffic import Traffic

STILL = {"flip": 0.0, "affine": 0.0, "colour": 0.0}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
# Its standardised pixels are in 0..255.
RAW = Preprocess(width=30, height=40, mean=(0.0,) * 3, std=(1 / 255,) * 3)
CHANNELS_LAST = torch.channels_last
CPU = Compute(torch.device("cpu"), None, CHANNELS_LAST)


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (6, 40, 30, 3), dtype=np.uint8)
    return np.stack([cv2.GaussianBlur(one, (0, 0), 2) for one in noise])


@pytest.fixture(scope="module")
def faces():
    rng = np.random.default_rng(0)
    people = [make_person(rng, male=index % 2 == 0, age=20 + 5 * index) for index in range(8)]
    drawn = [draw_image(one, rng, mask="none") for one in people]
    return np.stack([cv2.resize(one, (96, 128), interpolation=cv2.INTER_AREA) for one in drawn])


def as_pixels(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2).float()


def as_images(pixels):
    return pixels.permute(0, 2, 3, 1).numpy()


def rng(seed=0):
    return np.random.default_rng(seed)


def augmented(images, recipe, *, seed=0, preprocess=RAW):
    return as_images(DeviceAugmentation(recipe, preprocess)(torch.from_numpy(images), rng(seed)))


def jitter(images, factors, turns):
    return as_images(change_colours(as_pixels(images), factors, turns, RAW))


def albumentations_jitter(image, factors, turn):
    image = colour.adjust_brightness_torchvision(image, factors[0])
    image = colour.adjust_contrast_torchvision(image, factors[1])
    image = colour.adjust_saturation_torchvision(image, factors[2])
    return colour.adjust_hue_torchvision(image, turn)


def test_without_changes_the_images_are_returned(images):
    plain = torch.from_numpy(images)
    preprocess = Preprocess(width=30, height=40, **IMAGENET)
    none = device_augmentation("none", preprocess)(plain, rng())
    assert torch.equal(none, preprocess.normalise(plain))
    np.testing.assert_allclose(augmented(images, Recipe(**STILL)), images, atol=1e-2)


def test_flip_mirrors_whole_images(images):
    flipped = augmented(images, Recipe(**STILL | {"flip": 1.0}))
    np.testing.assert_allclose(flipped, images[:, :, ::-1], atol=1e-2)
    many = np.repeat(images, 40, 0)
    half = augmented(many, Recipe(**STILL | {"flip": 0.5}))
    changed = np.abs(half - many).max((1, 2, 3)) > 1
    assert 0.4 < changed.mean() < 0.6


def test_crops_are_windows_of_the_stored_image(images):
    small = Preprocess(width=24, height=32, mean=RAW.mean, std=RAW.std)
    crops = augmented(np.repeat(images[:1], 60, 0), None, preprocess=small)
    windows = np.stack(
        [images[0, y : y + 32, x : x + 24] for y in range(9) for x in range(7)]
    ).astype(float)
    nearest = [np.abs(windows - crop).max((1, 2, 3)) for crop in crops]
    assert max(one.min() for one in nearest) < 0.05
    assert len({int(one.argmin()) for one in nearest}) > 30


def test_affine_equals_opencv(images):
    """Scale, rotation and shift about the centre, with pixel centres at half coordinates."""
    ours = augmented(images, Recipe(**STILL | {"affine": 1.0}), seed=5)
    generator = rng(5)
    generator.integers(1, size=6), generator.integers(1, size=6), generator.random(6)
    angle = np.radians(generator.uniform(-12, 12, 6))
    scale = generator.uniform(0.9, 1.1, (2, 6))
    shift = generator.uniform(-0.06, 0.06, (2, 6)) * [[30], [40]]
    for index, image in enumerate(images):
        cos = np.cos(angle[index])
        sin = np.sin(angle[index])
        turn = np.array([[cos, -sin], [sin, cos]]) @ np.diag(scale[:, index])
        centre = np.array([14.5, 19.5])
        forward = np.column_stack([turn, centre + shift[:, index] - turn @ centre])
        theirs = cv2.warpAffine(
            image.astype(np.float32), forward, (30, 40), borderMode=cv2.BORDER_REFLECT
        )
        assert np.abs(ours[index] - theirs)[2:-2, 2:-2].mean() < 0.5
    assert np.abs(ours - images).mean() > 3


@pytest.mark.parametrize(
    ("row", "theirs"),
    [
        (0, colour.adjust_brightness_torchvision),
        (1, colour.adjust_contrast_torchvision),
        (2, lambda image, factor: colour.adjust_saturation_torchvision(image, factor)),
    ],
)
def test_one_change_equals_that_of_albumentations(images, row, theirs):
    factors = np.ones((3, 6), np.float32)
    factors[row] = np.linspace(0.8, 1.2, 6)
    ours = jitter(images, factors, np.zeros(6))
    for index, image in enumerate(images):
        assert np.abs(ours[index] - theirs(image, factors[row, index])).max() < 2.1
    assert np.abs(ours[0] - images[0]).mean() > 1


def test_all_changes_are_close_to_those_of_albumentations(faces):
    """The difference is below an eighth of the change itself."""
    generator = rng()
    factors = generator.uniform(0.8, 1.2, (3, len(faces)))
    turns = generator.uniform(-0.02, 0.02, len(faces))
    ours = jitter(faces, factors, turns)
    theirs = np.stack(
        [
            albumentations_jitter(image, factors[:, index], turns[index])
            for index, image in enumerate(faces)
        ]
    ).astype(float)
    difference = np.abs(ours - theirs)
    assert difference.mean() < 2
    assert np.percentile(difference, 99) < 8
    assert difference.mean() < 0.125 * np.abs(theirs - faces).mean()


def test_hue_turns_as_in_albumentations(faces):
    """By about as much and in the same direction, though HSV moves a single channel of a pixel."""
    turns = np.tile([0.02, -0.02], len(faces) // 2)
    ours, opposite = (jitter(faces, np.ones((3, len(faces))), one) for one in (turns, -turns))
    theirs = np.stack(
        [colour.adjust_hue_torchvision(*pair) for pair in zip(faces, turns, strict=True)]
    ).astype(float)
    assert np.percentile(np.abs(ours - theirs), 99) < 10
    assert np.abs(ours - theirs).mean() < 2.5
    assert np.abs(ours - theirs).mean() < 0.5 * np.abs(opposite - theirs).mean()


def test_thirds_of_a_turn_are_those_of_hsv(images):
    turns = np.array([-1, -2 / 3, -1 / 3, 0, 1 / 3, 2 / 3])
    ours = jitter(images, np.ones((3, 6)), turns)
    for index, image in enumerate(images / 255):
        hsv = np.array([colorsys.rgb_to_hsv(*one) for one in image.reshape(-1, 3)])
        turned = [colorsys.hsv_to_rgb((h + turns[index]) % 1, s, v) for h, s, v in hsv]
        np.testing.assert_allclose(ours[index].reshape(-1, 3), 255 * np.array(turned), atol=1e-3)


def test_maps_are_the_steps_one_after_the_other():
    """Brightness, contrast about the mean, saturation about each grey, hue about the grey axis."""
    generator = rng()
    factors = generator.uniform(0.8, 1.2, (3, 5))
    turns = generator.uniform(-0.5, 0.5, 5)
    matrix_N33, weight_N = colour_maps(factors, turns)
    grey = np.array([0.299, 0.587, 0.114])
    for index in range(5):
        brightness, contrast, saturation = factors[:, index]
        pixels = generator.uniform(0, 255, (50, 3))
        mean = (pixels @ grey).mean()
        ours = pixels @ matrix_N33[index].T + weight_N[index] * mean
        pixels = pixels * brightness
        pixels = contrast * pixels + (1 - contrast) * (pixels @ grey).mean()
        pixels = saturation * pixels + (1 - saturation) * (pixels @ grey)[:, None]
        axis, _ = cv2.Rodrigues(np.full(3, 2 * np.pi * turns[index] / np.sqrt(3)))
        np.testing.assert_allclose(ours, pixels @ axis.T, atol=1e-9)


def test_greys_stay_grey():
    greys = np.repeat(np.arange(0, 240, 12, dtype=np.uint8), 3).reshape(1, 4, 5, 3)
    turned = jitter(greys, np.array([[1.0], [1.0], [1.2]]), np.array([0.3]))
    np.testing.assert_allclose(turned, greys, atol=1e-3)


def test_the_result_is_standardised(images):
    preprocess = Preprocess(width=30, height=40, **IMAGENET)
    raw, ours = (
        DeviceAugmentation(Recipe(), one)(torch.from_numpy(images), rng())
        for one in (RAW, preprocess)
    )
    torch.testing.assert_close(ours, preprocess.standardise(raw), rtol=0, atol=1e-5)


def test_colours_stay_within_the_range_of_pixels():
    """Black, white and pure red, with each factor at its largest."""
    colours = torch.tensor([[0.0, 0, 0], [255, 255, 255], [255, 0, 0], [90, 90, 90]])
    preprocess = Preprocess(width=2, height=2, **IMAGENET)
    pixels = colours.T.reshape(1, 3, 2, 2)
    changed = change_colours(pixels, np.full((3, 1), 1.2), np.full(1, 0.02), preprocess)
    back = preprocess.to_images(changed).reshape(4, 3)
    bounds = preprocess.standardise(torch.tensor([0.0, 255]).view(2, 1, 1, 1)).expand(2, 3, 1, 1)
    assert back[0].tolist() == [0, 0, 0]
    assert back[1].tolist() == [255, 255, 255]
    assert back[2][0] == 255
    assert torch.equal(changed.amin((0, 2, 3)), bounds[0].flatten())
    assert torch.equal(changed.amax((0, 2, 3)), bounds[1].flatten())


@pytest.mark.parametrize("recipe", ["default", "none"])
@pytest.mark.parametrize("width", [24, 30])
def test_layouts_have_equal_values(images, recipe, width):
    preprocess = Preprocess(width=width, height=40, **IMAGENET)
    plain, last = (
        device_augmentation(recipe, preprocess, layout)(torch.from_numpy(images), rng())
        for layout in (torch.contiguous_format, CHANNELS_LAST)
    )
    assert plain.is_contiguous()
    assert last.is_contiguous(memory_format=CHANNELS_LAST)
    assert torch.equal(plain, last)


def test_erasing_keeps_the_layout(images):
    pixels = as_pixels(images).contiguous(memory_format=CHANNELS_LAST)
    erased = erase(pixels, 0.5, rng())
    assert erased.is_contiguous(memory_format=CHANNELS_LAST)
    assert torch.equal(erased, erase(pixels.contiguous(), 0.5, rng()))
    assert not torch.equal(erased, pixels)


@pytest.mark.parametrize("setting", [{"mixup": 0.5}, {"cutmix": 1.0}])
def test_standardised_images_mix_like_raw_ones(images, setting):
    preprocess = Preprocess(width=30, height=40, **IMAGENET)
    mixing = Mixing.of(make_config(setting).augment, np.ones(3))
    labels = np.arange(6) % 3
    pixels = as_pixels(images)
    raw, raw_shares = mixing(pixels, labels, rng())
    ours, shares = mixing(preprocess.standardise(pixels), labels, rng())
    assert not torch.equal(raw, pixels)
    torch.testing.assert_close(ours, preprocess.standardise(raw), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(shares, raw_shares)


def test_places_equal_those_of_torch():
    theta = torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(0))
    theirs = torch.nn.functional.affine_grid(theta, [3, 3, 7, 5], align_corners=False)
    torch.testing.assert_close(_grid(theta, 5, 7), theirs)


def test_depends_only_on_the_generator(images):
    augment = device_augmentation("default", RAW)
    one, again, other = (augment(torch.from_numpy(images), rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_seeds_draw_what_they_drew_in_earlier_versions():
    augment = DeviceAugmentation(Recipe(), RAW)
    generator = rng(7)
    theta = augment.placement(3, (34, 44), generator)
    factors, turns = augment.colours(3, generator)
    np.testing.assert_allclose(
        theta[1],
        [[0.9102347, 0.1642959, -0.0832038], [-0.0924819, 0.9108794, -0.1112824]],
        atol=1e-6,
    )
    np.testing.assert_allclose(factors[:, 1], [1.0516905, 0.8990059, 1.0768129], atol=1e-6)
    np.testing.assert_allclose(turns, [-0.0052185, -0.0198506, 0.0132019], atol=1e-7)


@pytest.mark.parametrize(
    ("work", "num"),
    [
        (lambda one, other: one + other, 12_000),
        (lambda one, other: one.add_(other), 12_000),
        (lambda one, other: one + other[:1, :1], 8_004),
        (lambda one, other: torch.add(one, other, out=torch.empty_like(one)), 12_000),
        (lambda one, other: one.copy_(other), 8_000),
        (lambda one, other: one.to(torch.uint8), 5_000),
        (lambda one, other: torch.cat([one, other]), 16_000),
        (lambda one, other: one.expand(5, 10, 100).sum(), 4_004),
        (lambda one, other: one.view(-1)[5:].unsqueeze(0).T, 0),
    ],
)
def test_traffic_of_known_operations(work, num):
    for device in ("cpu", "meta"):
        one, other = torch.zeros(2, 10, 100, device=device)
        with Traffic() as traffic:
            work(one, other)
        assert sum(traffic.bytes.values()) == num
        assert sum(traffic.operations.values()) == (num > 0)


def test_traffic_of_augmentation():
    """A batch of 256 at 224, cropped from 256: 2.25 GB, of which the colours are 1.4 GB."""
    preprocess = Preprocess(width=224, height=224, crop_pct=0.875, **IMAGENET)
    augment = device_augmentation("default", preprocess, CHANNELS_LAST)
    images = torch.empty((256, 256, 256, 3), dtype=torch.uint8, device="meta")
    augment(images, rng())
    with Traffic() as traffic:
        pixels = augment(images, rng())
    assert pixels.shape == (256, 3, 224, 224)
    assert pixels.is_contiguous(memory_format=CHANNELS_LAST)
    assert sum(traffic.bytes.values()) < 2.3e9
    assert sum(traffic.operations.values()) < 25
    # A matrix product may be rounded by TF32.
    assert not [name for name in traffic.operations if "mm" in name or "conv" in name]


@pytest.mark.parametrize("on_device", [False, True])
def test_batches_are_augmented_mixed_standardised_and_erased(images, on_device):
    """Raw pixels are mixed without augmentation on the device, standardised ones with it."""
    preprocess = Preprocess(width=30, height=40, **IMAGENET)
    config = make_config(
        {"mixup": 0.5, "reprob": 0.5, "epochs": 2, "batch_size": 6, "lr": 1e-3, "layer_decay": None}
    )
    augment = device_augmentation("default", preprocess) if on_device else None
    fit = Fit(
        torch.nn.Linear(1, 3),
        config,
        preprocess,
        CPU,
        steps_per_epoch=1,
        count_C=np.ones(3),
        augment=augment,
    )
    plain = torch.from_numpy(images)
    labels = torch.arange(6) % 3
    pixels, shares = fit.pixels(plain, labels, None, (0, 0))

    def mixed(pixels):
        return Mixing.of(config.augment, np.ones(3))(
            pixels, labels.numpy(), derive_rng("mix", 0, 0)
        )

    if augment is None:
        expected, expected_shares = mixed(as_pixels(images))
        expected = preprocess.standardise(expected)
    else:
        expected, expected_shares = mixed(augment(plain, derive_rng("augment", 0, 0)))
    expected = erase(expected, 0.5, derive_rng("erase", 0, 0))
    assert torch.equal(pixels, expected)
    assert torch.equal(shares, torch.from_numpy(expected_shares))
