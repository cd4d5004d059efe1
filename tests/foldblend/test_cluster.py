"""Clusters without one: addresses, shares of nodes, versions, and calls whose nodes are lost."""

import contextlib
import os
import pickle
import signal
import socket
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from foldblend.cli import quiet
from foldblend.cluster import cluster, connect, probe
from foldblend.cluster.cluster import Cluster, Task, opened
from foldblend.cluster.connect import connected
from foldblend.cluster.names import check_address
from foldblend.cluster.nodes import Node, Share, nodes_of, share_of, token_in
from foldblend.cluster.worker import Worker
from foldblend.drafts import sweep_own
from foldblend.errors import UserError

THIS = "tests.foldblend.test_cluster"


def node(cpus, gpus=0):
    return Node(f"id{cpus}{gpus}", "10.0.0.1", cpus, gpus)


@pytest.mark.parametrize("address", ["auto", "head:6379", "ray://10.0.0.1:10001"])
def test_addresses_of_clusters(address):
    check_address(address)


@pytest.mark.parametrize(
    "address", ["", "head", "head:", ":6379", "head:x", "http://head:8265", "head:70000"]
)
def test_other_addresses_are_refused(address, cv_command):
    done = cv_command("--backend", "ray", "--ray-address", address)
    done.assert_one_line_error("--ray-address", "is no address")


def test_an_address_where_nothing_listens_is_told_within_seconds(monkeypatch, cv_command):
    monkeypatch.setattr(connect, "PATIENCE", 0.5)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    start = time.monotonic()
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
        with pytest.raises(UserError, match="nothing answered within"), connected(address):
            pass
    assert time.monotonic() - start < 8


def test_a_server_that_is_silent_is_no_cluster(monkeypatch):
    monkeypatch.setattr(connect, "PATIENCE", 0.5)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        address = f"127.0.0.1:{one.getsockname()[1]}"
        with pytest.raises(UserError, match="nothing answered within"), connected(address):
            pass


def test_an_address_of_the_environment_is_named_as_such(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "rubbish")
    with (
        pytest.raises(UserError, match=r"^\$RAY_ADDRESS rubbish: is no address"),
        connected("auto"),
    ):
        pass


@pytest.mark.parametrize("own", [None, lambda *_: None])
def test_sigterm_ends_a_command_as_ctrl_c_does_unless_it_is_handled(own, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    of_ray = lambda *_: None  # noqa: E731
    ray = SimpleNamespace(
        is_initialized=lambda: False,
        init=lambda **_: signal.signal(signal.SIGTERM, of_ray),
        shutdown=lambda: None,
    )
    monkeypatch.setattr(connect, "_ray", lambda: ray)
    monkeypatch.setattr(connect, "_problem", lambda *_: None)
    try:
        signal.signal(signal.SIGTERM, own or signal.SIG_DFL)
        with contextlib.suppress(KeyboardInterrupt), connected("head:1"):
            if own is not None:
                assert signal.getsignal(signal.SIGTERM) is own
            else:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(5)
                raise AssertionError
        assert signal.getsignal(signal.SIGTERM) is (own or signal.SIG_DFL)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_folders_made_for_a_look_are_removed(tmp_path):
    (tmp_path / "here").mkdir()
    folder = tmp_path / "here" / "a" / "b"
    with token_in(folder) as token:
        assert token.file.parent.parent == folder
        sweep_own(folder)
        token.answer(node(1)).write_text("answer")
    assert not [*(tmp_path / "here").iterdir()]
    folder.mkdir(parents=True)
    with token_in(folder):
        pass
    assert not [*folder.iterdir()]


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(UserError, match=r"needs Ray; pip install 'foldblend\[ray\]'"),
        connected("auto"),
    ):
        pass


def test_the_local_backend_has_no_cluster():
    with opened("local", "auto", quiet) as found:
        assert found is None


def test_a_model_gets_a_gpu_with_its_part_of_the_cpus():
    nodes = [node(64, 8), node(16, 4), node(96)]
    assert share_of(nodes, device="auto", threads=None) == Share(4, 1)
    assert share_of(nodes, device="cuda", threads=None) == Share(4, 1)
    # A node with more GPUs than CPUs still serves one model per GPU.
    assert share_of([node(1, 2)], device="auto", threads=None) == Share(1, 1)


