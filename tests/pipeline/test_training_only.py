"""Runs with images for training only: which rows are trained on, scored, written and blended."""

import shutil

import cv2
import numpy as np
import pandas as pd
import pytest

from ensemble.blend import blend
from foldblend.runs.run import Run
from pipeline.cv import cross_validate
from pipeline.data.feeding import Feeder
from pipeline.run_tta import run_tta
from tests.makers.drawn import WORDS, write_csv

QUIET = {"say": lambda _: None}
NUM_GROUPS = 12
HEADER = "image,label,group"
# The last four groups are for training only, and so are two images of the first one.
ALONE = {f"{index:03d}.png" for index in (0, 1, *range(24, 36))}
SETTINGS = {
    "group_col": "group",
    "backbone": "test_resnet",
    "epochs": 1,
    "batch_size": 4,
    "img_size": "32",
    "pretrained": "none",
    "workers": 0,
    "threads": 1,
    "log_pictures": False,
    "page": False,
    "infer_engine": "torch",
}


def table(num_groups=NUM_GROUPS):
    """Return rows of image, label and group; a group has an image of each class."""
    return [
        (f"{index:03d}.png", WORDS[index % 3], f"p{index // 3}") for index in range(3 * num_groups)
    ]


def draw_classes(folder, rows, noise=40.0):
    """Write noisy images of a colour per class."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, (name, word, _) in enumerate(rows):
        rng = np.random.default_rng(index)
        pixels = rng.normal(128, noise, (32, 32, 3))
        pixels[..., WORDS.index(word)] += 40
        cv2.imwrite(str(folder / name), np.clip(pixels, 0, 255).astype(np.uint8))


def write_folds(file, rows, alone=ALONE):
    """Write a file of three folds by group, with fold -1 for images for training only."""
    fold_of = {
        group: index % 3 for index, group in enumerate(dict.fromkeys(row[2] for row in rows))
    }
    lines = [(name, "-1" if name in alone else f"{fold_of[group]}.0") for name, _, group in rows]
    return write_csv(file, lines, header="image_id,fold")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return a folder of images, their table, a file of folds, and both halves of the table."""
    root = tmp_path_factory.mktemp("data")
    rows = table()
    draw_classes(root, rows)
    write_csv(root / "set.csv", rows, header=HEADER)
    write_csv(root / "scored.csv", [row for row in rows if row[0] not in ALONE], header=HEADER)
    write_csv(root / "extra.csv", [row for row in rows if row[0] in ALONE], header=HEADER)
    write_folds(root / "folds.csv", rows)
    return root


def run(data, output, name, *, csv="set.csv", folds="folds.csv", say=lambda _: None, **settings):
    """Make a run of a table and a file of folds in the folder of the data."""
    given = {"csv": str(data / csv), "fold_file": str(data / folds)}
    return cross_validate(SETTINGS | given | settings, output=str(output), name=name, say=say)


@pytest.fixture(scope="module")
def outputs(data, tmp_path_factory):
    """Return a folder of runs: with fold -1, with --extra-csv, and of the scored rows alone."""
    output = tmp_path_factory.mktemp("runs")
    run(data, output, "minus")
    run(data, output, "extra", csv="scored.csv", extra_csv=str(data / "extra.csv"))
    run(data, output, "bare", csv="scored.csv")
    return output


def fold_groups(fold):
    return {f"p{index}" for index in range(NUM_GROUPS) if index % 3 == fold}


@pytest.mark.parametrize("select", ["last", "inner"])
def test_no_fold_trains_on_its_held_out_groups(data, tmp_path, monkeypatch, select):
    seen = []
    train = Feeder.train

    def spied(self, rows, **how):
        seen.append(rows)
        return train(self, rows, **how)

    monkeypatch.setattr(Feeder, "train", spied)
    made = run(data, tmp_path, "spied", select=select)
    assert len(seen) == 3
    for fold, rows in enumerate(seen):
        held = made.oof[made.oof["fold"] == fold]
        assert not {*rows["image_id"]} & {*held["image_id"]}
        assert not {*rows["group"]} & {*held["group"]}
        learnt = {*rows["image_id"]} & ALONE
        # The two images of p0 are left out where p0 is held out, and nowhere else.
        mixed = {"000.png", "001.png"}
        assert learnt - mixed == ALONE - mixed
        if select == "last":
            assert learnt & mixed == (set() if fold == 0 else mixed)
            assert {*rows["image_id"]} - ALONE == {*made.oof["image_id"]} - {*held["image_id"]}
        elif "p0" not in {*rows["group"]}:
            assert not learnt & mixed


