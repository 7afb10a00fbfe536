"""Grade submissions of one lesson: a `Grader`, made once, grades any number of notebooks.

Judging happens in this process, where learner code never runs; calling happens in the children of one warm parent.
"""

from __future__ import annotations

import gc
import hashlib
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grader.call import Outcome
from grader.catalogue import Catalogue, find_course
from grader.cohort.manifest import Manifest, preload, read_manifest
from grader.cohort.public_tree import imports_of, lesson_sources, write_public_tree
from grader.cohort.result import SubmissionResult
from grader.cohort.session import Answered, Session
from grader.cohort.submission import Submission, UnreadableError, read_submission, with_parts
from grader.cohort.warm_parent import ChildError, WarmParent, WarmParentError, interpreter_folders
from grader.exercise import Exercise
from grader.forbidden import NotebookNames
from grader.judge import BrokenExerciseError, Question, broken, call_all, judge, not_started, prepare
from grader.live import LIVE_SEED
from grader.result import Result
from grader.sandbox.isolation import Isolation, Limits

RESTARTS = 3


class WeakIsolationError(RuntimeError):
    """This host cannot confine learner code; says what is missing and how to go on all the same."""


@dataclass
class _Prepared:
    """One exercise made ready: its questions, or why it is broken, and the outcomes of its misconceptions."""

    exercise: Exercise
    questions: list[Question]
    broken: Result | None = None


