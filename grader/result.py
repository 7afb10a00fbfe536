"""What a judged exercise is: plain frozen data with a dict form. Showing it is `grader.show`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

STATUSES = ("todo", "passed", "failed", "crashed", "broken")
# A sentence leaves room in a message for the call before it and the count after it.
LONGEST_MESSAGE_CHARACTERS = 4_000
LONGEST_SENTENCE_CHARACTERS = 3_000


def printable(text: str) -> str:
    """Text that a file, a table and a terminal take: what cannot be printed, half a character too, as `repr` shows it.

    Tabs and line ends stay.
    """
    if text.translate({9: None, 10: None}).isprintable():
        return text
    return "".join(each if each.isprintable() or each in "\t\n" else repr(each)[1:-1] for each in text)


def message_text(text: str, most_characters: int = LONGEST_MESSAGE_CHARACTERS) -> str:
    """`printable` text of a bounded length: learner code chooses what an error or a key says, and how much of it."""
    shown = printable(text[:most_characters])
    if max(len(text), len(shown)) <= most_characters:
        return shown
    mark = f" ... ({len(text):,} characters)"
    return shown[: most_characters - len(mark)] + mark


@dataclass(frozen=True)
class CaseResult:
    """One case. sentence: what differed, or what was raised; empty when it passed.

    Texts that learner code had a say in are cleaned here, so that one stored before this was done is clean once read.
    """

    name: str
    group: str
    visible: bool
    about: str
    passed: bool
    kind: str = ""
    sentence: str = ""
    printed: str = ""
    seconds: float = 0.0

    def __post_init__(self) -> None:
        """Clean the texts."""
        object.__setattr__(self, "sentence", message_text(self.sentence, LONGEST_SENTENCE_CHARACTERS))
        object.__setattr__(self, "printed", message_text(self.printed))


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

    def __post_init__(self) -> None:
        """Clean the text that learner code had a say in."""
        object.__setattr__(self, "message", message_text(self.message))

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
