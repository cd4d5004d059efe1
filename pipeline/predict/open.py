"""Open a predictor: a run, TTA'd run or blend in its folder, or an exported file."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from ensemble.parameters_file import to_bytes
from ensemble.saved import SavedMember, load_blend, saved_members
from foldblend.cli import Say
from foldblend.errors import UserError, in_a_line
from foldblend.files import is_file
from foldblend.progress import write
from foldblend.runs.calibrated import Calibration, calibration_of, conformal_of, coverage_of
from foldblend.runs.check import finished_run
from foldblend.runs.refit import refit_mark
from foldblend.runs.run import Run
from foldblend.scores.conformal import Conformal
from foldblend.scores.coverage import Coverage
from pipeline.config.settings import read_config_file
from pipeline.config.trust import NOTHING, Trust, own_parts
from pipeline.predict.config import READING
from pipeline.predict.recipe import recipe_of
from pipeline.predict.tree import Augmented, Blend, Leaf, Node, leaves_of
from pipeline.predict.weights import FolderWeights
from tta.policy import Policy
from tta.views.names import draw_of, is_device_view

__all__ = [
    "Predictor",
    "member_run",
    "member_runs",
    "open_predictor",
    "open_run",
    "origin_run",
    "reading_of",
]


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """Models that predict images as a finished run predicted its test set."""

    root: Node
    source: Path
    """The run folder or the exported file."""
    info: Mapping[str, Any]
    """Content of run.json of the run."""
    run: Run | None = None
    """The run, where its folder is there."""
    extras: Mapping[str, Any] = field(default_factory=dict)
    """What an exported file has in place of the run's tables (see pipeline.export)."""

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.info["classes"])

    @property
    def leaves(self) -> dict[str, Leaf]:
        """The cross-validated runs that take part, by key."""
        return leaves_of(self.root)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings with which the images of the training were read."""
        if self.run is None:
            return dict(self.extras.get("reading", {}))
        return reading_of(self.run)

    @functools.cached_property
    def calibration(self) -> Calibration:
        """Calibration of the probabilities."""
        if "calibration" in self.extras:
            return Calibration.from_dict(self.extras["calibration"])
        assert self.run is not None
        return calibration_of(self.run)

    @functools.cached_property
    def conformal(self) -> Conformal | None:
        """Comparison for sets of classes; None in files that lack it."""
        if "conformal" in self.extras:
            arrays = self.extras["conformal"]
            return Conformal.from_arrays(arrays, temperature=self.calibration.temperature)
        return None if self.run is None else conformal_of(self.run)

    def coverage(self, wanted: float, *, by_class: bool) -> Coverage | None:
        """Return the coverage of sets of classes out of fold; None where it is not known."""
        if "coverage_of" in self.extras:
            found: Coverage | None = self.extras["coverage_of"](wanted, by_class=by_class)
            return found
        if self.run is None:
            return self.coverages.get((wanted, by_class))
        return coverage_of(self.run, wanted, by_class=by_class)

    @property
    def coverages(self) -> Mapping[tuple[float, bool], Coverage]:
        """Coverages out of fold in an exported file, by wanted coverage and whether by class."""
        return self.extras.get("coverages", {})

    def fingerprint(self, *, refits: bool = True) -> str:
        """Return a hash of the weights and of how they are combined, with or without refits."""
        leaves = self.leaves
        parts: list[Any] = [repr(_shape(self.root))]
        for key in sorted(leaves):
            parts += [key, *leaves[key].marks(refits=refits)]
        return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def _shape(node: Node) -> Any:
    """Return how a node is put together, as values that do not depend on memory."""
    if isinstance(node, Leaf):
        return node.key
    if isinstance(node, Augmented):
        return node.leaf.key, node.policy.as_dict()
    assert isinstance(node, Blend)
    digest = hashlib.blake2b(to_bytes(node.parameters, ""), digest_size=16).hexdigest()
    return [*map(_shape, node.members)], digest, node.of_means


def reading_of(run: Run) -> dict[str, Any]:
    """Return the settings with which a run, or the first run of a blend, read its images."""
    for _ in range(MOST_LEVELS + 2):
        if run.info["kind"] == "cv":
            break
        run = origin_run(run) if run.info["kind"] == "tta" else member_runs(run)[0]
    run.check_unchanged("config.yaml")
    return {str(name): value for name, value in run.settings.items() if name in READING}


def member_runs(run: Run) -> list[Run]:
    """Return the members of a blend; raise UserError if one is gone or was made again."""
    return [member_run(run, one) for one in saved_members(run)]


def member_run(run: Run, one: SavedMember) -> Run:
    """Return a member of a blend; raise UserError if it is gone or was made again."""
    return _member(run, one.name, one.path, one.record, blend=True)


def origin_run(run: Run) -> Run:
    """Return the run that a TTA'd run was made from; raise UserError if it is gone."""
    record = run.info["of"]
    return _member(run, record["name"], None, record, blend=False)


