"""Grade the adapters of a cohort: several at once, each kept as it comes, going on where an earlier run stopped."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grader.adapters.evaluation import Evaluation, GroupAnswers
from grader.adapters.folder import AdapterFiles, AdapterRefusedError, HandedAdapter, NoAdapterError, read_handed
from grader.adapters.points import judge, max_points
from grader.adapters.result import AdapterResult
from grader.adapters.store import AdapterStore, BaseAnswers
from grader.adapters.worker import Worker, WorkerDiedError
from grader.catalogue import load_object
from grader.syllabus import AdapterTask, Lesson

LIMIT_SECONDS = 1800.0


class EvaluationError(RuntimeError):
    """The base model itself could not be evaluated, so nothing can be graded; says why."""


class AdapterGrader:
    """Grades adapters of one lesson on the hidden set of one secret seed.

    on_progress: told the part of an adapter that is done, from any thread; the base model counts as one, so the parts
    add up to one more than there are adapters.
    """

    def __init__(
        self,
        lesson: Lesson,
        task: AdapterTask,
        store: AdapterStore,
        *,
        seed: int,
        memory_bytes: int,
        limit_seconds: float = LIMIT_SECONDS,
        on_progress: Callable[[float], object] = lambda _: None,
    ) -> None:
        self.lesson, self.task, self.store = lesson, task, store
        self.limit_seconds, self.on_progress = limit_seconds, on_progress
        self.evaluation: Evaluation = load_object(task.evaluation, "evaluation")
        self.version = hidden_set_version(task, self.evaluation, seed)
        self.workers = _Workers(lambda: Worker(task.evaluation, seed, memory_bytes))

    def grade_all(self, handed: Sequence[HandedAdapter], workers: int) -> list[AdapterResult]:
        """All results, in the order of `handed`. Raises EvaluationError, and StoreError when the disk takes no more."""
        with ThreadPoolExecutor(workers, thread_name_prefix="adapters") as pool:
            try:
                base = pool.submit(self._base)
                grading = [pool.submit(self._grade, each, base) for each in handed]
                base.result()
                return [future.result() for future in grading]
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
                self.workers.stop()

    def _base(self) -> list[GroupAnswers]:
        kept = self.store.base(self.version)
        if kept is not None:
            self.on_progress(1)
            return list(kept.groups)
        try:
            groups = self._answer(None)
        except (WorkerDiedError, AdapterRefusedError) as error:
            raise EvaluationError(f"the base model could not be evaluated: {error}") from error
        self.store.save(BaseAnswers(self.version, tuple(groups)))
        return groups

    def _grade(self, handed: HandedAdapter, base: Future[list[GroupAnswers]]) -> AdapterResult:
        result = self._read_and_grade(handed, base)
        self.store.save(result)
        return result

    def _read_and_grade(self, handed: HandedAdapter, base: Future[list[GroupAnswers]]) -> AdapterResult:
        try:
            files = read_handed(handed, self.lesson)
        except (NoAdapterError, AdapterRefusedError) as error:
            self.on_progress(1)
            status = "todo" if isinstance(error, NoAdapterError) else "refused"
            return self._result(handed, status, problem=str(error))
        digest = files.sha256
        if kept := self.store.fresh(handed.learner, digest, self.version):
            self.on_progress(1)
            return kept
        try:
            answers = self._answer(files)
        except AdapterRefusedError as error:
            return self._result(handed, "refused", problem=str(error), sha256=digest)
        except WorkerDiedError as error:
            if self.workers.stopped:
                raise
            # Without a hash, so that the next run tries again: it may have been the machine's fault.
            return self._result(handed, "crashed", problem=str(error))
        groups = judge(self.task, self.evaluation, answers, base.result())
        return self._result(handed, "graded", sha256=digest, groups=groups)

    def _answer(self, files: AdapterFiles | None) -> list[GroupAnswers]:
        done = 0.0
        try:
            with self.workers.lend() as worker:

                def answered(count: int) -> None:
                    nonlocal done
                    done += count / worker.questions
                    self.on_progress(count / worker.questions)

                return worker.answer(files, self.limit_seconds, answered)
        finally:
            self.on_progress(1 - done)

    def _result(self, handed: HandedAdapter, status: str, **details: Any) -> AdapterResult:
        return AdapterResult(handed.learner, self.lesson.id, status, max_points(self.task), self.version, **details)


class _Workers:
    """As many processes as threads ask at once: started when needed, used again, and replaced when dead."""

    def __init__(self, start: Callable[[], Worker]) -> None:
        self.start, self.lock = start, threading.Lock()
        self.idle: list[Worker] = []
        self.lent: list[Worker] = []
        self.stopped = False

    @contextmanager
    def lend(self) -> Iterator[Worker]:
        with self.lock:
            worker = self.idle.pop() if self.idle else None
        worker = worker or self.start()
        with self.lock:
            self.lent.append(worker)
        sound = False
        try:
            if self.stopped:
                raise WorkerDiedError("the run was stopped")
            worker.prepare()
            yield worker
            sound = True
        except AdapterRefusedError:
            sound = True
            raise
        finally:
            with self.lock:
                self.lent.remove(worker)
                if sound:
                    self.idle.append(worker)
            if not sound:
                worker.close()

    def stop(self) -> None:
        """End all processes. A thread that is using one learns of it by WorkerDiedError."""
        with self.lock:
            self.stopped = True
            for worker in self.lent:
                worker.kill()
            for worker in self.idle:
                worker.close()
            self.idle.clear()


def hidden_set_version(task: AdapterTask, evaluation: Evaluation, seed: int) -> str:
    """Changes with the seed, the hidden set, the thresholds and the checks; tells nothing of the seed."""
    digest = hashlib.sha256(f"{seed} {evaluation.version()} {task}".encode())
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
