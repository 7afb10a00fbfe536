"""otter's own `otter run`, in an environment of its own: its pins need not agree with the course's.

The environment is made once, in the user's cache folder. It borrows the installed packages (torch and the rest) through
a `.pth` file, so it holds only what otter needs beyond them, about 60 MB, and runs on the very same torch.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import statistics
import subprocess
import sys
import sysconfig
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.grading.peer_tests import peer_tests
from bench.grading.runs import BenchError, Run, timed
from course.model_cache import cache_root
from grader.catalogue import Catalogue
from grader.syllabus import Lesson

REQUIREMENT = "otter-grader>=7,<8"
TEST_FILE = '''\
"""An exception-based test, as otter's documentation has them."""

from otter.test_files import test_case

OK_FORMAT = False
name = {name!r}
points = {points}


@test_case()
def test({answer}):
{body}
'''


def environment(on_progress: Callable[[str], None] = lambda _: None) -> Path:
    """The folder of otter's programs, made on demand; raises BenchError."""
    packages = sysconfig.get_paths()["purelib"]
    key = hashlib.sha256(f"{REQUIREMENT} {packages} {sys.version}".encode()).hexdigest()[:12]
    folder = cache_root() / f"otter-{key}"
    programs = folder / "bin"
    if (folder / "ready").exists():
        return programs
    on_progress("making an environment for otter")
    shutil.rmtree(folder, ignore_errors=True)
    borrowed = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages/borrowed.pth"
    _finish([sys.executable, "-m", "venv", str(folder)])
    (folder / borrowed).write_text(f"{packages}\n", encoding="utf-8")
    _finish([str(programs / "python"), "-m", "pip", "install", "--quiet", REQUIREMENT])
    (folder / "ready").touch()
    return programs


def _finish(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(
            f"`{' '.join(command)}` ended with status {done.returncode}: {done.stderr.strip()[-1500:]}\n"
            "otter needs a package index the first time. Without one: --peers nbgrader"
        )


def write_autograder(catalogue: Catalogue, lesson: Lesson, programs: Path, folder: Path) -> Path:
    """`autograder.zip`, by `otter generate`, from the same tests as nbgrader's cells."""
    tests = folder / "tests"
    tests.mkdir(parents=True)
    bodies = peer_tests(catalogue, lesson)
    for _, exercise in catalogue.exercises(lesson):
        body = textwrap.indent(bodies[exercise.id], "    ")
        text = TEST_FILE.format(name=exercise.id, points=exercise.points, answer=exercise.answer_name, body=body)
        (tests / f"{exercise.id}.py").write_text(text, encoding="utf-8")
    without = ["--no-config", "--no-requirements", "--no-environment"]
    timed([programs / "otter", "generate", "-t", tests, "-o", folder / "autograder.zip", *without], folder, {})
    return folder / "autograder.zip"


def run(autograder: Path, programs: Path, notebooks: Sequence[Path], on_done: Callable[[], None]) -> Run:
    """`otter run` once per submission, as its users script it."""
    path = f"{programs}:/usr/bin:/bin"
    spent, processor_seconds, scores = [], 0.0, {}
    for notebook in notebooks:
        learner = notebook.parent.name
        out = autograder.parent / "out" / learner
        out.mkdir(parents=True)
        command = [programs / "otter", "run", "--no-logo", "-a", autograder, "-o", out, notebook]
        seconds, processor = timed(command, autograder.parent, {"PATH": path, "PYTHONPATH": ""})
        spent.append(seconds)
        processor_seconds += processor
        scores[learner] = _points(json.loads((out / "results.json").read_text()))
        on_done()
    return Run("otter run", len(spent), sum(spent), processor_seconds, scores, statistics.mean(spent))


def _points(results: dict) -> dict[str, float]:
    return {test["name"]: test["score"] for test in results["tests"] if "score" in test}
