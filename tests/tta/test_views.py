"""Tests of views: one contract for all of them, known answers for each."""

import re

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from pipeline.data.preprocess import Preprocess
from pipeline.device import Compute
from pipeline.infer import predict
from pipeline.models.timm_import import timm
from tta.views.geometry import PLACES
from tta.views.names import (
    VIEWS,
    DeviceView,
    check_views,
    parse_views,
    view_of,
)

DEVICE_NAMES = [name for name, entry in VIEWS.items() if isinstance(entry, DeviceView)]
TONES = {"brightness", "contrast", "gamma"}
# The example of every entry, and values that take other paths through the code.
NAMES = [VIEWS[name].example for name in DEVICE_NAMES]
NAMES += [
    "scale:0.8",
    "scale:2",
    "xshift:0.5",
    "yshift:-0.11",
    "rotate:-90",
    "brightness:0.7",
    "contrast:0.6",
]
NAMES += [
    "gamma:2.2",
    *(f"crop:0.6:{place}" for place in PLACES),
    "hflip*scale:1.15",
    "gamma:0.8*rotate:5*vflip",
]
NEUTRAL_CALLS = [(name, (1.0,)) for name in ("scale", "brightness", "contrast", "gamma")]
NEUTRAL_CALLS += [("rotate", (0.0,)), ("xshift", (0.0,)), ("yshift", (0.0,)), ("identity", ())]
NEUTRAL_CALLS += [("crop", (1.0, place)) for place in PLACES]
GEOMETRIC = [name for name in NAMES if not TONES & set(re.split(r"[:*]", name))]


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Use one thread: with small tensors, more would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def random_images(height=24, width=32, num=3, seed=0):
    values = np.random.default_rng(seed).integers(256, size=(num, 3, height, width))
    return torch.from_numpy(values).float()


