"""The learner's home: a page of the Jupyter server with the path, the skills, the plan, and where to go on.

`jupyter_config/` enables it for `course lab`; Jupyter Server asks this package for its extension points.
"""

from __future__ import annotations

from typing import Any


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    return [{"module": "course.home.server"}]
