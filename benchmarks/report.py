"""How long a report of the competition's size takes to make and to open, and how large its page is.

    python benchmarks/report.py --data LAYOUT

18,900 out-of-fold and 12,600 test rows with drawn logits; the images are those of the data set,
shown in turn. Opening is measured in headless Chromium, where there is one and playwright is
installed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import Results, data_of, parser, spread

from foldblend.runs.rows import oof_arrays
from foldblend.runs.run import Run
from foldblend.scores.bootstrap import score_interval
from foldblend.scores.metrics import METRICS
from reports.run.report import write_report
from tests.makers.synthetic_runs import write_synthetic_run

NUM_PEOPLE = 2700
NUM_TEST = 12600
TIMES = 5
CHROMIUM = (
    os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
)


def seconds(act: Callable[[], Any]) -> dict[str, Any]:
    """Return how long an act takes, over TIMES tries."""
    took = []
    for _ in range(TIMES):
        start = time.perf_counter()
        act()
        took.append(time.perf_counter() - start)
    return spread(took)


def opening(page: Path) -> dict[str, Any] | None:
    """Return the time until the gallery's images stand in a fresh browser window."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    if CHROMIUM is None:
        return None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])

        def act() -> None:
            tab = browser.new_context().new_page()
            tab.goto(page.as_uri())
            tab.wait_for_selector("#tiles img")
            tab.context.close()

        return seconds(act)


def main() -> None:
    args = parser(__doc__, results="report.json").parse_args()
    results = Results(args, device="cpu")
    if "report of 18,900 rows" not in results:
        paths = [Path(one) for one in data_of(args).train["path"]]
        with tempfile.TemporaryDirectory() as root:
            run = Run(
                write_synthetic_run(
                    Path(root) / "run", num_people=NUM_PEOPLE, num_test=NUM_TEST, paths=paths
                )
            )
            rows = oof_arrays(run)
            metric = METRICS["f1_macro"]
            made = seconds(lambda: write_report(Run(run.path)))
            page = run.path / "report.html"
            result = {
                "made, s": made,
                "without the page, s": seconds(lambda: write_report(Run(run.path), page=False)),
                "bootstrap of macro F1, 1,000 resamples of people, s": seconds(
                    lambda: score_interval(metric, rows.label_N, rows.proba_NC, rows.group_N)
                ),
            }
            write_report(Run(run.path))
            result |= {"page, MB": round(page.stat().st_size / 1e6, 2), "opens, s": opening(page)}
        results.put("report of 18,900 rows", result)
    for name, value in results["report of 18,900 rows"].items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