def smooth(height=48, width=64):
    """Return an image whose values follow slow waves."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 9 + c) * np.cos(y / 7 - c) for c in range(3)]
    return torch.from_numpy(127 + 100 * np.stack(waves)).float()[None]


def found(image_HW, row_HW, column_HW):
    """Return an image at positions between pixels, by an independent implementation.

    The image is mirrored at its borders.
    """
    return ndimage.map_coordinates(
        image_HW.astype(np.float64), [row_HW, column_HW], order=1, mode="reflect"
    )


# The contract


def test_every_entry_is_tried():
    assert set(DEVICE_NAMES) == {
        name for text in NAMES for name in re.findall(r"[a-z]{3,}", text)
    } - {"center"}
    assert {name for name, _ in NEUTRAL_CALLS} == set(DEVICE_NAMES) - {"hflip", "vflip"}


@pytest.mark.parametrize("name", NAMES)
def test_views_do_not_depend_on_the_memory_layout(name):
    images = random_images()
    other = images.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(view_of(name)(other), view_of(name)(images), rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(24, 32), (33, 17)])
def test_contract(name, size):
    images = random_images(*size)
    before = images.clone()
    version = images._version
    seen = view_of(name)(images)
    assert seen.shape == images.shape
    assert seen.dtype == images.dtype
    assert seen.device == images.device
    assert torch.equal(images, before)
    # Nothing was written to the input, not even the same values.
    assert images._version == version
    assert torch.equal(view_of(name)(images), seen)
    assert torch.isfinite(seen).all()
    assert seen.min() >= -1e-3
    assert seen.max() <= 255 + 1e-3
    # An image's view does not depend on the other images of the batch.
    one = torch.cat([view_of(name)(image[None]) for image in images])
    torch.testing.assert_close(one, seen, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_memory_layouts_agree(name):
    images = random_images()
    seen = view_of(name)(images)
    last = images.contiguous(memory_format=torch.channels_last)
    # Kernels differ in the order of sums.
    torch.testing.assert_close(view_of(name)(last), seen, rtol=0, atol=1e-4)
    # This cut has neither of the two layouts.
    cut = torch.nn.functional.pad(images, (3, 2, 1, 4))[..., 1:-4, 3:-2]
    torch.testing.assert_close(view_of(name)(cut), seen, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_inference_mode_and_doubles(name):
    images = random_images()
    seen = view_of(name)(images)
    with torch.inference_mode():
        assert torch.equal(view_of(name)(images), seen)
    # A grid that was kept in inference mode can be used outside of it.
    assert torch.equal(view_of(name)(images), seen)
    exact = view_of(name)(images.double())
    assert exact.dtype == torch.float64
    torch.testing.assert_close(seen.double(), exact, rtol=0, atol=0.02)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_devices_agree(name):
    # This is the setting that compute_of makes.
    torch.backends.cuda.matmul.allow_tf32 = True
    images = random_images(128, 96)
    torch.testing.assert_close(
        view_of(name)(images.cuda()).cpu(), view_of(name)(images), rtol=0, atol=0.02
    )


@pytest.mark.parametrize("name", GEOMETRIC)
def test_geometry_does_not_change_a_uniform_image(name):
    images = torch.tensor([0.0, 99.0, 255.0]).view(1, 3, 1, 1).expand(2, 3, 24, 32)
    torch.testing.assert_close(view_of(name)(images), images, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "values"), NEUTRAL_CALLS)
def test_neutral_values_change_nothing(name, values):
    images = random_images(33, 40)
    torch.testing.assert_close(VIEWS[name](images, *values), images, rtol=0, atol=2e-3)
    written = ":".join([name, *(str(value) for value in values)])
    # So they are not computed twice.
    assert parse_views(written) == ("identity",)


@pytest.mark.parametrize("name", NAMES)
def test_check_views_accepts_them(name):
    check_views(parse_views(name), width=32, height=24)


# Known answers: mirrors and shifts


def test_identity_returns_the_same_tensor():
    images = random_images()
    assert view_of("identity")(images) is images


@pytest.mark.parametrize(("name", "axis"), [("hflip", 3), ("vflip", 2)])
def test_mirrors(name, axis):
    images = random_images()
    seen = view_of(name)(images)
    assert np.array_equal(seen.numpy(), np.flip(images.numpy(), axis))
    assert torch.equal(view_of(name)(seen), images)


def test_shifts_are_in_whole_pixels_right_and_down():
    images = random_images(20, 40)
    right = view_of("xshift:0.1")(images)
    down = view_of("yshift:0.1")(images)
    assert torch.equal(right[..., 4:], images[..., :-4])
    # The border is mirrored without repeating the edge.
    assert torch.equal(right[..., :4], images[..., 1:5].flip(-1))
    assert torch.equal(down[..., 2:, :], images[..., :-2, :])
    assert torch.equal(down[..., :2, :], images[..., 1:3, :].flip(-2))
    assert torch.equal(
        view_of("xshift:-0.1")(images), view_of("hflip*xshift:0.1*identity")(images).flip(-1)
    )


@given(share=st.floats(-0.5, 0.5), side=st.integers(8, 40))
@settings(max_examples=40, deadline=None)
def test_a_shift_and_its_opposite_restore_the_image(share, side):
    images = random_images(side, side, 1)
    pixels = abs(round(share * side))
    for name in ("xshift", "yshift"):
        back = VIEWS[name](VIEWS[name](images, share), -share)
        inner = slice(pixels, side - pixels)
        assert torch.equal(back[..., inner, inner], images[..., inner, inner])


# Known answers: zooming and rotating


def checkerboard(cell, cells=8):
    board = (np.indices((cells, cells)).sum(0) % 2 * 255).repeat(cell, 0).repeat(cell, 1)
    return torch.from_numpy(board).float().expand(1, 3, -1, -1)


def test_scale_of_a_checkerboard():
    """The middle of every field keeps its colour at twice and at half the size."""
    # 64 pixels with fields of 8.
    board = checkerboard(8)
    # The four by four fields in the middle; the first one has the same colour as that of the board.
    larger = checkerboard(16, 4)
    assert torch.equal(view_of("scale:2")(board)[..., 8::16, 8::16], larger[..., 8::16, 8::16])
    smaller = view_of("scale:0.5")(board)
    assert smaller.shape == board.shape
    middle = smaller[..., 16:48, 16:48]
    torch.testing.assert_close(
        middle[..., 1::4, 1::4], checkerboard(4)[..., 1::4, 1::4], rtol=0, atol=40
    )
    assert torch.equal(middle > 127, checkerboard(4) > 127)
    # Around it lies the mirror image: beyond the edge, the first field continues in its colour.
    assert torch.equal(smaller[..., 14:16, 17:19] > 127, smaller[..., 16:18, 17:19] > 127)


@pytest.mark.parametrize("factor", [1.15, 1.5, 3.7])
def test_zooming_in_interpolates(factor):
    image = random_images(30, 44, 1)
    row, column = np.mgrid[:30, :44]
    row, column = (
        (at + 0.5 - side / 2) / factor + side / 2 - 0.5 for at, side in ((row, 30), (column, 44))
    )
    seen = VIEWS["scale"](image, factor)[0].numpy()
    for channel in range(3):
        np.testing.assert_allclose(
            seen[channel], found(image[0, channel].numpy(), row, column), atol=0.01
        )


def test_zooming_out_smooths_so_that_fine_stripes_are_grey():
    stripes = (torch.arange(64) % 2 * 255.0).expand(1, 3, 64, 64)
    seen = view_of("scale:0.5")(stripes)
    # The outermost columns are left out: the smoothing window is cut there.
    torch.testing.assert_close(seen[..., 1:-1], torch.full((1, 3, 64, 62), 127.5))


def test_zooming_out_and_in_restores_a_smooth_image():
    image = smooth()
    back = VIEWS["scale"](VIEWS["scale"](image, 0.75), 4 / 3)
    torch.testing.assert_close(back[..., 4:-4, 4:-4], image[..., 4:-4, 4:-4], rtol=0, atol=4)


@pytest.mark.parametrize("degrees", [7, -12.5, 90, 180])
def test_rotation_is_anticlockwise_and_interpolates(degrees):
    image = random_images(30, 44, 1)
    y, x = np.mgrid[:30, :44] - np.array([14.5, 21.5])[:, None, None]
    cos = np.cos(np.radians(degrees))
    sin = np.sin(np.radians(degrees))
    row = x * sin + y * cos + 14.5
    column = x * cos - y * sin + 21.5
    seen = view_of(f"rotate:{degrees}")(image)[0].numpy()
    for channel in range(3):
        np.testing.assert_allclose(
            seen[channel], found(image[0, channel].numpy(), row, column), atol=0.02
        )


def test_quarter_turns_of_a_square():
    image = random_images(32, 32, 1)
    torch.testing.assert_close(
        view_of("rotate:90")(image), image.rot90(1, (2, 3)), rtol=0, atol=0.01
    )
    torch.testing.assert_close(
        view_of("rotate:-90")(image), image.rot90(-1, (2, 3)), rtol=0, atol=0.01
    )
    torch.testing.assert_close(view_of("rotate:180")(image), image.flip(2, 3), rtol=0, atol=0.01)


@given(degrees=st.floats(-20, 20))
@settings(max_examples=20, deadline=None)
def test_a_rotation_and_its_opposite_restore_the_image(degrees):
    image = smooth(64, 64)
    back = VIEWS["rotate"](VIEWS["rotate"](image, degrees), -degrees)
    torch.testing.assert_close(back[..., 16:48, 16:48], image[..., 16:48, 16:48], rtol=0, atol=2)


# Known answers: crops

CORNERS = {
    "tl": np.s_[..., :12, :16],
    "tr": np.s_[..., :12, 16:],
    "bl": np.s_[..., 12:, :16],
    "br": np.s_[..., 12:, 16:],
    "center": np.s_[..., 6:18, 8:24],
}


@pytest.mark.parametrize("place", list(PLACES))
def test_crops_are_slices_resized(place):
    """Crops agree with OpenCV's resizing, an independent implementation."""
    image = random_images(24, 32, 1)
    part = image[CORNERS[place]][0].permute(1, 2, 0).numpy()
    expected = cv2.resize(part, (32, 24), interpolation=cv2.INTER_LINEAR)
    seen = view_of(f"crop:0.5:{place}")(image)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(seen, expected, atol=1e-3)


