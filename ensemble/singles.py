"""Score the single members of a blend, and compare the blend with the best of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ensemble.align import Aligned
from ensemble.changed import changed_section
from ensemble.sections import errors_section, members_section, verdict_sentence
from foldblend.ahead import ahead
from foldblend.scores.metrics import Metric, as_metric, softmax
from foldblend.scores.score import Score, Scored, score_prediction
from reports.run.summary import with_differences

__all__ = ["Singles"]


def _names(aligned: Aligned, blend: str) -> list[str]:
    """Return the members' names, or their paths where names are equal."""
    names = [*(run.name for run in aligned.runs), blend]
    return [
        name if names.count(name) == 1 else str(run.path)
        for name, run in zip(names, aligned.runs, strict=False)
    ]


class Singles:
    """Scores and errors of the single members, collected one after the other."""

    def __init__(self, aligned: Aligned, metric: str | Metric, *, blend: str) -> None:
        self.rows = aligned.coded_rows
        self.image_ids = aligned.rows["image_id"]
        self.attributes = aligned.runs[0].attributes
        self.blend = blend
        self.names = _names(aligned, blend)
        self.metric = as_metric(metric)
        self.found: list[Scored] = []
        self.num_threads = aligned.num_threads
        self.classes = aligned.runs[0].classes
        self.predicted_MN = np.empty((len(self.names), len(self.rows)), np.int32)

    def watched(self, logits: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the members' logits unchanged, after scoring each."""
        scored_members = ahead(self._with_score, enumerate(logits), num_threads=self.num_threads)
        for logits_NC, scored in scored_members:
            self.found.append(scored)
            yield logits_NC

    def _with_score(self, member: tuple[int, np.ndarray]) -> tuple[np.ndarray, Scored]:
        place, logits_NC = member
        self.predicted_MN[place] = logits_NC.argmax(axis=1)
        return logits_NC, self._scored(self.names[place], logits_NC)

    @property
    def best(self) -> tuple[int, Score]:
        """The place and the score of the best member."""

        def value(place: int) -> float:
            found = self.found[place].score.value
            return found if np.isfinite(found) else -np.inf

        place = max(range(len(self.found)), key=value)
        return place, self.found[place].score

    def _scored(self, name: str, logits_NC: np.ndarray) -> Scored:
        proba_NC = softmax(logits_NC)
        return score_prediction(
            name, self.rows, proba_NC, attributes=self.attributes, metric=self.metric
        )

    def compared(self, logits_NC: np.ndarray) -> list[dict[str, Any]]:
        """Return a row for each member and, last, for the blend with logits N x C."""
        return with_differences([*self.found, self._scored(self.blend, logits_NC)], self.best[0])

    def sections(
        self,
        rows: Sequence[Mapping[str, Any]],
        verdict: str | None,
        *,
        shares: Sequence[float],
        logits_NC: np.ndarray,
    ) -> dict[str, dict[str, Any]]:
        """Return the sections on members, on the images that the blend changes, and on errors.

        Parameters
        ----------
        rows
            What `compared` returns.
        verdict
            What `verdict` returns.
        shares
            The weight of each member.
        logits_NC
            Logits of the blend.
        """
        # The last row is the blend, which has no weight.
        weighed = [{**row, "weight": share} for row, share in zip(rows, shares, strict=False)]
        weighed.append(dict(rows[-1]))
        found = {"1_members": members_section(weighed, verdict, groups=self.rows.groups)}
        if len(self.names) < 2:
            return found
        place = self.best[0]
        changed = changed_section(
            self.image_ids,
            self.rows.label_N,
            self.predicted_MN[place],
            softmax(logits_NC),
            classes=self.classes,
            single=self.names[place],
        )
        found["1_repaired"] = changed
        errors = errors_section(self.names, self.predicted_MN != self.rows.label_N)
        return found | ({} if errors is None else {"2_errors": errors})

    def verdict(
        self, rows: list[dict[str, Any]], shares: Sequence[float], cost_M: np.ndarray
    ) -> tuple[str | None, bool]:
        """Compare the blend with the best member: a sentence, and whether the blend is better.

        The sentence is None for a single member, and for a score without an interval.
        """
        place = self.best[0]
        found = rows[-1]["difference"]
        if len(self.names) < 2 or found is None or found["low"] is None:
            return None, False
        sentence = verdict_sentence(
            found,
            self.names[place],
            metric=self.metric,
            num_groups=self.rows.num_groups,
            groups=self.rows.groups,
            times_cost=cost_M[np.flatnonzero(shares)].sum() / cost_M[place],
        )
        return sentence, min(self.metric.sign * found[end] for end in ("low", "high")) > 0
