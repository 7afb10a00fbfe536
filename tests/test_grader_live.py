"""check, hint, solution, reset, progress and use, in real kernels and in a plain interpreter."""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from jupyter_client.manager import KernelManager
from tiny_courses import copy_course

from grader.progress import Progress

START = "import numpy as np\nfrom grader import check, hint, progress, reset, solution, use"
RIGHT = "def scaled_sum(base, update, scale):\n    return base + scale * update"
FORGOTTEN = "def scaled_sum(base, update, scale):\n    return base + update"
STUB = "def scaled_sum(base, update, scale):\n    raise NotImplementedError"
CHECK = "check(scaled_sum)"
FORGOTTEN_HINT = "The scale has no effect on your result: where does it come in?"


@dataclass
class Shown:
    """What one cell gave."""

    text: str = ""
    html: str = ""
    stdout: str = ""
    stderr: str = ""
    result: str = ""
    error: str = ""
    next_input: str = ""
    died: bool = False


@dataclass
class Kernel:
    """One running kernel in a workspace folder."""

    workspace: Path
    spec: str
    extra: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> Kernel:
        (self.workspace / ".grader").mkdir(exist_ok=True)
        environment = {**os.environ, "PYTHONPATH": str(self.workspace), "GRADER_COURSE": self.spec, **self.extra}
        environment.pop("GRADER_PROGRESS", None)
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(env=environment, cwd=str(self.workspace))
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)
        self.run(START)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def run(self, *cells: str) -> Shown:
        for cell in cells:
            shown = self._run(cell)
        return shown

    def _run(self, code: str) -> Shown:
        shown = Shown()
        message_id = self.client.execute(code)
        while True:
            try:
                message = self.client.get_iopub_msg(timeout=1)
            except queue.Empty:
                if not self.manager.is_alive():
                    shown.died = True
                    return shown
                continue
            if message["parent_header"].get("msg_id") != message_id:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                setattr(shown, content["name"], getattr(shown, content["name"]) + content["text"])
            elif kind == "display_data":
                shown.text += content["data"].get("text/plain", "") + "\n"
                shown.html += content["data"].get("text/html", "")
            elif kind == "execute_result":
                shown.result = content["data"]["text/plain"]
            elif kind == "error":
                shown.error = f"{content['ename']}: {content['evalue']}"
            elif kind == "status" and content["execution_state"] == "idle":
                break
        shown.next_input = next(
            (item["text"] for item in self._reply(message_id).get("payload", []) if "text" in item), ""
        )
        return shown

    def _reply(self, message_id: str) -> dict:
        """The reply to this very cell: on a busy machine, late replies to wait_for_ready come before it."""
        with contextlib.suppress(queue.Empty):
            while True:
                message = self.client.get_shell_msg(timeout=5)
                if message["parent_header"].get("msg_id") == message_id:
                    return message["content"]
        return {}


@pytest.fixture
def spec(tmp_path):
    return copy_course(tmp_path)


@pytest.fixture
def kernel(tmp_path, spec):
    with Kernel(tmp_path, spec) as running:
        yield running


def test_the_way_from_stub_to_passed(kernel, tmp_path):
    kept = Progress(tmp_path / ".grader/progress.sqlite")

    stub = kernel.run(STUB, CHECK)
    assert stub.text.startswith("○ Add a scaled update: not started")
    assert kept.attempts() == []

    wrong = kernel.run(FORGOTTEN, CHECK)
    assert "✗ Add a scaled update: not yet (0 of 3 points)" in wrong.text
    assert f"Hint: {FORGOTTEN_HINT}" in wrong.text
    assert FORGOTTEN_HINT in wrong.html
    assert 'class="grader-card grader-failed' in wrong.html
    assert (wrong.stdout, wrong.stderr, wrong.error, wrong.result) == ("", "", "", "")

    crashed = kernel.run(
        "def scaled_sum(base, update, scale):\n    y = 1\n    return base[<0>]".replace("<0>", "99"), CHECK
    )
    assert "⚠ Add a scaled update: your code stopped with an error" in crashed.text
    assert "at line 3 of `scaled_sum`: `return base[99]`" in crashed.text

    exits = kernel.run("import sys\ndef scaled_sum(base, update, scale):\n    sys.exit()", CHECK)
    assert "SystemExit" in exits.text

    right = kernel.run(RIGHT, CHECK)
    assert "✓ Add a scaled update: passed (3 of 3 points)" in right.text
    assert "In the library: BLAS calls this axpy" in right.text
    assert "Interview: Why is axpy" in right.text

    assert [(each.status, each.misconception) for each in kept.attempts()] == [
        ("failed", "scale_forgotten"),
        ("crashed", ""),
        ("crashed", ""),
        ("passed", ""),
    ]
    assert kept.attempts()[0].source.strip() == FORGOTTEN

    overview = kernel.run("progress()")
    assert "L01 Plain arrays: 1 of 2 exercises passed" in overview.text
    assert "✓ Add a scaled update (scaled_sum): passed, 3/3 points, 3 tries" in overview.text
    assert "○ A running mean (running_mean): not started, 0/2 points" in overview.text.replace(
        "RunningMean", "running_mean"
    )
    assert 'data-exercise="scaled_sum" data-status="passed"' in overview.html


