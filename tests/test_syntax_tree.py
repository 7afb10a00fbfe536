"""Source is read by one thread at a time: CPython 3.11 mixes up two."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from grader.syntax_tree import syntax_tree

SOURCE = "\n".join(f"x{number} = ((((({number} + 1) * 2) + 3) * 4) + 5)" for number in range(200))
SECONDS = 2


class Cycle:
    """Collected in the midst of a parse, where its finalizer lets another thread run."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        for _ in range(50):
            pass


@pytest.fixture
def many_switches() -> Iterator[None]:
    interval, threshold = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-6)
    gc.set_threshold(5)
    yield
    sys.setswitchinterval(interval)
    gc.set_threshold(*threshold)


@pytest.mark.usefixtures("many_switches")
def test_threads_that_parse_at_once_do_not_disturb_one_another() -> None:
    # With ast.parse in its place, this fails within a second on CPython 3.11.7.
    errors: list[SystemError] = []
    end = time.monotonic() + SECONDS

    def parse_again_and_again() -> None:
        while time.monotonic() < end and not errors:
            _ = [Cycle() for _ in range(20)]
            try:
                syntax_tree(SOURCE)
            except SystemError as error:
                errors.append(error)

    threads = [threading.Thread(target=parse_again_and_again) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
