"""Makes tests/fixtures importable, so that test files can share fixtures; gives out the long tests first."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling, Scheduling

sys.path.insert(0, str(Path(__file__).parent / "fixtures"))

# Each of its tests is one lesson's whole notebook in a kernel of its own, minutes long.
NOTEBOOK_RUNS = "test_lessons_run.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The notebooks come first, the last lessons before all: a long test at the end leaves the other worker idle."""
    runs = [item for item in items if item.path.name == NOTEBOOK_RUNS]
    items[:] = [*reversed(runs), *(item for item in items if item.path.name != NOTEBOOK_RUNS)]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    """Whole files go to a worker, because their fixtures are shared; but each notebook is a piece of its own."""
    return _FilesAndNotebooks(config, log)


class _FilesAndNotebooks(LoadFileScheduling):
    def _split_scope(self, nodeid: str) -> Any:
        return nodeid if NOTEBOOK_RUNS in nodeid else super()._split_scope(nodeid)
