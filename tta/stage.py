"""Test-time augmentation of a finished run: merge or choose views, and write a new run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from foldblend.cli import Say
from foldblend.drafts import sweep_drafts
from foldblend.errors import UserError
from foldblend.progress import lines_to, write
from foldblend.runs.costs import device_of, num_models, pass_seconds, passes_per_view
from foldblend.runs.derived import Derived, open_derived, write_derived
from foldblend.runs.folder import (
    PICTURES,
    check_there,
    lock_folder,
    rows_like,
    with_logits,
    write_table,
)
from foldblend.runs.oof import oof_rows
from foldblend.runs.refit import num_refits, refit_mark, refit_share, with_refits
from foldblend.runs.run import Run
from foldblend.runs.search import notes_of_searches, search_note
from foldblend.runs.tables import ROW_COLUMNS
from foldblend.scores.by_group import check_one_label, chosen_pool, scored_by_group
from foldblend.scores.run_metric import metric_of, scored_by
from foldblend.spreadsheets import safe_csv
from reports.run.screen import finish
from tta.choose import Search, learned, searched
from tta.config import AUTO_VIEWS, TtaConfig
from tta.crossfit import CrossFit, cross_fit
from tta.learn import WEIGHTINGS
from tta.policy import IDENTITY, Policy, SavedViews
from tta.report import harm_report
from tta.rules import SCORE, SIMPLE, Choice
from tta.saved_views import (
    can_see,
    check_pipelines,
    kept_views,
    models_of,
    open_models,
    saved_rows,
    view_seconds,
)
from tta.views.names import parse_views

__all__ = ["augment_run"]

EFFECTS = "effects.csv"
FURTHER = (
    *("data", "device", "workers", "validation_batch_size", "parts", "trust_parts"),
    *("backend", "ray_address"),
)
AddViews = Callable[..., object]
"""Function (folder, names, *, say, **further) that predicts a run's images in further views."""


