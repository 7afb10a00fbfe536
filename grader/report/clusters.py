"""Outcome clusters: learners whose wrong answers gave the same on every case, so that one comment serves them all.

Clusters that no misconception explains are the wrong ideas that the course has yet to name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grader.cohort.result import SubmissionResult
from grader.result import Result

Sources = Mapping[str, Mapping[str, str]]
"""learner -> exercise id -> the source of the answer cell."""


@dataclass(frozen=True)
class Cluster:
    """Learners with one wrong outcome on one exercise.

    misconception: the known wrong answer with these outputs, "" when unnamed; certain: False when it explains only some
    of the failing cases. forbidden: the outputs are right and the answer uses what it may not. representative: the
    learner whose answer is shown, the shortest; source: that answer, "" when the submissions are not at hand.
    """

    exercise_id: str
    title: str
    outcome: str
    status: str
    learners: tuple[str, ...]
    message: str
    misconception: str = ""
    certain: bool = False
    hint: str = ""
    forbidden: bool = False
    representative: str = ""
    source: str = ""

    @property
    def kind(self) -> str:
        """named, in part, unnamed or forbidden."""
        if self.forbidden:
            return "forbidden"
        if not self.misconception:
            return "unnamed"
        return "named" if self.certain else "in part"

    @property
    def headline(self) -> str:
        """The one line of the message that tells what was wrong: it opens with the call when the case is visible."""
        first, *rest = self.message.splitlines() or [""]
        return rest[0] if first.startswith("`") and rest else first


def cluster(results: Sequence[SubmissionResult], sources: Sources | None = None) -> tuple[Cluster, ...]:
    """All clusters, those of one learner included, the largest first."""
    members: dict[tuple[str, str], list[tuple[str, Result]]] = defaultdict(list)
    for submission in results:
        for result in submission.results:
            if result.outcome:
                members[result.exercise_id, result.outcome].append((submission.learner, result))
    found = [_cluster(group, sources or {}) for group in members.values()]
    return tuple(sorted(found, key=lambda each: (-len(each.learners), each.exercise_id, each.outcome)))


def _cluster(members: Sequence[tuple[str, Result]], sources: Sources) -> Cluster:
    written = {learner: sources.get(learner, {}).get(result.exercise_id, "") for learner, result in members}
    shown = min(written, key=lambda learner: (not written[learner], len(written[learner]), learner))
    result = dict(members)[shown]
    return Cluster(
        result.exercise_id,
        result.title,
        result.outcome,
        result.status,
        tuple(sorted(written)),
        result.message,
        result.misconception,
        result.certain,
        result.hint,
        forbidden=bool(result.cases) and all(case.passed for case in result.cases),
        representative=shown,
        source=written[shown],
    )
