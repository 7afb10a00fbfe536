"""A grade cannot be forged from a notebook: known attacks end with the points that their code has earned."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from attacks import ATTACKS, RIGHT, RIGHT_MEAN, SELF_HARM, WRONG
from submissions import cell_of, code_cell, hand_in, released
from tiny_courses import load_course

from grader.catalogue import Catalogue
from grader.cohort.grading import Grader, case_seeds
from grader.sandbox.isolation import Limits

LESSON = "l01_plain"
SUM, MEAN = "l01-scaled-sum", "l01-running-mean"


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    return load_course(tmp_path_factory.mktemp("course"))


@pytest.fixture(scope="module")
def grader(catalogue: Catalogue) -> Iterator[Grader]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("grader.exercise.SHORTEST_LIMIT_SECONDS", 1.5)
        patch.setattr("grader.exercise.LIMIT_FACTOR", 0)
        patch.setattr("grader.cohort.session.GRACE_SECONDS", 1.0)
        patch.setattr("grader.cohort.session.CELL_SECONDS", 2.0)
        limits = Limits(memory_bytes=512 * 2**20, scratch_bytes=32 * 2**20)
        with Grader(LESSON, seed=987_654_321, catalogue=catalogue, limits=limits) as grader:
            yield grader


def points(grader: Grader, data: bytes) -> dict[str, float]:
    return {result.exercise_id: result.points for result in grader.grade(data).results}


def test_this_host_isolates_at_all(grader: Grader):
    """If this fails, the tests below prove less than they say."""
    assert grader.isolation.holds, str(grader.isolation)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_scores_nothing_and_costs_nothing_else(grader: Grader, catalogue: Catalogue, name: str):
    answer, top = ATTACKS[name]
    data = hand_in(catalogue, LESSON, {SUM: answer, MEAN: RIGHT_MEAN}, top=top)
    result = grader.grade(data)
    assert {each.exercise_id: each.points for each in result.results} == {SUM: 0, MEAN: 2}, result
    assert result.results[0].status in ("failed", "crashed")


@pytest.mark.parametrize("name", SELF_HARM)
def test_breaking_the_own_process_scores_nothing(grader: Grader, catalogue: Catalogue, name: str):
    answer, top = SELF_HARM[name]
    assert points(grader, hand_in(catalogue, LESSON, {SUM: answer, MEAN: RIGHT_MEAN}, top=top))[SUM] == 0


def test_the_attacks_are_what_fails_and_not_the_notebook(grader: Grader, catalogue: Catalogue):
    assert points(grader, hand_in(catalogue, LESSON, {SUM: RIGHT, MEAN: RIGHT_MEAN})) == {SUM: 3, MEAN: 2}


def test_a9_the_public_inputs_hard_coded(grader: Grader, catalogue: Catalogue):
    exercise = catalogue.find("scaled_sum")[1]
    table = [
        (case.inputs["base"].tolist(), (case.inputs["base"] + case.inputs["scale"] * case.inputs["update"]).tolist())
        for case in exercise.make_cases(0)
    ]
    answer = f"import numpy as np\nTABLE = {table!r}\n\n\ndef scaled_sum(base, update, scale):\n"
    answer += "    return next((np.array(want) for seen, want in TABLE if seen == base.tolist()), base)\n"
    from grader.live import check_answer

    names: dict = {}
    exec(answer, names)
    assert check_answer(exercise, names["scaled_sum"]).passed  # It does fool the public cases ...
    assert points(grader, hand_in(catalogue, LESSON, {SUM: answer}))[SUM] == 0  # ... and not those of a secret seed.


def test_a11_the_gradebook_cannot_be_reached(grader: Grader, catalogue: Catalogue, tmp_path: Path):
    gradebook = tmp_path / "gradebook.db"
    with sqlite3.connect(gradebook) as book:
        book.execute("CREATE TABLE grade (score INTEGER)")
        book.execute("INSERT INTO grade VALUES (0)")
    top = f"import sqlite3\nbook = sqlite3.connect({str(gradebook)!r})\nbook.execute('UPDATE grade SET score = 198')\n"
    assert points(grader, hand_in(catalogue, LESSON, {SUM: WRONG}, top=top + "book.commit()\n"))[SUM] == 0
    with sqlite3.connect(gradebook) as book:
        assert book.execute("SELECT score FROM grade").fetchall() == [(0,)]


@pytest.mark.parametrize("damage", ["deleted", "doubled", "ungraded", "markdown", "emptied"])
def test_a12_to_a15_check_cells_decide_nothing(grader: Grader, catalogue: Catalogue, damage: str):
    for answer, earned in ((RIGHT, 3), (WRONG, 0)):
        notebook = json.loads(hand_in(catalogue, LESSON, {SUM: answer, MEAN: RIGHT_MEAN}))
        check = cell_of(notebook, f"{SUM}-check")
        if damage == "deleted":
            notebook["cells"].remove(check)
        elif damage == "doubled":
            notebook["cells"] += [check, dict(check)]
        elif damage == "ungraded":
            check["metadata"]["nbgrader"] = {"grade": False, "grade_id": "x", "points": 100}
        elif damage == "markdown":
            check["cell_type"] = "markdown"
        else:
            check["source"] = "100.0"
        assert points(grader, json.dumps(notebook).encode()) == {SUM: earned, MEAN: 2}


@pytest.mark.parametrize(
    "code", ["import os\nos._exit(0)", "while True: pass", "raise SystemExit(0)", "import sys; sys.exit()"]
)
def test_a16_a_cell_that_ends_or_blocks_the_process_costs_only_itself(grader: Grader, catalogue: Catalogue, code: str):
    data = hand_in(catalogue, LESSON, {SUM: RIGHT, MEAN: RIGHT_MEAN}, top=code)
    assert points(grader, data) == {SUM: 3, MEAN: 2}


def test_a19_correct_code_that_warns_gets_full_marks(grader: Grader, catalogue: Catalogue):
    noisy = (
        "import sys\nimport warnings\n\n\ndef scaled_sum(base, update, scale):\n"
        "    warnings.warn('careful')\n    print('hello')\n    print('oops', file=sys.stderr)\n"
        "    return base + scale * update\n"
    )
    assert points(grader, hand_in(catalogue, LESSON, {SUM: noisy}))[SUM] == 3


def test_nothing_a_child_writes_is_there_for_the_next(grader: Grader, catalogue: Catalogue):
    write = "open('left-behind', 'w').write('the answer')\n"
    find = (
        "import os\n\n\ndef scaled_sum(base, update, scale):\n"
        "    return base + scale * update if os.path.exists('left-behind') else base\n"
    )
    points(grader, hand_in(catalogue, LESSON, {SUM: WRONG}, top=write))
    assert points(grader, hand_in(catalogue, LESSON, {SUM: find}))[SUM] == 0
    assert not os.path.exists("/var/tmp/grader-was-here")  # what the pickle payload would have made


def test_modules_beside_the_notebook_are_never_imported(grader: Grader, catalogue: Catalogue):
    top = "open('fractions.py', 'w').write('raise SystemExit(1)')\nimport fractions\nassert fractions.Fraction\n"
    answer = "def scaled_sum(base, update, scale):\n    assert fractions.Fraction\n    return base + scale * update\n"
    assert points(grader, hand_in(catalogue, LESSON, {SUM: answer}, top=top))[SUM] == 3


SEARCH = """
import re


