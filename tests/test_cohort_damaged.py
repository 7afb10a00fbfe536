"""Two hundred damaged notebooks in one batch: every one gets a result, and a reason for whatever it lost."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attacks import RIGHT, RIGHT_MEAN
from submissions import cell_of, code_cell, hand_in
from tiny_courses import load_course

from grader.catalogue import Catalogue
from grader.cohort.collect import find_submissions
from grader.cohort.grading import Grader
from grader.cohort.run import Graded, grade_all
from grader.cohort.store import ResultStore

LESSON = "l01_plain"
SUM, MEAN = "l01-scaled-sum", "l01-running-mean"
COUNT = 200
LARGE_BYTES = 50 * 2**20
REASON = r"the file is (empty|binary data|no notebook|a damaged notebook|damaged|JSON but no notebook|too large)"


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    return load_course(tmp_path_factory.mktemp("course"))


def truncated(whole: bytes, chance: random.Random) -> bytes:
    return whole[: chance.randrange(len(whole))]


def duplicated(whole: bytes, chance: random.Random) -> bytes:
    """Cells twice; the copies are blank, changed, or the same."""
    notebook = json.loads(whole)
    for cell in chance.sample(notebook["cells"], 3):
        copy = {**cell, "source": chance.choice(["", cell["source"], "# " + cell["source"].replace("\n", "\n# ")])}
        notebook["cells"].insert(chance.randrange(len(notebook["cells"]) + 1), copy)
    return json.dumps(notebook).encode()


def deleted(whole: bytes, chance: random.Random) -> bytes:
    notebook = json.loads(whole)
    notebook["cells"] = chance.sample(notebook["cells"], chance.randrange(len(notebook["cells"])))
    return json.dumps(notebook).encode()


def binary(whole: bytes, chance: random.Random) -> bytes:
    """Noise in the middle of the file, or nothing else."""
    start = chance.choice([0, chance.randrange(len(whole))])
    return whole[:start] + chance.randbytes(chance.randint(1, 5000)) + whole[start + 400 :]


def wrong_types(whole: bytes, chance: random.Random) -> bytes:
    """Values of another type than a notebook has, anywhere in it."""
    notebook = json.loads(whole)
    places: list[tuple[Any, Any]] = []

    def collect(node: Any) -> None:
        for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
            places.append((node, key))
            collect(value)

    collect(notebook)
    for node, key in chance.sample(places, 4):
        node[key] = chance.choice([None, 7, -1.5, True, [], {}, [[]], "\ud800", {"source": 1}])
    return json.dumps(notebook).encode()


def large_outputs(whole: bytes, _: random.Random) -> bytes:
    notebook = json.loads(whole)
    cell_of(notebook, SUM)["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "x" * LARGE_BYTES}]
    return json.dumps(notebook).encode()


def large_cell(whole: bytes, _: random.Random) -> bytes:
    notebook = json.loads(whole)
    notebook["cells"].append(code_cell("x = 1\n" * (LARGE_BYTES // 6)))
    return json.dumps(notebook).encode()


def large_noise(_: bytes, chance: random.Random) -> bytes:
    return chance.randbytes(LARGE_BYTES)


LARGE: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "large_outputs": large_outputs,
    "large_cell": large_cell,
    "large_noise": large_noise,
}
KINDS = {each.__name__: each for each in (truncated, duplicated, deleted, binary, wrong_types)}


def test_two_hundred_damaged_notebooks_in_one_batch(catalogue: Catalogue, tmp_path: Path):
    chance = random.Random(8)
    whole = hand_in(catalogue, LESSON, {SUM: RIGHT, MEAN: RIGHT_MEAN})
    damaged = dict(LARGE)
    damaged |= {f"{name}-{number}": kind for name, kind in KINDS.items() for number in range(COUNT // len(KINDS))}
    damaged = dict(list(damaged.items())[:COUNT])
    files = {name: damage(whole, chance) for name, damage in damaged.items()}
    for name, data in files.items():
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "01_plain.ipynb").write_bytes(data)
    handed = find_submissions(tmp_path / "in", catalogue.lesson(LESSON))
    store = ResultStore(tmp_path / "out", LESSON)
    with Grader(LESSON, seed=3, catalogue=catalogue) as grader:
        seen: list[Graded] = []
        results = grade_all(grader, handed, store, workers=2, on_done=seen.append)
        again: list[Graded] = []
        grade_all(grader, handed, store, workers=2, on_done=again.append)
    assert len(results) == len(seen) == len(handed) == COUNT
    assert all(each.kept for each in again)
    for each in results:
        assert (store.load(each.learner) or each).verdict == each.verdict
        assert {result.status for result in each.results} <= {"passed", "failed", "crashed", "todo"}, each
        told = " ".join([each.problem, *each.repairs])
        if not is_notebook(files[each.learner]):
            assert re.search(REASON, told), (each.learner, told)
        for result in each.results:
            assert result.status == "passed" or result.message, each
    points = {each.learner: each.points for each in results}
    assert points["large_outputs"] == points["large_cell"] == 5 and points["large_noise"] == 0
    # Which of two copies is meant is told, and no check cell is needed: nothing is lost unless the answer itself is.
    assert [name for name in points if name.startswith("duplicated") and points[name] < 5] == []
    for name in (name for name in points if name.startswith("deleted")):
        left = {cell["id"] for cell in json.loads(files[name])["cells"]}
        assert points[name] == 3 * (SUM in left) + 2 * (MEAN in left), name


def is_notebook(data: bytes) -> bool:
    try:
        return isinstance(json.loads(data)["cells"], list)
    except (ValueError, LookupError, TypeError, RecursionError):
        return False
