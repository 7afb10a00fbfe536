"""What grading one submission gave: plain frozen data with a dict form and a JSON schema."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from grader.result import STATUSES, Result, message_text


@dataclass(frozen=True)
class SubmissionResult:
    """One graded submission.

    problem: why nothing could be read, "" otherwise. repairs: what was damaged and how it was read all the same.
    sha256: of the file. version: of the checks and the seed. seconds: wall time; processor_seconds and peak_bytes: of
    its sandboxed processes.
    """

    learner: str
    lesson: str
    sha256: str
    version: str
    isolation: str
    results: tuple[Result, ...]
    problem: str = ""
    repairs: tuple[str, ...] = ()
    seconds: float = 0.0
    processor_seconds: float = 0.0
    peak_bytes: int = 0

    def __post_init__(self) -> None:
        """Clean what was said about the file: it may quote it."""
        object.__setattr__(self, "problem", message_text(self.problem))
        object.__setattr__(self, "repairs", tuple(map(message_text, self.repairs)))

    @property
    def points(self) -> float:
        """Points earned."""
        return sum(result.points for result in self.results)

    @property
    def max_points(self) -> float:
        """Points possible; what is broken on our side counts for nobody."""
        return sum(result.max_points for result in self.results if result.status != "broken")

    @property
    def verdict(self) -> tuple[Any, ...]:
        """What must not depend on when, where or in which order it was graded."""
        return (
            self.problem,
            self.repairs,
            tuple(
                (each.exercise_id, each.status, each.points, each.message, each.hint, each.misconception)
                for each in self.results
            ),
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self) | {"points": self.points, "max_points": self.max_points}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SubmissionResult:
        """The inverse of `to_dict`."""
        known = {field.name: data[field.name] for field in fields(cls)}
        known["results"] = tuple(Result.from_dict(result) for result in data["results"])
        return cls(**{**known, "repairs": tuple(data["repairs"])})


def schema() -> dict[str, Any]:
    """The JSON schema of `to_dict`'s output."""
    number, text, flag = {"type": "number"}, {"type": "string"}, {"type": "boolean"}
    case = {"name": text, "group": text, "visible": flag, "about": text, "passed": flag, "kind": text}
    case |= {"sentence": text, "printed": text, "seconds": number}
    group = {"type": "array", "prefixItems": [text, number, number], "minItems": 3, "maxItems": 3}
    result = {"exercise_id": text, "title": text, "status": {"enum": list(STATUSES)}, "points": number}
    result |= {"max_points": number, "message": text, "hint": text, "misconception": text, "certain": flag}
    result |= {"cases": _list(_object(case)), "groups": _list(group), "seconds": number, "outcome": text}
    whole = {"learner": text, "lesson": text, "sha256": text, "version": text, "isolation": text}
    whole |= {"results": _list(_object(result)), "problem": text, "repairs": _list(text), "seconds": number}
    whole |= {"processor_seconds": number, "peak_bytes": {"type": "integer"}, "points": number, "max_points": number}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_object(whole)}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}