@pytest.mark.parametrize("how", [{}, {"finetune": "head"}])
def test_held_out_labels_have_no_effect_on_their_logits(data, tmp_path, how):
    flipped = {"cat": "owl", "owl": "cat", "dog": "dog"}
    rows = table()
    # All labels of the groups that fold 0 holds out, scored or not.
    changed = [
        (name, flipped[word] if group in fold_groups(0) and group != "p9" else word, group)
        for name, word, group in rows
    ]
    assert changed != rows
    draw_classes(tmp_path / "data", rows)
    found = []
    for name, one in (("before", rows), ("after", changed)):
        write_csv(tmp_path / "data" / f"{name}.csv", one, header=HEADER)
        made = run(data, tmp_path, name, csv=tmp_path / "data" / f"{name}.csv", **how)
        found.append(made.oof.set_index("image_id").sort_index())
    before, after = found
    logits = [name for name in before if name.startswith("logit_")]
    in_fold = before["fold"] == 0
    assert (before.loc[in_fold, "label"] != after.loc[in_fold, "label"]).any()
    diff_N = np.abs(before[logits] - after[logits]).max(axis=1)
    # Heads of all folds are fitted together, up to a tolerance.
    assert diff_N[in_fold].max() <= (1e-3 if how else 0)
    assert diff_N[~in_fold].min() > (1e-3 if how else 0)


def test_images_for_training_only_are_nowhere_scored(outputs):
    made = Run(outputs / "minus")
    scored = {row[0] for row in table()} - ALONE
    assert {*made.oof["image_id"]} == scored
    assert made.info["data"]["num_images"] == len(scored) == 22
    assert made.info["data"]["num_training_only"] == 14
    folds = pd.read_csv(made.path / "folds.csv")
    assert {*folds.loc[folds["fold"] == -1, "image_id"]} == ALONE
    assert {*folds.loc[folds["fold"] >= 0, "image_id"]} == scored
    text = " ".join((made.path / "report.txt").read_text().split())
    assert "14 images are for training only and never scored; 2 of them, which share a" in text
    pictures = pd.read_parquet(made.path / "pictures.parquet").groupby("part").size()
    assert pictures.to_dict() == {"train": 22, "training only": 14}


def test_both_ways_to_give_them_make_the_same_logits(outputs):
    minus, extra, bare = (Run(outputs / name) for name in ("minus", "extra", "bare"))
    pd.testing.assert_frame_equal(minus.oof, extra.oof, check_exact=True)
    assert not np.allclose(minus.logits(minus.oof), bare.logits(bare.oof), atol=1e-4)
    keys = [one.info["run_key"] for one in (minus, extra, bare)]
    assert keys[0] == keys[1]
    assert keys[2] == {k: v for k, v in keys[0].items() if k != "images for training only"}
    data = [one.info["data"] for one in (minus, bare)]
    assert data[0]["train_ids_hash"] == data[1]["train_ids_hash"]


def test_they_blend_with_a_run_of_the_scored_rows(outputs, tmp_path):
    paths = [outputs / name for name in ("minus", "bare")]
    both = blend(paths, method="soft", output=str(tmp_path), **QUIET)
    assert {*both.oof["image_id"]} == {row[0] for row in table()} - ALONE
    assert not any("different" in str(note) for note in both.info.get("notes", []))


@pytest.mark.slow
def test_folds_of_such_a_run_are_used_again(data, outputs, tmp_path):
    lines = []
    again = run(data, tmp_path, "again", folds=outputs / "minus", say=lines.append)
    pd.testing.assert_frame_equal(again.oof, Run(outputs / "minus").oof, check_exact=True)
    # The same folds without these images, which is told.
    bare = run(data, tmp_path, "bare", csv="scored.csv", folds=outputs / "minus", say=lines.append)
    pd.testing.assert_frame_equal(bare.oof, Run(outputs / "bare").oof, check_exact=True)
    assert any("14 images of fold -1 (training only) that the data do not" in one for one in lines)


def test_an_interrupted_run_is_continued(data, outputs, tmp_path):
    copy = shutil.copytree(outputs / "minus", tmp_path / "minus")
    (copy / "fold_1" / "done.json").unlink()
    lines = []
    made = run(data, tmp_path, "minus", say=lines.append)
    assert sum("finished before, kept" in line for line in lines) == 2
    pd.testing.assert_frame_equal(made.oof, Run(outputs / "minus").oof, check_exact=True)


@pytest.mark.slow
def test_views_are_added_to_such_runs(outputs, tmp_path):
    for name in ("minus", "extra"):
        copy = shutil.copytree(outputs / name, tmp_path / name)
        made = run_tta(copy, views="hflip", **QUIET)
        assert {*made.oof["image_id"]} == {row[0] for row in table()} - ALONE


def test_other_images_make_another_run(data, outputs, tmp_path, cv_command):
    rows = [row for row in table() if row[0] in ALONE]
    fewer = write_csv(tmp_path / "fewer.csv", rows[:-1], header=HEADER)
    for row in rows:
        (tmp_path / row[0]).symlink_to(data / row[0])
    argv = [word for key, value in SETTINGS.items() for word in _words(key, value)]
    argv += ["--csv", data / "scored.csv", "--fold-file", data / "folds.csv"]
    argv += ["--output", outputs, "--name", "extra"]
    said = cv_command(*argv, "--extra-csv", fewer)
    said.assert_one_line_error("different images for training only", "--no-resume")


