"""Augmentation on the device, against known answers and libraries for the CPU."""

import colorsys

import albumentations.augmentations.pixel.functional as colour
import cv2
import numpy as np
import pytest
import torch

from pipeline.data.augment import DeviceAugmentation, Recipe, _grid, device_augmentation
from pipeline.data.colours import jitter

STILL = {"flip": 0.0, "affine": 0.0, "colour": 0.0}


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (6, 40, 30, 3), dtype=np.uint8)
    return np.stack([cv2.GaussianBlur(one, (0, 0), 2) for one in noise])


def as_pixels(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2).float()


def as_images(pixels):
    return pixels.permute(0, 2, 3, 1).numpy()


def rng(seed=0):
    return np.random.default_rng(seed)


def test_without_changes_the_images_are_returned(images):
    pixels = as_pixels(images)
    assert torch.equal(device_augmentation("none", width=30, height=40)(pixels, rng()), pixels)
    still = DeviceAugmentation(Recipe(**STILL), 30, 40)(pixels, rng())
    assert torch.allclose(still, pixels, atol=1e-2)


def test_flip_mirrors_whole_images(images):
    flipped = DeviceAugmentation(Recipe(**STILL | {"flip": 1.0}), 30, 40)(as_pixels(images), rng())
    assert torch.allclose(flipped, as_pixels(images).flip(-1), atol=1e-2)
    half = DeviceAugmentation(Recipe(**STILL | {"flip": 0.5}), 30, 40)(
        as_pixels(np.repeat(images, 40, 0)), rng()
    )
    changed = (half - as_pixels(np.repeat(images, 40, 0))).abs().amax((1, 2, 3)) > 1
    assert 0.4 < changed.float().mean() < 0.6


def test_crops_are_windows_of_the_stored_image(images):
    crops = as_images(
        DeviceAugmentation(None, 24, 32)(as_pixels(np.repeat(images[:1], 60, 0)), rng())
    )
    windows = np.stack(
        [images[0, y : y + 32, x : x + 24] for y in range(9) for x in range(7)]
    ).astype(float)
    nearest = [np.abs(windows - crop).max((1, 2, 3)) for crop in crops]
    assert max(one.min() for one in nearest) < 0.05
    assert len({int(one.argmin()) for one in nearest}) > 30


def test_affine_equals_opencv(images):
    """Scale, rotation and shift about the centre, with pixel centres at half coordinates."""
    recipe = Recipe(**STILL | {"affine": 1.0})
    augment = DeviceAugmentation(recipe, 30, 40)
    ours = as_images(augment(as_pixels(images), rng(5)))
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
def test_colours_equal_albumentations(images, row, theirs):
    factors = np.ones((3, 6), np.float32)
    factors[row] = np.linspace(0.8, 1.2, 6)
    ours = as_images(jitter(as_pixels(images), torch.from_numpy(factors), torch.zeros(6)))
    for index, image in enumerate(images):
        assert np.abs(ours[index] - theirs(image, factors[row, index])).max() < 2.1
    assert np.abs(ours[0] - images[0]).mean() > 1


def test_hue_equals_albumentations(images):
    ours = as_images(jitter(as_pixels(images), torch.ones(3, 6), torch.full((6,), 0.02)))
    theirs = np.stack([colour.adjust_hue_torchvision(image, 0.02) for image in images])
    assert np.abs(ours - theirs).mean() < 1.5
    assert np.abs(ours - images).mean() > np.abs(ours - theirs).mean()


def test_hue_and_saturation_equal_those_of_hsv(images):
    """Any turn, also beyond a circle, on random, grey, black and pure colours."""
    colours = [[0, 0, 0], [255, 255, 255], [80, 80, 80], [255, 0, 0], [0, 255, 0], [9, 9, 200]]
    pixels = as_pixels(images)
    pixels[:, :, 0, :6] = torch.tensor(colours).T
    turns = torch.linspace(-1.3, 1.2, 6)
    ours = as_images(jitter(pixels, torch.ones(3, 6), turns))
    for index, image in enumerate(as_images(pixels)):
        flat = (image.reshape(-1, 3) / 255).astype(np.float64)
        hsv = np.array([colorsys.rgb_to_hsv(*one) for one in flat])
        turned = [colorsys.hsv_to_rgb((h + turns[index].item()) % 1, s, v) for h, s, v in hsv]
        np.testing.assert_allclose(
            ours[index].reshape(-1, 3), 255 * np.array(turned), atol=2e-3, rtol=0
        )


def test_places_equal_those_of_torch():
    theta = torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(0))
    theirs = torch.nn.functional.affine_grid(theta, [3, 3, 7, 5], align_corners=False)
    torch.testing.assert_close(_grid(theta, 5, 7), theirs)


def test_depends_only_on_the_generator(images):
    augment = device_augmentation("default", width=30, height=40)
    one, again, other = (augment(as_pixels(images), rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert one.min() >= 0
    assert one.max() <= 255
