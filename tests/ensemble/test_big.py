"""Votes of many rows: in blocks, with members in any order, and without a copy of each member."""

import functools
import tracemalloc

import pandas as pd
import pytest

from ensemble import align as aligning
from ensemble import blend as blending
from ensemble.methods.vote import POOLS
from foldblend import ahead, blocks
from foldblend.errors import UserError
from foldblend.runs import tables
from foldblend.scores import by_group
from tests.makers.big_runs import write_big_run
from tests.makers.edits import edit_table

blend = functools.partial(blending.blend, say=lambda _: None)


@pytest.fixture
def runs(tmp_path):
    return [
        write_big_run(tmp_path / name, num_groups=40, num_test=30, strength=0.6, seed=seed)
        for seed, name in enumerate("ab")
    ]


@pytest.fixture
def many_rows(monkeypatch):
    """Return a function after which a few hundred rows are taken for very many."""

    def change(size):
        monkeypatch.setattr(blocks, "ROWS_AT_ONCE", size)
        monkeypatch.setattr(by_group, "GROUPS_AT_ONCE", size // 3)
        monkeypatch.setattr(tables, "MANY_BYTES", 0)
        monkeypatch.setattr(tables, "AT_ONCE", 1)
        monkeypatch.setattr(aligning, "MOST_KEPT", 0)
        monkeypatch.setattr(ahead, "MOST_BYTES", 0)

    return change


def written(folder):
    """Return the content of the files of a blend that do not say when or how it was written."""
    found = {}
    for file in sorted(one for one in folder.rglob("*") if one.is_file()):
        name = str(file.relative_to(folder))
        if name.endswith(".parquet"):
            found[name] = pd.read_parquet(file).to_csv()
        elif name not in ("env.json", "run.json"):
            found[name] = file.read_bytes()
    return found


@pytest.mark.parametrize("pool", POOLS)
def test_a_vote_does_not_depend_on_blocks(runs, many_rows, pool):
    whole = written(blend(runs, method=pool, name="one").path)
    many_rows(50)
    parts = written(blend(runs, method=pool, name="two").path)
    assert whole.keys() == parts.keys()
    differ = [
        name
        for name in whole
        if parts[name] != whole[name]
        # The name of the blend is in them.
        and not name.startswith(("report.", "sections", "blend.yaml", "suspects", "parameters"))
    ]
    assert not differ


def test_reports_do_not_depend_on_blocks(runs, many_rows):
    blend(runs, method="soft", name="same")
    folder = runs[0].parent / "same"
    whole = written(folder)
    many_rows(50)
    blend(runs, method="soft", name="same", overwrite=True)
    parts = written(folder)
    assert [name for name in whole if parts[name] != whole[name]] == []


def test_rows_in_another_order_are_joined(runs, many_rows):
    expected = written(blend(runs, method="soft", name="same").path)
    edit_table(runs[1] / "oof.parquet", lambda table: table.sample(frac=1, random_state=0))
    for fold in range(5):
        edit_table(runs[1] / f"test_fold_{fold}.parquet", lambda table: table.iloc[::-1])
    many_rows(50)
    found = written(blend(runs, method="soft", name="other").path)
    for name in ("oof.parquet", "test.parquet", "predictions.csv"):
        assert found[name] == expected[name]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.iloc[1:], "279 images"),
        (lambda t: pd.concat([t, t.iloc[-1:]]), "1 doubled"),
        (lambda t: t.assign(group=t["group"].mask(t.index == 3, "x")), "1 images differ in group"),
    ],
)
def test_wrong_rows_are_refused_as_ever(runs, many_rows, change, words):
    edit_table(runs[1] / "oof.parquet", change)
    messages = []
    for size in (None, 50):
        if size is not None:
            many_rows(size)
        with pytest.raises(UserError, match=words) as found:
            aligning.align([aligning.Run(one) for one in runs])
        messages.append(str(found.value))
    assert messages[0] == messages[1]


@pytest.mark.skipif(
    pd.__version__.startswith("2."), reason="pandas 2 has a Python object for each text"
)
def test_the_peak_of_a_vote_is_a_few_arrays(tmp_path, many_rows):
    """NumPy's peak is below 50 numbers per row for any number of members, of 18 classes each."""
    runs = [write_big_run(tmp_path / f"{seed}", num_groups=2000, seed=seed) for seed in range(4)]
    many_rows(1000)
    aligned = aligning.align([aligning.Run(one) for one in runs])
    tracemalloc.start()
    POOLS["soft"](aligned.oof(), [1] * 4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 14_000 * 18 * (8 + 2.5 * 4)
