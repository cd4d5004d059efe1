"""Backbones that a config.json describes, on a hub (hf-hub:) or in a folder (local-dir:).

The file names an architecture of timm and keywords for it. Nothing in it is executed, and weights
are never unpickled.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foldblend.errors import UserError, in_a_line, shown
from foldblend.files import home, is_file
from foldblend.plugins import is_downloaded
from foldblend.reading import MOST_JSON, parse_json, read_bounded
from pipeline.models.timm_import import timm

__all__ = ["absolute", "architecture", "description_hash", "record_of", "weights_file"]

CONFIG = "config.json"
# The first of these that is there has the weights.
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
# Keywords by which timm loads files, looks elsewhere or returns another kind of model. Those that
# the installed version of timm takes besides those of the architecture are added to them.
NOT_OF_ARCHITECTURE = frozenset(
    {
        "cache_dir",
        "checkpoint_path",
        "device",
        "dtype",
        "exportable",
        "feature_cls",
        "features_only",
        "model_name",
        "no_jit",
        "out_indices",
        "pruned",
        "scriptable",
    }
)


@functools.cache
def _refused() -> frozenset[str]:
    """Return the keywords of timm that are not an architecture's."""
    makers = (timm.create_model, timm.models.build_model_with_cfg)
    return NOT_OF_ARCHITECTURE.union(*(inspect.signature(one).parameters for one in makers))


def _keywords(given: Mapping[str, Any], backbone: str) -> dict[str, Any]:
    """Return the keywords of an architecture; raise UserError for one that may load a file.

    Those that are null or false ask for nothing, and are left out.
    """
    refused = {
        name
        for name in given
        if name in _refused() or name.startswith(("pretrained", "checkpoint"))
    }
    asked = sorted(name for name in refused if given[name] not in (None, False))
    if asked:
        raise UserError(
            f"--backbone {shown(backbone)}: model_args of {CONFIG} has {shown(asked[0])}, which is"
            " not of the model's architecture and may load a file; remove it there"
        )
    return {name: value for name, value in given.items() if name not in refused}


def absolute(backbone: str) -> str:
    """Return a backbone's name with an absolute path, if it is in a folder."""
    kind, _, place = backbone.partition(":")
    return f"{kind}:{home(place).resolve()}" if kind == "local-dir" else backbone


def _cure(backbone: str) -> str:
    """Return what to do where a backbone's files cannot be had."""
    name = backbone.rpartition("/")[2]
    if is_downloaded(backbone) and timm.is_model(name.partition(".")[0]):
        return f"pass --backbone {name}"
    return "pass the name of a timm model"


def _file(backbone: str, name: str) -> Path | None:
    """Return a file of a backbone, downloaded if it is on the hub; None if it has no such file.

    Raises UserError if the hub cannot be reached.
    """
    kind, _, place = backbone.partition(":")
    if kind == "local-dir":
        file = home(place) / name
        return file if is_file(file) else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HFValidationError,
        LocalEntryNotFoundError,
    )
    from huggingface_hub.utils import logging

    # Its warnings of each attempt say what the error says.
    logging.set_verbosity_error()
    repository, _, revision = place.partition("@")
    try:
        return Path(hf_hub_download(repository, name, revision=revision or None))
    except EntryNotFoundError as error:
        # Without a network it is not known whether the hub has the file.
        if not isinstance(error, LocalEntryNotFoundError):
            return None
        why: Exception = error
    except (OSError, HFValidationError) as error:
        why = error
    raise UserError(
        f"--backbone {shown(backbone)}: {name} is not on this machine, and cannot be downloaded"
        f" ({in_a_line(why)}); {_cure(backbone)}, and --weights FILE for other weights"
    )


def _description(backbone: str) -> bytes:
    """Return the content of config.json; raise UserError if there is none."""
    file = _file(backbone, CONFIG)
    if file is None:
        raise UserError(
            f"--backbone {shown(backbone)}: has no {CONFIG}; pass a folder or repository that timm"
            " wrote"
        )
    return read_bounded(file, most=MOST_JSON, cure="check --backbone")


def description_hash(backbone: str) -> str:
    """Return the hash of a backbone's config.json."""
    return hashlib.blake2b(_description(backbone), digest_size=16).hexdigest()


@functools.lru_cache(maxsize=8)
def _parsed(data: bytes, backbone: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return architecture, keywords and pretrained_cfg; raise UserError for other content."""
    found = parse_json(data, f"--backbone {shown(backbone)}: {CONFIG}", cure="pass another one")
    given = found if isinstance(found, dict) else {}
    name = given.get("architecture")
    if not isinstance(name, str) or ":" in name or not timm.is_model(name):
        raise UserError(
            f"--backbone {shown(backbone)}: {CONFIG} names the architecture {shown(name)}, which"
            " timm does not have; pass another one"
        )
    kwargs = given.get("model_args") or {}
    about = given.get("pretrained_cfg") or {}
    if not isinstance(kwargs, dict) or not isinstance(about, dict):
        raise UserError(
            f"--backbone {shown(backbone)}: model_args or pretrained_cfg of {CONFIG} is no mapping;"
            " pass another one"
        )
    return name, _keywords(kwargs, backbone), about


def architecture(backbone: str) -> tuple[str, Mapping[str, Any]]:
    """Return the timm architecture of a backbone, and the keywords that its description has."""
    name, kwargs, _ = _parsed(_description(backbone), backbone)
    return name, kwargs


def record_of(backbone: str) -> dict[str, Any]:
    """Return the configuration of a backbone: input size, mean, std and so on.

    Raises UserError where the description has other values than numbers.
    """
    name, _, about = _parsed(_description(backbone), backbone)
    record: dict[str, Any] = timm.models.get_pretrained_cfg(name).to_dict()
    for key, number in (("input_size", int), ("mean", (int, float)), ("std", (int, float))):
        value = about.get(key, record[key])
        valid = isinstance(value, list | tuple) and len(value) == 3
        if not valid or not all(isinstance(one, number) for one in value):
            raise UserError(
                f"--backbone {shown(backbone)}: {CONFIG} has {key} {shown(value)}; write three"
                " numbers"
            )
        record[key] = tuple(value)
    return record | {
        "fixed_input_size": bool(about.get("fixed_input_size", record.get("fixed_input_size")))
    }


def weights_file(backbone: str) -> Path:
    """Return the file with the weights of a backbone; raise UserError if it has none."""
    for name in WEIGHTS:
        file = _file(backbone, name)
        if file is not None:
            return file
    raise UserError(
        f"--backbone {shown(backbone)}: has neither {' nor '.join(WEIGHTS)}; pass --pretrained none"
        " to start from random weights, or --weights FILE"
    )
