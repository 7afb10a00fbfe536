"""What a judged exercise is: plain frozen data with a dict form. Showing it is `grader.show`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

STATUSES = ("todo", "passed", "failed", "crashed", "broken")


@dataclass(frozen=True)
class CaseResult:
    """One case. sentence: what differed, or what was raised; empty when it passed."""

    name: str
    group: str
    visible: bool
    about: str
    passed: bool
    kind: str = ""
    sentence: str = ""
    printed: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Result:
    """One judged exercise.

    status: todo (not started), passed, failed, crashed (their code raised or ran out of time), broken (our fault).
    misconception: the known wrong answer whose outputs equal these; certain is False when only some cases agree.
    groups: case group -> (points earned, points possible).
    outcome: a digest of what a wrong answer gave, the same for learners with the same outputs; for instructors alone.
    """

    exercise_id: str
    title: str
    status: str
    points: float
    max_points: float
    message: str
    hint: str = ""
    misconception: str = ""
    certain: bool = False
    cases: tuple[CaseResult, ...] = ()
    groups: tuple[tuple[str, float, float], ...] = ()
    seconds: float = 0.0
    outcome: str = ""

    @property
    def passed(self) -> bool:
        """True when every case passed."""
        return self.status == "passed"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Result:
        """The inverse of `to_dict`; raises KeyError when a field is missing, as in results of older versions."""
        known = {field.name: data[field.name] for field in fields(cls)}
        cases = tuple(CaseResult(**case) for case in data["cases"])
        groups = tuple((name, earned, possible) for name, earned, possible in data["groups"])
        return cls(**{**known, "cases": cases, "groups": groups})
