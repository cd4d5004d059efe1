"""Words that the first process of torchrun tells the others."""

import pytest
from torch.distributed import TCPStore

from pipeline.training.leading import END, _Words


@pytest.fixture
def start(monkeypatch):
    """Return a function that connects to the store of torchrun in one of its attempts."""
    store = TCPStore("localhost", 0, is_master=True)
    names = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
    names |= {"MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    for name, value in names.items():
        monkeypatch.setenv(name, value)

    def words(attempt):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(attempt))
        return _Words()

    words.store = store
    return words


def test_words_come_in_their_order(start):
    leader = start(0)
    other = start(0)
    leader.send("gloo")
    leader.send(END)
    assert other.wait() == "gloo"
    assert other.comes(END, 0.0)


def test_processes_that_are_started_again_hear_nothing_of_those_before(start):
    start(0).send(END)
    again = start(1)
    other = start(1)
    assert not other.comes(END, 0.0)
    again.send("gloo")
    assert other.wait() == "gloo"


def test_waiting_in_vain_prints_nothing(start, capfd):
    assert not start(0).comes(END, 0.3)
    assert capfd.readouterr() == ("", "")
