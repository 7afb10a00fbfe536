"""The peers' tests of an assignment, read from COURSE_ROOT/peer_tests/LESSON.py: asserts, one function per answer."""

from __future__ import annotations

import ast
import textwrap
from pathlib import Path

from bench.grading.runs import BenchError
from grader.catalogue import Catalogue
from grader.syllabus import Lesson


def peer_tests(catalogue: Catalogue, lesson: Lesson) -> dict[str, str]:
    """exercise id -> the body of its test; the answer is in scope under its own name."""
    file = catalogue.course.root / "peer_tests" / f"{lesson.id}.py"
    if not file.is_file():
        raise BenchError(f"{file} is missing: nbgrader and otter need tests of {lesson.id}. Or leave them out: --peers")
    bodies = {
        node.name: _body(file, node)
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    exercises = [exercise for _, exercise in catalogue.exercises(lesson)]
    missing = [exercise.answer_name for exercise in exercises if exercise.answer_name not in bodies]
    if missing:
        raise BenchError(f"{file} has no test of {', '.join(missing)}: add a function of that name")
    return {exercise.id: bodies[exercise.answer_name] for exercise in exercises}


def _body(file: Path, function: ast.FunctionDef) -> str:
    statements = function.body[1:] if ast.get_docstring(function) else function.body
    lines = file.read_text(encoding="utf-8").splitlines()
    return textwrap.dedent("\n".join(lines[statements[0].lineno - 1 : function.end_lineno]))
