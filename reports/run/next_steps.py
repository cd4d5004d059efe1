"""Next steps after a report: one list, which the terminal and the page show."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from foldblend.cli import program
from foldblend.errors import listed
from foldblend.runs.run import Run
from reports.run.text import is_alarm
from reports.text import groups_of, num

__all__ = ["next_steps", "quoted"]

# With fewer groups, the F1 of a class depends on which groups happen to be in the data.
FEW_GROUPS = 5
MOST_STEPS = 4
LEAST_CHANGE = 0.05  # of a temperature

Report = Mapping[str, Any]


def quoted(path: Path) -> str:
    """Return a path as it is typed in a shell; a pattern such as outputs/* stays one."""
    pattern = path.name == "*"
    text = shlex.quote(str(path.parent if pattern else path))
    return f"{text}/*" if pattern else text


def _is_marked(report: Report) -> bool:
    """Return whether the score is too high, so that blend.py refuses the run."""
    return any(map(is_alarm, report["notes"]))


def _suspected_labels(report: Report, folder: Path) -> Iterator[str]:
    found = report["suspects"].get("findings", ())
    if not found:
        return
    # A group and one of its images may both be reported, so images are counted once.
    num_images = len({image for one in found for image in one["image_ids"]})
    look = "looks" if num_images == 1 else "look"
    file = quoted(folder / "suspects.csv")
    yield (
        f"{num_images:,} of {report['num_images']:,} labels {look} wrong. Check them in {file},"
        f" delete the lines that you do not believe, and train again with --corrections {file}"
    )


def _rare_classes(report: Report, folder: Path) -> Iterator[str]:
    few = [row for row in report["per_class"] if row.get("groups", FEW_GROUPS) < FEW_GROUPS]
    if not few:
        return
    names = listed((f"{row['name']}: {row['groups']}" for row in few), most=3)
    groups = groups_of(report)
    which = "1 class has" if len(few) == 1 else f"{len(few)} classes have"
    yield (
        f"{which} fewer than {FEW_GROUPS} {groups} ({names}), so the F1 of each is mostly chance."
        f" Add {groups}, or merge classes"
    )


def _calibration(report: Report, folder: Path) -> Iterator[str]:
    one = report["calibration"]
    # An error below this is compatible with perfect calibration.
    chance = one["ece_by_chance"]["high"]
    if one["ece"] is None or chance is None or one["ece"] <= chance:
        return
    # A temperature so near to 1 changes little.
    if not one["applied"] or abs(one["temperature"] - 1) < LEAST_CHANGE:
        return
    what = "too confident" if one["temperature"] > 1 else "not confident enough"
    yield (
        f"The model is {what} (calibration error {num(one['ece'])}; a calibrated model stays"
        f" below {num(chance)}). The probabilities in {quoted(folder / 'predictions.csv')} are"
        f" corrected; divide logits that you use yourself by {one['temperature']:.2f}"
    )


def _other_commands(report: Report, folder: Path) -> Iterator[str]:
    siblings = folder.parent / "*"
    if report["kind"] == "cv":
        if Run(folder).frozen:
            # Linear heads have no features of views that they were not trained on.
            yield "Try test-time augmentation: train again with --tta hflip and another --name"
        else:
            yield f"Try test-time augmentation: {program('run_tta.py')} {quoted(folder)}"
        if not _is_marked(report):
            yield f"Train another backbone, then blend: {program('blend.py')} {quoted(siblings)}"
    elif report["kind"] == "import" and not _is_marked(report):
        yield f"Blend it with runs on the same data: {program('blend.py')} {quoted(siblings)}"
    else:
        yield f"Compare all runs: {program('leaderboard.py')} {quoted(siblings)}"


STEPS: tuple[Callable[[Report, Path], Iterator[str]], ...] = (
    _suspected_labels,
    _rare_classes,
    _calibration,
    _other_commands,
)


def next_steps(report: Report, folder: Path) -> list[str]:
    """Return what to look at next, most important first, each with what to type.

    Parameters
    ----------
    report
        The content of report.json.
    folder
        The run folder, as the user would type it.

    Returns
    -------
    list of str
        At most four sentences: suspected labels, classes with too few groups, calibration, and
        further commands.
    """
    return [step for steps in STEPS for step in steps(report, folder)][:MOST_STEPS]
