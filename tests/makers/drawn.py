"""Small drawn images and tables of them, for tests of readers."""

import cv2
import numpy as np

WORDS = ("cat", "dog", "owl")


def draw(file, index, size=(20, 16)):
    """Write an image that differs for each index."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(index)
    done, data = cv2.imencode(".png", rng.integers(0, 255, (*size, 3), dtype=np.uint8))
    assert done
    file.write_bytes(data.tobytes())


def rows(num_groups=8, per_group=3, words=WORDS):
    """Return (name, label, group) of images; each group has an image of each class."""
    return [
        (f"{group * per_group + index:03d}.png", words[index % len(words)], f"p{group}")
        for group in range(num_groups)
        for index in range(per_group)
    ]


def write_csv(file, table, *, header="image,label,group", sep=",", tail="", end="\n"):
    """Write rows as they are, without quotes."""
    lines = [header.replace(",", sep), *(sep.join(map(str, row)) + tail for row in table)]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(end.join(lines) + end, encoding="utf-8", newline="")
    return file


def plain(root, table=None, **how):
    """Write a table and its images, and return the table's file."""
    table = rows() if table is None else table
    for index, row in enumerate(table):
        draw(root / row[0], index)
    return write_csv(root / "set.csv", table, **how)
