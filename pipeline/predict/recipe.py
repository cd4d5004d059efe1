"""Recipe of a cross-validated run's models: all that is needed to run them, but the weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from foldblend.attributes import Attribute
from foldblend.errors import UserError
from foldblend.images import AS_BEFORE, Levels
from foldblend.levels import BACKGROUNDS, parse_range, parse_window
from foldblend.runs.costs import num_models
from foldblend.runs.refit import num_refits, refit_share
from foldblend.runs.run import Run
from pipeline.config.settings import read_config_file, replace
from pipeline.config.trust import Trust, own_parts
from pipeline.data.preprocess import Preprocess
from pipeline.engines.registry import TORCH
from pipeline.models.backbones import check_backbone, model_kwargs

__all__ = ["Look", "Recipe", "recipe_of"]


@dataclass(frozen=True, slots=True)
class Look:
    """Settings that make the stored pixels of an image, which is decoded once for each look."""

    width: int
    height: int
    """Stored size, before the centre crop."""
    decode: str
    crop: str
    crop_share: float
    levels: Levels = AS_BEFORE


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Settings by which the models of a cross-validated run turn images into logits."""

    backbone: str
    kwargs: dict[str, Any]
    """Keywords that build the backbone."""
    num_classes: int
    attributes: tuple[Attribute, ...] = ()
    """Attributes whose heads are joined to classes; () for one head over all classes."""
    ordinal: str | None = None
    preprocess: Preprocess
    crop: str
    crop_share: float
    views: tuple[str, ...]
    """Views of the run, whose mean its logits are."""
    frozen: bool
    """Whether the models are linear heads on one backbone."""
    batch_size: int
    padded: tuple[bool, ...]
    """For each model, those of the folds and then the refits, whether short batches are filled up.
    """
    num_folds: int
    """Folds of each repeat."""
    seed: int
    augment: str
    device: str
    amp_dtype: str | None
    """Data type of mixed precision, None for float32."""
    channels_last: bool
    threads: int
    engine: str = TORCH
    """Engine of the forward passes."""
    on_torch: tuple[int, ...] = ()
    """Models for which torch was used in place of the engine."""
    num_refits: int = 0
    """Number of models of all rows (see `foldblend.runs.refit`)."""
    refit_share: float = 0.0
    """Their share in the logits."""
    pipelines: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Pipelines of albumentations by the name that views have for them, as `albumentations.to_dict`
    gives them. Others are read from the file of that name.
    """

    @property
    def num_models(self) -> int:
        """Number of models of the folds: one per fold and repeat."""
        return len(self.padded) - self.num_refits

    @property
    def refits(self) -> range:
        """Numbers of the refits, which follow those of the models of the folds."""
        return range(self.num_models, len(self.padded))

    @property
    def models(self) -> tuple[int, ...]:
        """Numbers of the models that are needed to predict; refits may replace the others."""
        return (*(() if self.refit_share == 1 else range(self.num_models)), *self.refits)

    def without_refits(self) -> Recipe:
        """Return the recipe of the models of the folds alone."""
        num = self.num_models
        return dataclasses.replace(
            self,
            padded=self.padded[:num],
            on_torch=tuple(index for index in self.on_torch if index < num),
            num_refits=0,
            refit_share=0.0,
        )

    @property
    def look(self) -> Look:
        """Return the settings that make the stored pixels."""
        width, height = self.preprocess.stored_size
        pixels = self.preprocess
        return Look(width, height, pixels.decode, self.crop, self.crop_share, pixels.levels)

    def as_dict(self) -> dict[str, Any]:
        """Return the recipe as values that JSON has; `from_dict` is the inverse."""
        found = dataclasses.asdict(self)
        # As versions without levels and engines wrote it, whose predictions can be continued.
        found["preprocess"] = self.preprocess.to_dict()
        if not self.on_torch:
            del found["on_torch"]
        if not self.num_refits:
            del found["num_refits"]
            del found["refit_share"]
        return dict(json.loads(json.dumps(found)))

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Recipe:
        """Return the recipe that `as_dict` described.

        Raises TypeError, LookupError or ValueError for other data.
        """
        given = dict(saved)
        given["attributes"] = tuple(
            Attribute(
                name=one["name"],
                values=tuple(one["values"]),
                of_class=tuple(one["of_class"]),
                ordered=bool(one["ordered"]),
            )
            for one in given["attributes"]
        )
        pixels = dict(given["preprocess"])
        for name in ("mean", "std"):
            pixels[name] = tuple(map(float, pixels[name]))
        given["preprocess"] = Preprocess(**pixels | levels_in(pixels))
        given["views"] = tuple(map(str, given["views"]))
        given["padded"] = tuple(map(bool, given["padded"]))
        given["on_torch"] = tuple(map(int, given.get("on_torch", ())))
        given["kwargs"] = {
            str(key): tuple(value) if isinstance(value, list) else value
            for key, value in given["kwargs"].items()
        }
        return cls(**given)


def recipe_of(run: Run, trust: Trust) -> Recipe:
    """Return the recipe of a finished cross-validated run, from its folder.

    Parameters
    ----------
    run
        The run.
    trust
        Decides whether a backbone of the user's own that config.yaml names is imported.

    Raises
    ------
    UserError
        If config.yaml or run.json cannot be used, or name a backbone that is not trusted.
    """
    file = run.path / "config.yaml"
    config = read_config_file(file)
    model = config.model
    trust.check(file, own_parts(config, ["backbone"]))
    run.check_unchanged(file.name)
    record = check_backbone(model.backbone)
    saved = run.info.get("preprocess")
    if saved is None:
        raise UserError(f"{run.path}/run.json: lacks preprocess; run it again")
    _check_types(run)
    names = [field.name for field in dataclasses.fields(Preprocess)]
    pixels = {name: saved[name] for name in names if name in saved}  # type: ignore[literal-required]
    for name in ("mean", "std"):
        pixels[name] = tuple(pixels[name])
    preprocess = Preprocess(**pixels | levels_in(pixels))
    size = f"{preprocess.width}x{preprocess.height}"
    machine = config.machine
    folds = [*(run.info.get("folds") or [{}] * num_models(run))]
    folds += run.info.get("refit", {}).get("models", ())
    return Recipe(
        backbone=model.backbone,
        kwargs=model_kwargs(replace(config, img_size=size).model, record, preprocess),
        num_classes=len(run.classes),
        attributes=run.attributes if model.head == "attributes" else (),
        ordinal=model.ordinal,
        preprocess=preprocess,
        crop=_crop_of(run, model.crop),
        crop_share=model.crop_share,
        views=tuple(run.info["views"]),
        frozen=run.frozen,
        batch_size=config.infer.validation_batch_size or 64,
        # Features of a frozen backbone were always computed in full batches.
        padded=tuple(bool(fold.get("padded", run.frozen)) for fold in folds),
        num_folds=run.info["num_folds"],
        seed=config.train.seed,
        augment=config.augment.augment,
        device=machine.device,
        amp_dtype=machine.amp_dtype if machine.amp else None,
        channels_last=machine.channels_last,
        threads=machine.threads or 1,
        engine=config.infer.infer_engine,
        on_torch=tuple(k for k, fold in enumerate(folds) if fold.get("engine") == TORCH),
        num_refits=num_refits(run.info),
        refit_share=refit_share(run.info),
    )


def levels_in(pixels: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of levels in a record, {} in one of an earlier version.

    Raises ValueError or TypeError for values that no version wrote.
    """
    levels = Levels.of_record(pixels)
    if levels == AS_BEFORE:
        return {}
    try:
        if levels.pixel_range is not None:
            parse_range("{},{}".format(*levels.pixel_range))
        parse_window(levels.dicom_window)
    except UserError as error:
        raise ValueError(f"preprocess: {error}") from None
    if levels.background not in (None, *BACKGROUNDS):
        raise ValueError(f"preprocess: background {levels.background}")
    return dataclasses.asdict(levels)


