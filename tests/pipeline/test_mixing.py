"""Mixup, CutMix and random erasing; the labels' shares must be those of the pixels."""

import numpy as np
import pytest
import torch

from pipeline.config.train import AugmentConfig
from pipeline.training.mixing import Mixing, erase, random_boxes

LABELS = np.arange(24) % 4
# Every pixel of image i has the value i, so the sources of a mixed image can be read from it.
PIXELS = torch.arange(24.0).view(-1, 1, 1, 1).expand(-1, 3, 12, 10).clone()
COUNTS = np.array([40, 30, 20, 1])


def mix(seed=0, counts=COUNTS, **flags):
    return Mixing.of(AugmentConfig(**flags), counts)(PIXELS, LABELS, np.random.default_rng(seed))


def test_off_by_default_and_for_batches_that_stay_unmixed():
    assert Mixing.of(AugmentConfig(), COUNTS) is None
    pixels, shares = mix(mixup=1.0, mixup_prob=0.0)
    assert pixels is PIXELS
    assert shares is None


def test_mixup_is_a_weighted_mean_of_pixels_and_of_labels():
    config = AugmentConfig(mixup=0.4)
    mixing = Mixing.of(config, COUNTS)
    pixels, shares = mixing(PIXELS, LABELS, np.random.default_rng(3))
    rng = np.random.default_rng(3)
    rng.random()
    partner = mixing.partners(LABELS, rng, cutmix=False)
    keep = mixing.blend(24, rng)
    expected = torch.from_numpy(keep * np.arange(24) + (1 - keep) * partner).float()
    assert torch.allclose(pixels[:, 0, 0, 0], expected)
    assert (pixels == pixels[:, :1, :1, :1]).all()
    own = np.eye(4)[LABELS]
    assert shares == pytest.approx(
        own * keep[:, None] + own[partner] * (1 - keep[:, None]), abs=1e-6
    )


def test_mixup_weights_follow_their_beta():
    mixing = Mixing.of(AugmentConfig(mixup=0.4), COUNTS)
    keep = mixing.blend(20_000, np.random.default_rng(0))
    assert keep.mean() == pytest.approx(0.5, abs=0.01)
    # The variance of Beta(a, a).
    assert keep.var() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.005)


def shares_of_pixels(pixels):
    """Return the N x C shares, counted from the pixels: a value is the number of its image."""
    return np.stack(
        [
            np.bincount(LABELS[one.long().reshape(-1)], minlength=4) / one.numel()
            for one in pixels[:, 0]
        ]
    )


@pytest.mark.parametrize("flags", [{}, {"cutmix_mode": "class"}, {"cutmix_mode": "half"}])
def test_cutmix_labels_are_the_shares_of_pixels(flags):
    changed = 0
    for seed in range(20):
        pixels, shares = mix(seed, cutmix=1.0, **flags)
        assert shares == pytest.approx(shares_of_pixels(pixels), abs=1e-6)
        changed += int((pixels != PIXELS).any())
    assert changed == 20


def test_cutmix_within_a_class_keeps_labels_whole():
    pixels, shares = mix(cutmix=1.0, cutmix_mode="class")
    assert np.array_equal(shares, np.eye(4)[LABELS])
    assert (pixels != PIXELS).any()


def test_half_images_come_from_rare_classes():
    sources = []
    for seed in range(40):
        pixels, _ = mix(seed, cutmix=1.0, cutmix_mode="half")
        for index, one in enumerate(pixels[:, 0].long()):
            left = one[:, :5]
            right = one[:, 5:]
            assert (left == left[0, 0]).all()
            assert (right == right[0, 0]).all()
            halves = {int(left[0, 0]), int(right[0, 0])}
            assert index in halves
            sources += halves - {index}
    # A partner is drawn in proportion to 1 / the size of its class, and the batch has equally many
    # images of each class.
    share = np.bincount(LABELS[sources], minlength=4) / len(sources)
    expected = (1 / COUNTS) / (1 / COUNTS).sum()
    assert share == pytest.approx(expected, abs=0.03)


def test_both_kinds_of_mixing_occur():
    kinds = {bool((mix(seed, mixup=1.0, cutmix=1.0)[0] % 1 != 0).any()) for seed in range(20)}
    assert kinds == {True, False}


def test_boxes_have_the_requested_share():
    rng = np.random.default_rng(0)
    boxes = random_boxes(np.full(5000, 0.25), 100, 200, rng)
    inside = (boxes[:, 0] > 0) & (boxes[:, 1] > 0) & (boxes[:, 2] < 100) & (boxes[:, 3] < 200)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / 20_000
    assert area[inside] == pytest.approx(0.25, abs=0.02)
    assert area.max() <= 0.27
    assert (boxes >= 0).all()


def test_erasing():
    pixels = torch.zeros(400, 3, 32, 32)
    out = erase(pixels, 0.5, np.random.default_rng(0))
    hit = (out != 0).any(dim=1)
    share = hit.float().mean(dim=(1, 2))
    assert (share > 0).float().mean().item() == pytest.approx(0.5, abs=0.07)
    assert share.max() <= 0.42
    # Each erased part is a full rectangle of noise.
    for one in hit[share > 0][:20]:
        rows = one.any(dim=1).nonzero()
        columns = one.any(dim=0).nonzero()
        assert one[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
    noise = out[hit[:, None].expand_as(out)]
    assert noise.std().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(erase(pixels, 0.0, np.random.default_rng(0)), pixels)
