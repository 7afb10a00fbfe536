"""The course as learner code may see it: no answers of the graded lesson, and nothing of later ones."""

from __future__ import annotations

import ast
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from grader.catalogue import Catalogue
from grader.source import public_view
from grader.syllabus import Lesson
from grader.syntax_tree import syntax_tree


def write_public_tree(catalogue: Catalogue, lesson: Lesson, folder: Path, cells: Iterable[str] = ()) -> Path:
    """Copy the course package into `folder`: the lesson's exercises as their public view, later lessons left out.

    cells: the released notebook's own imports and definitions. Of the lesson's other modules only those stay that these
    or a probe import: the rest may hold what answers are made of. Earlier lessons keep their references: they are the
    library that this lesson builds on. Prose stays out. Returns the lesson's own folder in the copy.
    """
    package_name = catalogue.course.lessons_package.partition(".")[0]
    package = Path(next(iter(sys.modules[package_name].__path__)))
    target = folder / package_name
    shutil.copytree(package, target, ignore=shutil.ignore_patterns("__pycache__", "lesson.py"))
    lessons = catalogue.course.lessons
    folder_of_lessons = target / catalogue.lessons_folder.relative_to(package)
    stems = catalogue.stems(lesson)
    for stem in stems:
        view = public_view(catalogue.load(lesson, stem))
        (folder_of_lessons / lesson.id / f"{stem}.py").write_text(view, encoding="utf-8")
    _remove_unused(folder_of_lessons / lesson.id, f"{catalogue.course.lessons_package}.{lesson.id}", stems, cells)
    for later in lessons[lessons.index(lesson) + 1 :]:
        shutil.rmtree(folder_of_lessons / later.id, ignore_errors=True)
    return folder_of_lessons / lesson.id


def _remove_unused(folder: Path, package: str, stems: Iterable[str], cells: Iterable[str]) -> None:
    """Of a lesson's modules keep the exercises and what they and the notebook import, directly or through another."""
    sources = {file.stem: file.read_text(encoding="utf-8") for file in folder.glob("*.py")}
    kept = {"__init__", *stems}
    waiting = [*cells, *(sources[stem] for stem in sorted(kept))]
    while waiting:
        for module, names in imports_of([waiting.pop()]):
            # `from package import module` and `from package.module import name` both lead to a module.
            found = {f"{module}.{name}" for name in names} | {module}
            new = {name.removeprefix(f"{package}.") for name in found} & (sources.keys() - kept)
            kept |= new
            waiting += [sources[name] for name in new]
    for stem in sources.keys() - kept:
        (folder / f"{stem}.py").unlink()


def imports_of(sources: Iterable[str]) -> list[tuple[str, list[str]]]:
    """(module, names taken from it) of every import in these sources, also those inside functions."""
    found: dict[str, set[str]] = {}
    for source in sources:
        for node in ast.walk(syntax_tree(source)):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    found.setdefault(alias.name, set())
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.setdefault(node.module, set()).update(alias.name for alias in node.names if alias.name != "*")
    return [(module, sorted(names)) for module, names in found.items() if module != "__future__"]


def lesson_sources(tree: Path, catalogue: Catalogue, lesson: Lesson) -> list[str]:
    """The sources of one lesson in the public tree."""
    relative = Path(*catalogue.course.lessons_package.split(".")[1:], lesson.id)
    return [file.read_text(encoding="utf-8") for file in sorted((tree / relative).glob("*.py"))]
