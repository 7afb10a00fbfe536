"""The report as tables, each as CSV and as Parquet: learners (x exercises), items, clusters, pairs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from grader.cohort.store import spreadsheet_text
from grader.report.analysis import Report
from grader.result import STATUSES


def tables(report: Report) -> dict[str, pd.DataFrame]:
    """Table name -> table. `pairs` has a row per pair and exercise; it is absent without the submissions."""
    found = {"learners": _learners(report), "items": _items(report), "clusters": _clusters(report)}
    if report.pairs is not None:
        found["pairs"] = _pairs(report)
    return found


def write_tables(report: Report, folder: Path) -> list[Path]:
    """Write them into `folder`. In CSV, text that a spreadsheet would run as a formula gets a leading apostrophe."""
    written = []
    for name, table in tables(report).items():
        csv, parquet = folder / f"{name}.csv", folder / f"{name}.parquet"
        table.map(_for_csv).to_csv(csv, index=False, encoding="utf-8")
        table.to_parquet(parquet, index=False)
        written += [csv, parquet]
    return written


def _for_csv(value: Any) -> Any:
    if isinstance(value, list):
        value = " ".join(value)
    return spreadsheet_text(value) if isinstance(value, str) else value


def _learners(report: Report) -> pd.DataFrame:
    names = ("exercise_id", "title", "status", "points", "max_points", "misconception", "certain", "outcome", "seconds")
    rows = [
        {"learner": each.learner, "lesson": each.lesson}
        | {name: getattr(result, name) for name in names}
        | {"tries": report.tries.get((each.learner, result.exercise_id)), "problem": each.problem}
        | {"submission_seconds": each.seconds, "processor_seconds": each.processor_seconds}
        | {"peak_bytes": each.peak_bytes, "sha256": each.sha256, "version": each.version}
        for each in report.cohort.results
        for result in each.results
    ]
    columns = ["learner", "lesson", *names, "tries", "problem", "submission_seconds", "processor_seconds"]
    table = pd.DataFrame(rows, columns=[*columns, "peak_bytes", "sha256", "version"])
    return table.astype({"tries": "Int64"})


def _items(report: Report) -> pd.DataFrame:
    rows = []
    for item in report.items:
        row = asdict(item) | {status: item.counts[status] for status in STATUSES}
        row |= {"misconceptions": [f"{each.name}:{each.learners}" for each in item.misconceptions]}
        row.pop("counts")
        rows.append(row)
    numbers = ["pass_rate", "discrimination", "mean_points", "median_seconds", "median_tries"]
    columns = ["exercise_id", "title", "max_points", *STATUSES, *numbers, "misconceptions"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(numbers, "float64"))


def _clusters(report: Report) -> pd.DataFrame:
    rows = [
        {"exercise_id": each.exercise_id, "outcome": each.outcome, "size": len(each.learners), "status": each.status}
        | {"kind": each.kind, "misconception": each.misconception, "message": each.message, "hint": each.hint}
        | {"learners": list(each.learners), "representative": each.representative, "source": each.source}
        for each in report.clusters
    ]
    columns = ["exercise_id", "outcome", "size", "status", "kind", "misconception", "message", "hint", "learners"]
    return pd.DataFrame(rows, columns=[*columns, "representative", "source"])


def _pairs(report: Report) -> pd.DataFrame:
    rows = [
        {"left": pair.left, "right": pair.right, "exercise_id": one.exercise_id, "similarity": one.similarity}
        | {"weight": one.weight, "identical": one.identical, "same_wrong_outcome": one.same_wrong_outcome}
        for pair in report.pairs or ()
        for one in pair.alike
    ]
    columns = ["left", "right", "exercise_id", "similarity", "weight", "identical", "same_wrong_outcome"]
    return pd.DataFrame(rows, columns=columns)
