"""Time to make and to open a report of the competition's size, and the size of its page.

    python benchmarks/report.py --data LAYOUT

The run has 18,900 out-of-fold and 12,600 test rows with synthetic logits; the images of the data
set are used in turn. The time to open the page is measured in headless Chromium if it and
playwright are installed.
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

from foldblend.runs.oof import oof_arrays
from foldblend.runs.run import Run
from foldblend.scores.metrics import METRICS
from foldblend.scores.score import score_interval
from reports.run.report import write_report
from tests.makers.synthetic_runs import write_synthetic_run

NUM_PEOPLE = 2700
NUM_TEST = 12600
TIMES = 5
CHROMIUM = (
    os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
)


def seconds(action: Callable[[], Any]) -> dict[str, Any]:
    """Return the seconds that an action takes, over TIMES tries."""
    took = []
    for _ in range(TIMES):
        start = time.perf_counter()
        action()
        took.append(time.perf_counter() - start)
    return spread(took)


def opening(page: Path) -> dict[str, Any] | None:
    """Return the time until a new browser window shows the gallery, or None without a browser."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    if CHROMIUM is None:
        return None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])

        def action() -> None:
            tab = browser.new_context().new_page()
            tab.goto(page.as_uri())
            tab.wait_for_selector("#tiles img")
            tab.context.close()

        return seconds(action)


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
            arrays = oof_arrays(run)
            rows = arrays.rows
            metric = METRICS["f1_macro"]
            made = seconds(lambda: write_report(Run(run.path)))
            page = run.path / "report.html"
            result = {
                "made, s": made,
                "without the page, s": seconds(lambda: write_report(Run(run.path), page=False)),
                "interval of macro F1 over people, s": seconds(
                    lambda: score_interval(metric, rows, arrays.proba_NC)
                ),
            }
            write_report(Run(run.path))
            result |= {"page, MB": round(page.stat().st_size / 1e6, 2), "opens, s": opening(page)}
        results.put("report of 18,900 rows", result)
    for name, value in results["report of 18,900 rows"].items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
