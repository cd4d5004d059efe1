"""Find the runs that can be blended, with the reason for each run that cannot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ensemble.config import read_members
from foldblend.errors import UserError, did_you_mean, listed
from foldblend.files import exists, is_link
from foldblend.runs.check import BAD_LINK, NEEDED_TO_BUILD_ON, why_unfinished
from foldblend.runs.refit import num_refits, refit_mark
from foldblend.runs.run import Run

__all__ = ["check_members", "find_members", "member_record", "of_one_data_set"]

BLENDED = (*NEEDED_TO_BUILD_ON, "name")


def _why_not(path: Path, *, blends: bool) -> str | None:
    """Return why a path cannot be a member of a blend, or None if it can."""
    if not exists(path):
        # The shell passes on a pattern that matched nothing.
        if "*" in str(path):
            return "no run matches this pattern; run run_cv.py first"
        if is_link(path):
            return BAD_LINK
        raise UserError(f"{path}: no such run; check the path")
    if not blends and _is_blend(path):
        return "an earlier blend; pass --include-blends to blend it too"
    return why_unfinished(path, needed=BLENDED)


def _is_blend(path: Path) -> bool:
    """Return whether a folder is the run folder of a blend, finished or not."""
    try:
        return bool((path / "run.json").is_file() and Run(path).info.get("kind") == "blend")
    except UserError:
        return False


def _counted_twice(members: Sequence[Run]) -> Iterator[tuple[Run, str]]:
    """Yield runs whose models are in another member too, and why they are left out.

    Of a run and the runs that merge its TTA views, only the one that was made last is blended.
    """
    family_of: dict[str, list[Run]] = {}
    for run in members:
        if "of" in run.info:
            family_of.setdefault(run.info["of"]["oof"], []).append(run)
    for oof, family in family_of.items():
        *others, last = sorted(family, key=lambda run: (run.info.get("finished", 0), run.name))
        # A TTA run that uses no augmentation has the same rows as its run: only runs without "of"
        # are originals.
        originals = [run for run in members if "of" not in run.info and run.oof_hash == oof]
        for run in originals:
            yield run, f"{last.name}, which merges its views, is in the blend"
        for run in others:
            yield run, f"{last.name}, which has the same models and was made later, is in the blend"


def find_members(
    paths: Sequence[str | Path],
    *,
    include_blends: bool = False,
    broken: Mapping[Path, str] | None = None,
) -> tuple[list[Run], list[tuple[Path, str]]]:
    """Return the runs among `paths`, in their order, and the skipped paths with the reason.

    Parameters
    ----------
    paths
        Folders of runs.
    include_blends
        Whether earlier blends may be members; they may if there is a single path.
    broken
        Resolved folders that are known to be damaged, with the reason.

    Raises
    ------
    UserError
        If no run is left.
    """
    members: dict[Path, Run] = {}
    skipped: list[tuple[Path, str]] = []
    for path in map(Path, paths):
        why = _why_not(path, blends=include_blends or len(paths) == 1)
        if why is None and path.resolve() in members:
            why = "given twice"
        if why is None and broken:
            why = broken.get(path.resolve())
        if why is None:
            members[path.resolve()] = Run(path)
        else:
            skipped.append((path, why))
    for run, why in _counted_twice([*members.values()]):
        del members[run.path.resolve()]
        skipped.append((run.path, why))
    if not members:
        reasons = f" ({listed(f'{path}: {why}' for path, why in skipped)})" if skipped else ""
        raise UserError(
            f"nothing to blend{reasons}; pass folders of finished runs, such as outputs/*"
        )
    return list(members.values()), skipped


def _data_names(members: list[Run]) -> dict[str, list[Run]]:
    """Return the members by data set.

    Runs with the same image ids have the same data set, whatever the name of its folder is.
    """
    by_ids: dict[str, list[Run]] = {}
    for run in members:
        by_ids.setdefault(run.ids_hash, []).append(run)
    names = [runs[0].info["data"]["name"] for runs in by_ids.values()]
    return {
        name if names.count(name) == 1 else f"{name}@{ids[:6]}": runs
        for name, (ids, runs) in zip(names, by_ids.items(), strict=True)
    }


def of_one_data_set(members: list[Run], dataset: str | None) -> list[Run]:
    """Return the members of the chosen data set.

    Raises UserError if there are several and none is chosen, or if the chosen one is absent.
    """
    by_name = _data_names(members)
    if dataset is not None:
        if dataset not in by_name:
            near = did_you_mean(dataset, by_name) or f"; there are {', '.join(by_name)}"
            raise UserError(f"--dataset {dataset}: none of the runs has this data set{near}")
        return by_name[dataset]
    if len(by_name) > 1:
        which = "; ".join(
            f"{name}: {listed(run.name for run in runs)}" for name, runs in by_name.items()
        )
        raise UserError(
            f"runs of {len(by_name)} data sets ({which}); pass the runs of one, or --dataset"
            f" {next(iter(by_name))}"
        )
    return members


def member_record(run: Run) -> dict[str, str]:
    """Return hashes of a member's logits, out of fold and for the test set.

    They show later whether the member has changed. Reads all tables; raises UserError for a file
    that is absent.
    """
    tests = (
        [
            "test",
            *(f"test_fold_{fold}" for fold in range(run.info["num_test_folds"])),
            *(f"test_refit_{one}" for one in range(num_refits(run.info))),
        ]
        if run.info["has_test"]
        else []
    )
    found = {"oof": run.oof_hash}
    mark = refit_mark(run.info)
    if mark is not None:
        found["refit"] = mark
    return found | ({"test": "-".join(run.table_hash(name)[:8] for name in tests)} if tests else {})


def check_members(
    file: str | Path, runs: Sequence[Run], records: Sequence[Mapping[str, str]]
) -> None:
    """Raise UserError if a run has changed since a blend.yaml was written (see `member_record`)."""
    known = {
        (Path(file).parent / one["path"]).resolve(): one for one in read_members(file)["members"]
    }
    for run, now in zip(runs, records, strict=True):
        then = known.get(run.path.resolve(), {})
        changed = [part for part in ("oof", "test") if part in then and then[part] != now.get(part)]
        if changed:
            what = " and ".join({"oof": "out-of-fold", "test": "test"}[part] for part in changed)
            raise UserError(
                f"{run.path}: its {what} logits changed since {file} was written; make a new blend"
                " without --config"
            )
