"""Reference of a run, with which new images are compared: made once and kept in its folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from foldblend.arrays_file import read_arrays
from foldblend.cli import Say
from foldblend.errors import UserError
from foldblend.files import is_file, write_bytes
from foldblend.images import upright_size
from foldblend.progress import Task
from foldblend.runs.folder import PICTURES, lock_folder
from foldblend.runs.run import Run
from pipeline.config.trust import NOTHING, Trust
from pipeline.data.images import Files, ImageStore
from pipeline.device import num_cores
from pipeline.predict.compute import compute_for
from pipeline.predict.nets import Net
from pipeline.predict.open import Predictor
from pipeline.predict.recipe import recipe_of
from pipeline.predict.reference import (
    MOST_HELD,
    MOST_ROWS,
    Reference,
    choose_rows,
    look_of,
    make_reference,
)
from pipeline.predict.stream import Stream
from pipeline.predict.tree import Augmented, Blend, Leaf, Node
from pipeline.predict.weights import FolderWeights

__all__ = [
    "REFERENCE",
    "Watched",
    "add_reference",
    "keep_reference",
    "looks_of",
    "main_leaf",
    "rows_of_fold",
    "watched_of",
]

REFERENCE = "reference.safetensors"
KEY = "of"


@dataclass(frozen=True)
class Watched:
    """The leaf whose first model sees new images beside the training images, and its reference."""

    key: str
    """Key of the leaf."""
    name: str
    reference: Reference


def rows_of_fold(fold_N: np.ndarray, group_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of fold 0's training images, and of held-out images, that are compared."""
    found = []
    for rows, most in ((fold_N != 0, MOST_ROWS), (fold_N == 0, MOST_HELD)):
        place_N = np.flatnonzero(rows)
        found.append(place_N[choose_rows(group_N[place_N], most)])
    return found[0], found[1]


def keep_reference(folder: Path, of: str, reference: Reference) -> None:
    """Write the reference of a run; `of` is the hash of the weights that it belongs to."""
    arrays = reference.as_arrays()
    about = {"weights": of, "arrays": _hash_of(arrays)}
    write_bytes(folder / REFERENCE, safetensors.numpy.save(arrays, {KEY: json.dumps(about)}))


