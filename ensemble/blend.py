"""Blend finished runs and write the blend as a run folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ensemble.align import Aligned, align
from ensemble.budget import costs_of
from ensemble.candidates import optimism_marks
from ensemble.columns import read_for
from ensemble.combine import combine
from ensemble.config import ALLOWS, FORMERLY, BlendConfig, decisions, read_blend_file
from ensemble.find import check_members, find_members, member_record, of_one_data_set
from ensemble.member_notes import member_lines, optimism_notes, row_notes
from ensemble.metric import costs_section, decide_metric
from ensemble.parameters import Parameters
from ensemble.parameters_file import PARAMETERS, to_bytes
from foldblend.cli import Say
from foldblend.errors import UserError, listed, require
from foldblend.files import is_file
from foldblend.flags import from_settings
from foldblend.image_columns import names_of
from foldblend.progress import lines_to, write
from foldblend.runs.broken import BrokenRun
from foldblend.runs.costs import device_of, num_passes, picture_seconds
from foldblend.runs.derived import Derived, open_derived, write_derived
from foldblend.runs.folder import PICTURES, lock_folder
from foldblend.runs.run import Run
from foldblend.scores.by_group import IMAGE, check_one_label, scored_by_group
from foldblend.spreadsheets import safe_csv
from reports.run.screen import finish

__all__ = ["BlendConfig", "blend"]


def _sorted(
    runs: list[Run], config: BlendConfig
) -> tuple[list[Run], list[dict[str, str]], BlendConfig]:
    """Return runs, their records and weights sorted by name.

    So the order of arguments does not matter.
    """
    if config.weights is not None and len(config.weights) != len(runs):
        names = listed((run.name for run in runs), most=20)
        raise UserError(
            f"--weights: {len(config.weights)} given for {len(runs)} runs; pass one per run, in"
            f" this order: {names}"
        )
    records = [member_record(run) for run in runs]

    # Nothing here depends on how a path was written, so neither does the blend.
    def key(place: int) -> tuple[str, ...]:
        return runs[place].name, records[place]["oof"], str(runs[place].path.resolve())

    order = sorted(range(len(runs)), key=key)
    if config.weights is not None:
        config = dataclasses.replace(
            config, weights=tuple(config.weights[place] for place in order)
        )
    return [runs[place] for place in order], [records[place] for place in order], config


def _costs(runs: Sequence[Run], shares: Sequence[float]) -> dict[str, Any]:
    """Return the cost of the members with a weight above 0: passes, seconds per image, device."""
    used = [run for run, share in zip(runs, shares, strict=True) if share > 0]
    seconds = [picture_seconds(run) for run in used]
    devices = {device_of(run) for run in used}
    known = [one for one in seconds if one is not None]
    return {
        "passes": sum(map(num_passes, used)),
        "picture_seconds": sum(known) if len(known) == len(used) else None,
        "device": devices.pop() if len(devices) == 1 else None,
    }


def _imported(runs: Sequence[Run], aligned: Aligned) -> dict[str, list[str]]:
    """Return the imported runs among the members, which have no models; {} without any."""
    names = dict.fromkeys(name for run in runs for name in run.info.get("imported_runs", ()))
    means = aligned.imported_means
    return {
        **({"imported_runs": [*names]} if names else {}),
        **({"imported_means": means} if means else {}),
    }


def _blend_yaml(
    folder: Path,
    record: Sequence[dict[str, Any]],
    runs: Sequence[Run],
    config: BlendConfig,
    decides: Mapping[str, Any],
    parameters: Parameters,
) -> str:
    """Return the text of blend.yaml: settings and members that repeat the blend, and its result."""
    settings = {**decides, **{name: getattr(config, name) for name in ALLOWS}}
    weights = None if config.weights is None else list(config.weights)
    members = [
        {**one, "path": os.path.relpath(run.path.resolve(), folder.resolve())}
        for one, run in zip(record, runs, strict=True)
    ]
    text = yaml.safe_dump(
        {**settings, "weights": weights, "members": members, "found": parameters.as_dict()},
        sort_keys=False,
    )
    return f"# python blend.py --config THIS_FILE makes the same files again\n{text}"


def _key(record: Sequence[dict[str, Any]], decides: dict[str, Any]) -> str:
    """Return the run key of a blend: a hash of its members and of what decides its result."""
    text = json.dumps([record, decides], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _num_repeats(run: Run) -> int:
    """Return the number of repeats that all members of a run have."""
    return int(run.info.get("fewest_repeats", run.info["num_repeats"]))


def _has_key(folder: Path, key: str) -> bool:
    return (folder / "run.json").is_file() and Run(folder).info.get("run_key") == {"blend": key}


def blend(
    runs: str | Path | Run | Iterable[str | Path | Run], *, say: Say = write, **settings: Any
) -> Run:
    """Blend finished runs into one and return the blend, which is a run too.

    Methods are cross-fitted: each out-of-fold prediction uses a blend fitted on the other folds.
    For the test set the method is fitted on all rows.

    Parameters
    ----------
    runs
        Runs, or their folders.
    say
        Function that is called with lines of progress and with the report.
    settings
        The settings of blend.py, spelt like its flags: ``method``, ``weights``, ``budget``,
        ``name`` ...

    Returns
    -------
    Run
        The blend, in ``output`` or beside the first run.

    Raises
    ------
    UserError
        If runs cannot be blended together, a setting is unknown, or another blend has the name.

    Examples
    --------
    >>> runs = [outputs / "alpha", outputs / "beta"]
    >>> both = fb.blend(runs, method="soft", name="ab", page=False, say=silent)
    >>> both.info["kind"], [member["weight"] for member in both.info["members"]]
    ('blend', [0.5, 0.5])
    """
    require(runs is not None, "runs: pass runs or their folders")
    several = [runs] if isinstance(runs, (str, Path, Run)) else runs
    paths = tuple(str(getattr(run, "path", run)) for run in several)
    config = from_settings(BlendConfig, {**settings, "runs": paths})
    broken: dict[Path, str] = {}
    while True:
        try:
            with safe_csv(config.safe_csv):
                return _blend(config, broken, say)
        except BrokenRun as error:
            # Damage may show only when tables are read; nothing is written before that.
            named = {Path(os.path.realpath(path)): path for path in config.runs}
            folder = None if error.folder is None else error.folder.resolve()
            if folder not in named or len(named) == 1 or config.config is not None:
                raise
            broken[folder] = error.why
            say(f"left out {named[folder]}: {error.why}")


def _beside(config: BlendConfig, first: Path) -> Path:
    """Return the folder to write a blend to: --output, or that of the first run.

    The members that a blend.yaml names do not decide where is written, but its own place does.
    """
    if config.output is not None:
        return Path(config.output)
    file = config.config
    if file is not None and config.runs == read_blend_file(file).runs:
        of_blend = Path(file).absolute().parent
        in_run = os.path.lexists(of_blend / "run.json")
        return of_blend.parent if in_run else Path("outputs")
    # The path "." has no name and is its parent too, so it is resolved first.
    return first.parent if first.name else first.resolve().parent


def _blend(config: BlendConfig, broken: Mapping[Path, str], say: Say) -> Run:
    """Blend the runs of `config` but for broken ones, given by folder with the reason."""
    found, skipped = find_members(
        config.runs,
        include_blends=config.include_blends or config.config is not None,
        broken=broken,
    )
    if config.config is not None and skipped and config.runs == read_blend_file(config.config).runs:
        raise UserError(
            f"{config.config}: {skipped[0][0]} can no longer be blended: {skipped[0][1]}"
        )
    members, hashes, config = _sorted(of_one_data_set(found, config.dataset), config)
    if config.config is not None:
        check_members(config.config, members, hashes)
    notes = optimism_notes(members, config)
    decided = decide_metric(config, members)
    config = decided.config
    costs = costs_of(members)
    for line in member_lines(members, costs, skipped):
        say(line)
    record: list[dict[str, Any]] = [
        {"name": run.name, "run_key": run.info["run_key"], **one}
        for run, one in zip(members, hashes, strict=True)
    ]
    kept: dict[str, Any] = {}
    if decided.costs is not None:
        kept["costs"] = decided.costs.as_dict()
    aligned = None
    columns = None
    if config.meta_cols is not None:
        aligned = align(members, intersect=config.intersect)
        columns = read_for(aligned, names_of(config.meta_cols))
        kept["columns"] = columns.digest
        notes += columns.notes
    key = _key(record, decisions(config) | kept)
    folder = _beside(config, members[0].path) / (config.name or f"blend_{key[:8]}")
    before = dataclasses.replace(config, prefer=FORMERLY["prefer"])
    former = _key(record, decisions(before) | kept)
    # A blend of an earlier version stays what it is when its command is given again.
    asked = config.prefer is not None or config.overwrite
    if former != key and not asked and _has_key(folder, former):
        config = before
        key = former
        say(f"{folder} was made with --prefer simple, which is kept; --overwrite makes it anew")
    # A folder that must not be written should fail before the work, not after it.
    open_derived(folder, "blend", {"blend": key}, overwrite=config.overwrite, look=True)
    if folder.resolve() in {run.path.resolve() for run in members}:
        raise UserError(f"{folder}: this is one of the runs to be blended; pass another --name")
    if aligned is None:
        aligned = align(members, intersect=config.intersect)
    if decided.metric.pool:
        check_one_label(aligned.named_rows)
    notes += [*decided.notes, *row_notes(aligned, config)]
    # Everything is computed before the first file is written, so an error leaves no files.
    with lines_to(say):
        made = combine(
            aligned,
            config,
            metric=decided.metric,
            name=folder.name,
            costs=costs,
            columns=columns,
        )
    shares = made.fitted.shares
    parameters = Parameters(made.method, made.fitted, made.offsets_C, made.of_shares)
    content = to_bytes(parameters, key)
    with lock_folder(folder):
        open_derived(folder, "blend", {"blend": key}, overwrite=config.overwrite)
        info = {
            "kind": "blend",
            "run_key": {"blend": key},
            "members": [
                {**one, "weight": share} for one, share in zip(record, shares, strict=True)
            ],
            **optimism_marks(aligned, fits=made.fits),
            "views": [],
            "fewest_repeats": min(_num_repeats(run) for run in members),
            "metric": config.metric,
            **({} if config.score_by == IMAGE else scored_by_group(decided.metric.pool)),
            **({} if decided.costs is None else {"costs": decided.costs.as_dict()["rows"]}),
            "about": (
                f"{made.method}{' + offsets' if made.offsets_C.any() else ''} blend of"
                f" {len(members)} runs: "
                + ", ".join(
                    f"{run.name} x {share:.3g}" for run, share in zip(members, shares, strict=True)
                )
            ),
            "notes": [*notes, *made.notes],
            "test_is_mean": aligned.tests_are_means,
            **_imported(members, aligned),
            **_costs(members, shares),
        }
        of_images = next((run for run in members if is_file(run.path / PICTURES)), None)
        pictures = None if of_images is None else of_images.tables.data(PICTURES)
        sections = dict(made.sections)
        if decided.costs is not None:
            label_N = aligned.rows["label"].to_numpy()
            sections["5_error_costs"] = costs_section(decided.costs, label_N)
        files: dict[str, bytes | str] = {
            "blend.yaml": _blend_yaml(
                folder, record, members, config, decisions(config) | kept, parameters
            ),
            PARAMETERS: content,
        }
        blended = Derived(
            like=members[0],
            info=info,
            members=members,
            rows=aligned.rows,
            logits_NC=made.logits_NC,
            tests=made.tests,
            of_shares=made.of_shares,
            plain_NC=made.plain_NC,
            plain_tests=made.plain_tests,
            sections=sections,
            pictures=pictures,
            files=files,
        )
        write_derived(folder, blended)
        # The report is made from the folder only, and may need the memory.
        del aligned, columns, made, blended
        finish(Run(folder), page=config.page, report=config.report, say=say)
    return Run(folder)