def _check_types(run: Run) -> None:
    """Raise ValueError where run.json, which may have been changed by hand, has other types."""
    pixels = cast("Mapping[str, Any]", run.info["preprocess"])
    numbers = [pixels["width"], pixels["height"], pixels.get("crop_pct", 1.0)]
    if not all(type(one) in (int, float) and one > 0 for one in numbers):
        raise ValueError("preprocess: width, height or crop_pct")
    for name in ("mean", "std"):
        if len(pixels[name]) != 3 or not all(type(one) in (int, float) for one in pixels[name]):
            raise ValueError(f"preprocess: {name}")
    for name, texts in (("classes", run.info["classes"]), ("views", run.info["views"])):
        if not isinstance(texts, list) or not texts:
            raise ValueError(f"{name}: no list of texts")
        if not all(isinstance(one, str) for one in texts):
            raise ValueError(f"{name}: not all are texts")


def _crop_of(run: Run, crop: str) -> str:
    """Return the part of images that a run used, where --crop auto was decided by the data."""
    if crop != "auto":
        return crop
    region = run.info["preprocess"].get("region")
    if region is not None:
        return "box" if region.get("kind") == "box" else "whole"
    # Runs of earlier versions do not say; their images do.
    file = run.path / "pictures.parquet"
    if not Path(file).is_file():
        return "whole"
    import pyarrow.parquet

    return "box" if "box" in pyarrow.parquet.read_schema(file).names else "whole"
