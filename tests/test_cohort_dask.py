"""`--scheduler`: the same grading on a Dask cluster; a worker lost on the way costs nobody anything."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from attacks import RIGHT, RIGHT_MEAN, WRONG
from submissions import hand_in
from tiny_courses import copy_course

from grader.catalogue import Catalogue, find_course
from grader.cohort.collect import Handed, find_submissions
from grader.cohort.grading import Grader
from grader.cohort.run import Graded, grade_all
from grader.cohort.store import ResultStore

pytestmark = pytest.mark.slow
LESSON = "l01_plain"
SUM, MEAN = "l01-scaled-sum", "l01-running-mean"


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("course")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))  # the workers' own
        patch.syspath_prepend(str(folder))
        yield copy_course(folder, name="tiny_for_dask")


@pytest.fixture(scope="module")
def cluster(spec: str):
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        yield cluster


def cohort(catalogue: Catalogue, folder: Path, count: int) -> list[Handed]:
    for number in range(count):
        answer = (RIGHT, WRONG, "import os\n\n\ndef scaled_sum(base, update, scale):\n    os._exit(0)\n")[number % 3]
        (folder / f"learner{number:02}").mkdir(parents=True)
        data = hand_in(catalogue, LESSON, {SUM: answer, MEAN: RIGHT_MEAN}, end=f"NUMBER = {number}")
        (folder / f"learner{number:02}" / "01_plain.ipynb").write_bytes(data)
    return find_submissions(folder, catalogue.lesson(LESSON))


def test_a_cluster_gives_what_one_machine_gives_and_loses_nothing_with_a_worker(spec: str, cluster, tmp_path: Path):
    """kill -9 of a worker. GRADER_KILLS (default 1) sets how often."""
    from grader.cohort.dask_cluster import grade_on_cluster

    catalogue = find_course(spec)
    handed = cohort(catalogue, tmp_path / "in", 12)
    with Grader(LESSON, seed=3, catalogue=catalogue) as grader:
        wanted = grade_all(grader, handed, ResultStore(tmp_path / "alone", LESSON), workers=2)
    chance = random.Random("worker")
    address = cluster.scheduler_address
    for number in range(int(os.environ.get("GRADER_KILLS", "1"))):
        seen: list[Graded] = []
        deadly = chance.randint(1, 8)

        def done(each: Graded, seen: list[Graded] = seen, deadly: int = deadly) -> None:
            seen.append(each)
            if len(seen) == deadly:
                time.sleep(chance.random() * 0.05)
                victim = chance.choice(list(cluster.workers.values())).pid
                if victim:
                    os.kill(victim, signal.SIGKILL)

        store = ResultStore(tmp_path / f"cluster{number}", LESSON)
        results = grade_on_cluster(address, catalogue, LESSON, handed, store, seed=3, course=spec, on_done=done)
        assert [each.verdict for each in results] == [each.verdict for each in wanted]
        assert sorted(each.result.learner for each in seen) == [each.learner for each in handed]  # each once
    seen.clear()
    again = grade_on_cluster(address, catalogue, LESSON, handed, store, seed=3, course=spec, on_done=seen.append)
    assert again == results and all(each.kept for each in seen)


def test_a_cluster_that_is_not_there_is_named(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from grader.cohort.dask_cluster import ClusterError, grade_on_cluster

    monkeypatch.setattr("grader.cohort.dask_cluster.CONNECT_SECONDS", 1)
    store = ResultStore(tmp_path, LESSON)
    with pytest.raises(ClusterError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        grade_on_cluster("tcp://127.0.0.1:9", find_course(spec), LESSON, [], store, seed=1)


def test_workers_with_another_course_are_refused(spec: str, cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from grader.cohort import dask_cluster

    catalogue = find_course(spec)
    handed = cohort(catalogue, tmp_path / "in", 1)
    monkeypatch.setattr(dask_cluster, "checks_version", lambda *_: "another")
    with pytest.raises(dask_cluster.ClusterError, match="install the same course on every worker"):
        store = ResultStore(tmp_path / "out", LESSON)
        address = cluster.scheduler_address
        dask_cluster.grade_on_cluster(address, catalogue, LESSON, handed, store, seed=3, course=spec)
