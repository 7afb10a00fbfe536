"""When are two query results the same answer?"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

RELATIVE_TOLERANCE = 1e-6  # AVG over other row orders, or SUM/COUNT in place of AVG, moves the last bits only
ABSOLUTE_TOLERANCE = 1e-9


def is_ordered(sql: str) -> bool:
    """Whether the query asks for an order (an ORDER BY outside brackets and quotes)."""
    bare = re.sub(r"'(?:[^']|'')*'", "''", sql)
    while (shorter := re.sub(r"\([^()]*\)", "", bare)) != bare:
        bare = shorter
    return re.search(r"\border\s+by\b", bare, re.IGNORECASE) is not None


def same_value(a: Any, b: Any) -> bool:
    """Equal values; numbers within 1e-6 relative, whole or not; text exactly."""
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE)
    return type(a) is type(b) and a == b


def _rank(row: Sequence[Any]) -> tuple:
    """A sort key over mixed types: NULL, numbers, text, bytes. Numbers rounded so that equal ones sort alike."""
    key = []
    for value in row:
        if value is None:
            key.append((0, 0.0, ""))
        elif isinstance(value, int | float):
            key.append((1, float(f"{value:.6g}"), ""))
        else:
            key.append((2, 0.0, value if isinstance(value, str) else repr(value)))
    return tuple(key)


def same_result(gold: Sequence[Sequence[Any]], other: Sequence[Sequence[Any]], ordered: bool) -> bool:
    """Same rows, as often; in the same order when `ordered`. Columns count in the order they were selected."""
    if len(gold) != len(other):
        return False
    if not ordered:
        gold, other = sorted(gold, key=_rank), sorted(other, key=_rank)
    return all(
        len(a) == len(b) and all(same_value(x, y) for x, y in zip(a, b, strict=True))
        for a, b in zip(gold, other, strict=True)
    )
