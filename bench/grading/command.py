"""The command: runs what was asked for, shows where it is, compares scores, prints tables and keeps every figure."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench.grading import nbgrader_peer, otter_peer, ours
from bench.grading.cohort import write_cohort
from bench.grading.report import machine, show
from bench.grading.runs import BenchError, Run, require_same_scores, timed
from grader.catalogue import Catalogue, find_course
from grader.nbgrader_course import make_course
from grader.syllabus import Lesson

ROOT = Path(__file__).resolve().parent.parent.parent
ASSIGNMENTS = ROOT / "bench" / "assignments"
PARTS = ("runs", "nbgrader", "otter", "inside", "dask", "large")
WORKERS = (1, 2)


def main(arguments: list[str] | None = None) -> int:
    """Measure, show, keep; returns 1 when a run failed or graders disagreed."""
    options = _parser().parse_args(arguments)
    out = Console(width=None if sys.stdout.isatty() else 120)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ASSIGNMENTS)])
    sys.path.insert(0, str(ASSIGNMENTS))
    catalogue = find_course(options.course)
    lessons = [catalogue.lesson(name) for name in options.assignments] or list(catalogue.course.lessons)
    kept = Path(options.output)
    found: dict[str, Any] = json.loads(kept.read_text()) if options.add and kept.exists() else {"assignments": {}}
    found["machine"] = machine()
    try:
        total = len(lessons) * sum(expected_seconds(part, options) for part in options.parts)
        with _progress(out, total) as (tell, advance), tempfile.TemporaryDirectory(prefix="bench-") as folder:
            for lesson in lessons:
                bench = Bench(catalogue, lesson, options, Path(folder) / lesson.id, tell, advance)
                bench.found = found["assignments"].setdefault(lesson.id, {})
                bench.run()
    except BenchError as error:
        out.print(f"[red]{error}[/red]", markup=True, soft_wrap=True)
        return 1
    finally:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(found, indent=1) + "\n")
    show(found, out)
    out.print(f"every figure: {kept}", soft_wrap=True)
    return 0


class Bench:
    """One assignment's measurements."""

    def __init__(
        self,
        catalogue: Catalogue,
        lesson: Lesson,
        options: argparse.Namespace,
        folder: Path,
        tell: Callable[[str], None],
        advance: Callable[[float], None],
    ) -> None:
        self.catalogue, self.lesson, self.options, self.folder = catalogue, lesson, options, folder
        self.tell, self.advance = tell, advance
        self.exercises = [exercise.id for _, exercise in catalogue.exercises(lesson)]
        self.found: dict[str, Any] = {}
        self.truth: Run | None = None
        self.number = 0

    def run(self) -> None:
        """All parts asked for, with one run of ours to compare every score with."""
        self.folder.mkdir(parents=True)
        for part in self.options.parts:
            getattr(self, f"_{part}")()
            self.advance(expected_seconds(part, self.options))

    def _cohort(self, count: int) -> list[Path]:
        folder = self.folder / f"in{count}"
        if folder.exists():
            return sorted(folder.glob(f"*/{self.lesson.notebook_name}"))
        return write_cohort(self.catalogue, self.lesson, count, folder)

    def _fresh(self, name: str) -> Path:
        self.number += 1
        folder = self.folder / f"{self.number:03}-{name}"
        folder.mkdir()
        return folder

    def _runs(self) -> None:
        """Ours, whole commands: sizes x workers x repeats, alternating, and in an nbgrader course at the largest."""
        runs: dict[str, list[Run]] = {}
        path = os.environ["PYTHONPATH"]
        for repeat in range(self.options.repeats):
            for size in self.options.sizes:
                for workers in WORKERS:
                    self.tell(f"ours, {size} submissions, {workers} workers, repeat {repeat + 1}")
                    notebooks = self._cohort(size)
                    results = self._fresh("ours") / "results"
                    run = ours.grade_folder(
                        notebooks[0].parent.parent, self.lesson, results, workers, self.options.course, path
                    )
                    self._checked(run)
                    runs.setdefault(f"{size} {workers}", []).append(run)
                if self.options.gradebook:
                    self.tell(f"ours in nbgrader, {size} submissions, repeat {repeat + 1}")
                    course = self._fresh("course") / "course"
                    make_course(self.catalogue, course, [self.lesson.id])
                    nbgrader_peer.submit(course, self.lesson, self._cohort(size))
                    run = ours.grade_course(
                        course, self.lesson, course / "kept", WORKERS[-1], self.options.course, path
                    )
                    self._checked(run)
                    runs.setdefault(f"{size} nbgrader", []).append(run)
        self.found["runs"] = {name: _summary(several) for name, several in runs.items()}

    def _nbgrader(self) -> None:
        self.tell("nbgrader autograde")
        course = self._fresh("nbgrader")
        nbgrader_peer.make_asserting_course(self.catalogue, self.lesson, course)
        nbgrader_peer.submit(course, self.lesson, self._cohort(self.options.peer_submissions))
        run = nbgrader_peer.autograde(course, self.lesson, self.exercises)
        self._checked(run)
        self.found["nbgrader"] = _summary([run])

    def _otter(self) -> None:
        self.tell("otter run")
        programs = otter_peer.environment(self.tell)
        autograder = otter_peer.write_autograder(self.catalogue, self.lesson, programs, self._fresh("otter"))
        run = otter_peer.run(autograder, programs, self._cohort(self.options.peer_submissions), lambda: None)
        self._checked(run)
        self.found["otter"] = _summary([run])

    def _inside(self) -> None:
        self.found["inside"] = self._in_own_process("stages", self.options.sizes[-1])

    def _dask(self) -> None:
        self.found["dask"] = self._in_own_process("dask", self.options.sizes[-1])

    def _in_own_process(self, kind: str, size: int) -> dict[str, Any]:
        self.tell(f"{kind}, {size} submissions")
        folder = self._cohort(size)[0].parent.parent
        output = self._fresh(kind) / "found.json"
        command = [sys.executable, "-m", "bench.grading.inside", kind, self.options.course, self.lesson.id]
        timed([*command, folder, output], output.parent, {})
        return json.loads(output.read_text())

    def _large(self) -> None:
        size = self.options.large
        self.tell(f"ours, {size} submissions")
        notebooks, results = self._cohort(size), self._fresh("large") / "results"
        path = os.environ["PYTHONPATH"]
        run = ours.grade_folder(
            notebooks[0].parent.parent, self.lesson, results, WORKERS[-1], self.options.course, path
        )
        self.found["large"] = _summary([run])

    def _checked(self, run: Run) -> None:
        """Stop where any grader, or any repeat of ours, gives a learner other points than our first run did."""
        if self.truth is None and not run.grader.startswith("ours"):
            notebooks, results = self._cohort(run.submissions), self._fresh("truth") / "results"
            path, course = os.environ["PYTHONPATH"], self.options.course
            self.truth = ours.grade_folder(notebooks[0].parent.parent, self.lesson, results, WORKERS[-1], course, path)
        if self.truth is not None:
            require_same_scores(self.truth, run)
        if run.grader.startswith("ours") and (self.truth is None or run.submissions > self.truth.submissions):
            self.truth = run