def test_help_comes_in_order_and_the_solution_after_three_tries(kernel):
    nothing = kernel.run("hint()")
    assert "nothing has been checked yet: say which exercise" in nothing.text
    kernel.run(FORGOTTEN, CHECK)
    hints = [kernel.run("hint()").text for _ in range(4)]
    for shown, (number, words) in zip(
        hints,
        [(1, "Which of the two arrays"), (2, "Scale first"), (3, "No loop is needed"), (3, "No loop is needed")],
        strict=True,
    ):
        assert f"hint {number} of 3" in shown
        assert words in shown
    assert "hint 1 of 2" in kernel.run("hint('running_mean')").text

    locked = kernel.run("solution()")
    assert "opens after you pass, or after 2 more tries" in locked.text
    assert "contribution" not in locked.text + locked.html
    kernel.run(CHECK)
    assert "after one more try" in kernel.run("solution(scaled_sum)").text
    kernel.run(STUB, CHECK)  # A stub is no try.
    assert "after one more try" in kernel.run("solution(scaled_sum)").text
    kernel.run(FORGOTTEN, CHECK)
    opened = kernel.run("solution()")
    assert "| def scaled_sum(base: np.ndarray" in opened.text
    assert "contribution = scale * update" in opened.text
    assert "@exercise" not in opened.text


def test_reset_gives_the_stub_in_a_new_cell_and_use_gives_what_has_passed(kernel):
    fresh = kernel.run("reset('scaled_sum')")
    assert fresh.next_input.startswith("def scaled_sum(base: np.ndarray")
    assert fresh.next_input.endswith("raise NotImplementedError")
    assert "new cell below" in fresh.text

    add = "print(use('scaled_sum')(np.ones(1), np.ones(1), 3.0))"
    assert kernel.run(add).stdout == "using the course's scaled_sum (yours has not passed its check yet)\n[4.]\n"
    kernel.run(FORGOTTEN, CHECK)
    assert kernel.run(add).stdout.startswith("using the course's scaled_sum")
    kernel.run(RIGHT, CHECK)
    assert kernel.run("use('scaled_sum') is scaled_sum").result == "True"
    kernel.run(FORGOTTEN)  # Another version than the one that passed.
    assert kernel.run(add).stdout.endswith("[4.]\n")
    assert "CatalogueError" in kernel.run("use('absent')").error


def test_what_cannot_be_checked_is_said_plainly(kernel):
    assert "check() takes your function or class itself" in kernel.run("check(3)").error
    renamed = kernel.run("def scaled_total(x): return x\ncheck(scaled_total)")
    assert "no exercise called 'scaled_total'. Did you rename the function?" in renamed.text
    assert renamed.error == ""


def test_a_class_is_checked_and_its_source_kept(kernel, tmp_path):
    cell = """
    class RunningMean:
        def __init__(self, start):
            self.numbers = [start]
        def add(self, number):
            self.numbers += [number]
        def mean(self):
            return float(sum(self.numbers))
    """
    shown = kernel.run(textwrap.dedent(cell), "check(RunningMean)")
    assert "Hint: You return the sum; a mean also divides." in shown.text
    (attempt,) = Progress(tmp_path / ".grader/progress.sqlite").attempts()
    assert attempt.source.startswith("class RunningMean:")
    assert "self.numbers += [number]" in attempt.source


