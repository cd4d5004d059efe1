"""Plans of five folds on GPUs of 16, 24 and 80 GB, one and four of each; no GPU is needed.

    python benchmarks/gpu_plan.py

The memory of a fold is counted on fake tensors. The decoded images are those of 20,000 files.
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

from common import Results, parser, print_rows

from pipeline.config.settings import make_config
from pipeline.fold_memory import FoldMemory
from pipeline.prepare import prepare
from pipeline.training.count_fold import memory_of
from pipeline.training.gpu_cards import Card
from pipeline.training.gpu_plan import in_turn, plan_cards

NUM_FOLDS = 5
NUM_IMAGES = 20_000
# Backbone, side of its images, batch size.
MODELS = (
    ("efficientnet_b3", 288, 64),
    ("resnet18", 224, 256),
    ("vit_base_patch16_224", 224, 64),
    ("tf_efficientnet_b5", 456, 32),
)
GIB = 2**30
# Of its memory, a GPU has a little less free.
FREE = 0.97


def counted(args: argparse.Namespace, backbone: str, side: int, batch: int) -> FoldMemory:
    """Return the memory of a fold in bfloat16, with AdamW and 256 images in inference."""
    with tempfile.TemporaryDirectory() as folder:
        config = make_config(
            data=args.data,
            backbone=backbone,
            pretrained="none",
            img_size=side,
            batch_size=batch,
            validation_batch_size=256,
            device="cpu",
            output=folder,
            name="plan",
        )
        return memory_of(prepare(config, lambda _: None))


def planned(memory: FoldMemory, side: int, gigabytes: int, num_cards: int) -> dict[str, Any]:
    """Return the plan of the folds on equal GPUs as plain data."""
    free = int(FREE * gigabytes * GIB)
    cards = [Card(name=f"cuda:{number}", title="GPU", free=free) for number in range(num_cards)]
    plans = plan_cards(memory, cards, num_folds=NUM_FOLDS, images=NUM_IMAGES * side**2 * 3)
    most = max(plans, key=lambda plan: plan.used)
    return {
        "at_once": [plan.at_once for plan in plans],
        "gpu_of_each_fold": in_turn([plan.at_once for plan in plans]),
        "micro_batch": most.limits.micro_batch,
        "chunk": most.limits.chunk,
        "gives_memory_back": most.limits.releases,
        "images": "GPU" if most.images else "disk",
        "GB_of_a_fold": round(most.fold / GIB, 1),
        "GB_used": round(most.used / GIB, 1),
    }


def main() -> None:
    """Plan, unless the JSON file has the result, and print the table."""
    args = parser(__doc__, results="gpu_plan.json").parse_args()
    results = Results(args, device="cpu")
    rows: list[tuple[Any, ...]] = [
        ("model", "GPUs", "folds at once", "images per pass", "images in", "GB a fold", "GB used")
    ]
    for backbone, side, batch in MODELS:
        name = f"{backbone} at {side}, batch {batch}"
        if name not in results:
            memory = counted(args, backbone, side, batch)
            plans = {
                f"{num} x {gigabytes} GB": planned(memory, side, gigabytes, num)
                for gigabytes in (16, 24, 80)
                for num in (1, 4)
            }
            results.put(name, plans)
        for gpus, plan in results[name].items():
            passes = f"{plan['micro_batch']}, inference {plan['chunk']}"
            at_once = " + ".join(map(str, plan["at_once"]))
            row = (name, gpus, at_once, passes, plan["images"])
            rows.append((*row, plan["GB_of_a_fold"], plan["GB_used"]))
    print_rows("Five folds on GPUs", rows)


if __name__ == "__main__":
    main()