def _saved(run: Run, names: Sequence[str]) -> SavedViews:
    """Return the out-of-fold logits of a run's views, in the order of its rows."""
    num_folds = run.info["num_folds"]
    tables = [
        saved_rows(run, index, "oof").assign(repeat=index // num_folds)
        for index in range(num_models(run))
    ]
    views = pd.concat(tables, ignore_index=True)
    logits_VNC = np.stack(
        [run.logits(rows_like(views[views["view"] == name], run.oof)) for name in names]
    )
    return SavedViews(tuple(names), logits_VNC, oof_rows(run))


def _test_tables(run: Run, names: Sequence[str], policy: Policy) -> list[pd.DataFrame]:
    """Return each fold's test logits under a policy.

    The policy was fitted on logits of single models, so it is applied to each model before the
    models are averaged. Refits have their share in the logits of each view.
    """
    folds = range(run.info["num_test_folds"])
    first = saved_rows(run, 0, "test")
    ids = first.loc[first["view"] == "identity", "image_id"]
    refits = [_test_views(run, index, names, ids) for index in models_of(run) if index not in folds]
    tables = []
    for index in folds:
        own_VNC = _test_views(run, index, names, ids)
        mixed_VNC = with_refits(own_VNC, refits, refit_share(run.info))
        tables.append(with_logits(ids.to_frame(), policy.apply(mixed_VNC, names)))
    return tables


def _test_views(run: Run, index: int, names: Sequence[str], ids: pd.Series) -> np.ndarray:
    """Return the test logits V x N x C of a model in these views, in the order of the ids."""
    views = saved_rows(run, index, "test")
    return np.stack(
        [run.logits(views[views["view"] == name].set_index("image_id").loc[ids]) for name in names]
    )


def _decide(saved: SavedViews, search: Search | None, merge: str) -> CrossFit:
    """Return the logits of every row, cross-fitted if there is anything to choose or learn."""
    if search is not None:
        return cross_fit(saved, search)
    if merge in WEIGHTINGS:
        return cross_fit(saved, learned(saved, saved.names, merge))
    policy = Policy(saved.names, merge) if len(saved.names) > 1 else IDENTITY
    return CrossFit(policy.apply(saved.logits_VNC, saved.names), (), Choice(policy))


def _scored_by(run: Run, config: TtaConfig) -> dict[str, str]:
    """Return the keys of run.json on scores by group, which are the run's unless flags differ."""
    pool = chosen_pool([run.info], config.score_by, config.group_pool)
    return scored_by_group(pool) if pool else {}


def _key(run: Run, names: Sequence[str], config: TtaConfig, prefer: str) -> dict[str, str]:
    """Return a hash of everything that determines the new run: rows, views and settings.

    Earlier versions had the rule "simple" only, and scores by image only; these are not hashed, so
    that their runs keep their keys. Given views need no rule.
    """
    auto = config.views == "auto"
    decided = [sorted(names), auto, config.merge, config.budget, run.oof_hash]
    if auto and prefer != SIMPLE:
        decided.append(prefer)
    if scored := _scored_by(run, config):
        decided.append(scored)
    digest = hashlib.blake2b(json.dumps(decided).encode(), digest_size=16).hexdigest()
    return {"tta": digest}


def _preferred(run: Run, names: Sequence[str], config: TtaConfig, written: Path) -> str:
    """Return the rule that chooses; without --prefer, a run that has "simple" keeps it.

    So the same command repeats a run of an earlier version.
    """
    if config.prefer is not None:
        return config.prefer
    made = Run(written).info.get("run_key") if (written / "run.json").is_file() else None
    return SIMPLE if made == _key(run, names, config, SIMPLE) else SCORE


def _had_saved_only(run: Run, kept: Sequence[str], config: TtaConfig, written: Path) -> bool:
    """Return whether the run that is there was chosen among the saved views only.

    Earlier versions could not predict further views of a frozen backbone. The same command repeats
    what they made.
    """
    if not (run.frozen and (written / "run.json").is_file()):
        return False
    made = Run(written).info.get("run_key")
    return any(made == _key(run, kept, config, prefer) for prefer in (SIMPLE, SCORE))


def _costs(run: Run, policy: Policy) -> dict[str, Any]:
    """Return the costs of the new run, None for those that are unknown.

    They are the passes and seconds per test image, the device, and the compute seconds including
    those of the original run.
    """
    seconds = run.info.get("seconds")
    seen = view_seconds(run)
    further = [name for name in policy.views if name not in run.info["views"]]
    each = [seen.get(name) if name in further else pass_seconds(run) for name in policy.views]
    known = [one for one in each if one is not None]
    num_test = 0 if run.test is None else len(run.test)
    num_rows = len(run.oof) + (run.info["num_test_folds"] + num_refits(run.info)) * num_test
    if run.frozen:
        # Each image passes through the backbone once, whatever the number of models.
        num_rows = run.oof["image_id"].nunique() + num_test
    if seconds is not None and all(name in seen for name in further):
        seconds = round(seconds + num_rows * sum(seen[name] for name in further), 1)
    else:
        seconds = None
    return {
        "passes": policy.passes * passes_per_view(run),
        "picture_seconds": passes_per_view(run) * sum(known) if len(known) == len(each) else None,
        "device": device_of(run),
        "seconds": seconds,
    }


def _notes(run: Run, *, chosen: bool) -> list[str]:
    """Return the notes of the new run; `chosen` is whether views were chosen, and are used."""
    notes = run.info.get("notes", [])
    if "search" in run.info:
        # It says what to expect of the score without further views.
        former = search_note(run.info["search"], metric_of(run.info).by_image.title)
        notes = [*(note for note in notes if note != former), *notes_of_searches([run])]
    if chosen:
        notes = [*notes, "each fold's views and weights were chosen on the other folds"]
    return notes


def augment_run(config: TtaConfig, *, add_views: AddViews, say: Say = write) -> Run:
    """Merge or choose views of a run, write the result as a new run, and return that.

    Out-of-fold rows are cross-fitted: the policy of a fold was chosen or learned on the other
    folds.

    Parameters
    ----------
    config
        The run, the views and how they are merged.
    add_views
        Called only if logits of some views are not saved yet; nothing else needs the models.
    say
        Where progress goes.

    Raises
    ------
    UserError
        For a run without its models, changed data, or settings that do not fit.
    """
    folder = Path(config.run)
    auto = config.views == "auto"
    merge = config.merge or "mean"
    run = open_models(folder)
    names = parse_views(AUTO_VIEWS if auto else config.views, "--views")
    kept = kept_views(run)
    if auto:
        # All saved views take part.
        names = tuple(dict.fromkeys([*kept, *(names if can_see(run) else ())]))
    check_pipelines(run, names)
    scored = _scored_by(run, config)
    by_image = metric_of(run.info).by_image
    metric = scored_by(by_image, {"data": run.info["data"], **scored})
    if metric.pool:
        check_one_label(oof_rows(run))
    written = folder.resolve().parent / (config.name or f"{run.name}_tta")
    if auto and not config.overwrite and _had_saved_only(run, kept, config, written):
        names = kept
    prefer = _preferred(run, names, config, written)
    run_key = _key(run, names, config, prefer)
    # Checked before the long work, so that a folder that must not be replaced is reported at once.
    open_derived(written, "tta", run_key, overwrite=config.overwrite, look=True)
    # A killed process may have written all views, so that nothing else locks and sweeps the run.
    sweep_drafts(folder)
    if not set(names) <= set(kept):
        further = {
            name: getattr(config, name) for name in FURTHER if getattr(config, name) is not None
        }
        with lines_to(say):
            add_views(folder, names, say=say, **further)
    saved = _saved(run, names)
    search = None
    if auto:
        search = searched(saved, metric=metric, prefer=prefer, **config.search)
    try:
        found = _decide(saved, search, merge)
    except ValueError as error:
        raise UserError(
            f"{folder}: {error}; pass --views with --merge mean, which needs no fitting"
        ) from None
    if auto and prefer == SIMPLE and config.prefer is None:
        say(
            f"{written} was made with --prefer simple, which is kept; --prefer score --overwrite"
            " chooses by score"
        )
    say(str(found.final))
    policy = found.final.policy
    tests = _test_tables(run, names, policy) if run.info["has_test"] else []
    harm, table = harm_report(
        run,
        saved,
        found,
        metric=metric,
        search=search,
        merge=merge,
        seconds_of_view=view_seconds(run),
    )
    shown = "no view is used" if policy == IDENTITY else str(policy)
    info = {
        "kind": "tta",
        "run_key": run_key,
        "of": {
            "name": run.name,
            "oof": run.oof_hash,
            **({} if (mark := refit_mark(run.info)) is None else {"refit": mark}),
        },
        "tta": {
            "views": list(names),
            "merge": config.merge,
            "auto": auto,
            "budget": config.budget,
            **({"prefer": prefer} if auto else {}),
        },
        "policy": policy.as_dict(),
        "parts": [
            {"repeat": one.repeat, "part": one.part, "policy": one.choice.policy.as_dict()}
            for one in found.parts
        ],
        "views": list(policy.views),
        **scored,
        "leaks": run.info["leaks"],
        "optimistic": run.info.get("optimistic", False),
        "about": f"{run.name} with test-time augmentation ({shown}); {run.info.get('about', '')}",
        "notes": _notes(run, chosen=bool(found.parts) and len(policy.views) > 1),
        **_costs(run, policy),
    }
    with lock_folder(written, flags=(None, "--name")), safe_csv(config.safe_csv):
        open_derived(written, "tta", run_key, overwrite=config.overwrite)
        has_images = (folder / PICTURES).is_file()
        if not has_images and run.has(PICTURES):
            say(f"{folder / PICTURES}: is missing, so reports of the new run show no images")
        rows = run.oof[[*ROW_COLUMNS]]
        merged = Derived(
            like=run,
            info=info,
            rows=rows,
            logits_NC=found.logits_NC,
            tests=tests,
            sections={"tta": harm},
            pictures=run.tables.data(PICTURES) if has_images else None,
        )
        made = write_derived(written, merged)
        check_there(written)
        write_table(written / EFFECTS, table)
        finish(made, page=config.page, report=config.report, say=say)
    return made
