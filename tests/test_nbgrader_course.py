"""The nbgrader adapter: a course folder made from lessons, graded by us, and shown by nbgrader's own tools."""

from __future__ import annotations

import io
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from attacks import RIGHT, RIGHT_MEAN, WRONG
from rich.console import Console
from submissions import cell_of, hand_in, released
from tiny_courses import copy_course, load_course

from grader.catalogue import Catalogue
from grader.cohort.regrade import Change
from grader.cohort.result import SubmissionResult
from grader.cohort.run import Graded
from grader.nbgrader_command import grade_nbgrader
from grader.nbgrader_copy import executed_copy
from grader.nbgrader_course import differences, make_course, open_course
from grader.nbgrader_gradebook import CourseFolderError, GradedCell
from grader.nbgrader_grades import CourseGrades, grade_course

LESSON, NAME = "l01_plain", "01_plain"
SUM, MEAN = "l01-scaled-sum", "l01-running-mean"
HINT = "The scale has no effect on your result: where does it come in?"
PARTLY = "def scaled_sum(base, update, scale):\n    return base + abs(scale) * update\n"
WARNS = """
import sys
import warnings

def scaled_sum(base, update, scale):
    warnings.warn("careful")
    print("to stderr", file=sys.stderr)
    return base + scale * update
"""
HONEST = {
    "right": {SUM: RIGHT, MEAN: RIGHT_MEAN},
    "wrong": {SUM: WRONG, MEAN: RIGHT_MEAN},
    "partly": {SUM: PARTLY},
    "untouched": {},
    "warns": {SUM: WARNS, MEAN: RIGHT_MEAN},
}
SCORES = {"right": 5, "wrong": 2, "partly": 1, "untouched": 0, "warns": 5}


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    return load_course(tmp_path_factory.mktemp("lessons"))


@pytest.fixture(scope="module")
def made(catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh course folder with nothing handed in; tests copy it."""
    folder = tmp_path_factory.mktemp("made") / "tiny course"
    assert [each.state for each in make_course(catalogue, folder)] == ["made", "made"]
    return folder


@pytest.fixture(scope="module")
def graded(catalogue: Catalogue, made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The honest submissions, graded; tests that change it copy it."""
    folder = Path(shutil.copytree(made, tmp_path_factory.mktemp("graded") / "course"))
    for student, answers in HONEST.items():
        submit(folder, student, hand_in(catalogue, LESSON, answers))
    (folder / "submitted" / "right" / NAME / "timestamp.txt").write_text("2026-11-23 10:00:00.123456 UTC")
    grade(catalogue, folder)
    return folder


@pytest.fixture
def course(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "course"))


@pytest.fixture
def done(graded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(graded, tmp_path / "done"))


def submit(folder: Path, student: str, data: bytes, name: str = f"{NAME}.ipynb") -> Path:
    path = folder / "submitted" / student / NAME / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def grade(catalogue: Catalogue, folder: Path, **options) -> CourseGrades:
    return grade_course(catalogue, folder, NAME, **{"seed": 11, "workers": 2, **options})


def scores(folder: Path) -> dict[str, float]:
    with open_course(folder).gradebook as gradebook:
        return {each.student_id: each.score for each in gradebook.assignment_submissions(NAME)}


def grades_and_comments(folder: Path, student: str) -> dict[str, tuple]:
    """exercise -> (automatic score, needs a hand, comment shown)"""
    with open_course(folder).gradebook as gradebook:
        found = {}
        for exercise in (SUM, MEAN):
            grade = gradebook.find_grade(f"{exercise}-check", NAME, NAME, student)
            comment = gradebook.find_comment(exercise, NAME, NAME, student)
            found[exercise] = (grade.auto_score, grade.needs_manual_grade, comment.comment)
        return found


def executed(folder: Path, student: str) -> nbformat.NotebookNode:
    notebook = nbformat.read(folder / "autograded" / student / NAME / f"{NAME}.ipynb", as_version=4)
    nbformat.validate(notebook)
    return notebook


def grade_ids(notebook: nbformat.NotebookNode) -> list[str]:
    return [cell.metadata.nbgrader.grade_id for cell in notebook.cells if "nbgrader" in cell.metadata]


