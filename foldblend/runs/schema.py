"""Checked content of the JSON files of run folders: types, ranges, and how values fit together.

Every reader gets such a file from here, so none has to expect anything but what
`foldblend.runs.info` says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from foldblend.errors import UserError, counted, listed, shown
from foldblend.runs.broken import BrokenRun
from foldblend.runs.checked import check_of
from foldblend.runs.folder import FORMAT, read_json
from foldblend.runs.info import MOST_MODELS, EnvironmentInfo, FoldInfo, RunInfo
from foldblend.scores.metrics import MEAN_COST, METRICS

__all__ = [
    "DONE",
    "check_info",
    "problem_of_info",
    "read_checked",
    "read_done",
    "read_environment",
    "read_info",
]

# Keys of done.json without which no fold can be kept.
DONE_OF_ANY = ("files", "run_key", "seconds")
DONE = ("fold", "repeat", *DONE_OF_ANY)
AGAIN = "make the run again"

Info = Mapping[str, Any]


def read_checked(
    file: Path, hint: Any, *, needed: Sequence[str] = (), folder: Path | None = None, cure: str
) -> Any:
    """Return the content of a JSON file after a check against a type hint.

    Parameters
    ----------
    file
        The file.
    hint
        Type of its content (see `foldblend.runs.checked`).
    needed
        Keys that it must have.
    folder
        The run folder, which `BrokenRun` names.
    cure
        What to do if the check fails.

    Raises
    ------
    BrokenRun
        If it cannot be read, or is not such content.
    """
    try:
        value = read_json(file, cure=cure)
    except UserError as error:
        raise BrokenRun(error, folder) from None
    wrong = check_of(hint)(value, "")
    if wrong is None:
        absent = [name for name in needed if name not in value]
        wrong = f"lacks {listed(absent)}" if absent else None
    if wrong is not None:
        raise BrokenRun(f"{file}: {wrong.removeprefix(': ')}; {cure}", folder)
    return value


def read_info(folder: Path) -> RunInfo:
    """Return the checked content of a folder's run.json; keys may be absent, but none is wrong.

    Raises BrokenRun.
    """
    file = folder / "run.json"
    try:
        info = read_json(file)
    except UserError as error:
        raise BrokenRun(error, folder) from None
    return check_info(info, file)


def check_info(info: Any, file: Path) -> RunInfo:
    """Return the content of a run.json; raise BrokenRun, which names the file, if it is wrong."""
    folder = file.parent
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        raise BrokenRun(f"{file}: format is not {FORMAT}; run it again with this version", folder)
    wrong = problem_of_info(info)
    if wrong is not None:
        raise BrokenRun(f"{file}: {wrong}; {AGAIN}", folder)
    return cast("RunInfo", info)


def problem_of_info(info: Mapping[str, Any]) -> str | None:
    """Return what is wrong in the content of a run.json, or None.

    Examples
    --------
    >>> problem_of_info({"classes": ["cat", "dog"], "answers": [0]})
    'answers: must be one for each of 2 classes, not 1'
    """
    wrong = check_of(RunInfo)(info, "")
    if wrong is not None:
        return wrong
    return next((one for rule in RULES for one in rule(info)), None)


def _classes(info: Info) -> Iterator[str]:
    names: list[str] | None = info.get("classes")
    if names is None:
        return
    if not names:
        yield "classes: must be at least one, not none"
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        yield f"classes: must be different names, but {shown(repr(twice[0]))} occurs twice"
    answers = info.get("answers")
    if answers is not None and len(answers) != len(names):
        yield f"answers: must be one for each of {len(names)} classes, not {len(answers)}"
    for index, one in enumerate(info.get("attributes", ())):
        at = f"attributes[{index}]"
        if len(one["of_class"]) != len(names):
            yield (
                f"{at}.of_class: must be one for each of {len(names)} classes, not"
                f" {len(one['of_class'])}"
            )
        odd = [place for place in one["of_class"] if place >= len(one["values"])]
        if odd:
            yield f"{at}.of_class: must be places of {len(one['values'])} values, not {odd[0]}"


def _submission(info: Info) -> Iterator[str]:
    form = info.get("submission")
    if form is None:
        return
    names = [form["id_column"], *form["columns"]]
    if len(set(names)) < len(names):
        yield "submission: must have different columns"
    if form["kind"] != "probabilities":
        return
    if len(form["classes"]) != len(form["columns"]):
        yield (
            f"submission.classes: must be one for each of {len(form['columns'])} columns, not"
            f" {len(form['classes'])}"
        )
    odd = [one for one in form["classes"] if one >= len(info.get("classes", ()))]
    if odd:
        yield f"submission.classes: must be numbers of classes, not {odd[0]}"


def _folds(info: Info) -> Iterator[str]:
    num_folds = info.get("num_folds", 1)
    num_repeats = info.get("num_repeats", 1)
    num_models = num_folds * num_repeats
    if num_models > MOST_MODELS:
        yield (
            f"num_folds: must be at most {MOST_MODELS:,} with num_repeats, not {num_folds:,} x"
            f" {num_repeats:,}"
        )
    num_listed = len(info.get("folds", ()))
    if num_listed and info.get("kind") == "cv" and num_listed != num_models:
        yield f"folds: must be {counted(num_models, 'entry')}, not {num_listed}"
    if info.get("fewest_repeats", 1) > num_repeats:
        yield f"fewest_repeats: must be at most num_repeats, {num_repeats}"
    num_test = info.get("num_test_folds")
    has_test = info.get("has_test")
    if num_test is not None and has_test is not None:
        if bool(num_test) != has_test:
            yield f"num_test_folds: must be above 0 only with a test set, not {num_test}"
        known = {"cv": {num_models}, "import": {1, num_models}}.get(info.get("kind", ""))
        if has_test and known is not None and num_test not in known:
            yield f"num_test_folds: must be {num_models}, one for each model, not {num_test}"


def _metric(info: Info) -> Iterator[str]:
    name = info.get("metric")
    if name is not None and name not in METRICS and name != MEAN_COST:
        yield f"metric: must be one that this version has, not {shown(repr(name))}"
    num = len(info.get("classes", ()))
    costs = info.get("costs")
    if name == MEAN_COST and costs is None:
        yield f"costs: must be there for the metric {MEAN_COST}"
    if costs is not None and (len(costs) != num or any(len(row) != num for row in costs)):
        yield f"costs: must be {num} rows of {num} numbers"


def _made_of(info: Info) -> Iterator[str]:
    kind = info.get("kind")
    done = info.get("status") == "done"
    for wanted, key in (("blend", "members"), ("tta", "of"), ("import", "imported")):
        if kind == wanted and done and key not in info:
            yield f"{key}: must be there for the kind {kind}"
    if kind == "blend" and "members" in info and not info["members"]:
        yield "members: must be at least one, not none"
    views = info.get("views", ())
    if kind in ("cv", "tta") and "views" in info and not views:
        yield "views: must be at least one, not none"
    if len(set(views)) < len(views):
        yield "views: must be different ones"


RULES: tuple[Callable[[Info], Iterator[str]], ...] = (
    _classes,
    _submission,
    _folds,
    _metric,
    _made_of,
)
"""What a type hint cannot say, each as the problems in the content of a run.json."""


def read_done(folder: Path, model: int | str) -> FoldInfo:
    """Return the checked content of the done.json of a fold, by number, or of a model, by name.

    Raises BrokenRun.
    """
    name = model if isinstance(model, str) else f"fold_{model}"
    cure = f"remove the folder {name}, and the same command makes it again"
    file = folder / name / "done.json"
    is_fold = name.startswith("fold_") and "/" not in name
    needed = DONE if is_fold else DONE_OF_ANY
    found: FoldInfo = read_checked(file, FoldInfo, needed=needed, folder=folder, cure=cure)
    return found


def read_environment(folder: Path) -> EnvironmentInfo | None:
    """Return the checked content of env.json, or None if it is absent or broken.

    No result depends on it.
    """
    file = folder / "env.json"
    try:
        found: EnvironmentInfo = read_checked(file, EnvironmentInfo, cure=AGAIN)
    except UserError:
        return None
    return found
