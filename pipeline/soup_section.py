"""Section of a report on the soups of a run: which seeds the model of each fold is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from foldblend.scores.metrics import METRICS
from foldblend.words import plural
from pipeline.job import Prepared
from reports.blocks import section, table_block, text_block
from reports.text import num

__all__ = ["soup_section"]


def soup_section(run: Prepared, folds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the section on the soups of a run; `folds` has the done.json of each fold."""
    train = run.config.train
    title = METRICS[run.config.output.metric].title
    groups = plural(run.manifest.group_name)
    seeds = range(train.seed, train.seed + train.num_ingredients)
    text = (
        f"The model of a fold has the mean weights of some of its {len(seeds)} seeds. They were"
        f" chosen by the {title} on a fifth of the fold's training {groups}, on which no seed was"
        f" trained. The scored {groups} had no part in it."
    )
    header = ["fold", *(f"seed {seed}" for seed in seeds), "mean weights", "seeds in them"]
    rows = [
        [
            str(index),
            *(num(score) for score in fold["seed_scores"]),
            num(fold["soup_score"]),
            ", ".join(map(str, fold["soup"])),
        ]
        for index, fold in enumerate(folds)
    ]
    return section("Soups of seeds", text_block(text), table_block(header, rows))