def _hash_of(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def _saved(folder: Path, of: str, say: Say) -> Reference | None:
    """Return the reference in a run folder, or None if there is none of these weights.

    A damaged one is made again, as an absent one is, and `say` gets a line.
    """
    file = folder / REFERENCE
    if not is_file(file):
        return None
    try:
        metadata, arrays = read_arrays(file, cure="remove it")
        about = json.loads(metadata[KEY])
        if about["weights"] != of:
            return None
        # Earlier versions kept no hash.
        if about.get("arrays", now := _hash_of(arrays)) == now:
            return Reference.from_arrays(arrays)
    except (OSError, LookupError, TypeError, ValueError, safetensors.SafetensorError):
        pass
    say(f"{file}: is damaged, so it is made again")
    return None


def looks_of(images: ImageStore, paths: Sequence[str], rows: Sequence[int]) -> np.ndarray:
    """Return brightness, width and height of images, N x 3."""
    with ThreadPoolExecutor(num_cores()) as pool:
        return np.array(
            [*pool.map(lambda row: look_of(images[row], upright_size(paths[row])), rows)]
        )


def _made(run: Run, net: Net) -> Reference | None:
    """Return the reference of a finished run from its images, or None if they are gone."""
    file = run.path / PICTURES
    if not file.is_file():
        return None
    pictures = run.table("pictures")
    pictures = pictures[pictures["part"] == "train"].set_index("image_id")
    oof = run.oof[run.oof["repeat"] == 0]
    if not oof["image_id"].isin(pictures.index).all():
        return None
    table = pictures.loc[oof["image_id"]].reset_index()
    train_N, held_N = rows_of_fold(oof["fold"].to_numpy(), oof["group"].to_numpy())
    chosen_N = np.concatenate([train_N, held_N])
    if not all(Path(path).is_file() for path in table["path"].iloc[chosen_N]):
        return None
    # Files that changed since training are found by their hash, which early versions did not keep.
    has_hash = "content" in table
    images = Files(table.iloc[chosen_N], net.recipe.preprocess, verify=has_hash)
    ids = table["image_id"].iloc[chosen_N].tolist()
    size = net.recipe.batch_size
    features = []
    looks = []
    with (
        Task("features of training images", len(ids), unit="images") as task,
        ThreadPoolExecutor(num_cores()) as pool,
    ):
        for start in range(0, len(ids), size):
            rows = range(start, min(start + size, len(ids)))
            stored = np.stack([*pool.map(images.__getitem__, rows)])
            looks += [look_of(stored[row - start], upright_size(images.paths[row])) for row in rows]
            features.append(net.penultimate(stored, [ids[row] for row in rows], {}))
            task.add(len(rows))
    features_ND = np.concatenate(features)
    num = len(train_N)
    return make_reference(features_ND[:num], features_ND[num:], np.array(looks[:num]))


def add_reference(
    weights: FolderWeights,
    *,
    net: Net | None = None,
    trust: Trust = NOTHING,
    held: bool = False,
    named: Path | None = None,
    say: Say,
) -> Reference | None:
    """Return the reference of a finished cross-validated run, made and written if it is absent.

    Parameters
    ----------
    weights
        Weights in the folder of the run.
    net
        Its models, if they are on a device already.
    trust
        Which parts of the user's own may be imported where the models must be built.
    held
        Whether the caller holds the lock of the folder.
    named
        The folder that the user named (default: that of the run). Nothing is written into a member
        of a blend that is elsewhere, since the blend's files alone say where it is.
    say
        Gets a line that says why, if the reference cannot be made; then None is returned.
    """
    folder = weights.folder
    run = Run(folder)
    of = weights.fingerprint(0)
    found = _saved(folder, of, say)
    if found is not None:
        return found
    try:
        if net is None:
            recipe = recipe_of(run, trust)
            compute = compute_for(recipe, device=None, threads=None, say=say)
            net = Net(recipe, weights, compute, say)
        made = _made(run, net)
    except UserError as error:
        say(f"new images will not be compared with the training images: {error}")
        return None
    if made is None:
        say(
            f"{folder}: has no {REFERENCE}, and its training images are gone, so new images are"
            " not compared with them"
        )
        return None
    if named is not None and folder.resolve().parent != named.resolve().parent:
        return made
    # A folder that is in use or read-only does without it.
    lock = contextlib.nullcontext() if held else lock_folder(folder, flags=(None, None))
    with contextlib.suppress(OSError, UserError), lock:
        keep_reference(folder, of, made)
    return made


def main_leaf(node: Node) -> Leaf:
    """Return the leaf with the greatest share, the first of equal ones."""
    if isinstance(node, Augmented):
        return node.leaf
    if isinstance(node, Blend):
        shares = node.parameters.fitted.shares
        return main_leaf(node.members[int(np.argmax(shares))])
    assert isinstance(node, Leaf)
    return node


def watched_of(predictor: Predictor, stream: Stream | None, *, say: Say) -> Watched | None:
    """Return what new images are compared with, or None where nothing is known.

    It is the first model of the run with the greatest share, if it is one of those that predict.
    """
    leaf = main_leaf(predictor.root)
    if stream is not None and 0 not in stream.models[leaf.key]:
        replaced = leaf.recipe.refit_share == 1
        why = "as the refit replaces the models of folds" if replaced else "without fold 0"
        say(f"{why}, images are not compared with the training images")
        return None
    if "reference" in predictor.extras:
        reference = Reference.from_arrays(predictor.extras["reference"])
        return Watched(leaf.key, leaf.name, reference)
    if not isinstance(leaf.weights, FolderWeights):
        return None
    net = None if stream is None else stream.nets[leaf.key]
    found = add_reference(leaf.weights, net=net, named=predictor.source, say=say)
    return None if found is None else Watched(leaf.key, leaf.name, found)
