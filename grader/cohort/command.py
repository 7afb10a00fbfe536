"""`grader grade`: progress with an estimate of the time left, a table of what came out, and a summary per exercise."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from grader.catalogue import Catalogue, CatalogueError
from grader.cohort.collect import CollectError, Handed, find_submissions
from grader.cohort.grading import Grader, WeakIsolationError, checks_version
from grader.cohort.manifest import read_manifest
from grader.cohort.receipt import ReceiptError, write_receipts
from grader.cohort.regrade import Change, Regrading
from grader.cohort.result import SubmissionResult
from grader.cohort.run import Graded, grade_all, processors
from grader.cohort.store import ResultStore, StoreError
from grader.cohort.warm_parent import WarmParentError
from grader.result import STATUSES
from grader.sandbox.isolation import Limits
from grader.syllabus import Lesson


def grade_folder(
    catalogue: Catalogue,
    lesson_name: str,
    submissions: Path,
    folder: Path,
    *,
    workers: int | None,
    scheduler: str | None,
    course: str | None,
    seed: int | None,
    memory_bytes: int,
    allow_weak: bool,
    apply: bool,
    out: Console,
    fail: Callable[[str], NoReturn],
) -> None:
    """Grade, keep, report. Trouble that stops the run is told through `fail`; what was graded before it is kept.

    apply: whether results that change because the checks did are written; else they are only shown.
    """
    limits = Limits(memory_bytes=memory_bytes)
    try:
        lesson = catalogue.lesson(lesson_name)
        handed = find_submissions(submissions, lesson)
        store = ResultStore(folder, lesson.id)
        secret = store.seed() if seed is None else seed
        if scheduler:
            version = checks_version(read_manifest(catalogue, lesson), secret)
            regrading = Regrading.plan(store, version, apply=apply)
            results = _on_cluster(
                scheduler,
                catalogue,
                lesson,
                handed,
                regrading.target,
                out,
                seed=secret,
                course=course,
                limits=limits,
                weak=allow_weak,
            )
        else:
            with out.status("starting") as status:
                grader = Grader(
                    lesson.id,
                    seed=secret,
                    catalogue=catalogue,
                    limits=limits,
                    allow_weak=allow_weak,
                    on_progress=status.update,
                )
            out.print(f"isolation: {grader.isolation}")
            for gap in grader.isolation.missing:
                out.print(f"not isolated here: {gap}", style="yellow")
            regrading = Regrading.plan(store, grader.version, apply=apply)
            with grader, _progress(out, lesson, len(handed)) as done:
                results = grade_all(grader, handed, regrading.target, workers=workers or processors(), on_done=done)
        changes = regrading.finish(results)
        table = regrading.target.write_table(results) if regrading.proposed else store.write_table(results)
        if not regrading.proposed:
            write_receipts(store.root, store.folder, results)
    except (CatalogueError, CollectError, StoreError, ReceiptError, WeakIsolationError, WarmParentError) as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error}. Make room and run the same command again: what has been graded is kept.")
    _report(results, out)
    if regrading.target is not store:
        show_changes(changes, out)
    if regrading.proposed:
        out.print(
            f"NOTHING IS WRITTEN YET. The checks changed since {store.folder} was graded; the new results lie in "
            f"{regrading.target.folder}. Run the same command with --apply to take them over.",
            soft_wrap=True,
        )
    else:
        out.print(f"{len(results)} results in {store.folder}, scores in {table.name}, receipts beside", soft_wrap=True)
    if any(result.status == "broken" for each in results for result in each.results):
        fail("broken on our side, so these points count for nobody: see the lines above, and `grader verify`.")


def _on_cluster(
    address: str,
    catalogue: Catalogue,
    lesson: Lesson,
    handed: list[Handed],
    store: ResultStore,
    out: Console,
    *,
    seed: int,
    course: str | None,
    limits: Limits,
    weak: bool,
) -> list[SubmissionResult]:
    try:
        from grader.cohort.dask_cluster import ClusterError, grade_on_cluster
    except ImportError as error:
        raise WarmParentError(f"--scheduler needs Dask: pip install distributed ({error})") from error
    with _progress(out, lesson, len(handed)) as done:
        try:
            return grade_on_cluster(
                address,
                catalogue,
                lesson.id,
                handed,
                store,
                seed=seed,
                course=course,
                limits=limits,
                allow_weak=weak,
                on_done=done,
            )
        except ClusterError as error:
            raise WarmParentError(str(error)) from error


@contextmanager
def _progress(out: Console, lesson: Lesson, total: int) -> Iterator[Callable[[Graded], None]]:
    """A bar with an estimate of the time left; yields what to call when a submission is done."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=out,
    ) as bar:
        task = bar.add_task(lesson.id, total=total)
        yield lambda each: bar.update(task, advance=1, description=escape(f"{lesson.id} {each.result.learner}"[:40]))


def show_changes(changes: Sequence[Change], out: Console) -> None:
    """Whose score changes, from what to what, and why."""
    learners = len({each.learner for each in changes})
    out.print(
        f"{len(changes)} changes for {learners} learners, {sum(each.points for each in changes):+g} points in all"
    )
    if changes:
        table = Table("learner", "exercise", "before", "after", "why")
        for each in changes:
            reason = textwrap.shorten(each.reason, 160, placeholder=" ...")
            table.add_row(*map(escape, (each.learner, each.exercise_id, each.before, each.after, reason)))
        out.print(table)


def _report(results: list[SubmissionResult], out: Console) -> None:
    for each in results:
        for note in [each.problem] * bool(each.problem) + list(each.repairs):
            out.print(f"{each.learner}: {note}", markup=False, soft_wrap=True)
    table = Table("exercise", *STATUSES, "commonest named mistake")
    for index, first in enumerate(results[0].results):
        mine = [each.results[index] for each in results]
        counts = Counter(result.status for result in mine)
        mistakes = Counter(result.misconception for result in mine if result.misconception).most_common(1)
        common = f"{mistakes[0][0]} ({mistakes[0][1]})" if mistakes else ""
        table.add_row(first.exercise_id, *(str(counts[status] or "") for status in STATUSES), common)
    out.print(table)