def everything(folder: Path) -> dict[str, object]:
    """Every file but the database, with its time of change, and all that the database says."""
    files: dict[str, object] = {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".db", ".csv")
    }
    with sqlite3.connect(folder / "gradebook.db") as database:
        return files | {"gradebook": list(database.iterdump())}


def test_a_course_folder_is_made_and_released_as_it_was_built(catalogue: Catalogue, made: Path):
    release = nbformat.read(made / "release" / NAME / f"{NAME}.ipynb", as_version=4)
    ours = released(catalogue, LESSON)["cells"]
    assert [(cell.id, cell.source) for cell in release.cells] == [(cell["id"], cell["source"]) for cell in ours]
    for cell in release.cells:
        extra = {"checksum": None, "cell_type": None}
        plain = {name: value for name, value in cell.metadata.get("nbgrader", {}).items() if name not in extra}
        assert plain == cell_of({"cells": ours}, cell.id)["metadata"].get("nbgrader", {})
    assert cell_of(release, f"{SUM}-check").metadata.editable is False
    assert (made / "source" / "02_torch" / "02_torch.ipynb").is_file()
    assert str(made) not in (made / "nbgrader_config.py").read_text()
    with open_course(made).gradebook as gradebook:
        assert gradebook.find_assignment(NAME).max_score == 5


def test_making_it_again_changes_nothing_and_mends_what_a_stopped_run_left(catalogue: Catalogue, course: Path):
    before = everything(course)
    assert [each.state for each in make_course(catalogue, course)] == ["unchanged", "unchanged"]
    assert everything(course) == before
    (course / "release" / NAME / f"{NAME}.ipynb").write_text("{")
    assert [each.state for each in make_course(catalogue, course, [NAME])] == ["updated"]
    assert len(executed_cells := nbformat.read(course / "release" / NAME / f"{NAME}.ipynb", 4).cells) > 5, (
        executed_cells
    )


def test_lessons_are_updated_until_someone_has_handed_in(catalogue: Catalogue, course: Path, tmp_path: Path):
    edits = {
        "points": ("l01_plain/scaled_sum.py", "points=3,", "points=4,"),
        "groups": ("l01_plain/scaled_sum.py", '"awkward": 2', '"awkward": 3'),
        "prose": ("l01_plain/lesson.py", "Two exercises.", "Two easy exercises."),
    }
    dearer = load_course(tmp_path / "a", edits["points"], edits["groups"])
    assert [each.state for each in make_course(dearer, course, [NAME])] == ["updated"]
    with open_course(course).gradebook as gradebook:
        assert gradebook.find_assignment(NAME).max_score == 6
    submit(course, "ada", hand_in(catalogue, LESSON, {}))
    before = everything(course)
    (refused,) = make_course(catalogue, course, [NAME])
    assert refused.state == "refused"
    assert "has 1 submissions" in refused.reason
    assert f"{SUM}-check was worth 4 points and is worth 3 points" in refused.reason
    assert everything(course) == before
    with pytest.raises(CourseFolderError, match=r"01_plain has changed since it was released: .* was worth 4 points"):
        grade(catalogue, course)
    reworded = load_course(tmp_path / "b", *edits.values())
    assert [each.state for each in make_course(reworded, course, [NAME])] == ["updated"]  # No score hangs on prose.
    assert "Two easy exercises." in (course / "release" / NAME / f"{NAME}.ipynb").read_text()


def test_a_change_of_cells_is_told_cell_by_cell():
    old = {"kept": GradedCell("a", None), "worded": GradedCell("a", None), "lost": GradedCell("a", 1)}
    new = {"kept": GradedCell("a", None), "worded": GradedCell("b", None), "added": GradedCell("a", 1)}
    told = ["lost is gone", "added is new", "the text of worded has changed"]
    assert differences(old, new, texts=True) == told
    assert differences(old, new, texts=False) == told[:2]


def test_folders_that_will_not_do_are_refused_with_advice(catalogue: Catalogue, course: Path, tmp_path: Path):
    with pytest.raises(CourseFolderError, match=r"it has no nbgrader_config\.py\. Make one: `grader nbgrader"):
        grade(catalogue, tmp_path)
    with pytest.raises(CourseFolderError, match=r"holds no submission of 01_plain.*nbgrader collect"):
        grade(catalogue, course)
    config = course / "nbgrader_config.py"
    config.write_text("c = get_config()\n")
    with pytest.raises(CourseFolderError, match=r"ClearSolutions.*c\.GenerateAssignment\.preprocessors = \[LockCells"):
        make_course(catalogue, course)
    config.write_text("c = what\n")
    with pytest.raises(CourseFolderError, match=r"nbgrader_config\.py cannot be read: NameError"):
        make_course(catalogue, course)


