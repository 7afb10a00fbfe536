"""What a run knows of itself while it goes and when it is done: steps, figures, checkpoints, and the result."""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from course.training import checkpoint
from course.training.checkpoint import CheckpointError
from course.training.config import TrainingConfig
from course.training.encoding import Encoded, EncodedRows
from course.training.log import RunLog


class TrainingDivergedError(RuntimeError):
    """The loss or the gradient stopped being a finite number. The message names the step and what to try."""


@dataclass(frozen=True)
class TrainingRun:
    """The result of a run.

    `losses`: mean loss per answer token, one for each optimizer step. `tokens`: real tokens trained on, prompt and
    answer, no padding, each row counted in full. `seconds`: time in the loop, checkpoints and logs included.
    `peak_memory_bytes`: of the CUDA allocator during the run, or of the whole process on a CPU. `dropped_rows` were
    over the length limit.
    """

    losses: tuple[float, ...]
    tokens: int
    answer_tokens: int
    seconds: float
    peak_memory_bytes: int
    trainable_parameters: int
    dropped_rows: int
    adapter_folder: Path
    config_hash: str

    @property
    def tokens_per_second(self) -> float:
        """Useful tokens a second: real ones, not padding."""
        return self.tokens / self.seconds

    def to_dict(self) -> dict[str, Any]:
        """Plain data that JSON can hold."""
        return {**asdict(self), "adapter_folder": str(self.adapter_folder), "tokens_per_second": self.tokens_per_second}


