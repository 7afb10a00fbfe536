"""More attacks on a grade, on the grader and on the machine it runs on: what each may cost, and whom."""

from __future__ import annotations

import builtins
import copy
import io
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from attacks import RIGHT, RIGHT_MEAN, WRONG
from rich.console import Console
from submissions import cell_of, code_cell, hand_in, released
from tiny_courses import load_course

from grader import wire
from grader.catalogue import Catalogue, find_course
from grader.cell_names import read_cell
from grader.cohort.collect import find_submissions
from grader.cohort.command import show_changes
from grader.cohort.grading import Grader
from grader.cohort.regrade import changes
from grader.cohort.result import SubmissionResult
from grader.cohort.run import grade_all
from grader.cohort.session import _error
from grader.cohort.store import ResultStore
from grader.cohort.submission import read_submission
from grader.forbidden import NotebookNames
from grader.live import check_answer
from grader.plain_python import plain_python
from grader.report.command import write_reports
from grader.sandbox.isolation import Limits
from grader.sandbox.zygote import functions_apart
from grader.wire import Array, WireError

LESSON = "l01_plain"
SUM, MEAN = "l01-scaled-sum", "l01-running-mean"


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    return load_course(tmp_path_factory.mktemp("course"))


@pytest.fixture(scope="module")
def grader(catalogue: Catalogue) -> Iterator[Grader]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("grader.exercise.SHORTEST_LIMIT_SECONDS", 4.0)
        patch.setattr("grader.exercise.LIMIT_FACTOR", 0)
        patch.setattr("grader.cohort.session.GRACE_SECONDS", 1.0)
        patch.setattr("grader.cohort.session.SET_UP_SECONDS", 2.0)
        limits = Limits(memory_bytes=256 * 2**20, scratch_bytes=32 * 2**20)
        with Grader(LESSON, seed=987_654_321, catalogue=catalogue, limits=limits) as grader:
            yield grader


def answer(*lines: str) -> str:
    body = "".join(f"    {line}\n" for line in lines)
    return f"import ctypes, mmap, os, threading, time\n\n\ndef scaled_sum(base, update, scale):\n{body}"


def first(grader: Grader, catalogue: Catalogue, source: str, **extra: str):
    """What becomes of the attacked exercise; the other one, which is right, must keep its points."""
    result = grader.grade(hand_in(catalogue, LESSON, {SUM: source, MEAN: RIGHT_MEAN}, **extra))
    assert result.results[1].points == 2, result
    return result.results[0]


# --- the host ---------------------------------------------------------------------------------------------------------

HOST = {
    "watch a folder that it cannot list": (
        "libc = ctypes.CDLL(None, use_errno=True)",
        "watch = libc.inotify_add_watch(libc.inotify_init1(0), b'/tmp', 0xfff)",
        "raise ValueError(f'got {watch}')",
    ),
    "change the times of a file": (
        "before = os.stat(os.__file__).st_mtime_ns",
        "os.utime(os.__file__, ns=(before, before - 10**9))",
        "after = os.stat(os.__file__).st_mtime_ns",
        "os.utime(os.__file__, ns=(before, before))",
        "raise ValueError(f'got {-1 if before == after else after}')",
    ),
    "reserve the kernel's queues": (
        "room = ctypes.create_string_buffer(8)",
        "raise ValueError(f'got {ctypes.CDLL(None).syscall(206, 1000, room)}')",
    ),
    "change a file's flags through a descriptor for reading": (
        "flags = ctypes.c_int(0)",
        "file = os.open(os.__file__, os.O_RDONLY)",
        "raise ValueError(f'got {ctypes.CDLL(None).ioctl(file, ctypes.c_ulong(0x80086601), ctypes.byref(flags))}')",
    ),
    "use a system call that is newer than the wall": (
        "room = ctypes.create_string_buffer(64)",
        "raise ValueError(f'got {ctypes.CDLL(None).syscall(468, -100, b\"/tmp\", room, 32, 0)}')",
    ),
}


@pytest.mark.parametrize("what", HOST)
def test_the_kernel_does_not_let_it(grader: Grader, catalogue: Catalogue, what: str):
    assert "got -1" in first(grader, catalogue, answer(*HOST[what])).message