def test_without_gpus_a_model_gets_its_threads_or_the_smallest_node():
    nodes = [node(0), node(8), node(16)]
    assert share_of(nodes, device="auto", threads=None) == Share(8, 0)
    assert share_of(nodes, device="cpu", threads=3) == Share(3, 0)
    assert share_of([node(64, 8)], device="cpu", threads=2) == Share(2, 0)


@pytest.mark.parametrize(
    ("nodes", "device", "threads", "words"),
    [
        ([node(8)], "cuda", None, "--device cuda: no node of the cluster has a GPU"),
        (
            [node(8)],
            "cpu",
            9,
            "--threads 9: no node of the cluster has so many CPUs; pass at most 8",
        ),
        ([node(0)], "auto", None, "no node of the cluster has CPUs"),
        ([node(8, 1)], "cuda:1", None, "--device cuda:1: with --backend ray"),
    ],
)
def test_what_no_node_has_is_refused(nodes, device, threads, words):
    with pytest.raises(UserError, match=words):
        share_of(nodes, device=device, threads=threads)


def test_room_counts_whole_shares_of_each_node():
    cluster = Cluster(SimpleNamespace(nodes=lambda: RECORDS), quiet)
    assert [one.cpus for one in nodes_of(cluster.ray)] == [10, 7]
    assert cluster.room(Share(3, 0)) == 5
    assert cluster.room(Share(2, 1)) == 2
    assert cluster.room(Share(99, 0)) == 1
    assert cluster.describe() == "2 nodes with 17 CPUs and 2 GPUs"


RECORDS = [
    {"NodeID": "a", "NodeManagerAddress": "1", "Resources": {"CPU": 10.0}, "Alive": True},
    {"NodeID": "b", "NodeManagerAddress": "2", "Resources": {"CPU": 7.0, "GPU": 2}, "Alive": True},
    {"NodeID": "c", "NodeManagerAddress": "3", "Resources": {"CPU": 9.0}, "Alive": False},
]


def test_differences_of_versions():
    ours = probe.versions()
    assert probe.difference(ours, ours, "here") is None
    assert ours["foldblend's source"] is not None
    assert probe.difference(ours, ours | {"torch": "1.0"}, "here").startswith(
        "has torch 1.0, and here has"
    )
    other = ours | {"foldblend's source": "x"}
    assert probe.difference(ours, other, "here") == "has another source of foldblend than here"
    none = ours | {"foldblend's source": None, "torch": None}
    assert probe.difference(ours, none, "here") == "has no foldblend"


def test_a_look_says_which_files_are_there(tmp_path):
    token = tmp_path / "token"
    token.write_text("secret")
    found = probe.look(
        (str(token), str(tmp_path / "answer")), [str(token), str(tmp_path / "absent")]
    )
    assert (found["token"], found["files"], found["problem"]) == ("secret", [6, None], None)
    assert (tmp_path / "answer").read_text() == "secret"
    found = probe.look((str(tmp_path / "gone"), str(tmp_path / "answer")), [])
    assert (found["token"], found["problem"]) == (None, "No such file or directory")


# Functions that workers call.
def double(number, *, tell):
    tell("say", f"doubling {number}")
    if number < 0:
        raise UserError("pass a number above 0")
    if number == 0:
        raise ZeroDivisionError("none")
    return 2 * number


def last(seconds, *, tell):
    time.sleep(seconds)


def answers_of(number, versions=None):
    worker = Worker("/nowhere", sys.argv)
    given = probe.versions() if versions is None else versions
    worker.start(f"{THIS}:double", pickle.dumps((number,)), given)
    found = []
    while not found or found[-1][0] not in ("done", "failed"):
        found += worker.messages()
    return found


def test_a_worker_returns_messages_and_then_the_result():
    first, last = answers_of(3)
    assert first == ("say", "doubling 3")
    assert last[0] == "done"
    assert pickle.loads(last[1]) == 6


