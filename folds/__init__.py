"""Who is held out when, and what the labels are: manifests, the label codec, splitters."""

from folds.errors import BadImage, UserError
from folds.manifest import Attribute, Manifest
from folds.source import load_manifest
from folds.split import SPLITTERS, assign_folds

__all__ = ["SPLITTERS", "Attribute", "BadImage", "Manifest", "UserError", "assign_folds", "load_manifest"]
