"""`course doctor`: what works is tried for real, what lacks is named with what to do, and nothing makes it crash."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from course import doctor
from course.doctor import Finding, examine, machine, parts, show_findings

ROWS = [
    "Python",
    "packages",
    "torch",
    "GPU",
    "CPU",
    "memory",
    "disk",
    "bitsandbytes",
    "base model",
    "profile",
    "workspace",
    "JupyterLab",
]


def run_doctor(*arguments: str, code: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    program = f"{code}\nimport sys\nfrom course.cli import app\nsys.argv = ['course', 'doctor', *sys.argv[1:]]\napp()"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("COURSE_")}
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=inherited | {"COLUMNS": "160"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_real_command_tries_everything_and_is_ready() -> None:
    result = run_doctor("--json")
    findings = {finding["name"]: finding for finding in json.loads(result.stdout)}
    assert list(findings) == ROWS
    for name in ("Python", "packages", "torch", "bitsandbytes", "base model", "profile", "JupyterLab"):
        assert findings[name]["state"] == "ok", findings[name]
    assert "4-bit NF4 works on" in findings["bitsandbytes"]["found"]
    assert result.returncode == int(any(finding["state"] == "missing" for finding in findings.values()))
    assert result.stderr == ""


WITHOUT_LIBRARIES = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "bitsandbytes", "jupyter_client"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""


def test_without_torch_it_still_runs_and_says_what_is_not_installed() -> None:
    result = run_doctor("--json", code=WITHOUT_LIBRARIES)
    findings = {finding["name"].lower(): finding for finding in json.loads(result.stdout)}
    assert result.returncode == 1
    assert findings["python"]["state"] == "ok"
    for name in ("torch", "bitsandbytes", "profile"):
        assert findings[name]["found"] == "needs torch, which is not installed"
        assert "pip install -e ." in findings[name]["advice"]
    assert findings["jupyter"]["found"] == "needs jupyter_client, which is not installed"


def test_the_table_shows_every_row_and_ends_with_what_to_mend_first() -> None:
    result = run_doctor(COURSE_MODEL="/no/such/folder")
    assert result.returncode == 1
    for row in ROWS:
        assert row in result.stdout
    assert "mend" in result.stdout.splitlines()[-1] and "base model" in result.stdout.splitlines()[-1]
    assert "COURSE_MODEL=/no/such/folder is not a folder" in " ".join(result.stdout.replace("│", " ").split())


def test_an_unknown_profile_is_a_missing_row_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COURSE_PROFILE", "gpu")
    finding = parts.profile()
    assert finding.state == "missing" and "not a profile" in finding.advice


def test_a_model_from_the_hub_is_limited_because_it_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COURSE_MODEL", "Qwen/Qwen3-0.6B")
    assert parts.base_model().state == "limited"


def test_a_model_not_converted_yet_is_usable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COURSE_MODEL", raising=False)
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    finding = parts.base_model()
    assert finding.state == "ok" and "not converted yet" in finding.found


def test_a_workspace_that_does_not_exist_yet_is_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("course.workspace.shipped_notebooks_folder", lambda: tmp_path)
    monkeypatch.setenv("COURSE_WORKSPACE", str(tmp_path / "mine"))
    assert parts.workspace().state == "missing"
    (tmp_path / "00_start.ipynb").touch()
    assert parts.workspace().advice == "course lab makes it."
    (tmp_path / "mine").mkdir()
    assert parts.workspace().found.endswith("0 of 1 lessons")


def test_a_package_of_the_wrong_version_and_an_absent_one_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["numpy>=999", "no-such-package", "torch>=2", "ruff>=999; extra == 'lint'"]
    monkeypatch.setattr(machine.metadata, "requires", lambda name: wanted)
    finding = machine.packages()
    assert finding.state == "missing"
    assert "numpy is" in finding.found and "wanted >=999" in finding.found
    assert "no-such-package is not installed" in finding.found
    assert "torch" not in finding.found and "ruff" not in finding.found


def test_little_memory_and_little_disk_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "COMFORTABLE_MEMORY_BYTES", 10**18)
    monkeypatch.setattr(machine, "COMFORTABLE_DISK_BYTES", 10**18)
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "not" / "made" / "yet"))
    assert (machine.memory().state, machine.disk().state) == ("limited", "limited")


def test_bitsandbytes_that_computes_nonsense_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import bitsandbytes.functional
    import torch

    assert machine.bitsandbytes().state == "ok"
    monkeypatch.setattr(bitsandbytes.functional, "dequantize_4bit", lambda packed, state: torch.zeros(64, 64))
    assert machine.bitsandbytes().state == "missing"


def test_a_look_that_fails_becomes_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode() -> Finding:
        raise RuntimeError("libcudart.so: cannot open\nmore lines")

    monkeypatch.setattr(doctor.machine, "torch", explode)
    row = next(finding for finding in examine() if finding.name == "explode")
    assert row.state == "missing" and row.found == "RuntimeError: libcudart.so: cannot open"


def test_ready_is_said_when_nothing_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    show_findings([Finding("Python", "ok", "3.11"), Finding("GPU", "limited", "none")])
    assert "Ready. Open the first lesson with: course lab" in capsys.readouterr().out
