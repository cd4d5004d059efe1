"""Images that a page of predictions shows, picked while the predictions pass by."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

__all__ = ["MOST_SHOWN", "Picks"]

MOST_SHOWN = 24  # images of a list


class Picks:
    """Counts of classes, and the first images of each list; its size does not grow with images.

    The lists are tables with one row per image: number of the image, class, proba, second (the most
    probable other class, -1 without one), proba_second and odd (NaN where nothing is compared).
    """

    def __init__(self, num_classes: int, *, most: int = MOST_SHOWN) -> None:
        self.most = most
        self.count_C = np.zeros(num_classes, np.int64)
        """Number of images of each predicted class."""
        self.lists: dict[str, pd.DataFrame] = {}

    def add(
        self,
        image_N: np.ndarray,
        class_N: np.ndarray,
        proba_NC: np.ndarray,
        odd_N: np.ndarray | None = None,
    ) -> None:
        """Add images.

        Parameters
        ----------
        image_N
            Numbers of the images.
        class_N
            Their predicted classes, which need not be the most probable ones.
        proba_NC
            Probability of each class.
        odd_N
            Percentile of the distance to the training images.
        """
        if not len(image_N):
            return
        self.count_C += np.bincount(class_N, minlength=len(self.count_C))
        row_N = np.arange(len(class_N))
        other_NC = np.array(proba_NC, np.float64)
        other_NC[row_N, class_N] = -1
        second_N = other_NC.argmax(axis=1)
        alone = other_NC.shape[1] == 1
        found = pd.DataFrame(
            {
                "image": image_N,
                "class": class_N,
                "proba": proba_NC[row_N, class_N],
                "second": -1 if alone else second_N,
                "proba_second": np.nan if alone else other_NC[row_N, second_N],
                "odd": np.nan if odd_N is None else odd_N.astype(np.float64),
            }
        )
        for name, pick in LISTS.items():
            kept = self.lists.get(name)
            table = found if kept is None else pd.concat([kept, found], ignore_index=True)
            self.lists[name] = pick(table, self.most)

    def of_class(self, code: int) -> pd.DataFrame:
        """Return images of a predicted class, the most probable first."""
        table = self._list("by class")
        return table[table["class"] == code]

    @property
    def unsure(self) -> pd.DataFrame:
        """The images whose classes are least probable, these first."""
        return self._list("unsure")

    @property
    def odd(self) -> pd.DataFrame:
        """The images that are least like the training images, these first."""
        table = self._list("odd")
        return table[table["odd"].notna()]

    def _list(self, name: str) -> pd.DataFrame:
        if name in self.lists:
            return self.lists[name]
        return pd.DataFrame(columns=["image", "class", "proba", "second", "proba_second", "odd"])


def _by_class(table: pd.DataFrame, most: int) -> pd.DataFrame:
    return table.sort_values("proba", ascending=False, kind="stable").groupby("class").head(most)


# Stable, so that of equal images the first ones are shown.
LISTS: dict[str, Callable[[pd.DataFrame, int], pd.DataFrame]] = {
    "by class": _by_class,
    "unsure": lambda table, most: table.sort_values("proba", kind="stable").head(most),
    "odd": lambda table, most: table.sort_values("odd", ascending=False, kind="stable").head(most),
}
