"""K-fold cross-validation, test-time augmentation and blending of image classifiers.

    import foldblend as fb

    run = fb.cross_validate(backbone="tf_efficientnet_lite0", data="demo", epochs=2)
    blend = fb.blend(["outputs/a", "outputs/b"])
    oof = fb.load("outputs/a").oof

docs/api.md describes every public name. Each name is imported on first use, so `import foldblend`
is fast and blending never loads torch.
"""

import importlib
from typing import Any

from foldblend.moved import find_moved
from foldblend.siblings import find_siblings_first

find_siblings_first()
find_moved()

# Public name -> the module that defines it. Modules are given as text because foldblend/ must not
# import the packages that depend on it. __init__.pyi has the types.
PUBLIC = {
    "Attribute": "foldblend.attributes",
    "DataConfig": "folds.config",
    "ImageTable": "folds.data.image_table",
    "LossConfig": "pipeline.config.train",
    "Manifest": "folds.data.manifest",
    "Run": "foldblend.runs.run",
    "RunConfig": "pipeline.config.run",
    "StratifiedGroupKFold": "folds.kfold",
    "TrainConfig": "pipeline.config.train",
    "UserError": "foldblend.errors",
    "audit": "folds.audit.run",
    "blend": "ensemble.blend",
    "build_manifest": "folds.data.manifest",
    "cross_validate": "pipeline.cv",
    "cross_validate_seeds": "pipeline.cv",
    "explain": "pipeline.explain.run",
    "export_model": "pipeline.export.write",
    "import_run": "folds.data.imported.run",
    "leaderboard": "reports.board.leaderboard",
    "load": "foldblend.runs.check",
    "load_export": "pipeline.export.loaded",
    "make_config": "pipeline.config.settings",
    "plan": "pipeline.plan.api",
    "predict": "pipeline.predict.api",
    "score_images": "pipeline.predict.api",
    "run_tta": "pipeline.run_tta",
    "tune": "pipeline.search.run",
    "write_report": "reports.run.report",
}

__all__ = [*PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module 'foldblend' has no attribute {name!r}")
    found = getattr(importlib.import_module(PUBLIC[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *PUBLIC])
