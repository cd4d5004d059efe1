"""Checks of a plan.yaml before its first run: a wrong name must not show after hours."""

from __future__ import annotations

from foldblend.errors import UserError
from foldblend.plugins import is_downloaded
from folds.data.source import check_source
from pipeline.models.backbones import check_backbone
from pipeline.plan.done import progress_of
from pipeline.plan.plan_file import Plan

__all__ = ["check_parts"]


def check_parts(plan: Plan) -> None:
    """Raise UserError if the data are not there, or a run that is left has an unknown backbone.

    Models of a hub are not looked up.
    """
    check_source(plan.config_of(plan.runs[0]).data)
    for run in plan.runs:
        backbone = plan.config_of(run).model.backbone
        is_done = progress_of(plan.runs_folder / run.name).state == "done"
        if is_done or is_downloaded(backbone):
            continue
        try:
            check_backbone(backbone)
        except UserError as error:
            raise UserError(f"run {run.name}: {error}") from None