def test_scores_comments_and_copies_are_in_place(graded: Path):
    assert scores(graded) == SCORES
    assert grades_and_comments(graded, "wrong")[SUM][:2] == (0, False)
    assert f"Hint: {HINT}" in grades_and_comments(graded, "wrong")[SUM][2]
    course = open_course(graded)
    assert course.get_autograded_students(NAME) == set(HONEST)  # What formgrader's list asks.
    assert course.get_submitted_timestamp(NAME, "right").microsecond == 123456
    assert (graded / "autograded" / "right" / NAME / "timestamp.txt").read_text().startswith("2026-11-23 10:00")
    assert not (graded / "autograded" / "wrong" / NAME / "timestamp.txt").exists()
    wrong = executed(graded, "wrong")
    assert grade_ids(wrong) == [SUM, f"{SUM}-check", MEAN, f"{MEAN}-check"]
    assert cell_of(wrong, SUM).source == WRONG
    (output,) = cell_of(wrong, f"{SUM}-check").outputs
    assert HINT in output.data["text/plain"] and "grader-failed" in output.data["text/html"]


def test_a_second_run_changes_nothing(catalogue: Catalogue, done: Path):
    before = everything(done)
    seen: list[Graded] = []
    grade(catalogue, done, on_done=seen.append)
    assert everything(done) == before
    assert all(each.kept for each in seen)


def test_what_an_instructor_gave_by_hand_is_kept(catalogue: Catalogue, done: Path):
    with open_course(done).gradebook as gradebook:
        given = gradebook.find_grade(f"{SUM}-check", NAME, NAME, "wrong")
        given.manual_score, given.extra_credit = 1.5, 0.5
        gradebook.find_comment(SUM, NAME, NAME, "wrong").manual_comment = "Nearly."
        gradebook.db.commit()
    submit(done, "wrong", json.dumps(released(catalogue, LESSON)).encode())
    grade(catalogue, done)
    assert scores(done)["wrong"] == 2.0  # By hand; the other exercise is empty now.
    assert grades_and_comments(done, "wrong")[SUM] == (0, False, "Nearly.")


def test_only_what_is_broken_on_our_side_asks_for_a_hand(catalogue: Catalogue, course: Path, tmp_path: Path):
    edit = ("l01_plain/scaled_sum.py", "    contribution = scale * update\n", "    contribution = nothing\n")
    submit(course, "ada", hand_in(catalogue, LESSON, HONEST["right"]))
    broken = load_course(tmp_path, edit)
    grade(broken, course)
    found = grades_and_comments(course, "ada")
    assert found[SUM][:2] == (None, True)
    assert found[MEAN][:2] == (2, False)
    with open_course(course).gradebook as gradebook:
        given = gradebook.find_grade(f"{SUM}-check", NAME, NAME, "ada")
        given.manual_score, given.needs_manual_grade = 3.0, False
        gradebook.db.commit()
    grade(broken, course)
    assert grades_and_comments(course, "ada")[SUM][:2] == (None, False)
    assert scores(course)["ada"] == 5


