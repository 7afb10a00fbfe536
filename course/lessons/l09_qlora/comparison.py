"""What the run showed: shares with intervals, paired gains, errors by kind, distances between logits."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course.lessons.l09_qlora.run import SEED
from course.run_record import write_record
from course.sql import bootstrap_interval

if TYPE_CHECKING:
    import pandas
    from torch import Tensor

SPLITS = ("seen", "heldout")


def shares(results: pandas.DataFrame) -> pandas.DataFrame:
    """For each way and split: questions, correct, share and its 95 % bootstrap interval, in percent."""
    import pandas

    rows = []
    for (way, split), part in results.groupby(["way", "split"], sort=False):
        low, high = bootstrap_interval(part["correct"].to_numpy(), SEED)
        share = 100 * part["correct"].mean()
        rows.append((way, split, len(part), int(part["correct"].sum()), share, 100 * low, 100 * high))
    return pandas.DataFrame(rows, columns=["way", "split", "questions", "correct", "percent", "low", "high"])


def gains(results: pandas.DataFrame, after: str, befores: Sequence[str]) -> pandas.DataFrame:
    """Percentage points that `after` gained over each earlier way on the same questions, with paired 95 % intervals."""
    import pandas

    rows = []
    for split in SPLITS:
        part = results[results["split"] == split].pivot(index="id", columns="way", values="correct").astype(bool)
        for before in befores:
            low, high = bootstrap_interval(part[after].to_numpy(), SEED, before=part[before].to_numpy())
            gain = 100 * (part[after].mean() - part[before].mean())
            rows.append((before, after, split, len(part), gain, 100 * low, 100 * high))
    return pandas.DataFrame(rows, columns=["before", "after", "split", "questions", "points", "low", "high"])


def errors_by_kind(results: pandas.DataFrame, way: str) -> pandas.DataFrame:
    """For each kind of query: questions, percent correct, and how the wrong ones failed."""
    part = results[results["way"] == way]
    outcomes = part[~part["correct"]].groupby(["kind", "outcome"]).size().unstack(fill_value=0)
    table = part.groupby("kind").agg(questions=("correct", "size"), percent=("correct", lambda c: 100 * c.mean()))
    return table.join(outcomes).fillna(0).round(0).astype(int).sort_values("percent")


def answer_logits(model: Any, tokenizer: Any, rows: Sequence[Sequence[dict[str, str]]]) -> Tensor:
    """Logits (N, V) float32 at every position that predicts an answer token of the conversations, one after another."""
    import torch

    from course.training import IGNORED, encode

    found = []
    with torch.no_grad():
        for row in rows:
            encoded = encode(row, tokenizer, max_length=4096)
            ids = torch.tensor([encoded.input_ids], device=model.device)
            labels = torch.tensor(encoded.labels)
            found.append(model(input_ids=ids).logits[0, :-1][labels[1:] != IGNORED].float().cpu())
    return torch.cat(found)


def write_result(
    path: Path, results: pandas.DataFrame, gained: pandas.DataFrame, extra: dict[str, Any]
) -> dict[str, Any]:
    """Write the run's record and return it: accuracies, gains, whatever is in `extra`, machine and versions."""
    packages = ("torch", "transformers", "peft", "bitsandbytes")
    record = {
        "accuracy": shares(results).round(2).to_dict("records"),
        "gains": gained.round(2).to_dict("records"),
        **extra,
        "seed": SEED,
        "machine": {"system": platform.system(), "processor": platform.machine(), "python": platform.python_version()},
        "versions": {name: version(name) for name in packages},
    }
    return write_record(path, "l09_qlora", record)
