"""A disk that fills up, a gradebook held by another process, a writer that is killed: told, and nothing is lost."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn

import nbformat
import pytest
from attacks import RIGHT, RIGHT_MEAN, WRONG
from rich.console import Console
from small_disks import filled, on_a_small_disk, small_disk
from submissions import hand_in
from tiny_courses import load_course

from grader.catalogue import Catalogue
from grader.cohort.collect import Handed, find_submissions
from grader.cohort.command import grade_folder
from grader.cohort.grading import Grader
from grader.cohort.result import SubmissionResult
from grader.cohort.run import Graded, grade_all
from grader.cohort.store import ResultStore, StoreError
from grader.nbgrader_course import make_course, open_course
from grader.nbgrader_gradebook import CourseFolderError
from grader.nbgrader_grades import CourseGrades, grade_course

LESSON, NAME = "l01_plain", "01_plain"
SUM, MEAN = "l01-scaled-sum", "l01-running-mean"
ANSWERS = ({SUM: RIGHT, MEAN: RIGHT_MEAN}, {SUM: WRONG, MEAN: RIGHT_MEAN}, {SUM: RIGHT}, {})
SEED = 11


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    return load_course(tmp_path_factory.mktemp("lessons"))


@pytest.fixture(scope="module")
def grader(catalogue: Catalogue) -> Iterator[Grader]:
    with Grader(LESSON, seed=SEED, catalogue=catalogue) as grader:
        yield grader


def cohort(catalogue: Catalogue, folder: Path, count: int) -> list[Handed]:
    for number in range(count):
        path = folder / f"learner{number:02}" / NAME / f"{NAME}.ipynb"
        path.parent.mkdir(parents=True)
        path.write_bytes(hand_in(catalogue, LESSON, ANSWERS[number % 4], end=f"NUMBER = {number}"))
    return find_submissions(folder, catalogue.lesson(LESSON))


def verdicts(results: list[SubmissionResult]) -> dict[str, tuple]:
    return {result.learner: result.verdict for result in results}


@on_a_small_disk
def test_a_disk_that_fills_while_grading_stops_the_run_and_the_next_one_goes_on(
    grader: Grader, catalogue: Catalogue, tmp_path: Path
):
    handed = cohort(catalogue, tmp_path / "in", 12)
    undisturbed = ResultStore(tmp_path / "out", LESSON)
    wanted = grade_all(grader, handed, undisturbed, workers=2)
    undisturbed.write_table(wanted)
    with small_disk(tmp_path / "disk", "1m") as disk:
        store = ResultStore(disk, LESSON)
        with filled(disk, but_bytes=24 * 1024), pytest.raises(StoreError) as told:
            grade_all(grader, handed, store, workers=2)
        assert "No space left on device. Make room and run the same command again" in str(told.value).replace("'", "")
        kept = {path.stem: SubmissionResult.from_dict(json.loads(path.read_text())) for path in store.folder.iterdir()}
        assert 0 < len(kept) < 12  # And every file there is whole: it has just been read.
        seen: list[Graded] = []
        results = grade_all(grader, handed, store, workers=2, on_done=seen.append)
        assert {each.result.learner for each in seen if each.kept} == set(kept)
        assert verdicts(results) == verdicts(wanted)
        store.write_table(results)
        assert points_of_table(store) == points_of_table(undisturbed)


def points_of_table(store: ResultStore) -> list[list[str]]:
    return [line.split(",")[:7] for line in (store.folder / "scores.csv").read_text().splitlines()]


@on_a_small_disk
@pytest.mark.parametrize("last", ["seed", "table", "folder"])
def test_the_command_tells_a_full_disk_in_one_sentence_wherever_it_happens(
    catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str
):
    """At the first file of a run, at its last, and in the folder for temporary files."""
    cohort(catalogue, tmp_path / "in", 1)
    with small_disk(tmp_path / "disk", "1m") as disk:
        command = Command(catalogue, tmp_path / "in", tmp_path / "out" if last == "folder" else disk)
        if last == "folder":
            monkeypatch.setattr("tempfile.tempdir", str(disk))
        if last == "table":
            command.run()
            (disk / LESSON / "scores.csv").unlink()
        with filled(disk):
            told = command.run_and_fail()
        assert "No space left on device" in told and "ake room" in told
        assert not list(disk.glob("**/.*")), "half-written files are taken away"
        command.run()
    if last == "seed":
        assert command.told[0].startswith("the seed cannot be kept in")


class Command:
    """`grader grade`, called as its command line calls it."""

    def __init__(self, catalogue: Catalogue, submissions: Path, out: Path) -> None:
        self.catalogue, self.submissions, self.folder = catalogue, submissions, out
        self.told: list[str] = []

    def run(self) -> None:
        def fail(message: str) -> NoReturn:
            self.told.append(message)
            raise SystemExit(1)

        grade_folder(
            self.catalogue,
            LESSON,
            self.submissions,
            self.folder,
            workers=1,
            scheduler=None,
            course=None,
            seed=None,
            memory_bytes=2**30,
            allow_weak=False,
            apply=False,
            out=Console(quiet=True),
            fail=fail,
        )

    def run_and_fail(self) -> str:
        with pytest.raises(SystemExit):
            self.run()
        return self.told[-1]


def test_a_seed_of_a_killed_run_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Killed at the worst moment: the seed is drawn and not yet in its place."""

    def killed(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    store = ResultStore(tmp_path, LESSON)
    monkeypatch.setattr("os.link", killed)
    with pytest.raises(KeyboardInterrupt):
        store.seed()
    monkeypatch.undo()
    assert not (tmp_path / "seed").exists()
    assert store.seed() == store.seed() == ResultStore(tmp_path, LESSON).seed()


@pytest.fixture(scope="module")
def made(catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "course"
    make_course(catalogue, folder, [NAME])
    cohort(catalogue, folder / "submitted", 6)
    return folder


@pytest.fixture(scope="module")
def undisturbed(catalogue: Catalogue, made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(made, tmp_path_factory.mktemp("undisturbed") / "course"))
    grade(catalogue, folder)
    return folder


def grade(catalogue: Catalogue, folder: Path, **options) -> CourseGrades:
    return grade_course(catalogue, folder, NAME, **{"seed": SEED, "workers": 2, **options})


def gradebook(folder: Path) -> dict[str, tuple]:
    """student -> scores and comments"""
    with open_course(folder).gradebook as book:
        found = {}
        for submission in book.assignment_submissions(NAME):
            (notebook,) = submission.notebooks
            grades = sorted((grade.name, grade.auto_score, grade.needs_manual_grade) for grade in notebook.grades)
            comments = sorted((comment.name, comment.auto_comment) for comment in notebook.comments)
            found[submission.student_id] = (submission.score, grades, comments)
        return found


def copies(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in (folder / "autograded").rglob("*.ipynb")}


@on_a_small_disk
@pytest.mark.parametrize("but_bytes", [0, 40_000, 80_000])
def test_a_disk_that_fills_while_the_gradebook_is_written_loses_nothing(
    catalogue: Catalogue, made: Path, undisturbed: Path, tmp_path: Path, but_bytes: int
):
    """The results are kept elsewhere: what runs full are the copies and the gradebook, at one student or another."""
    results = tmp_path / "results"
    with small_disk(tmp_path / "disk", "4m") as disk:
        course = Path(shutil.copytree(made, disk / "course"))
        with filled(disk, but_bytes=but_bytes), pytest.raises(CourseFolderError) as told:
            grade(catalogue, course, results_folder=results)
        assert "ake room and run the same command again" in str(told.value), told.value
        assert "[SQL" not in str(told.value)
        written, wanted = gradebook(course), gradebook(undisturbed)
        assert len(written) < 6
        assert written == {student: wanted[student] for student in written}
        for text in copies(course).values():
            nbformat.validate(nbformat.reads(text, as_version=4))
        assert not list(course.glob("autograded/**/.*")), "half-written files are taken away"
        seen: list[Graded] = []
        grade(catalogue, course, results_folder=results, on_done=seen.append)
        assert all(each.kept for each in seen)
        assert gradebook(course) == wanted
        assert copies(course) == copies(undisturbed)


HOLDS = """
import sqlite3, sys, time
book = sqlite3.connect(sys.argv[1], isolation_level=None)
book.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
time.sleep(float(sys.argv[2]))
book.execute("ROLLBACK")
"""


@contextmanager
def held(folder: Path, seconds: float) -> Iterator[None]:
    """Another process holds the gradebook for itself alone; nobody can read it either."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(folder / "gradebook.db"), str(seconds)], stdout=subprocess.PIPE
    )
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    try:
        yield
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def at_student(number: int, action: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Do it just before that student's copy is written, which comes before the scores."""
    from grader import nbgrader_grades

    original, seen = nbgrader_grades.executed_copy, []

    def copy(*rest):
        seen.append(None)
        if len(seen) == number:
            action()
        return original(*rest)

    monkeypatch.setattr(nbgrader_grades, "executed_copy", copy)


def test_a_gradebook_held_alone_while_it_is_written_is_waited_for_or_told(
    catalogue: Catalogue, made: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    course = Path(shutil.copytree(made, tmp_path / "course"))
    wanted = gradebook(undisturbed)
    with ExitStack() as stack, monkeypatch.context() as patch:
        at_student(3, lambda: stack.enter_context(held(course, 3600)), patch)
        with pytest.raises(CourseFolderError, match=r"is locked by another program.*Nothing is lost"):
            grade(catalogue, course, patience_seconds=0)
    written = gradebook(course)
    assert written == {student: wanted[student] for student in ("learner00", "learner01")}
    with ExitStack() as stack, monkeypatch.context() as patch:
        began: list[float] = []
        at_student(3, lambda: (began.append(time.monotonic()), stack.enter_context(held(course, 6))), patch)
        grade(catalogue, course)
        assert time.monotonic() - began[0] > 6
    assert gradebook(course) == wanted
    assert copies(course) == copies(undisturbed)


@pytest.mark.slow
def test_the_writer_killed_at_any_moment_leaves_nothing_that_the_next_run_does_not_complete(
    catalogue: Catalogue, made: Path, undisturbed: Path, tmp_path: Path
):
    """kill -9 while `grader grade --nbgrader` writes copies and gradebook. GRADER_KILLS (default 1) sets how often."""
    wanted, chance, interrupted = gradebook(undisturbed), random.Random("writer"), 0
    package = catalogue.course.lessons_package.partition(".")[0]
    folder_of_lessons = Path(sys.modules[package].__path__[0]).parent
    environment = {**os.environ, "GRADER_COURSE": f"{package}:COURSE"}
    environment["PYTHONPATH"] = os.pathsep.join([str(folder_of_lessons), os.environ.get("PYTHONPATH", "")])
    for number in range(int(os.environ.get("GRADER_KILLS", "1"))):
        course = Path(shutil.copytree(made, tmp_path / f"course{number}"))
        shutil.copytree(undisturbed / "grader_results", course / "grader_results")
        command = [sys.executable, "-m", "grader.cli", "grade", "--lesson", LESSON, "--seed", str(SEED)]
        command += ["--nbgrader", str(course)]
        running = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        begun = chance.randint(1, 6)
        while running.poll() is None and len(list(course.glob(f"autograded/*/{NAME}"))) < begun:
            time.sleep(0.0005)
        time.sleep(chance.random() * 0.03)
        running.kill()
        running.wait(60)
        written = gradebook(course)
        interrupted += len(written) < 6
        assert written == {student: wanted[student] for student in written}
        for text in copies(course).values():
            nbformat.validate(nbformat.reads(text, as_version=4))
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        assert gradebook(course) == wanted
        assert copies(course) == copies(undisturbed)
    assert interrupted, "no run was caught while it was writing"
