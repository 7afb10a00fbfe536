"""Grading asks for no rights: an ordinary user gets the same wall and the same results as root."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from attacks import ATTACKS, RIGHT, RIGHT_MEAN, WRONG
from ordinary_users import NOBODY, ROOT, as_ordinary_user
from submissions import hand_in
from tiny_courses import copy_course

from grader.catalogue import find_course
from grader.cohort.collect import find_submissions
from grader.cohort.grading import Grader
from grader.cohort.result import SubmissionResult
from grader.cohort.run import grade_all
from grader.cohort.store import ResultStore

LESSON = "l01_plain"
SUM, MEAN = "l01-scaled-sum", "l01-running-mean"
ANSWERS = {
    "right": (RIGHT, ""),
    "wrong": (WRONG, ""),
    "exits": ATTACKS["A16 B9 os._exit in the answer"],
    "kills": ATTACKS["every process killed"],
    "writes": ATTACKS["A11 B2 B3 files written over tests and gradebook"],
    "reads": ATTACKS["A10 B6 the answer's source looked for on the disk"],
}


def test_an_ordinary_user_grades_behind_the_whole_wall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    own = tmp_path / "own"
    spec = copy_course(own / "course", name="tiny_for_an_ordinary_user")
    monkeypatch.syspath_prepend(str(own / "course"))
    catalogue = find_course(spec)
    for learner, (answer, top) in ANSWERS.items():
        path = own / "in" / learner / "01_plain.ipynb"
        path.parent.mkdir(parents=True)
        path.write_bytes(hand_in(catalogue, LESSON, {SUM: answer, MEAN: RIGHT_MEAN}, top=top))
    handed = find_submissions(own / "in", catalogue.lesson(LESSON))
    with Grader(LESSON, seed=11, catalogue=catalogue) as grader:
        isolation = str(grader.isolation)
        wanted = grade_all(grader, handed, ResultStore(tmp_path / "out", LESSON), workers=2)
    assert {each.learner: each.points for each in wanted} == dict.fromkeys(ANSWERS, 2) | {"right": 5}

    arguments = ["in", "--lesson", LESSON, "--out", "out", "--seed", "11", "--workers", "2"]
    done = subprocess.run(
        [*as_ordinary_user(own), sys.executable, "-m", "grader.cli", "grade", *arguments],
        cwd=own,
        # Nothing of root's: neither home nor caches nor settings.
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(own),
            "PYTHONPATH": f"{own / 'course'}{os.pathsep}{ROOT}",
            "GRADER_COURSE": spec,
            "COLUMNS": "200",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"isolation: {isolation}\n" in done.stdout
    assert re.fullmatch(r"namespaces, Landlock \d+, seccomp", isolation)
    found = [own / "out" / LESSON / f"{each.learner}.json" for each in wanted]
    results = [SubmissionResult.from_dict(json.loads(path.read_text())) for path in found]
    assert [each.verdict for each in results] == [each.verdict for each in wanted]
    assert {path.stat().st_uid for path in found} == {NOBODY if os.geteuid() == 0 else os.geteuid()}
