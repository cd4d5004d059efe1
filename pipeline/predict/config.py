"""Settings of predict.py; imports no torch."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ensemble.config import parse_budget
from foldblend.cluster.names import AUTO, LOCAL, check_address
from foldblend.errors import require
from foldblend.flags import check_lengths, expand_home, flag, from_settings
from foldblend.limits import check_limits, check_machine
from foldblend.plugins import parse_parts
from folds.config import DataConfig
from pipeline.config.trust import Trust

__all__ = ["FORMATS", "READING", "PredictConfig", "parse_models"]

FORMATS = (".csv", ".parquet", ".jsonl")
# Settings of the data that new images are read with; by default they are those of the run.
READING = (
    "image_col",
    "image_root",
    "label_col",
    "group_col",
    "group_regex",
    "group_from",
    "image_suffix",
    "box_cols",
    "sep",
    "encoding",
    "merge_case",
    "ids_as_written",
    "max_rows",
    "max_pixels",
)

# Of these, paths of the training images say nothing about new ones.
OWN = ("image_root", "group_regex", "group_from")


def parse_models(text: str) -> tuple[int, ...]:
    """Return the numbers of the models that a text such as "0" or "0,2" gives.

    Raises UserError for other texts.

    Examples
    --------
    >>> parse_models("0,2")
    (0, 2)
    """
    require(
        re.fullmatch(r"\d+(,\d+)*", text.replace(" ", "")) is not None,
        f"--folds {text}: pass numbers of folds from 0, such as 0 or 0,2",
    )
    return tuple(dict.fromkeys(int(one) for one in text.split(",")))


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictConfig:
    """Settings of prediction: the models, the images and what is written."""

    run: tyro.conf.Positional[str] = ""
    """Folder of a finished run, TTA'd run or blend, or a file of export_model.py."""
    images: tyro.conf.Positional[tuple[str, ...]] = ()
    """Images: files, folders, tables (.csv, .tsv, .jsonl, .parquet) or patterns such as
    'new/*.jpg'.
    """
    out: Annotated[str | None, tyro.conf.arg(aliases=["-o"])] = flag(None, common=True)
    """File to write: .csv, .parquet or .jsonl; its folder is made. An interrupted prediction
    is continued by the same command. Default: a CSV on the screen.
    """
    folds: str | None = flag(None, common=True)
    """Models to use, such as 0 for those of the first fold only, or 0,2. Default: all."""
    budget: str | None = flag(None, common=True)
    """For a blend: use an unweighted soft vote of members within this cost, such as 2x the cheapest
    member's. Its own out-of-fold score is shown.
    """
    unsure: float | None = flag(None, common=True)
    """Mark images whose probability of an error is above this, such as 0.1."""
    coverage: float | None = flag(None, common=True)
    """Give each image a set of classes that has the true one with this probability, such as 0.9."""
    coverage_by: Literal["all", "class"] = "all"
    """all: --coverage holds on average over images. class: for the images of each class."""
    on_bad_image: Literal["stop", "skip"] = flag("stop", common=True)
    """What to do if an image is missing or unreadable: stop with an error, or leave it out."""
    odd: bool = True
    """Compare the images with the training images: column odd; --no-odd leaves it out."""
    page: str | None = flag(None, common=True)
    """HTML page to write: counts by class, and images that are unsure or unlike the training ones.
    """
    resume: bool = True
    """Continue an interrupted prediction of the same images; --no-resume starts again."""
    safe_csv: bool = False
    """Put an apostrophe before file and class names in the CSV that a
    spreadsheet would take for a formula (they start with = + - @).
    """
    overwrite: bool = False
    """Replace --out if it is there."""
    device: str | None = None
    """Device such as cuda, cuda:1 or cpu. Default: the one used in training."""
    threads: int | None = None
    """Threads of the CPU. Default: as in training, with which predictions are equal bit for bit."""
    infer_engine: Literal["torch", "compile", "onnx", "openvino"] | None = None
    """Engine of the forward passes. Default: as in training, with which predictions are equal bit
    for bit.
    """
    backend: Literal["local", "ray"] = LOCAL
    """Where images are predicted. local: on this machine. ray: on all nodes of a Ray cluster that
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
    image_col: str | None = None
    """Column of a table with the path of the image. Default, here and below: as in training."""
    image_root: str | None = None
    """Folder that the paths in a table are relative to."""
    label_col: str | None = None
    """Column of a table with the class; where it is there, the predictions are scored."""
    group_col: str | None = None
    """Column of a table with the group; predictions by group are written as well."""
    group_regex: str | None = None
    """Group as a regular expression on the image's path."""
    group_from: Literal["none", "parent"] | None = None
    """parent: the group is the name of the image's folder."""
    image_suffix: str | None = None
    """Suffix of the images, such as .jpg."""
    box_cols: str | None = None
    """Four columns of a table with the box to crop to, as x1,y1,x2,y2."""
    sep: str | None = None
    """Separator of tables."""
    encoding: str | None = None
    """Encoding of tables, such as cp949."""
    merge_case: bool | None = None
    """Make one class or group of words that differ in letter case only."""
    ids_as_written: bool | None = None
    """Take labels and groups as they are written."""
    max_rows: int | None = None
    """Most rows of a table."""
    max_pixels: int | None = None
    """Most pixels of an image."""

    def __post_init__(self) -> None:
        expand_home(self, "run", "images", "out", "page")
        check_lengths(self, "out", "page")
        if self.folds is not None:
            parse_models(self.folds)
        parse_parts(self.parts)
        check_address(self.ray_address)
        check_limits(self.max_rows, self.max_pixels)
        if self.budget is not None:
            parse_budget(self.budget)
        for name in ("unsure", "coverage"):
            value = getattr(self, name)
            require(
                value is None or 0 < value < 1,
                f"--{name} {value}: pass a number between 0 and 1, such as"
                f" {0.1 if name == 'unsure' else 0.9}",
            )
        require(
            self.coverage_by == "all" or self.coverage is not None,
            "--coverage-by class: goes with --coverage, such as --coverage 0.9",
        )
        check_machine(threads=self.threads)
        if self.out is not None:
            suffix = Path(self.out).suffix.lower()
            require(
                suffix in FORMATS,
                f"--out {self.out}: pass a file with the suffix {', '.join(FORMATS)}",
            )
        require(
            self.page is None or Path(self.page).suffix.lower() in (".html", ".htm"),
            f"--page {self.page}: pass a file with the suffix .html",
        )

    @property
    def models(self) -> tuple[int, ...] | None:
        """Numbers of the models to use, None for all."""
        return None if self.folds is None else parse_models(self.folds)

    @property
    def trust(self) -> Trust:
        """Which parts of the user's own may be imported."""
        return Trust(parse_parts(self.parts), self.trust_parts)

    def beside(self, what: str) -> Path:
        """Return the file beside --out for "by_group" or "left_out" images."""
        path = Path(self.out or "")
        suffix = ".csv" if what == "left_out" else path.suffix
        return path.with_name(f"{path.stem}_{what}{suffix}")

    @property
    def written(self) -> list[tuple[str, Path]]:
        """Files that these settings may write, with the flag of each."""
        found = [] if self.out is None else [("--out", Path(self.out))]
        if self.out is not None and self.on_bad_image == "skip":
            found.append(("--out", self.beside("left_out")))
        if self.out is not None and (
            self.group_col or self.group_regex or self.group_from == "parent"
        ):
            found.append(("--out", self.beside("by_group")))
        return found if self.page is None else [*found, ("--page", Path(self.page))]

    def reading(self, of_run: Mapping[str, Any]) -> DataConfig:
        """Return the settings with which images are read; `of_run` are those of the training."""
        known = {one.name for one in dataclasses.fields(DataConfig)}
        own = {name: getattr(self, name) for name in READING}
        settings = {
            name: of_run[name]
            for name in READING
            if name not in OWN and of_run.get(name) is not None and name in known
        }
        settings |= {name: value for name, value in own.items() if value is not None}
        # The types of what a run folder or a file says are checked here.
        return from_settings(DataConfig, settings)
