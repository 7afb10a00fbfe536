"""The settings of one training run: plain, frozen, checked when made, hashed so that a result names them."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields

METHODS = ("lora", "qlora", "full")
SCHEDULES = ("linear", "cosine", "constant")


@dataclass(frozen=True)
class TrainingConfig:
    """What a run does; every field has a value that worked for SmolLM2-135M on short answers.

    `method` is "lora" (adapter on frozen weights), "qlora" (the same on NF4 weights: load the base with
    quantize="nf4") or "full" (all weights). `rank`, `alpha`, `dropout` and `target_modules` are LoRA's.

    An optimizer step sees `batch_size` rows, at most `micro_batch_size` of them in memory at a time. The run ends after
    `epochs` passes over the rows, or after `max_steps` optimizer steps where that is given. The learning rate climbs
    from 0 over the first `warmup_fraction` of the steps and then follows `schedule`. Gradients are clipped to a global
    norm of `clip_norm`. Rows longer than `max_length` tokens are left out and counted, never cut.

    `rows_together` neighbours in the data stay neighbours when the rows are shuffled: with data that comes in runs
    about one thing, each step still sees several things, and the tokens a run begins with are shared.
    `share_prefixes` computes tokens that several rows of a micro-batch begin with once (same loss, less work).
    """

    method: str = "lora"
    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"
    learning_rate: float = 1e-3
    schedule: str = "linear"
    warmup_fraction: float = 0.05
    epochs: float = 1.0
    max_steps: int | None = None
    batch_size: int = 8
    micro_batch_size: int = 8
    max_length: int = 512
    clip_norm: float = 1.0
    weight_decay: float = 0.0
    seed: int = 0
    rows_together: int = 1
    share_prefixes: bool = True
    checkpoint_every_steps: int = 50
    keep_checkpoints: int = 2
    log_every_steps: int = 5

    def __post_init__(self) -> None:
        if isinstance(self.target_modules, list):
            object.__setattr__(self, "target_modules", tuple(self.target_modules))
        self._require("method", self.method in METHODS, f"one of {', '.join(METHODS)}")
        self._require("schedule", self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}")
        for name in (
            "rank",
            "batch_size",
            "micro_batch_size",
            "rows_together",
            "checkpoint_every_steps",
            "keep_checkpoints",
        ):
            self._require_whole_number(name, minimum=1)
        self._require_whole_number("log_every_steps", minimum=1)
        self._require_whole_number("max_length", minimum=2)
        self._require_whole_number("seed", minimum=0)
        if self.max_steps is not None:
            self._require_whole_number("max_steps", minimum=1)
        for name in ("alpha", "learning_rate", "epochs", "clip_norm"):
            value = getattr(self, name)
            self._require(name, _is_number(value) and value > 0, "a finite number above 0")
        for name in ("dropout", "warmup_fraction"):
            value = getattr(self, name)
            self._require(name, _is_number(value) and 0 <= value < 1, "at least 0 and below 1")
        self._require("weight_decay", _is_number(self.weight_decay) and self.weight_decay >= 0, "at least 0")
        self._require("target_modules", bool(self.target_modules), "'all-linear' or the names of modules")

    def steps(self, row_count: int) -> int:
        """How many optimizer steps the run takes over `row_count` rows."""
        if self.max_steps is not None:
            return self.max_steps
        return max(1, math.ceil(self.epochs * row_count / self.batch_size))

    def warmup_steps(self, steps: int) -> int:
        """How many of the first steps the learning rate rises for, in a run of `steps`."""
        return math.ceil(self.warmup_fraction * steps)

    def learning_rate_at(self, step: int, steps: int) -> float:
        """The learning rate of step number `step`, counted from 0, in a run of `steps`.

        A pure function of the step, so a resumed run needs no stored schedule. It equals transformers'
        `get_scheduler` of the same name: linear warm-up, then the line to 0 or the half cosine to 0.
        """
        warmup_steps = self.warmup_steps(steps)
        if step < warmup_steps:
            return self.learning_rate * step / warmup_steps
        progress = (step - warmup_steps) / max(1, steps - warmup_steps)
        if self.schedule == "linear":
            return self.learning_rate * (1 - progress)
        if self.schedule == "cosine":
            return self.learning_rate * (1 + math.cos(math.pi * progress)) / 2
        return self.learning_rate

    def differences(self, other: dict[str, object]) -> list[str]:
        """Which fields another run's settings (as a dict) have otherwise, as "name: theirs -> ours"."""
        mine = self.to_dict()
        return [
            f"{f.name}: {other.get(f.name)!r} -> {mine[f.name]!r}"
            for f in fields(self)
            if other.get(f.name) != mine[f.name]
        ]

    def to_dict(self) -> dict[str, object]:
        """Plain data that JSON can hold."""
        return json.loads(json.dumps(asdict(self)))

    def hash(self) -> str:
        """Twelve hexadecimal digits that change with any setting."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:12]

    def _require(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise ValueError(f"{name}={getattr(self, name)!r} cannot be used: it must be {wanted}.")

    def _require_whole_number(self, name: str, minimum: int) -> None:
        value = getattr(self, name)
        whole = isinstance(value, int) and not isinstance(value, bool)
        self._require(name, whole and value >= minimum, f"a whole number of at least {minimum}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
