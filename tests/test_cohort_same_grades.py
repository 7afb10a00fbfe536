"""One submission, one grade: with one worker, with two, on a Dask cluster, and, for honest code, at the desk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from attacks import ATTACKS, RIGHT, RIGHT_MEAN, SELF_HARM, WRONG
from submissions import cell_of, code_cell, hand_in
from tiny_courses import copy_course

from grader.catalogue import Catalogue, find_course
from grader.cohort.collect import Handed, find_submissions
from grader.cohort.grading import Grader
from grader.cohort.result import SubmissionResult
from grader.cohort.run import grade_all
from grader.cohort.store import ResultStore
from grader.live import check_answer
from grader.sandbox.isolation import Limits
from grader.source import answer_source

LESSON = "l01_plain"
SUM, MEAN = "l01-scaled-sum", "l01-running-mean"
LIMITS = Limits(memory_bytes=512 * 2**20, scratch_bytes=32 * 2**20)
BY_HELPER = "def scaled_sum(base, update, scale):\n    return base + times(scale, update)\n"
TIMES = "def times(a, b):\n    return a * b\n"


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("course")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        # Attacks that never end are stopped sooner.
        patch.setattr("grader.exercise.SHORTEST_LIMIT_SECONDS", 1.5)
        patch.setattr("grader.exercise.LIMIT_FACTOR", 0)
        patch.setattr("grader.cohort.session.GRACE_SECONDS", 1.0)
        yield copy_course(folder, name="tiny_for_same_grades")


@pytest.fixture(scope="module")
def catalogue(spec: str) -> Catalogue:
    return find_course(spec)


def notebooks(catalogue: Catalogue) -> dict[str, bytes]:
    """Every attack, every answer that the course knows, and honest and damaged notebooks; by learner."""
    exercises = [exercise for _, exercise in catalogue.exercises(catalogue.lesson(LESSON))]
    found: dict[str, bytes] = {}
    for number, (answer, top) in enumerate([*ATTACKS.values(), *SELF_HARM.values()]):
        found[f"attack{number:02}"] = hand_in(catalogue, LESSON, {SUM: answer, MEAN: RIGHT_MEAN}, top=top)
    for exercise in exercises:
        for name in ("", *exercise.alternatives, *exercise.misconceptions):
            answer = answer_source(exercise, name)
            found[f"known.{exercise.file_stem}.{name or 'reference'}"] = hand_in(
                catalogue, LESSON, {exercise.id: answer}
            )
    right = hand_in(catalogue, LESSON, {SUM: RIGHT, MEAN: RIGHT_MEAN})
    found["untouched"] = hand_in(catalogue, LESSON, {})
    found["helper_after"] = hand_in(catalogue, LESSON, {SUM: BY_HELPER, MEAN: RIGHT_MEAN}, end=TIMES)
    found["helper_before"] = hand_in(catalogue, LESSON, {SUM: BY_HELPER, MEAN: RIGHT_MEAN}, top=TIMES)
    found["raises"] = hand_in(catalogue, LESSON, {SUM: WRONG, MEAN: "1 / 0\n" + RIGHT_MEAN}, end="1 / 0")
    reordered = json.loads(right)
    reordered["cells"].reverse()
    moved = json.loads(right)
    moved["cells"].remove(cell_of(moved, SUM))
    moved["cells"].append(code_cell(RIGHT))
    doubled = json.loads(right)
    doubled["cells"] += [{**cell_of(doubled, SUM), "id": "copy", "source": WRONG}]
    for name, notebook in {"reordered": reordered, "moved": moved, "doubled": doubled}.items():
        found[name] = json.dumps(notebook).encode()
    found |= {"cut": right[: len(right) // 2], "binary": bytes(range(256)) * 9, "empty": b"", "list": b"[]"}
    return found


def hand_all_in(catalogue: Catalogue, folder: Path) -> list[Handed]:
    for learner, data in notebooks(catalogue).items():
        (folder / learner).mkdir(parents=True)
        (folder / learner / "01_plain.ipynb").write_bytes(data)
    return find_submissions(folder, catalogue.lesson(LESSON))


def grades(result: SubmissionResult) -> list[tuple[str, float]]:
    return [(each.exercise_id, each.points) for each in result.results]


@pytest.mark.slow
def test_every_fixture_gets_one_grade_however_it_is_graded(spec: str, catalogue: Catalogue, tmp_path: Path):
    from distributed import LocalCluster

    from grader.cohort.dask_cluster import grade_on_cluster

    handed = hand_all_in(catalogue, tmp_path / "in")
    assert len(handed) > 50
    with Grader(LESSON, seed=5, catalogue=catalogue, limits=LIMITS) as grader:
        one = grade_all(grader, handed, ResultStore(tmp_path / "one", LESSON), workers=1)
        two = grade_all(grader, handed[::-1], ResultStore(tmp_path / "two", LESSON), workers=2)[::-1]
    # Workers in this process, so that they know of the shorter limits; worker processes have a test of their own.
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        store = ResultStore(tmp_path / "dask", LESSON)
        address = cluster.scheduler_address
        dask = grade_on_cluster(address, catalogue, LESSON, handed, store, seed=5, course=spec, limits=LIMITS)
    for first, second, third in zip(one, two, dask, strict=True):
        if first.learner.startswith("attack"):  # How a process died is worded by which limit it met first.
            assert grades(first) == grades(second) == grades(third), first.learner
        else:
            assert first.verdict == second.verdict == third.verdict, first.learner
    points = {each.learner: each.points for each in one}
    assert {points[learner] for learner in points if learner.startswith("attack")} <= {0, 2}
    assert all(points[name] == 5 for name in ("helper_after", "helper_before", "reordered", "moved"))


def test_an_official_run_on_the_public_cases_says_what_the_live_check_says(catalogue: Catalogue):
    """What an honest learner sees at the desk. Attacks are left out: there they run in the learner's own process."""
    honest = {name: data for name, data in notebooks(catalogue).items() if not name.startswith("attack")}
    exercises = [exercise for _, exercise in catalogue.exercises(catalogue.lesson(LESSON))]
    compared = 0
    with Grader(LESSON, seed=None, catalogue=catalogue) as grader:
        for name, data in honest.items():
            official = {each.exercise_id: each for each in grader.grade(data).results}
            names = run_at_the_desk(data)
            for exercise in exercises:
                if exercise.answer_name not in names or official[exercise.id].status == "todo":
                    continue
                live = check_answer(exercise, names[exercise.answer_name])
                found = official[exercise.id]
                assert (found.status, found.points, found.message, found.hint, found.misconception) == (
                    live.status,
                    live.points,
                    live.message,
                    live.hint,
                    live.misconception,
                ), (name, exercise.id)
                compared += 1
    assert compared >= 20


def run_at_the_desk(data: bytes) -> dict:
    """The learner's cells, run top to bottom as a kernel would, again as long as more of them succeed."""
    try:
        cells = json.loads(data)["cells"]
    except (ValueError, TypeError):
        return {}
    sources = [cell["source"] for cell in cells if cell["cell_type"] == "code" and "check(" not in cell["source"]]
    names: dict = {}
    for _ in range(2):
        for source in sources:
            try:
                exec(source, names)
            except Exception:
                continue
    return names
