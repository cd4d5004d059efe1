"""Settings of test-time augmentation on a finished run. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from foldblend.cli import check_name
from foldblend.errors import did_you_mean, require
from tta.learn import WEIGHTINGS
from tta.merge import MERGES
from tta.views.names import parse_views

__all__ = ["AUTO_VIEWS", "TtaConfig"]

BUDGET = 4
AUTO_VIEWS = (
    "hflip,scale:1.1,scale:1.2,scale:0.9,rotate:5,rotate:-5,xshift:0.05,xshift:-0.05,yshift:0.05,yshift:-0.05,"
    "brightness:1.2,brightness:0.8,contrast:1.2,gamma:0.8,hflip*scale:1.1"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TtaConfig:
    """Which run is seen again, in which views, and what becomes of them."""

    run: tyro.conf.Positional[str] = ""
    """Folder of a finished run."""
    views: str = "auto"
    """Views such as hflip,scale:1.15 (see docs/tta.md), all of which are merged; auto chooses few
    of many, and of all that were saved before.
    """
    merge: str | None = None
    """mean (of log-probabilities), prob, entropy; view and class learn weights per view, per class
    and view. Left out: mean for given views, and with auto whatever is best.
    """
    budget: int | None = None
    """Most forward passes of a policy that --views auto may choose; 4 if left out."""
    name: str | None = None
    """Name of the run that is written beside; <run>_tta if left out."""
    overwrite: bool = False
    """Replace a run of that name that was made of other views."""
    page: bool = True
    """Draw report.html too."""
    data: str | None = None
    """Where the run's data lie now; where they lay in training if left out."""
    device: str | None = None
    """cuda, cuda:1, cpu; as in training if left out."""
    workers: Annotated[int | None, tyro.conf.arg(aliases=["-j"])] = None
    """Processes that read images; as in training if left out."""

    validation_batch_size: Annotated[int | None, tyro.conf.arg(aliases=["-vb"])] = None
    """Images a forward pass, each in one view; as in training if left out."""

    def __post_init__(self) -> None:
        known = [*MERGES, *WEIGHTINGS]
        if self.merge is not None:
            near = did_you_mean(self.merge, known)
            require(
                self.merge in known, f"--merge {self.merge}: unknown{near}; pass {', '.join(known)}"
            )
        if self.budget is not None:
            require(self.budget >= 1, f"--budget {self.budget}: pass 1 or more")
            require(
                self.views == "auto",
                f"--budget {self.budget}: is for --views auto; given views are all merged",
            )
        check_name(self.name)
        require(
            self.workers is None or self.workers >= 0, f"--workers {self.workers}: pass 0 or more"
        )
        size = self.validation_batch_size
        require(size is None or size >= 1, f"--validation-batch-size {size}: pass 1 or more")
        parse_views(AUTO_VIEWS if self.views == "auto" else self.views, "--views")

    @property
    def search(self) -> dict[str, Any]:
        """Settings of the search."""
        merges = tuple(name for name in MERGES if self.merge in (None, name))
        weightings = tuple(name for name in WEIGHTINGS if self.merge in (None, name))
        # Learned weights are of the mean; asked for alone, they have views chosen for the mean.
        return {
            "budget": self.budget or BUDGET,
            "merges": merges or ("mean",),
            "weightings": weightings,
        }
