"""What a run writes down as it goes: one JSON line a step, and the same curves for TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from course.training.checkpoint import CheckpointError, replace_durably

CURVES = ("loss", "learning_rate", "gradient_norm", "tokens_per_second")


class RunLog:
    """`log.jsonl` and TensorBoard's event files in a folder. Reopened at a step, it forgets what came after it."""

    def __init__(self, folder: Path, first_step: int):
        from torch.utils.tensorboard import SummaryWriter

        self.path = folder / "log.jsonl"
        replace_durably(self.path, self._lines_before(first_step))
        self._file = self.path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)

    def _lines_before(self, first_step: int) -> bytes:
        """Lines of steps that a resumed run will not repeat; a half-written last line goes too."""
        kept = []
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        for line in lines:
            try:
                if json.loads(line)["step"] < first_step:
                    kept.append(line + "\n")
            except ValueError:
                break
        return "".join(kept).encode()

    def write(self, entries: Sequence[dict[str, Any]]) -> None:
        """Add the figures of some steps and bring them to the files, where a watcher can see them.

        `entry["step"]` counts from 0. Raises CheckpointError where the disk is full or refuses.
        """
        try:
            for entry in entries:
                self._file.write(json.dumps(entry) + "\n")
                for name in CURVES:
                    self._board.add_scalar(name, entry[name], entry["step"])
            self._file.flush()
            self._board.flush()
        except OSError as error:
            raise CheckpointError(
                f"The log {self.path} cannot be written: {error.strerror or error}. Free some space, then run the same "
                "call again: it goes on from the last checkpoint."
            ) from error

    def close(self) -> None:
        """Close both files. What a full disk refuses here is in the checkpoint, or will be written again."""
        for file in (self._file, self._board):
            with suppress(OSError):
                file.close()


def read_log(folder: Path | str) -> list[dict[str, Any]]:
    """The lines of a run's log, oldest first, for plotting."""
    return [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text(encoding="utf-8").splitlines()]
