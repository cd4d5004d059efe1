"""Custom parts by MODULE:NAME: the example runs, and a faulty part fails at the start."""

import shutil
import textwrap

import cv2
import numpy as np
import pandas as pd
import pytest

from foldblend.errors import UserError
from foldblend.help import About
from foldblend.plugins import find_part, load_custom, source_hash
from foldblend.runs.run import Run
from pipeline.checks import explain
from pipeline.config.command_line import parse_run_config
from pipeline.config.resolved import resolved
from pipeline.config.settings import flatten
from tests.makers.constants import RATES, TINY

OWN = "examples.own_parts"
OWN_FLAGS = [
    "--backbone",
    f"{OWN}:TinyNet",
    "--augment",
    f"{OWN}:Shuffled",
    "--sched",
    f"{OWN}:HalfCosine",
]
OWN_FLAGS += ["--loss", f"0.5*ce+0.5*{OWN}:Brier"]


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Return a function that writes an importable module and returns its name."""

    def write(text, name="parts"):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(__import__("sys").modules, name, raising=False)
        return name

    return write


@pytest.mark.slow
def test_the_example_runs(tiny_layout, tmp_path, cv_command):
    base = ["--data", tiny_layout, "--output", tmp_path, *TINY, *OWN_FLAGS, "--drop", "0.1"]
    for name, workers in (("one", 0), ("two", 2)):
        done = cv_command(*base, "--name", name, "--workers", workers)
        assert done.code == 0, done.err
    one = Run(tmp_path / "one")
    two = Run(tmp_path / "two")
    pd.testing.assert_frame_equal(one.oof, two.oof, check_exact=True)
    assert f"{OWN}:TinyNet" in one.report["about"]
    assert "own modules" in one.info["run_key"]


def test_the_example_reads_folders(tmp_path, cv_command):
    rng = np.random.default_rng(0)
    for index in range(24):
        folder = tmp_path / "pictures" / ("cat" if index % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(
            str(folder / f"owner{index // 4}_{index}.jpg"),
            rng.integers(256, size=(40, 40, 3), dtype=np.uint8),
        )
    argv = [
        "--dataset",
        f"{OWN}:read_folders",
        "--data",
        tmp_path / "pictures",
        "--backbone",
        "test_efficientnet",
    ]
    done = cv_command(*argv, "--output", tmp_path / "out", "--name", "own", *TINY)
    assert done.code == 0, done.err
    run = Run(tmp_path / "out" / "own")
    assert run.classes == ("cat", "dog")
    assert run.oof["group"].nunique() == 6
    (tmp_path / "none").mkdir()
    cv_command(
        "--dataset", f"{OWN}:read_folders", "--data", tmp_path / "none"
    ).assert_one_line_error("check --data")


@pytest.mark.slow
def test_an_edited_part_makes_a_different_run(tiny_layout, tmp_path, cv_command, module):
    text = "from examples.own_parts import Shuffled\nclass Mine(Shuffled):\n    pass\n"
    base = [
        "--data",
        tiny_layout,
        "--output",
        tmp_path / "out",
        "--backbone",
        "test_efficientnet",
        "--name",
        "a",
    ]
    base += ["--augment", f"{module(text)}:Mine", *TINY]
    assert cv_command(*base).code == 0
    assert "epoch 1/1" not in cv_command(*base).out  # every fold was kept
    module(text + "# edited\n")
    cv_command(*base).assert_one_line_error("made with different custom modules")


WRONG = """
import torch, numpy as np
class NoModule:
    def __init__(self, num_classes): pass
class Picky(torch.nn.Module):
    def __init__(self, num_classes, size): super().__init__()
class Narrow(torch.nn.Module):
    def __init__(self, num_classes): super().__init__()
    def forward(self, pixels): return torch.zeros(len(pixels), 2)
