"""Settings of test-time augmentation on a finished run; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from foldblend.cli import check_name
from foldblend.cluster.names import AUTO, LOCAL, check_address
from foldblend.errors import did_you_mean, require
from foldblend.flags import expand_home
from foldblend.limits import check_machine
from foldblend.plugins import parse_parts
from foldblend.scores.by_group import check_pool
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
    """Settings of test-time augmentation: the run, the views and how they are merged."""

    run: tyro.conf.Positional[str] = ""
    """Folder of a finished run."""
    views: str = "auto"
    """Views to merge, such as hflip,scale:1.15 (docs/tta.md lists all), or auto: choose the best of
    the usual views and of all views whose logits the run has already.
    """
    merge: str | None = None
    """How to merge the views: mean (of log-probabilities), prob (mean of probabilities), entropy
    (confident views count more), view (learned weight per view) or class (learned weight per class
    and view). Default: mean for given views; with --views auto the best of all five.
    """
    budget: int | None = None
    """Most forward passes per image that --views auto may use. Default: 4."""
    prefer: Literal["score", "simple"] | None = None
    """Which policy --views auto takes. score: the one with the best score on held-out groups.
    simple: a further view only if it improves that score by more than one standard error. Default:
    score, but a finished run that was made with simple keeps it.
    """
    score_by: Literal["image", "group"] | None = None
    """What the score counts: images, or groups, whose images' logits are averaged. Default: as the
    run.
    """
    group_pool: str | None = None
    """How a group's images become one prediction: mean, max or noisy-or (any image shows it).
    Default: as the run, or mean.
    """
    name: str | None = None
    """Name of the new run, which is written next to the old one. Default: <run>_tta."""
    overwrite: bool = False
    """Replace an existing run of this name that was made with other settings."""
    safe_csv: bool = False
    """Put an apostrophe before file and class names in submission and predictions that a
    spreadsheet would take for a formula (they start with = + - @).
    """
    page: bool = True
    """Write report.html as well."""
    report: Literal["short", "full"] = "short"
    """What is printed at the end: a first screen, or all of report.txt."""
    data: str | None = None
    """Folder of the run's data, if it has moved. Default: the folder used in training."""
    device: str | None = None
    """Device such as cuda, cuda:1 or cpu. Default: the one used in training."""
    workers: Annotated[int | None, tyro.conf.arg(aliases=["-j"])] = None
    """Number of processes that read images. Default: as in training."""

    validation_batch_size: Annotated[int | None, tyro.conf.arg(aliases=["-vb"])] = None
    """Images per forward pass, each in one view. Default: as in training."""

    backend: Literal["local", "ray"] = LOCAL
    """Where views are predicted. local: on this machine. ray: on all nodes of a Ray cluster that
    runs already and shares the files (extra ray).
    """
    ray_address: str = AUTO
    """The cluster: auto ($RAY_ADDRESS, or the one of this machine), host:port, or ray://host:port.
    """
    parts: str | None = None
    """Your own parts that the run's settings name and that may be imported, as module:name,
    comma-separated.
    """
    trust_parts: bool = False
    """Import such parts without their names, if their source is what the run was made with."""

    def __post_init__(self) -> None:
        expand_home(self, "run", "data")
        parse_parts(self.parts)
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
                f"--budget {self.budget}: works only with --views auto, since given views are all"
                " merged; leave one of the two out",
            )
        require(
            self.prefer is None or self.views == "auto",
            f"--prefer {self.prefer}: works only with --views auto, since given views are all"
            " merged; leave one of the two out",
        )
        if self.group_pool is not None:
            check_pool(self.group_pool)
        check_name(self.name)
        check_address(self.ray_address)
        check_machine(workers=self.workers)
        size = self.validation_batch_size
        require(size is None or size >= 1, f"--validation-batch-size {size}: pass 1 or more")
        parse_views(AUTO_VIEWS if self.views == "auto" else self.views, "--views")

    @property
    def search(self) -> dict[str, Any]:
        """Arguments of `tta.choose.searched`."""
        merges = tuple(name for name in MERGES if self.merge in (None, name))
        weightings = tuple(name for name in WEIGHTINGS if self.merge in (None, name))
        # Learned weights are those of a weighted mean, so their views are searched with the mean.
        return {
            "budget": self.budget or BUDGET,
            "merges": merges or ("mean",),
            "weightings": weightings,
        }
