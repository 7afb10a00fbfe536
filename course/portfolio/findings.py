"""What the artefacts of a workspace show. A damaged or contradicting file is named, and gives no number."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from course.evaluation import compare_runs, error_kinds, scored_items
from course.evaluation.summary import ErrorKind, Row, by_slice
from course.run_record import RecordError, parse_record

if TYPE_CHECKING:
    import pandas

    from grader.catalogue import Catalogue

# L09's answers executed and scored again. Named, not imported, as the syllabus names a lesson's evaluation: the toolkit
# knows no lesson. It raises a RuntimeError for answers that contradict their record.
TEXT_TO_SQL_ROWS = "course.lessons.l18_statistics.own_run:own_rows"
SMOKE = "a shortened run (COURSE_SMOKE=1), whose numbers mean nothing; run the lesson in full"


@dataclass(frozen=True)
class Source:
    """A file that numbers come from. path: relative to the workspace."""

    path: str
    sha256: str


@dataclass(frozen=True)
class Comparison:
    """Runs that answered the same questions. Changes are from the first of `names` to the last, paired."""

    lesson: str
    title: str
    model: str
    task: str
    names: tuple[str, ...]
    overall: Row
    slices: Mapping[str, Sequence[Row]]
    errors: Sequence[ErrorKind]
    sources: tuple[Source, ...]


@dataclass(frozen=True)
class Record:
    """A lesson's or a training's record as data."""

    lesson: str
    data: Mapping[str, Any]
    sources: tuple[Source, ...]


@dataclass(frozen=True)
class Skill:
    """Exercises that build a skill: how many there are, and how many the learner passed."""

    name: str
    about: str
    exercises: int
    passed: int


@dataclass
class Findings:
    """Everything found. missing: (what, what makes it). damaged: (file, what is wrong)."""

    comparisons: list[Comparison] = field(default_factory=list)
    trainings: list[Record] = field(default_factory=list)
    records: dict[str, Record] = field(default_factory=dict)
    skills: list[Skill] = field(default_factory=list)
    passed: int = 0
    exercises: int = 0
    progress: tuple[Source, ...] = ()
    missing: list[tuple[str, str]] = field(default_factory=list)
    damaged: list[tuple[str, str]] = field(default_factory=list)

    @property
    def sources(self) -> list[Source]:
        """Every file that a number came from, by path."""
        compared = {each for one in self.comparisons for each in one.sources}
        recorded = {each for one in (*self.trainings, *self.records.values()) for each in one.sources}
        return sorted({*self.progress, *compared, *recorded}, key=lambda each: each.path)


def collect(folder: Path, catalogue: Catalogue) -> Findings:
    """Read the artefacts of a workspace."""
    return _Collector(folder, catalogue).run()


def source(folder: Path, path: Path) -> Source:
    """The file with its sum as it is now. Raises RecordError for one that is missing or lies outside of `folder`."""
    if not path.resolve().is_relative_to(folder.resolve()):
        raise RecordError(f"{path} lies outside of the workspace; run its lesson there")
    if not path.is_file():
        raise RecordError(f"{path.relative_to(folder).as_posix()} is missing; run the last cells of its lesson again")
    return Source(path.relative_to(folder).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest())


class _Collector:
    def __init__(self, folder: Path, catalogue: Catalogue) -> None:
        self.folder, self.catalogue, self.found = folder, catalogue, Findings()

    def run(self) -> Findings:
        makers = (
            ("l09", "l09_qlora", self._text_to_sql, "text-to-SQL before and after QLoRA", "09_qlora.ipynb to its end"),
            ("l17", "l17_metrics", self._harness, "lm-eval before and after, by slice", "17_metrics.ipynb, section 8"),
            ("l07", "l07_lora", self._plain_record, "a LoRA of your own, before and after", "07_lora.ipynb"),
            ("l08", "l08_quantisation", self._plain_record, "what each number format costs", "08_quantisation.ipynb"),
        )
        for prefix, lesson, read, what, notebook in makers:
            files = sorted(self.folder.glob(f"runs/{prefix}*/result.json"))
            before = len(self.found.comparisons) + len(self.found.records)
            for path in files:
                with self._damage_told(path):
                    record = parse_record(path.read_bytes(), lesson, path.relative_to(self.folder))
                    if record["smoke"]:
                        self.found.damaged.append((self._name(path), SMOKE))
                    else:
                        read(path, lesson, record)
            if len(self.found.comparisons) + len(self.found.records) == before:
                self.found.missing.append((what, f"run {notebook}"))
        self._progress()
        return self.found

    @contextmanager
    def _damage_told(self, path: Path) -> Iterator[None]:
        try:
            yield
        except (RecordError, RuntimeError, ValueError, KeyError, TypeError, OSError) as error:
            self.found.damaged.append((self._name(path), str(error).replace(f"{self.folder}/", "")))

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _text_to_sql(self, path: Path, lesson: str, record: Mapping[str, Any]) -> None:
        """L09: every stored answer is executed and scored again; the record must say what they give."""
        import pandas

        from course.training import TrainingConfig

        training = path.parent / f"training-{TrainingConfig(**record['training']).hash()}"
        answers = [path.parent / "few-shot.jsonl", path.parent / "zero-shot.jsonl", training / "answers.jsonl"]
        sources = tuple(source(self.folder, each) for each in (path, *answers))
        table = pandas.DataFrame(resolve_name(TEXT_TO_SQL_ROWS)(path.parent))
        table["error"] = table["outcome"].where(~table["correct"], "")
        table = table.rename(columns={"gold": "expected", "predicted": "answered", "message": "detail"})
        runs = {way: table[table["way"] == way] for way in ("few-shot", "zero-shot", "tuned")}
        title = "Text-to-SQL: prompted, and fine-tuned with QLoRA"
        self.found.comparisons.append(_comparison(lesson, title, record["model"], "sql", runs, sources))
        with self._damage_told(training / "run.json"):
            made = source(self.folder, training / "run.json")
            run = json.loads((training / "run.json").read_text(encoding="utf-8"))
            wanted = ("tokens", "seconds", "peak_memory_bytes", "trainable_parameters", "losses")
            if not isinstance(run, dict) or any(name not in run for name in wanted):
                raise RecordError(f"it lacks one of {', '.join(wanted)}; run 09_qlora.ipynb again")
            if run["tokens"] != record["tokens"]:
                raise RecordError(
                    f"it says {run['tokens']} training tokens and {self._name(path)} says {record['tokens']}"
                )
            self.found.trainings.append(Record(lesson, {**run, "model": record["model"]}, (made,)))

    def _harness(self, path: Path, lesson: str, record: Mapping[str, Any]) -> None:
        """L17: lm-eval's own sample files, by the results files that the record names."""
        runs: dict[str, dict[str, pandas.DataFrame]] = {}
        used: dict[str, list[Source]] = {}
        for name in ("before", "after"):
            for results in (self.folder / each for each in record["files"][name]):
                source(self.folder, results)
                stamp = results.stem.removeprefix("results_")
                for samples in sorted(results.parent.glob(f"samples_*_{stamp}.jsonl")):
                    task = samples.name.removeprefix("samples_").removesuffix(f"_{stamp}.jsonl")
                    used.setdefault(task, []).append(source(self.folder, samples))
                    runs.setdefault(task, {})[name] = scored_items(task, samples)
        if not runs:
            raise RecordError("the samples of its evaluations are missing; run 17_metrics.ipynb again")
        adapter = "L09's adapter" if record["adapter_trained_in_l09"] else "a SHORT training of L17's own"
        for task, pair in runs.items():
            if list(pair) != ["before", "after"]:
                raise RecordError(f"{task} was evaluated only {' and '.join(pair)}; run 17_metrics.ipynb again")
            sources = (source(self.folder, path), *used[task])
            title = f"{task} through lm-eval: before and after fine-tuning ({adapter})"
            self.found.comparisons.append(_comparison(lesson, title, record["model"], task, pair, sources))

    def _plain_record(self, path: Path, lesson: str, record: Mapping[str, Any]) -> None:
        self.found.records[lesson] = Record(lesson, record, (source(self.folder, path),))

    def _progress(self) -> None:
        from grader.progress import FOLDER, Progress, ProgressError

        path = self.folder / FOLDER / "progress.sqlite"
        exercises = [each for lesson in self.catalogue.course.lessons for _, each in self.catalogue.exercises(lesson)]
        if not path.is_file():
            self.found.missing.append(("exercises passed", "check an exercise in any lesson"))
            return
        try:
            self.found.progress = (source(self.folder, path),)
            standings = Progress(path).standings()
        except ProgressError as error:
            self.found.damaged.append((self._name(path), str(error)))
            return
        passed = {name for name, standing in standings.items() if standing.status == "passed"}
        self.found.exercises = len(exercises)
        self.found.passed = sum(each.id in passed for each in exercises)
        for name, about in self.catalogue.course.skills.items():
            building = [each for each in exercises if name in each.skills]
            done = sum(each.id in passed for each in building)
            if done:
                self.found.skills.append(Skill(name, about, len(building), done))


def _comparison(
    lesson: str,
    title: str,
    model: str,
    task: str,
    runs: Mapping[str, pandas.DataFrame],
    sources: tuple[Source, ...],
) -> Comparison:
    overall = compare_runs(runs, "all questions")
    return Comparison(
        lesson, title, model, task, tuple(runs), overall, by_slice(task, runs), error_kinds(runs), sources
    )