def test_a_worker_returns_what_failed(capsys):
    assert answers_of(-1)[-1] == ("failed", ("pass a number above 0", True))
    assert answers_of(0)[-1] == ("failed", ("ZeroDivisionError: none", False))
    # The traceback is in the log of the node.
    assert "Traceback" in capsys.readouterr().err


def test_a_worker_with_another_version_does_nothing():
    (kind, (why, is_for_users)), *rest = answers_of(3, probe.versions() | {"torch": "1.0"})
    assert kind == "failed"
    assert is_for_users
    assert not rest
    assert "and the command has 1.0; install the same versions" in why


class LostError(Exception):
    pass


class UnavailableError(LostError):
    pass


class DiedError(LostError):
    pass


class Handle(SimpleNamespace):
    """A worker as Ray gives it, which can stand in sets."""

    __hash__ = object.__hash__


class FakeRay:
    """Ray with workers in this process, the first of which are lost."""

    def __init__(self, num_lost, error="its node has died"):
        self.num_lost = num_lost
        self.error = error
        self.is_full = False
        self.made = 0
        self.alive = set()
        self.lock = threading.Lock()
        self.exceptions = SimpleNamespace(
            RayError=LostError,
            ActorUnavailableError=UnavailableError,
            ActorDiedError=DiedError,
        )
        self.cloudpickle = pickle

    def nodes(self):
        return RECORDS

    def remote(self, **_):
        return lambda kind: SimpleNamespace(remote=lambda *given: self._worker(kind, *given))

    def _worker(self, kind, *given):
        with self.lock:
            self.made += 1
            is_lost = self.made <= self.num_lost
            name = self.made
            self.alive.add(name)
        worker = kind(*given)

        def answer(function, *args):
            return lambda: self._lose() if is_lost else function(*args)

        return Handle(
            name=name,
            start=SimpleNamespace(remote=lambda *args: answer(worker.start, *args)),
            messages=SimpleNamespace(remote=lambda: answer(worker.messages)),
        )

    def _lose(self):
        raise self.error if isinstance(self.error, Exception) else LostError(self.error)

    def get(self, call):
        return call()

    def wait(self, calls, timeout):
        return ([], calls) if self.is_full else (calls, [])

    def kill(self, worker):
        self.alive.discard(worker.name)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("foldblend.cluster.calls.PAUSE", 0.0)


def tasks_of(numbers, **more):
    return [
        Task(title=f"number {one}", name=f"{THIS}:double", args=(one,), **more) for one in numbers
    ]


def test_calls_return_results_in_order_and_keep_each_as_it_comes(quick):
    ray = FakeRay(0)
    lines = []
    kept = []
    tasks = tasks_of(
        range(1, 6), listen=lambda kind, what: lines.append(what), done=lambda one: kept.append(one)
    )
    assert Cluster(ray, quiet).map(tasks, Share(1, 0), most=2) == [2, 4, 6, 8, 10]
    assert sorted(lines) == [f"doubling {one}" for one in range(1, 6)]
    assert sorted(kept) == [2, 4, 6, 8, 10]
    assert [*Cluster(ray, quiet).each(tasks, Share(1, 0))] == [2, 4, 6, 8, 10]
    assert not ray.alive


def test_a_call_whose_node_is_lost_begins_again(quick):
    said = []
    ray = FakeRay(2)
    assert Cluster(ray, said.append).call(tasks_of([4])[0], Share(1, 0)) == 8
    line = "number 4: was lost, as its node died; it begins again"
    assert said == [line, line]
    assert ray.made == 3


def test_a_call_that_is_lost_again_and_again_ends(quick):
    ray = FakeRay(99, "killed due to the node running low on memory")
    with pytest.raises(UserError, match="was lost 5 times, the last time as its node ran out of"):
        Cluster(ray, quiet).call(tasks_of([4])[0], Share(1, 0))
    assert ray.made == 5
    assert not ray.alive


