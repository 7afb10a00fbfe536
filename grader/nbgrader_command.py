"""`grader grade --nbgrader`: progress, then what came out and what an instructor should look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.markup import escape

from grader.build import BuildError
from grader.catalogue import Catalogue, CatalogueError
from grader.cohort.command import show_changes
from grader.cohort.grading import WeakIsolationError
from grader.cohort.receipt import ReceiptError
from grader.cohort.run import Graded
from grader.cohort.store import StoreError
from grader.cohort.warm_parent import WarmParentError
from grader.nbgrader_course import CourseFolderError
from grader.nbgrader_grades import grade_course
from grader.sandbox.isolation import Limits


def grade_nbgrader(
    catalogue: Catalogue,
    lesson_name: str,
    course_folder: Path,
    results_folder: Path | None,
    *,
    workers: int | None,
    seed: int | None,
    memory_bytes: int,
    allow_weak: bool,
    apply: bool,
    out: Console,
    fail: Callable[[str], NoReturn],
) -> None:
    """Grade, write the gradebook, report. Trouble that stops the run is told through `fail`."""
    done: list[str] = []
    try:
        with out.status("starting") as status:

            def step(each: Graded) -> None:
                done.append(each.result.learner)
                status.update(escape(f"graded {len(done)}: {each.result.learner}"[:70]))

            grades = grade_course(
                catalogue,
                course_folder,
                lesson_name,
                results_folder=results_folder,
                workers=workers,
                seed=seed,
                limits=Limits(memory_bytes=memory_bytes),
                allow_weak=allow_weak,
                apply=apply,
                on_progress=status.update,
                on_done=step,
            )
    except (
        BuildError,
        CatalogueError,
        CourseFolderError,
        ReceiptError,
        StoreError,
        WarmParentError,
        WeakIsolationError,
    ) as error:
        fail(str(error))
    for note in [*grades.notes, *grades.unwritten]:
        out.print(note, markup=False, soft_wrap=True)
    if grades.changes or grades.proposed:
        show_changes(grades.changes, out)
    if grades.proposed:
        out.print(
            "NOTHING IS WRITTEN YET, because the checks changed since these submissions were graded. Run the same "
            "command with --apply to write these scores into the gradebook.",
            soft_wrap=True,
        )
        return
    results = grades.results
    mean, written = sum(each.points for each in results) / len(results), len(results) - len(grades.unwritten)
    out.print(f"{written} submissions in the gradebook, {mean:.2f} of {results[0].max_points:g} points on average")
    wrong = [f"{len(grades.unwritten)} submissions are NOT in the gradebook."] * bool(grades.unwritten)
    if any(result.status == "broken" for each in results for result in each.results):
        wrong.append("broken on our side: formgrader asks for those scores by hand; see also `grader verify`.")
    if wrong:
        fail(f"{' '.join(wrong)} See the lines above.")
