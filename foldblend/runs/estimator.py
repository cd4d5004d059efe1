"""Finished run as a fitted classifier, with the methods that scikit-learn expects of one."""

from __future__ import annotations

import abc
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foldblend.errors import UserError

__all__ = ["Estimator"]


def _silent(line: str) -> None:
    """Print nothing."""


class Estimator(abc.ABC):
    """Methods of a run or an exported file that predict images.

    They run models, which is the work of higher layers, so the functions are looked up in the
    table of public names when they are called.
    """

    path: Path
    """Folder of the run, or the exported file."""

    @property
    @abc.abstractmethod
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in label order."""

    @property
    def classes_(self) -> np.ndarray:
        """Names of the classes, in the order of the columns of `predict_proba`."""
        return np.array(self.classes)

    def predict(self, images: Any, **settings: Any) -> np.ndarray:
        """Return the name of the class of each image.

        Parameters
        ----------
        images
            As for `fb.predict`: paths, a folder, a table, arrays or PIL images.
        settings
            Settings of `fb.predict`, such as ``folds`` or ``device``.

        Raises
        ------
        UserError
            If the models cannot be opened, or an image cannot be read.

        Examples
        --------
        >>> run = fb.load(outputs / "alpha")
        >>> run.predict([f"{data}/eval/images/{name}" for name in run.test.image_id[:2]]).shape
        (2,)
        """
        table = self._table(images, settings)
        return np.asarray(table["class"].to_numpy(), dtype=str)

    def predict_proba(self, images: Any, **settings: Any) -> np.ndarray:
        """Return the calibrated probabilities of the classes, N x C.

        Parameters and errors are those of `predict`. The class that `predict` returns need not be
        the most probable one: it is the decision that scored best.
        """
        table = self._table(images, settings)
        return np.asarray(table[[f"proba_{name}" for name in self.classes]].to_numpy())

    def score(self, data: Any, labels: Sequence[Any] | None = None, **settings: Any) -> float:
        """Return the score of the predictions of images, by the metric of the run.

        Parameters
        ----------
        data
            Images, as for `predict`.
        labels
            Class of each image, by name. None: those in the table (``label_col``), or of folders
            that are named as the classes.
        settings
            Settings of `fb.predict`, but not those of its table, such as ``out``.

        Raises
        ------
        UserError
            For labels that are no classes, and for settings of tables.
        """
        found: float = _face("score_images")(self.path, data, labels, say=_silent, **settings)
        return found

    def _table(self, images: Any, settings: dict[str, Any]) -> Any:
        """Return the table of predictions, without the comparison that nobody would see.

        Raises UserError for settings under which it would not have one row per image.
        """
        if settings.get("on_bad_image", "stop") != "stop":
            raise UserError(
                "on_bad_image: one result per image is expected here; call fb.predict, whose table"
                " names the images"
            )
        return _face("predict")(self.path, images, say=_silent, **{"odd": False, **settings})

    def fit(self, images: Any, labels: Any = None) -> Estimator:
        """Return the run itself, which is fitted: `cross_validate` trains a new one."""
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags(),
            input_tags=InputTags(one_d_array=True, two_d_array=False, string=True),
        )


def _face(name: str) -> Any:
    """Return a function of the table of public names."""
    return getattr(importlib.import_module("foldblend"), name)
