"""Facts for those who use a model: what it was not tested on, its weights and its cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foldblend.errors import UserError, counted, listed
from foldblend.runs.costs import device_of, num_passes, picture_seconds
from foldblend.runs.run import Run
from foldblend.runs.schema import read_environment
from reports.blocks import section, text_block
from reports.text import groups_of

__all__ = ["TITLE", "cost", "limits", "use_section", "weights_of"]

TITLE = "Use and limits"
# Below this, the score of a class says little about new groups.
FEW_GROUPS = 10


def limits(run: Run, report: Mapping[str, Any]) -> list[str]:
    """Return sentences on what a run was not tested on.

    Parameters
    ----------
    run
        The run.
    report
        Content of its report.json.
    """
    groups = groups_of(report)
    found = [
        f"Images of other sources than {run.info['data']['name']}, such as other places, cameras or"
        f" times: the scores are those of {report['num_groups']:,} {groups} of this data set."
    ]
    seen = {one["class"] for one in report["per_class"]}
    absent = [name for label, name in enumerate(run.classes) if label not in seen]
    if absent:
        found.append(f"Images of {listed(absent, most=9)}: the data has none.")
    few = [
        f"{one['name']} ({one['groups']})"
        for one in report["per_class"]
        if one["groups"] < FEW_GROUPS
    ]
    if few:
        found.append(
            f"More than a few {groups} of these classes, so their scores are uncertain (fewer than"
            f" {FEW_GROUPS} {groups}): {listed(few, most=9)}."
        )
    found.append("Images that show none of the classes: each image gets one of them.")
    if report.get("test_score") is None:
        found.append("A labelled test set: there was none, so all scores are out of fold.")
    return found


def weights_of(run: Run) -> Mapping[str, str] | None:
    """Return the source and the licence of the weights that a run started from, if recorded."""
    found = read_environment(run.path)
    return None if found is None else found.get("weights")


def cost(run: Run) -> str | None:
    """Return the cost of an image in words, or None where it is not recorded."""
    try:
        passes = counted(num_passes(run), "forward pass")
        seconds = picture_seconds(run)
        device = device_of(run)
    except UserError:
        return None
    if seconds is None:
        return f"{passes} per image; the time was not measured."
    where = "" if device is None else f" on {device}"
    return f"{passes} per image, {1000 * seconds:,.3g} ms{where}, without decoding."


def use_section(run: Run, report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the section on use and limits; the export's model card has more."""
    blocks = [text_block(f"Not tested on: {one}") for one in limits(run, report)]
    weights = weights_of(run)
    if weights is not None:
        source = weights.get("source", "unknown")
        licence = weights.get("licence", "unknown")
        blocks.append(text_block(f"Initial weights: {source}, licence {licence}."))
    spent = cost(run)
    if spent is not None:
        blocks.append(text_block(f"Cost: {spent}"))
    imported = run.info.get("imported_runs")
    if imported:
        text = (
            f"New images cannot be predicted, as {listed(imported)} has no models here: it was"
            " imported."
        )
        return section(TITLE, *blocks, text_block(text))
    blocks.append(
        text_block(
            "Predict new images: python predict.py RUN IMAGES --out predictions.csv. One file with"
            " a model card: python export_model.py RUN --to model.zip"
        )
    )
    return section(TITLE, *blocks)
