"""The `grader` command, for authors and instructors."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from grader.catalogue import Catalogue, CatalogueError, find_course

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_show_locals=False, help=__doc__)
out = Console()
err = Console(stderr=True)

LessonOption = Annotated[str | None, typer.Option("--lesson", help="Only this lesson, as in 07_lora.")]
CourseOption = Annotated[
    str | None, typer.Option("--course", help="Another course than the installed one, as in my_course:COURSE.")
]


def _course(spec: str | None) -> Catalogue:
    try:
        return find_course(spec)
    except CatalogueError as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    err.print(message, style="red", markup=False)
    raise typer.Exit(1)


def _require_linux(command: str) -> None:
    """Before anything is imported that only Linux has."""
    if sys.platform != "linux":
        _fail(
            f"`grader {command}` runs code of learners behind a wall that the Linux kernel gives (namespaces, "
            f"Landlock, seccomp), and this is {sys.platform}. Run it on Linux: a server, a virtual machine, a "
            "container or WSL 2. Checks in notebooks work everywhere."
        )


@app.command("list")
def list_exercises(lesson: LessonOption = None, course: CourseOption = None) -> None:
    """List lessons and exercises.

    Example: grader list --lesson 07_lora
    """
    catalogue = _course(course)
    table = Table("exercise", "title", "difficulty", "minutes", "points", "misconceptions")
    try:
        chosen = catalogue.lesson(lesson) if lesson else None
    except CatalogueError as error:
        _fail(str(error))
    for _, exercise in catalogue.exercises(chosen):
        table.add_row(
            exercise.id,
            exercise.title,
            exercise.difficulty,
            str(exercise.minutes),
            str(exercise.points),
            str(len(exercise.misconceptions)),
        )
    out.print(table)


@app.command()
def build(
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit 1 if a notebook is stale.")] = False,
    course: CourseOption = None,
) -> None:
    """Build every lesson's notebook.

    Example: grader build --check
    """
    from grader.build import BuildError, build_all, stale_notebooks

    catalogue = _course(course)
    try:
        if check:
            stale = stale_notebooks(catalogue)
            for each in stale:
                err.print(f"{each.path.name} {'is missing' if each.missing else 'differs from its rebuild'}")
            if stale:
                _fail("Run `grader build` and commit the result.")
            out.print(f"{len(catalogue.course.lessons)} notebooks equal their rebuild")
            return
        for path in build_all(catalogue):
            out.print(f"wrote {path.name}")
    except BuildError as error:
        _fail(str(error))


@app.command()
def verify(
    lesson: LessonOption = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that share the files; each takes up to 2 GB of memory.")
    ] = min(os.cpu_count() or 1, 4),
    course: CourseOption = None,
) -> None:
    """Prove that every exercise is worth trusting; exit 1 with the reasons if one is not.

    Example: grader verify --lesson 07_lora
    """
    from concurrent.futures.process import BrokenProcessPool

    from grader.verify import verify as run_verify
    from grader.verify.parallel import verify_in_processes

    catalogue = _course(course)
    seen: list[str] = []
    try:
        with out.status("verifying") as status:

            def step(name: str) -> None:
                seen.append(name)
                status.update(f"verifying {name}" if workers == 1 else f"verified {len(seen)} files")

            if workers == 1:
                refusals = run_verify(catalogue, lesson, step)
            else:
                refusals = verify_in_processes(course, workers, lesson, step)
    except BrokenProcessPool:
        _fail(
            f"A process died while verifying, after {len(seen)} files; too little memory is the usual reason. "
            "`grader verify --workers 1` needs least, and its progress names the file."
        )
    except CatalogueError as error:
        _fail(str(error))
    for refusal in refusals:
        err.print(str(refusal), markup=False, soft_wrap=True)
    if refusals:
        _fail(f"{len(refusals)} refusals")
    out.print(f"verified {len(seen)} files: no refusals")


@app.command()
def run(
    lesson: Annotated[str, typer.Argument(help="The lesson, as in 07_lora.")],
    folder: Annotated[Path, typer.Option(help="An empty folder to work in; the executed notebook stays there.")],
    course: CourseOption = None,
) -> None:
    """Run a lesson's notebook with the reference answers, top to bottom; exit 1 if a cell or a check fails.

    Example: grader run 07_lora --folder run
    """
    from grader.execute import LessonRunError, run_lesson

    catalogue = _course(course)
    try:
        with out.status(f"running {lesson}"):
            finished = run_lesson(catalogue, catalogue.lesson(lesson), folder)
    except (CatalogueError, LessonRunError) as error:
        _fail(str(error))
    for exercise, status in finished.statuses.items():
        out.print(f"{exercise}: {status}")
    out.print(f"{finished.notebook}: {finished.minutes:.1f} minutes, {finished.lesson.run_minutes:g} stated")
    if set(finished.statuses.values()) - {"passed"}:
        _fail("not every check passed")


@app.command("nbgrader")
def make_nbgrader_course(
    folder: Annotated[Path, typer.Argument(help="The course folder; made if it is not there.")],
    lesson: Annotated[list[str] | None, typer.Option("--lesson", help="Only this lesson; may be repeated.")] = None,
    course: CourseOption = None,
) -> None:
    """Make an nbgrader course folder from the lessons, or bring it up to date; exit 1 when a change is refused.

    Example: grader nbgrader our_course --lesson 07_lora
    """
    from grader.build import BuildError
    from grader.nbgrader_course import CourseFolderError, make_course

    catalogue = _course(course)
    try:
        with out.status("starting") as status:
            made = make_course(catalogue, folder, lesson or (), on_progress=status.update)
    except (CatalogueError, BuildError, CourseFolderError) as error:
        _fail(str(error))
    for each in made:
        out.print(f"{each.assignment}: {each.state}")
    if refused := [each.reason for each in made if each.reason]:
        _fail("\n".join(refused))


@app.command()
def grade(
    lesson: Annotated[str, typer.Option("--lesson", help="The lesson, as in 07_lora.")],
    submissions: Annotated[
        Path | None, typer.Argument(help="A folder with one folder or one notebook per learner.")
    ] = None,
    nbgrader: Annotated[
        Path | None, typer.Option(help="Grade this nbgrader course instead, and write scores into its gradebook.")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--out", help="Where results are kept; a stopped run goes on from here (default: results)."),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Submissions graded at once (default: the cores).")] = None,
    seed: Annotated[int | None, typer.Option(help="Secret seed of the cases (default: one kept in --out).")] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Grade on the Dask cluster of this scheduler, as in tcp://10.0.0.1:8786.")
    ] = None,
    memory_gib: Annotated[float, typer.Option(min=0.5, help="Memory a submission may use.")] = 4.0,
    allow_weak: Annotated[
        bool, typer.Option("--allow-weak-isolation", help="Grade even where the host cannot isolate learner code.")
    ] = False,
    apply: Annotated[
        bool, typer.Option("--apply", help="Write scores that change because the checks did; else they are only shown.")
    ] = False,
    course: CourseOption = None,
) -> None:
    """Grade a folder of submissions in sandboxes, in parallel; exit 1 when an exercise of ours is broken.

    Example: grader grade submissions --lesson 07_lora --out results
    """
    _require_linux("grade")
    from grader.cohort.command import grade_folder

    if (submissions is None) == (nbgrader is None):
        _fail("Name a folder of submissions, or an nbgrader course with --nbgrader FOLDER: one of the two.")
    if nbgrader is not None:
        from grader.nbgrader_command import grade_nbgrader

        if scheduler:
            _fail("--nbgrader grades on this machine: leave --scheduler out.")
        grade_nbgrader(
            _course(course),
            lesson,
            nbgrader,
            folder,
            workers=workers,
            seed=seed,
            memory_bytes=int(memory_gib * 2**30),
            allow_weak=allow_weak,
            apply=apply,
            out=out,
            fail=_fail,
        )
        return
    assert submissions is not None
    grade_folder(
        _course(course),
        lesson,
        submissions,
        folder or Path("results"),
        workers=workers,
        scheduler=scheduler,
        course=course,
        seed=seed,
        memory_bytes=int(memory_gib * 2**30),
        allow_weak=allow_weak,
        apply=apply,
        out=out,
        fail=_fail,
    )


@app.command("grade-adapters")
def grade_adapters(
    submissions: Annotated[Path, typer.Argument(help="A folder with one folder per learner, as in LEARNER/adapter.")],
    lesson: Annotated[str, typer.Option("--lesson", help="The lesson, as in 09_qlora.")],
    folder: Annotated[
        Path, typer.Option("--out", help="Where results are kept; a stopped run goes on from here.")
    ] = Path("results"),
    workers: Annotated[int | None, typer.Option(min=1, help="Adapters evaluated at once (default: the cores).")] = None,
    seed: Annotated[int | None, typer.Option(help="Secret seed of the questions (default: one kept in --out).")] = None,
    memory_gib: Annotated[float, typer.Option(min=0.5, help="Memory one evaluation may use.")] = 4.0,
    course: CourseOption = None,
) -> None:
    """Grade the adapters handed in beside the notebooks on a hidden set; exit 1 when an evaluation died.

    Example: grader grade-adapters submissions --lesson 09_qlora --out results
    """
    _require_linux("grade-adapters")
    from grader.adapters.command import grade_adapter_folder

    grade_adapter_folder(
        _course(course),
        lesson,
        submissions,
        folder,
        workers=workers,
        seed=seed,
        memory_bytes=int(memory_gib * 2**30),
        out=out,
        fail=_fail,
    )


@app.command()
def receipt(
    file: Annotated[Path, typer.Argument(help="The receipt, as a learner shows it.")],
    results: Annotated[Path, typer.Option(help="The results folder it came from.")] = Path("results"),
    notebook: Annotated[Path | None, typer.Option(help="The notebook that is said to be the graded one.")] = None,
) -> None:
    """Say whether a receipt is genuine, and of this notebook; exit 1 if not.

    Example: grader receipt ada.json --results results --notebook ada/07_lora.ipynb
    """
    from grader.cohort.receipt import ReceiptError, check_receipt

    try:
        found = check_receipt(file, results, notebook)
    except (ReceiptError, OSError) as error:
        _fail(str(error))
    same = ", of this very notebook" if notebook else ""
    out.print(
        f"genuine{same}: {found['learner']}, {found['lesson']}, {found['points']:g} of {found['max_points']:g} points, "
        f"graded {found['graded_at']}",
        markup=False,
        soft_wrap=True,
    )


@app.command()
def report(
    results: Annotated[Path, typer.Argument(help="The folder that `grader grade --out` wrote to.")],
    lesson: LessonOption = None,
    submissions: Annotated[
        Path | None,
        typer.Option(help="The submissions that were graded: adds sources, similarity and, where handed in, tries."),
    ] = None,
    folder: Annotated[Path | None, typer.Option("--out", help="Where to write (default: RESULTS/report).")] = None,
    course: CourseOption = None,
) -> None:
    """Where a graded class is stuck: item analysis, wrong ideas, similar answers, timing; one HTML page and tables.

    Example: grader report results --lesson 07_lora --submissions submissions
    """
    from grader.report.command import write_reports

    write_reports(_course(course), results, lesson, submissions, folder, out=out, fail=_fail)


@app.command()
def attempts(
    exercise: Annotated[str | None, typer.Argument(help="Exercise id, as in l07-lora-linear.")] = None,
    show_source: Annotated[bool, typer.Option("--source", help="Print each answer as it was.")] = False,
) -> None:
    """List the attempts kept in this workspace; nothing a learner checked is ever lost.

    Example: grader attempts l07-lora-linear --source
    """
    from grader.progress import Progress, ProgressError

    try:
        kept = Progress()
        rows = kept.attempts(exercise)
    except ProgressError as error:
        _fail(str(error))
    for row in rows:
        out.print(f"{row.started}  {row.exercise}  {row.status or 'unfinished'}  {row.misconception}", markup=False)
        if show_source:
            out.print(row.source, markup=False)
    out.print(f"{len(rows)} attempts in {os.path.relpath(kept.path)}")


if __name__ == "__main__":
    app()
