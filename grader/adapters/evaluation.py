"""What a course supplies so that its adapters can be graded: the base model, hidden questions, and their scoring."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from grader.adapters.config import LoraSettings, read_settings
from grader.adapters.folder import AdapterFiles
from grader.adapters.tensors import expected_shapes, read_tensors

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Adapter:
    """An adapter that has passed every check. tensors: float32, by the names that peft saves them under."""

    settings: LoraSettings
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class GroupAnswers:
    """How one group of hidden questions was answered: right or wrong for each, and in which ways the wrong ones are."""

    group: str
    correct: tuple[bool, ...]
    outcomes: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; flags as 0 and 1."""
        return {"group": self.group, "correct": [int(each) for each in self.correct], "outcomes": dict(self.outcomes)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> GroupAnswers:
        """The inverse of `to_dict`."""
        return cls(data["group"], tuple(each == 1 for each in data["correct"]), dict(data["outcomes"]))


class HiddenSet(Protocol):
    """A base model and the questions of one secret seed, loaded. layers: linear layer -> (outputs, inputs)."""

    layers: Mapping[str, tuple[int, int]]
    questions: int

    def answer(self, adapter: Adapter | None, on_answered: Callable[[int], object]) -> list[GroupAnswers]:
        """The base's answers, with the adapter on it if one is given; the same for the same adapter, every time.

        on_answered: told how many more questions are done. Raises AdapterRefusedError for an adapter with which the
        model computes no finite numbers.
        """
        ...


class Evaluation(Protocol):
    """Light to import and to keep; what is heavy is loaded by `prepare`, in the process that answers."""

    def version(self) -> str:
        """Changes whenever the model, the questions of a seed, or their scoring does."""
        ...

    def prepare(self, seed: int) -> HiddenSet:
        """The base model and the hidden questions of a seed."""
        ...

    def gain_interval(self, after: Sequence[bool], before: Sequence[bool]) -> tuple[float, float]:
        """Paired 95 % interval of the gain on the same questions, as fractions of 1."""
        ...


def read_adapter(files: AdapterFiles, layers: Mapping[str, tuple[int, int]]) -> Adapter:
    """A handed-in adapter, checked against the base model's linear layers. Raises AdapterRefusedError."""
    settings = read_settings(files.config, layers)
    return Adapter(settings, read_tensors(files.tensors, expected_shapes(settings, layers)))
