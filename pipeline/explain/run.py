"""Explanations of a finished run's mistakes, kept in explain.json of its folder."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pandas as pd

from foldblend.cli import Say
from foldblend.errors import UserError, counted, in_a_line, listed
from foldblend.files import is_file
from foldblend.plugins import parse_parts
from foldblend.progress import Task, lines_to, write
from foldblend.runs.broken import BrokenRun
from foldblend.runs.check import finished_run
from foldblend.runs.folder import PICTURES, check_there, lock_folder
from foldblend.runs.run import Run
from pipeline.config.trust import Trust
from pipeline.data.preprocess import Preprocess
from pipeline.device import threads_restored
from pipeline.explain.source import Mistake, Name, Source, mistakes_of, source_of
from reports.run.explain_file import EXPLAIN, ExplainInfo, MapInfo, read_explain, write_explain

if TYPE_CHECKING:
    from pipeline.explain.maker import Maker

__all__ = ["explain"]

# Images at a time, each with two classes.
TOGETHER = 8
EXTRA = "pip install 'foldblend[explain]' installs it"


def _version() -> str:
    """Return the version of Captum; raise UserError if it is not installed or cannot be used."""
    if importlib.util.find_spec("captum") is None:
        raise UserError(f"--explain: captum is not installed; {EXTRA}")
    try:
        importlib.import_module("captum.attr")
        return importlib.metadata.version("captum")
    # A damaged installation may raise anything when it is imported.
    except Exception as error:
        why = in_a_line(error)
        raise UserError(f"--explain: captum cannot be imported: {why}; {EXTRA}") from None


@threads_restored()
def explain(
    run: str | Path | Run,
    *,
    device: str | None = None,
    threads: int | None = None,
    parts: str | None = None,
    trust_parts: bool = False,
    say: Say = write,
) -> Path:
    """Show where a run's models looked in the images that a report shows as mistakes.

    Each image is explained by the model that did not train on it, for the predicted class and for
    the true one. The maps are kept in explain.json of the run folder, where `write_report` finds
    them; those that are there already are not computed again. They are hints, not proofs.

    Parameters
    ----------
    run
        A finished run, TTA'd run or blend, or its folder.
    device, threads
        Device and number of threads; None: those of the run.
    parts
        Your own parts that the run's settings name and that may be imported.
    trust_parts
        Import such parts without their names, if their source is what the run was made with.
    say
        Function that prints one line of the log.

    Returns
    -------
    Path
        The file with the maps.

    Raises
    ------
    UserError
        If Captum is not installed, or the run has no models or images.

    Examples
    --------
    >>> fb.explain(outputs / "alpha", say=silent).name
    'explain.json'
    """
    version = _version()
    run = run if isinstance(run, Run) else finished_run(run)
    trust = Trust(parse_parts(parts), trust_parts)
    with lines_to(say), lock_folder(run.path, flags=(None, None)):
        source = source_of(run, trust=trust, say=say)
        mistakes = mistakes_of(run, source)
        key: ExplainInfo = {
            "format": 1,
            "oof": run.oof_hash,
            "of": {
                "name": source.run.name,
                "oof": source.run.oof_hash,
                "models": source.fingerprint,
            },
            "captum": version,
            "area": _area(source.leaf.recipe.preprocess),
        }
        kept = _kept(run, key, say)
        maps = _fitting(kept or (), mistakes)
        if kept is None or any(one.name not in maps for one in mistakes):
            # This imports Captum.
            from pipeline.explain.maker import Maker

            maker = Maker(source.leaf, device=device, threads=threads, say=say)
            _make(run, source, mistakes, maps, key, maker)
        of = "" if source.run.path == run.path else f" by the models of {source.run.name}"
        say(f"explained {counted(len(mistakes), 'mistake')}{of}: {run.path / EXPLAIN}")
    return run.path / EXPLAIN


def _area(preprocess: Preprocess) -> list[float]:
    """Return the part of an image that the model sees, as shares of its crop."""
    width, height = preprocess.stored_size
    left = (width - preprocess.width) // 2
    top = (height - preprocess.height) // 2
    return [
        left / width,
        top / height,
        (left + preprocess.width) / width,
        (top + preprocess.height) / height,
    ]


def _kept(run: Run, key: ExplainInfo, say: Say) -> list[MapInfo] | None:
    """Return the maps in explain.json, or None if other models made it or it cannot be read."""
    try:
        found = read_explain(run.path)
    except UserError as error:
        say(f"{error.why if isinstance(error, BrokenRun) else error}")
        return None
    if found is None or any(found[name] != key[name] for name in key):  # type: ignore[literal-required]
        return None
    return found["maps"]


def _fitting(maps: Iterable[MapInfo], mistakes: Iterable[Mistake]) -> dict[Name, MapInfo]:
    """Return the maps of mistakes, by name, without those of other classes."""
    wanted = {one.name: (one.predicted, one.label) for one in mistakes}
    found = {(one["image_id"], one["repeat"]): one for one in maps}
    return {
        name: one
        for name, one in found.items()
        if wanted.get(name) == (one["predicted"]["label"], one["true"]["label"])
    }


def _make(
    run: Run,
    source: Source,
    mistakes: Sequence[Mistake],
    maps: dict[Name, MapInfo],
    key: ExplainInfo,
    maker: Maker,
) -> None:
    """Make the maps of mistakes that are not in `maps`, and write all after each model."""
    todo = [one for one in mistakes if one.name not in maps]
    images = _images(source.run, todo)
    explainer = maker.explainer

    def write() -> None:
        check_there(run.path)
        every = [maps[one.name] for one in mistakes if one.name in maps]
        info = {**key, "method": explainer.method, "layer": explainer.layer, "maps": every}
        write_explain(run.path, cast("ExplainInfo", info))

    with Task("explain mistakes", len(todo), unit="images") as task:
        # A command that is stopped goes on with the next model.
        for model in sorted({one.model for one in todo}):
            of_model = [one for one in todo if one.model == model]
            for start in range(0, len(of_model), TOGETHER):
                some = of_model[start : start + TOGETHER]
                maps |= maker.maps(model, some, images)
                task.add(len(some))
            write()
    if not todo:
        write()


def _images(run: Run, mistakes: Sequence[Mistake]) -> pd.DataFrame:
    """Return the files of images, one row per mistake's image, with image_id as index."""
    if not is_file(run.path / PICTURES):
        raise UserError(
            f"{run.path / PICTURES}: is missing, so the images are not found; run the same command"
            " again"
        )
    table = run.table("pictures")
    table = table[table["part"] == "train"].set_index("image_id")
    wanted = [*dict.fromkeys(one.image_id for one in mistakes)]
    absent = [name for name in wanted if name not in table.index]
    if absent:
        raise UserError(
            f"{run.path / PICTURES}: lacks {listed(absent)}; run the same command again"
        )
    return table.loc[wanted]
