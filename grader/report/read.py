"""Stored results read back: every file is either a result of this lesson, or is named with the reason why not."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import jsonschema

from grader.cohort.result import SubmissionResult, schema

LONGEST_REASON = 200


class ReportError(ValueError):
    """Results that cannot be reported on; says what was found and what to do."""


@dataclass(frozen=True)
class Refused:
    """A file among the results that is none, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Cohort:
    """The results of one lesson, by learner, and the files that were passed over."""

    lesson: str
    results: tuple[SubmissionResult, ...]
    refused: tuple[Refused, ...] = ()

    @property
    def graded(self) -> tuple[SubmissionResult, ...]:
        """Those that were graded: statistics are over them."""
        return tuple(result for result in self.results if not result.problem)

    @property
    def ungraded(self) -> tuple[SubmissionResult, ...]:
        """Those of which nothing could be read, or that were not graded for a reason of ours."""
        return tuple(result for result in self.results if result.problem)

    @property
    def versions(self) -> tuple[str, ...]:
        """Versions of the checks that the results are of; more than one means that they cannot be compared."""
        return tuple(sorted({result.version for result in self.results}))


def lesson_folders(folder: Path) -> dict[str, Path]:
    """Lesson id -> the folder with its results, for a folder that `grader grade` wrote to, or one lesson's in it."""
    if not folder.is_dir():
        raise ReportError(f"{folder} is no folder; name the one that `grader grade --out` wrote to")
    if any(folder.glob("*.json")):
        return {folder.resolve().name: folder}
    found = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and any(path.glob("*.json"))}
    if not found:
        raise ReportError(
            f"{folder} holds no results; `grader grade SUBMISSIONS --lesson L --out {folder}` writes them"
        )
    return found


def chosen_folders(folder: Path, lesson: str | None) -> dict[str, Path]:
    """Those of one lesson, called `l07_lora` or `07_lora`, or of all."""
    found = lesson_folders(folder)
    if lesson is None:
        return found
    for name, path in found.items():
        if lesson.removesuffix(".ipynb") in (name, name.removeprefix("l")):
            return {name: path}
    raise ReportError(f"{folder} holds no results of {lesson}; there are {', '.join(found)}")


def read_cohort(lesson: str, folder: Path) -> Cohort:
    """All results of a lesson's folder; raises ReportError when there is not one."""
    results: list[SubmissionResult] = []
    refused: list[Refused] = []
    # Checked for what the report relies on; a file that was written by hand must not end it half-way.
    validator = jsonschema.Draft202012Validator(schema())
    for path in sorted(folder.glob("*.json")):
        if path.name.startswith("."):
            continue  # A result that was being written when its run was killed.
        try:
            results.append(_read(path, lesson, validator))
        except (OSError, ValueError, RecursionError) as error:
            refused.append(Refused(path.name, str(error)[:LONGEST_REASON]))
    if not results:
        first = f"{refused[0].name}: {refused[0].reason}" if refused else "there is no file"
        raise ReportError(f"none of the {len(refused)} files in {folder} is a result of {lesson}. {first}")
    return Cohort(lesson, tuple(results), tuple(refused))


def _read(path: Path, lesson: str, validator: jsonschema.Draft202012Validator) -> SubmissionResult:
    try:
        data = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except ValueError as error:
        raise ValueError(f"damaged: {error}. Grade again: `grader grade` replaces it.") from error
    wrong = jsonschema.exceptions.best_match(validator.iter_errors(data))
    if wrong is not None and wrong.message == "'outcome' is a required property":
        raise ValueError("from an older version of the grader. Grade again: `grader grade` replaces it.")
    if wrong is not None:
        raise ValueError(f"no result: {wrong.message[:120]} (at {wrong.json_path})")
    if data["lesson"] != lesson:
        raise ValueError(f"a result of lesson {data['lesson']!r}, in the folder of {lesson}")
    if data["learner"] != path.stem:
        raise ValueError(f"a result of {data['learner']!r}, under another learner's name")
    return SubmissionResult.from_dict(data)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"it holds {name}, which is no number of JSON")