def test_five_crops_cover_the_corners():
    image = random_images(25, 33, 1)
    last = {"tl": (0, 0), "tr": (0, -1), "bl": (-1, 0), "br": (-1, -1)}
    for name in parse_views("five:0.7")[1:5]:
        y, x = last[name.rpartition(":")[2]]
        torch.testing.assert_close(view_of(name)(image)[..., y, x], image[..., y, x])


def test_ten_crops_are_the_five_of_image_and_mirror_image():
    image = random_images(24, 32, 1)
    names = parse_views("ten:0.5")
    assert names == (
        "identity",
        *parse_views("five:0.5")[1:],
        *(f"hflip*{n}" for n in parse_views("five:0.5")[1:]),
    )
    five = names[1:6]
    mirrored = names[6:]
    for plain, other in zip(five, mirrored, strict=True):
        assert torch.equal(view_of(other)(image), view_of(plain)(image.flip(-1)))


# Known answers: tones


@pytest.mark.parametrize("value", [0.1, 0.5, 0.8, 1.3, 2.2, 10])
def test_tones_agree_with_their_formulas(value):
    image = random_images(seed=4)
    array = image.numpy().astype(np.float64)
    grey_N = np.einsum("nchw,c->nhw", array, [0.299, 0.587, 0.114]).mean((1, 2))
    mean = grey_N[:, None, None, None]
    expected = {
        "brightness": array * value,
        "contrast": mean + value * (array - mean),
        "gamma": 255 * (array / 255) ** value,
    }
    assert expected.keys() == TONES
    for name, values in expected.items():
        seen = view_of(f"{name}:{value}")(image).numpy()
        np.testing.assert_allclose(seen, values.clip(0, 255), rtol=1e-5, atol=1e-3, err_msg=name)


