"""Hide what the libraries print about themselves while the course loads a model."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """No progress bars from transformers (one of ours covers what is slow), no advice from bitsandbytes to download.

    On a CPU, importing bitsandbytes warns that a faster kernel could be fetched from the hub.
    """
    from transformers.utils import logging as transformers_logging

    bitsandbytes_log = logging.getLogger("bitsandbytes.backends.cpu.ops")
    level, bars_shown = bitsandbytes_log.level, transformers_logging.is_progress_bar_enabled()
    bitsandbytes_log.setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        bitsandbytes_log.setLevel(level)
        if bars_shown:
            transformers_logging.enable_progress_bar()
