"""The rules for a lesson and for the tree: markers, stubs in their place, no answer shown, notebooks fresh."""

from __future__ import annotations

import ast
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jupytext
import nbformat

from grader import source
from grader.build import BuildError, build_lesson, notebook_path, stale_notebooks
from grader.catalogue import Catalogue
from grader.cohort.manifest import preload, read_manifest
from grader.cohort.public_tree import write_public_tree
from grader.syllabus import Lesson
from grader.verify.evidence import Refusal


def verify_lesson(catalogue: Catalogue, lesson: Lesson) -> Iterator[Refusal]:
    """Each exercise is marked exactly once, its stub runs where it stands, and no notebook shows an answer."""
    file = catalogue.lesson_file(lesson)
    if not file.exists():
        yield Refusal(lesson.id, "lesson", f"{file.name} is missing", "Write it, or take the lesson off the syllabus")
        return
    cells = jupytext.reads(file.read_text(encoding="utf-8"), fmt="py:percent").cells
    stems = catalogue.stems(lesson)
    marked = [cell.metadata["exercise"] for cell in cells if "exercise" in cell.metadata]
    for stem in sorted(set(stems) | set(marked)):
        if marked.count(stem) != 1 or stem not in stems:
            problem = f"exercise {stem!r} is marked {marked.count(stem)} times and declared {stems.count(stem)} times"
            yield Refusal(lesson.id, "markers", problem, f'Write `# %% exercise="{stem}"` exactly once')
    try:
        text = build_lesson(catalogue, lesson)
    except Exception as error:  # Building imports the exercises: anything may come.
        problem = str(error) if isinstance(error, BuildError) else f"{type(error).__name__}: {error}"
        yield Refusal(lesson.id, "build", problem, "Mend the lesson, or the exercise it names")
        return
    yield from _stubs_run_in_place(lesson, nbformat.reads(text, as_version=4))
    shown = _lines_shown(text)
    path = notebook_path(catalogue, lesson)
    if path.exists():
        try:
            shown |= _lines_shown(path.read_text(encoding="utf-8"))
        except Exception as error:
            problem = f"cannot be read as a notebook: {type(error).__name__}"
            yield Refusal(f"notebooks/{path.name}", "stale", problem, "Run `grader build` and commit the result")
    yield from _no_answer_shown(catalogue, lesson, shown)
    yield from _no_answer_behind_the_wall(catalogue, lesson)


def _lines_shown(notebook_text: str) -> set[str]:
    cells = nbformat.reads(notebook_text, as_version=4).cells
    return {source.squeeze(line) for cell in cells for line in cell.source.splitlines()}


def _stubs_run_in_place(lesson: Lesson, notebook: Any) -> Iterator[Refusal]:
    """A stub's signature may only use names that an import in an earlier cell binds."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        try:
            tree = ast.parse(
                "\n".join("" if line.startswith(("%", "!")) else line for line in cell.source.splitlines())
            )
        except SyntaxError as error:
            yield Refusal(f"{lesson.id}/{cell.id}", "lesson", f"does not parse: {error}", "Mend the cell")
            continue
        is_stub = cell.metadata.get("nbgrader", {}).get("solution", False)
        body: list[ast.stmt] = [n for n in tree.body if is_stub or isinstance(n, ast.Import | ast.ImportFrom)]
        try:
            # Without dont_inherit this file's own `annotations` import would keep a stub's annotations unread.
            exec(compile(ast.Module(body, []), cell.id, "exec", dont_inherit=True), namespace)
        except Exception as error:
            problem = f"the cell {cell.id} fails on {type(error).__name__}: {error}"
            yield Refusal(lesson.id, "stub", problem, "Import what it uses in a cell above it")


def _no_answer_shown(catalogue: Catalogue, lesson: Lesson, shown: set[str]) -> Iterator[Refusal]:
    for stem in catalogue.stems(lesson):
        try:
            exercise = catalogue.load(lesson, stem)
        except Exception:
            continue  # Refused with the exercise's other rules already.
        leaked = sorted(source.answer_lines(exercise) & shown)
        if leaked:
            yield Refusal(
                exercise.id,
                "answers",
                f"the notebook shows the answer line {leaked[0]}",
                "Write that demo another way",
            )


def _no_answer_behind_the_wall(catalogue: Catalogue, lesson: Lesson) -> Iterator[Refusal]:
    """What learner code can import in an official run holds no line of an answer."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            own = write_public_tree(catalogue, lesson, Path(folder), preload(read_manifest(catalogue, lesson)))
        except Exception:
            return  # An exercise without a public view: refused with the exercise's other rules already.
        texts = {file.stem: file.read_text(encoding="utf-8") for file in own.glob("*.py")}
        lines = {stem: set(map(source.squeeze, text.splitlines())) for stem, text in texts.items()}
    for stem in catalogue.stems(lesson):
        exercise = catalogue.load(lesson, stem)
        for module, shown in lines.items():
            if leaked := sorted(source.answer_lines(exercise) & shown):
                problem = f"learner code can import {module}.py, which holds the answer line {leaked[0]}"
                yield Refusal(exercise.id, "answers", problem, "Keep it in a module that no probe and no demo imports")


def verify_tree(catalogue: Catalogue) -> Iterator[Refusal]:
    """Notebooks equal their rebuild; no Python file stands under datasets/."""
    try:
        for stale in stale_notebooks(catalogue):
            problem = "is missing" if stale.missing else "differs from its rebuild"
            yield Refusal(f"notebooks/{stale.path.name}", "stale", problem, "Run `grader build` and commit the result")
    except Exception:
        pass  # A lesson that cannot be built: reported by verify_lesson already.
    for file in sorted((catalogue.course.root / "datasets").rglob("*.py")):
        yield Refusal(
            file.relative_to(catalogue.course.root).as_posix(),
            "datasets",
            "a Python file here would shadow the `datasets` package",
            "Move it under course/",
        )
