"""A live check says which variables of the demo cells an answer leans on; an official run really lacks them."""

from __future__ import annotations

from pathlib import Path

import pytest
from submissions import code_cell, hand_in
from tiny_courses import load_course

from grader import live
from grader.cohort.grading import Grader
from grader.leaning import demo_names_used

LESSON = """
import numpy as np

SCALE, offset = 3.0, [1]


def double(x):
    return x * SCALE


for step in range(3):
    pass
"""


@pytest.fixture
def lesson_file(tmp_path: Path) -> Path:
    file = tmp_path / "lesson.py"
    file.write_text(LESSON)
    return file


def defined(source: str, name: str = "answer"):
    scope: dict = {"__name__": "__main__"}
    exec(LESSON, scope)
    exec(source, scope)
    return scope[name]


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("def answer(x):\n    return x * SCALE\n", ["SCALE"]),
        ("def answer(x):\n    return double(x)\n", ["SCALE"]),
        ("def answer(x):\n    return [offset for _ in x][step]\n", ["offset", "step"]),
        ("class answer:\n    def add(self, x):\n        return lambda: SCALE\n", ["SCALE"]),
        ("class answer:\n    @staticmethod\n    def add(x):\n        return SCALE\n", ["SCALE"]),
        ("def answer(x, SCALE):\n    return np.sum(x) * SCALE\n", []),
        ("def answer(x):\n    return x.SCALE + x.offset\n", []),
        ("def answer(x):\n    return np.asarray(x)\n", []),
        ("answer = len\n", []),
    ],
)
def test_names_are_found_through_helpers_and_methods(lesson_file: Path, source: str, names: list[str]):
    assert demo_names_used(defined(source), lesson_file) == names


def test_a_name_of_the_learners_own_is_theirs(lesson_file: Path):
    answer = defined("def answer(x):\n    return x * SCALE\n")
    assert demo_names_used(answer, lesson_file, ["SCALE = 4.0"]) == []
    lesson_file.write_text(LESSON.replace("SCALE, offset = 3.0, [1]", 'SCALE = use("scale")'))
    assert demo_names_used(answer, lesson_file) == []  # an official run supplies it
    lesson_file.write_text(LESSON)
    assert demo_names_used(answer, lesson_file, ["def SCALE():\n    return 4.0"]) == []
    assert demo_names_used(answer, lesson_file, ["def SCALE():\n    raise NotImplementedError"]) == ["SCALE"]
    assert demo_names_used(answer, lesson_file, ["SCALE, offset = 3.0, [1]", "%matplotlib inline"]) == ["SCALE"]


DEMO = ("l01_plain/lesson.py", 'print(use("scaled_sum")', 'FACTOR = 1.0\nprint(use("scaled_sum")')
LEANING = "def scaled_sum(base, update, scale):\n    return base + FACTOR * scale * update\n"


def test_the_official_run_lacks_them(tmp_path: Path):
    catalogue = load_course(tmp_path, DEMO)
    with Grader("l01_plain", seed=0, catalogue=catalogue) as grader:
        data = hand_in(catalogue, "l01_plain", {"l01-scaled-sum": LEANING})
        assert "NameError: name 'FACTOR' is not defined" in grader.grade(data).results[0].message
        own = hand_in(catalogue, "l01_plain", {"l01-scaled-sum": LEANING}, end=code_cell("FACTOR = 1.0")["source"])
        assert grader.grade(own).results[0].passed


def test_the_live_check_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    catalogue = load_course(tmp_path, DEMO)
    monkeypatch.setattr(live, "find_course", lambda: catalogue)
    monkeypatch.setenv("GRADER_PROGRESS", str(tmp_path / "progress.sqlite"))
    scope: dict = {"__name__": "__main__", "FACTOR": 1.0}
    exec(LEANING, scope)
    live.check(scope["scaled_sum"])
    assert "leans on `FACTOR` from a demo cell" in capsys.readouterr().out
    exec("def scaled_sum(base, update, scale):\n    return base + scale * update\n", scope)
    live.check(scope["scaled_sum"])
    assert "leans on" not in capsys.readouterr().out