@pytest.mark.parametrize("death", ["os._exit(1)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_kernel_that_dies_in_a_check_is_told_by_the_next_and_the_answer_kept(tmp_path, spec, death):
    deadly = f"import os, signal\ndef scaled_sum(base, update, scale):\n    {death}"
    with Kernel(tmp_path, spec) as first:
        assert first.run(deadly, CHECK).died
    with Kernel(tmp_path, spec) as second:
        overview = second.run("progress()")
        assert "l01-scaled-sum: the last check did not finish" in overview.text
        assert "What you had written is kept" in overview.text
        assert "1 try" in overview.text
        assert "did not finish" not in second.run("progress()").text
        assert "passed" in second.run(RIGHT, CHECK).text
    attempts = Progress(tmp_path / ".grader/progress.sqlite").attempts()
    assert [each.status for each in attempts] == ["crashed", "passed"]
    assert death in attempts[0].source


def test_two_kernels_share_one_progress_and_an_interrupt_is_no_try(tmp_path, spec):
    with Kernel(tmp_path, spec) as first, Kernel(tmp_path, spec) as second:
        slow = "import time\ndef scaled_sum(base, update, scale):\n    print('x')\n    time.sleep(60)"
        first.run(slow)
        message_id = first.client.execute(CHECK)
        kept = Progress(tmp_path / ".grader/progress.sqlite")
        while not kept.attempts():
            time.sleep(0.02)
        other = second.run(RIGHT, CHECK)
        assert "passed" in other.text
        assert "did not finish" not in other.text  # The first kernel is still at it.
        first.manager.interrupt_kernel()
        while True:
            message = first.client.get_iopub_msg(timeout=20)
            if message["parent_header"].get("msg_id") == message_id and message["msg_type"] == "error":
                assert message["content"]["ename"] == "KeyboardInterrupt"
                break
        assert "(scaled_sum): passed, 3/3 points\n" in second.run("progress()").text
        assert [each.status for each in kept.attempts()] == ["passed"]


def test_under_nbgraders_autograder_check_returns_the_points_and_keeps_stderr_quiet(tmp_path, spec):
    warns = """
    import logging, os, sys, warnings
    log = logging.getLogger("noisy")
    log.addHandler(logging.StreamHandler())
    def scaled_sum(base, update, scale):
        warnings.warn("careful")
        log.warning("logged")
        print("to stderr", file=sys.stderr)
        os.write(2, b"past Python")
        return base + scale * update
    """
    with Kernel(tmp_path, spec, {"NBGRADER_EXECUTION": "autograde"}) as kernel:
        right = kernel.run(textwrap.dedent(warns), CHECK)
        assert (right.result, right.stderr, right.error) == ("3.0", "", "")
        assert "✓ Add a scaled update: passed" in right.stdout
        time.sleep(0.3)
        assert kernel.run("pass").stderr == ""
        assert kernel.run("print('back', file=sys.stderr)").stderr == "back\n"  # Put back afterwards.

        partly = kernel.run("def scaled_sum(base, update, scale):\n    return base + abs(scale) * update", CHECK)
        assert (partly.result, partly.stderr) == ("1.0", "")
        assert kernel.run(STUB, CHECK).result == "0.0"
        assert kernel.run(FORGOTTEN, CHECK).result == "0.0"
        # A check that gives no number would score full marks.
        renamed = kernel.run("def scaled_total(x): return x\ncheck(scaled_total)")
        assert (renamed.result, renamed.stderr) == ("0.0", "")
        assert "no exercise called 'scaled_total'" in renamed.stdout
        assert "TypeError" in kernel.run("check(None)").error
    assert not (tmp_path / ".grader/progress.sqlite").exists()


def plain_check(tmp_path, spec, answer: str, **environment: str) -> str:
    """Check in an ordinary interpreter; returns what it printed."""
    program = tmp_path / "program.py"
    program.write_text(f"import numpy as np\nfrom grader import check\n{answer}\n{CHECK}\n")
    finished = subprocess.run(
        [sys.executable, str(program)],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "GRADER_COURSE": spec, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.stderr == ""
    return finished.stdout


def test_in_a_terminal_the_verdict_is_text(tmp_path, spec):
    printed = plain_check(tmp_path, spec, FORGOTTEN, GRADER_PROGRESS=str(tmp_path / "p.sqlite"))
    assert printed.startswith("✗ Add a scaled update: not yet")
    assert f"  Hint: {FORGOTTEN_HINT}" in printed
    assert "<" not in printed


@pytest.fixture
def in_process(tmp_path, spec, monkeypatch):
    """`check` called here, for trouble that needs no kernel."""
    from grader import live

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("GRADER_COURSE", spec)
    monkeypatch.setenv("GRADER_PROGRESS", str(tmp_path / "kept/progress.sqlite"))
    monkeypatch.setattr(live, "_shell", lambda: None)

    def scaled_sum(base, update, scale):
        return base + scale * update

    return lambda: live.check(scaled_sum)


@pytest.mark.parametrize("method", ["begin", "finish", "close_dead_attempts", "standings", "__init__"])
def test_a_verdict_is_given_whatever_happens_to_progress(in_process, capsys, monkeypatch, method):
    """A full disk or a folder that may only be read fails at any of these steps."""
    from grader.progress import ProgressError

    def fails(*_, **__):
        raise ProgressError("progress cannot be kept: disk full.")

    monkeypatch.setattr(Progress, method, fails)
    in_process()
    printed = capsys.readouterr().out
    assert "✓ Add a scaled update: passed (3 of 3 points)" in printed
    assert ("disk full" in printed) == (method in ("begin", "finish", "__init__"))


def test_a_damaged_progress_file_is_told_and_the_check_goes_on(in_process, capsys, tmp_path):
    in_process()
    (tmp_path / "kept/progress.sqlite").write_bytes(b"garbage" * 1000)
    in_process()
    printed = capsys.readouterr().out
    assert "Progress repaired" in printed
    assert "restored from the copy made after your last check" in printed
    assert printed.count("passed (3 of 3 points)") == 2
    assert len(Progress(tmp_path / "kept/progress.sqlite").attempts()) == 2


def test_our_own_bug_in_a_check_leaves_no_open_attempt(in_process, monkeypatch, tmp_path):
    from grader import live

    def fails(*_, **__):
        raise RuntimeError("our bug")

    monkeypatch.setattr(live, "check_answer", fails)
    with pytest.raises(RuntimeError, match="our bug"):
        in_process()
    assert Progress(tmp_path / "kept/progress.sqlite").attempts() == []
