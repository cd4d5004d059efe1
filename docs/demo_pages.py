"""Build pages of the demo set to look at: reports, a blend, a leaderboard, predictions, an audit.

Run ``python -m docs.demo_pages FOLDER``; ``make docs`` does so for ``site/demo``. Runs are kept in
``build/demo``, so a second call trains nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from foldblend.errors import UserError

__all__ = ["PAGES", "Plan", "build", "without_local_links", "work_folder"]

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "demo"
LOG = "log.txt"
# One thread, because more wait for each other on images this small; two folds at once instead.
TRAINED = ("--img-size", "48x64", "--epochs", "6", "--threads", "1", "--parallel-folds", "2")
# The addresses of the images on the machine that made a page; see reports/run/gallery.py.
LINKS = re.compile(r'("links": ?\{"root": ?)"(?:[^"\\]|\\.)*"')


@dataclass(frozen=True, slots=True)
class Plan:
    """Runs of which the pages are made."""

    runs: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {
            "lite0": ("--backbone", "tf_efficientnet_lite0", "--finetune", "head"),
            "lite1": ("--backbone", "tf_efficientnet_lite1", "--finetune", "head"),
            "lite2": ("--backbone", "tf_efficientnet_lite2", "--finetune", "head"),
            "trained": ("--backbone", "tf_efficientnet_lite0", *TRAINED),
        }
    )
    """Flags of run_cv.py for each name. The last one is augmented and explained."""
    data: str = "demo"
    """Value of --data."""
    audit: tuple[str, ...] = ()
    """More flags of run_audit.py."""


PAGES = {
    "outputs/trained/report.html": "a fine-tuned run",
    "outputs/lite0/report.html": "a run on a frozen backbone",
    "outputs/trained_tta/report.html": "a run with test-time augmentation",
    "outputs/blend/report.html": "a blend",
    "leaderboard.html": "the leaderboard",
    "predictions.html": "predictions of new images",
    "audit.html": "the audit",
}
"""What docs/demo_pages.md lists: each page and what it is."""


def work_folder(plan: Plan, parent: Path) -> Path:
    """Return the folder that keeps the runs of a plan; another plan has another folder.

    Examples
    --------
    >>> first = work_folder(Plan(), Path("build"))
    >>> first == work_folder(Plan(), Path("build"))
    True
    >>> first == work_folder(Plan(runs={}), Path("build"))
    False
    """
    words = [plan.data, *(" ".join((name, *flags)) for name, flags in plan.runs.items())]
    return parent / hashlib.sha256("\n".join(words).encode()).hexdigest()[:8]


def without_local_links(page: str) -> str:
    """Return a page without the links to image files of the machine that made it.

    Examples
    --------
    >>> without_local_links('{"links": {"root": "/home/me", "below": ["a.jpg"]}}')
    '{"links": {"root": null, "below": ["a.jpg"]}}'
    """
    return LINKS.sub(r"\1null", page)


def command(work: Path, script: str, *words: str) -> None:
    """Run a command in the working folder, its output in a log. Raises UserError if it fails."""
    line = [sys.executable, str(ROOT / script), *words]
    done = subprocess.run(line, cwd=work, capture_output=True, text=True, check=False)
    with (work / LOG).open("a", encoding="utf-8") as log:
        log.write(f"$ python {script} {' '.join(words)}\n{done.stdout}{done.stderr}\n")
    if done.returncode:
        why = (done.stderr.strip() or "no message").splitlines()[-1].removeprefix("error: ")
        raise UserError(
            f"demo pages: {script} failed ({why}); remove {work} and try again, or look into"
            f" {work / LOG}"
        )


def _is_finished(work: Path, name: str) -> bool:
    return (work / "outputs" / name / "report.json").is_file()


def build(
    folder: Path, plan: Plan, *, parent: Path = WORK, say: Callable[[str], None] = print
) -> list[Path]:
    """Make the runs of a plan where they are not there yet, and write their pages into a folder.

    Pages are drawn again even if the runs are kept, so they show the present templates. They
    are put into the folder when all are made.

    Parameters
    ----------
    folder
        Where the pages are put, such as ``site/demo``.
    plan
        The runs.
    parent
        Folder in which the working folder is.
    say
        Shows one line for each step.

    Returns
    -------
    The pages in `folder`.

    Raises
    ------
    UserError
        If a command fails, with the log to look at and the cure.
    """
    work = work_folder(plan, parent)
    work.mkdir(parents=True, exist_ok=True)
    (work / LOG).unlink(missing_ok=True)
    *_, trained = plan.runs

    def make(name: str, script: str, *words: str) -> None:
        if not _is_finished(work, name):
            say(f"demo pages: {name}")
            command(work, script, *words, "--name", name, "--no-page")

    for name, flags in plan.runs.items():
        make(name, "run_cv.py", "--data", plan.data, "--output", "outputs", *flags)
    make(f"{trained}_tta", "run_tta.py", f"outputs/{trained}", "--views", "hflip,scale:1.15")
    members = [f"outputs/{name}" for name in plan.runs]
    make("blend", "blend.py", *members)
    names = [*plan.runs, f"{trained}_tta", "blend"]
    say("demo pages: reports, leaderboard, predictions, audit")
    command(work, "report.py", *(f"outputs/{name}" for name in names if name != trained))
    command(work, "report.py", f"outputs/{trained}", "--explain")
    command(work, "leaderboard.py", *(f"outputs/{name}" for name in names))
    written = ("--out", "predictions.csv", "--page", "predictions.html", "--overwrite")
    command(work, "predict.py", "outputs/blend", str(_test_images(plan)), *written)
    command(work, "run_audit.py", plan.data, "--page", "audit.html", *plan.audit)
    pages = ["leaderboard.html", "predictions.html", "audit.html"]
    pages += [f"outputs/{name}/report.html" for name in names]
    return _put(work, folder, pages)


def _test_images(plan: Plan) -> Path:
    """Return the folder of the test images."""
    # It imports OpenCV and pandas, which take a while.
    from folds.data.demo import make_demo

    root = make_demo() if plan.data == "demo" else Path(plan.data)
    return root.resolve() / "eval" / "images"


def _put(work: Path, folder: Path, pages: list[str]) -> list[Path]:
    """Copy pages of the working folder."""
    for name in pages:
        text = (work / name).read_text(encoding="utf-8")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(without_local_links(text), encoding="utf-8")
    return [folder / name for name in pages]


def main() -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m docs.demo_pages", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the pages are put, such as site/demo")
    folder = parser.parse_args().folder
    try:
        build(folder, Plan())
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(folder / "leaderboard.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
