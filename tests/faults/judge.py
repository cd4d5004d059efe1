"""One case: prepare the stage, run a command, and judge what became of it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.faults.base import restore
from tests.faults.jobs import JOBS, Job
from tests.faults.state import changes, file_names, snapshot
from tests.faults.warm import Ended, Warm

__all__ = ["DRAFT", "FAILURES", "GOOD", "Case", "Outcome", "References", "judge", "run_case"]

GOOD = ("right", "one line", "left out")
FAILURES = (
    "executed",
    "outside",
    "silent",
    "traceback",
    "hang",
    "killed",
    "memory",
    "not continued",
    "leftovers",
    "stopped others",
    "bad message",
    "exit code",
)
# A case may take this much longer than its command on undamaged files.
PATIENCE = 20.0
# Above what the warm process itself takes.
MOST_MEMORY_KB = 3_000_000
ADDRESS_SPACE = 9_000_000_000
MOST_LETTERS = 1100
DRAFT = ".draft-"
ESCAPES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\udc80-\udcff]")
# Progress bars and times differ from one run to the next.
UNSTEADY = re.compile(r"[0-9]+(\.[0-9]+)?(e-?[0-9]+)?")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A hostile or unlucky situation, and what may come of it."""

    id: str
    kind: str
    job: str = ""
    """Name of a job, whose fields the other arguments replace."""
    prepare: Callable[[Path], None] = lambda _: None
    names: tuple[str, ...] = ()
    """Words of which the message must have one: the damaged file, its run, or the flag."""
    bad_run: str = ""
    """The damaged run, which may be left out of many."""
    more: tuple[str, ...] = ()
    """Further words of the command line."""
    argv: tuple[str, ...] | None = None
    """The whole command line, in place of the job's."""
    command: str = ""
    writes: tuple[str, ...] = ()
    how: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of `Warm.start`."""
    is_right: bool = True
    """Whether exit code 0 with the undamaged result is admitted."""
    is_free: bool = False
    """Whether any result is right, since the command was not to give that of the base."""
    perform: Callable[[Warm, Case, Job], Ended] | None = None
    """Runs the case in place of one command; FaultError says what is wrong."""
    timeout: float = 0.0
    is_swept: bool = False
    """Whether the files in the end must be those of an undisturbed command, and no others."""
    references: References | None = None

    def full_job(self) -> Job:
        """Return the job with the case's own command line."""
        base = JOBS[self.job] if self.job else Job(command="", argv=(), writes=(), result=_nothing)
        return replace(
            base,
            command=self.command or base.command,
            argv=(*(base.argv if self.argv is None else self.argv), *self.more),
            writes=(*base.writes, *self.writes),
        )


def _nothing(_: Path) -> dict[str, Any]:
    return {}


class FaultError(Exception):
    """Raised with what a case of several commands found: the outcome, then what is wrong."""


@dataclass(frozen=True)
class Outcome:
    """Hold what became of a case."""

    case: str
    kind: str
    outcome: str
    line: str
    """The message, or the last line of the traceback."""
    seconds: float

    @property
    def is_good(self) -> bool:
        """Return whether this is one of the admitted outcomes."""
        return self.outcome in GOOD


def _steady(text: str) -> set[str]:
    return {UNSTEADY.sub("#", line.strip()) for line in text.splitlines()}


class References:
    """Results of jobs on the undamaged base, made when they are first asked for."""

    def __init__(self, warm: Warm, base: Path) -> None:
        self.warm = warm
        self.base = base
        self.files: dict[tuple[str, tuple[str, ...]], set[str]] = {}
        self.made: dict[tuple[str, str, tuple[str, ...]], tuple[dict[str, Any], Ended]] = {}

    def of(self, case: Case, *, without: str = "") -> tuple[dict[str, Any], Ended]:
        """Return the result and the output of a case's job, or of the job without a run."""
        key = (case.job, without, case.more)
        if key not in self.made:
            restore(self.base, self.warm.stage)
            job = replace(case, prepare=_nothing).full_job()
            argv = [word for word in job.argv if not without or Path(word).name != without]
            done = self.warm.run(job.command, argv, timeout=120)
            if done.code and not case.is_free:
                raise SystemExit(f"undamaged: {key}\n{done.out[-2000:]}\n{done.err[-2000:]}")
            if not without:
                self.files[case.job, case.more] = file_names(self.warm.stage, job.writes)
            self.made[key] = ({} if done.code else job.result(self.warm.stage), done)
        return self.made[key]

    @staticmethod
    def fresh(base: Path, stage: Path) -> None:
        """Restore the stage, for cases that run a command on trial first."""
        restore(base, stage)

    def leftovers(self, case: Case, found: set[str]) -> list[str]:
        """Return those of the found files that an undisturbed command does not leave."""
        self.of(case)
        return sorted(found - self.files[case.job, case.more])


