"""The audit in short: a sentence, the checks by result, and the findings by severity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from folds.audit.checks import Check, Outcome, checks_of, fine_line
from folds.audit.exploration import Exploration
from folds.audit.findings import Finding, Severity
from folds.audit.other_findings import difference_findings, file_findings, fold_findings

__all__ = ["NO_PROBLEMS", "Overview", "overview_of"]

NO_PROBLEMS = "No problems found by the checks that ran."
MOST_TITLES = 2


@dataclass(frozen=True, slots=True)
class Overview:
    """All checks, and all findings by severity."""

    checks: tuple[Check, ...]
    findings: tuple[Finding, ...]
    """The most severe ones first."""

    def with_outcome(self, *outcomes: Outcome) -> list[Check]:
        """Return the checks with one of these results."""
        return [check for check in self.checks if check.outcome in outcomes]

    def headline(self) -> str:
        """Return how many findings there are and how many are serious, or that there are none.

        Examples
        --------
        >>> Overview((), ()).headline()
        'No problems found by the checks that ran.'
        """
        if not self.findings:
            return NO_PROBLEMS
        num = len(self.findings)
        num_serious = sum(one.severity is Severity.SERIOUS for one in self.findings)
        if num == 1:
            return f"1 {self.findings[0].severity} finding"
        serious = {0: "none", num: "all"}.get(num_serious, f"{num_serious}")
        return f"{num} findings, {serious} serious"

    def sentence(self) -> str:
        """Return the headline with the titles of the first findings."""
        if not self.findings:
            return self.headline()
        titles = [one.title[:1].lower() + one.title[1:] for one in self.findings]
        more = len(titles) - MOST_TITLES
        rest = f"; and {more} more" if more > 0 else ""
        return f"{self.headline()}: {'; '.join(titles[:MOST_TITLES])}{rest}."

    def lines(self) -> list[str]:
        """Return the same for the terminal: the checks first, then the findings."""
        fine = fine_line(self.checks)
        return [
            *([fine] if fine else []),
            *(check.line for check in self.checks if check.line),
            self.headline() if not self.findings else f"{self.headline()}:",
            *(line for finding in self.findings for line in finding.lines()),
        ]


def overview_of(seen: Exploration, fold_RN: np.ndarray) -> Overview:
    """Return the checks and findings of an audit.

    Parameters
    ----------
    seen
        Results of the exploration.
    fold_RN
        Fold of each training row in each repeat.
    """
    findings = [
        *seen.findings,
        *difference_findings(seen),
        *file_findings(seen.unreadable, seen.manifest.warnings, seen.notes),
        *fold_findings(seen.manifest, fold_RN),
    ]
    rank = list(Severity)
    return Overview(
        checks=tuple(checks_of(seen, fold_RN, findings)),
        findings=tuple(sorted(findings, key=lambda one: rank.index(one.severity))),
    )
