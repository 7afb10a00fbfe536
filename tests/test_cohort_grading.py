"""Honest notebooks get what they earned, however they look; damaged ones are mended or refused with a reason."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import pytest
from attacks import RIGHT, RIGHT_MEAN, WRONG
from submissions import cell_of, code_cell, hand_in, released
from tiny_courses import load_course

from grader.catalogue import Catalogue
from grader.cell_names import NotPythonError, read_cell
from grader.cohort.grading import Grader
from grader.cohort.result import SubmissionResult, schema
from grader.forbidden import NotebookNames
from grader.live import check_answer

LESSON = "l01_plain"
SUM, MEAN = "l01-scaled-sum", "l01-running-mean"
BOTH = {SUM: RIGHT, MEAN: RIGHT_MEAN}
FULL = {SUM: "passed", MEAN: "passed"}


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    return load_course(tmp_path_factory.mktemp("course"))


@pytest.fixture(scope="module")
def grader(catalogue: Catalogue) -> Iterator[Grader]:
    with Grader(LESSON, seed=None, catalogue=catalogue) as grader:
        yield grader


def statuses(result: SubmissionResult) -> dict[str, str]:
    return {each.exercise_id: each.status for each in result.results}


def edited(catalogue: Catalogue, change: Callable[[dict[str, Any]], object], answers: dict[str, str] = BOTH) -> bytes:
    notebook = json.loads(hand_in(catalogue, LESSON, answers))
    change(notebook)
    return json.dumps(notebook).encode()


def test_the_result_has_the_published_schema_and_reads_back(grader: Grader, catalogue: Catalogue):
    result = grader.grade(hand_in(catalogue, LESSON, {SUM: WRONG, MEAN: RIGHT_MEAN}), "ada")
    data = json.loads(json.dumps(result.to_dict()))
    jsonschema.validate(data, schema())
    assert SubmissionResult.from_dict(data) == result
    assert (result.learner, result.points, result.max_points) == ("ada", 2, 5)
    assert result.results[0].hint == "The scale has no effect on your result: where does it come in?"
    del data["results"][0]["status"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, schema())


def test_reference_alternatives_and_misconceptions_are_judged_as_at_the_desk(grader: Grader, catalogue: Catalogue):
    from grader.source import definition_source

    tried = 0
    for exercise in grader.manifest.exercises:
        answers = {exercise.answer_name: exercise.answer, **exercise.alternatives}
        answers |= {name: wrong.answer for name, wrong in exercise.misconceptions.items()}
        for name, answer in answers.items():
            source = definition_source(exercise, name)
            helpers = definition_source(exercise, "KeepsAll") + "\n" if "(KeepsAll)" in source else ""
            source = f"import numpy as np\n\n{helpers}{source}\n{exercise.answer_name} = {name}\n"
            official = grader.grade(hand_in(catalogue, LESSON, {exercise.id: source}))
            found = next(each for each in official.results if each.exercise_id == exercise.id)
            live = check_answer(exercise, answer, seed=0)
            assert (found.status, found.points, found.hint, found.misconception, found.message) == (
                live.status,
                live.points,
                live.hint,
                live.misconception,
                live.message,
            ), name
            tried += 1
    assert tried == 10


BY_HELPER = "def scaled_sum(base, update, scale):\n    return base + times(scale, update)\n"
VARIETY: dict[str, Callable[[dict[str, Any]], object]] = {
    "a helper in a cell of their own": lambda nb: (
        nb["cells"].insert(2, code_cell("def times(a, b):\n    return a * b\n")),
        cell_of(nb, SUM).update(source=BY_HELPER),
    ),
    "a helper that stands after the answer": lambda nb: (
        nb["cells"].append(code_cell("def times(a, b):\n    return a * b\n")),
        cell_of(nb, SUM).update(source=BY_HELPER),
    ),
    "cells in reverse order": lambda nb: nb["cells"].reverse(),
    "the import cell at the end": lambda nb: (
        nb["cells"].append(nb["cells"].pop(1)),
        cell_of(nb, SUM).update(source="ONE = np.float64(1)\n\n\n" + RIGHT),
    ),
    "an import of their own": lambda nb: cell_of(nb, SUM).update(source="import math\nimport scipy\n\n\n" + RIGHT),
    "magics, shell and help": lambda nb: (
        nb["cells"].insert(1, code_cell("%matplotlib inline\n!ls\n%pip install x\nimport os")),
        nb["cells"].insert(1, code_cell("%%time\nY = 1")),
        nb["cells"].insert(1, code_cell("np.ones?")),
        cell_of(nb, SUM).update(source="%%time\n" + RIGHT.replace("base +", "Y * base +")),
    ),
    "a cell that raises": lambda nb: nb["cells"].insert(1, code_cell("1 / 0")),
    "a syntax error in a scratch cell": lambda nb: nb["cells"].append(code_cell("def oops(:\n")),
    "live checks called in their own cells": lambda nb: nb["cells"].append(
        code_cell("from grader import check, hint\ncheck(scaled_sum)\nhint(scaled_sum)\nprogress()")
    ),
    "use() in their own cell": lambda nb: (
        nb["cells"].append(code_cell("mine = use('scaled_sum')\nassert mine is scaled_sum\nW = 1")),
        cell_of(nb, MEAN).update(source=RIGHT_MEAN.replace("len(self.numbers)", "len(self.numbers) * W")),
    ),
    "other metadata": lambda nb: nb.update(metadata={"kernelspec": {"name": "julia", "display_name": "J"}}),
    "no metadata": lambda nb: nb.pop("metadata"),
    "ids lost in an editor": lambda nb: [cell.pop("id") for cell in nb["cells"]],
    "ids and nbgrader names lost": lambda nb: [
        (cell.pop("id"), cell.update(metadata={})) for cell in nb["cells"]
    ],
    "windows line ends": lambda nb: [
        cell.update(source=cell["source"].replace("\n", "\r\n")) for cell in nb["cells"]
    ],
    "source as a list of lines": lambda nb: [
        cell.update(source=cell["source"].splitlines(keepends=True)) for cell in nb["cells"]
    ],
    "the answer in another cell, its own deleted": lambda nb: (
        nb["cells"].remove(cell_of(nb, SUM)),
        nb["cells"].append(code_cell(RIGHT)),
    ),
    "the answer in another cell, the stub left": lambda nb: (
        cell_of(nb, SUM).update(source=cell_of(released_of_test, SUM)["source"]),
        nb["cells"].append(code_cell(RIGHT)),
    ),
    "the answer cell turned into markdown": lambda nb: cell_of(nb, SUM).update(cell_type="markdown"),
    "the answer cell copied, the copy left blank": lambda nb: nb["cells"].append(
        {**cell_of(nb, SUM), "id": "copy", "source": cell_of(released_of_test, SUM)["source"]}
    ),
    "huge outputs": lambda nb: cell_of(nb, SUM).update(
        outputs=[{"output_type": "stream", "name": "stdout", "text": "x" * 10**7}]
    ),
    "a definition patched later": lambda nb: (
        cell_of(nb, MEAN).update(source=RIGHT_MEAN.replace("sum(self", "max(self")),
        nb["cells"].append(code_cell("RunningMean.mean = lambda self: sum(self.numbers) / len(self.numbers)")),
    ),
}  # fmt: skip
released_of_test: dict[str, Any] = {}


@pytest.mark.parametrize("name", VARIETY)
def test_honest_variety_gets_full_marks(grader: Grader, catalogue: Catalogue, name: str):
    released_of_test.update(released(catalogue, LESSON))
    result = grader.grade(edited(catalogue, VARIETY[name]))
    assert statuses(result) == FULL, result


def test_python_written_in_other_encodings_is_read(grader: Grader, catalogue: Catalogue):
    text = hand_in(catalogue, LESSON, {**BOTH, SUM: "# größer — ∆\n" + RIGHT}).decode()
    plain = json.dumps(json.loads(text), ensure_ascii=False)
    for data in (
        plain.encode("utf-8-sig"),
        plain.encode("utf-16"),
        plain.replace("∆", "").replace("—", "").encode("latin-1"),
    ):
        assert statuses(grader.grade(data)) == FULL


def test_an_answer_that_leans_on_a_skipped_demo_cell_is_told_so(grader: Grader, catalogue: Catalogue):
    data = edited(
        catalogue, lambda nb: cell_of(nb, SUM).update(source=RIGHT.replace("base +", "unknown_name + base +"))
    )
    assert "NameError" in grader.grade(data).results[0].message


BUILT_ON_IT = """
class RunningMean:
    def __init__(self, start):
        self.numbers = [start]

    def add(self, number):
        self.numbers.append(number)

    def mean(self):
        total = np.array([[sum(self.numbers)]])
        return float(scaled_sum(np.zeros((1, 1)), total, 1 / len(self.numbers))[0, 0])