class RunState:
    """A run under way: the step it is at, what it measured, and its folder."""

    def __init__(self, folder: Path, model: Any, optimizer: Any, data: EncodedRows, config: TrainingConfig):
        self.folder, self.model, self.optimizer, self.data, self.config = folder, model, optimizer, data, config
        self.steps = config.steps(len(data.rows))
        self.step = 0
        self.losses: list[float] = []
        self.tokens = 0
        self.answer_tokens = 0
        self.seconds = 0.0
        self._pending: list[tuple[torch.Tensor, torch.Tensor, float, int]] = []
        self._mark = time.perf_counter()
        self._log: RunLog | None = None

    @classmethod
    def open(
        cls, folder: Path, model: Any, optimizer: Any, data: EncodedRows, config: TrainingConfig, resume: bool
    ) -> RunState:
        """A new run in an empty folder, or the folder's own run where it stopped."""
        run = cls(folder, model, optimizer, data, config)
        found = checkpoint.load_latest(run.checkpoints)
        if found is None:
            # Saved before any work: a folder that cannot be written shows now, and a diverged run can start over.
            run.save_checkpoint()
            return run
        if not resume:
            raise CheckpointError(
                f"{folder} holds a run already. Choose another folder, or resume=True to go on with it."
            )
        run._check_same_run(found.state)
        checkpoint.restore_tensors(found.tensors, model, optimizer)
        run.step = found.state["step"]
        run.losses, run.seconds = found.state["losses"], found.state["seconds"]
        run.tokens, run.answer_tokens = found.state["tokens"], found.state["answer_tokens"]
        return run

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints are."""
        return self.folder / "checkpoints"

    @contextmanager
    def logging(self) -> Iterator[None]:
        """Keep the log files open, and the clock running, within the block."""
        self._log = RunLog(self.folder, self.step)
        self._mark = time.perf_counter()
        try:
            yield
        finally:
            self._log.close()

    def record(self, loss: torch.Tensor, norm: torch.Tensor, learning_rate: float, rows: Sequence[Encoded]) -> None:
        """Note one step done; its loss (a scalar) may stay on the device."""
        tokens = sum(len(row.input_ids) for row in rows)
        self._pending.append((loss, norm, learning_rate, tokens))
        self.tokens += tokens
        self.answer_tokens += sum(row.answer_tokens for row in rows)
        self.step += 1

    @property
    def fetch_due(self) -> bool:
        """Whether this step's figures are to be fetched and logged."""
        return self.step % self.config.log_every_steps == 0 or self.save_due

    @property
    def save_due(self) -> bool:
        """Whether a checkpoint is to be written after this step."""
        return self.step % self.config.checkpoint_every_steps == 0 or self.step == self.steps

    def fetch(self) -> dict[str, str]:
        """Bring the figures of the last steps from the device, log them, and give the progress bar its words.

        Raises TrainingDivergedError at the first loss or gradient norm that is not finite.
        """
        assert self._log is not None, "fetch belongs inside the block of logging()"
        figures = torch.stack([torch.stack([loss, norm]) for loss, norm, _, _ in self._pending]).tolist()
        seconds = time.perf_counter() - self._mark
        self._mark += seconds
        self.seconds += seconds
        speed = sum(tokens for *_, tokens in self._pending) / seconds
        first = self.step - len(self._pending)
        entries: list[dict[str, Any]] = []
        for step, ((loss, norm), (_, _, rate, tokens)) in enumerate(zip(figures, self._pending, strict=True), first):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                self._log.write(entries)
                raise self._diverged(step, loss, norm)
            self.losses.append(loss)
            entries.append(
                {
                    "step": step,
                    "loss": loss,
                    "gradient_norm": norm,
                    "learning_rate": rate,
                    "tokens": tokens,
                    "tokens_per_second": round(speed, 1),
                    "config_hash": self.config.hash(),
                }
            )
        self._log.write(entries)
        self._pending.clear()
        return {"loss": f"{self.losses[-1]:.3f}", "tokens/s": f"{speed:.0f}"}

    def save_checkpoint(self) -> None:
        """Write everything that a resumed run needs."""
        state = {
            "config": self.config.to_dict(),
            "data_hash": data_hash(self.data.rows),
            "losses": self.losses,
            "tokens": self.tokens,
            "answer_tokens": self.answer_tokens,
            "seconds": self.seconds,
        }
        tensors = checkpoint.training_tensors(self.model, self.optimizer)
        checkpoint.save(self.checkpoints, self.step, tensors, state, self.config.keep_checkpoints)

    def finish(self, adapter_folder: Path, device: torch.device) -> TrainingRun:
        """The run's result, also written to `run.json`."""
        parameters = checkpoint.trainable_parameters(self.model).values()
        result = TrainingRun(
            losses=tuple(self.losses),
            tokens=self.tokens,
            answer_tokens=self.answer_tokens,
            seconds=self.seconds,
            peak_memory_bytes=peak_memory_bytes(device),
            trainable_parameters=sum(parameter.numel() for parameter in parameters),
            dropped_rows=self.data.dropped,
            adapter_folder=adapter_folder,
            config_hash=self.config.hash(),
        )
        checkpoint.replace_durably(self.folder / "run.json", json.dumps(result.to_dict(), indent=1).encode())
        return result

    def _check_same_run(self, state: Any) -> None:
        differences = self.config.differences(state["config"])
        if differences:
            raise CheckpointError(
                f"{self.folder} holds a run with other settings ({'; '.join(differences)}). "
                "Choose another folder, or the old settings to go on with that run."
            )
        if state["data_hash"] != data_hash(self.data.rows):
            raise CheckpointError(f"{self.folder} holds a run over other rows. Choose another folder for these rows.")

    def _diverged(self, step: int, loss: float, norm: float) -> TrainingDivergedError:
        return TrainingDivergedError(
            f"Step {step} (counted from 0) has loss {loss} and gradient norm {norm}; both must be finite. "
            f"Training has stopped, and earlier checkpoints are in {self.checkpoints}. "
            "Try a lower learning_rate or a longer warm-up, and look for broken rows in that step."
        )


def data_hash(rows: Sequence[Encoded]) -> str:
    """Sixteen hexadecimal digits that change with any token, label or the order of the rows."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr((row.input_ids, row.labels)).encode())
    return digest.hexdigest()[:16]


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory held so far: by torch on a CUDA device, by this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux kibibytes
