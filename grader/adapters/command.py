"""`grader grade-adapters`: progress with an estimate of the time left, and a table of what came out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from grader.adapters.folder import find_adapters
from grader.adapters.result import AdapterResult
from grader.adapters.run import AdapterGrader, EvaluationError
from grader.adapters.store import AdapterStore
from grader.catalogue import Catalogue, CatalogueError
from grader.cohort.collect import CollectError
from grader.cohort.run import processors
from grader.cohort.store import StoreError

ESTIMATE_SECONDS = 1200.0  # The time left is judged by this much of the past: an adapter takes minutes.


def grade_adapter_folder(
    catalogue: Catalogue,
    lesson_name: str,
    submissions: Path,
    folder: Path,
    *,
    workers: int | None,
    seed: int | None,
    memory_bytes: int,
    out: Console,
    fail: Callable[[str], NoReturn],
) -> None:
    """Grade, keep, report. Trouble that stops the run is told through `fail`; what was graded before it is kept."""
    try:
        lesson = catalogue.lesson(lesson_name)
        if lesson.adapter is None:
            asked = ", ".join(each.id for each in catalogue.course.lessons if each.adapter) or "no lesson"
            fail(f"{lesson.id} asks for no adapter; of this course's lessons, {asked} does")
        handed = find_adapters(submissions)
        store = AdapterStore(folder, lesson.id)
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=out,
            speed_estimate_period=ESTIMATE_SECONDS,
        ) as bar:
            job = bar.add_task(f"{lesson.id}, {len(handed)} learners", total=len(handed) + 1)
            grader = AdapterGrader(
                lesson,
                lesson.adapter,
                store,
                seed=store.files.seed() if seed is None else seed,
                memory_bytes=memory_bytes,
                on_progress=lambda part: bar.advance(job, part),
            )
            results = grader.grade_all(handed, workers or min(processors(), len(handed) + 1))
        table = store.write_table(results)
    except (CatalogueError, CollectError, StoreError, EvaluationError) as error:
        fail(str(error))
    _report(results, out)
    out.print(f"{len(results)} results in {store.files.folder}, scores in {table.name}", soft_wrap=True)
    if crashed := [each.learner for each in results if each.status == "crashed"]:
        fail(f"the evaluation died for {', '.join(crashed)}; the same command tries these again")


def _report(results: list[AdapterResult], out: Console) -> None:
    names = next(([group.group for group in each.groups] for each in results if each.groups), [])
    table = Table("learner", "status", *names, "points")
    same: dict[str, list[str]] = defaultdict(list)
    for each in results:
        cells = [f"{g.correct} of {g.questions}, {100 * g.low:.0f}-{100 * g.high:.0f} %" for g in each.groups]
        cells += [""] * (len(names) - len(cells))
        table.add_row(each.learner, each.status, *cells, f"{each.points:g} of {each.max_points:g}")
        if each.sha256:
            same[each.sha256].append(each.learner)
        if each.problem:
            out.print(f"{each.learner}: {each.problem}", markup=False, soft_wrap=True)
    for learners in same.values():
        if len(learners) > 1:
            out.print(f"the very same files from {', '.join(learners)}", markup=False, soft_wrap=True)
    base = next((each.groups for each in results if each.groups), ())
    if base:
        table.add_row("base model", "", *(f"{group.base_correct} of {group.questions}" for group in base), "")
    out.print(table)