def scaled_sum(base, update, scale):
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps:
            first, last, rights = re.match(r"(\\w+)-(\\w+) (\\S+)", line).groups()
            if "r" not in rights or "[v" in line:
                continue
            try:
                memory.seek(int(first, 16))
                data = memory.read(int(last, 16) - int(first, 16))
            except (OSError, OverflowError, ValueError):
                continue
            if data[::-1].count(BACKWARDS):  # written backwards, so that the search does not find itself
                return base + scale * update
    raise LookupError("nothing found")
"""


@pytest.mark.parametrize(("text", "is_there"), [("'ZEBRA' + 'CROSSING'", False), ("grader.sandbox.zygote", True)])
def test_an_earlier_submission_cannot_be_read_by_a_later_one(
    grader: Grader, catalogue: Catalogue, text: str, is_there: bool
):
    """Whatever passed through the warm parent is still in its children's memory, as the second search shows."""
    secret = (
        "def scaled_sum(base, update, scale):\n    marker = ['ZEBRA' + 'CROSSING']\n    return base + scale * update\n"
    )
    points(grader, hand_in(catalogue, LESSON, {SUM: secret}))
    search = SEARCH.replace("BACKWARDS", repr(text[::-1].encode()))
    result = grader.grade(hand_in(catalogue, LESSON, {SUM: search})).results[0]
    assert result.points == (3 if is_there else 0)
    assert is_there or "LookupError" in result.message, result