def test_a_process_that_was_killed_is_not_said_to_have_run_out_of_memory(quick):
    said = []
    # Ray names all causes that it can think of.
    ray = FakeRay(1, DiedError("Some common causes include: killed by the OOM killer ... memory"))
    assert Cluster(ray, said.append).call(tasks_of([4])[0], Share(1, 0)) == 8
    assert "was lost, as its process died, often because memory ran out; it begins" in said[0]


def test_a_process_that_cannot_start_is_not_tried_again(quick):
    error = DiedError("Traceback\n  File ...\nModuleNotFoundError: No module named 'foldblend'\n")
    error.actor_init_failed = True
    ray = FakeRay(9, error)
    with pytest.raises(UserError, match=r"could not start on a node .ModuleNotFoundError: .*; i"):
        Cluster(ray, quiet).call(tasks_of([4])[0], Share(1, 0))
    assert ray.made == 1
    assert not ray.alive


def test_a_call_for_which_no_node_is_left_says_so(quick):
    said = []
    ray = FakeRay(0)
    ray.is_full = True
    assert Cluster(ray, said.append).call(tasks_of([4])[0], Share(8, 0)) == 8
    assert not said
    assert Cluster(ray, said.append).call(tasks_of([4])[0], Share(11, 0)) == 8
    assert Cluster(ray, said.append).call(tasks_of([4])[0], Share(2, 3)) == 8
    assert said == [
        "number 4: waits for a node with 11 CPUs; none is left",
        "number 4: waits for a node with 3 GPUs and 2 CPUs; none is left",
    ]


def test_a_head_that_does_not_answer_ends_the_calls(quick, monkeypatch):
    monkeypatch.setattr(cluster, "LOOK", 0.0)
    answers = iter([True, False, True, *[False] * cluster.MOST_UNANSWERED])
    monkeypatch.setattr(cluster, "head_answers", lambda ray: next(answers))
    ray = FakeRay(0)
    task = Task(title="a", name=f"{THIS}:last", args=(60,))
    with pytest.raises(UserError, match="the head of the Ray cluster does not answer any more"):
        Cluster(ray, quiet).call(task, Share(1, 0))
    assert not ray.alive
    assert not [*answers]


def test_a_client_whose_connection_is_lost_says_so(quick):
    ray = FakeRay(9, ConnectionError("GRPC connection failed: <_InactiveRpcError ..."))
    with pytest.raises(UserError, match=r"^number 4: the connection to the Ray cluster was lost$"):
        Cluster(ray, quiet).call(tasks_of([4])[0], Share(1, 0))


def test_what_fails_is_told_after_the_others_are_done(quick):
    kept = []
    tasks = tasks_of([-1, -2, 0, 1], done=kept.append)
    with pytest.raises(UserError, match=r"^pass a number above 0; number 0 failed: ZeroDivision"):
        Cluster(FakeRay(0), quiet).map(tasks, Share(1, 0))
    assert kept == [2]


def test_an_error_while_results_are_read_ends_the_workers(quick):
    ray = FakeRay(0)
    results = Cluster(ray, quiet).each(tasks_of([1, -1, 2, 3]), Share(9, 0))
    assert next(results) == 2
    with pytest.raises(UserError, match="above 0"):
        next(results)
    assert not ray.alive


def test_functions_take_turns_and_go_on_while_others_wait(quick):
    cluster = Cluster(FakeRay(0), quiet)
    running = []
    most = []

    def function(number):
        running.append(number)
        most.append(len(running))
        running.remove(number)
        found = cluster.call(tasks_of([number])[0], Share(1, 0))
        running.append(number)
        most.append(len(running))
        running.remove(number)
        return found

    assert cluster.together([lambda one=one: function(one) for one in (1, 2, 3)]) == [2, 4, 6]
    assert max(most) == 1


def test_functions_that_go_on_together_end_before_an_error_is_told(quick):
    ended = []

    def fine():
        ended.append(Cluster(FakeRay(0), quiet).call(tasks_of([1])[0], Share(1, 0)))

    def bad():
        raise UserError("bad")

    with pytest.raises(UserError, match="bad"):
        Cluster(FakeRay(0), quiet).together([bad, fine])
    assert ended == [2]
