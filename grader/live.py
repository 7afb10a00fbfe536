"""In a notebook: `check`, `hint`, `solution`, `reset`, `progress`, `use`.

A check at the desk goes through the same call, wire, compare and judge as an official run. Its verdict never depends on
whether progress could be saved: trouble there is told beside it.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from grader import show, source
from grader.catalogue import Catalogue, CatalogueError, find_course
from grader.exercise import Exercise
from grader.forbidden import violations
from grader.judge import BrokenExerciseError, broken, call_all, judge, prepare
from grader.leaning import demo_names_used
from grader.progress import Progress, ProgressError, Standing
from grader.result import Result
from grader.syllabus import Lesson

LIVE_SEED = 0
TRIES_BEFORE_SOLUTION = 3
PROGRESS_BAR_FROM_SECONDS = 5.0
# Set where a Jupyter server has a page of the whole course: its address there.
HOME_VARIABLE = "GRADER_HOME"

Named = Callable[..., Any] | str


def check(answer: Callable[..., Any]) -> float | None:
    """Check your answer and show what came of it.

    Under nbgrader's autograder it prints plain text and returns the points, which nbgrader takes as the score.
    """
    if not callable(answer):
        raise TypeError(f"check() takes your function or class itself, without calling it; it got {answer!r}")
    if os.environ.get("NBGRADER_EXECUTION") == "autograde":
        return _official_points(answer)
    with _told_plainly():
        catalogue = find_course()
        lesson, exercise = _find(catalogue, answer)
        catalogue.course.prepare()
        with _kept_progress() as progress:
            attempt = _begun(progress, exercise.id, source.source_of(answer))
            try:
                result = check_answer(exercise, answer)
            except BaseException:  # Interrupted by the learner, or our own bug: no attempt either way.
                if progress and attempt:
                    progress.take_back(attempt)
                raise
            # Shown before it is saved: a full disk must not cost the learner the verdict.
            _display(_card(exercise, result).html(), _card(exercise, result).text())
            if progress and attempt:
                progress.finish(attempt, result)
            _warn_of_demo_names(answer, catalogue.lesson_file(lesson))
    return None


def _warn_of_demo_names(answer: Callable[..., Any], lesson_file: Path) -> None:
    """Say what will not be there in an official run, while it is easy to mend."""
    shell = _shell()
    names = demo_names_used(answer, lesson_file, shell.user_ns.get("In", []) if shell else [])
    if names:
        listed = ", ".join(f"`{name}`" for name in names)
        _show(
            f"Your answer leans on {listed} from a demo cell",
            "An official run takes imports, functions and classes from the lesson's own cells and runs yours. It does "
            "not run the rest of the demos: define what you need in a cell of your own.",
        )


def _begun(progress: Progress | None, exercise_id: str, text: str) -> int | None:
    """The attempt's number; None when it cannot be kept, which is told, and the check goes on without it."""
    try:
        return progress.begin(exercise_id, text) if progress else None
    except ProgressError as error:
        _show("This attempt cannot be saved", f"{error} The check goes on.", status="crashed")
        return None


def _official_points(answer: Callable[..., Any]) -> float:
    """The points, for nbgrader: it scores 0 for any stderr, and full marks for a cell that gives no number."""
    with _quiet_stderr():
        try:
            catalogue = find_course()
            exercise = _find(catalogue, answer)[1]
        except CatalogueError as error:
            print(f"Nothing was checked: {error}")
            return 0.0
        catalogue.course.prepare()
        result = check_answer(exercise, answer)
        print(_card(exercise, result).text())
        return result.points


def check_answer(exercise: Exercise, answer: Callable[..., Any], seed: int = LIVE_SEED) -> Result:
    """Judge one answer here and now, in this process, without keeping anything."""
    from tqdm.auto import tqdm

    try:
        questions = prepare(exercise, seed)
    except BrokenExerciseError as error:
        return broken(exercise, error)
    quiet = exercise.seconds <= PROGRESS_BAR_FROM_SECONDS
    with tqdm(total=len(questions), desc="checking", unit="case", leave=False, disable=quiet) as bar:
        outcomes = call_all(exercise, answer, questions, exercise.limit_seconds, on_case=bar.update)
    found = violations(answer, exercise.forbidden)
    return judge(exercise, questions, outcomes, violations=found)


def hint(answer: Named | None = None) -> None:
    """Show the next general hint for an exercise (default: the one you checked last)."""
    with _told_plainly(), _kept_progress() as progress:
        exercise = _chosen(answer, progress)
        shown = progress.standings().get(exercise.id, Standing()).hints if progress else 0
        number = min(shown, len(exercise.hints) - 1)
        _show(f"{exercise.title}: hint {number + 1} of {len(exercise.hints)}", exercise.hints[number])
        if progress and shown < len(exercise.hints):
            progress.note_help(exercise.id, "hint")