"""


@pytest.mark.parametrize(("part", "status"), [(RIGHT, "passed"), (WRONG, "failed"), (None, "todo")])
def test_an_answer_built_on_an_earlier_one_is_not_failed_for_that(
    grader: Grader, catalogue: Catalogue, part: str | None, status: str
):
    """As at the desk, where `use` hands out the course's part as long as the learner's own has not passed."""
    answers = {MEAN: BUILT_ON_IT} | ({SUM: part} if part else {})
    assert statuses(grader.grade(hand_in(catalogue, LESSON, answers))) == {SUM: status, MEAN: "passed"}


def test_our_part_is_not_there_for_its_own_exercise(grader: Grader, catalogue: Catalogue):
    """A wrong answer that looks for it finds its own, also when a later answer is run with ours."""
    thief = (
        "def scaled_sum(base, update, scale):\n    return globals().get('kept', lambda *_: base)(base, update, scale)\n"
    )
    keeps = BUILT_ON_IT + "\nkept = globals().get('scaled_sum')\n"
    assert statuses(grader.grade(hand_in(catalogue, LESSON, {SUM: thief, MEAN: keeps})))[SUM] in ("failed", "crashed")


def test_a_file_cut_off_in_the_middle_keeps_its_whole_cells(grader: Grader, catalogue: Catalogue):
    notebook = json.loads(hand_in(catalogue, LESSON, BOTH))
    notebook["cells"] = [cell_of(notebook, SUM), *notebook["cells"]]
    text = json.dumps(notebook)
    cut = text[: text.index(f'"{MEAN}"')]
    result = grader.grade(cut.encode())
    assert statuses(result) == {SUM: "passed", MEAN: "todo"}
    assert "damaged" in " ".join(result.repairs)


UNREADABLE = {
    "an empty file": (b"", "empty"),
    "white space": (b" \n", "empty"),
    "binary": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40, "binary|no notebook"),
    "plain text": (b"here is my homework", "no notebook"),
    "JSON that is no notebook": (b'{"a": 1}', "no list of cells"),
    "a JSON list": (b"[1, 2]", "no notebook"),
    "deeply nested JSON": (b"[" * 200_000, "no notebook"),
    "another lesson": (
        json.dumps({"cells": [], "metadata": {"grader": {"lesson": "l02_torch"}}}).encode(),
        "l02_torch",
    ),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_is_no_notebook_is_refused_with_its_reason(grader: Grader, name: str):
    import re

    data, reason = UNREADABLE[name]
    result = grader.grade(data)
    assert re.search(reason, result.problem), result.problem
    assert statuses(result) == {SUM: "todo", MEAN: "todo"}


def test_a_notebook_over_the_cap_is_refused(grader: Grader, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("grader.cohort.submission.LARGEST_BYTES", 1000)
    assert "clear its outputs" in grader.grade(b"{" + b" " * 1000).problem


def test_two_hundred_mutated_notebooks_all_end_in_a_result(grader: Grader, catalogue: Catalogue):
    chance = random.Random(7)
    whole = hand_in(catalogue, LESSON, BOTH)
    seen = set()
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            kind = chance.choice(("cut", "drop", "double", "noise", "swap"))
            first, last = sorted(chance.randrange(len(data) + 1) for _ in range(2))
            if kind == "cut":
                data = data[:last]
            elif kind == "drop":
                del data[first : min(last, first + 400)]
            elif kind == "double":
                data[first:first] = data[first:last]
            elif kind == "noise":
                for position in range(first, min(last, first + 20)):
                    data[position] = chance.randrange(256)
            else:
                data = data[last:] + data[:last]
        result = grader.grade(bytes(data))
        seen.add("problem" if result.problem else "graded")
        assert len(result.results) == 2
        assert {each.status for each in result.results} <= {"passed", "failed", "crashed", "todo"}
    assert seen == {"problem", "graded"}


@pytest.mark.parametrize(
    "source",
    [
        "(" * 5000,
        "-" * 50_000 + "1",
        "x" + ".a" * 50_000,
        "[" * 3000 + "]" * 3000,
        "1" + "+1" * 60_000,
        "f'" + "{" * 200 + "}" * 200 + "'",
        "x = 'a" + "\\N{" * 1000,
        "\x00",
        "lambda: " * 5000 + "1",
        "if 1:\n " * 200,
        "9" * 100_000,
    ],
)
def test_source_that_breaks_parsers_breaks_nothing_here(grader: Grader, catalogue: Catalogue, source: str):
    for cell in (source, f"scaled_sum = {source}"):
        with contextlib.suppress(NotPythonError):
            assert NotebookNames({"": read_cell(cell)}).violations("scaled_sum", ["numpy.add"]) == []
    assert statuses(grader.grade(hand_in(catalogue, LESSON, BOTH, end=source))) == FULL


def test_a_syntax_error_in_the_answer_says_so(grader: Grader, catalogue: Catalogue):
    result = grader.grade(
        hand_in(catalogue, LESSON, {**BOTH, SUM: "def scaled_sum(base, update, scale)\n    return 1\n"})
    )
    assert result.results[0].status == "crashed"
    assert "SyntaxError" in result.results[0].message


def test_the_same_submission_gives_the_same_verdict_every_time(grader: Grader, catalogue: Catalogue):
    data = hand_in(catalogue, LESSON, {SUM: WRONG, MEAN: RIGHT_MEAN})
    assert len({grader.grade(data).verdict for _ in range(5)}) == 1


def test_forbidden_names_are_found_without_running_anything(tmp_path):
    from tiny_courses import load_course as fresh

    catalogue = fresh(tmp_path)
    cheats = (
        "def row_softmax(logits):\n    return torch.softmax(logits, -1)\n",
        "from torch.nn.functional import softmax as s\n\n\ndef row_softmax(logits):\n    return s(logits, dim=-1)\n",
        "import torch.nn.functional as F\n\n\ndef helper(x):\n    return F.softmax(x, -1)\n\n\n"
        "def row_softmax(logits):\n    return helper(logits)\n",
        "row_softmax = torch.softmax\n",
    )
    with Grader("l02_torch", seed=1, catalogue=catalogue) as grader:
        for cheat in cheats:
            (result,) = grader.grade(hand_in(catalogue, "l02_torch", {"l02-row-softmax": cheat})).results
            assert (result.status, result.points) == ("failed", 0), cheat
            assert "what this exercise asks you to build" in result.message
        honest = (
            "def row_softmax(logits):\n    e = torch.exp(logits - logits.amax(-1, keepdim=True))\n"
            "    return e / e.sum(-1, keepdim=True)\n"
        )
        (result,) = grader.grade(hand_in(catalogue, "l02_torch", {"l02-row-softmax": honest})).results
        assert result.status == "passed"


def test_a_dead_warm_parent_is_replaced(catalogue: Catalogue):
    with Grader(LESSON, seed=0, catalogue=catalogue) as grader:
        data = hand_in(catalogue, LESSON, BOTH)
        first = grader.grade(data)
        assert grader.parent is not None
        grader.parent.process.kill()
        grader.parent.process.wait()
        assert grader.grade(data).verdict == first.verdict
