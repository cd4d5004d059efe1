"""Form of a submission: from a sample file, or from the columns of the tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

from foldblend.errors import UserError, did_you_mean, listed
from foldblend.runs.submission import SubmissionForm
from foldblend.tables import TextTable
from foldblend.words import tidy
from folds.data.words import numbers_of

__all__ = ["read_sample_submission"]

# How the id of a sample may name a test image, the strictest first.
NAMES: tuple[Callable[[str], str], ...] = (
    str,
    tidy,
    lambda name: PurePosixPath(tidy(name)).name,
    lambda name: PurePosixPath(tidy(name)).stem,
)


def _match_ids(table: TextTable, column: str, image_ids: Sequence[str]) -> list[tuple[str, str]]:
    """Return (image_id, text of the id) of each row of a sample.

    An id is the image's id, its file name, or its file name without suffix.
    """
    texts = table.cells[column].tolist()
    for name in NAMES:
        named: dict[str, list[str]] = {}
        for one in image_ids:
            named.setdefault(name(one), []).append(one)
        rows = [named.get(text if name is str else tidy(text), []) for text in texts]
        if all(len(found) == 1 for found in rows):
            ids = [found[0] for found in rows]
            if len(set(ids)) < len(ids):
                twice = [one for one, count in Counter(ids).items() if count > 1]
                raise UserError(
                    f"{table.file}: image {listed(twice)} occurs more than once; keep one row per"
                    " image"
                )
            return list(zip(ids, texts, strict=True))
    known = {name(one) for one in image_ids for name in NAMES}
    wrong = [row for row, text in enumerate(texts) if tidy(text) not in known]
    if not wrong:
        raise UserError(
            f"{table.file}: ids such as {texts[0]!r} fit several test images; write the ids as the"
            f" table of test images does, such as {image_ids[0]!r}"
        )
    first = texts[wrong[0]]
    raise UserError(
        f"{table.file}: {table.at(table.cells.index[wrong])}: {first!r} is not a test image"
        f"{did_you_mean(first, image_ids)}; pass the sample of this test set"
    )


def read_sample_submission(
    table: TextTable, classes: Sequence[str], image_ids: Sequence[str]
) -> SubmissionForm:
    """Read the form of a submission from a sample: id, then one label or the probabilities.

    Parameters
    ----------
    table
        The sample; its first column has the ids of test images.
    classes
        Names of the classes.
    image_ids
        Ids of the test images.

    Raises
    ------
    UserError
        For ids that are not test images, or columns that are not the classes.
    """
    file = table.file
    id_column, *columns = table.cells.columns
    if not columns or table.cells.empty:
        raise UserError(
            f"{file}: a sample needs a column of ids, at least one column of values, and rows"
        )
    table.check_columns([("--sample-submission", id_column)])
    ids = tuple(_match_ids(table, id_column, image_ids))
    if len(columns) == 1:
        values = [value.strip() for value in table.cells[columns[0]]]
        numbers = numbers_of(values)
        amounts = numbers is not None and all(0 <= one <= 1 for one in numbers.values())
        if len(classes) == 2 and amounts and not {*values} <= {*classes}:
            # One probability: that of the class in the column's name, else of the second class.
            return SubmissionForm(
                id_column=id_column,
                columns=(columns[0],),
                kind="probabilities",
                classes=(classes.index(tidy(columns[0])) if tidy(columns[0]) in classes else 1,),
                ids=ids,
            )
        if amounts and any(one != int(one) for one in (numbers or {}).values()):
            raise UserError(
                f"{file}: column {columns[0]!r} has numbers such as {values[0]}, but there are"
                f" {len(classes)} classes; give a column for each class, or one of labels"
            )
        return SubmissionForm(id_column=id_column, columns=(columns[0],), kind="labels", ids=ids)
    code = {name: index for index, name in enumerate(classes)}
    absent = [name for name in classes if name not in {tidy(one) for one in columns}]
    unknown = [name for name in columns if tidy(name) not in code]
    if absent or unknown:
        problem = f"unknown columns {listed(unknown)}" if unknown else f"no {listed(absent)}"
        raise UserError(
            f"{file}: {problem}; after the id, a sample has one column of labels or one column for"
            f" each class ({listed(classes, most=9)})"
        )
    return SubmissionForm(
        id_column=id_column,
        columns=tuple(columns),
        kind="probabilities",
        classes=tuple(code[tidy(name)] for name in columns),
        ids=ids,
    )
