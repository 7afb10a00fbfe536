"""Score a text-to-SQL answer by what it returns: right when its result equals the gold query's result.

Two different queries can be equally right, so texts are never compared. The answer's text is untrusted.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from course.sql.examples import SqlExample
from course.sql.execute import QueryTimeoutError, TooManyRowsError, run_untrusted
from course.sql.results import is_ordered, same_result
from course.sql.schemas import Schema, load_schema

if TYPE_CHECKING:
    import numpy as np

OUTCOMES = (
    "correct",
    "wrong result",
    "unknown column or table",
    "does not parse",
    "not a SELECT",
    "timed out",
    "refused",
    "empty",
)


@dataclass(frozen=True)
class SqlScore:
    """The judgement of one answer. `outcome` is one of `OUTCOMES`; `predicted` is the statement that was run."""

    correct: bool
    outcome: str
    predicted: str
    message: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def first_statement(text: str) -> str:
    """The first SQL statement in a model's answer: no code fence, no lead-in, nothing after `;` or a blank line."""
    fence = re.search(r"```(?:\w*\n)?(.*?)(?:```|\Z)", text, re.DOTALL)
    if fence:
        text = fence.group(1)
    text = re.sub(r"<\|[^|]*\|>.*", "", text.strip(), flags=re.DOTALL)
    text = re.sub(r"\A\s*(?:sql(?:ite)?|query|answer)\s*:\s*", "", text, flags=re.IGNORECASE)
    if not re.match(
        r"(?:insert|update|delete|drop|create|alter|replace|attach|detach|pragma|vacuum)\b", text, re.IGNORECASE
    ):
        start = re.search(r"\bselect\b|\bwith\s+(?:recursive\s+)?\w+\s*(?:\([^)]*\)\s*)?as\s*\(", text, re.IGNORECASE)
        text = text[start.start() :] if start else text
    for match in re.finditer(r"'(?:[^']|'')*'|\"[^\"]*\"|(;|\n\s*\n)", text):
        if match.group(1):
            text = text[: match.start()]
            break
    return text.strip().strip("`").strip()


def score(text: str, gold_sql: str, schema: Schema, timeout_seconds: float = 1.0, row_limit: int = 1000) -> SqlScore:
    """Judge one answer against the gold query, both run on the schema's database.

    Raises `ValueError` when the gold query itself does not run: that is a fault of the data, not of the answer.
    """
    try:
        gold = run_untrusted(schema, gold_sql, timeout_seconds=10.0, row_limit=100_000)
    except (sqlite3.Error, QueryTimeoutError, TooManyRowsError) as error:
        raise ValueError(f"gold query does not run on {schema.name!r} ({error}): {gold_sql}") from error
    sql = first_statement(text)

    def judged(outcome: str, message: str) -> SqlScore:
        return SqlScore(outcome == "correct", outcome, sql, message)

    if not sql:
        return judged("empty", "the answer holds no SQL")
    if not re.match(r"select\b|with\b", sql, re.IGNORECASE):
        return judged("not a SELECT", f"the answer starts with {sql.split()[0]!r}, not with SELECT")
    try:
        rows = run_untrusted(schema, sql, timeout_seconds, row_limit)
    except QueryTimeoutError as error:
        return judged("timed out", f"the query was {error}")
    except TooManyRowsError as error:
        return judged("wrong result", f"the query returned {error}; gold returns {len(gold)}")
    except (sqlite3.Error, sqlite3.Warning) as error:
        return judged(_outcome_of(str(error)), f"SQLite says: {error}")
    except (ValueError, UnicodeError) as error:  # a null byte or a lone surrogate in the text
        return judged("does not parse", f"the text cannot be run: {error}")
    if same_result(gold, rows, is_ordered(gold_sql)):
        return judged("correct", "same result as gold")
    return judged("wrong result", f"returned {_shown(rows)}; gold returns {_shown(gold)}")


def _outcome_of(error: str) -> str:
    if re.search(r"no such (column|table|function)|ambiguous column", error):
        return "unknown column or table"
    if re.search(r"not authorized|prohibited|too big|too large|too many columns|authorizer", error):
        return "refused"
    return "does not parse"


def _shown(rows: Sequence[Sequence[Any]]) -> str:
    head = ", ".join(str(tuple(row))[:60] for row in rows[:2])
    return f"{len(rows)} row{'' if len(rows) == 1 else 's'}" + (
        f" ({head}{', ...' if len(rows) > 2 else ''})" if rows else ""
    )


def score_all(predictions: Sequence[str], examples: Sequence[SqlExample]) -> list[SqlScore]:
    """One score for each prediction; examples must be of shipped schemas (a test split). Same length wanted."""
    if len(predictions) != len(examples):
        raise ValueError(f"{len(predictions)} predictions for {len(examples)} examples; give one for each")
    return [score(p, e.sql, load_schema(e.schema)) for p, e in zip(predictions, examples, strict=True)]


def bootstrap_interval(
    correct: Sequence[bool] | np.ndarray,
    seed: int,
    before: Sequence[bool] | np.ndarray | None = None,
    confidence: float = 0.95,
    resamples: int = 5000,
) -> tuple[float, float]:
    """Percentile bootstrap interval (scipy) of the share that is right, from so many `resamples`; fractions of 1.

    With `before`, the paired interval of the gain: both runs on the same questions, questions drawn together.
    When every value is alike the interval has no width: resampling cannot show what was never seen.
    """
    import numpy as np
    from scipy.stats import bootstrap

    values = np.asarray(correct, dtype=float)
    if before is not None:
        earlier = np.asarray(before, dtype=float)
        if earlier.shape != values.shape:
            raise ValueError(
                f"a paired interval needs the same questions: {values.shape[0]} after, {earlier.shape[0]} before"
            )
        values = values - earlier
    if values.size < 2:
        raise ValueError(f"an interval needs at least 2 scored questions; got {values.size}")
    found = bootstrap(
        (values,),
        np.mean,
        confidence_level=confidence,
        n_resamples=resamples,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