def test_threads_are_counted(grader: Grader, catalogue: Catalogue):
    source = answer(
        "threading.stack_size(65536)",
        "for number in range(3000):",
        "    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
        "time.sleep(1)",
        "return base + scale * update",
    )
    found = first(grader, catalogue, source)
    assert found.points == 0 and "threads" in found.message, found


def test_memory_that_no_page_table_shows_cannot_be_had(grader: Grader, catalogue: Catalogue):
    """Shared memory without a file stays when its pages are dropped, and then counts for no process."""
    source = answer("mmap.mmap(-1, 2**20)", "return base + scale * update")
    assert first(grader, catalogue, source).points == 0


def test_page_tables_count_as_memory(grader: Grader, catalogue: Catalogue):
    source = answer(
        "libc = ctypes.CDLL(None)",
        "libc.mmap.restype = ctypes.c_void_p",
        "size = ctypes.c_size_t(2**40)",
        "start = libc.mmap(None, size, 1, 0x4022, -1, ctypes.c_long(0))",
        "libc.madvise(ctypes.c_void_p(start), size, 15)",
        "for place in range(start, start + 2**40, 2**21):",
        "    ctypes.string_at(place, 1)",
        "time.sleep(0.5)",
        "return base + scale * update",
    )
    found = first(grader, catalogue, source)
    assert found.points == 0 and "memory" in found.message, found


# --- time -------------------------------------------------------------------------------------------------------------


def test_many_slow_cells_together_have_a_limit(grader: Grader, catalogue: Catalogue):
    notebook = json.loads(hand_in(catalogue, LESSON, {SUM: RIGHT, MEAN: RIGHT_MEAN}))
    notebook["cells"] += [code_cell("import time\ntime.sleep(0.7)") for _ in range(40)]
    began = time.monotonic()
    assert grader.grade(json.dumps(notebook).encode()).points == 5
    assert time.monotonic() - began < 20  # 28 s of sleep


