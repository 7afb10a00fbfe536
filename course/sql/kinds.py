"""What kind of query is it? Read from the SQL, so that any row, hand-written ones too, can be counted by kind."""

from __future__ import annotations

import re

# First match wins: the hardest feature names the kind.
FEATURES = (
    ("join", r"\bJOIN\b"),
    ("having", r"\bHAVING\b"),
    ("group", r"\bGROUP BY\b"),
    ("superlative", r"\bLIMIT\b"),
    ("sort", r"\bORDER BY\b"),
    ("null", r"\bIS (?:NOT )?NULL\b"),
    ("like", r"\bLIKE\b"),
    ("between", r"\bBETWEEN\b"),
    ("distinct", r"\bDISTINCT\b"),
    ("two conditions", r"\b(?:AND|OR)\b"),
    ("aggregate", r"\b(?:SUM|AVG|MIN|MAX)\("),
    ("count", r"\bCOUNT\("),
    ("filter", r"\bWHERE\b"),
)
KINDS = (*(name for name, _ in FEATURES), "list")


def kind_of(sql: str) -> str:
    """The kind of a query: one of `KINDS`. Text in quotes is not looked at."""
    bare = re.sub(r"'(?:[^']|'')*'", "''", sql)
    for name, pattern in FEATURES:
        if re.search(pattern, bare, re.IGNORECASE):
            return name
    return "list"
