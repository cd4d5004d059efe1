"""Assembly of a data set from labelled images and test images, as settings ask for it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from foldblend.errors import UserError, counted
from foldblend.runs.submission import SubmissionForm
from foldblend.words import plural
from folds.config import DataConfig
from folds.data.generic import read_user_table
from folds.data.groups import groups_by_regex, groups_from_parent
from folds.data.labelled import Labelled, attribute_of, classes_of, group_words
from folds.data.manifest import ImageTable
from folds.data.sample_submission import read_sample_submission
from folds.data.test_set import TestSet, Training, read_test_set

__all__ = ["assemble", "form_of", "given_test", "with_groups", "with_test"]


def _name_of(source: Path) -> str:
    """Return the name of a folder, or of a file without its suffix; links keep their own name."""
    path = Path(os.path.abspath(source))  # noqa: PTH100 (resolve would follow links)
    return path.stem if path.is_file() else path.name


def given_test(config: DataConfig) -> tuple[str, str] | None:
    """Return the value and the flag of the test set, or None; raise UserError for both flags."""
    if config.test is not None and config.test_csv is not None:
        raise UserError("--test and --test-csv: two test sets are given; pass one")
    if config.test is not None:
        return config.test, "--test"
    return None if config.test_csv is None else (config.test_csv, "--test-csv")


def form_of(
    config: DataConfig,
    test_ids: Sequence[str] | None,
    classes: Sequence[str],
    default: SubmissionForm | None,
) -> SubmissionForm | None:
    """Return the form of the submission: that of the sample, or the default."""
    if config.sample_submission is None:
        return default
    if test_ids is None:
        raise UserError(
            f"--sample-submission {config.sample_submission}: there is no test set; pass --test"
        )
    sample = read_user_table(Path(config.sample_submission), config)
    return read_sample_submission(sample, classes, test_ids)


def with_test(table: ImageTable, config: DataConfig, test: TestSet | None) -> ImageTable:
    """Return a data set with a test set and the form of its submission."""
    default = table.submission
    if test is None:
        known = None if table.test is None else [image_id for image_id, _ in table.test]
        return dataclasses.replace(table, submission=form_of(config, known, table.classes, default))
    rows = list(zip(test.image_id, test.path, strict=True))
    return dataclasses.replace(
        table,
        test=rows,
        test_extra=test.extra,
        test_columns=test.columns,
        notes=[*table.notes, *test.notes],
        found=[*table.found, f"{test.source}: {counted(len(rows), 'test image')}", *test.found],
        submission=form_of(config, test.image_id, table.classes, default),
    )


def with_groups(test: TestSet, config: DataConfig) -> TestSet:
    """Return test images with the groups in their paths, for scores and predictions by group.

    Paths of test images need not have any.
    """
    if "group" in test.extra:
        return test
    if config.test_group_col is not None:
        raise UserError(
            f"--test-group-col {config.test_group_col}: {test.source} is no table with columns;"
            " pass a table to --test, or leave the flag out"
        )
    ids = list(test.image_id)
    try:
        if config.group_regex is not None:
            return test.with_groups(groups_by_regex(config.group_regex, ids))
        if config.group_from == "parent":
            return test.with_groups(groups_from_parent(ids, ids))
    except UserError:
        return test
    return test


def assemble(
    found: Labelled,
    config: DataConfig,
    *,
    reading: str,
    test_of: Callable[[Training], TestSet] | None = None,
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
    test_of
        Function that reads the test images that came with the data; --test replaces them.

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
    training = Training(
        classes=classes.names,
        label_column=found.label_column,
        folder=found.source.parent if found.source.is_file() else None,
        files=frozenset(found.path),
    )
    test = None
    if given is not None:
        test = read_test_set(given[0], config, training, flag=given[1])
    elif test_of is not None:
        test = test_of(training)
    if test is not None:
        test = with_groups(test, config)
    table = ImageTable(
        name=config.data_name or _name_of(found.source),
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
        columns=found.columns,
    )
    return with_test(table, config, test)
