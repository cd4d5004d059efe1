"""Options of training, against known answers: sampling, averages, schedules, heads, freezing."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from foldblend.attributes import Attribute
from foldblend.errors import UserError
from pipeline.config.settings import make_config
from pipeline.config.train import Finetune, LossConfig
from pipeline.data.preprocess import Preprocess
from pipeline.data.sampling import EpochSampler, class_counts, draw_numbers, row_odds
from pipeline.device import Compute
from pipeline.models.attribute_head import AttributeJoin, log_continuation, make_join
from pipeline.models.backbones import build_model, freeze, start_training
from pipeline.models.timm_import import timm
from pipeline.training.averaging import build_average
from pipeline.training.count_fold import _state
from pipeline.training.finite import NotFiniteError
from pipeline.training.fit import Fit
from pipeline.training.inner import inner_rows
from pipeline.training.optim import build_optimizer, build_scheduler, check_schedule
from tests.makers.constants import RATES

CPU = Compute(torch.device("cpu"), None, torch.contiguous_format)
PREPROCESS = Preprocess(width=8, height=8, mean=(0.5,) * 3, std=(0.5,) * 3)
MASK = Attribute(
    name="mask", values=("worn", "incorrect", "none"), of_class=tuple(c // 6 for c in range(18))
)
GENDER = Attribute(
    name="gender", values=("male", "female"), of_class=tuple(c // 3 % 2 for c in range(18))
)
AGE = Attribute(
    name="age", values=("<30", "30-59", "60+"), of_class=tuple(c % 3 for c in range(18))
)
TABLE = pd.DataFrame(
    {
        "image_id": [f"i{index}" for index in range(12)],
        "label": [0] * 8 + [1] * 3 + [3],
        "group": ["a"] * 6 + ["b"] * 3 + ["c"] * 2 + ["d"],
    }
)


class Plain(torch.nn.Module):
    """No batch norm and no dropout: a batch is the sum of its rows."""

    def __init__(self, num_classes=3):
        super().__init__()
        torch.manual_seed(5)
        self.linear = torch.nn.Linear(3 * 8 * 8, num_classes)

    def forward(self, pixels):
        return self.linear(pixels.flatten(1))


def batches(num, size, num_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    return [
        (
            torch.from_numpy(rng.integers(256, size=(size, 8, 8, 3), dtype=np.uint8)),
            torch.from_numpy(rng.integers(num_classes, size=size)),
        )
        for _ in range(num)
    ]


def fit_of(model, loader, **flags):
    config = make_config({**RATES, "epochs": 1, "batch_size": 8, "warmup_epochs": 0, **flags})
    return Fit(
        model,
        config,
        PREPROCESS,
        CPU,
        steps_per_epoch=len(loader),
        count_C=np.ones(3, int),
        say=lambda _: None,
    )


def trained(loader, **flags):
    model = Plain()
    for _ in fit_of(model, loader, **flags).epochs(loader):
        pass
    return model.linear.weight.detach()


# --- sampling


def test_balanced_odds_follow_the_power():
    for power in (0.5, 1.0):
        odds = row_odds(TABLE, LossConfig(sampler="balanced", sampler_power=power))
        by_class = [odds[TABLE["label"] == one].sum() for one in (0, 1, 3)]
        share = np.array([8, 3, 1]) ** (1 - power)
        assert by_class == pytest.approx(share / share.sum())
    assert odds.sum() == pytest.approx(1)


def test_with_group_sampling_every_group_is_equally_likely():
    odds = row_odds(TABLE, LossConfig(sampler="group"))
    assert [odds[TABLE["group"] == one].sum() for one in "abcd"] == pytest.approx([0.25] * 4)
    assert row_odds(TABLE, LossConfig()) is None


def test_sampled_epochs_follow_the_odds_and_can_start_anywhere():
    odds = row_odds(TABLE, LossConfig(sampler="balanced"))
    sampler = EpochSampler(12, (0, 1), odds_N=odds)
    drawn = np.concatenate([sampler.order(epoch) for epoch in range(500)])
    # The tolerance is four standard deviations.
    assert np.bincount(drawn, minlength=12) / len(drawn) == pytest.approx(odds, abs=0.025)
    whole = sampler.order(3)
    sampler.enter(3, 5)
    keys = list(sampler)
    assert [index for _, index, _ in keys] == whole[5:].tolist()
    assert [draw for _, _, draw in keys] == draw_numbers(whole)[5:].tolist()
    # The next iteration is the next epoch.
    assert [epoch for epoch, _, _ in sampler] == [4] * 12


def test_draws_are_counted():
    assert draw_numbers(np.array([3, 1, 3, 3, 1, 0])).tolist() == [0, 0, 1, 2, 1, 0]


def test_class_counts():
    assert class_counts(TABLE, 5).tolist() == [8, 3, 0, 1, 0]


# --- steps


def test_accumulation_equals_the_big_batch():
    small = batches(4, 16)
    big = batches(4, 16)
    assert torch.allclose(
        trained(small, batch_size=4, grad_accum_steps=4), trained(big, batch_size=16), atol=1e-7
    )
    # Four times as many steps have another result.
    other = trained(batches(16, 4), batch_size=4)
    assert not torch.allclose(other, trained(big, batch_size=16), atol=1e-4)


def test_uneven_micro_batches_are_weighted_by_their_rows():
    loader = batches(3, 10)
    assert torch.allclose(trained(loader, batch_size=4), trained(loader, batch_size=10), atol=1e-7)


def test_clipping_bounds_the_step():
    loader = batches(1, 8)
    start = Plain().linear.weight.detach()
    free = trained(loader, opt="sgd", lr=1.0, sched="constant", weight_decay=0.0)
    clipped = trained(loader, opt="sgd", lr=1.0, sched="constant", weight_decay=0.0, clip_grad=0.01)
    assert (free - start).norm() > 0.02
    # Nesterov's first step is 1.9 gradients.
    assert (clipped - start).norm().item() == pytest.approx(0.019, rel=0.01)


@pytest.mark.parametrize("opt", ["sgd", "adamw", "AdamW"])
def test_a_first_step_that_overflows_leaves_no_trace(opt):
    """The gradient scaler of float16 skips it; later steps are those of a new optimiser."""
    config = make_config(RATES, opt=opt, lr=0.1).train
    found = []
    for overflows in (False, True):
        model = Plain()
        optimizer = build_optimizer(model, config, fused=True, scaled=True)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        for gradient in [float("inf")] * overflows + [1.0, 2.0]:
            scale = scaler.scale(torch.ones(())).item()
            for one in model.parameters():
                one.grad = torch.full_like(one, gradient * scale)
            scaler.step(optimizer)
            scaler.update()
        found.append(model.linear.weight.detach())
    assert torch.isfinite(found[1]).all()
    assert torch.allclose(*found, atol=1e-6)


def test_what_can_be_fused_is_fused():
    fused = {
        (opt, scaled): build_optimizer(
            Plain(), make_config(RATES, opt=opt).train, fused=True, scaled=scaled
        ).defaults.get("fused")
        for opt in ("AdamW", "sgd", "lion")
        for scaled in (False, True)
    }
    assert [name for name, is_fused in fused.items() if is_fused] == [
        ("AdamW", False),
        ("AdamW", True),
        ("sgd", False),
    ]


class Hungry(Plain):
    """A model that runs out of memory for more than three images."""

    def forward(self, pixels):
        if len(pixels) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(pixels)


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_step():
    loader = batches(3, 12)
    said = []
    model = Hungry()
    fit = fit_of(model, loader, batch_size=12)
    fit.say = said.append
    list(fit.epochs(loader))
    assert fit.micro_batch == 3
    # 12 -> 6 -> 3, once for all steps.
    assert len(said) == 2
    assert "3 images per forward pass, still 12 per step" in said[-1]
    assert "batch norm" in said[-1]
    assert torch.allclose(model.linear.weight, trained(loader, batch_size=12), atol=1e-7)


def test_out_of_memory_with_one_image_is_an_error():
    class Starving(Plain):
        def forward(self, pixels):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(UserError, match="smaller --img-size"):
        list(fit_of(Starving(), batches(1, 4)).epochs(batches(1, 4)))


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_stops_before_the_update(what):
    class Breaks(Plain):
        calls = 0

        def forward(self, pixels):
            self.calls += 1
            out = super().forward(pixels)
            if self.calls == 3:
                # The square root's value at 0 is finite, its slope is not.
                out = out * float("nan") if what == "loss" else out + (out - out).pow(2).sqrt()
            return out

    model = Breaks()
    loader = batches(4, 8)
    fit = fit_of(model, loader, epochs=2)
    with pytest.raises(NotFiniteError, match=f"epoch 1 step 3: the {what} is not finite") as stop:
        list(fit.epochs(loader))
    assert (stop.value.epoch, stop.value.step) == (0, 2)
    known = Plain()
    fine = fit_of(known, loader, epochs=2)
    for images, labels in loader[:2]:
        fine._train_step(images, labels, None)
    # There were two updates, not three.
    assert torch.equal(model.linear.weight, known.linear.weight)


# --- averages


def test_mean_of_the_last_epochs_is_their_mean():
    loader = batches(3, 8)
    seen = []
    fit = fit_of(Plain(), loader, epochs=5, average_last=3)
    for epoch in fit.epochs(loader):
        seen.append(fit.model.linear.weight.detach().clone())
        if epoch.index < 2:
            assert epoch.model is fit.model
    assert torch.allclose(fit.scored.linear.weight, torch.stack(seen[2:]).mean(dim=0), atol=1e-7)


def test_averages_include_buffers():
    model = torch.nn.BatchNorm1d(2)
    average = build_average(model, make_config(epochs=2, average_last=2).train)
    for epoch, value in enumerate((1.0, 4.0)):
        model.running_mean.fill_(value)
        average.after_epoch(model, epoch)
    assert average.scored.running_mean.tolist() == [2.5, 2.5]


def test_integer_and_boolean_buffers_are_the_latest():
    model = torch.nn.BatchNorm1d(2)
    model.register_buffer("seen", torch.zeros(2, dtype=torch.bool))
    average = build_average(model, make_config(epochs=3, average_last=3).train)
    for epoch in range(3):
        model.num_batches_tracked.fill_(epoch)
        model.seen[:] = epoch == 2
        average.after_epoch(model, epoch)
    assert average.scored.seen.all()
    assert average.scored.num_batches_tracked == 2


# --- schedules


def rates(num_epochs=10, steps=10, losses=None, **flags):
    config = make_config(
        {**RATES, "epochs": num_epochs, "lr": 0.5, "warmup_epochs": 0, **flags}
    ).train
    optimizer = build_optimizer(torch.nn.Linear(2, 2), config, fused=False)
    schedule = build_scheduler(optimizer, config, steps_per_epoch=steps)
    found = []
    for epoch in range(num_epochs):
        for _ in range(steps):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        if hasattr(schedule, "end_epoch"):
            schedule.end_epoch(1.0 if losses is None else losses[epoch])
    return np.array(found)


def test_step_schedule_drops_every_decay_epochs():
    found = rates(sched="step", decay_epochs=3, decay_rate=0.1)
    assert found[[0, 29, 30, 59, 60, 90]] == pytest.approx([0.5, 0.5, 0.05, 0.05, 0.005, 0.0005])


def test_plateau_drops_after_its_patience_and_not_below_the_minimum():
    # The third loss is the last that improves.
    losses = [5, 4, 3, 3, 3, 3, 3, 3, 3, 3]
    found = rates(sched="plateau", patience_epochs=2, decay_rate=0.1, min_lr=0.02, losses=losses)
    by_epoch = found.reshape(10, 10)
    assert (by_epoch == by_epoch[:, :1]).all()
    assert by_epoch[:, 0] == pytest.approx([0.5] * 6 + [0.05] * 3 + [0.02])


def test_cosine_ends_at_the_minimum_rate_and_warm_up_is_linear():
    found = rates(sched="cosine", min_lr=0.1, warmup_epochs=1)
    assert found[:10] == pytest.approx(0.5 * np.arange(1, 11) / 11)
    assert found[10] == 0.5
    assert found[55] == pytest.approx(0.3, abs=1e-6)
    assert found[-1] == pytest.approx(0.1, abs=1e-3)


@pytest.mark.parametrize("sched", ["cosine", "onecycle", "constant"])
def test_layer_decay_scales_each_layers_rate(sched):
    model = timm.create_model("test_vit", num_classes=3)
    config = make_config(epochs=2, lr=0.1, layer_decay=0.5, sched=sched, warmup_epochs=0).train
    optimizer = build_optimizer(model, config, fused=False)
    schedule = build_scheduler(optimizer, config, steps_per_epoch=5)
    for _ in range(3):
        optimizer.step()
        schedule.step()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rate = {
        names[id(one)]: group["lr"] for group in optimizer.param_groups for one in group["params"]
    }
    head = rate["head.weight"]
    assert rate["blocks.5.attn.qkv.weight"] / head == pytest.approx(0.5)
    assert rate["blocks.4.attn.qkv.weight"] / head == pytest.approx(0.25)
    assert rate["blocks.0.attn.qkv.weight"] / rate["blocks.1.attn.qkv.weight"] == pytest.approx(0.5)
    if sched == "constant":
        assert head == 0.1


def test_a_layer_decay_without_effect_is_said_once(caplog):
    config = make_config({**RATES, "epochs": 2, "layer_decay": 0.5}).train
    said = []
    check_schedule(torch.nn.Linear(2, 2), config, said.append)
    [line] = said
    assert line.startswith("--layer-decay has no effect here")
    check_schedule(timm.create_model("test_vit", num_classes=3), config, said.append)
    assert len(said) == 1
    # The memory is counted on a layer of its own, which timm does not warn of.
    caplog.clear()
    _state(config)
    assert not caplog.records


def test_plateau_keeps_the_ratios_of_layer_decay_down_to_the_minimum():
    model = timm.create_model("test_vit", num_classes=3)
    flags = {
        "layer_decay": 0.5,
        "sched": "plateau",
        "patience_epochs": 0,
        "min_lr": 0.05,
        "warmup_epochs": 0,
    }
    config = make_config({**RATES, "epochs": 9, "lr": 0.1, **flags}).train
    optimizer = build_optimizer(model, config, fused=False)
    before = [group["lr"] for group in optimizer.param_groups]
    schedule = build_scheduler(optimizer, config, steps_per_epoch=1)
    for _ in range(9):
        optimizer.step()
        schedule.step()
        schedule.end_epoch(1.0)
    assert [
        group["lr"] / was for group, was in zip(optimizer.param_groups, before, strict=True)
    ] == pytest.approx([0.5] * len(before))


# --- heads


def test_three_heads_give_the_product_of_their_distributions():
    join = AttributeJoin([MASK, GENDER, AGE])
    outputs = torch.randn(7, join.num_inputs)
    assert join.num_inputs == 8
    mask, gender, age = (part.softmax(dim=1) for part in outputs.split([3, 2, 3], dim=1))
    product = (mask[:, :, None, None] * gender[:, None, :, None] * age[:, None, None, :]).reshape(
        7, 18
    )
    logits = join(outputs)
    assert torch.allclose(logits.softmax(dim=1), product, atol=1e-6)
    # The classes are all combinations of values, so the logits are log-probabilities.
    assert torch.allclose(logits.exp(), product, atol=1e-6)


def test_the_joint_cross_entropy_is_the_sum_of_the_heads():
    join = AttributeJoin([MASK, GENDER, AGE])
    outputs = torch.randn(7, 8)
    label = torch.arange(7) * 2
    parts = outputs.split([3, 2, 3], dim=1)
    own = sum(
        F.cross_entropy(part, torch.tensor(attribute.of_class)[label])
        for part, attribute in zip(parts, (MASK, GENDER, AGE), strict=True)
    )
    assert F.cross_entropy(join(outputs), label).item() == pytest.approx(own.item(), 1e-5)


def test_an_ordinal_head_is_a_continuation_ratio_model():
    """p(v) = prod over u < v of sigmoid(z_u), times 1 - sigmoid(z_v) except for the last value."""
    z = torch.tensor([[0.3, -1.2], [2.0, 0.5]])
    s = z.sigmoid()
    by_hand = torch.stack([1 - s[:, 0], s[:, 0] * (1 - s[:, 1]), s[:, 0] * s[:, 1]], dim=1)
    assert torch.allclose(log_continuation(z).exp(), by_hand, atol=1e-6)
    join = make_join([MASK, GENDER, AGE], "age")
    assert join.num_inputs == 3 + 2 + 2
    assert torch.allclose(join(torch.randn(4, 7)).exp().sum(dim=1), torch.ones(4), atol=1e-5)


def test_adding_heads_keeps_the_other_weights():
    join = make_join([MASK, GENDER, AGE], None)
    torch.manual_seed(0)
    model = build_model("test_efficientnet", num_classes=18, kwargs={}, weights=None, join=join)
    assert model.get_classifier()[0].out_features == 8
    assert model.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 18)
    again = copy.deepcopy(model)
    again.load_state_dict(model.state_dict())
    torch.manual_seed(0)
    joint = build_model("test_efficientnet", num_classes=8, kwargs={}, weights=None)
    assert torch.equal(model.conv_stem.weight, joint.conv_stem.weight)


@pytest.mark.parametrize(
    ("attributes", "ordinal", "words"),
    [
        ([], None, "no attributes"),
        ([MASK, GENDER], None, "two classes have the same attributes"),
        ([MASK, GENDER, AGE], "agee", "did you mean age"),
    ],
)
def test_wrong_heads_are_errors(attributes, ordinal, words):
    with pytest.raises(UserError, match=words):
        make_join(attributes, ordinal)


# --- freezing


@pytest.mark.parametrize("backbone", ["test_efficientnet", "test_vit", "test_resnet"])
def test_only_the_last_stages_learn(backbone):
    torch.manual_seed(0)
    model = build_model(
        backbone,
        num_classes=3,
        kwargs={"drop_path_rate": 0.5} if "res" in backbone else {},
        weights=None,
    )
    freeze(model, Finetune(1))
    stages = timm.models.group_parameters(model, model.group_matcher(coarse=True))
    last = max(stages)
    learns = {name for stage in (last - 1, last) for name in stages[stage]}
    before = copy.deepcopy(model.state_dict())
    config = make_config(
        RATES, epochs=1, batch_size=8, opt="sgd", lr=0.5, sched="constant", warmup_epochs=0
    )
    width = 160 if "vit" in backbone else 32
    loader = [
        (torch.randint(0, 255, (8, width, width, 3), dtype=torch.uint8), torch.arange(8) % 3)
    ] * 2
    list(
        Fit(model, config, PREPROCESS, CPU, steps_per_epoch=2, count_C=np.ones(3, int)).epochs(
            loader
        )
    )
    trainable = {name for name, _ in model.named_parameters()}
    for name, value in model.state_dict().items():
        owner = name.rpartition(".")[0]
        if name in learns:
            assert not torch.equal(value, before[name]), name
        # Frozen batch statistics do not change either.
        elif name in trainable or not any(one.startswith(owner + ".") for one in learns):
            assert torch.equal(value, before[name]), name


def test_frozen_parts_stay_in_evaluation_mode():
    model = build_model("test_resnet", num_classes=3, kwargs={}, weights=None)
    freeze(model, Finetune(1))
    start_training(model)
    assert not model.bn1.training
    assert model.get_submodule("fc").training
    assert model.training


def test_too_many_stages_are_an_error():
    with pytest.raises(UserError, match="has 5 stages"):
        freeze(timm.create_model("test_resnet"), Finetune(9))
    with pytest.raises(UserError, match="does not define its stages"):
        freeze(Plain(), Finetune(1))


# --- choosing an epoch


def test_inner_rows_are_whole_groups_of_the_training_rows():
    label_N = np.repeat(np.arange(4), 35)
    table = pd.DataFrame({"label": label_N, "group": np.repeat([f"g{i}" for i in range(20)], 7)})
    inner_N = inner_rows(table, seed=3)
    assert inner_N.sum() == 28
    assert not {*table["group"][inner_N]} & {*table["group"][~inner_N]}
    assert sorted(table["label"][inner_N].value_counts()) == [7] * 4
    assert np.array_equal(inner_N, inner_rows(table, seed=3))
    with pytest.raises(UserError, match="single group"):
        inner_rows(table[:7], seed=0)
