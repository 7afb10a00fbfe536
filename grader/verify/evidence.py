"""What the rules share: a refusal, and what one exercise's answers gave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from grader.call import Outcome
from grader.exercise import Exercise
from grader.judge import Question, call_all, prepare
from grader.syllabus import Lesson

# The last is of the size that official runs derive from their secret.
SEEDS = (0, 1, 1_395_289_510)


@dataclass(frozen=True)
class Refusal:
    """One broken rule. next: what the author should do."""

    where: str
    rule: str
    problem: str
    next: str

    def __str__(self) -> str:
        return f"{self.where}: [{self.rule}] {self.problem}. {self.next}"


@dataclass
class Evidence:
    """What one exercise's answers gave, computed once and shared by the rules."""

    exercise: Exercise
    lesson: Lesson
    questions: dict[int, list[Question]] = field(default_factory=dict)
    outcomes: dict[tuple[str, int], list[Outcome]] = field(default_factory=dict)

    def refuse(self, rule: str, problem: str, next_action: str) -> Refusal:
        """A refusal of this exercise."""
        return Refusal(self.exercise.id, rule, problem, next_action)

    def asked(self, seed: int) -> list[Question]:
        """The questions of a seed."""
        if seed not in self.questions:
            self.questions[seed] = prepare(self.exercise, seed)
        return self.questions[seed]

    def run(self, name: str, answer: Callable[..., Any], seed: int) -> list[Outcome]:
        """The outcomes of one answer on one seed."""
        if (name, seed) not in self.outcomes:
            limit_seconds = self.exercise.limit_seconds
            self.outcomes[name, seed] = call_all(self.exercise, answer, self.asked(seed), limit_seconds)
        return self.outcomes[name, seed]

    @property
    def right_answers(self) -> dict[str, Callable[..., Any]]:
        """The reference and the alternatives by name."""
        assert self.exercise.answer is not None
        return {self.exercise.answer_name: self.exercise.answer, **self.exercise.alternatives}
