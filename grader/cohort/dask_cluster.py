"""The same grading on an existing Dask cluster: each worker process keeps a grader, and so a warm parent, of its own.

Dask sends the work, notices lost workers and gives their submissions to others; results come back here, and this
process alone saves them, once each. The workers are trusted machines with the same course installed: the secret seed is
sent to them, and learner code runs only in their sandboxed children.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

from distributed import Client, WorkerPlugin, as_completed, get_worker

from grader.catalogue import Catalogue, find_course
from grader.cohort.collect import Handed
from grader.cohort.grading import Grader, checks_version
from grader.cohort.manifest import read_manifest
from grader.cohort.result import SubmissionResult
from grader.cohort.run import Graded, unreadable
from grader.cohort.store import ResultStore
from grader.sandbox.isolation import Limits

PLUGIN = "grader"
CONNECT_SECONDS = 15
TASKS_PER_THREAD = 3


class ClusterError(RuntimeError):
    """A cluster that cannot be reached, or that cannot grade; says which and what to do."""


class GraderPlugin(WorkerPlugin):
    """Keeps one grader in a worker process, made when its first submission comes and closed with the worker."""

    def __init__(self, lesson: str, seed: int, version: str, course: str | None, limits: Limits, allow_weak: bool):
        """version: that of the checks here; a worker with another course installed refuses to grade."""
        self.lesson, self.seed, self.version, self.course = lesson, seed, version, course
        self.limits, self.allow_weak = limits, allow_weak

    def setup(self, worker: Any) -> None:
        """Called by Dask in the worker."""
        self.lock = threading.Lock()
        self.kept: Grader | None = None

    def teardown(self, worker: Any) -> None:
        """Called by Dask when the worker ends."""
        if self.kept is not None:
            self.kept.close()

    def grader(self) -> Grader:
        """This worker's grader."""
        with self.lock:
            if self.kept is None:
                found = Grader(
                    self.lesson,
                    seed=self.seed,
                    catalogue=find_course(self.course),
                    limits=self.limits,
                    allow_weak=self.allow_weak,
                )
                if found.version != self.version:
                    found.close()
                    raise ClusterError(
                        f"a worker's checks have version {found.version}, here it is {self.version}: "
                        "install the same course on every worker"
                    )
                self.kept = found
            return self.kept


def grade_on_worker(data: bytes, learner: str) -> dict[str, Any]:
    """Runs in a worker: one submission, graded by the worker's own grader."""
    plugin: Any = get_worker().plugins[PLUGIN]
    return plugin.grader().grade(data, learner).to_dict()


def grade_on_cluster(
    address: str,
    catalogue: Catalogue,
    lesson_name: str,
    handed: Sequence[Handed],
    store: ResultStore,
    *,
    seed: int,
    course: str | None = None,
    limits: Limits | None = None,
    allow_weak: bool = False,
    on_done: Callable[[Graded], None] = lambda _: None,
) -> list[SubmissionResult]:
    """All results, in the order of `handed`, graded by the workers of the scheduler at `address`."""
    lesson = catalogue.lesson(lesson_name)
    manifest = read_manifest(catalogue, lesson)
    version = checks_version(manifest, seed)
    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise ClusterError(
            f"no Dask scheduler answers at {address}: {error}. Start one with `dask scheduler`."
        ) from error
    results: dict[str, SubmissionResult] = {}

    def done(each: Graded) -> None:
        results[each.result.learner] = each.result
        on_done(each)

    with client:
        if not client.nthreads():
            raise ClusterError(f"the scheduler at {address} has no workers. Start some with `dask worker {address}`.")
        client.register_plugin(GraderPlugin(lesson.id, seed, version, course, limits or Limits(), allow_weak), PLUGIN)
        running = as_completed(loop=client.loop)
        for each in handed:
            try:
                data = each.read()
            except OSError as error:
                done(Graded(unreadable(manifest, version, "", each, error), kept=False))
                continue
            kept = store.fresh(each.learner, hashlib.sha256(data).hexdigest(), version)
            if kept is not None:
                done(Graded(kept, kept=True))
                continue
            # Not pure: two learners with the same file are two submissions.
            running.add(client.submit(grade_on_worker, data, each.learner, pure=False))
            while running.count() >= TASKS_PER_THREAD * max(1, sum(client.nthreads().values())):
                done(_collected(next(running), store))
        for future in running:
            done(_collected(future, store))
    return [results[each.learner] for each in handed]


def _collected(future: Any, store: ResultStore) -> Graded:
    result = SubmissionResult.from_dict(future.result())
    store.save(result)
    return Graded(result, kept=False)
