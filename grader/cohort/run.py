"""Grade a folder of submissions in parallel, keep each result as it comes, and go on where an earlier run stopped."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from grader.cohort.collect import Handed
from grader.cohort.grading import Grader
from grader.cohort.manifest import Manifest
from grader.cohort.result import SubmissionResult
from grader.cohort.store import ResultStore
from grader.judge import not_started


@dataclass(frozen=True)
class Graded:
    """One submission that is done. kept: an earlier run's result, used again."""

    result: SubmissionResult
    kept: bool


def grade_all(
    grader: Grader,
    handed: Sequence[Handed],
    store: ResultStore,
    *,
    workers: int,
    on_done: Callable[[Graded], None] = lambda _: None,
) -> list[SubmissionResult]:
    """All results, in the order of `handed`. Each is saved before the next is begun by the same worker."""
    results: dict[str, SubmissionResult] = {}
    with ThreadPoolExecutor(workers, thread_name_prefix="grading") as pool:
        for done in _as_they_come(pool, grader, handed, store, workers):
            results[done.result.learner] = done.result
            on_done(done)
    return [results[each.learner] for each in handed]


def _as_they_come(
    pool: ThreadPoolExecutor, grader: Grader, handed: Sequence[Handed], store: ResultStore, workers: int
) -> Iterator[Graded]:
    """Only a few submissions are read ahead, so a cohort of any size needs the memory of a few."""
    waiting = iter(handed)
    running: set[Future[Graded]] = set()
    try:
        while True:
            while len(running) < workers * 2 and (each := next(waiting, None)) is not None:
                running.add(pool.submit(_grade_one, grader, each, store))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    finally:
        for future in running:
            future.cancel()


def _grade_one(grader: Grader, handed: Handed, store: ResultStore) -> Graded:
    try:
        data = handed.read()
    except OSError as error:
        return Graded(unreadable(grader.manifest, grader.version, str(grader.isolation), handed, error), kept=False)
    digest = hashlib.sha256(data).hexdigest()
    kept = store.fresh(handed.learner, digest, grader.version)
    if kept is not None:
        return Graded(kept, kept=True)
    result = grader.grade(data, handed.learner)
    store.save(result)
    return Graded(result, kept=False)


def unreadable(manifest: Manifest, version: str, isolation: str, handed: Handed, error: OSError) -> SubmissionResult:
    """A file that could not be opened: told, and not kept, so that the next run tries again."""
    return SubmissionResult(
        learner=handed.learner,
        lesson=manifest.lesson.id,
        sha256="",
        version=version,
        isolation=isolation,
        results=tuple(not_started(exercise, "Nothing could be read.") for exercise in manifest.exercises),
        problem=f"the file cannot be read: {error}",
    )


def processors() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
