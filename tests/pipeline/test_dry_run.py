"""--dry-run says what a run would do and writes nothing."""

import pytest

import foldblend as fb
from pipeline import dry_run
from pipeline.training import gpu_share
from pipeline.training.gpu_cards import Card
from tests.makers.constants import TINY

GB = 10**9


@pytest.fixture
def flags(tiny_layout, tmp_path):
    return ["--data", tiny_layout, "--output", tmp_path / "out", "--backbone", "test_resnet", *TINY]


@pytest.fixture
def four_gpus(monkeypatch):
    cards = [Card(name=f"cuda:{number}", title="A GPU", free=8 * GB) for number in range(4)]
    monkeypatch.setattr(dry_run, "cards_of", lambda device: tuple(cards))


def test_a_dry_run_writes_nothing(flags, tmp_path, cv_command):
    done = cv_command(*flags, "--dry-run")
    assert done.code == 0, done.err
    assert not (tmp_path / "out").exists()
    assert "nothing is trained or written" in done.out
    assert "GPU memory of a fold (counted):" in done.out
    # The default of a GPU, since nobody typed another number.
    assert "inference, 256 images per pass" in done.out
    assert "--device cpu: no GPU is used, so this memory is not needed here" in done.out


def test_the_plan_names_each_gpu(flags, cv_command, four_gpus, monkeypatch):
    monkeypatch.setattr(gpu_share, "SHARE_STEPS", 0)
    done = cv_command(*flags, "--dry-run")
    lines = [line for line in done.out.splitlines() if line.startswith("cuda:")]
    # Two folds, one on each of two GPUs.
    assert [line.partition(" ")[0] for line in lines] == ["cuda:0", "cuda:1"]
    assert all("(A GPU, 8.0 GB free): 1 fold of " in line for line in lines)
    # A fold trains on 42 images, and a batch of the default has 32.
    passes = "images per forward pass: 32 in training, 256 in inference"
    assert all(line.endswith(passes) for line in lines)


def test_finished_folds_are_not_planned(flags, tmp_path, cv_command):
    assert cv_command(*flags, "--only-folds", "1").code == 0
    before = sorted(path.name for path in (tmp_path / "out").rglob("*"))
    assert "folds: 1 to train, 1 finished before" in cv_command(*flags, "--dry-run").out
    only = cv_command(*flags, "--dry-run", "--only-folds", "1,1")
    assert "folds: 0 to train, 1 finished before" in only.out
    again = cv_command(*flags, "--dry-run", "--no-resume")
    assert "folds: 2 to train, 0 finished before" in again.out
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == before


def test_a_batch_is_no_larger_than_the_images_of_a_fold(flags, cv_command):
    done = cv_command(*flags, "--dry-run", "--batch-size", "10000000")
    assert "training step, 42 images per pass" in done.out


def test_a_number_that_was_typed_is_kept(flags, cv_command):
    done = cv_command(*flags, "--dry-run", "--validation-batch-size", "48")
    assert "inference, 48 images per pass" in done.out


def test_wrong_settings_fail_as_in_a_run(flags, cv_command):
    done = cv_command(*flags, "--dry-run", "--only-folds", "7")
    assert done.code == 2
    assert "--only-folds 7: there are 2 folds" in done.err


@pytest.mark.parametrize("change", [["--lr", "0.5"], ["--folds", "3"]])
def test_a_folder_of_another_run_is_refused_as_in_a_run(flags, tmp_path, cv_command, change):
    assert cv_command(*flags, "--only-folds", "1").code == 0
    folder = next((tmp_path / "out").iterdir())
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    done = cv_command(*flags, *change, "--dry-run")
    assert done.code == 2
    assert "was made with a different configuration" in done.err
    # Without resuming, all folds are to be trained, and nothing is removed yet.
    done = cv_command(*flags, *change, "--dry-run", "--no-resume")
    assert done.code == 0, done.err
    assert "0 finished before" in done.out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_damaged_run_is_refused_as_in_a_run(flags, tmp_path, cv_command):
    assert cv_command(*flags, "--only-folds", "1").code == 0
    folder = next((tmp_path / "out").iterdir())
    (folder / "fold_1" / "best.safetensors").unlink()
    done = cv_command(*flags, "--dry-run")
    assert "folds: 2 to train, 0 finished before" in done.out
    (folder / "run.json").write_text("{")
    done = cv_command(*flags, "--dry-run")
    assert done.code == 2
    assert "run.json" in done.err


def test_several_seeds_have_one_plan(flags, cv_command):
    done = cv_command(*flags, "--dry-run", "--seeds", "3")
    assert done.code == 0, done.err
    assert "--seeds 3: 3 runs like the following one" in done.out
    assert done.out.count("nothing is trained or written") == 1


def test_a_frozen_backbone_needs_no_plan(flags, cv_command):
    done = cv_command(*flags, "--dry-run", "--finetune", "head")
    assert "the backbone is not trained" in done.out
    assert "GPU memory" not in done.out


def test_from_python(tiny_layout, tmp_path):
    said = []
    run = fb.cross_validate(
        data=tiny_layout,
        output=tmp_path / "out",
        backbone="test_resnet",
        pretrained="none",
        folds=2,
        img_size=32,
        dry_run=True,
        say=said.append,
    )
    assert not run.path.exists()
    assert any("all of it" in line for line in said)
