"""The workspace: copied once, never overwritten once edited; and JupyterLab really answers on it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest

from course import lab, workspace
from course.lab import free_port, lab_command
from course.workspace import SyncReport, WorkspaceError, sync_workspace, workspace_folder

NOTEBOOK = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    folder = tmp_path / "notebooks"
    (folder / "images").mkdir(parents=True)
    for name in ("00_start.ipynb", "07_lora.ipynb", "images/rank.svg"):
        (folder / name).write_text(json.dumps(NOTEBOOK | {"name": name}))
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".ipynb_checkpoints" / "00_start-checkpoint.ipynb").write_text("{}")
    return folder


def test_everything_is_copied_and_a_second_run_does_nothing(tmp_path: Path, shipped: Path) -> None:
    folder = tmp_path / "mine"
    assert sync_workspace(folder, shipped).copied == ("00_start.ipynb", "07_lora.ipynb", "images/rank.svg")
    assert (folder / "07_lora.ipynb").read_bytes() == (shipped / "07_lora.ipynb").read_bytes()
    assert (folder / ".grader").is_dir()
    assert not (folder / ".ipynb_checkpoints").exists()
    assert sync_workspace(folder, shipped) == SyncReport(folder)


def test_an_unedited_notebook_follows_the_course(tmp_path: Path, shipped: Path) -> None:
    folder = tmp_path / "mine"
    sync_workspace(folder, shipped)
    (shipped / "07_lora.ipynb").write_text("version 2")
    assert sync_workspace(folder, shipped).updated == ("07_lora.ipynb",)
    assert (folder / "07_lora.ipynb").read_text() == "version 2"


def test_an_edited_notebook_is_never_overwritten(tmp_path: Path, shipped: Path) -> None:
    folder = tmp_path / "mine"
    sync_workspace(folder, shipped)
    (folder / "07_lora.ipynb").write_text("my answers")
    assert sync_workspace(folder, shipped) == SyncReport(folder)
    for version in ("version 2", "version 3"):
        (shipped / "07_lora.ipynb").write_text(version)
        assert sync_workspace(folder, shipped).kept == ("07_lora.ipynb",)
        assert (folder / "07_lora.ipynb").read_text() == "my answers"


def test_assistants_are_told_to_tutor_and_an_edited_policy_stays(tmp_path: Path, shipped: Path) -> None:
    folder, source = tmp_path / "mine", workspace.assistant_files_folder()
    sync_workspace(folder, shipped)
    assert sync_workspace(folder, source).copied == ("AGENTS.md", "CLAUDE.md")
    policy = (folder / "AGENTS.md").read_text(encoding="utf-8")
    assert all(word in policy for word in ("course/lessons", "hint()", "solution()", "check("))
    assert (folder / "CLAUDE.md").read_text() == "@AGENTS.md\n"  # How that file names another one to read.
    (folder / "AGENTS.md").write_text("Our class has rules of its own.")
    assert sync_workspace(folder, source) == SyncReport(folder)
    assert (folder / "AGENTS.md").read_text() == "Our class has rules of its own."


def test_renaming_an_edited_notebook_brings_the_new_version(tmp_path: Path, shipped: Path) -> None:
    folder = tmp_path / "mine"
    sync_workspace(folder, shipped)
    (folder / "07_lora.ipynb").write_text("my answers")
    (shipped / "07_lora.ipynb").write_text("version 2")
    (folder / "07_lora.ipynb").rename(folder / "my_lora.ipynb")
    assert sync_workspace(folder, shipped).copied == ("07_lora.ipynb",)
    assert (folder / "07_lora.ipynb").read_text() == "version 2"
    assert (folder / "my_lora.ipynb").read_text() == "my answers"


@pytest.mark.parametrize("record", [None, "", "[]", "{not json"])
def test_without_a_record_every_differing_file_counts_as_the_learners(
    tmp_path: Path, shipped: Path, record: str | None
) -> None:
    folder = tmp_path / "mine"
    sync_workspace(folder, shipped)
    (folder / "07_lora.ipynb").write_text("my answers")
    manifest = folder / ".grader" / "copied.json"
    manifest.unlink() if record is None else manifest.write_text(record)
    assert sync_workspace(folder, shipped).kept == ("07_lora.ipynb",)
    assert (folder / "07_lora.ipynb").read_text() == "my answers"
    assert "00_start.ipynb" in json.loads(manifest.read_text())


def test_a_copy_killed_between_file_and_record_does_not_look_edited(tmp_path: Path, shipped: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "00_start.ipynb").write_bytes((shipped / "00_start.ipynb").read_bytes())
    assert sync_workspace(folder, shipped).kept == ()
    (shipped / "00_start.ipynb").write_text("version 2")
    assert sync_workspace(folder, shipped).updated == ("00_start.ipynb",)


def test_without_notebooks_the_way_to_build_them_is_named(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match=r"no notebooks in .*grader build"):
        sync_workspace(tmp_path / "mine", tmp_path / "nowhere")


def test_a_workspace_that_cannot_be_made_names_the_way_out(tmp_path: Path, shipped: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkspaceError, match=r"Cannot write the workspace .*file/mine: Not a directory.*--workspace"):
        sync_workspace(tmp_path / "file" / "mine", shipped)


def test_a_workspace_inside_the_shipped_notebooks_is_refused(shipped: Path) -> None:
    for folder in (shipped, shipped / "mine"):
        with pytest.raises(WorkspaceError, match=r"lies inside the shipped notebooks"):
            sync_workspace(folder, shipped)


def test_the_folder_is_the_option_then_the_variable_then_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COURSE_WORKSPACE", raising=False)
    assert workspace_folder() == Path(workspace.__file__).resolve().parent.parent / "workspace"
    monkeypatch.setenv("COURSE_WORKSPACE", str(tmp_path / "variable"))
    assert workspace_folder() == tmp_path / "variable"
    assert workspace_folder(tmp_path / "option") == tmp_path / "option"


def test_the_browser_opens_the_course_home(tmp_path: Path) -> None:
    assert "--LabApp.default_url=/course" in lab_command(tmp_path, 8888, browser=True)


def test_no_browser_is_opened_without_a_display(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab.sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert "--no-browser" in lab_command(tmp_path, 8888, browser=True)
    monkeypatch.setenv("DISPLAY", ":0")
    assert "--no-browser" not in lab_command(tmp_path, 8888, browser=True)
    assert "--no-browser" in lab_command(tmp_path, 8888, browser=False)


def test_a_taken_port_is_refused_when_asked_for_and_skipped_otherwise() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(WorkspaceError, match=f"Port {port} is already in use.*--port 0"):
            free_port(port)
    assert free_port(0) != 0
    with socket.socket() as taken:
        try:
            taken.bind(("127.0.0.1", lab.FIRST_PORT))
            taken.listen()
        except OSError:
            pass  # something else has it, which serves as well
        assert free_port(None) > lab.FIRST_PORT


def fetch(address: str, token: str) -> bytes:
    request = urllib.request.Request(address, headers={"Authorization": f"token {token}"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return response.read()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGTERM ends a process outright there")
def test_course_lab_answers_at_the_address_it_prints_with_a_kernel_of_this_python(
    tmp_path: Path, shipped: Path
) -> None:
    program = f"""