def solution(answer: Named | None = None) -> None:
    """Show the course's answer, once you have passed or have tried three times."""
    with _told_plainly(), _kept_progress() as progress:
        exercise = _chosen(answer, progress)
        standing = progress.standings().get(exercise.id, Standing()) if progress else Standing()
        if standing.status != "passed" and standing.tries < TRIES_BEFORE_SOLUTION:
            left = TRIES_BEFORE_SOLUTION - standing.tries
            tries = "one more try" if left == 1 else f"{left} more tries"
            _show(
                f"{exercise.title}: not yet",
                f"The solution opens after you pass, or after {tries}. Try `hint()`.",
            )
            return
        if progress:
            progress.note_help(exercise.id, "solution")
        card = show.Card(
            "todo",
            f"{exercise.title}: one right answer",
            "Other answers are right too: what is checked is what they give.",
            (("In the library", exercise.library_note),) if exercise.library_note else (),
            source.answer_source(exercise),
        )
        _display(card.html(), card.text())


def reset(answer: Named) -> None:
    """Put the exercise's original stub into a new cell below. Your own cell and your attempts stay as they are."""
    with _told_plainly():
        _, exercise = _find(find_course(), answer)
        stub = source.stub(exercise)
        shell = _shell()
        if shell is not None and hasattr(shell, "set_next_input"):
            shell.set_next_input(stub, replace=False)
            _show(f"{exercise.title}: the stub is in a new cell below", "Your own cell is untouched.")
        else:
            print(stub)


def progress() -> None:
    """Show where you stand with every exercise of the course."""
    with _told_plainly(), _kept_progress() as kept:
        standings = kept.standings() if kept else {}
        catalogue = find_course()
        sections = []
        for lesson in catalogue.course.lessons:
            rows = []
            for _, exercise in catalogue.exercises(lesson):
                standing = standings.get(exercise.id, Standing())
                rows.append(
                    show.ProgressRow(
                        exercise.title,
                        exercise.answer_name,
                        standing.status,
                        standing.tries,
                        standing.points,
                        exercise.points,
                    )
                )
            sections.append((f"{lesson.code} {lesson.title}", rows))
        home = os.environ.get(HOME_VARIABLE, "")
        _display(show.progress_html(sections, home), show.progress_text(sections))


def use(name: str) -> Any:
    """Your own answer if this very version of it has passed here; else the course's, and it says so."""
    _, exercise = _find(find_course(), name)
    own = getattr(sys.modules["__main__"], exercise.answer_name, None)
    if own is not None:
        text = source.source_of(own)
        with _kept_progress() as kept:
            passed = [a.source for a in kept.attempts(exercise.id) if a.status == "passed"] if kept else []
        if text and text in passed:
            print(f"using your own {exercise.answer_name}")
            return own
    print(f"using the course's {exercise.answer_name} (yours has not passed its check yet)")
    return exercise.answer


def _find(catalogue: Catalogue, named: Named) -> tuple[Lesson, Exercise]:
    return catalogue.find(named if isinstance(named, str) else getattr(named, "__name__", repr(named)))


def _chosen(named: Named | None, progress: Progress | None) -> Exercise:
    if named is None:
        named = progress.last_checked() if progress else None
        if named is None:
            raise CatalogueError("nothing has been checked yet: say which exercise, as in hint(my_function)")
    return _find(find_course(), named)[1]


def _card(exercise: Exercise, result: Result) -> show.Card:
    return show.result_card(result, library_note=exercise.library_note, interview=exercise.interview)


@contextmanager
def _kept_progress() -> Iterator[Progress | None]:
    """The learner's progress, or None when it cannot be opened; trouble is shown, never raised."""
    kept: Progress | None = None
    try:
        kept = Progress()
        if kept.notice:
            _show("Progress repaired", kept.notice, status="crashed")
        for exercise_id in _dead(kept):
            _show(
                f"{exercise_id}: the last check did not finish",
                "The kernel stopped while your code ran: out of memory, or a call that ends the process? It counts as "
                "crashed. What you had written is kept: `grader attempts` lists it.",
                status="crashed",
            )
    except ProgressError as error:
        _show("Your progress could not be opened", f"{error} Checks still work.", status="crashed")
    try:
        yield kept
    except ProgressError as error:
        _show("This could not be saved", f"{error} The verdict stands.", status="crashed")


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Nothing reaches stderr: not through Python, nor log handlers that hold the old stream, nor C code."""
    logged, kept = logging.root.manager.disable, os.dup(2)
    with open(os.devnull, "w") as nowhere:
        logging.disable(logging.CRITICAL)
        os.dup2(nowhere.fileno(), 2)
        try:
            with redirect_stderr(nowhere):
                yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            logging.disable(logged)


def _dead(kept: Progress) -> list[str]:
    try:
        return kept.close_dead_attempts()
    except ProgressError:
        return []  # A file that can only be read still shows what it holds; saving is what will complain.


@contextmanager
def _told_plainly() -> Iterator[None]:
    """Expected trouble becomes a short card instead of a traceback."""
    try:
        yield
    except CatalogueError as error:
        _show("Nothing was checked", str(error), status="crashed")


def _show(title: str, body: str, status: str = "todo") -> None:
    card = show.Card(status, title, body)
    _display(card.html(), card.text())


def _display(as_html: str, as_text: str) -> None:
    if _shell() is None:
        print(as_text)
        return
    from IPython.display import display

    display({"text/html": as_html, "text/plain": as_text}, raw=True)


def _shell() -> Any:
    """The running IPython shell, or None in a plain interpreter."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython else None


__all__ = ["check", "check_answer", "hint", "progress", "reset", "solution", "use"]