def test_contrast_uses_the_mean_grey_of_each_image():
    images = torch.cat([torch.full((1, 3, 8, 8), 40.0), torch.full((1, 3, 8, 8), 200.0)])
    torch.testing.assert_close(view_of("contrast:3")(images), images)


def test_gamma_is_finite_below_zero():
    assert torch.equal(
        view_of("gamma:0.5")(torch.full((1, 3, 2, 2), -1e-4)), torch.zeros(1, 3, 2, 2)
    )


# Products


def test_products_are_applied_from_left_to_right():
    image = random_images(24, 32, 1)
    hflip = view_of("hflip")
    crop = view_of("crop:0.5:tl")
    assert torch.equal(view_of("hflip*crop:0.5:tl")(image), crop(hflip(image)))
    assert torch.equal(view_of("crop:0.5:tl*hflip")(image), hflip(crop(image)))
    assert not torch.equal(crop(hflip(image)), hflip(crop(image)))
    bright = view_of("brightness:2")
    contrast = view_of("contrast:0.5")
    assert torch.equal(view_of("brightness:2*contrast:0.5")(image), contrast(bright(image)))
    assert not torch.equal(contrast(bright(image)), bright(contrast(image)))


# Where they are used


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_predict_gives_the_bits_that_mirroring_after_standardising_gave(layout):
    """Views take raw pixels; earlier versions mirrored standardised ones, with the same bits."""
    torch.manual_seed(0)
    model = timm.create_model("test_efficientnet", num_classes=5).eval().to(memory_format=layout)
    preprocess = Preprocess(
        width=40, height=32, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    compute = Compute(torch.device("cpu"), None, layout)
    batches = [
        (
            torch.from_numpy(
                np.random.default_rng(n).integers(256, size=(n, 32, 40, 3), dtype=np.uint8)
            ),
            torch.zeros(n),
        )
        for n in (8, 3)
    ]
    expected = []
    with torch.inference_mode():
        for images, _ in batches:
            pixels = preprocess.normalise(images).contiguous(memory_format=layout)
            expected.append(torch.stack([model(pixels), model(pixels.flip(-1))]))
    views = [view_of(name) for name in parse_views("hflip")]
    logits_VNC = predict(model, batches, preprocess, compute, views)
    assert logits_VNC.dtype == np.float32
    assert np.array_equal(logits_VNC, torch.cat(expected, dim=1).numpy())


def test_predict_passes_raw_pixels_to_views():
    seen = []

    def spy(images):
        seen.append(images)
        return images

    class Mean(torch.nn.Module):
        def forward(self, images):
            return images.mean((2, 3))

    preprocess = Preprocess(width=8, height=8, mean=(0.5,) * 3, std=(0.5,) * 3)
    images = torch.full((2, 8, 8, 3), 64, dtype=torch.uint8)
    compute = Compute(torch.device("cpu"), None, torch.channels_last)
    logits_VNC = predict(
        Mean(), [(images, None)], preprocess, compute, [spy, view_of("brightness:2")]
    )
    assert float(seen[0].max()) == float(seen[0].min()) == 64
    np.testing.assert_allclose(logits_VNC[0], 64 / 127.5 - 1, rtol=1e-5)
    np.testing.assert_allclose(logits_VNC[1], 128 / 127.5 - 1, atol=1e-6)
