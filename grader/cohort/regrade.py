"""Grading again after the checks changed: whose score would change and why, before it is written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from grader.cohort.result import SubmissionResult
from grader.cohort.store import ResultStore
from grader.result import Result


@dataclass(frozen=True)
class Change:
    """One exercise of one learner that would be judged otherwise. reason: which input changed, and what is said now."""

    learner: str
    exercise_id: str
    before: str
    after: str
    points: float
    reason: str


@dataclass(frozen=True)
class Regrading:
    """Where new results go: straight into the store, or beside it until somebody has agreed.

    target: the store to grade into. proposed: whether they only lie beside the kept ones.
    """

    store: ResultStore
    target: ResultStore
    proposed: bool

    @classmethod
    def plan(cls, store: ResultStore, version: str, *, apply: bool) -> Regrading:
        """Results of other checks are never replaced unseen; those of new or changed notebooks are written at once."""
        if store.has_other_checks(version):
            return cls(store, store.beside(), proposed=not apply)
        return cls(store, store, proposed=False)

    def finish(self, results: Iterable[SubmissionResult]) -> list[Change]:
        """Take the results over unless they are only proposed. Returns what differs from the kept ones."""
        if self.target is self.store:
            return []
        after = list(results)
        before = {each.learner: self.store.load(each.learner) for each in after}
        found = [change for each in after for change in changes(before[each.learner], each)]
        if not self.proposed:
            for each in after:
                if each.sha256:  # A file that could not be read keeps its grade.
                    self.store.save(each)
            self.target.remove()
        return found


def changes(before: SubmissionResult | None, after: SubmissionResult) -> list[Change]:
    """Exercises that are judged otherwise than before; none for a learner who had no result."""
    if before is None:
        return []
    old = {each.exercise_id: each for each in before.results}
    what = "the checks changed" if before.sha256 == after.sha256 else "the notebook changed"
    found = []
    for new in after.results:
        was = old.pop(new.exercise_id, None)
        if was is None or (was.status, was.points, was.max_points) != (new.status, new.points, new.max_points):
            points = new.points - (was.points if was else 0.0)
            said = after.problem or new.message
            found.append(Change(after.learner, new.exercise_id, _mark(was), _mark(new), points, f"{what}: {said}"))
    for was in old.values():
        found.append(
            Change(after.learner, was.exercise_id, _mark(was), _mark(None), -was.points, "no exercise any more")
        )
    return found


def _mark(result: Result | None) -> str:
    return f"{result.status} {result.points:g}/{result.max_points:g}" if result else "absent"
