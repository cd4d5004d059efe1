"""Tests of the score on the labels of test images."""

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics

from ensemble.blend import blend
from foldblend.runs.folder import write_table
from foldblend.runs.run import Run
from reports.board.leaderboard import leaderboard
from reports.board.page import board_page
from reports.board.text import board_lines
from reports.run.report import write_report
from reports.run.screen import screen_lines
from tests.makers.synthetic_runs import write_synthetic_run

NUM_TEST = 60
NUM_LABELLED = 40


def labelled(folder, *, seed=0, with_groups=False):
    """Write a run whose last 40 of 60 test images have labels, most of them as predicted."""
    run = Run(write_synthetic_run(folder, num_people=10, num_test=NUM_TEST, seed=seed))
    predicted_N = run.logits(run.test).argmax(axis=1)[NUM_TEST - NUM_LABELLED :]
    label_N = np.where(np.arange(NUM_LABELLED) % 4, predicted_N, (predicted_N + 1) % 18)
    table = pd.DataFrame(
        {
            "image_id": run.test["image_id"][NUM_TEST - NUM_LABELLED :],
            "label": label_N,
            "class": [run.classes[label] for label in label_N],
        }
    )
    # The order of the labels differs from that of the predictions.
    table = table.sort_values("image_id")
    if with_groups:
        table["group"] = [f"g{row // 5}" for row in range(NUM_LABELLED)]
    write_table(run.path / "test_labels.csv", table)
    return run


def test_the_score_is_that_of_the_mean_test_logits(tmp_path):
    run = labelled(tmp_path / "a")
    text = " ".join(write_report(run).split())
    one = run.report["test_score"]
    joined = run.test_labels.set_index("image_id")["label"].reindex(run.test["image_id"])
    known = joined.notna().to_numpy()
    label_N = joined[known].astype(int)
    predicted_N = run.logits(run.test)[known].argmax(axis=1)
    macro = sklearn.metrics.f1_score(
        label_N, predicted_N, labels=np.unique(label_N), average="macro"
    )
    assert one["score"]["value"] == pytest.approx(macro, abs=1e-12)
    assert one["score"]["low"] < macro < one["score"]["high"]
    assert (one["num_images"], one["num_groups"]) == (NUM_LABELLED, None)
    shown = f"Score on the test set macro F1 {macro:.4f} ["
    assert shown in text
    # It is the last block of the text.
    end = text[text.index(shown) :]
    assert end.endswith(
        "on the 40 labelled test images (95 % jackknife over images). These labels were"
        " used for nothing else."
    )
    page = (run.path / "report.html").read_text()
    assert '<h2 id="test-score">Score on the test set</h2>' in page
    assert f"Score on the test set: macro F1 {macro:.4f} [" in "\n".join(screen_lines(run))


def test_groups_of_test_images_are_resampled_whole(tmp_path):
    run = labelled(tmp_path / "a", with_groups=True)
    write_report(run, page=False)
    one = run.report["test_score"]
    assert one["num_groups"] == 8
    assert one["interval"] == "95 % jackknife over groups"
    text = " ".join((run.path / "report.txt").read_text().split())
    assert "40 labelled test images of 8 groups" in text


@pytest.mark.slow
def test_blends_pass_the_labels_on_and_choose_nothing_by_them(tmp_path):
    runs = [labelled(tmp_path / "a"), labelled(tmp_path / "b", seed=1)]
    both = blend(runs, name="both", page=False, say=lambda _: None)
    kept = (runs[0].path / "test_labels.csv").read_bytes()
    assert (both.path / "test_labels.csv").read_bytes() == kept
    assert both.report["test_score"]["num_images"] == NUM_LABELLED
    before = (both.path / "oof.parquet").read_bytes(), (both.path / "test.parquet").read_bytes()
    for run in runs:
        (run.path / "test_labels.csv").unlink()
    again = blend(runs, name="again", page=False, say=lambda _: None)
    after = (again.path / "oof.parquet").read_bytes(), (again.path / "test.parquet").read_bytes()
    assert before == after
    assert again.report["test_score"] is None


def test_boards_have_a_column_where_a_run_has_a_score(tmp_path):
    runs = [labelled(tmp_path / "a"), Run(write_synthetic_run(tmp_path / "b", num_people=10))]
    every = leaderboard(runs, metric="accuracy")
    [board] = every["boards"]
    value_of = {row["name"]: row["test"] for row in board["rows"]}
    assert value_of == {"a": 0.75, "b": None}
    text = "\n".join(board_lines(every, board, width=200))
    assert "0.7500" in text
    assert "test: score on the labels of test images" in text
    assert ">test</th>" in board_page(every)
    every = leaderboard(runs[1:])
    assert ">test</th>" not in board_page(every)
    assert "test:" not in "\n".join(board_lines(every, every["boards"][0], width=200))
