"""Storages of a search: files of something else, full disks, damage, and several folders."""

import sqlite3

import pytest
import sqlalchemy

from foldblend.errors import UserError
from foldblend.failures import WriteFailed
from pipeline.search.frozen import FrozenTrials
from pipeline.search.storage import open_storage, readable, require_optuna
from tests.makers.searches import tuner


@pytest.fixture(autouse=True)
def _optuna():
    require_optuna()


def foreign_database(file):
    """Write a database of another program."""
    with sqlite3.connect(file) as opened:
        opened.execute("CREATE TABLE mine (x)")
    opened.close()


def database_of_optuna(file):
    """Write a database of Optuna without a study."""
    open_storage(None, file.with_suffix(".db")).engine.dispose()
    file.with_suffix(".db").replace(file)


FOREIGN = {
    "one line": b'{"my":"precious data"}',
    "lines": b"a\nb\n",
    "no text": b"\x00\xff",
    "space": b"\n",
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("name", ["mine.json", "mine.db"])
def test_a_file_of_something_else_is_refused_and_stays(kind, name, tmp_path):
    file = tmp_path / name
    file.write_bytes(FOREIGN[kind])
    with pytest.raises(UserError, match=r"mine\.\w+: .* --storage"):
        open_storage(str(file), file)
    assert file.read_bytes() == FOREIGN[kind]


@pytest.mark.parametrize(
    ("name", "write"),
    [("x.log", foreign_database), ("x.db", foreign_database), ("y.log", database_of_optuna)],
)
def test_a_database_of_something_else_is_refused_and_stays(name, write, tmp_path):
    file = tmp_path / name
    write(file)
    before = file.read_bytes()
    with pytest.raises(UserError, match=r"(no journal|something else than) .* --storage"):
        open_storage(str(file), file)
    assert file.read_bytes() == before


@pytest.mark.parametrize("size", [0, 1, 5, 40])
def test_a_journal_whose_first_line_was_cut_off_goes_on(size, tmp_path):
    file = tmp_path / "journal.log"
    first = b'{"op_code":0,"worker_id":"a","study_name":"s","directions":[2]}\n'
    file.write_bytes(first[:size])
    storage = open_storage(None, file)
    assert storage.get_all_studies() == []


def test_a_database_whose_tables_are_not_all_made_goes_on(tmp_path):
    file = tmp_path / "study.db"
    open_storage(None, file).engine.dispose()
    with sqlite3.connect(file) as opened:
        tables = [name for (name,) in opened.execute("SELECT name FROM sqlite_master")]
        for table in tables:
            if not table.startswith(("studies", "ix_", "sqlite_")):
                opened.execute(f"DROP TABLE {table}")
    opened.close()
    assert open_storage(None, file).get_all_studies() == []


def test_a_full_disk_of_a_database_is_named(tmp_path):
    file = tmp_path / "study.db"
    storage = open_storage(None, file)
    storage.engine.dispose()

    @sqlalchemy.event.listens_for(storage.engine, "connect")
    def fill(connection, record):
        connection.execute("PRAGMA max_page_count = 1")

    def write():
        with readable(file):
            for number in range(1000):
                storage.create_new_study([2], f"{number:0500}")

    with pytest.raises(WriteFailed, match=r"study\.db: cannot be written .*free some space"):
        write()


def test_searches_with_two_folders_may_share_a_storage(tiny_layout, tmp_path, monkeypatch):
    tune = tuner(tiny_layout, tmp_path)
    file = tmp_path / "shared.db"
    fit = FrozenTrials.held_out
    started = []

    def meanwhile(self, config):
        started.append(config)
        if len(started) == 3:
            tune(trials=3, storage=file, output=tmp_path / "other")
        return fit(self, config)

    monkeypatch.setattr(FrozenTrials, "held_out", meanwhile)
    best = tune(trials=3, storage=file)
    assert best.info["search"]["num_trials"] == 3
    trials = open_storage(None, file).get_all_trials(1)
    assert [one.state.name for one in trials] == 3 * ["COMPLETE"]
    other = tune(trials=3, storage=file, output=tmp_path / "other")
    assert other.info["search"] == best.info["search"]


def test_a_run_names_all_samplers_of_its_study(tiny_layout, tmp_path):
    tune = tuner(tiny_layout, tmp_path)
    tune(trials=2)
    search = tune(trials=3, optuna_sampler="RandomSampler").info["search"]
    assert search["sampler"] == "TPESampler, RandomSampler"
