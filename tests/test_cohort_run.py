"""`grader grade`: a folder in parallel, resumable after any death, nothing lost and nothing graded twice."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from attacks import ATTACKS, RIGHT, RIGHT_MEAN, WRONG
from submissions import hand_in
from tiny_courses import copy_course, load_course

from grader.catalogue import Catalogue
from grader.cohort import grading
from grader.cohort.collect import CollectError, Handed, find_submissions
from grader.cohort.grading import Grader, WeakIsolationError
from grader.cohort.result import SubmissionResult
from grader.cohort.run import Graded, grade_all
from grader.cohort.session import Session
from grader.cohort.store import ResultStore, StoreError
from grader.cohort.submission import Submission
from grader.cohort.warm_parent import WarmParent, WarmParentError
from grader.exercise import Exercise
from grader.sandbox.isolation import NONE

LESSON = "l01_plain"
SUM, MEAN = "l01-scaled-sum", "l01-running-mean"
KINDS = (
    {SUM: RIGHT, MEAN: RIGHT_MEAN},
    {SUM: WRONG},
    {},
    {SUM: ATTACKS["A16 B9 os._exit in the answer"][0], MEAN: RIGHT_MEAN},
    {SUM: "def scaled_sum(base, update, scale):\n    return scale * base + update\n"},
)


@pytest.fixture(scope="module")
def course_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("course")


@pytest.fixture(scope="module")
def catalogue(course_folder: Path) -> Catalogue:
    return load_course(course_folder)


@pytest.fixture(scope="module")
def grader(catalogue: Catalogue):
    with Grader(LESSON, seed=11, catalogue=catalogue) as grader:
        yield grader


def cohort(catalogue: Catalogue, folder: Path, count: int) -> list[Handed]:
    for number in range(count):
        path = folder / f"learner{number:02}" / "01_plain.ipynb"
        path.parent.mkdir(parents=True)
        path.write_bytes(hand_in(catalogue, LESSON, KINDS[number % len(KINDS)], end=f"NUMBER = {number}"))
    return find_submissions(folder, catalogue.lesson(LESSON))


def verdicts(results: list[SubmissionResult]) -> dict[str, tuple]:
    return {result.learner: result.verdict for result in results}


def command(course_folder: Path, *arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "grader.cli", "grade", *map(str, arguments), "--lesson", "01_plain"]


def environment(course_folder: Path, spec: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(course_folder), "GRADER_COURSE": spec, "COLUMNS": "200"}


@pytest.fixture(scope="module")
def spec(course_folder: Path) -> str:
    return copy_course(course_folder, name="tiny_for_commands")


def test_one_worker_and_two_give_the_same(grader: Grader, catalogue: Catalogue, tmp_path: Path):
    handed = cohort(catalogue, tmp_path / "in", 10)
    one = grade_all(grader, handed, ResultStore(tmp_path / "one", LESSON), workers=1)
    two = grade_all(grader, list(reversed(handed)), ResultStore(tmp_path / "two", LESSON), workers=2)
    assert verdicts(one) == verdicts(two)
    assert [result.points for result in one[:5]] == [5, 0, 0, 2, 0]


def test_what_is_unchanged_is_not_graded_again(grader: Grader, catalogue: Catalogue, tmp_path: Path):
    handed = cohort(catalogue, tmp_path / "in", 4)
    store = ResultStore(tmp_path / "out", LESSON)
    grade_all(grader, handed, store, workers=2)
    handed[1].path.write_bytes(hand_in(catalogue, LESSON, {SUM: RIGHT}))
    seen: list[Graded] = []
    results = grade_all(grader, handed, store, workers=2, on_done=seen.append)
    assert {each.result.learner for each in seen if not each.kept} == {"learner01"}
    assert results[1].points == 3
    assert grade_all(grader, handed, store, workers=1) == results


def test_a_changed_seed_grades_everything_anew(grader: Grader, catalogue: Catalogue, tmp_path: Path):
    handed = cohort(catalogue, tmp_path / "in", 2)
    store = ResultStore(tmp_path / "out", LESSON)
    grade_all(grader, handed, store, workers=1)
    with Grader(LESSON, seed=12, catalogue=catalogue) as other:
        seen: list[Graded] = []
        grade_all(other, handed, store, workers=1, on_done=seen.append)
    assert not any(each.kept for each in seen)


def test_a_damaged_result_is_graded_again(grader: Grader, catalogue: Catalogue, tmp_path: Path):
    handed = cohort(catalogue, tmp_path / "in", 1)
    store = ResultStore(tmp_path / "out", LESSON)
    (result,) = grade_all(grader, handed, store, workers=1)
    store.path("learner00").write_text('{"learner": "lear')
    assert verdicts(grade_all(grader, handed, store, workers=1)) == verdicts([result])


def test_a_full_disk_stops_with_advice_and_keeps_what_was_saved(
    grader: Grader, catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    handed = cohort(catalogue, tmp_path / "in", 3)
    store = ResultStore(tmp_path / "out", LESSON)
    saved = []

    def disk_full_after_one(path: Path, text: str) -> None:
        if saved:
            raise OSError(28, "No space left on device")
        saved.append(path)
        path.write_text(text)

    monkeypatch.setattr("grader.cohort.store.write_atomically", disk_full_after_one)
    with pytest.raises(StoreError, match="Make room and run the same command again"):
        grade_all(grader, handed, store, workers=1)
    monkeypatch.undo()
    seen: list[Graded] = []
    grade_all(grader, handed, store, workers=1, on_done=seen.append)
    assert sum(each.kept for each in seen) == 1


def test_a_host_without_isolation_is_refused_unless_told(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch):
    original = WarmParent.wait_until_ready

    def weak(self: WarmParent, *given):
        original(self, *given)
        return NONE

    monkeypatch.setattr(WarmParent, "wait_until_ready", weak)
    with pytest.raises(WeakIsolationError, match=r"isolation: none.*--allow-weak-isolation"):
        Grader(LESSON, seed=0, catalogue=catalogue)
    with Grader(LESSON, seed=0, catalogue=catalogue, allow_weak=True) as grader:
        assert str(grader.isolation) == "none"


def test_a_warm_parent_that_dies_under_two_threads_costs_nobody_anything(catalogue: Catalogue):
    data = hand_in(catalogue, LESSON, KINDS[0])
    with Grader(LESSON, seed=1, catalogue=catalogue) as grader, ThreadPoolExecutor(2) as pool:
        for delay_seconds in (0.0, 0.02, 0.05, 0.1):
            assert grader.parent is not None
            threading.Timer(delay_seconds, grader.parent.process.kill).start()
            assert [each.points for each in pool.map(lambda _: grader.grade(data), range(8))] == [5] * 8


def test_a_child_that_cannot_be_confined_is_our_fault_and_tried_again_by_the_next_run(
    catalogue: Catalogue, tmp_path: Path
):
    handed = cohort(catalogue, tmp_path / "in", 1)
    store = ResultStore(tmp_path / "out", LESSON)
    with Grader(LESSON, seed=1, catalogue=catalogue) as grader:
        scratch = grader.folder / "scratch"
        scratch.rmdir()  # Nothing can be mounted there now.
        (result,) = grade_all(grader, handed, store, workers=1)
        assert {each.status for each in result.results} == {"broken"} and result.max_points == 0
        assert "did not get ready: KernelRefusedError: [Errno 2] mount" in result.problem
        scratch.mkdir()
        (again,) = grade_all(grader, handed, store, workers=1)
        assert (again.points, again.problem) == (5, "")


def test_a_notebook_under_which_the_warm_parent_keeps_dying_costs_the_others_nothing(
    catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    handed = cohort(catalogue, tmp_path / "in", 3)
    deadly = handed[1].read()
    with Grader(LESSON, seed=1, catalogue=catalogue) as grader:
        make_session = grader._session

        def session(parent: WarmParent, submission: Submission) -> Session:
            if submission.sha256 == hashlib.sha256(deadly).hexdigest():
                parent.process.kill()
            return make_session(parent, submission)

        monkeypatch.setattr(grader, "_session", session)
        results = grade_all(grader, handed, ResultStore(tmp_path / "out", LESSON), workers=1)
    assert [each.points for each in results] == [5, 0, 0]
    assert {each.status for each in results[1].results} == {"broken"} and results[2].max_points == 5
    assert "so it went 3 times under this notebook" in results[1].problem


def test_answers_among_the_packages_are_refused(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch):
    folder = str(catalogue.lessons_folder.parent.parent)
    monkeypatch.setattr("grader.cohort.grading.interpreter_folders", lambda: [folder])
    with pytest.raises(WeakIsolationError, match="pip install --editable"):
        Grader(LESSON, seed=0, catalogue=catalogue)


@pytest.mark.parametrize("where", ["judge", "read_submission"])
def test_a_fault_of_ours_under_one_notebook_costs_the_others_nothing(
    grader: Grader, catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
):
    original = getattr(grading, where)

    def faulty(*given, **more):
        if threading.current_thread().name == "learner01":
            raise RuntimeError("boom")
        return original(*given, **more)

    grade = grader.grade

    def named(data: bytes, learner: str = "") -> SubmissionResult:
        threading.current_thread().name = learner
        return grade(data, learner)

    monkeypatch.setattr(grading, where, faulty)
    monkeypatch.setattr(grader, "grade", named)
    handed = cohort(catalogue, tmp_path / "in", 4)
    results = grade_all(grader, handed, ResultStore(tmp_path / "out", LESSON), workers=2)
    assert [each.points for each in results] == [5, 0, 0, 2]
    assert results[1].results[0].status == "broken"
    told = results[1].problem if where == "read_submission" else results[1].results[0].message
    assert "a fault of the grader, RuntimeError: boom" in told
    monkeypatch.undo()
    again = grade_all(grader, handed, ResultStore(tmp_path / "out", LESSON), workers=1)
    assert "broken" not in {each.status for each in again[1].results}


def test_a_fault_of_ours_in_judging_one_exercise_costs_that_one_alone(
    grader: Grader, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
):
    def faulty(exercise: Exercise, *given, **more):
        if exercise.id == grader.manifest.exercises[0].id:
            raise RuntimeError("boom")
        return judge(exercise, *given, **more)

    judge = grading.judge
    monkeypatch.setattr(grading, "judge", faulty)
    first, *others = grader.grade(hand_in(catalogue, LESSON, KINDS[0])).results
    assert (first.status, [each.status for each in others]) == ("broken", ["passed"] * len(others))
    assert others and "not yours, and costs you nothing" in first.message


def test_a_warm_parent_that_cannot_be_replaced_stops_the_run(
    grader: Grader, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
):
    def dead(*_):
        raise WarmParentError("gone for good")

    monkeypatch.setattr(grader, "_grade", dead)
    monkeypatch.setattr(grader, "_replace_parent", dead)
    with pytest.raises(WarmParentError, match="gone for good"):
        grader.grade(hand_in(catalogue, LESSON, {}))


def test_a_learner_handed_in_twice_is_refused(catalogue: Catalogue, tmp_path: Path):
    (tmp_path / "ada").mkdir()
    for path in ("ada/01_plain.ipynb", "ada.ipynb", "bob.ipynb"):
        (tmp_path / path).write_text("{}")
    with pytest.raises(
        CollectError, match=r"ada\.ipynb and .*ada/01_plain\.ipynb|ada/01_plain\.ipynb and .*ada\.ipynb"
    ):
        find_submissions(tmp_path, catalogue.lesson(LESSON))


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t"])
def test_the_table_holds_no_formulas(grader: Grader, tmp_path: Path, start: str):
    text = f"{start}HYPERLINK(1)"
    result = dataclasses.replace(grader.grade(b"", text), problem=text)
    table = ResultStore(tmp_path, LESSON).write_table([result])
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {(row["learner"], row["problem"]) for row in rows} == {(f"'{text}", f"'{text}")}


def test_submissions_are_found_in_every_layout(catalogue: Catalogue, tmp_path: Path):
    lesson = catalogue.lesson(LESSON)
    for path in ("ada/01_plain.ipynb", "bob/01_plain/01_plain.ipynb", "eve.ipynb", "zoe/my copy (1).ipynb"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("{}")
    (tmp_path / "two").mkdir()
    for name in ("a.ipynb", "b.ipynb"):
        (tmp_path / "two" / name).write_text("{}")
    (tmp_path / "link.ipynb").symlink_to(tmp_path / "eve.ipynb")
    (tmp_path / "..odd\n.ipynb").write_text("{}")
    assert [handed.learner for handed in find_submissions(tmp_path, lesson)] == ["ada", "bob", "eve", "zoe"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(CollectError, match=r"looked for LEARNER/01_plain\.ipynb"):
        find_submissions(tmp_path / "empty", lesson)
    with pytest.raises(CollectError, match="is no folder"):
        find_submissions(tmp_path / "absent", lesson)


def test_a_file_that_cannot_be_opened_costs_only_itself(grader: Grader, catalogue: Catalogue, tmp_path: Path):
    handed = cohort(catalogue, tmp_path / "in", 2)
    pipe = tmp_path / "in" / "pipe.ipynb"
    os.mkfifo(pipe)
    link = tmp_path / "in" / "link.ipynb"
    link.symlink_to("/etc/passwd")
    bad = [Handed("pipe", pipe), Handed("link", link), Handed("gone", tmp_path / "gone.ipynb")]
    results = grade_all(grader, [*bad, *handed], ResultStore(tmp_path / "out", LESSON), workers=2)
    assert all("cannot be read" in result.problem for result in results[:3])
    assert results[3].points == 5


def test_the_secret_seed_is_made_once_and_kept_private(tmp_path: Path):
    first = ResultStore(tmp_path, LESSON).seed()
    assert ResultStore(tmp_path, LESSON).seed() == first
    assert (tmp_path / "seed").stat().st_mode & 0o777 == 0o600
    (tmp_path / "seed").write_text("what")
    with pytest.raises(StoreError, match="holds 'what', which is no seed"):
        ResultStore(tmp_path, LESSON).seed()


@pytest.mark.slow
def test_the_command_reports_and_writes_scores(catalogue: Catalogue, course_folder: Path, spec: str, tmp_path: Path):
    cohort(catalogue, tmp_path / "in", 5)
    (tmp_path / "in" / "noise.ipynb").write_bytes(b"\x00\x01" * 100)
    done = subprocess.run(
        command(course_folder, tmp_path / "in", "--out", tmp_path / "out"),
        env=environment(course_folder, spec),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "isolation: " in done.stdout and "scale_forgotten" in done.stdout
    assert "noise: the file is " in done.stdout
    with (tmp_path / "out" / LESSON / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert sum(float(row["points"]) for row in rows if row["learner"] == "learner00") == 5
    (tmp_path / "empty").mkdir()
    empty = subprocess.run(
        command(course_folder, tmp_path / "empty", "--out", tmp_path / "none"),
        env=environment(course_folder, spec),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert empty.returncode == 1 and "holds no submission" in empty.stderr


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["grader", "warm parent", "a child"])
def test_killed_at_any_moment_the_next_run_ends_with_the_same_results(
    catalogue: Catalogue, course_folder: Path, spec: str, tmp_path: Path, victim: str
):
    """kill -9. GRADER_KILLS (default 1) sets how often each."""
    handed = cohort(catalogue, tmp_path / "in", 12)
    arguments = command(course_folder, tmp_path / "in", "--seed", "11")
    wanted = _finished(arguments, tmp_path / "undisturbed", course_folder, spec)
    assert len(wanted) == len(handed)
    chance = random.Random(victim)
    for number in range(int(os.environ.get("GRADER_KILLS", "1"))):
        out = tmp_path / f"out{number}"
        running = subprocess.Popen(
            [*arguments, "--out", str(out)],
            env=environment(course_folder, spec),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _kill(running, victim, out, chance)
        running.wait(60)
        for path in (out / LESSON).glob("learner*.json"):  # Whatever stands there is whole.
            SubmissionResult.from_dict(json.loads(path.read_text()))
        assert _finished(arguments, out, course_folder, spec) == wanted
        assert not [path for path in (out / LESSON).iterdir() if path.name.startswith(".")] or victim == "grader"


def _finished(arguments: list[str], out: Path, course_folder: Path, spec: str) -> dict[str, tuple]:
    done = subprocess.run(
        [*arguments, "--out", str(out)],
        env=environment(course_folder, spec),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = [json.loads(path.read_text()) for path in sorted((out / LESSON).glob("*.json"))]
    return verdicts([SubmissionResult.from_dict(result) for result in results])


def _kill(running: subprocess.Popen, victim: str, out: Path, chance: random.Random) -> None:
    """Once the first results are there, or at a random moment of the start."""
    if chance.random() < 0.7:
        while running.poll() is None and not list(out.glob("*/learner*.json")):
            time.sleep(0.002)
        time.sleep(chance.random() * 0.15)
    else:
        time.sleep(chance.random() * 1.5)
    target = running.pid
    if victim != "grader":
        target = next(iter(_children(running.pid)), 0)
    if victim == "a child" and target:
        target = next(iter(_children(target)), 0)
    if target and running.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(target, signal.SIGKILL)


def _children(process: int) -> list[int]:
    try:
        text = Path(f"/proc/{process}/task/{process}/children").read_text()
    except OSError:
        return []
    return [int(number) for number in text.split()]
