"""Types of the public API; a test compares them with the table PUBLIC in __init__.py."""

from ensemble.blend import blend as blend
from foldblend.attributes import Attribute as Attribute
from foldblend.errors import UserError as UserError
from foldblend.runs.check import load as load
from foldblend.runs.run import Run as Run
from folds.audit.run import audit as audit
from folds.config import DataConfig as DataConfig
from folds.data.image_table import ImageTable as ImageTable
from folds.data.imported.run import import_run as import_run
from folds.data.manifest import Manifest as Manifest
from folds.data.manifest import build_manifest as build_manifest
from folds.kfold import StratifiedGroupKFold as StratifiedGroupKFold
from pipeline.config.run import RunConfig as RunConfig
from pipeline.config.settings import make_config as make_config
from pipeline.config.train import LossConfig as LossConfig
from pipeline.config.train import TrainConfig as TrainConfig
from pipeline.cv import cross_validate as cross_validate
from pipeline.cv import cross_validate_seeds as cross_validate_seeds
from pipeline.explain.run import explain as explain
from pipeline.export.loaded import load_export as load_export
from pipeline.export.write import export_model as export_model
from pipeline.plan.api import plan as plan
from pipeline.predict.api import predict as predict
from pipeline.predict.api import score_images as score_images
from pipeline.run_tta import run_tta as run_tta
from pipeline.search.run import tune as tune
from reports.board.leaderboard import leaderboard as leaderboard
from reports.run.report import write_report as write_report

PUBLIC: dict[str, str]
