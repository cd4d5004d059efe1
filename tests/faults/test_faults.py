"""Hostile and unlucky cases end right, in one line, or with the bad run named and left out.

A few cases of each kind are fast tests, and some hundred are slow ones; `benchmarks/faults.py` runs
thousands.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.base import make_base
from tests.faults.judge import Case, Outcome, References, bad_message, run_case
from tests.faults.kinds import QUOTAS, all_cases, chosen
from tests.faults.tracing import can_trace
from tests.faults.warm import Warm
from tests.makers.constants import ROOT

# Whether a command is met within some milliseconds is chance: what fails here is run once more.
TIMED = ("surroundings", "pairs")
NEEDS_STRACE = ("kills", "errors")
# Commands at once, in unlucky surroundings or on full disks take several runs each: slow tests.
SLOW_KINDS = ("pairs", "surroundings", "full disks", "errors")
FAST = {kind: 2 if kind in ("json", "code") else 1 for kind in QUOTAS if kind not in SLOW_KINDS}
# About ten minutes in all.
SLOW = {kind: max(8, most // 5) for kind, most in QUOTAS.items()}


@dataclass
class World:
    """A warm server with an undamaged world, and its cases by kind."""

    warm: Warm
    base: Path
    references: References
    cases: dict[str, list[Case]]

    def failures(self, kind: str, most: int, seed: int) -> list[Outcome]:
        """Run a sample of a kind and return what failed."""
        sample = chosen(self.cases.get(kind, []), most, seed)
        if not sample:
            pytest.skip(f"no case of {kind} can be run here")
        ended = [run_case(case, self.warm, self.base, self.references) for case in sample]
        failed = [one for one in ended if not one.is_good]
        if kind not in TIMED:
            return failed
        names = {one.case for one in failed}
        again = [case for case in sample if case.id in names]
        ended = [run_case(case, self.warm, self.base, self.references) for case in again]
        return [one for one in ended if not one.is_good]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Return a world that is made once."""
    place = tmp_path_factory.mktemp("faults")
    with Warm(ROOT, place) as warm:
        base = make_base(warm, place)
        yield World(warm, base, References(warm, base), all_cases(base))


def _check(world: World, kind: str, most: int, seed: int) -> None:
    failed = world.failures(kind, most, seed)
    said = "\n".join(f"{one.outcome}: {one.case}\n    {one.line}" for one in failed)
    assert not failed, said


@pytest.mark.parametrize("kind", FAST)
def test_a_few_cases(world, kind):
    if kind in NEEDS_STRACE and not can_trace():
        pytest.skip("strace is not installed, or may not trace here")
    _check(world, kind, FAST[kind], seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", QUOTAS)
def test_many_cases(world, kind):
    if kind in NEEDS_STRACE and not can_trace():
        pytest.skip("strace is not installed, or may not trace here")
    _check(world, kind, SLOW[kind], seed=1)


def test_messages_are_judged():
    assert bad_message("error: run.json: is no object; run it again\n", ("run.json",)) is None
    for err in (
        "",
        "a warning\nerror: run.json: wrong\n",
        "run.json: wrong\n",
        "error: something: wrong\n",
        "error: run.json: \x1b[31mwrong\n",
        f"error: run.json: {'y' * 2000}\n",
    ):
        assert bad_message(err, ("run.json",)) is not None, err


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("nothing", "right"),
        ("marker", "executed"),
        ("canary", "outside"),
        ("new file", "outside"),
        ("other labels", "silent"),
        ("no images", "one line"),
    ],
)
def test_the_harness_sees(world, what, expected):
    """Each class of outcome is told from the others, by damage that leads to it."""

    def prepare(stage: Path) -> None:
        if what == "marker":
            world.warm.marker.write_text("ran\n")
        if what == "no images":
            (stage / "data" / "test.csv").write_text("image\n")
        if what == "other labels":
            # The result of this command is another one, which nothing of the run tells.
            (stage / "data" / "image_24.jpg").write_bytes(
                (stage / "data" / "image_25.png").read_bytes()
            )

    def perform(warm: Warm, case: Case, job):
        ended = warm.run(job.command, job.argv)
        if what == "canary":
            (warm.stage / "canary" / "file.txt").write_text("")
        if what == "new file":
            (warm.stage / "canary" / "folder" / "new.txt").write_text("")
        return ended

    case = Case(
        id=what,
        kind="json",
        job="predict full",
        prepare=prepare,
        perform=perform,
        names=("test.csv", "IMAGES"),
    )
    found = run_case(case, world.warm, world.base, world.references)
    assert found.outcome == expected, found.line


def test_cases_are_the_same_everywhere(world):
    ids = [f"{kind}: {case.id}" for kind, cases in world.cases.items() for case in cases]
    assert len(ids) == len({*ids})
    assert sum(QUOTAS.values()) >= 2200
    assert QUOTAS["kills"] >= 200
    first = chosen(world.cases["json"], 5)
    assert first == chosen(reversed(world.cases["json"]), 5)
