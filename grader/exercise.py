"""An exercise, declared once in one file: the answer we show, other right answers, known wrong ones, and its cases.

    exercise = Exercise(id="l07-lora-linear", title="A linear layer with LoRA", ...)

    @exercise.reference
    def lora_linear(x, weight, a, b, alpha): ...

    @exercise.misconception(hint="...")
    def scale_forgotten(x, weight, a, b, alpha): ...

    @exercise.cases
    def cases(seed):
        yield Case("square", inputs(seed, 4, 4))

The notebook stub, the hidden tests, the hints and the library that later lessons import all come from this object.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

Answer = TypeVar("Answer", bound=Callable[..., Any])

DIFFICULTIES = ("easy", "medium", "hard")
IMPORTANCES = ("core", "extension")
LIMIT_FACTOR = 10
SHORTEST_LIMIT_SECONDS = 20.0


class DeclarationError(ValueError):
    """An exercise file that contradicts itself; says which exercise, what is wrong and what to write instead."""


@dataclass(frozen=True)
class Case:
    """One named input set, made from a seed.

    inputs: keyword arguments for the answer (for the probe, when the exercise has one). Plain data and arrays only.
    about: what makes this case special, in words that finish "fails ...": "when the batch has one row".
    visible: False hides inputs and values from the learner; only `about` is told.
    group: the points it belongs to, when the exercise splits its points.
    """

    name: str
    inputs: Mapping[str, Any]
    about: str = ""
    visible: bool = True
    group: str = "all"


@dataclass(frozen=True)
class Misconception:
    """A wrong answer that people really give, and the hint it earns."""

    name: str
    answer: Callable[..., Any]
    hint: str


@dataclass
class Exercise:
    """One thing to write. Attach its functions with the decorators below.

    id: permanent, `l07-lora-linear`; its end is the file name and, in snake case, the learner's function or class.
    hints: general hints, shown one by one on request, from gentle to direct.
    rtol, atol: float comparison |got - want| <= atol + rtol * |want|; wider than the defaults needs `tolerance_reason`.
    seconds: time all cases may take on two CPU cores; more than 2 needs `seconds_reason`.
    forbidden: dotted names the answer may not use ("torch.nn.functional.cross_entropy"): usually the oracle itself.
    mutates: True when changing an argument in place is the point.
    group_points: points by case group; they add up to `points`. None: all or nothing.
    library_note: shown after passing: what the production library does differently, and why.
    interview: the interview question this exercise answers.
    """

    id: str
    title: str
    points: int
    minutes: int
    difficulty: str
    importance: str
    skills: tuple[str, ...]
    hints: tuple[str, ...]
    rtol: float = 1e-5
    atol: float = 1e-6
    tolerance_reason: str = ""
    seconds: float = 2.0
    seconds_reason: str = ""
    forbidden: tuple[str, ...] = ()
    mutates: bool = False
    group_points: Mapping[str, int] | None = None
    library_note: str = ""
    interview: str = ""
    answer: Callable[..., Any] | None = field(default=None, init=False)
    alternatives: dict[str, Callable[..., Any]] = field(default_factory=dict, init=False)
    misconceptions: dict[str, Misconception] = field(default_factory=dict, init=False)
    case_function: Callable[[int], Iterable[Case]] | None = field(default=None, init=False)
    probe_function: Callable[..., Any] | None = field(default=None, init=False)
    oracle_function: Callable[..., Any] | None = field(default=None, init=False)
    accept_function: Callable[..., str | None] | None = field(default=None, init=False)
    diagnose_function: Callable[..., str | None] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Refuse a declaration that could never be graded."""
        if not re.fullmatch(r"l\d\d-[a-z0-9]+(-[a-z0-9]+)*", self.id):
            raise DeclarationError(f"exercise id {self.id!r}: write it like 'l07-lora-linear'")
        if self.difficulty not in DIFFICULTIES:
            raise DeclarationError(f"{self.id}: difficulty {self.difficulty!r} is none of {', '.join(DIFFICULTIES)}")
        if self.importance not in IMPORTANCES:
            raise DeclarationError(f"{self.id}: importance {self.importance!r} is none of {', '.join(IMPORTANCES)}")
        if self.points < 1 or self.minutes < 1:
            raise DeclarationError(f"{self.id}: points ({self.points}) and minutes ({self.minutes}) are at least 1")
        if self.group_points is not None and sum(self.group_points.values()) != self.points:
            raise DeclarationError(
                f"{self.id}: group_points add up to {sum(self.group_points.values())}, points say {self.points}"
            )

    @property
    def file_stem(self) -> str:
        """`l07-lora-linear` -> `lora_linear`: the name of its file."""
        return self.id.split("-", 1)[1].replace("-", "_")

    @property
    def answer_name(self) -> str:
        """The name the learner gives the answer: the reference's own."""
        return self._required(self.answer, "reference").__name__

    @property
    def limit_seconds(self) -> float:
        """Wall time of one call before it is stopped, the same at the desk and in the official run."""
        return max(SHORTEST_LIMIT_SECONDS, LIMIT_FACTOR * self.seconds)

    @property
    def source_file(self) -> str:
        """The file that declares this exercise."""
        return inspect.getsourcefile(inspect.unwrap(self._required(self.answer, "reference"))) or ""

    def reference(self, answer: Answer) -> Answer:
        """The answer we show; later lessons import it."""
        if self.answer is not None:
            raise DeclarationError(f"{self.id}: a second @exercise.reference, {answer.__name__}; keep one")
        self.answer = answer
        return answer

    def alternative(self, answer: Answer) -> Answer:
        """Another right answer, written in a truly different way; it must pass."""
        self._refuse_second(answer.__name__)
        self.alternatives[answer.__name__] = answer
        return answer

    def misconception(self, *, hint: str) -> Callable[[Answer], Answer]:
        """A known wrong answer, named by its function, and the hint it earns."""

        def attach(answer: Answer) -> Answer:
            self._refuse_second(answer.__name__)
            self.misconceptions[answer.__name__] = Misconception(answer.__name__, answer, hint)
            return answer

        return attach

    def cases(self, function: Callable[[int], Iterable[Case]]) -> Callable[[int], Iterable[Case]]:
        """A generator of cases from a seed; the same seed gives the same cases."""
        self.case_function = function
        return function

    def probe(self, function: Answer) -> Answer:
        """`probe(answer, **inputs)` -> plain data: how to call an answer that is a class or a training step."""
        self.probe_function = function
        return function

    def oracle(self, function: Answer) -> Answer:
        """`oracle(**inputs)` -> the truth, from a production library called live."""
        self.oracle_function = function
        return function

    def accept(self, function: Answer) -> Answer:
        """`accept(output, **inputs)` -> None, or one sentence: for answers where no single value is right."""
        self.accept_function = function
        return function

    def diagnose(self, function: Answer) -> Answer:
        """`diagnose(got, want, **inputs)` -> one extra sentence about a wrong output, or None."""
        self.diagnose_function = function
        return function

    def make_cases(self, seed: int) -> list[Case]:
        """All cases of this seed, names checked to be unique."""
        made = list(self._required(self.case_function, "cases")(seed))
        names = [case.name for case in made]
        if not made or len(set(names)) != len(names):
            raise DeclarationError(f"{self.id}: cases need at least one case and unique names, got {names}")
        if self.group_points is not None and {case.group for case in made} != set(self.group_points):
            raise DeclarationError(
                f"{self.id}: cases use groups {sorted({case.group for case in made})}, "
                f"group_points names {sorted(self.group_points)}"
            )
        return made

    def _required(self, value: Any, what: str) -> Any:
        if value is None:
            raise DeclarationError(f"{self.id}: no @exercise.{what}; add one")
        return value

    def _refuse_second(self, name: str) -> None:
        if name in self.alternatives or name in self.misconceptions:
            raise DeclarationError(f"{self.id}: two answers are called {name!r}; rename one")