def _words(key, value):
    flag = f"--{key.replace('_', '-')}"
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    return [flag, value]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([(row[0], -1, 0) for row in table()], ["all rows have fold -1", "f.csv", "--fold-file"]),
        (
            [
                (row[0], -1 if (index, repeat) == (5, 1) else index // 3 % 3, repeat)
                for repeat in (0, 1)
                for index, row in enumerate(table())
            ],
            ["005.png has fold -1", "not in all", "f.csv"],
        ),
    ],
)
def test_folds_that_cannot_be_used_write_nothing(data, tmp_path, cv_command, rows, words):
    file = write_csv(tmp_path / "f.csv", rows, header="image_id,fold,repeat")
    argv = ["--csv", data / "set.csv", "--group-col", "group", "--fold-file", file]
    said = cv_command(*argv, "--output", tmp_path / "out", "--name", "x")
    said.assert_one_line_error(*words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (("024.png", "cow", "a"), ["'cow' in line 2", "no class of the data"]),
        (("003.png", "cat", "a"), ["'003.png' in line 2", "in the data as well"]),
        (("024.png", "cat"), ["line 2"]),
    ],
)
def test_extra_images_that_cannot_be_used_write_nothing(data, tmp_path, cv_command, row, words):
    file = write_csv(tmp_path / "more.csv", [row], header=HEADER)
    argv = ["--csv", data / "scored.csv", "--image-root", data, "--group-col", "group"]
    said = cv_command(*argv, "--extra-csv", file, "--output", tmp_path / "out", "--name", "x")
    said.assert_one_line_error("more.csv", *words)
    assert not (tmp_path / "out").exists()


def test_repeats_have_the_same_images_for_training_only(data, tmp_path):
    lines = pd.read_csv(data / "folds.csv")
    other = lines.assign(fold=lines["fold"].where(lines["fold"] < 0, 2 - lines["fold"]))
    both = pd.concat([lines.assign(repeat=0), other.assign(repeat=1)])
    both.to_csv(tmp_path / "folds.csv", index=False)
    made = run(data, tmp_path, "twice", folds=tmp_path / "folds.csv", finetune="head")
    assert made.info["num_repeats"] == 2
    assert made.oof.groupby("repeat")["image_id"].nunique().tolist() == [22, 22]
    folds = pd.read_csv(made.path / "folds.csv")
    assert (folds.loc[folds["fold"] == -1].groupby("repeat")["image_id"].nunique() == 14).all()
    lines = []
    run(data, tmp_path, "twice", folds=tmp_path / "folds.csv", finetune="head", say=lines.append)
    assert any("finished before, so nothing was trained" in line for line in lines)


def test_a_dry_run_counts_them(data, tmp_path):
    lines = []
    run(data, tmp_path, "dry", dry_run=True, device="cpu", say=lines.append)
    assert any("22 images of 8 groups, 14 for training only" in line for line in lines)
    # 22 * 2 // 3 + 14 images a fold, 4 a step.
    assert any("1 epoch of 7 steps" in line for line in lines)
    assert not (tmp_path / "dry").exists()


def permuted_scores(tmp_path, *, seeds=5, num_scored=12, num_alone=60, noise=160.0):
    """Return the out-of-fold score with true labels of images for training only, and permuted.

    The last value is that without these images.
    """
    rows = table(num_scored + num_alone)
    alone = {row[0] for row in rows[3 * num_scored :]}
    draw_classes(tmp_path, rows, noise)
    write_folds(tmp_path / "folds.csv", rows, alone)
    how = {"finetune": "head", "metric": "accuracy", "head_l2": "0.03"}

    def score(name, rows):
        write_csv(tmp_path / f"{name}.csv", rows, header=HEADER)
        made = run(tmp_path, tmp_path, name, csv=f"{name}.csv", **how)
        assert not {*made.oof["image_id"]} & alone
        return made.report["headline"]["value"]

    permuted = []
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(3 * num_alone) + 3 * num_scored
        words = [row[1] for row in rows]
        words[3 * num_scored :] = [words[index] for index in order]
        mixed = [(name, word, group) for (name, _, group), word in zip(rows, words, strict=True)]
        permuted.append(score(f"permuted{seed}", mixed))
    return score("true", rows), permuted, score("bare", rows[: 3 * num_scored])


@pytest.mark.slow
def test_permuted_labels_of_images_for_training_only_lower_the_score(tmp_path):
    true, permuted, bare = permuted_scores(tmp_path)
    print(f"true {true:.3f}, permuted {np.mean(permuted):.3f} ({permuted}), without {bare:.3f}")
    assert np.mean(permuted) < true - 0.1
