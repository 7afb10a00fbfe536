"""The answers as they were handed in, read from the submissions exactly as grading reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from grader.cohort.collect import find_submissions
from grader.cohort.manifest import Manifest
from grader.cohort.result import SubmissionResult
from grader.cohort.submission import UnreadableError, read_submission
from grader.result import printable


def read_sources(
    folder: Path, manifest: Manifest, results: Sequence[SubmissionResult]
) -> tuple[dict[str, dict[str, str]], list[str]]:
    """(learner -> exercise id -> printable source of the answer cell, notes on files that could not be used).

    A file that was changed after it was graded is left out: its source would not belong to its result.
    Raises CollectError when the folder holds no submission at all.
    """
    handed = {each.learner: each for each in find_submissions(folder, manifest.lesson)}
    sources: dict[str, dict[str, str]] = {}
    notes: list[str] = []
    for result in results:
        if result.learner not in handed:
            notes.append(f"{result.learner}: graded, but not among the submissions in {folder}")
            continue
        try:
            data = handed[result.learner].read()
            submission = read_submission(data, manifest)
        except UnreadableError:
            continue  # The result tells why.
        except OSError as error:
            notes.append(f"{result.learner}: the file cannot be read: {error}")
            continue
        if hashlib.sha256(data).hexdigest() != result.sha256:
            notes.append(f"{result.learner}: the file was changed after it was graded; grade again to see its answers")
            continue
        own = {cell.name: cell.source for cell in submission.cells if not cell.released}
        answers = submission.answers.items()
        sources[result.learner] = {exercise: printable(own.get(name, "")) for exercise, name in answers}
    return sources, notes
