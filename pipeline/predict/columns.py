"""Rows of the journal: the numbers that are kept of each image, one after the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.predict.stream import Predicted

__all__ = ["Columns", "Unpacked"]

SHOWN = 3  # brightness, width and height


@dataclass(frozen=True, slots=True)
class Unpacked:
    """Content of rows of the journal."""

    logits_NC: np.ndarray
    plain_NC: np.ndarray
    inside_NC: np.ndarray | None
    """Whether each class is in the set of the image."""
    look_N3: np.ndarray
    """Brightness, width and height."""
    odd_N: np.ndarray | None


@dataclass(frozen=True)
class Columns:
    """Columns of a row of the journal, one after the other."""

    num_classes: int
    has_plain: bool
    has_sets: bool
    has_odd: bool

    @property
    def width(self) -> int:
        tables = 1 + self.has_plain + self.has_sets
        return self.num_classes * tables + SHOWN + self.has_odd

    def pack(
        self, size: int, one: Predicted, inside_NC: np.ndarray | None, odd_N: np.ndarray | None
    ) -> np.ndarray:
        """Return the rows of a block, with NaN for images that cannot be used."""
        parts = [one.logits_NC]
        parts += [one.plain_NC] if self.has_plain else []
        parts += [inside_NC] if inside_NC is not None else []
        parts += [one.block.look_N3]
        parts += [odd_N[:, None]] if odd_N is not None else []
        rows_NX = np.full((size, self.width), np.nan, np.float32)
        good = [index - one.block.start for index in one.block.good]
        if good:
            rows_NX[good] = np.concatenate(parts, axis=1)
        return rows_NX

    def unpack(self, rows_NX: np.ndarray) -> Unpacked:
        """Return what rows hold."""
        num = self.num_classes
        tables = [
            rows_NX[:, place * num : (place + 1) * num]
            for place in range(1 + self.has_plain + self.has_sets)
        ]
        look_N3 = rows_NX[:, len(tables) * num :][:, :SHOWN]
        return Unpacked(
            tables[0],
            tables[1] if self.has_plain else tables[0],
            tables[-1] > 0 if self.has_sets else None,
            look_N3,
            rows_NX[:, -1] if self.has_odd else None,
        )