def test_slow_calls_together_have_a_limit(grader: Grader, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("grader.cohort.session.EXERCISE_FACTOR", 0.1)
    found = first(grader, catalogue, answer("time.sleep(0.5)", "return base + scale * update"))
    assert found.points == 0 and [case.passed for case in found.cases].count(True) == 2
    assert "the cases before it took over" in found.message


def test_a_whole_submission_has_a_limit(grader: Grader, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("grader.cohort.session.SUBMISSION_SECONDS", -1.0)
    result = grader.grade(hand_in(catalogue, LESSON, {SUM: RIGHT}))
    assert "the whole notebook took over" in result.results[0].message


# --- what the grader reads --------------------------------------------------------------------------------------------


def test_an_empty_array_of_absurd_shape_is_refused():
    """Walking along it would take the grader's process for ever."""
    forged = wire.dumps(Array("torch", "float32", (10**12, 0), b""))
    with pytest.raises(WireError, match="empty"):
        wire.loads(forged)
    assert wire.loads(wire.dumps(Array("torch", "float32", (0, 3), b""))).shape == (0, 3)


def test_an_array_of_more_dimensions_than_numpy_takes_is_refused():
    forged = wire.dumps(Array("torch", "float32", (1,) * 65, b"0000"))
    with pytest.raises(WireError, match="65 dimensions"):
        wire.loads(forged)
    with pytest.raises(WireError, match="65 dimensions"):
        wire.encode(torch.zeros((1,) * 65))


def test_a_result_far_larger_than_a_right_one_is_not_looked_into(grader: Grader, catalogue: Catalogue):
    found = first(
        grader, catalogue, "import numpy as np\n\n\ndef scaled_sum(base, update, scale):\n    return np.zeros(2**20)\n"
    )
    assert found.points == 0 and "far more than a right one" in found.message


@pytest.mark.parametrize("cells", [5, None, "abc", {"a": 1}])
def test_an_old_notebook_with_odd_sheets_gives_a_result(grader: Grader, cells: object):
    assert grader.grade(json.dumps({"worksheets": [{"cells": cells}, 3]}).encode()).points == 0


def test_a_hundred_thousand_cells_are_not_read(grader: Grader, catalogue: Catalogue):
    notebook = json.loads(hand_in(catalogue, LESSON, {SUM: RIGHT, MEAN: RIGHT_MEAN}))
    notebook["cells"] += [{"cell_type": "code", "source": " "}] * 100_000
    result = grader.grade(json.dumps(notebook).encode())
    assert result.points == 5 and "its first 2,000 were read" in result.repairs[0]


def test_names_in_a_notebook_cannot_steer_a_terminal_or_stop_the_table(grader: Grader, catalogue: Catalogue, tmp_path):
    notebook = released(catalogue, LESSON)
    moved = code_cell(RIGHT)
    moved["id"] = "\x1b[2J\ud800" + "x" * 10_000
    notebook["cells"] = [moved]
    found = grader.grade(json.dumps(notebook).encode(), "ada")
    assert found.points == 3
    notebook["metadata"]["grader"] = {"lesson": "\x1b]0;\ud800"}
    notebook["cells"] = [code_cell("1")]
    other = grader.grade(json.dumps(notebook).encode(), "bob")
    store = ResultStore(tmp_path, LESSON)
    both: list[SubmissionResult] = [found, other]
    for result in both:
        store.save(result)
    assert store.write_table(both).read_text()
    told = " ".join([other.problem, *found.repairs])
    assert "\x1b" not in told and len(told) < 1_000


NOT_LINES = ("float('inf')", "float('nan')", "-1", "10**4290", "True", "'3'", "[]")


@pytest.mark.parametrize("line", NOT_LINES)
def test_a_reply_with_a_line_that_is_none_is_refused(line: str):
    error = {"type": "E", "message": "m", "line": eval(line), "code": "", "function": "", "own": False}
    with pytest.raises(TypeError, match="a line number was expected"):
        _error(error)


@pytest.mark.parametrize("line", NOT_LINES[::3])
def test_a_forged_error_costs_its_own_exercise_alone(grader: Grader, catalogue: Catalogue, line: str):
    top = f"import grader.call as ours\n\nours.describe_error = lambda *_: ours.CallError('X', 'm', {line})\n"
    found = first(grader, catalogue, answer("raise ValueError('x')"), top=top)
    assert (found.status, found.points) == ("crashed", 0) and "did not come back" in found.message, found


UNWRITABLE = "\\ud800\\x1b[2J\\x1b]0;owned\\x07"
SAYS_IT = {
    "ada": answer(f"raise ValueError('{UNWRITABLE}')"),
    "bob": answer(f"return {{'{UNWRITABLE}': 1}}"),
    "cem": answer(f"print('{UNWRITABLE}')", "return base") + "# \x1b[2J\n",
    "dan": f"class E(Exception):\n    pass\n\n\nE.__name__ = '{UNWRITABLE}'\n{answer('raise E()')}",
}


def test_what_learner_code_says_stops_no_report_and_steers_no_terminal(grader: Grader, catalogue: Catalogue, tmp_path):
    (tmp_path / "in").mkdir()
    store, results = ResultStore(tmp_path / "out", LESSON), []
    for learner, source in SAYS_IT.items():
        handed = hand_in(catalogue, LESSON, {SUM: source})
        (tmp_path / "in" / f"{learner}.ipynb").write_bytes(handed)
        results.append(grader.grade(handed, learner))
        store.save(results[-1])
    old = json.loads(store.path("ada").read_text())  # As results were stored before their texts were cleaned.
    old["results"][0]["message"] = old["results"][0]["cases"][0]["printed"] = "\ud800\x1b[2J" + "x" * 10**6
    store.path("ada").write_text(json.dumps(old))
    told = io.StringIO()
    out = Console(file=told, width=400)
    write_reports(catalogue, tmp_path / "out", None, tmp_path / "in", tmp_path / "report", out=out, fail=pytest.fail)
    said = [replace(one, message="\ud800\x1b[2J") for one in results[0].results]
    was, now = (
        replace(results[0], results=[replace(one, status=status) for one in said]) for status in ("passed", "failed")
    )
    show_changes(changes(was, now), out)
    assert "\\x1b[2J" in told.getvalue() and "\x1b" not in told.getvalue()
    for path in (tmp_path / "report" / LESSON).iterdir():
        assert path.suffix == ".parquet" or b"\x1b" not in path.read_bytes(), path
        assert path.stat().st_size < 10**6, path
    assert "\\x1b[2J" in (tmp_path / "report" / LESSON / "clusters.csv").read_text()


def test_half_a_character_in_an_answer_costs_nothing(grader: Grader, catalogue: Catalogue):
    notebook = json.loads(hand_in(catalogue, LESSON, {SUM: WRONG}))
    cell_of(notebook, SUM)["source"] = RIGHT + "# \ud800\n"
    assert grader.grade(json.dumps(notebook).encode()).results[0].points == 3


def test_a_linked_folder_hands_in_nobody_else_s_answer(grader: Grader, catalogue: Catalogue, tmp_path: Path):
    (tmp_path / "in/bob/01_plain").mkdir(parents=True)
    (tmp_path / "in/bob/01_plain/01_plain.ipynb").write_bytes(hand_in(catalogue, LESSON, {SUM: RIGHT}))
    (tmp_path / "in/eve").mkdir()
    (tmp_path / "in/eve/01_plain").symlink_to("../bob/01_plain")
    handed = find_submissions(tmp_path / "in", catalogue.lesson(LESSON))
    bob, eve = grade_all(grader, handed, ResultStore(tmp_path / "out", LESSON), workers=1)
    assert (bob.points, eve.points) == (3, 0)
    assert "the folder eve/01_plain is a link" in eve.problem


def test_code_of_megabytes_is_refused_and_pictures_of_megabytes_are_not(grader: Grader, catalogue: Catalogue):
    notebook = json.loads(hand_in(catalogue, LESSON, {SUM: RIGHT}))
    notebook["cells"] += [code_cell("a " * 95_000) for _ in range(10)]
    cell_of(notebook, SUM)["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "x" * 5_000_000}]
    notebook["cells"] += [{"cell_type": "markdown", "source": "x" * 5_000_000}]
    assert grader.grade(json.dumps(notebook).encode()).points == 3
    notebook["cells"].append(code_cell("a " * 95_000))
    result = grader.grade(json.dumps(notebook).encode())
    assert result.points == 0 and "code cells hold 2,09" in result.problem, result.problem
    assert grader.grade(hand_in(catalogue, LESSON, {SUM: RIGHT})).points == 3


def test_each_cell_s_white_space_is_taken_out_once(grader: Grader, catalogue: Catalogue, monkeypatch):
    sources = [code_cell(f"x = {number}") for number in range(30)]
    assert len(grader.manifest.released_code) > 2 and grader.manifest.squeezed_stubs
    squeezed = []
    monkeypatch.setattr("grader.cohort.submission.squeeze", lambda text: squeezed.append(text) or "".join(text.split()))
    monkeypatch.setattr("grader.cohort.manifest.squeeze", lambda text: squeezed.append(text) or "".join(text.split()))
    read_submission(json.dumps({"cells": sources}).encode(), grader.manifest)
    assert len(squeezed) == 30


# --- what a probe tells of an answer ----------------------------------------------------------------------------------

PROMISED = (
    "deterministic algorithms are asked for",
    "an operation that has none only warns (warn_only)",
    "the generator returned is not torch's global one",
    "random repeats",
    "numpy repeats",
    "torch repeats",
    "the shuffle order repeats",
    "the trained weights are bit-equal",
    "another seed shuffles in another order",
    "another seed draws other numbers",
    "random repeats in a worker",
    "numpy repeats in a worker",
    "workers draw different numbers",
    "epochs draw different numbers in a worker",
)
VERDICT = f"lambda answer, **given: {dict.fromkeys(PROMISED, True)}"
ALIKE = """lambda answer, seed, rows, workers: (
    lambda run, epoch: {
        "first": run, "second": run, "other": run, "workers": epoch, "workers again": epoch, "next epoch": epoch
    }
)(
    {"deterministic": True, "only warns": True, "random": [0.5, 0.25, 0.1, 0.2], "numpy": [0.5, 0.25, 0.1, 0.2],
     "torch": [0.5, 0.25, 0.1, 0.2], "order": list(range(rows)), "order after other draws": list(range(rows)),
     "weights": __import__("torch").linspace(0, 1, 49)},
    [[0.5, 0.25 + worker / 100] for worker in range(workers)],
)"""
NOT_NUMBERS = VERDICT.replace("True", "'True'")


FORGED = "lambda answer, numbers: {'mean': sum(numbers) / len(numbers)}"
IN_PLACE_OF_OURS = {
    "the probe": f"module.probe = {FORGED}",
    "its code": f"module.probe.__code__ = ({FORGED}).__code__",
    "its helper": "module.seen = lambda kept: {'mean': sum(kept) / len(kept)}",
    "its helper's code": "module.seen.__code__ = (lambda kept: {'mean': sum(kept) / len(kept)}).__code__",
}
WITHOUT_A_MEAN = """class RunningMean(list):
    def __init__(self, start):
        self.append(start)

    add = list.append
"""


@pytest.mark.parametrize("what", IN_PLACE_OF_OURS)
def test_what_is_put_in_place_of_our_probe_is_not_used(grader: Grader, catalogue: Catalogue, what: str):
    module = grader._module_name(catalogue.find("running_mean")[1])
    top = f"import importlib\n\nmodule = importlib.import_module({module!r})\n{IN_PLACE_OF_OURS[what]}\n"
    result = grader.grade(hand_in(catalogue, LESSON, {SUM: RIGHT, MEAN: WITHOUT_A_MEAN}, top=top))
    assert [each.points for each in result.results] == [3, 0], result
    assert "mean" in result.results[1].message, result


SMALL_MODULE = """
class Layer:
    pass


def make(*, size=1):
    return Layer(), size


def probe(answer):
    return answer(*make(size=2))
"""


def test_an_answer_may_ask_for_the_class_of_what_a_probe_gives_it(monkeypatch: pytest.MonkeyPatch):
    """Were the modules of a probe imported a second time, the class would be another of the same name."""
    module: Any = ModuleType("small_course.lesson")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(SMALL_MODULE, vars(module))
    probe = functions_apart(["small_course"])[module.probe]
    module.make = None
    assert probe(lambda layer, size: (isinstance(layer, module.Layer), size)) == (True, 2)


@pytest.fixture(scope="module")
def start_lesson() -> Iterator[Grader]:
    with Grader("l00_start", seed=987_654_321, catalogue=find_course()) as grader:
        yield grader


@pytest.mark.parametrize("way", ["module.probe = {forged}", "module.probe.__code__ = ({forged}).__code__"])
@pytest.mark.parametrize("forged", [VERDICT, ALIKE, NOT_NUMBERS], ids=["verdict", "alike", "not numbers"])
def test_a_probe_that_speaks_for_the_answer_is_not_believed(start_lesson: Grader, way: str, forged: str):
    top = "import course.lessons.l00_start.make_deterministic as module\n\n" + way.format(forged=forged)
    source = "def make_deterministic(seed):\n    return None\n"
    notebook = hand_in(find_course(), "l00_start", {"l00-make-deterministic": source}, top=top)
    result = start_lesson.grade(notebook)
    (found,) = (each for each in result.results if each.exercise_id == "l00-make-deterministic")
    assert (found.status, found.points) in [("failed", 0), ("crashed", 0)], found


def test_a_kept_weight_is_found_where_the_count_of_those_alive_lies(monkeypatch: pytest.MonkeyPatch):
    from torch.multiprocessing.reductions import StorageWeakRef

    exercise = find_course().find("recomputed_linear")[1]
    naive = exercise.misconceptions["plain_product"].answer
    monkeypatch.setattr(StorageWeakRef, "expired", lambda self: True)
    found = check_answer(exercise, naive)
    assert found.status == "failed" and "another_w` is" in found.message, found


def test_a_layer_is_not_blamed_for_what_the_notebook_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    def shell() -> None: ...

    vars(shell)["names"] = [torch.zeros(64, 64)]
    monkeypatch.setattr(builtins, "get_ipython", shell, raising=False)
    _, exercise = find_course().find("qlora_linear")
    assert check_answer(exercise, exercise.answer).status == "passed"


def test_a_weight_kept_outside_the_layer_is_found():
    exercise = find_course().find("qlora_linear")[1]
    kept: dict[int, Any] = {}

    class Caching(exercise.misconceptions["DecodedOnce"].answer.__base__):  # type: ignore[name-defined, misc]
        def frozen_weight(self):
            return kept.setdefault(id(self), self.dequantise(self.packed))

    found = check_answer(exercise, Caching)
    assert found.status == "failed" and "another_w` is" in found.message, found


def test_a_model_is_not_believed_about_itself():
    exercise = find_course().find("prepare_for_kbit")[1]
    right = exercise.answer
    assert right is not None
    found = check_answer(exercise, lambda model: right(copy.deepcopy(model)))
    assert found.status == "failed" and "returned_the_model_it_got" in found.message, found


# --- what an answer may use -------------------------------------------------------------------------------------------

SOFTMAX = "def row_softmax(logits):\n    return torch.softmax(logits, -1)\n"
HONEST = "def row_softmax(logits):\n    return logits.exp() / logits.exp().sum(-1, keepdim=True)\n"


@pytest.fixture(scope="module")
def torch_lesson(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Grader, Catalogue]]:
    catalogue = load_course(tmp_path_factory.mktemp("torch"))
    with Grader("l02_torch", seed=1, catalogue=catalogue) as grader:
        yield grader, catalogue


def test_a_decoy_of_the_same_id_does_not_speak_for_the_answer(torch_lesson: tuple[Grader, Catalogue]):
    grader, catalogue = torch_lesson
    notebook = json.loads(hand_in(catalogue, "l02_torch", {"l02-row-softmax": SOFTMAX}))
    decoy = {**code_cell(HONEST), "id": "l02-row-softmax"}
    notebook["cells"].insert(notebook["cells"].index(cell_of(notebook, "l02-row-softmax")), decoy)
    (found,) = grader.grade(json.dumps(notebook).encode()).results
    assert found.points == 0 and "torch.softmax" in found.message


def test_no_two_cells_of_a_submission_have_one_name(grader: Grader, catalogue: Catalogue):
    notebook = json.loads(hand_in(catalogue, LESSON, {SUM: RIGHT}))
    ids = [SUM, SUM, MEAN, "own", "own", "", "number 4", "our scaled_sum"]
    notebook["cells"][:0] = [{**code_cell(f"x = {number}"), "id": name} for number, name in enumerate(ids)]
    submission = read_submission(json.dumps(notebook).encode(), grader.manifest)
    names = [cell.name for cell in submission.cells]
    assert len(names) == len(set(names)) and "own" in names and "our scaled_sum" not in names


STABLE = HONEST.replace("return", "logits = logits - logits.amax(-1, keepdim=True)\n    return")
KEPT = "keep = row_softmax\n\n\ndef row_softmax(logits):\n    return keep(logits)\n"
LIB = "def row_softmax(logits):\n    return lib.softmax(logits, -1)\n"
HIDDEN_USES = {
    "under a magic": (f"%matplotlib inline\n{SOFTMAX}", ""),
    "in a branch": ("if True:\n    " + SOFTMAX.replace("\n", "\n    "), ""),
    "in an attempt": ("try:\n    " + SOFTMAX.replace("\n", "\n    ") + "\nfinally:\n    pass\n", ""),
    "imported under the answer's name": ("from torch import softmax as row_softmax\n", ""),
    "with an annotation": ("row_softmax: object = torch.softmax\n", ""),
    "as one of a pair": ("row_softmax, other = torch.softmax, 1\n", ""),
    "covered by a later cell": (SOFTMAX, HONEST),
    "with a shell line": (f"{SOFTMAX}_ = !true\n", ""),
    "with a question": (f"{SOFTMAX}print?\n", ""),
    "bound by a pattern": ("match torch:\n    case lib:\n        pass\n" + LIB, ""),
    "bound by a pattern's rest": (
        "match [torch]:\n    case [*lib]:\n        pass\n" + LIB.replace("lib.", "lib[0]."),
        "",
    ),
    "bound by an error": ("try:\n    raise E(torch)\nexcept E as e:\n    lib = e.args[0]\n" + LIB, ""),
    "bound by a loop": ("for lib in [torch]:\n    pass\n" + LIB, ""),
    "bound by a walrus": ("[(lib := each) for each in [torch]]\n" + LIB, ""),
    "bound by with": ("with nullcontext(torch) as lib:\n    pass\n" + LIB, ""),
    "bound by a plain copy": ("lib = torch\n" + LIB, ""),
    "bound to itself": ("lib = torch\nlib = lib\n" + LIB, ""),
    "imported by a helper": ("def load():\n    global lib\n    import torch as lib\nload()\n" + LIB, ""),
    "set by a helper": ("def load():\n    global lib\n    lib = torch\nload()\n" + LIB, ""),
    "as a default": (LIB.replace("logits)", "logits, lib=torch)"), ""),
    "in a class": ("class H:\n    lib = torch\n" + LIB.replace("lib.", "H.lib."), ""),
    "imported by a class": (
        "class H:\n    if True:\n        import torch as lib\n" + LIB.replace("lib.", "H.lib."),
        "",
    ),
    "in an attribute": ("h = H()\nh.lib = torch\n" + LIB.replace("lib.", "h.lib."), ""),
    "imported with a star": ("from torch import *\n" + LIB.replace("lib.", ""), ""),
    "kept before a decoy": (
        f"{SOFTMAX}keep = row_softmax\n\n\ndef row_softmax(logits):\n    return keep(logits)\n",
        "",
    ),
    "before a decoy of a comprehension": (f"{SOFTMAX}_ = [0 for row_softmax in ()]\n", ""),
    "after a decoy": ("def softmax(x):\n    return x\nfrom torch import softmax\n" + LIB.replace("lib.", ""), ""),
    "perhaps covered": ("import torch as lib\nif 0 > 1:\n    lib = None\n" + LIB, ""),
    "imported and asked for by a string": (
        "def row_softmax(logits):\n    from torch import softmax\n\n    return locals()['softmax'](logits, -1)\n",
        "",
    ),
    "behind a long sum": (SOFTMAX + "    x = " + "+".join(["1"] * 2_000) + "\n", ""),
}


def names_of(*cells: str) -> NotebookNames:
    return NotebookNames({f"cell {number}": read_cell(plain_python(cell)) for number, cell in enumerate(cells)})


@pytest.mark.parametrize("how", HIDDEN_USES)
def test_a_forbidden_name_is_found(how: str):
    own, later = HIDDEN_USES[how]
    names = names_of("import torch\n", own, later)
    assert names.violations("row_softmax", ("torch.softmax",), "cell 1") == ["torch.softmax"]


@pytest.mark.parametrize(
    ("forbidden", "source"),
    [
        ("not_loaded_here", "from not_loaded_here import *\ndef answer(x):\n    return softmax(x)\n"),
        ("torch.nn.modules", "def answer(x):\n    return torch.nn.Softmax(-1)(x)\n"),
        ("torch.nn.functional.conv1d", "def answer(x):\n    return torch.conv1d(x, x)\n"),
    ],
)
def test_a_forbidden_name_is_found_under_another(forbidden: str, source: str):
    """A star's, one that a package shows as its own, and one object that two modules show."""
    assert names_of("import torch\n", source).violations("answer", (forbidden,)) == [forbidden]


COMPARED = "print((row_softmax(given) - torch.softmax(given, 0)).abs())\nexpected = torch.softmax(given, 0)\n"
INNOCENT = {
    "a later cell calls the library": ("", HONEST, SOFTMAX.replace("row_softmax", "library_softmax")),
    "it is compared with the library": ("", HONEST, COMPARED),
    "the library is compared in its own cell": ("", HONEST + COMPARED, ""),
    "a draft of a helper used the library": (
        "def part(x):\n    return torch.softmax(x, 0)\n",
        "def part(x):\n    return x.exp()\n\n\ndef row_softmax(logits):\n    return part(logits)\n",
        "",
    ),
    "a variable is called like a function of a star": (
        "from torch.nn.functional import *\n",
        "def row_softmax(logits):\n    softmax = logits.exp()\n    return sum(softmax for softmax in softmax)\n",
        "",
    ),
    "an argument is called like an import": (
        "from torch import softmax\n",
        "def row_softmax(softmax):\n    return softmax.exp()\n",
        "",
    ),
    "its own helper comes after the import": (
        "from torch import softmax\n",
        "def softmax(x):\n    return x.exp()\n\n\ndef row_softmax(logits):\n    return softmax(logits)\n",
        "",
    ),
    "a method imports what it does not hand on": (
        "",
        "class H:\n    def norm(self, x):\n        import torch\n\n        return torch.exp(x)\n\n\n"
        "def row_softmax(logits):\n    h = H()\n    h.softmax = h.norm\n    return h.softmax(logits)\n",
        "",
    ),
    "magics and installs": (
        "%matplotlib inline\n!pip install torch\nimport os\n",
        f"%%time\n{HONEST}",
        "torch.softmax?",
    ),
}


@pytest.mark.parametrize("how", INNOCENT)
def test_an_honest_answer_is_not_blamed(how: str):
    names = names_of("import torch", *INNOCENT[how])
    assert names.violations("row_softmax", ("torch.softmax", "torch.nn.functional.softmax"), "cell 2") == []


@pytest.mark.parametrize("line", ["_ = !true", "print?"])
def test_a_cell_that_needs_ipython_is_read_as_it_is_run(torch_lesson: tuple[Grader, Catalogue], line: str):
    grader, catalogue = torch_lesson
    for source, status in ((SOFTMAX, "failed"), (STABLE, "passed")):
        handed = hand_in(catalogue, "l02_torch", {"l02-row-softmax": f"{source}{line}\n"})
        (found,) = grader.grade(handed).results
        assert found.status == status, found


def test_a_cell_that_only_a_loosened_parser_can_read_is_not_run(torch_lesson: tuple[Grader, Catalogue]):
    grader, catalogue = torch_lesson
    top = "import sys\nsys.set_int_max_str_digits(0)\nsys.setrecursionlimit(10**6)\n"
    for trick in ("9" * 5_000, "+".join(["1"] * 20_000)):
        handed = hand_in(catalogue, "l02_torch", {"l02-row-softmax": f"{SOFTMAX}x = {trick}\n"}, top=top)
        (found,) = grader.grade(handed).results
        assert (found.status, found.points) in [("crashed", 0), ("failed", 0)], found.message[:300]


def test_every_cell_is_parsed_once(grader: Grader, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch):
    parsed: list[str] = []
    monkeypatch.setattr(
        "grader.cohort.session.read_cell", lambda source, file: parsed.append(file) or read_cell(source, file)
    )
    monkeypatch.setattr(grader.prepared[0].exercise, "forbidden", ("numpy.add",))
    monkeypatch.setattr(grader.prepared[1].exercise, "forbidden", ("numpy.add",))
    assert grader.grade(hand_in(catalogue, LESSON, {SUM: WRONG, MEAN: "class RunningMean(scaled_sum): 1"})).points == 0
    assert len(parsed) == len(set(parsed)) > 2


@pytest.mark.parametrize(
    ("exercise", "module", "name"),
    [
        ("rms_norm", "course.lessons.l03_llama.llama_faults", "normalise"),
        ("apply_rotary", "course.lessons.l03_llama.llama_faults", "rotate"),
        ("grouped_query_attention", "course.lessons.l03_llama.llama_faults", "attend"),
        ("swiglu_mlp", "course.lessons.l03_llama.llama_faults", "gate_and_up"),
        ("nf4_quantise", "course.lessons.l08_quantisation.bitsandbytes_nf4", "library_quantise"),
    ],
)
def test_the_course_s_own_helpers_that_hold_the_answer_are_forbidden(exercise: str, module: str, name: str):
    wanted = find_course().find(exercise)[1]
    source = f"from {module} import {name}\n\n\ndef {wanted.answer_name}(*given):\n    return {name}(*given)\n"
    assert names_of(source).violations(wanted.answer_name, wanted.forbidden)
