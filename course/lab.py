"""Start JupyterLab on the learner's workspace, with the course's home page in it, and say where that is."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from course.workspace import WorkspaceError

COURSE_FOLDER = Path(__file__).resolve().parent
# The second enables the home page. A hub's servers take the first alone: their root is no workspace.
CONFIG_FOLDERS = (COURSE_FOLDER / "jupyter_config", COURSE_FOLDER / "home" / "jupyter_config")
FIRST_PORT = 8888
PORTS_TRIED = 50
START_TIMEOUT_SECONDS = 90
POLL_SECONDS = 0.1
STOP_TIMEOUT_SECONDS = 20


def run_lab(folder: Path, port: int | None, browser: bool, announce: Callable[[str], None]) -> int:
    """Run JupyterLab in the foreground and return its exit status; `announce` is told its address once it answers.

    port None means the first free one from 8888, 0 any free one. Raises WorkspaceError when JupyterLab does not start.
    """
    environment = {
        # Threads that wait by spinning made two busy kernels on two cores ten times slower than one thread each.
        "OMP_WAIT_POLICY": "passive",
        **os.environ,
        "JUPYTER_PREFER_ENV_PATH": "1",  # the kernel of this environment, not the user's
        # Asks nobody about news: what it would fetch is on the network, and this course runs without one.
        "JUPYTER_CONFIG_PATH": os.pathsep.join(
            filter(None, [*map(str, CONFIG_FOLDERS), os.environ.get("JUPYTER_CONFIG_PATH")])
        ),
    }
    process = subprocess.Popen(lab_command(folder, free_port(port), browser), cwd=folder, env=environment)
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        server = _wait_until_ready(process)
        announce(f"{server['url']}course?token={server['token']}")
        return process.wait()
    except KeyboardInterrupt:
        return process.wait(STOP_TIMEOUT_SECONDS)  # Ctrl-C reached JupyterLab too, and it is closing its kernels
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(STOP_TIMEOUT_SECONDS)


def lab_command(folder: Path, port: int, browser: bool) -> list[str]:
    """The command that starts JupyterLab with this very Python, so that its kernels have the course's packages."""
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        f"--ServerApp.root_dir={folder}",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        "--ServerApp.answer_yes=True",  # Ctrl-C stops at once instead of asking
        "--Application.log_level=ERROR",  # its warnings are about nothing that a learner could act on
        "--KernelManager.transport_encryption=auto",  # else the kernel warns, rightly, that it listens unencrypted
        "--LabApp.expose_app_in_browser=True",  # the course home leads to a notebook's cell through it
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.default_url=/course",
    ]
    if not browser or not has_display():
        command.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    return command


def has_display() -> bool:
    """Whether a browser window could open here."""
    if not sys.platform.startswith("linux"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def free_port(port: int | None) -> int:
    """The port to use: the one asked for if it is free, any free one for 0, the first free one from 8888 for None.

    Raises WorkspaceError when the port asked for is taken.
    """
    candidates = range(FIRST_PORT, FIRST_PORT + PORTS_TRIED) if port is None else [port]
    for candidate in candidates:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", candidate))
            except OSError:
                continue
            return probe.getsockname()[1]
    taken = f"Port {port} is" if port is not None else f"Ports {FIRST_PORT} to {FIRST_PORT + PORTS_TRIED - 1} are"
    raise WorkspaceError(f"{taken} already in use. Choose any free one with: course lab --port 0")


def _wait_until_ready(process: subprocess.Popen[bytes]) -> dict[str, str]:
    """What JupyterLab writes about itself, once it listens too: `url`, `token` and more."""
    from jupyter_core.paths import jupyter_runtime_dir

    server_file = Path(jupyter_runtime_dir()) / f"jpserver-{process.pid}.json"
    give_up_at = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < give_up_at:
        if process.poll() is not None:
            raise WorkspaceError(
                f"JupyterLab stopped while starting (exit status {process.returncode}); its own message is above. "
                "See what this machine lacks with: course doctor"
            )
        try:
            server = json.loads(server_file.read_text())
            socket.create_connection(("127.0.0.1", server["port"]), START_TIMEOUT_SECONDS).close()
            return server
        except (OSError, ValueError):  # not there yet, half written, or written before it listens
            time.sleep(POLL_SECONDS)
    raise WorkspaceError(
        f"JupyterLab did not answer within {START_TIMEOUT_SECONDS} seconds. Try again: course lab --port 0"
    )
