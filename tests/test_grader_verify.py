"""`grader verify` accepts a good course, and refuses a course that breaks a rule: one broken rule per test."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from tiny_courses import TINY, copy_course, load_course, tiny_exercise
from typer.testing import CliRunner

from grader.build import build_all
from grader.catalogue import find_course
from grader.cli import app
from grader.verify import verify
from grader.verify.evidence import Evidence
from grader.verify.exercise_rules import accepted_results_are_small
from grader.verify.parallel import verify_in_processes

SUM = "l01_plain/scaled_sum.py"
MEAN = "l01_plain/running_mean.py"
SOFTMAX = "l02_torch/row_softmax.py"
LESSON = "l01_plain/lesson.py"
VERIFY = ["verify", "--workers", "1", "--course"]  # A second process costs more than these small courses do.
SUM_RETURN = "    contribution = scale * update\n    return base + contribution\n"

# name: (rule, part of the problem, edits). Each course differs from the good one in these edits only.
BREAKS: dict[str, tuple[str, str, list[tuple[str, str, str]]]] = {
    # Without an oracle the reference sets the expected values: the alternative is what then disagrees.
    "reference wrong": (
        "right answers",
        "row_by_row fails case",
        [(SUM, SUM_RETURN, SUM_RETURN.replace("base +", "2 * base +"))],
    ),
    "reference differs from the oracle": (
        "right answers",
        "row_softmax fails",
        [(SOFTMAX, "logits - logits.amax(dim=-1, keepdim=True)", "logits")],
    ),
    "alternative wrong on the first seed": (
        "right answers",
        "row_by_row fails case 'small' of seed 0",
        [(SUM, "first + scale * second", "first - scale * second")],
    ),
    "alternative wrong on a later seed only": (
        "right answers",
        "row_by_row fails case 'seed' of seed 1395289510",
        [
            (SUM, "np.stack(rows)", "np.stack(rows) * (1 + (base[0, 0] > 1e9))"),
            (
                SUM,
                '    yield Case("small"',
                '    given = {"base": np.full((1, 1), float(seed)), "update": np.ones((1, 1)), "scale": 2.0}\n'
                '    yield Case("seed", given, group="plain")\n    yield Case("small"',
            ),
        ],
    ),
    "reference raises": (
        "cases",
        "no expected value: ValueError",
        [(SUM, SUM_RETURN, "    raise ValueError(scale)\n")],
    ),
    "reference raises on a later seed only": (
        "cases",
        "case 'small'",
        [
            (SUM, SUM_RETURN, "    return base + scale * update if scale < 4.0 else 1 / 0\n"),
            (SUM, "inputs(2, 3, 2.0)", "inputs(2, 3, 2.0 + seed)"),
        ],
    ),
    "stub is an answer": (
        "stub",
        "the stub reads",
        [(MEAN, "    kept = answer(numbers[0])\n", "    return {}\n    kept = answer(numbers[0])\n")],
    ),
    "probe holds an answer": (
        "stub",
        "its probe uses RunningMean, which is an answer",
        [(MEAN, "    kept = answer(numbers[0])\n", "    kept = answer(numbers[0]) or RunningMean(0.0)\n")],
    ),
    "public view does not run": (
        "stub",
        "the public view does not run",
        [
            (
                MEAN,
                "@exercise.probe\ndef probe(answer: Any, numbers",
                "@exercise.probe\ndef probe(answer: Any, *, step=STEP, numbers",
            ),
            (MEAN, "exercise = Exercise(", "if True:\n    STEP = 1\nexercise = Exercise("),
        ],
    ),
    "stub names what the notebook does not import": (
        "stub",
        "NameError: name 'Any'",
        [
            (SUM, "import annotations\n", "import annotations\n\nfrom typing import Any\n"),
            (SUM, "def scaled_sum(base: np.ndarray", "def scaled_sum(base: Any"),
        ],
    ),
    "misconception passes": (
        "misconceptions",
        "scale_forgotten passes",
        [(SUM, "    return base + update\n", "    return base + scale * update\n")],
    ),
    "a case breaks on a large seed": (
        "cases",
        "making its cases failed",
        [(SUM, '    yield Case("odd", inputs(7, 3, 3.0)', '    yield Case("odd", inputs(7 + seed, 10**9, 3.0)')],
    ),
    "cases change their names with the seed": (
        "cases",
        "change with the seed",
        [(SUM, '    yield Case("wide"', '    yield Case(f"wide {seed}"')],
    ),
    "misconception is not started": (
        "misconceptions",
        "scale_forgotten reads as not started",
        [(SUM, "    return base + update\n", "    raise NotImplementedError\n")],
    ),
    "misconceptions cannot be told apart": (
        "misconceptions",
        "sign_lost draws the hint of scale_forgotten",
        [(SUM, "    return base + abs(scale) * update\n", "    return update + base\n")],
    ),
    "tolerance accepts zeros": (
        "tolerance",
        "an answer of zeros would pass",
        [(SUM, "    points=3,", '    points=3,\n    atol=100.0,\n    tolerance_reason="none",')],
    ),
    "tolerance accepts zeros at one key": (
        "tolerance",
        "zeros at `rest` would pass",
        [(MEAN, '    return {"mean": kept.mean()}', '    return {"mean": kept.mean(), "rest": 1e-9}')],
    ),
    "reference changes its argument": (
        "mutation",
        "scaled_sum fails case 'small' of seed 0: your code changed its argument `base`",
        [(SUM, "    return base + contribution\n", "    base += contribution\n    return base\n")],
    ),
    "alternative changes its argument": (
        "mutation",
        "row_by_row fails",
        [(SUM, "    rows = [first", "    update *= 1.5\n    rows = [first")],
    ),
    "a case changes those before it": (
        "mutation",
        "changes the inputs of 'small' in place",
        [
            (
                SUM,
                '    yield Case("small", inputs(2, 3, 2.0), group="plain")\n',
                "    shared = inputs(2, 3, 2.0)\n"
                '    yield Case("small", shared, group="plain")\n'
                '    shared["base"] += 1\n',
            ),
        ],
    ),
    "input cannot cross": ("cases", "builtins.complex", [(SUM, '"scale": scale}', '"scale": complex(scale)}')]),
    "output cannot cross": (
        "cases",
        "builtins.object",
        [(SUM, "    return base + contribution\n", "    return object()\n")],
    ),
    "over its time": (
        "time",
        "0.2 s are declared",
        [
            (SUM, SUM_RETURN, "    import time\n\n    time.sleep(0.05)\n" + SUM_RETURN),
            (SUM, "    points=3,", "    points=3,\n    seconds=0.2,"),
        ],
    ),
    "longer without a reason": (
        "declaration",
        "without a reason",
        [(SUM, "    points=3,", "    points=3,\n    seconds=5.0,")],
    ),
    "tolerance without a reason": (
        "declaration",
        "rtol 0.001",
        [(SUM, "    points=3,", "    points=3,\n    rtol=1e-3,")],
    ),
    "general hint tells": (
        "hints",
        "the hint of hints contains the answer line contribution=scale*update",
        [(SUM, "Scale first, add second.", "Try contribution = scale*update first.")],
    ),
    "misconception hint tells": (
        "hints",
        "the hint of sign_lost contains the answer line returnbase+contribution",
        [(SUM, "A negative scale must be able to take away.", "It is `base + contribution`.")],
    ),
    "exercise not marked": (
        "markers",
        "'scaled_sum' is marked 0 times",
        [(LESSON, '# %% exercise="scaled_sum"\n', "")],
    ),
    "exercise marked twice": (
        "markers",
        "'scaled_sum' is marked 2 times",
        [(LESSON, '# %% exercise="running_mean"', '# %% exercise="running_mean"\n\n# %% exercise="scaled_sum"')],
    ),
    "marker without exercise": (
        "markers",
        "'absent' is marked 1 times and declared 0 times",
        [(LESSON, '# %% exercise="running_mean"', '# %% exercise="running_mean"\n\n# %% exercise="absent"')],
    ),
    "marker cell holds code": (
        "build",
        "holds code, which would be lost",
        [(LESSON, '# %% exercise="scaled_sum"\n', '# %% exercise="scaled_sum"\nprint(1)\n')],
    ),
    "lesson shows an answer": (
        "answers",
        "shows the answer line contribution=scale*update",
        [(LESSON, "## Scale, then add", "## Scale, then add\n\n    contribution = scale * update")],
    ),
    "lesson does not start with prose": (
        "build",
        "start the lesson with a markdown cell",
        [(LESSON, "", "# %%\nprint()\n")],
    ),
    "lesson cell does not parse": ("lesson", "does not parse", [(LESSON, "print(use", "print((use")]),
    "import cell fails": (
        "stub",
        "ModuleNotFoundError",
        [(LESSON, "import numpy", "import absent_module, numpy")],
    ),
    "id of another lesson": ("declaration", "its file is", [(SUM, '"l01-scaled-sum"', '"l07-scaled-sum"')]),
    "id of another file": ("declaration", "its file is", [(SUM, '"l01-scaled-sum"', '"l01-scaled-total"')]),
    "reference of another name": (
        "declaration",
        "the reference is called scaled_total",
        [(SUM, "def scaled_sum(", "def scaled_total(")],
    ),
    "no docstring": (
        "declaration",
        "has no docstring",
        [(SOFTMAX, '    """Softmax over the last dimension of logits (N, V) float32; returns (N, V)."""\n', "")],
    ),
    "too few misconceptions": (
        "declaration",
        "2 misconceptions",
        [(SUM, '@exercise.misconception(hint="A negative scale must be able to take away.")\n', "")],
    ),
    "no alternative": ("declaration", "no alternative answer", [(SUM, "@exercise.alternative\n", "")]),
    "no hints": (
        "declaration",
        "no general hints",
        [
            (
                MEAN,
                'hints=("What must be remembered between two calls?", "The number of values matters too."),',
                "hints=(),",
            )
        ],
    ),
    "unknown skill": ("skills", "juggling", [(SUM, 'skills=("arrays",)', 'skills=("arrays", "juggling")')]),
    "no skill": ("skills", "none", [(SUM, 'skills=("arrays",)', "skills=()")]),
    "no reference": ("declaration", "no @exercise.reference", [(SUM, "@exercise.reference\n", "")]),
    "no cases": ("cases", "no @exercise.cases", [(SUM, "@exercise.cases\n", "")]),
    "two cases of one name": ("cases", "unique names", [(SUM, 'Case("wide"', 'Case("small"')]),
    "group points do not add up": ("declaration", "add up to 2", [(SUM, '"awkward": 2', '"awkward": 1')]),
    "unknown group": (
        "cases",
        "group_points names",
        [(SUM, 'one row", group="awkward"', 'one row", group="odd"')],
    ),
    "file does not import": (
        "declaration",
        "NameError",
        [(SUM, "exercise = Exercise(", "absent_name\nexercise = Exercise(")],
    ),
    "file does not parse": ("declaration", "SyntaxError", [(SUM, "def scaled_sum(", "def scaled_sum((")]),
    "cases not from the seed": (
        "cases",
        "the same seed made other inputs",
        [(SUM, "np.random.default_rng(seed)", "np.random.default_rng()")],
    ),
    "cases ignore the seed": (
        "cases",
        "every seed makes the same inputs",
        [(SUM, "np.random.default_rng(seed)", "np.random.default_rng(0)")],
    ),
    "every case hidden": (
        "cases",
        "every case is hidden",
        [
            (
                MEAN,
                'Case("three", {"numbers": generator.normal(size=3).tolist()})',
                'Case("three", {"numbers": generator.normal(size=3).tolist()}, visible=False)',
            ),
            (MEAN, 'about="when there is one number")', 'about="when there is one number", visible=False)'),
        ],
    ),
    "alternative uses what is forbidden": (
        "right answers",
        "through_logarithms uses torch.softmax",
        [
            (
                SOFTMAX,
                "return (logits - torch.logsumexp(logits, dim=-1, keepdim=True)).exp()",
                "return torch.softmax(logits, -1)",
            )
        ],
    ),
    "two lessons share a name": (
        "declaration",
        "has an exercise called scaled_sum too",
        [("l02_torch/scaled_sum.py", "", "")],
    ),
}


@pytest.fixture
def good_course(tmp_path):
    catalogue = load_course(tmp_path)
    build_all(catalogue)
    return catalogue


def test_a_good_course_is_not_refused(good_course):
    visited = []
    assert [str(refusal) for refusal in verify(good_course, on_file=visited.append)] == []
    assert visited == [
        "l01_plain/scaled_sum",
        "l01_plain/running_mean",
        "l01_plain/lesson",
        "l02_torch/row_softmax",
        "l02_torch/lesson",
    ]


def test_several_processes_find_the_same_in_the_same_order(tmp_path, monkeypatch):
    edits = [*BREAKS["reference wrong"][2], *BREAKS["reference differs from the oracle"][2]]
    spec = copy_course(tmp_path, *edits, name="tiny_shared")
    monkeypatch.syspath_prepend(str(tmp_path))
    alone: list[str] = []
    shared: list[str] = []
    refusals = verify(find_course(spec), on_file=alone.append)
    assert refusals and verify_in_processes(spec, 2, on_file=shared.append) == refusals
    assert sorted(shared) == sorted(alone)


def test_processes_end_with_a_killed_parent(tmp_path):
    began = tmp_path / "began"
    endless = f"    import pathlib, time\n\n    pathlib.Path({str(began)!r}).touch()\n    time.sleep(600)\n"
    # Outside of a call, which has a limit of time.
    spec = copy_course(
        tmp_path,
        (SUM, "def cases(seed: int) -> Iterator[Case]:\n", f"def cases(seed: int) -> Iterator[Case]:\n{endless}"),
        name="tiny_endless",
    )
    command = [sys.executable, "-m", "grader.cli", "verify", "--workers", "2", "--course", spec]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    try:
        while not began.exists() and process.poll() is None:
            time.sleep(0.1)
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 2
    finally:
        process.kill()
        process.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []


def test_a_process_that_dies_is_told(tmp_path, monkeypatch):
    spec = copy_course(tmp_path, (SUM, SUM_RETURN, "    import os\n\n    os.abort()\n"), name="tiny_abort")
    monkeypatch.syspath_prepend(str(tmp_path))
    result = CliRunner().invoke(app, ["verify", "--course", spec, "--workers", "2"])
    assert result.exit_code == 1 and "A process died while verifying" in result.stderr


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_rule_is_refused(name, tmp_path):
    rule, fragment, edits = BREAKS[name]
    if name == "two lessons share a name":
        edits = [("l02_torch/scaled_sum.py", "", (TINY / "tiny_course/lessons" / SUM).read_text())]
    catalogue = load_course(tmp_path, *edits)
    refusals = verify(catalogue, Path(edits[0][0]).parent.name)
    found = [refusal for refusal in refusals if refusal.rule == rule and fragment in refusal.problem]
    assert found, [str(refusal) for refusal in refusals]
    assert all(refusal.next and refusal.next[0].isupper() and refusal.where for refusal in refusals)
    assert str(found[0]).endswith(f"{found[0].problem}. {found[0].next}")


def test_a_long_exercise_that_says_so_is_not_refused(tmp_path):
    edits = [
        BREAKS["over its time"][2][0],
        (SUM, "    points=3,", '    points=3,\n    seconds=3.0,\n    seconds_reason="it sleeps",'),
    ]
    assert verify(load_course(tmp_path, *edits), "l01_plain") == []


def test_a_wide_tolerance_with_a_reason_is_not_refused(tmp_path):
    edits = [(SUM, "    points=3,", '    points=3,\n    rtol=1e-3,\n    tolerance_reason="bf16 keeps 8 bits",')]
    assert verify(load_course(tmp_path, *edits), "l01_plain") == []


def test_a_hint_may_name_the_result(tmp_path):
    edits = [
        (SUM, SUM_RETURN, "    scaled_result = base + scale * update\n    return scaled_result\n"),
        (SUM, "Scale first, add second.", "Let scaled_result have the shape of the base."),
    ]
    assert verify(load_course(tmp_path, *edits), "l01_plain") == []


def test_an_endless_misconception_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr("grader.exercise.SHORTEST_LIMIT_SECONDS", 0.3)
    monkeypatch.setattr("grader.exercise.LIMIT_FACTOR", 0)
    edits = [(SUM, "    return base + update\n", "    while True:\n        pass\n")]
    assert verify(load_course(tmp_path, *edits), "l01_plain") == []  # Running for ever is a way to fail.


HELPER = "def helper(base, update, scale):\n    contribution = scale * update\n    return base + contribution\n"


@pytest.mark.parametrize("where", ["imported by a demo", "imported by another module", "not imported"])
def test_a_module_within_reach_of_learner_code_must_hold_no_answer(tmp_path, monkeypatch, where):
    name = f"tiny_{where.replace(' ', '_')}"
    lesson = f"{name}.lessons.l01_plain"
    imported = f"from {lesson}.{'other' if where == 'imported by another module' else 'helper'} import helper\n"
    edits = [("l01_plain/helper.py", "", HELPER), ("l01_plain/other.py", "", f"from {lesson}.helper import helper\n")]
    if where != "not imported":
        edits.append((LESSON, "import numpy as np\n", "import numpy as np\n" + imported))
    spec = copy_course(tmp_path, *edits, name=name)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = [str(refusal) for refusal in verify(find_course(spec), "l01_plain")]
    if where.startswith("imported"):
        assert len(found) == 1 and "learner code can import helper.py, which holds the answer line" in found[0]
    else:
        assert found == []


def _problems(catalogue, rule):
    return [f"{each.where}: {each.problem}. {each.next}" for each in verify(catalogue) if each.rule == rule]


def test_a_missing_notebook_is_refused(good_course):
    (good_course.course.root / "notebooks/01_plain.ipynb").unlink()
    assert _problems(good_course, "stale") == [
        "notebooks/01_plain.ipynb: is missing. Run `grader build` and commit the result"
    ]


@pytest.mark.parametrize("change", [(b"Two ex", b"2 ex"), (b"\n", b"\r\n"), (b"}\n", b"} \n")])
def test_a_stale_notebook_is_refused(good_course, change):
    path = good_course.course.root / "notebooks/01_plain.ipynb"
    path.write_bytes(path.read_bytes().replace(*change))
    assert _problems(good_course, "stale") == [
        "notebooks/01_plain.ipynb: differs from its rebuild. Run `grader build` and commit the result"
    ]


def test_a_notebook_of_no_lesson_is_refused(good_course):
    (good_course.course.root / "notebooks/09_old.ipynb").write_text("{}")
    assert len(_problems(good_course, "stale")) == 1


@pytest.mark.parametrize(
    "content", [b"", b"\x80\xff binary", b"{", b"{}", b"[1]", b'{"cells": 3, "nbformat": 4}', b"null"]
)
def test_a_corrupt_notebook_is_refused_without_a_traceback(good_course, content):
    (good_course.course.root / "notebooks/01_plain.ipynb").write_bytes(content)
    problems = _problems(good_course, "stale")
    assert any("differs from its rebuild" in problem for problem in problems)
    assert all("Run `grader build`" in problem for problem in problems)


def test_an_answer_in_a_committed_notebook_is_refused(good_course):
    path = good_course.course.root / "notebooks/01_plain.ipynb"
    path.write_text(path.read_text().replace("raise NotImplementedError", "contribution =  scale*update", 1))
    assert _problems(good_course, "answers") == [
        "l01-scaled-sum: the notebook shows the answer line contribution=scale*update. Write that demo another way"
    ]


def test_python_under_datasets_is_refused(good_course):
    folder = good_course.course.root / "datasets/sql"
    folder.mkdir(parents=True)
    (folder / "make.py").write_text("")
    assert _problems(good_course, "datasets") == [
        "datasets/sql/make.py: a Python file here would shadow the `datasets` package. Move it under course/"
    ]
    (folder / "make.py").unlink()
    assert verify(good_course) == []


def test_a_lesson_without_source_is_refused(good_course):
    good_course.lesson_file(good_course.lesson("l01_plain")).unlink()
    assert "lesson.py is missing" in _problems(good_course, "lesson")[0]


def test_the_command_exits_0_on_a_good_course_and_1_with_reasons_on_a_bad_one(tmp_path, monkeypatch):
    spec = copy_course(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    stale = CliRunner().invoke(app, [*VERIFY, spec])
    assert stale.exit_code == 1
    assert "notebooks/01_plain.ipynb: [stale] is missing. Run `grader build`" in stale.stderr
    assert CliRunner().invoke(app, ["build", "--course", spec]).exit_code == 0
    good = CliRunner().invoke(app, [*VERIFY, spec])
    assert (good.exit_code, good.stderr) == (0, "")
    assert "verified 5 files: no refusals" in good.stdout


def test_the_command_as_a_process(tmp_path):
    spec = copy_course(tmp_path, (LESSON, '# %% exercise="scaled_sum"\n', ""))
    command = [sys.executable, "-m", "grader.cli", *VERIFY, spec, "--lesson", "l01_plain"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 1
    assert "l01_plain: [markers] exercise 'scaled_sum' is marked 0 times" in finished.stderr


def test_the_command_names_what_it_cannot_read(tmp_path, monkeypatch):
    spec = copy_course(tmp_path, (SUM, "def scaled_sum(", "def scaled_sum(("))
    monkeypatch.syspath_prepend(tmp_path)
    broken = CliRunner().invoke(app, [*VERIFY, spec, "--lesson", "01_plain"])
    assert broken.exit_code == 1
    assert "[declaration] SyntaxError" in broken.stderr
    assert "Traceback" not in broken.stderr
    unknown = CliRunner().invoke(app, [*VERIFY, spec, "--lesson", "99_none"])
    assert unknown.exit_code == 1
    assert "no lesson called '99_none'; there are l01_plain, l02_torch" in unknown.stderr
    absent = CliRunner().invoke(app, [*VERIFY, "no_such_course:COURSE"])
    assert absent.exit_code == 1
    assert "no course at 'no_such_course:COURSE'" in absent.stderr


def test_results_that_accept_judges_must_stay_small(tmp_path: Path):
    catalogue = load_course(tmp_path / "course")
    exercise = tiny_exercise(tmp_path, "scaled_sum")
    exercise.accept_function = lambda output, **given: None
    lesson = catalogue.lesson("01_plain")
    assert list(accepted_results_are_small(Evidence(exercise, lesson))) == []
    exercise.answer = lambda base, update, scale: "x" * 10_000
    (refusal,) = accepted_results_are_small(Evidence(exercise, lesson))
    assert "accept() judges results of 10,0" in str(refusal)
