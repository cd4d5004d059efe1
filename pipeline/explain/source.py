"""The models that explain a run: its own, or those of the run or member that it was made from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from ensemble.saved import saved_members
from foldblend.cli import Say
from foldblend.errors import UserError, listed
from foldblend.files import is_file
from foldblend.runs.folder import PICTURES
from foldblend.runs.oof import oof_arrays
from foldblend.runs.run import Run
from foldblend.scores.run_metric import metric_of
from foldblend.scores.score import score_of
from pipeline.config.trust import Trust
from pipeline.predict.open import MOST_LEVELS, member_run, open_run, origin_run
from pipeline.predict.tree import Leaf
from reports.run.explained import rows_to_explain

__all__ = ["Mistake", "Name", "Source", "mistakes_of", "source_of"]

Name = tuple[str, int]
"""Name of an image and number of the repeat."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """An out-of-fold prediction that is explained."""

    image_id: str
    repeat: int
    predicted: int
    label: int
    model: int
    """Number of the model that did not train on the image."""

    @property
    def name(self) -> Name:
        return self.image_id, self.repeat


@dataclass(frozen=True, slots=True)
class Source:
    """A cross-validated run with its models."""

    run: Run
    leaf: Leaf

    @property
    def fingerprint(self) -> str:
        """Hash of the weights and of how images are prepared for them."""
        marks = self.leaf.marks(refits=False)
        return hashlib.blake2b(json.dumps(marks).encode(), digest_size=16).hexdigest()


def mistakes_of(run: Run, source: Source) -> list[Mistake]:
    """Return the mistakes that are explained, with the model that held each out."""
    arrays = oof_arrays(run)
    held = source.run.oof.set_index(["repeat", "image_id"])["fold"]
    num_folds = source.run.info["num_folds"]
    last = source.run.info["num_repeats"] - 1
    ids = run.oof["image_id"].tolist()
    found = []
    for row in rows_to_explain(run, arrays).tolist():
        repeat = int(arrays.rows.repeat_N[row])
        # A member of a blend may have fewer repeats.
        of_model = min(repeat, last)
        fold = int(held.loc[of_model, ids[row]])
        label = int(arrays.rows.label_N[row])
        predicted = int(arrays.proba_NC[row].argmax())
        found.append(Mistake(ids[row], repeat, predicted, label, of_model * num_folds + fold))
    return found


def source_of(run: Run, *, trust: Trust, say: Say) -> Source:
    """Return the models that explain a run.

    A TTA'd run is explained by the run that it was made from, and a blend by its member with the
    best score of those that have models.

    Parameters
    ----------
    run
        A finished run of any kind.
    trust
        Decides whether a backbone of the user's own is imported.
    say
        Function that prints one line of the log.

    Raises
    ------
    UserError
        If there are no models: the run was imported, or weights are missing or have changed.
    """
    return _source(run, trust, say, MOST_LEVELS)


def _source(run: Run, trust: Trust, say: Say, levels: int) -> Source:
    kind = run.info["kind"]
    if kind == "import":
        raise UserError(
            f"{run.path}: was imported and has no models, so --explain cannot show where they"
            " looked; use the library that trained them"
        )
    if kind == "tta":
        return _source(origin_run(run), trust, say, levels)
    if kind == "blend":
        return _best_member(run, trust, say, levels)
    leaf = open_run(run, trust=trust, say=say).root
    assert isinstance(leaf, Leaf)
    return Source(run, leaf)


def _best_member(blend: Run, trust: Trust, say: Say, levels: int) -> Source:
    """Return the source of a blend's best member that has models."""
    metric = metric_of(blend.info).by_image
    there: list[tuple[float, Run]] = []
    reasons = []
    for one in saved_members(blend):
        try:
            member = member_run(blend, one)
            arrays = oof_arrays(member)
            score = score_of(metric, arrays.rows, arrays.proba_NC, resampled=False)
            there.append((score.value, member))
        except UserError as error:
            reasons.append(str(error))
    for _, member in sorted(there, key=lambda one: one[0], reverse=True):
        try:
            if levels == 0:
                raise UserError(f"{member.path}: blends are members of blends too often")
            if not _shows_alike(blend, member):
                raise UserError(
                    f"{member.path}: sees other parts of the images than the blend's report shows"
                )
            return _source(member, trust, say, levels - 1)
        except UserError as error:
            reasons.append(str(error))
    raise UserError(
        f"{blend.path}: no member can be explained ({listed(reasons, most=2)}); restore the"
        " members' folders"
    )


def _shows_alike(blend: Run, member: Run) -> bool:
    """Return whether the images of two runs have the same boxes, so that maps fit to both."""
    if not all(is_file(run.path / PICTURES) for run in (blend, member)):
        return True
    here, there = (
        table[table["part"] == "train"].set_index("image_id")
        for table in (blend.table("pictures"), member.table("pictures"))
    )
    if "box" not in here and "box" not in there:
        return True
    if "box" not in here or "box" not in there:
        return False
    boxes = here["box"].map(_key).to_dict()
    return boxes == there["box"].map(_key).reindex(here.index).to_dict()


def _key(box: object) -> str:
    return "" if box is None else ",".join(f"{float(one):g}" for one in box)  # type: ignore[attr-defined]
