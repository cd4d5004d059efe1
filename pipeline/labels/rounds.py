"""Rounds of pseudo-labels: runs one after the other, each with labels of the one before."""

from __future__ import annotations

from pathlib import Path

from foldblend.errors import require
from pipeline.config.run import RunConfig
from pipeline.config.settings import replace

__all__ = ["rounds_of"]


def rounds_of(config: RunConfig) -> list[RunConfig]:
    """Return the settings of each run that a command makes; one unless there are several rounds.

    The first round has the labels of --pseudo-from. Each run can be made alone by the command of
    its settings, and is resumed like any other.

    Raises UserError for several rounds without a name, or with only some folds.

    Examples
    --------
    >>> from pipeline.config.settings import make_config
    >>> config = make_config(pseudo_from="outputs/first", pseudo_rounds=2, name="second")
    >>> [(one.output.name, one.labels.pseudo_from) for one in rounds_of(config)]
    [('second-round1', 'outputs/first'), ('second', 'outputs/second-round1')]
    """
    num = config.labels.pseudo_rounds
    output = config.output
    if num == 1 or config.labels.pseudo_from is None:
        return [config]
    name = output.name
    require(name is not None, f"--pseudo-rounds {num}: pass --name, after which rounds are named")
    require(
        output.only_folds is None,
        f"--only-folds with --pseudo-rounds {num}: a round needs all folds of the one before; leave"
        " one of them out",
    )
    alone = {}
    if config.train.num_runs > 1:
        # A run of a seed has its own name, here with the round in it.
        alone["seeds"] = 1
        name = f"{name}-seed{config.train.seed}"
    names = [*(f"{name}-round{index}" for index in range(1, num)), str(name)]
    sources = [config.labels.pseudo_from, *(str(Path(output.output) / one) for one in names)]
    return [
        replace(config, name=own, pseudo_from=source, pseudo_rounds=1, **alone)
        for own, source in zip(names, sources, strict=False)
    ]