def test_a_locked_gradebook_is_waited_for_and_then_told(catalogue: Catalogue, done: Path):
    submit(done, "wrong", hand_in(catalogue, LESSON, HONEST["right"]))
    holder = sqlite3.connect(done / "gradebook.db", check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(CourseFolderError, match=r"is locked by another program.*Nothing is lost.*same command again"):
        grade(catalogue, done, patience_seconds=0)
    threading.Timer(7, holder.rollback).start()  # Longer than the five seconds that SQLite waits by itself.
    began = time.monotonic()
    grade(catalogue, done)
    assert time.monotonic() - began > 5
    assert scores(done) == {**SCORES, "wrong": 5}


def test_damaged_and_unreadable_notebooks_are_listed_with_the_reason(catalogue: Catalogue, course: Path):
    right = hand_in(catalogue, LESSON, HONEST["right"])
    submit(course, "binary", b"\x00\x01" * 100)
    submit(course, "empty", b"")
    submit(course, "list", b"[1, 2]")
    submit(course, "cut", right[: int(len(right) * 0.6)])
    submit(course, "renamed", right, "my copy (1).ipynb")
    submit(course, "nothing", b"no notebook at all", "notes.txt")
    os.mkfifo(submit(course, "pipe", b"").with_name("timestamp.txt"))
    submit(course, "clock", right).with_name("timestamp.txt").write_text("yesterday-ish")
    submit(course, "nines", right).with_name("timestamp.txt").write_text(f"10h{'9' * 90}m")
    submit(course, "pages", right).with_name("timestamp.txt").write_text("1 " * 500_000)
    submit(course, "halves", hand_in(catalogue, LESSON, HONEST["right"], end='"\ud800<script>"'))
    submit(course, "cells", json.dumps({"cells": [1, {"cell_type": 5, "source": {}, "metadata": []}]}).encode())
    result = grade(catalogue, course)
    notes = "\n".join(result.notes)
    for student, reason in {
        "binary": "the file is no notebook",
        "empty": "the file is empty",
        "list": "the file is JSON but no notebook: it holds a list",
        "nothing": "the file cannot be read",
    }.items():
        assert f"{student}: {reason}" in notes
        for score, by_hand, comment in grades_and_comments(course, student).values():
            assert (score, by_hand) == (0, False)
            assert reason in comment
    found = scores(course)
    assert (found["renamed"], found["clock"], found["halves"]) == (5, 5, 5)
    assert found["cut"] == 3
    assert cell_of(executed(course, "cut"), SUM).source == RIGHT
    assert "the file is damaged" in grades_and_comments(course, "cut")[SUM][2]
    assert "clock: timestamp.txt holds no time: 'yesterday-ish'" in notes
    assert "nines: timestamp.txt holds no time: '10h999" in notes
    assert "pages: timestamp.txt cannot be read: it has over 100 bytes" in notes
    for student in found:
        assert grade_ids(executed(course, student)) == [SUM, f"{SUM}-check", MEAN, f"{MEAN}-check"]


def _deleted(notebook: dict) -> None:
    notebook["cells"] = [cell for cell in notebook["cells"] if not cell["id"].endswith("-check")]


def _all_deleted(notebook: dict) -> None:
    notebook["cells"] = [cell for cell in notebook["cells"] if not cell["id"].startswith(MEAN)]


def _duplicated(notebook: dict) -> None:
    check, answer = cell_of(notebook, f"{SUM}-check"), cell_of(notebook, SUM)
    stub = {**answer, "source": "", "id": "copy-1"}
    notebook["cells"] += [{**check}, {**check, "id": "copy-2"}, stub]


def _changed(notebook: dict) -> None:
    cell_of(notebook, f"{SUM}-check")["source"] = "3.0"
    cell_of(notebook, f"{SUM}-check")["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "passed"}]
    cell_of(notebook, f"{MEAN}-check")["metadata"]["nbgrader"] = {"grade_id": f"{MEAN}-check", "points": 100}


def _elsewhere(notebook: dict) -> None:
    cell_of(notebook, SUM).update(source="# below", id="gone", metadata={})
    notebook["cells"].append({**cell_of(notebook, MEAN), "id": "mine", "metadata": {}, "source": RIGHT})


@pytest.mark.parametrize("damage", [_deleted, _all_deleted, _duplicated, _changed, _elsewhere])
def test_check_cells_are_restored_once_and_in_place(catalogue: Catalogue, course: Path, damage: Callable[[dict], None]):
    notebook = json.loads(hand_in(catalogue, LESSON, HONEST["right"]))
    damage(notebook)
    submit(course, "ada", json.dumps(notebook).encode())
    grade(catalogue, course)
    copy = executed(course, "ada")
    assert sorted(grade_ids(copy)) == sorted([SUM, f"{SUM}-check", MEAN, f"{MEAN}-check"])
    for exercise, call in ((SUM, "check(scaled_sum)"), (MEAN, "check(RunningMean)")):
        (check,) = [
            cell
            for cell in copy.cells
            if cell.metadata.get("nbgrader", {}).get("points") and cell.id == f"{exercise}-check"
        ]
        assert check.source == call and len(check.outputs) == 1
        assert check.metadata.nbgrader.points == {SUM: 3, MEAN: 2}[exercise]
    wanted = 3 if damage is _all_deleted else 5
    assert scores(course) == {"ada": wanted}
    assert cell_of(copy, SUM).source == RIGHT
    if damage is not _elsewhere:
        order = grade_ids(copy)
        assert order == [SUM, f"{SUM}-check", MEAN, f"{MEAN}-check"]
    if damage is _changed:
        assert "3.0" in [cell.source for cell in copy.cells]  # What they wrote can still be read.


def test_a_new_hand_in_replaces_the_old(catalogue: Catalogue, done: Path):
    stamp = submit(done, "wrong", hand_in(catalogue, LESSON, HONEST["right"])).with_name("timestamp.txt")
    stamp.write_text("2026-11-24 09:30:00 CET")
    assert "wrong" not in open_course(done).get_autograded_students(NAME)
    grade(catalogue, done)
    assert scores(done)["wrong"] == 5
    assert open_course(done).get_autograded_students(NAME) == set(HONEST)


def command(folder: Path, *arguments: str | Path, spec: str, program: str = "nbgrader") -> str:
    finished = subprocess.run(
        [str(Path(sys.executable).with_name(program)), *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder.parent), "GRADER_COURSE": spec, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return f"{finished.returncode}\n{finished.stdout}{finished.stderr}"


def test_feedback_goes_to_the_latest_hand_in(catalogue: Catalogue, done: Path):
    mark = submit(done, "wrong", hand_in(catalogue, LESSON, HONEST["wrong"])).with_name("submission_secret.txt")
    copied = done / "autograded" / "wrong" / NAME / mark.name
    for secret in ("5ec4e7" * 20, "0ther" * 20):  # The exchange draws one for each submission.
        mark.write_text(secret)
        assert grade(catalogue, done).notes == []
        assert copied.read_text() == secret
    mark.unlink()
    mark.mkdir()
    (note,) = grade(catalogue, done).notes
    assert note.startswith("wrong: submission_secret.txt cannot be read") and not copied.exists()


HOSTILE_HTML = "<script>document.title='owned'</script><img src=x onerror=alert(1)>"
HOSTILE_MARKDOWN = "[click](javascript:owned) ![x](http://evil.example/x.png) <http://evil.example> ``` $\\href{a}{b}$"


def test_what_a_learner_wrote_is_shown_in_feedback_and_never_interpreted(catalogue: Catalogue, course: Path):
    source = f"def scaled_sum(base, update, scale):\n    raise ValueError({HOSTILE_MARKDOWN + HOSTILE_HTML!r})\n"
    notebook = json.loads(hand_in(catalogue, LESSON, {SUM: source}))
    prose = next(cell for cell in notebook["cells"] if cell["cell_type"] == "markdown")["source"]
    for kind in ("markdown", "raw", "heading"):
        notebook["cells"].append({"cell_type": kind, "id": f"my-{kind}", "metadata": {}, "source": HOSTILE_HTML})
    notebook["cells"].append({"cell_type": "markdown", "metadata": {}, "source": HOSTILE_MARKDOWN})
    submit(course, "ada", json.dumps(notebook).encode())
    grade(catalogue, course)
    assert prose in [cell.source for cell in executed(course, "ada").cells]  # The lesson's own stays prose.
    assert open_course(course).generate_feedback(NAME)["success"]
    page = (course / "feedback" / "ada" / NAME / f"{NAME}.html").read_text()
    seen = _Elements()
    seen.feed(page)
    assert not [each for each in seen.found if "owned" in str(each) or "evil" in str(each) or "onerror" in str(each)]
    # In the answer, the note and twice in the comment: what was raised, and the line that raised it.
    assert "".join(seen.inert).count("[click](javascript:owned)") == 4
    assert 'class="grader-card grader-crashed tex2jax_ignore"' in page


class _Elements(HTMLParser):
    """Start tags with their attributes, scripts with their text, and the text in <pre> and <code>."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[object] = []
        self.inert: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, attributes))
        self.open += [tag] * (tag in ("pre", "script"))

    def handle_endtag(self, tag: str) -> None:
        if self.open[-1:] == [tag]:
            self.open.pop()

    def handle_data(self, text: str) -> None:
        if self.open[-1:] == ["script"]:
            self.found.append(text)
        elif self.open:
            self.inert.append(text)


def test_one_learner_who_cannot_be_written_does_not_stop_the_others(catalogue: Catalogue, done: Path, monkeypatch):
    def copy_of_all_but_wrong(data, released, manifest, result):
        if result.learner == "wrong":
            raise ValueError("something odd")
        return executed_copy(data, released, manifest, result)

    for student in ("partly", "wrong"):
        submit(done, student, hand_in(catalogue, LESSON, HONEST["right"]))
    monkeypatch.setattr("grader.nbgrader_grades.executed_copy", copy_of_all_but_wrong)
    grades = grade(catalogue, done)
    assert grades.unwritten == ["wrong: not in the gradebook: ValueError: something odd"]
    assert scores(done) == {**SCORES, "partly": 5}  # What stood there stays.
    monkeypatch.setattr("grader.nbgrader_command.grade_course", lambda *_, **__: grades)
    told = io.StringIO()
    options = {"workers": 1, "seed": 0, "memory_bytes": 2**30, "allow_weak": False, "apply": False}
    failed: list[str] = []
    grade_nbgrader(catalogue, LESSON, done, None, **options, out=Console(file=told, width=200), fail=failed.append)
    assert "wrong: not in the gradebook: ValueError" in told.getvalue()
    assert failed == ["1 submissions are NOT in the gradebook. See the lines above."]
    assert "4 submissions in the gradebook" in told.getvalue()


def test_feedback_shows_score_and_hint(graded: Path, done: Path):
    assert open_course(done).generate_feedback(NAME)["success"]
    for student in HONEST:
        assert (done / "feedback" / student / NAME / f"{NAME}.html").is_file()
    page = (done / "feedback" / "wrong" / NAME / f"{NAME}.html").read_text()
    assert "(Score: 2.0 / 5.0)" in page
    assert page.count(HINT) >= 2  # In the comment and in the card.


@pytest.mark.slow
def test_nbgraders_own_autograde_agrees(catalogue: Catalogue, done: Path):
    spec = copy_course(done.parent, name="tiny_for_nbgrader")
    shutil.rmtree(done / "autograded")
    (done / "gradebook.db").unlink()
    make_course(catalogue, done)
    assert command(done, "autograde", NAME, spec=spec).startswith("0\n")
    assert scores(done) == SCORES


@pytest.mark.slow
def test_the_commands(catalogue: Catalogue, tmp_path: Path):
    spec = copy_course(tmp_path, name="tiny_for_course_commands")
    folder = tmp_path / "course"
    folder.mkdir()
    told = command(folder, "nbgrader", folder, "--lesson", NAME, spec=spec, program="grader")
    assert told.startswith("0\n") and "01_plain: made" in told
    submit(folder, "ada", hand_in(catalogue, LESSON, HONEST["right"]))
    submit(folder, "bob", b"")
    told = command(folder, "grade", "--nbgrader", folder, "--lesson", NAME, spec=spec, program="grader")
    assert told.startswith("0\n"), told
    assert "bob: the file is empty" in told and "2 submissions in the gradebook, 2.50 of 5 points" in told
    assert "Warning" not in told and "exchange" not in told
    assert scores(folder) == {"ada": 5, "bob": 0}
    told = command(folder, "grade", "--lesson", NAME, spec=spec, program="grader")
    assert told.startswith("1\n") and "one of the two" in told


def test_a_student_named_like_markup_does_not_stop_the_run(catalogue: Catalogue, tmp_path: Path, monkeypatch):
    def graded_at_once(*_, on_done: Callable[[Graded], None], **__) -> CourseGrades:
        result = SubmissionResult("[/red]", lesson=LESSON, sha256="", version="", isolation="none", results=())
        on_done(Graded(result, kept=False))
        return CourseGrades([result], [], [Change("[/red]", SUM, "0", "1", 1.0, "why")], proposed=True)

    monkeypatch.setattr("grader.nbgrader_command.grade_course", graded_at_once)
    told = io.StringIO()
    out = Console(file=told, width=200, force_terminal=True)
    options = {"workers": 1, "seed": 0, "memory_bytes": 2**30, "allow_weak": False, "apply": False}
    grade_nbgrader(catalogue, LESSON, tmp_path, None, **options, out=out, fail=pytest.fail)
    assert "[/red]" in told.getvalue()
