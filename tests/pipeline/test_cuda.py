"""Tests that need a GPU; skipped without one."""

import numpy as np
import pandas as pd
import pytest
import torch

from foldblend.attributes import Attribute
from foldblend.runs.run import Run
from pipeline.config.run import MachineConfig
from pipeline.config.settings import make_config
from pipeline.data.augment import device_augmentation
from pipeline.data.preprocess import Preprocess
from pipeline.device import compute_of, resolve_machine
from pipeline.models.attribute_head import make_join
from pipeline.models.backbones import build_model
from pipeline.training.fit import Fit
from tests.makers.constants import TINY

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
PREPROCESS = Preprocess(width=64, height=64, mean=(0.5,) * 3, std=(0.5,) * 3)


def compute(**changes):
    return compute_of(
        MachineConfig(
            **{**resolve_machine(MachineConfig(device="cuda")), "compile": "off", **changes}
        )
    )


def batches(num, size=16):
    rng = torch.Generator().manual_seed(0)
    shape = (size, 64, 64, 3)
    return [
        (
            torch.randint(0, 255, shape, generator=rng, dtype=torch.uint8).pin_memory(),
            torch.arange(size).pin_memory() % 4,
        )
        for _ in range(num)
    ]


OPTIONS = {
    "average and clipping": {"clip_grad": 1.0, "model_ema": True},
    "mixing": {"mixup": 0.2, "cutmix": 1.0, "reprob": 0.5},
    "losses": {"loss": "0.5*focal+0.5*f1", "logit_adjust": 1.0, "grad_accum_steps": 2},
    "heads": {},
}


class KnownLabels:
    def labels(self, epoch, step):
        return np.arange(16) % 4


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("amp_dtype", ["bfloat16", "float16"])
def test_no_step_waits_for_the_gpu(amp_dtype, options):
    """PyTorch raises an error in this mode for every call that waits for the GPU."""

    class Strict(list):
        def __iter__(self):
            for number, batch in enumerate(super().__iter__()):
                if number == 3:  # the first steps allocate memory and choose kernels
                    torch.cuda.set_sync_debug_mode("error")
                yield batch
            torch.cuda.set_sync_debug_mode("default")

    here = compute(amp_dtype=amp_dtype)
    parts = [Attribute(name="a", values=("0", "1"), of_class=(0, 0, 1, 1))]
    parts += [Attribute(name="b", values=("0", "1"), of_class=(0, 1, 0, 1))]
    join = make_join(parts, "b") if options == "heads" else None
    model = build_model("test_efficientnet", num_classes=4, kwargs={}, weights=None, join=join)
    model = model.to(here.device, memory_format=here.memory_format)
    config = make_config({"epochs": 2, "batch_size": 16, **OPTIONS[options]})
    augment = device_augmentation("default", width=64, height=64)
    counts_C = np.array([4, 4, 4, 4])
    fit = Fit(model, config, PREPROCESS, here, steps_per_epoch=8, count_C=counts_C, augment=augment)
    # A loader has its labels on the CPU; those of a list would be fetched from the GPU.
    if options == "mixing":
        step = fit._train_step
        fit._train_step = lambda images, labels, _: step(images, labels, KnownLabels())
    try:
        epochs = list(fit.epochs(Strict(batches(8))))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(np.isfinite(epoch.train_loss) for epoch in epochs)


def test_batches_arrive_complete_and_in_order():
    sent = batches(20, size=64)
    for (images, labels), (there, their_labels) in zip(
        sent, compute().feed(iter(sent)), strict=True
    ):
        assert there.is_cuda
        torch.cuda._sleep(1_000_000)  # copies of later batches run during this
        assert torch.equal(images, there.cpu())
        assert torch.equal(labels, their_labels.cpu())


@pytest.mark.parametrize(
    "flags", [[], ["--cache", "disk"], ["--parallel-folds", "2"], ["--finetune", "head"]]
)
def test_a_run(tiny_layout, tmp_path, cv_command, flags):
    base = [
        "--data",
        tiny_layout,
        "--output",
        tmp_path,
        "--backbone",
        "test_efficientnet",
        "--device",
        "cuda",
        *TINY,
    ]
    for name in ("one", "two"):
        done = cv_command(*base, "--name", name, *flags)
        assert done.code == 0, done.err
    assert np.isfinite(Run(tmp_path / "one").logits(Run(tmp_path / "one").oof)).all()
    pd.testing.assert_frame_equal(Run(tmp_path / "one").oof, Run(tmp_path / "two").oof, atol=0.05)
