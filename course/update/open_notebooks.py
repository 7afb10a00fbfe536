"""Which notebooks of the workspace a running JupyterLab has open with a kernel."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

ANSWER_SECONDS = 2.0


def open_notebooks(folder: Path) -> set[Path]:
    """Their absolute paths, asked from every Jupyter server of this user; one that does not answer is passed over."""
    from jupyter_server.serverapp import list_running_servers

    found = set()
    for server in list_running_servers():
        request = urllib.request.Request(
            f"{server['url']}api/sessions", headers={"Authorization": f"token {server['token']}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as response:
                sessions = json.load(response)
        except (OSError, ValueError):
            continue
        root = Path(server["root_dir"]).resolve()
        paths = ((root / session.get("path", "")).resolve() for session in sessions)
        found |= {path for path in paths if folder in path.parents}
    return found
