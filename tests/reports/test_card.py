"""Tests of the report's section on use and limits, which the model card shares."""

from foldblend.runs.folder import write_json
from foldblend.runs.run import Run
from reports.run.card import TITLE, cost, limits, weights_of
from reports.run.report import write_report
from tests.makers.small_runs import LABELS, write_run


def report_of(run):
    write_report(run, page=False)
    return run.report


def test_limits_name_what_the_data_lacks(tmp_path):
    """Each class has four of twelve images; owls are taken out of the labels."""
    labels = [label % 2 for label in LABELS]
    run = Run(write_run(tmp_path / "zoo", labels, label=labels, label_raw=labels))
    text = " ".join(limits(run, report_of(run)))
    assert "other sources than zoo" in text
    assert "Images of owl: the data has none." in text
    assert "fewer than 10" in text
    assert "cat (" in text
    assert "A labelled test set: there was none" in text


def test_the_section_is_the_last_of_text_and_json(tmp_path):
    run = Run(write_run(tmp_path / "zoo", LABELS))
    write_json(run.path / "env.json", {"weights": {"source": "a package 1.0", "licence": "MIT"}})
    report = report_of(run)
    assert report["sections"][-1]["title"] == TITLE
    text = " ".join((run.path / "report.txt").read_text(encoding="utf-8").split())
    assert "Initial weights: a package 1.0, licence MIT." in text
    assert "python predict.py RUN IMAGES" in text
    assert f"Cost: {cost(run)}" in text


def test_what_is_not_recorded_is_left_out(tmp_path):
    run = Run(write_run(tmp_path / "zoo", LABELS))
    assert weights_of(run) is None
    assert cost(run).endswith("the time was not measured.")
    write_json(run.path / "env.json", {"weights": None})
    assert weights_of(run) is None
    (run.path / "env.json").write_text("[")
    assert weights_of(run) is None
