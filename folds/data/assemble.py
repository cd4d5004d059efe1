"""Assembly of a data set from labelled images and test images, as settings ask for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from foldblend.errors import UserError, counted
from foldblend.runs.submission import SubmissionForm
from foldblend.words import plural
from folds.config import DataConfig
from folds.data.labelled import Labelled, attribute_of, classes_of, group_words
from folds.data.manifest import ImageTable
from folds.data.sample_submission import read_sample_submission
from folds.data.test_set import TestSet, read_test_set

__all__ = ["assemble", "given_test", "with_test"]


def given_test(config: DataConfig) -> tuple[str, str] | None:
    """Return the value and the flag of the test set, or None; raise UserError for both flags."""
    if config.test is not None and config.test_csv is not None:
        raise UserError("--test and --test-csv: two test sets are given; pass one")
    if config.test is not None:
        return config.test, "--test"
    return None if config.test_csv is None else (config.test_csv, "--test-csv")


def form_of(
    config: DataConfig, test: TestSet | None, classes: Sequence[str], default: SubmissionForm | None
) -> SubmissionForm | None:
    """Return the form of the submission: that of the sample, or the default."""
    if config.sample_submission is None:
        return default
    if test is None:
        raise UserError(
            f"--sample-submission {config.sample_submission}: there is no test set; pass --test"
        )
    file = Path(config.sample_submission).expanduser()
    return read_sample_submission(file, classes, test.image_id)


def with_test(table: ImageTable, config: DataConfig, test: TestSet | None) -> ImageTable:
    """Return a data set with a test set and the form of its submission."""
    default = table.submission
    if test is None:
        rows = table.test
        known = None if rows is None else [image_id for image_id, _ in rows]
        test = None if known is None else TestSet(source=table.name, image_id=known, path=())
        return dataclasses.replace(table, submission=form_of(config, test, table.classes, default))
    rows = list(zip(test.image_id, test.path, strict=True))
    return dataclasses.replace(
        table,
        test=rows,
        test_extra=test.extra,
        notes=[*table.notes, *test.notes],
        found=[*table.found, f"{test.source}: {counted(len(rows), 'test image')}", *test.found],
        submission=form_of(config, test, table.classes, default),
    )


def assemble(
    found: Labelled, config: DataConfig, *, reading: str, test: TestSet | None = None
) -> ImageTable:
    """Return the data set of labelled images after all checks of labels and groups.

    Parameters
    ----------
    found
        Result of a reader.
    config
        Settings of the data.
    reading
        What the data were recognised as, such as "a folder per class".
    test
        Test images that came with the data; --test replaces them.

    Raises
    ------
    UserError
        For labels, groups or test images that cannot be used.
    """
    noun = config.group_name or "group"
    classes = classes_of(found, config)
    words = [classes.names[code] for code in classes.label]
    groups, texts = group_words(found, words, config, noun)
    num_groups = len(set(groups))
    by = "" if texts.get("warnings") else f", {counted(num_groups, noun)}"
    summary = (
        f"{found.source}: read as {reading}; {counted(len(words), 'image')},"
        f" {len(classes.names):,} {plural('class')}{by}"
    )
    given = given_test(config)
    if given is not None:
        text, flag = given
        beside = found.source.parent if found.source.is_file() else None
        test = read_test_set(text, config, classes.names, flag=flag, beside=beside)
    table = ImageTable(
        name=config.data_name or found.source.resolve().stem,
        root=found.source,
        image_id=found.image_id,
        path=found.path,
        group=groups,
        label=classes.label,
        classes=classes.names,
        answers=classes.names,
        attributes=[attribute_of(found, name, classes, config) for name in found.attributes],
        warnings=[*texts.get("warnings", []), *found.warnings],
        notes=[*classes.notes, *texts.get("notes", []), *found.notes],
        found=[summary, *found.found, *texts.get("found", [])],
        group_name=noun,
        ordered=classes.ordered or len(classes.names) == 2,
        submission=SubmissionForm(
            id_column=found.id_column if test is None else test.id_column,
            columns=(found.label_column,),
            kind="labels",
        ),
        extra=found.extra,
    )
    return with_test(table, config, test)
