"""Cross-validation: from settings to a run folder with out-of-fold and test logits."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foldblend.cli import Say, quiet
from foldblend.cluster.cluster import Cluster, opened
from foldblend.errors import UserError
from foldblend.progress import lines_to, write
from foldblend.runs.run import Run
from foldblend.scores.metrics import METRICS
from foldblend.spreadsheets import safe_csv
from pipeline.cluster.folds import check_data
from pipeline.config.run import RunConfig, parse_folds
from pipeline.config.settings import make_config, replace
from pipeline.dry_run import say_plan
from pipeline.job import Chosen
from pipeline.labels.rounds import rounds_of
from pipeline.make_run import make_run
from pipeline.prepare import prepare
from pipeline.processes import check_processes
from pipeline.refit import check_refit
from pipeline.training.leading import world_in_use

__all__ = ["cross_validate", "cross_validate_chosen", "cross_validate_seeds"]


Settings = RunConfig | Mapping[str, Any]


def _configured(config: Settings | None, settings: Mapping[str, Any]) -> RunConfig:
    """Return the configuration of a call; keyword settings override `config`."""
    if config is None or isinstance(config, Mapping):
        return make_config(config, **settings)
    if not isinstance(config, RunConfig):
        raise UserError(
            f"{config!r}: not a configuration; pass one of make_config, or settings by keyword"
        )
    return replace(config, **settings)


def cross_validate(config: Settings | None = None, /, *, say: Say = write, **settings: Any) -> Run:
    """Train and score all folds of a run, and return the run.

    If the run folder ``<output>/<name>/`` has finished folds of an equal run, they are kept, and an
    interrupted fold continues from its checkpoint. README.md describes the files of the folder.

    Parameters
    ----------
    config
        A configuration of `make_config`, or a mapping of settings; default: only the keyword
        settings.
    say
        Function that prints one line of the log.
    settings
        Settings by keyword, spelt as the flags of run_cv.py: ``backbone``, ``data``, ``folds``,
        ``epochs`` ... They override `config`.

    Returns
    -------
    Run
        The finished run; with ``only_folds`` it may lack folds, and with ``dry_run`` it need not
        exist.

    Raises
    ------
    UserError
        In one line that reports what to fix: a setting, a file, an image or the run folder.

    Examples
    --------
    >>> run = fb.cross_validate(data=data, backbone="test_resnet", folds=2, epochs=1, img_size=32,
    ...                         pretrained="none", output=output, name="c", say=silent)
    >>> run.oof.shape[0], len(run.classes)
    (84, 18)
    """
    rounds = rounds_of(_configured(config, settings))
    if rounds[0].output.dry_run and len(rounds) > 1:
        say(f"--pseudo-rounds {len(rounds)}: {len(rounds)} runs like the following one")
        rounds = rounds[:1]
    return [_run(one, say) for one in rounds][-1]


def cross_validate_chosen(config: RunConfig, chosen: Chosen, *, say: Say = write) -> Run:
    """Make a run whose settings were chosen on its folds, which its record and report say."""
    return _run(config, say, chosen)


def _run(config: RunConfig, say: Say, chosen: Chosen | None = None) -> Run:
    """Make a run, or its plan with --dry-run."""
    only = () if config.output.only_folds is None else parse_folds(config.output.only_folds)
    # Before the data are read, and again when the default batch size is known.
    check_processes(config, world_in_use())
    machine = config.machine
    with lines_to(say), opened(machine.backend, machine.ray_address, say) as cluster:
        if cluster is not None:
            # Before the data are read, which takes longer.
            cluster.check(Path(config.output.output))
        return _run_here(config, only, cluster, say, chosen)


def _run_here(
    config: RunConfig, only: Sequence[int], cluster: Cluster | None, say: Say, chosen: Chosen | None
) -> Run:
    """Make a run, or its plan with --dry-run, with the nodes of a cluster if there is one."""
    with lines_to(say):
        # The trials of a search have said what the data and the folds are.
        run = dataclasses.replace(prepare(config, say if chosen is None else quiet), chosen=chosen)
    if only and max(only) >= run.num_models:
        raise UserError(
            f"--only-folds {max(only)}: there are {run.num_models} folds, numbered from 0; pass"
            " smaller numbers"
        )
    check_refit(run)
    check_processes(run.config, world_in_use())
    folder = Path(run.config.output.output) / run.config.output.name
    if config.output.dry_run:
        with lines_to(say):
            say_plan(run, folder, only, resume=config.output.resume, say=say)
        return Run(folder)
    if cluster is not None:
        check_data(cluster, run)
    with lines_to(say), safe_csv(config.output.safe_csv):
        make_run(run, folder, only, cluster, resume=config.output.resume, say=say)
    return Run(folder)


def _with_seed(seed: int, say: Say) -> Say:
    """Return a function that says a line of a fold with the seed of its run."""

    def say_with_seed(line: str) -> None:
        say(f"seed {seed}, {line}" if line.startswith(("fold ", "repeat ")) else line)

    return say_with_seed


def cross_validate_seeds(
    config: Settings | None = None, /, *, say: Say = write, **settings: Any
) -> list[Run]:
    """Make one run per seed, on the same folds, and return the runs.

    With ``seeds=3`` and ``seed=0`` they are named <name>-seed0 to <name>-seed2. Each equals the run
    that `cross_validate` makes with that ``seed``. Parameters and errors are those of
    `cross_validate`.
    """
    config = _configured(config, settings)
    first = config.train.seed
    num = config.train.num_runs
    if config.output.dry_run:
        if num > 1:
            say(f"--seeds {num}: {num} runs like the following one")
        return [cross_validate(replace(config, seed=first), say=say)]
    seeds = {seed: replace(config, seed=seed) for seed in range(first, first + num)}
    machine = config.machine
    with opened(machine.backend, machine.ray_address, say) as cluster:
        if cluster is None or num == 1:
            runs = [cross_validate(one, say=say) for one in seeds.values()]
        else:
            # Folds of one seed need not wait for those of another.
            runs = cluster.together(
                [
                    functools.partial(cross_validate, one, say=_with_seed(seed, say))
                    for seed, one in seeds.items()
                ]
            )
    if num > 1 and config.output.only_folds is None:
        scores = [run.report["headline"]["value"] for run in runs]
        title = METRICS[config.output.metric].title
        spread = f"{min(scores):.4f} to {max(scores):.4f}"
        say(f"{num} seeds: OOF {title} {np.mean(scores):.4f} on average ({spread}); blend them:")
        say(f"python blend.py {' '.join(str(run.path) for run in runs)}")
    return runs
