"""Lessons become notebooks: the same to the byte everywhere, valid for nbgrader, without answers, ids for ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import nbformat
import pytest
from nbgrader.nbgraderformat import MetadataValidator, read
from tiny_courses import copy_course, load_course
from typer.testing import CliRunner

from grader.build import BuildError, build_all, build_lesson, notebook_path, stale_notebooks
from grader.cli import app
from grader.source import answer_lines, squeeze

LESSON = "l01_plain/lesson.py"


@pytest.fixture
def course(tmp_path):
    return load_course(tmp_path)


def test_two_processes_build_the_same_bytes(tmp_path):
    spec = copy_course(tmp_path)
    code = (
        "import sys; from grader.catalogue import find_course; from grader.build import build_lesson\n"
        f"catalogue = find_course({spec!r})\n"
        "sys.stdout.write(build_lesson(catalogue, catalogue.lesson('l01_plain')))"
    )
    running = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONHASHSEED": seed}
        running.append(subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE))
    first, second = (each.communicate(timeout=120)[0] for each in running)
    assert first == second
    assert len(first) > 2000


def test_building_again_changes_nothing_and_writes_nothing(course):
    assert len(build_all(course)) == 2
    path = notebook_path(course, course.course.lessons[0])
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    assert build_all(course) == []
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert stale_notebooks(course) == []
    assert [file.name for file in path.parent.iterdir() if file.name.startswith(".")] == []


def test_nbgrader_finds_the_notebook_valid(course):
    build_all(course)
    for lesson in course.course.lessons:
        path = notebook_path(course, lesson)
        read(path, as_version=4)  # Raises on another schema or duplicate ids.
        notebook = nbformat.read(path, as_version=4)
        MetadataValidator().validate_nb(notebook)
        nbformat.validate(notebook)
    ids = [c.metadata.nbgrader for c in notebook.cells if "nbgrader" in c.metadata]
    assert ids == [
        {
            "grade": False,
            "grade_id": "l02-row-softmax",
            "locked": False,
            "schema_version": 3,
            "solution": True,
            "task": False,
        },
        {
            "grade": True,
            "grade_id": "l02-row-softmax-check",
            "locked": True,
            "points": 2,
            "schema_version": 3,
            "solution": False,
            "task": False,
        },
    ]


def test_nbgraders_own_preprocessors_accept_it(course):
    from nbgrader.preprocessors import CheckCellMetadata, ComputeChecksums, LockCells

    lesson = course.course.lessons[0]
    notebook = nbformat.reads(build_lesson(course, lesson), as_version=4)
    resources: dict = {}
    for preprocessor in (CheckCellMetadata(), LockCells(), ComputeChecksums()):
        notebook, resources = preprocessor.preprocess(notebook, resources)
    locked = [cell.id for cell in notebook.cells if cell.metadata.get("editable") is False]
    assert locked == ["l01-scaled-sum-check", "l01-running-mean-check"]


def test_cells_come_in_order_with_their_own_ids(course):
    notebook = nbformat.reads(build_lesson(course, course.course.lessons[0]), as_version=4)
    assert [cell.id for cell in notebook.cells] == [
        "l01-prose-01",
        "l01-demo-01",
        "l01-prose-02",
        "l01-scaled-sum-task",
        "l01-scaled-sum",
        "l01-scaled-sum-check",
        "l01-demo-02",
        "l01-running-mean-task",
        "l01-running-mean",
        "l01-running-mean-check",
    ]
    task, stub, check = notebook.cells[3:6]
    assert task.source == "### Exercise: Add a scaled update\n\n*easy · about 5 minutes · 3 points*"
    assert stub.source.startswith("def scaled_sum(base: np.ndarray, update: np.ndarray, scale: float) -> np.ndarray:\n")
    assert stub.source.endswith("    raise NotImplementedError")
    assert check.source == "check(scaled_sum)"
    assert "*medium · extension · about 10 minutes · 2 points*" in notebook.cells[7].source


def test_the_first_cell_names_its_source_and_no_cell_has_output(course):
    text = build_lesson(course, course.course.lessons[0])
    notebook = nbformat.reads(text, as_version=4)
    package = course.course.lessons_package.split(".")[0]
    assert notebook.cells[0].source.startswith(
        f"<!-- Built from {package}/lessons/l01_plain/lesson.py by `grader build`"
    )
    assert notebook.metadata.grader.lesson == "l01_plain"
    assert text.endswith("}\n")
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in notebook.cells)
    assert "lines_to_next_cell" not in text


def test_no_answer_is_in_the_notebook_unless_asked_for(course):
    lesson = course.course.lessons[0]
    for answers in (False, True):
        cells = json.loads(build_lesson(course, lesson, answers=answers))["cells"]
        lines = {squeeze(line) for cell in cells for line in "".join(cell["source"]).splitlines()}
        for _, exercise in course.exercises(lesson):
            secret = answer_lines(exercise)
            assert secret
            assert bool(secret & lines) == answers


def test_an_unbuildable_lesson_names_its_file(tmp_path):
    cases = {
        "holds code": ('# %% exercise="scaled_sum"\n', '# %% exercise="scaled_sum"\nx = 1\n'),
        "marker for 'absent'": ('exercise="scaled_sum"', 'exercise="absent"'),
        "two cells are called l01-": ('exercise="running_mean"', 'exercise="scaled_sum"'),
        "start the lesson with a markdown cell": ('# %% [markdown]\nr"""\n# Plain', '# %%\nr"""\n# Plain'),
    }
    for number, (says, (old, new)) in enumerate(cases.items()):
        (tmp_path / str(number)).mkdir()
        catalogue = load_course(tmp_path / str(number), (LESSON, old, new))
        with pytest.raises(BuildError, match="lesson.py: .*" + says):
            build_lesson(catalogue, catalogue.course.lessons[0])


def test_the_check_option_changes_nothing_and_exits_1_when_stale(tmp_path, monkeypatch):
    spec = copy_course(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def grader(*arguments):
        return CliRunner().invoke(app, ["build", "--course", spec, *arguments])

    missing = grader("--check")
    assert (missing.exit_code, (tmp_path / "notebooks").exists()) == (1, False)
    assert "01_plain.ipynb is missing" in missing.stderr
    assert "Run `grader build` and commit the result." in missing.stderr
    built = grader()
    assert (built.exit_code, built.stdout) == (0, "wrote 01_plain.ipynb\nwrote 02_torch.ipynb\n")
    fresh = grader("--check")
    assert (fresh.exit_code, fresh.stdout) == (0, "2 notebooks equal their rebuild\n")
    path = tmp_path / "notebooks/02_torch.ipynb"
    for content in (path.read_bytes().replace(b"Softmax", b"softmax"), b"\x80 binary", b""):
        path.write_bytes(content)
        stale = grader("--check")
        assert stale.exit_code == 1
        assert stale.stderr.startswith("02_torch.ipynb differs from its rebuild\n")
        assert path.read_bytes() == content
    assert grader().exit_code == 0
    assert grader("--check").exit_code == 0


def test_a_build_that_fails_leaves_the_old_notebook_whole(course, monkeypatch):
    build_all(course)
    path = notebook_path(course, course.course.lessons[0])
    before = path.read_bytes()
    course.lesson_file(course.course.lessons[0]).write_text("# %% [markdown]\n# # Another\n")
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        build_all(course)
    assert path.read_bytes() == before
    assert sorted(file.name for file in path.parent.iterdir()) == ["01_plain.ipynb", "02_torch.ipynb"]