class _Opener:
    """Reads run folders into nodes, each folder once."""

    def __init__(self, say: Say, trust: Trust) -> None:
        self.say = say
        self.trust = trust
        self.leaves: dict[Path, Leaf] = {}

    def node(self, run: Run, above: Sequence[Path] = ()) -> Node:
        """Return the node of a run; `above` are the folders of the blends that it is in.

        Raises UserError for a blend that is its own member.
        """
        path = run.path.resolve()
        if path in above:
            raise UserError(f"{run.path}: the blend is a member of itself; blend the runs again")
        if len(above) > MOST_LEVELS:
            raise UserError(
                f"{above[0]}: blends are members of blends over {MOST_LEVELS} levels; blend the"
                " runs themselves"
            )
        return KINDS[run.info["kind"]](self, run, (*above, path))

    def leaf(self, run: Run, above: Sequence[Path]) -> Leaf:
        """Return a cross-validated run, after a check of its weights."""
        path = run.path.resolve()
        if path not in self.leaves:
            weights = FolderWeights(run.path)
            recipe = recipe_of(run, self.trust)
            for index in [None] if recipe.frozen else []:
                weights.fingerprint(index)
            for index in recipe.models:
                weights.fingerprint(index)
            self.leaves[path] = Leaf(
                name=run.name,
                key=f"{len(self.leaves)} {run.name}",
                recipe=recipe,
                weights=weights,
            )
        return self.leaves[path]

    def augmented(self, run: Run, above: Sequence[Path]) -> Augmented:
        """Return a TTA'd run."""
        found = origin_run(run)
        if found.info["kind"] != "cv":
            raise UserError(f"{found.path}: is not the run that {run.path} was made from")
        policy = Policy.from_dict(run.info["policy"])
        if any(not is_device_view(view) and draw_of(view).file is None for view in policy.views):
            # These views draw from the augmentation of the training.
            file = found.path / "config.yaml"
            config = read_config_file(file)
            self.trust.check(file, own_parts(config, ["augment"]))
            found.check_unchanged(file.name)
        return Augmented(name=run.name, leaf=self.leaf(found, above), policy=policy)

    def blend(self, run: Run, above: Sequence[Path]) -> Blend:
        """Return a blend with its members."""
        saved = load_blend(run.path, say=self.say)
        members = [self.node(one, above) for one in member_runs(run)]
        return Blend(
            name=run.name,
            members=tuple(members),
            parameters=saved.parameters,
            of_means=len({one.num_models for one in members}) > 1,
        )

    def imported(self, run: Run, above: Sequence[Path]) -> NoReturn:
        """Raise UserError for predictions of another library, whose models are not here."""
        blended = f"; blend the other members of {above[0]} without it" if len(above) > 1 else ""
        raise UserError(
            f"{run.path}: was imported and has no models, so it cannot predict new images; predict"
            f" with the library that trained them{blended}"
        )


# Blends in blends; more are a mistake, and each level is searched for all its members.
MOST_LEVELS = 10
KINDS: dict[str, Any] = {
    "cv": _Opener.leaf,
    "tta": _Opener.augmented,
    "blend": _Opener.blend,
    "import": _Opener.imported,
}


def _member(
    run: Run, name: str, recorded: Path | None, record: Mapping[str, Any], *, blend: bool
) -> Run:
    """Return the run that another one was made from: where it was, or beside that one.

    Raises UserError if it is gone, or if it or its refit has been made again since. `record` has
    the hash of its rows and the mark of its refit.
    """
    beside = run.path.resolve().parent / name
    places = [one for one in (recorded, beside) if one is not None]
    there = [Run(one) for one in places if is_file(one / "run.json")]
    what = "member of the blend" if blend else "run it was made from"
    if not there:
        raise UserError(
            f"{places[0]}: is gone; restore it, as {run.path} was made from it, or pass a file of"
            " export_model.py, which has everything"
        )
    for one in there:
        found = finished_run(one.path)
        if found.oof_hash == record["oof"] and refit_mark(found.info) == record.get("refit"):
            return found
    again = "blend.py" if blend else "run_tta.py"
    path = there[0].path
    raise UserError(f"{path}: this {what} {run.path} was made again since; run {again} again")


def open_run(run: Run, *, trust: Trust = NOTHING, say: Say = write) -> Predictor:
    """Return the predictor of a finished run, TTA'd run or blend (see `open_predictor`)."""
    try:
        root = _Opener(say, trust).node(run)
        # Calibration and sets of classes are made from these rows.
        run.oof  # noqa: B018 - raises if they are damaged
    except UserError:
        raise
    # Files of a folder that was changed by hand may hold anything.
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"{run.path}/run.json: the run cannot be opened ({in_a_line(error)}); make it again"
        ) from None
    return Predictor(root=root, source=run.path, info=run.info, run=run)


def open_predictor(path: str | Path, *, trust: Trust = NOTHING, say: Say = write) -> Predictor:
    """Return the predictor of a run folder, or of a file of export_model.py.

    Parameters
    ----------
    path
        Folder of a finished run, TTA'd run or blend, or an exported file.
    trust
        Which parts of the user's own may be imported; default: none.
    say
        Function that prints one line of the log.

    Raises
    ------
    UserError
        If a folder is not a finished run, a member or weights are gone or changed, or a file is
        damaged.
    """
    place = Path(path)
    if is_file(place):
        from pipeline.export.read import read_export

        return read_export(place, say=say)
    return open_run(finished_run(place), trust=trust, say=say)