class OneByOne(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.layer = torch.nn.Linear(3, num_classes)

    def forward(self, pixels): return self.layer(pixels.mean((2, 3)).reshape(3))[None]
class Idle(torch.nn.Module):
    def __init__(self, num_classes): super().__init__(); self.num = num_classes
    def forward(self, pixels): return pixels.mean((1, 2, 3))[:, None].repeat(1, self.num)
class Fussy:
    def __init__(self, count_C, config):
        if config.smoothing == 0.25: raise ValueError("no smoothing\\nhere")
    def __call__(self, logits, target): return logits.square().mean()
class Smaller:
    def __call__(self, image, seed): return image[1:]
class Moody:
    def __call__(self, image, seed):
        return np.random.default_rng().integers(256, size=image.shape, dtype=np.uint8)

class Raises:
    def __call__(self, image, seed): raise KeyError("hue")
def rows_loss(count_C, config): return lambda logits, target: logits.sum(dim=1)
def flat_loss(count_C, config): return lambda logits, target: torch.tensor(1.0)
def no_schedule(optimizer, config, steps_per_epoch): return None
def read_nothing(config): return []
def read_badly(config): return config.nowhere
"""


@pytest.mark.parametrize(
    ("flag", "name", "words"),
    [
        ("--backbone", "NoModule", ["not a torch.nn.Module", "examples/"]),
        ("--backbone", "Picky", ["a call with num_classes", "size"]),
        ("--backbone", "Narrow", ["returns (2, 2)", "not (2, 18)"]),
        ("--backbone", "OneByOne", ["trial on blank images failed"]),
        ("--backbone", "Idle", ["trial on blank images failed"]),
        ("--loss", "Fussy", ["no smoothing here"]),
        ("--augment", "Smaller", ["uint8 (31, 32, 3)"]),
        ("--augment", "Moody", ["two calls with the same seed differ"]),
        ("--augment", "Raises", ["KeyError"]),
        ("--loss", "rows_loss", ["trial on 4 rows failed"]),
        ("--loss", "flat_loss", ["trial on 4 rows failed"]),
        ("--sched", "no_schedule", ["--sched", "cannot be set up"]),
        ("--dataset", "read_nothing", ["returns a list"]),
        ("--dataset", "read_badly", ["AttributeError"]),
        ("--augment", "Smalller", ["did you mean", "Smaller"]),
    ],
)
def test_a_faulty_part_fails_before_the_first_fold(
    flag, name, words, module, tiny_layout, tmp_path, cv_command
):
    part = f"{module(WRONG, 'wrong')}:{name}"
    argv = ["--data", tiny_layout, "--output", tmp_path / "out", *TINY, "--img-size", "32"]
    argv += [] if flag == "--backbone" else ["--backbone", "test_efficientnet"]
    argv += ["--smoothing", "0.25"] if name == "Fussy" else []
    cv_command(*argv, flag, part).assert_one_line_error(flag, part, *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere:X", "no module nowhere"),
        ("broken:X", "cannot be imported"),
        ("needy:X", "needs absent_package"),
    ],
)
def test_modules_that_cannot_be_imported(name, words, module):
    module("1 / 0", "broken")
    module("import absent_package", "needy")
    with pytest.raises(UserError, match=words):
        load_custom(name, "--loss")


def test_names_without_a_colon_are_looked_up_in_the_registry():
    assert find_part("a", {"a": 1}, "--x") == 1
    with pytest.raises(UserError, match="--x focall: unknown; did you mean focal"):
        find_part("focall", {"focal": 1}, "--x")
    assert source_hash(["resnet18", "ce"]) is None


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--loss", "f1", "--mixup", "0.2"], ["--loss f1 with --mixup", "whole labels"]),
        (["--loss", "0.5*ce+0.5*f1", "--cutmix", "1"], ["with --cutmix"]),
        (
            ["--logit-adjust", "1", "--sampler", "balanced"],
            ["--logit-adjust with --sampler balanced"],
        ),
        (["--logit-adjust", "1", "--loss", "f1"], ["only ce and focal"]),
        (["--model-ema", "--average-last", "2"], ["two averages"]),
        (["--cutmix-mode", "half"], ["goes with --cutmix"]),
        (["--ordinal", "age"], ["goes with --head attributes"]),
        (["--select", "inner", "--finetune", "head"], ["no epochs"]),
        (["--head", "attributes", "--finetune", "head"], ["--finetune 1"]),
        (["--augment", f"{OWN}:Shuffled", "--augment-on", "device"], ["on the CPU"]),
        (["--loss", "focall"], ["--loss focall", "did you mean focal"]),
        (["--sched", "cosin"], ["did you mean cosine"]),
        (["--augment", "defualt"], ["did you mean default"]),
        (["--finetune", "last"], ["--finetune last", "such as 2"]),
        (["--finetune", "99", "--backbone", "test_resnet"], ["has 5 stages"]),
        (["--min-lr", "1"], ["--min-lr 1"]),
        (["--wandb", "--epochs", "0"], ["--epochs 0"]),
    ],
)
def test_contradicting_flags(flags, words, tiny_layout, tmp_path, cv_command):
    base = [
        "--data",
        tiny_layout,
        "--output",
        tmp_path / "out",
        "--img-size",
        "32",
        "--pretrained",
        "none",
    ]
    cv_command(*base, "--backbone", "test_efficientnet", *flags).assert_one_line_error(*words)
    assert not (tmp_path / "out").exists()


def decided(argv):
    """Return the settings of a command line, with all decided."""
    config = parse_run_config(argv, About("run_cv.py"))
    counts = {
        "epochs": 10,
        "batch_size": 8,
        "validation_batch_size": 8,
        "folds": 5,
        "repeats": 1,
        "threads": 1,
    }
    undecided = {name: value for name, value in counts.items() if flatten(config)[name] is None}
    undecided |= {name: value for name, value in RATES.items() if flatten(config)[name] == "auto"}
    return resolved(config, img_size="32x32", name="x", workers=0, **undecided)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--focal-gamma", "3"], "--focal-gamma has no effect here: it needs --loss focal"),
        (
            ["--model-ema-decay", "0.9"],
            "--model-ema-decay has no effect here: it needs --model-ema",
        ),
        (["--sched", "onecycle", "--min-lr", "1e-5"], "--min-lr has no effect here"),
        (["--loss", "f1", "--smoothing", "0.3"], "--smoothing has no effect here"),
        (
            ["--finetune", "head", "--mixup", "0.2"],
            "--mixup has no effect here: it needs a --finetune other than head",
        ),
        (["--finetune", "head", "--clip-grad", "1"], "--clip-grad has no effect here"),
        (["--average-last", "9", "--epochs", "3"], "so all are averaged"),
        (["--loss", "f1", "--grad-accum-steps", "2"], "F1 is computed per batch"),
    ],
)
def test_flags_without_effect_are_reported(flags, words):
    assert any(words in line for line in explain(decided(flags)))


def test_flags_with_effect_are_not_reported(module):
    flags = [
        "--loss",
        "ce",
        "--smoothing",
        "0.3",
        "--mixup",
        "0.2",
        "--mixup-prob",
        "0.5",
        "--min-lr",
        "1e-5",
    ]
    flags += [
        "--sched",
        "plateau",
        "--patience-epochs",
        "5",
        "--finetune",
        "2",
        "--select",
        "inner",
    ]
    assert explain(decided(flags)) == []
    assert explain(decided(["--finetune", "head", "--feature-views", "1"])) == []


def test_source_hash_of_a_part_that_is_not_a_class(module):
    text = (
        "import functools\nfrom examples.own_parts import Brier\nmine = functools.partial(Brier)\n"
    )
    name = f"{module(text)}:mine"
    before = source_hash([name])
    assert before is not None
    module(text + "# edited\n")
    assert source_hash([name]) not in (None, before)


@pytest.mark.slow
def test_custom_parts_reach_parallel_folds(tiny_layout, tmp_path, cv_command):
    base = ["--data", tiny_layout, "--output", tmp_path, *TINY, *OWN_FLAGS, "--workers", "1"]
    assert cv_command(*base, "--name", "one").code == 0
    assert cv_command(*base, "--name", "two", "--parallel-folds", "2").code == 0
    config = tmp_path / "one" / "config.yaml"
    same = ["--config", config, "--trust-parts", "--name", "three", "--output", tmp_path]
    assert cv_command(*same).code == 0
    one, *others = (Run(tmp_path / name).oof for name in ("one", "two", "three"))
    for other in others:
        pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_a_part_in_the_working_directory_is_found(tmp_path, monkeypatch):
    shutil.copy("examples/own_parts.py", tmp_path / "beside_me.py")
    monkeypatch.chdir(tmp_path)
    assert load_custom("beside_me:Brier", "--loss").__name__ == "Brier"
