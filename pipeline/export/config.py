"""Settings of export_model.py; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from foldblend.errors import require
from foldblend.flags import check_lengths, expand_home, flag
from foldblend.plugins import parse_parts
from pipeline.predict.config import parse_models

__all__ = ["ExportConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig:
    """Settings of an export: the run, the file and what goes into it."""

    run: tyro.conf.Positional[str] = ""
    """Folder of a finished run, TTA'd run or blend; for --onnx and --timm an exported file too."""
    to: str | None = flag(None, common=True)
    """File to write, such as model.zip. It has all that prediction needs: neither the run folders
    nor the data.
    """
    half: bool = flag(False, common=True)
    """Store weights in 16 bits, which halves the file and changes logits a little. The difference
    is measured on out-of-fold rows where the images are there, and is written into the model card.
    """
    folds: str | None = flag(None, common=True)
    """Models that go into --to, such as 0 for those of the first fold only, or 0,2. Default: all.
    """
    onnx: str | None = flag(None, common=True)
    """Folder for ONNX graphs: one for each model, and one for all of them with views and blend."""
    timm: str | None = flag(None, common=True)
    """Folder for models that timm loads from disk: a folder for each."""
    overwrite: bool = flag(False, common=True)
    """Replace --to if it is there, and files of the same names in --onnx and --timm."""
    parts: str | None = None
    """Your own parts that the run's settings name and that may be imported, as module:name,
    comma-separated. A run with such parts can be exported to --onnx only.
    """
    trust_parts: bool = False
    """Import such parts without their names, if their source is what the run was made with."""
    device: str | None = None
    """Device, such as cuda, that measures the difference. Default: the one used in training."""

    def __post_init__(self) -> None:
        expand_home(self, "run", "to", "onnx", "timm")
        check_lengths(self, "to", "onnx", "timm")
        parse_parts(self.parts)
        if self.folds is not None:
            parse_models(self.folds)
        require(
            not self.run or self.to is not None or self.onnx is not None or self.timm is not None,
            "--to: missing; pass the file to write, such as --to model.zip, or --onnx FOLDER or"
            " --timm FOLDER",
        )
        for name in ("half", "folds"):
            require(
                not getattr(self, name) or self.to is not None,
                f"--{name}: is of the file that --to writes; pass --to, or leave it out",
            )

    @property
    def models(self) -> tuple[int, ...] | None:
        """Numbers of the models to export, None for all."""
        return None if self.folds is None else tuple(sorted(parse_models(self.folds)))