from pathlib import Path
from course import workspace
from course.cli import app
workspace.shipped_notebooks_folder = lambda: Path({str(shipped)!r})
app()
"""
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    folder = tmp_path / "mine"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "lab", "--port", "0", "--workspace", str(folder)],
        env=environment | {"JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime")},
        stdout=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        address = next((line for line in process.stdout if "Your course is ready" in line), "")
        found = re.search(r"(http://\S+?/)course\?token=(\w+)", address)
        assert found, f"no address was printed, only: {address!r}"
        server, token = found.groups()
        home = fetch(found.group(0), token).decode()
        assert re.search(r'id="continue"[^>]*href="/lab/tree/00_start\.ipynb"', home)
        assert "Not in your workspace: 01_tokens.ipynb" in home
        assert b"jupyter-config-data" in fetch(f"{server}lab/tree/00_start.ipynb", token)
        names = {item["name"] for item in json.loads(fetch(f"{server}api/contents", token))["content"]}
        assert {"00_start.ipynb", "07_lora.ipynb", "AGENTS.md", "CLAUDE.md"} <= names
        kernels = json.loads(fetch(f"{server}api/kernelspecs", token))
        python = kernels["kernelspecs"][kernels["default"]]["spec"]["argv"][0]
        assert Path(python).name.startswith("python") and (not os.path.isabs(python) or python == sys.executable)
        assert (folder / ".grader").is_dir()
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        with pytest.raises(OSError):
            fetch(f"{server}api", token)
    finally:
        watchdog.cancel()
        process.kill()
