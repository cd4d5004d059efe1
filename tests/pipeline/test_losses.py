"""Losses, against the formulas of their papers on small cases."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from torch.nn import functional as F  # noqa: N812

from foldblend.errors import UserError
from pipeline.config.train import LossConfig, parse_loss
from pipeline.training.losses import build_loss, log_prior

CPU = torch.device("cpu")
LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, -0.4], [-1.0, 0.0, 3.0], [1.5, 1.4, 0.0]])
LABELS = torch.tensor([0, 2, 2, 1])
SHARES = torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.0, 1.0], [0.5, 0.0, 0.5], [0.2, 0.8, 0.0]])


def loss(text, count=(10, 5, 1), **changes):
    return build_loss(LossConfig(loss=text, **changes), np.array(count), CPU)


@pytest.mark.parametrize("target", [LABELS, SHARES])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_is_torchs_and_focal_with_gamma_0_is_cross_entropy(target, smoothing):
    ours = loss("ce", smoothing=smoothing)(LOGITS, target)
    assert torch.equal(ours, F.cross_entropy(LOGITS, target, label_smoothing=smoothing))
    assert loss("focal", focal_gamma=0.0, smoothing=smoothing)(
        LOGITS, target
    ).item() == pytest.approx(ours.item(), 1e-6)


def test_focal_by_hand():
    """-(1 - p)^2 log p for p = 0.9 and 0.1.

    The factor is 0.01 for the easy row and 0.81 for the hard one.
    """
    logits = torch.log(torch.tensor([[0.9, 0.1], [0.9, 0.1]]))
    value = loss("focal", count=(1, 1), smoothing=0.0)(logits, torch.tensor([0, 1]))
    assert value.item() == pytest.approx((0.01 * -math.log(0.9) + 0.81 * -math.log(0.1)) / 2, 1e-5)


def test_logit_adjustment_shifts_by_log_priors():
    counts = torch.tensor([10, 5, 1])
    prior = torch.log(counts / counts.sum())
    assert torch.allclose(log_prior(counts), prior)
    for tau in (0.5, 1.0):
        adjusted = loss("ce", smoothing=0.0, logit_adjust=tau)(LOGITS, LABELS)
        assert adjusted.item() == pytest.approx(
            F.cross_entropy(LOGITS + tau * prior, LABELS).item(), 1e-6
        )
    # With tau = 1 this is the balanced softmax: -log(n_y e^z_y / sum_j n_j e^z_j) (Ren et al. 2020,
    # eq. 3).
    odds = counts * LOGITS.exp()
    balanced = -(odds[range(4), LABELS] / odds.sum(dim=1)).log().mean()
    assert loss("ce", smoothing=0.0, logit_adjust=1.0)(LOGITS, LABELS).item() == pytest.approx(
        balanced.item(), 1e-6
    )
    # With even classes the adjustment changes nothing.
    assert torch.equal(loss("ce", count=(4, 4, 4))(LOGITS, LABELS), loss("ce")(LOGITS, LABELS))


@pytest.mark.parametrize("text", ["ce", "focal"])
def test_a_class_without_images_counts_as_rare_as_the_rarest(text):
    logits = LOGITS.clone().requires_grad_()
    value = loss(text, count=(10, 0, 6), smoothing=0.0, logit_adjust=1.0)(
        logits, torch.tensor([0, 2, 2, 0])
    )
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()
    # The class is never right, so its logit must go down.
    assert (logits.grad[:, 1] > 0).all()
    shift = log_prior(torch.tensor([10, 0, 6]))
    assert shift[1] == shift[2] == torch.log(torch.tensor(6 / 16))


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_has_a_finite_gradient_for_certain_rows(gamma):
    logits = torch.tensor([[30.0, 0.0, 0.0], [0.0, 0.0, 60.0]], requires_grad=True)
    loss("focal", smoothing=0.0, focal_gamma=gamma)(logits, torch.tensor([0, 1])).backward()
    assert torch.isfinite(logits.grad).all()


def test_soft_f1_of_certain_predictions_equals_scikit_learn():
    rng = np.random.default_rng(0)
    for _ in range(20):
        label_N = rng.integers(5, size=30)
        chosen_N = rng.integers(5, size=30)
        # Class 4 is predicted, but does not occur.
        label_N[label_N == 4] = 0
        logits = torch.from_numpy(100.0 * np.eye(5)[chosen_N])
        known = f1_score(label_N, chosen_N, labels=np.unique(label_N), average="macro")
        assert 1 - loss("f1", count=[1] * 5)(
            logits, torch.from_numpy(label_N)
        ).item() == pytest.approx(known, abs=1e-9)


def test_soft_f1_rises_with_the_probability_of_the_right_class():
    logits = LOGITS.clone().requires_grad_()
    loss("f1")(logits, LABELS).backward()
    assert (logits.grad[torch.arange(4), LABELS] < 0).all()


def test_weighted_sums():
    parts = {name: loss(name)(LOGITS, LABELS).item() for name in ("f1", "focal", "ce")}
    assert loss("0.4*f1+0.6*focal")(LOGITS, LABELS).item() == pytest.approx(
        0.4 * parts["f1"] + 0.6 * parts["focal"]
    )
    assert loss("ce + 2*f1")(LOGITS, LABELS).item() == pytest.approx(parts["ce"] + 2 * parts["f1"])
    assert parse_loss("0.5*my.mod:Mine + .25*ce") == [(0.5, "my.mod:Mine"), (0.25, "ce")]


@pytest.mark.parametrize("text", ["", "ce+", "0*ce", "2ce", "ce-f1", "a:b:c"])
def test_an_invalid_sum_of_losses_is_an_error(text):
    with pytest.raises(UserError, match="--loss"):
        LossConfig(loss=text)
