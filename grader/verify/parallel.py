"""`grader verify` in several processes, one file at a time each: a course of many lessons takes minutes in one.

The processes are spawned, not forked: torch's threads do not survive a fork.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed

from grader.catalogue import Catalogue, find_course
from grader.verify import Refusal, files, verify_file
from grader.verify.lesson_rules import verify_tree


def verify_in_processes(
    spec: str | None,
    workers: int,
    lesson_name: str | None = None,
    on_file: Callable[[str], None] = lambda _: None,
) -> list[Refusal]:
    """What `grader.verify.verify` gives, in the same order.

    spec: the course as `grader.catalogue.find_course` takes it; each process finds it for itself.
    on_file: told each file when it is done. Raises BrokenProcessPool when a process dies.
    """
    catalogue = find_course(spec)
    asked = files(catalogue, lesson_name)
    threads = max(1, (os.cpu_count() or 1) // workers)
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin, (spec, threads))
    try:
        verdicts = {pool.submit(_verify_one, spec, lesson.id, stem): (lesson.id, stem) for lesson, stem in asked}
        for verdict in as_completed(verdicts):
            verdict.result()
            on_file("/".join(verdicts[verdict]))
        refusals = [refusal for verdict in verdicts for refusal in verdict.result()]
    finally:
        pool.shutdown(cancel_futures=True)  # After Ctrl-C, the files that wait are not begun.
    return refusals if lesson_name else [*refusals, *verify_tree(catalogue)]


def _begin(spec: str | None, threads: int) -> None:
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # read when torch is imported, which nothing has done yet
    find_course(spec).course.prepare()


def _verify_one(spec: str | None, lesson_id: str, stem: str) -> list[Refusal]:
    catalogue: Catalogue = find_course(spec)
    return verify_file(catalogue, catalogue.lesson(lesson_id), stem)


def _end_with_the_parent() -> None:
    """A killed parent ends no child by itself, and a file may take minutes."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