def test_the_environment_of_a_child_tells_nothing(grader: Grader, catalogue: Catalogue, monkeypatch):
    answer = "import os\n\n\ndef scaled_sum(base, update, scale):\n    raise ValueError(' '.join(sorted(os.environ)))\n"
    monkeypatch.setenv("SECRET_TOKEN", "x")
    message = grader.grade(hand_in(catalogue, LESSON, {SUM: answer})).results[0].message
    assert "HOME" in message
    assert "SECRET" not in message and "GRADER" not in message


def test_hidden_inputs_and_values_are_never_told(grader: Grader, catalogue: Catalogue):
    """Right on every visible case, wrong on a hidden one: a category and what is special are told, no values."""
    answer = "def scaled_sum(base, update, scale):\n    return base + abs(scale) * update\n"
    first = grader.grade(hand_in(catalogue, LESSON, {SUM: answer})).results[0]
    assert "when the scale is negative: the values are wrong" in first.message
    assert first.misconception == "sign_lost"


def test_seeds_of_cases_tell_neither_the_secret_nor_each_other():
    seeds = {case_seeds(5, name) for name in ("a", "b")} | {case_seeds(6, "a")}
    flat = [seed for pair in seeds for seed in pair]
    assert len(set(flat)) == 6 and not {5, 6} & set(flat)
    assert all(0 <= seed < 2**31 for seed in flat)
    assert case_seeds(5, "a") == case_seeds(5, "a")


def test_a_hidden_input_cannot_be_carried_into_a_message(grader: Grader, catalogue: Catalogue):
    """Learner code keeps every input it sees and raises it where the message is shown."""
    spy = "SEEN = []\n\n\ndef scaled_sum(base, update, scale):\n    SEEN.append(base.tolist())\n    return base\n"
    tell = "class RunningMean:\n    def __init__(self, start):\n        raise ValueError(repr(SEEN))\n"
    result = grader.grade(hand_in(catalogue, LESSON, {SUM: spy, MEAN: tell}))
    message = next(each.message for each in result.results if each.exercise_id == MEAN)
    hidden = [q for p in grader.prepared for q in p.questions if p.exercise.id == SUM and not q.case.visible]
    shown = [q for p in grader.prepared for q in p.questions if p.exercise.id == SUM and q.case.visible]
    assert repr(shown[0].case.inputs["base"].tolist()) in message
    assert hidden and not [q for q in hidden if repr(q.case.inputs["base"].tolist()) in message]


def test_one_bad_submission_does_not_stop_those_after_it(grader: Grader, catalogue: Catalogue):
    began = time.monotonic()
    points(grader, hand_in(catalogue, LESSON, {SUM: ATTACKS["signals blocked"][0]}))
    assert points(grader, hand_in(catalogue, LESSON, {SUM: RIGHT}))[SUM] == 3
    assert time.monotonic() - began < 30


def test_an_empty_release_is_not_started(grader: Grader, catalogue: Catalogue):
    result = grader.grade(json.dumps(released(catalogue, LESSON)).encode())
    assert [each.status for each in result.results] == ["todo", "todo"]
    assert result.points == 0


def test_extra_cells_do_not_count_as_exercises(grader: Grader, catalogue: Catalogue):
    notebook = json.loads(hand_in(catalogue, LESSON, {SUM: WRONG}))
    extra = code_cell("5.0")
    extra["metadata"]["nbgrader"] = {
        "grade": True,
        "grade_id": "bonus",
        "points": 1000,
        "schema_version": 3,
        "locked": False,
        "solution": False,
    }
    notebook["cells"].append(extra)
    result = grader.grade(json.dumps(notebook).encode())
    assert (result.points, result.max_points) == (0, 5)
