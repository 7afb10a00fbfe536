"""`grader report`: reads results, writes tables and the page, and says where the class is stuck."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from grader.build import write_atomically
from grader.catalogue import Catalogue, CatalogueError
from grader.cohort.collect import CollectError
from grader.cohort.manifest import read_manifest
from grader.report.analysis import Report, Submitted, make_report
from grader.report.export import write_tables
from grader.report.findings import findings
from grader.report.page import render
from grader.report.read import Cohort, ReportError, chosen_folders, read_cohort
from grader.report.sources import read_sources
from grader.report.tries import read_tries
from grader.source import answer_source

PAGE_NAME = "report.html"
FOLDER_NAME = "report"


def write_reports(
    catalogue: Catalogue,
    results: Path,
    lesson: str | None,
    submissions: Path | None,
    folder: Path | None,
    *,
    out: Console,
    fail: Callable[[str], NoReturn],
) -> None:
    """One report per lesson found, in `folder`/LESSON (default: RESULTS/report/LESSON)."""
    try:
        for lesson_id, path in chosen_folders(results, lesson).items():
            cohort = read_cohort(lesson_id, path)
            title = _title(catalogue, lesson_id)
            submitted = None
            if submissions is not None:
                with out.status(f"reading the submissions of {lesson_id}"):
                    submitted = _submitted(catalogue, cohort, submissions)
            with out.status(f"comparing answers of {lesson_id}"):
                report = make_report(cohort, title, submitted)
            target = (folder or results / FOLDER_NAME) / lesson_id
            target.mkdir(mode=0o700, parents=True, exist_ok=True)  # Names, answers and grades.
            write_tables(report, target)
            write_atomically(target / PAGE_NAME, render(report))
            _summarise(report, out)
            out.print(f"page and tables in {target}", markup=False, soft_wrap=True)
    except (ReportError, CollectError, CatalogueError) as error:
        fail(str(error))
    except OSError as error:
        fail(f"the report cannot be written: {error}. Make room, or name another folder with --out.")


def _title(catalogue: Catalogue, lesson_id: str) -> str:
    """The lesson's title; its id when the installed course does not know it, as for results of an older course."""
    try:
        return catalogue.lesson(lesson_id).title
    except CatalogueError:
        return lesson_id


def _submitted(catalogue: Catalogue, cohort: Cohort, folder: Path) -> Submitted:
    manifest = read_manifest(catalogue, catalogue.lesson(cohort.lesson))
    sources, notes = read_sources(folder, manifest, cohort.results)
    known = {each.id: (manifest.stubs[each.id], answer_source(each)) for each in manifest.exercises}
    tries, more = read_tries(folder, cohort.results)
    return Submitted(sources, known, tries, [*notes, *more])


def _summarise(report: Report, out: Console) -> None:
    for note in report.notes:
        out.print(note, markup=False, soft_wrap=True)
    learners, outcomes = len(report.cohort.results), len(report.clusters)
    out.print(f"{report.cohort.lesson}: {learners} learners, {outcomes} different wrong outcomes", soft_wrap=True)
    for sentence in findings(report):
        out.print(f"  {sentence}", markup=False, soft_wrap=True)
