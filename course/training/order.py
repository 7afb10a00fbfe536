"""Which rows a step sees: a pure function of the seed and the step, so a resumed run stores no position in the data."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from course.training.config import TrainingConfig
from course.training.encoding import Encoded


def rows_of_step(step: int, row_count: int, config: TrainingConfig) -> list[int]:
    """The indices of the rows of step number `step`, counted from 0.

    Passes over the rows follow each other without a gap, each in an order of its own; a step may span two of them.
    """
    first = step * config.batch_size
    return [
        shuffled(place // row_count, row_count, config.seed, config.rows_together)[place % row_count]
        for place in range(first, first + config.batch_size)
    ]


def shuffled(epoch: int, row_count: int, seed: int, rows_together: int = 1) -> list[int]:
    """The order of the rows in one pass: runs of `rows_together` neighbours stay together, the runs are shuffled.

    Its generator is its own: dropout's random numbers do not disturb it.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    runs = torch.randperm(-(-row_count // rows_together), generator=generator).tolist()
    return [row for run in runs for row in range(run * rows_together, min((run + 1) * rows_together, row_count))]


def micro_batches(rows: Sequence[Encoded], micro_batch_size: int) -> list[list[Encoded]]:
    """Cut a step's rows into parts, rows that begin alike together, since only those can share work."""
    ordered = sorted(rows, key=lambda row: row.input_ids)
    return [ordered[start : start + micro_batch_size] for start in range(0, len(ordered), micro_batch_size)]
