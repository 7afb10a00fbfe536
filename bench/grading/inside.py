"""Inside one warm grader, in a process of its own: where a submission's time goes, the memory it takes, and the floor.

python -m bench.grading.inside stages|dask COURSE LESSON SUBMISSIONS OUTPUT
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from bench.grading.ours import SEED
from grader import wire
from grader.catalogue import Catalogue, find_course
from grader.cohort import grading
from grader.cohort.collect import Handed, find_submissions
from grader.cohort.grading import Grader
from grader.cohort.run import Graded, grade_all
from grader.cohort.session import Session
from grader.cohort.store import ResultStore
from grader.cohort.submission import Submission, read_submission
from grader.cohort.warm_parent import WarmParent
from grader.syllabus import Lesson

FORKS = 50
FIRST_SHARE = 4  # Marginal times leave out the first quarter, in which workers still start.


def main(arguments: Sequence[str]) -> int:
    """Measure one kind of thing and write it as JSON."""
    kind, course, lesson_name, submissions, output = arguments
    catalogue = find_course(course)
    lesson = catalogue.lesson(lesson_name)
    handed = find_submissions(Path(submissions), lesson)
    with tempfile.TemporaryDirectory() as folder:
        if kind == "stages":
            found = _inside(catalogue, lesson, handed, Path(folder))
        else:
            found = dask_and_embedded(catalogue, course, lesson, handed, Path(folder))
    Path(output).write_text(json.dumps(found))
    return 0


def _inside(catalogue: Catalogue, lesson: Lesson, handed: Sequence[Handed], folder: Path) -> dict[str, Any]:
    began = time.perf_counter()
    with Grader(lesson.id, seed=SEED, catalogue=catalogue) as grader:
        start_seconds = time.perf_counter() - began
        read = [read_submission(each.read(), grader.manifest) for each in handed]
        memory = memory_of(grader, read[0])
        forks = fork_seconds(grader)
        stages = stage_seconds(grader, handed, ResultStore(folder, lesson.id))
        return {
            "isolation": str(grader.isolation),
            "start_seconds": start_seconds,
            "memory_bytes": memory,
            "fork_seconds": forks,
            "stage_seconds": stages,
            "learner_seconds": learner_seconds(grader, read),
        }


class Stages:
    """Wall seconds of watched functions, each without what it spent in others that are watched. For one thread."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.inner: list[float] = []

    def watch(self, owner: Any, attribute: str, stage: str) -> None:
        """Count the time of `owner.attribute` as this stage, from now on."""
        original: Callable[..., Any] = getattr(owner, attribute)

        def watched(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            self.inner.append(0.0)
            try:
                return original(*arguments, **named)
            finally:
                spent = time.perf_counter() - began
                self.seconds[stage] += spent - self.inner.pop()
                if self.inner:
                    self.inner[-1] += spent

        setattr(owner, attribute, watched)


def stage_seconds(grader: Grader, handed: Sequence[Handed], store: ResultStore) -> dict[str, float]:
    """Mean seconds of each stage of one submission, with one worker."""
    stages = Stages()
    stages.watch(grading, "read_submission", "reading the notebook")
    stages.watch(Session, "_ready", "fork and wall")
    stages.watch(Session, "_run_cells", "cells")
    stages.watch(Session, "run", "calls")
    stages.watch(WarmParent, "end_child", "ending the child")
    stages.watch(Grader, "_judge", "judging")
    stages.watch(ResultStore, "save", "saving")
    stages.watch(Grader, "grade", "the rest")
    grade_all(grader, handed, store, workers=1)
    return {stage: seconds / len(handed) for stage, seconds in stages.seconds.items()}


def fork_seconds(grader: Grader) -> dict[str, float]:
    """Medians: until a fresh child behind the wall has answered its first request, and until it is gone again."""
    assert grader.parent is not None
    first, gone = [], []
    request = {"kind": "cell", "name": "empty", "only": "all", "binds": "", "limit_seconds": 10.0}
    for _ in range(FORKS):
        began = time.perf_counter()
        child = grader.parent.start_child()
        child.channel.ask(request, b"", 10)
        answered = time.perf_counter()
        grader.parent.end_child(child)
        first.append(answered - began)
        gone.append(time.perf_counter() - answered)
    return {"first_answer": statistics.median(first), "end": statistics.median(gone)}


def memory_of(grader: Grader, submission: Submission) -> dict[str, int]:
    """Resident and proportional size of the warm parent, and of a child after all its calls what is its own."""
    assert grader.parent is not None
    parent = psutil.Process(grader.parent.process.pid)
    alone = parent.memory_full_info()
    session = grader._session(grader.parent, submission)
    for prepared in grader.prepared:
        session.run(prepared.exercise, prepared.questions, prepared.exercise.limit_seconds)
    (child,) = parent.children()
    own = child.memory_full_info()
    session.close()
    return {
        "grader_rss": psutil.Process().memory_info().rss,
        "parent_rss": alone.rss,
        "parent_pss": alone.pss,
        "child_rss": own.rss,
        "child_pss": own.pss,
        "child_private": own.uss,
    }


def learner_seconds(grader: Grader, submissions: Sequence[Submission]) -> float:
    """The floor: mean processor seconds of a learner's own cells and calls, in one warm process with nothing around."""
    import torch

    torch.set_num_threads(1)
    return min(statistics.mean(_learner_seconds(grader, submission) for submission in submissions) for _ in range(2))


def _learner_seconds(grader: Grader, submission: Submission) -> float:
    namespace: dict[str, Any] = {}
    spent = 0.0
    for cell in submission.cells:
        spent += _processor_seconds(lambda source=cell.source: exec(source, namespace))
    for prepared in grader.prepared:
        answer = namespace.get(prepared.exercise.answer_name)
        if prepared.exercise.id not in submission.answers or answer is None:
            continue
        first = (prepared.exercise.probe_function, answer) if prepared.exercise.probe_function else (answer,)
        for question in prepared.questions:
            given = wire.decode(wire.loads(question.inputs))
            spent += _processor_seconds(lambda given=given, first=first: first[0](*first[1:], **given))
    return spent


def _processor_seconds(action: Callable[[], Any]) -> float:
    began = time.process_time()
    with contextlib.suppress(Exception):  # Some learners' answers raise; the time until then counts.
        action()
    return time.process_time() - began


def dask_and_embedded(
    catalogue: Catalogue, course: str, lesson: Lesson, handed: Sequence[Handed], folder: Path
) -> dict[str, float]:
    """Seconds per submission with everything warm: two workers here, and a local Dask cluster of two processes."""
    from distributed import LocalCluster

    from grader.cohort.dask_cluster import grade_on_cluster

    ends: list[float] = []

    def done(_: Graded) -> None:
        ends.append(time.perf_counter())

    def marginal() -> float:
        skipped = len(ends) // FIRST_SHARE
        return (ends[-1] - ends[skipped]) / (len(ends) - 1 - skipped)

    with Grader(lesson.id, seed=SEED, catalogue=catalogue) as grader:
        grade_all(grader, handed, ResultStore(folder / "embedded", lesson.id), workers=2, on_done=done)
    embedded = marginal()
    ends.clear()
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        store = ResultStore(folder / "dask", lesson.id)
        address = cluster.scheduler_address
        grade_on_cluster(address, catalogue, lesson.id, handed, store, seed=SEED, course=course, on_done=done)
    return {"embedded_seconds": embedded, "dask_seconds": marginal()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
