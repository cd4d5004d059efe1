"""Repeated cross-validation, and folds from a file."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import run_cv
from ensemble.blend import blend
from foldblend.errors import UserError
from foldblend.runs.run import Run
from foldblend.scores.metrics import METRICS, softmax
from folds.fold_file import read_fold_file
from tests.makers.constants import TINY

QUIET = {"say": lambda _: None}


@pytest.fixture(scope="module")
def repeated(tiny_layout: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    outputs = tmp_path_factory.mktemp("repeated")
    argv = [
        "--data",
        tiny_layout,
        "--output",
        outputs,
        "--name",
        "twice",
        "--backbone",
        "test_resnet",
        *TINY,
    ]
    assert run_cv.main([str(word) for word in [*argv, "--repeats", "2", "--tta", "hflip"]]) == 0
    return Run(outputs / "twice")


def test_each_repeat_holds_out_every_image_once_in_different_folds(repeated, alpha):
    assert len(repeated.oof) == 2 * len(alpha.oof)
    assert repeated.info["num_repeats"] == 2
    first, second = (repeated.oof[repeated.oof["repeat"] == repeat] for repeat in (0, 1))
    assert (
        first["image_id"].tolist() == second["image_id"].tolist() == sorted(alpha.oof["image_id"])
    )
    assert (first["fold"].to_numpy() != second["fold"].to_numpy()).any()
    # Repeat 0 has the folds that a run without repeats has.
    assert first["fold"].tolist() == alpha.oof.sort_values("image_id")["fold"].tolist()
    assert set(pd.read_csv(repeated.path / "folds.csv")["repeat"]) == {0, 1}
    logits = np.mean([repeated.logits(repeated.test_fold(index)) for index in range(4)], axis=0)
    assert np.allclose(repeated.logits(repeated.test), logits, atol=1e-6)


def test_the_score_is_the_mean_over_repeats(repeated):
    scores = []
    for _, rows in repeated.oof.groupby("repeat"):
        scores.append(
            METRICS["f1_macro"].score(rows["label"].to_numpy(), softmax(repeated.logits(rows)))
        )
    assert repeated.report["headline"]["value"] == pytest.approx(np.mean(scores))
    assert "2 folds x 2 repeats" in (repeated.path / "report.txt").read_text()
    views = repeated.report["sections"][0]["blocks"][0]["rows"]
    assert views[-1]["headline"]["value"] == repeated.report["headline"]["value"]


def test_an_interrupted_repeat_is_continued(repeated, tmp_path, tiny_layout, cv_command):
    import shutil

    copy = Path(shutil.copytree(repeated.path, tmp_path / "twice"))
    before = {file: file.read_bytes() for file in copy.glob("fold_*/oof.parquet")}
    (copy / "fold_3" / "done.json").unlink()
    argv = [
        "--data",
        tiny_layout,
        "--output",
        tmp_path,
        "--name",
        "twice",
        "--backbone",
        "test_resnet",
        *TINY,
    ]
    said = cv_command(*argv, "--repeats", 2, "--tta", "hflip")
    assert said.code == 0
    assert said.out.count("finished before, kept") + said.err.count("finished before, kept") == 3
    assert all(file.read_bytes() == content for file, content in before.items())


@pytest.mark.slow
def test_a_blend_of_runs_with_and_without_repeats(repeated, alpha, tmp_path):
    both = blend([repeated.path, alpha.path], method="soft", output=str(tmp_path), **QUIET)
    assert both.info["num_repeats"] == 2
    for repeat, rows in both.oof.groupby("repeat"):
        ids = rows["image_id"]
        mine = repeated.oof[repeated.oof["repeat"] == repeat].set_index("image_id").loc[ids]
        theirs = alpha.oof.set_index("image_id").loc[ids]
        proba = (softmax(repeated.logits(mine)) + softmax(alpha.logits(theirs))) / 2
        assert np.allclose(softmax(both.logits(rows)), proba, atol=1e-6)


def test_fold_file_of_another_run(alpha, tiny_layout, tmp_path, cv_command):
    table = pd.read_csv(alpha.path / "folds.csv").sample(frac=1, random_state=0)[
        ["image_id", "fold"]
    ]
    # Fold numbers 2 and 1: another order and another start.
    table["fold"] = 2 - table["fold"]
    table.to_csv(tmp_path / "mine.csv", index=False)
    argv = [
        "--data",
        tiny_layout,
        "--output",
        tmp_path,
        "--name",
        "took",
        "--backbone",
        "test_resnet",
    ]
    assert cv_command(*argv, *TINY[2:], "--fold-file", tmp_path / "mine.csv").code == 0
    took = Run(tmp_path / "took").oof.set_index("image_id")["fold"]
    assert (took == 1 - alpha.oof.set_index("image_id").loc[took.index, "fold"]).all()
    # The file has the same name, but other folds.
    table.assign(fold=table["fold"] % 2).to_csv(tmp_path / "mine.csv", index=False)
    cv_command(*argv, *TINY[2:], "--fold-file", tmp_path / "mine.csv").assert_one_line_error(
        "fold file", "--name"
    )
    said = cv_command(*argv[:-4], "--name", "x", *TINY[2:], "--folds", 3, "--fold-file", alpha.path)
    said.assert_one_line_error("--folds 3", "has 2")
    assert not (tmp_path / "x").exists()


def test_fold_files_that_cannot_be_used(tmp_path):
    train = pd.DataFrame({"image_id": list("abcd"), "group": ["p", "p", "q", "q"]})
    file = tmp_path / "folds.csv"

    def refused(rows: dict, *words: str) -> None:
        pd.DataFrame(rows).to_csv(file, index=False)
        with pytest.raises(UserError) as error:
            read_fold_file(file, train)
        assert all(word in str(error.value) for word in [str(file), *words]), error.value

    refused({"image_id": list("abc"), "fold": [0, 0, 1]}, "lacks images", "d")
    refused({"image_id": list("abcde"), "fold": [0, 0, 1, 1, 1]}, "not in the data", "e")
    refused({"image_id": list("abcda"), "fold": [0, 0, 1, 1, 0]}, "twice", "a")
    refused({"image_id": list("abcd"), "fold": [0, 1, 1, 1]}, "group p", "more than one fold")
    refused({"image_id": list("abcd"), "fold": [0, 0, "one", 1]}, "'fold'", "line 4")
    refused({"image_id": list("abcd"), "fold": [0, 0, -2, 1]}, "'fold'", "line 4")
    refused({"image_id": list("abcd"), "fold": [0, 0, 1.5, 1]}, "'fold'", "line 4")
    refused({"image_id": list("abcd"), "fold": [0, 0, -1, 1]}, "c has fold -1", "leave it out")
    refused({"image_id": list("abcd"), "fold": [0, 0, 10**30, 1]}, "'fold'", "line 4")
    refused({"image_id": list("abcd"), "fold": [0, 0, 0, 0]}, "only one fold")
    refused({"image_id": list("abcd"), "part": [0, 0, 1, 1]}, "no column fold", "part")
    refused({"image_id": [], "fold": []}, "no rows")
    refused(
        {"image_id": list("abcdabc"), "fold": [0, 0, 1, 1, 0, 0, 1], "repeat": [0] * 4 + [1] * 3},
        "repeat 1",
        "d",
    )
    refused(
        {
            "image_id": list("abcdabcd"),
            "fold": [0, 0, 1, 1, 0, 0, 0, 0],
            "repeat": [0] * 4 + [1] * 4,
        },
        "repeats differ",
    )
    with pytest.raises(UserError, match=r"nowhere.csv"):
        read_fold_file(tmp_path / "nowhere.csv", train)