def bad_message(err: str, names: Sequence[str]) -> str | None:
    """Return what is wrong with the text of stderr as one line for a user, or None."""
    lines = [line for line in err.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    if len(lines) != 1 or len(errors) != 1:
        return f"{len(lines)} lines on stderr, {len(errors)} of them errors"
    if ESCAPES.search(err.rstrip("\n")):
        return "it has control characters"
    if len(err) > MOST_LETTERS:
        return f"it has {len(err)} letters"
    if names and not any(name in err for name in names):
        return f"it names none of {', '.join(names)}"
    return None


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def _where(err: str) -> str:
    """Return the last line of a traceback and the place in the tree that it came from."""
    places = re.findall(
        r'File "[^"]*/((?:foldblend|pipeline|ensemble|tta|folds|reports)/[^"]+)", line (\d+)', err
    )
    at = f" at {places[-1][0]}:{places[-1][1]}" if places else ""
    return _last(err) + at


def judge(
    case: Case, job: Job, ended: Ended, warm: Warm, references: References
) -> tuple[str, str]:
    """Return the outcome of a command that has ended, and the line that shows it."""
    if ended.late:
        return "hang", f"killed after {ended.seconds:.0f} s; {_last(ended.err)}"
    if ended.code < 0:
        return "killed", f"signal {-ended.code}; {_last(ended.err)}"
    if "Traceback (most recent call last)" in ended.err:
        return "traceback", _where(ended.err)
    if ended.peak_kb > MOST_MEMORY_KB:
        return "memory", f"{ended.peak_kb / 1e6:.1f} GB; {_last(ended.err)}"
    if ended.code == 2:
        wrong = bad_message(ended.err, case.names)
        if wrong is not None:
            return "bad message", f"{wrong}: {_last(ended.err)[:300]}"
        if job.is_many and case.bad_run:
            return "stopped others", _last(ended.err)
        return "one line", _last(ended.err)
    if ended.code:
        return "exit code", f"{ended.code}; {_last(ended.err)}"
    if ESCAPES.search(
        re.sub("\x1b\\[[0-9;?]*[A-Za-z]|\r", "", ended.out) if case.is_free else ended.out
    ):
        return "bad message", "stdout has control characters"
    if case.is_free:
        return ("right", "") if case.is_right else ("silent", "nothing was said")
    return _judge_result(case, job, ended, warm.stage, references)


def _judge_result(
    case: Case, job: Job, ended: Ended, stage: Path, references: References
) -> tuple[str, str]:
    try:
        result = job.result(stage)
    except Exception as error:
        return "silent", f"exit code 0, but the result cannot be read: {error!r:.200}"
    # The references use the stage too, so results and files are read first.
    files = file_names(stage, job.writes)
    if case.is_swept and (left := references.leftovers(case, files)):
        return "leftovers", ", ".join(left)[:300]
    whole, printed = references.of(case)
    if result == whole:
        return ("right", "") if case.is_right else ("silent", "nothing was said")
    known = _steady(printed.out) | _steady(printed.err)
    fresh = [
        line
        for line in (ended.out + ended.err).splitlines()
        if UNSTEADY.sub("#", line.strip()) not in known
    ]
    told = [
        line for line in fresh if any(name in line for name in (*case.names, case.bad_run) if name)
    ]
    if case.bad_run and job.is_many:
        part, _ = references.of(case, without=case.bad_run)
        if result == part:
            return ("left out", told[0].strip()) if told else ("silent", "left out without a word")
        return "silent", f"neither the whole result nor that without {case.bad_run}"
    return "silent", f"another result; {_last(ended.out)}"


def run_case(case: Case, warm: Warm, base: Path, references: References) -> Outcome:
    """Run a case on a fresh stage and return what became of it."""
    job = case.full_job()
    restore(base, warm.stage)
    warm.marker.unlink(missing_ok=True)
    case.prepare(warm.stage)
    before = snapshot(warm.stage, job.writes)
    try:
        if case.perform is not None:
            ended = case.perform(warm, replace(case, references=references), job)
        else:
            limits = {"AS": ADDRESS_SPACE, **case.how.get("limits", {})}
            how = {**case.how, "limits": limits}
            ended = warm.run(job.command, job.argv, timeout=case.timeout or PATIENCE + 5, **how)
    except FaultError as error:
        outcome, line = error.args
        return Outcome(case.id, case.kind, outcome, line, 0.0)
    changed = changes(before, snapshot(warm.stage, job.writes))
    if warm.marker.exists():
        outcome = "executed"
        line = warm.marker.read_text().splitlines()[0]
    elif changed:
        # Drafts beside a file that a command was to write are none of other files.
        are_drafts = all(DRAFT in one and one.endswith(" was made") for one in changed)
        outcome = "leftovers" if are_drafts else "outside"
        line = "; ".join(changed)[:300]
    else:
        outcome, line = judge(case, job, ended, warm, references)
    return Outcome(
        case.id,
        case.kind,
        outcome,
        line.replace(str(warm.stage), "STAGE").replace(sys.prefix, "PYTHON"),
        ended.seconds,
    )