class Grader:
    """Grades submissions of one lesson with one secret seed. Use as a context manager; `grade` from any thread.

    seed: None for the public cases of the live check. limits: of each child. allow_weak: grade also where the host
    cannot isolate.
    """

    def __init__(
        self,
        lesson: str,
        *,
        seed: int | None,
        catalogue: Catalogue | None = None,
        limits: Limits | None = None,
        allow_weak: bool = False,
        on_progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.catalogue = catalogue or find_course()
        self.lesson = self.catalogue.lesson(lesson)
        self.seed, self.limits, self.allow_weak = seed, limits or Limits(), allow_weak
        self.folder = Path(tempfile.mkdtemp(prefix="grader-"))
        self.parent_lock, self.judge_lock = threading.Lock(), threading.Lock()
        self.wrong_outcomes: dict[tuple[str, str], list[Outcome]] = {}
        self.parent: WarmParent | None = None
        try:
            self.catalogue.course.prepare()
            self._require_hidden_answers()
            self.modules = self._modules_to_import()
            self.parent = self._start_parent()
            on_progress("reading the lesson, while the warm parent imports")
            with _no_collections():
                self.manifest: Manifest = read_manifest(self.catalogue, self.lesson)
            self.version = checks_version(self.manifest, seed)
            self._write_public_tree()
            on_progress("computing expected values")
            self.prepared = [self._prepare(exercise) for exercise in self.manifest.exercises]
            self.isolation = self._require_isolation(self.parent)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Grader:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Stop the warm parent and remove its folder."""
        if self.parent is not None:
            self.parent.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def grade(self, data: bytes, learner: str = "") -> SubmissionResult:
        """Grade one notebook. Bad input of any kind gives a result that says so, never an exception.

        Raises WarmParentError when a dead warm parent cannot be replaced: then nobody's notebook can be graded.
        """
        began = time.monotonic()
        digest = hashlib.sha256(data).hexdigest()
        try:
            submission = read_submission(data, self.manifest)
        except UnreadableError as error:
            results = tuple(not_started(exercise, "Nothing could be read.") for exercise in self.manifest.exercises)
            return self._result(learner, digest, results, began, problem=str(error))
        except Exception as error:
            return self._ungraded(digest, learner, began, _our_fault(error))
        for attempt in range(RESTARTS):
            parent = self.parent
            assert parent is not None
            try:
                return self._grade(submission, learner, began, parent)
            except ChildError as error:
                return self._ungraded(digest, learner, began, error, submission.repairs)
            except WarmParentError as error:
                self._replace_parent(parent)
                if attempt + 1 == RESTARTS:
                    # Perhaps this notebook's doing, perhaps not: nobody's points, and no reason to stop the others.
                    reason = WarmParentError(f"{error}; so it went {RESTARTS} times under this notebook")
                    return self._ungraded(digest, learner, began, reason, submission.repairs)
            except Exception as error:
                return self._ungraded(digest, learner, began, _our_fault(error), submission.repairs)
        raise AssertionError("unreachable: the last restart returns")

    def _ungraded(
        self, sha256: str, learner: str, began: float, error: Exception, repairs: tuple[str, ...] = ()
    ) -> SubmissionResult:
        results = tuple(broken(exercise, error) for exercise in self.manifest.exercises)
        problem = f"not graded, and not the learner's fault: {error}. The next run tries again."
        return self._result(learner, sha256, results, began, problem=problem, repairs=repairs)

    def _grade(self, submission: Submission, learner: str, began: float, parent: WarmParent) -> SubmissionResult:
        session = self._session(parent, submission)
        results = self._results(self.prepared, session, submission)
        for number, prepared in enumerate(self.prepared):
            if results[number].status in ("failed", "crashed"):
                unsolved = [each.exercise for i, each in enumerate(self.prepared[:number]) if not results[i].passed]
                supplied = with_parts(submission, prepared.exercise, unsolved)
                if supplied is not submission:
                    again = self._session(parent, supplied)
                    again.began = session.began
                    again.plain |= session.plain
                    (results[number],) = self._results([prepared], again, supplied)
                    session.add_usage(again)
        return self._result(
            learner,
            submission.sha256,
            tuple(results),
            began,
            repairs=submission.repairs,
            peak_bytes=session.peak_bytes,
            processor_seconds=round(session.processor_seconds, 3),
        )

    def _session(self, parent: WarmParent, submission: Submission) -> Session:
        names = {exercise.id: exercise.answer_name for exercise in self.manifest.exercises}
        return Session(parent, submission, self._module_name, names)

    def _results(self, asked: Sequence[_Prepared], session: Session, submission: Submission) -> list[Result]:
        """Call, then judge."""
        try:
            # All visible cases first: what learner code says is shown for those, and it must not know a hidden one yet.
            visible = [self._call(prepared, session, visible=True) for prepared in asked]
            hidden = [self._call(prepared, session, visible=False) for prepared in asked]
        finally:
            session.close()
        plain = {cell.name: session.plain.get(cell.name) for cell in submission.cells}
        names = NotebookNames({name: cell for name, cell in plain.items() if cell})
        answered = zip(asked, visible, hidden, strict=True)
        return [self._judge_alone(prepared, submission, names, shown, rest) for prepared, shown, rest in answered]

    def _call(self, prepared: _Prepared, session: Session, *, visible: bool) -> Answered:
        exercise = prepared.exercise
        if prepared.broken or exercise.id not in session.submission.answers:
            return Answered([])
        asked = [question for question in prepared.questions if question.case.visible == visible]
        return session.run(exercise, asked, exercise.limit_seconds)

    def _judge_alone(
        self, prepared: _Prepared, submission: Submission, names: NotebookNames, visible: Answered, hidden: Answered
    ) -> Result:
        """A fault in judging one exercise costs that one: the others' results stand."""
        try:
            return self._judge(prepared, submission, names, visible, hidden)
        except Exception as error:
            return broken(prepared.exercise, _our_fault(error))

    def _judge(
        self, prepared: _Prepared, submission: Submission, names: NotebookNames, visible: Answered, hidden: Answered
    ) -> Result:
        exercise = prepared.exercise
        if prepared.broken:
            return prepared.broken
        if exercise.id not in submission.answers:
            return not_started(exercise)
        if absent := visible.absent or hidden.absent:
            return not_started(exercise, f"No answer was found: {absent} after your notebook has run.")
        rest = {True: iter(visible.outcomes), False: iter(hidden.outcomes)}
        outcomes = [next(rest[question.case.visible]) for question in prepared.questions]
        found = names.violations(exercise.answer_name, exercise.forbidden, submission.answers[exercise.id])

        def outcomes_of(wrong: Callable[..., Any]) -> list[Outcome]:
            return self._outcomes_of(prepared, wrong)

        with self.judge_lock:
            return judge(
                exercise,
                prepared.questions,
                outcomes,
                violations=found,
                outcomes_of=outcomes_of,
                digest_key=str(self.seed),
            )

    def _outcomes_of(self, prepared: _Prepared, wrong: Callable[..., Any]) -> list[Outcome]:
        key = prepared.exercise.id, wrong.__name__
        if key not in self.wrong_outcomes:
            self.wrong_outcomes[key] = call_all(prepared.exercise, wrong, prepared.questions)
        return self.wrong_outcomes[key]

    def _prepare(self, exercise: Exercise) -> _Prepared:
        try:
            return _Prepared(exercise, prepare(exercise, *case_seeds(self.seed, exercise.id)))
        except BrokenExerciseError as error:
            return _Prepared(exercise, [], broken(exercise, error))

    def _modules_to_import(self) -> list[tuple[str, list[str]]]:
        """What the lesson's files import from elsewhere, read from their text, and what reads cell magics."""
        folder = self.catalogue.lesson_file(self.lesson).parent
        sources = [file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.py"))]
        wanted = [("IPython.core.inputtransformer2", []), *imports_of(sources)]
        return [(name, names) for name, names in wanted if name.partition(".")[0] not in ("grader", self._package)]

    def _start_parent(self) -> WarmParent:
        """Begun before this process imports the lesson, so that both import torch and the rest at the same time.

        The course's own modules come later (`_course_modules`): its public tree is not written yet.
        """
        scratch = self.folder / "scratch"
        for folder in (self._public, scratch):
            folder.mkdir(exist_ok=True)
        sandbox = self.catalogue.course.sandbox()
        return WarmParent(
            python_path=[str(self._public)],
            modules=self.modules,
            readable=sandbox.readable,
            environment=sandbox.environment,
            scratch=scratch,
            limits=self.limits,
        )

    def _write_public_tree(self) -> None:
        try:
            write_public_tree(self.catalogue, self.lesson, self._public, preload(self.manifest))
        except OSError as error:
            reason = error.args[0][-1][-1] if isinstance(error, shutil.Error) else error
            raise WarmParentError(
                f"the course cannot be copied for learner code: {reason}. Make room in {self.folder.parent}, or set "
                "TMPDIR to a folder that has some, and run the same command again."
            ) from error

    def _course_modules(self) -> list[str]:
        """The lesson's own modules, and what it imports of the course."""
        own = [self._module_name(exercise) for exercise in self.manifest.exercises]
        sources = lesson_sources(self._public / self._package, self.catalogue, self.lesson)
        imported = imports_of([*preload(self.manifest), *sources])
        return own + [name for name, _ in imported if name.partition(".")[0] == self._package]

    def _probes(self) -> list[tuple[str, str]]:
        """(module, name) of every exercise's probe, if it has one."""
        exercises = self.manifest.exercises
        return [(self._module_name(each), each.probe_function.__name__) for each in exercises if each.probe_function]

    def _require_hidden_answers(self) -> None:
        """Learner code may read Python's packages, so the course with its answers must not lie among them."""
        lessons = self.catalogue.lessons_folder.resolve()
        for folder in interpreter_folders():
            if lessons.is_relative_to(Path(folder).resolve()):
                raise WeakIsolationError(
                    f"the course's answers lie in {lessons}, among the packages that learner code may read; grade from "
                    "a clone that is installed with `pip install --editable .`"
                )

    def _require_isolation(self, parent: WarmParent) -> Isolation:
        isolation = parent.wait_until_ready([*self._course_modules(), *self._loaded()], self._probes())
        if not isolation.holds and not self.allow_weak:
            raise WeakIsolationError(
                f"isolation: {isolation}. Missing: {'; '.join(isolation.missing)}. Grade on a Linux host that allows "
                "these, or accept the risk with --allow-weak-isolation."
            )
        return isolation

    def _loaded(self) -> list[str]:
        """Modules loaded here, of the packages that the lesson imports."""
        packages = {name.partition(".")[0] for name, _ in self.modules}
        return sorted(name for name in list(sys.modules) if name.partition(".")[0] in packages)

    @property
    def _public(self) -> Path:
        return self.folder / "public"

    @property
    def _package(self) -> str:
        return self.catalogue.course.lessons_package.partition(".")[0]

    def _replace_parent(self, dead: WarmParent) -> None:
        with self.parent_lock:
            if self.parent is dead:
                dead.close()
                fresh = self._start_parent()
                self._require_isolation(fresh)
                self.parent = fresh  # Only now: another thread would ask it for children at once.

    def _module_name(self, exercise: Exercise) -> str:
        return f"{self.catalogue.course.lessons_package}.{self.lesson.id}.{exercise.file_stem}"

    def _result(
        self, learner: str, sha256: str, results: tuple[Result, ...], began: float, **details: Any
    ) -> SubmissionResult:
        return SubmissionResult(
            learner=learner,
            lesson=self.lesson.id,
            sha256=sha256,
            version=self.version,
            isolation=str(self.isolation),
            results=results,
            seconds=round(time.monotonic() - began, 3),
            **details,
        )


def _our_fault(error: Exception) -> RuntimeError:
    """What one notebook brought out in the grader, and must not cost the others their run."""
    return RuntimeError(f"a fault of the grader, {type(error).__name__}: {error}")


@contextmanager
def _no_collections() -> Iterator[None]:
    """While a lesson's libraries are imported, the garbage collector finds next to nothing and takes a tenth longer."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def checks_version(manifest: Manifest, seed: int | None) -> str:
    """Changes whenever the notebook, a file of the lesson's folder or the seed does; tells nothing of the seed."""
    digest = hashlib.sha256(f"{manifest.digest} {seed}".encode())
    for folder in sorted({Path(exercise.source_file).parent for exercise in manifest.exercises}):
        for file in sorted(folder.glob("*.py")):  # Also what probes and oracles share: a change there changes verdicts.
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def case_seeds(secret: int | None, exercise_id: str) -> tuple[int, int]:
    """(seed of the visible cases, seed of the hidden ones) of one exercise; neither tells the secret or the other.

    An input may hold the seed it was made from, and messages show the inputs of visible cases.
    """
    if secret is None:
        return LIVE_SEED, LIVE_SEED

    def derived(kind: str) -> int:
        return int.from_bytes(hashlib.sha256(f"{secret} {exercise_id} {kind}".encode()).digest()[:4]) >> 1

    return derived("visible"), derived("hidden")