def _summary(runs: Sequence[Run]) -> dict[str, Any]:
    """The run of median time, with the spread of all."""
    ordered = sorted(runs, key=lambda run: run.seconds)
    middle = ordered[len(ordered) // 2]
    figures = {name: value for name, value in asdict(middle).items() if name != "scores"}
    points = statistics.mean(sum(each.values()) for each in middle.scores.values())
    return figures | {"all_seconds": [run.seconds for run in runs], "mean_points": points}


def expected_seconds(part: str, options: argparse.Namespace) -> float:
    """About how long a part takes on two cores, for the estimate of the time left."""

    def of_ours(size: int) -> float:
        return 12 + 0.06 * size

    whole = sum(of_ours(size) for size in options.sizes) * (len(WORKERS) + options.gradebook)
    return {
        "runs": options.repeats * whole,
        "nbgrader": 5 + 5 * options.peer_submissions,
        "otter": 10 * options.peer_submissions,
        "inside": of_ours(3 * options.sizes[-1]),
        "dask": 30 + of_ours(2 * options.sizes[-1]),
        "large": of_ours(options.large),
    }[part]


@contextlib.contextmanager
def _progress(out: Console, total: float) -> Iterator[tuple[Callable[[str], None], Callable[[float], None]]]:
    """Yields (say what is being done, so many of the expected seconds are done)."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("left"))
    with Progress(*columns, TimeRemainingColumn(), console=out, transient=True) as bar:
        task = bar.add_task("starting", total=total)
        yield lambda text: bar.update(task, description=text), lambda seconds: bar.advance(task, seconds)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.grading", description="This grader beside its peers.")
    parser.add_argument("--course", default="bench_course:COURSE", help="module:attribute of the assignments' course")
    parser.add_argument("--assignments", nargs="+", default=[], help="lessons of that course (default: all)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    parser.add_argument("--sizes", nargs="+", type=int, default=[12, 100], help="submissions of a run of ours")
    parser.add_argument("--large", type=int, default=1000, help="submissions of the one large run")
    parser.add_argument("--peer-submissions", type=int, default=12, help="submissions that the peers grade")
    parser.add_argument("--repeats", type=int, default=3, help="runs of ours of each size, of which the median counts")
    parser.add_argument("--no-gradebook", dest="gradebook", action="store_false", help="leave out ours in nbgrader")
    parser.add_argument("--output", default=str(ROOT / "artifacts" / "bench-grading.json"), help="file of all figures")
    parser.add_argument("--add", action="store_true", help="add to the figures of that file")
    return parser
