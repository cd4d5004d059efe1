"""A reader for --dataset: products with a form of the submission and labels of test images."""

from __future__ import annotations

from pathlib import Path

import foldblend as fb
from foldblend.runs.submission import SubmissionForm
from folds.config import DataConfig

KINDS = ("mug", "pan", "jar")
LABELLED = ("t0", "t2", "t3")
IDS = (("t3", "003"), ("t1", "NA"), ("t0", "000"))


def read_products(config: DataConfig) -> fb.Manifest:
    """Return 12 images of six products and four test images, three of them labelled."""
    root = Path(str(config.data))
    files = sorted(root.glob("train/images/*/normal.jpg"))
    tests = sorted(root.glob("eval/images/*"))[:4]
    assert len(files) == 12
    assert len(tests) == 4
    return fb.build_manifest(
        name="shop",
        root=root,
        image_id=[f"i{index:02d}" for index in range(12)],
        path=files,
        group=[f"product {index // 2}" for index in range(12)],
        label=[index // 2 % 3 for index in range(12)],
        test=[(f"t{index}", file) for index, file in enumerate(tests)],
        test_extra={"label": [0, -1, 2, 1]},
        classes=KINDS,
        answers=KINDS,
        group_name="product",
        submission=SubmissionForm(
            id_column="sku", columns=("jar", "mug"), kind="probabilities", classes=(2, 0), ids=IDS
        ),
    )
