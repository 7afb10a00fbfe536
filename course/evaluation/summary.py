"""Shares of right answers with intervals, paired changes, slices and kinds of error, of one run or of two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from course.evaluation.items import VIEWS
from course.sql import bootstrap_interval

if TYPE_CHECKING:
    import pandas

SEED = 0
FEWEST_FOR_INTERVAL = 2


@dataclass(frozen=True)
class Share:
    """A share of `items` in percent, or a change in percentage points, with its 95 % bootstrap interval.

    low and high are None with fewer than two items. An interval without width says that all items were alike, no more.
    """

    items: int
    percent: float
    low: float | None
    high: float | None

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside of the interval."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def share(correct: Sequence[bool], before: Sequence[bool] | None = None) -> Share:
    """The share that is right; with `before`, the change on the same items, whose interval is paired."""
    import numpy as np

    values = np.asarray(correct, dtype=float)
    if values.size == 0:
        raise ValueError("no items were scored; evaluate at least one")
    change = values.mean() - (np.asarray(before, dtype=float).mean() if before is not None else 0.0)
    low = high = None
    if values.size >= FEWEST_FOR_INTERVAL:
        low, high = (100 * bound for bound in bootstrap_interval(values, SEED, before=before))
    return Share(values.size, 100 * float(change), low, high)


@dataclass(frozen=True)
class Row:
    """One line of a table: the share of each run by its name, and the change from the first run to the last, if two."""

    label: str
    shares: Mapping[str, Share]
    change: Share | None


def compare_runs(runs: Mapping[str, pandas.DataFrame], label: str = "all") -> Row:
    """A row for the items of each run (from `scored_items`), in the order of `runs`; changes are paired by item.

    Raises ValueError when two runs did not answer the same items.
    """
    names = list(runs)
    first, last = runs[names[0]], runs[names[-1]]
    for name in names[1:]:
        if sorted(runs[name]["id"]) != sorted(first["id"]):
            only = sorted(set(runs[name]["id"]) ^ set(first["id"]))[:3]
            raise ValueError(
                f"{names[0]} and {name} did not answer the same items: {', '.join(only)} are in one only. "
                "Evaluate both on the same items."
            )
    shares = {name: share(items["correct"].to_list()) for name, items in runs.items()}
    change = None
    if len(names) > 1:
        earlier = first.set_index("id")["correct"].reindex(last["id"])
        change = share(last["correct"].to_list(), earlier.to_list())
    return Row(label, shares, change)


def by_slice(task: str, runs: Mapping[str, pandas.DataFrame]) -> dict[str, list[Row]]:
    """{slice: a row for each of its values, in the view's order, the largest first where it has none}."""
    tables = {}
    for name, order in VIEWS[task].slices.items():
        first = next(iter(runs.values()))
        found = list(first[name].value_counts().index)
        values = [*(value for value in order if value in found), *(value for value in found if value not in order)]
        tables[name] = [
            compare_runs({run: items[items[name] == value] for run, items in runs.items()}, str(value))
            for value in values
        ]
    return tables


@dataclass(frozen=True)
class ErrorKind:
    """A kind of error: how often it came in each run, and some items of the last run that has it."""

    kind: str
    counts: Mapping[str, int]
    shown_of: str
    examples: Sequence[Mapping[str, Any]]


def error_kinds(runs: Mapping[str, pandas.DataFrame], examples: int = 3) -> list[ErrorKind]:
    """Every kind of error, the most frequent in the last run first; examples spread over the items."""
    counts = {name: items.loc[~items["correct"], "error"].value_counts() for name, items in runs.items()}
    kinds = sorted({kind for found in counts.values() for kind in found.index})
    latest_first = list(runs)[::-1]
    kinds.sort(key=lambda kind: [-counts[name].get(kind, 0) for name in latest_first])
    result = []
    for kind in kinds:
        shown_of = next(name for name in latest_first if counts[name].get(kind, 0))
        items = runs[shown_of]
        found = items[items["error"] == kind]
        chosen = found.iloc[:: -(-len(found) // examples)][:examples].to_dict("records")
        numbers = {name: int(counts[name].get(kind, 0)) for name in runs}
        result.append(ErrorKind(kind, numbers, shown_of, chosen))
    return result


def turned(runs: Mapping[str, pandas.DataFrame]) -> dict[str, pandas.DataFrame]:
    """Items of the last run that were "learned" (wrong in the first run) and "lost" (right in the first run)."""
    names = list(runs)
    last = runs[names[-1]]
    earlier = runs[names[0]].set_index("id")["correct"].reindex(last["id"]).to_numpy()
    now = last["correct"].to_numpy()
    return {"learned": last[now & ~earlier], "lost": last[~now & earlier]}
