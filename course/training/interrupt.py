"""An interrupt (Ctrl-C, or the notebook's stop button) that waits for the end of an optimizer step."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class BetweenSteps:
    """Within the block a first SIGINT only sets `requested`; a second one interrupts at once.

    Stopped in the middle of an update, half of the weights would be new and half old, and no checkpoint could be exact.
    Python delivers signals to the main thread alone, so elsewhere the block changes nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: Any = None

    def __enter__(self) -> BetweenSteps:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
