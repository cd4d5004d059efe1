"""Facts of a data set that a plan depends on, and lines that say them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from foldblend.errors import UserError, counted
from foldblend.images import upright_size
from foldblend.words import plural
from folds.data.manifest import Manifest

__all__ = ["Fingerprint", "fingerprint"]

NUM_SIZES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """Facts of a data set."""

    name: str
    num_images: int
    num_groups: int
    group_name: str
    num_test: int
    num_classes: int
    smallest_class: int
    """Images of the rarest class that occurs."""
    largest_class: int
    width: int
    """Median width of the images in pixels."""
    height: int
    mixed_groups: float
    """Share of the groups of several images whose images differ in their class."""
    attributes: tuple[str, ...]
    """Properties that the classes imply."""

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as plain data, for plan.yaml."""
        return {**asdict(self), "attributes": list(self.attributes)}

    def lines(self) -> list[str]:
        """Return the facts as lines for a terminal."""
        groups = counted(self.num_groups, self.group_name)
        many = plural(self.group_name)
        within = (
            f"all images of each {self.group_name} have one class"
            if not self.mixed_groups
            else f"{self.mixed_groups:.0%} of the {many} have images of several classes"
        )
        return [
            f"data: {self.name}, {counted(self.num_images, 'image')} of {groups},"
            f" {self.num_classes} classes, {self.num_test:,} test images",
            f"images: {self.width}x{self.height} pixels (median); classes have"
            f" {self.smallest_class:,} to {counted(self.largest_class, 'image')}; {within}",
        ]


def fingerprint(manifest: Manifest) -> Fingerprint:
    """Return the facts of a data set; sizes are the median over at most 200 images."""
    train = manifest.train
    label_N = train["label"].to_numpy()
    counts_C = np.bincount(label_N, minlength=manifest.num_classes)
    occurring = counts_C[counts_C > 0]
    by_group = train.groupby("group")["label"]
    several = by_group.size() > 1
    mixed = by_group.nunique()[several] > 1
    sizes = []
    for path in train["path"].iloc[:: max(1, len(train) // NUM_SIZES)].head(NUM_SIZES):
        try:
            sizes.append(upright_size(path))
        except UserError:
            continue  # the reader of the data says which images are broken
    width, height = np.median(np.array(sizes or [(224, 224)]), axis=0)
    return Fingerprint(
        name=manifest.name,
        num_images=len(train),
        num_groups=int(train["group"].nunique()),
        group_name=manifest.group_name,
        num_test=0 if manifest.test is None else len(manifest.test),
        num_classes=manifest.num_classes,
        smallest_class=int(occurring.min()),
        largest_class=int(occurring.max()),
        width=int(width),
        height=int(height),
        mixed_groups=float(mixed.mean()) if len(mixed) else 0.0,
        attributes=tuple(one.name for one in manifest.attributes),
    )
