"""The databases behind the `sql` dataset: what a schema is, how to load one and how to open it in SQLite.

A schema is a small database, one to three tables, stored whole as data (names, types, rows), so that a query
can be judged by what it returns.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

DATA_FOLDER = Path(__file__).resolve().parents[2] / "datasets" / "sql"
SPLITS = ("seen", "heldout")
# Names that would need quoting in a query; no table or column bears one.
SQL_WORDS = frozenset({"by", "check", "default", "from", "group", "index", "limit", "order", "primary", "select"})


class DataError(ValueError):
    """The dataset's files are not what they should be; the message says where and what to do."""


@dataclass(frozen=True)
class Column:
    """One column: its name and its SQLite type (TEXT, INTEGER or REAL)."""

    name: str
    type: str


@dataclass(frozen=True)
class Table:
    """One table: columns, and rows in the same order as the columns."""

    name: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class Schema:
    """One database. `joins` holds (child table, child column, parent table, parent column)."""

    name: str
    split: str
    topic: str
    tables: tuple[Table, ...]
    joins: tuple[tuple[str, str, str, str], ...] = ()

    @property
    def text(self) -> str:
        """The schema as a prompt shows it: one `table(column, column)` line for each table."""
        return "\n".join(f"{t.name}({', '.join(c.name for c in t.columns)})" for t in self.tables)


def schema_from_dict(data: dict[str, Any]) -> Schema:
    """Build a schema from its JSON form. Raises `DataError` for a row of the wrong width or an unknown split."""
    if data["split"] not in SPLITS:
        raise DataError(f"schema {data['name']!r} has split {data['split']!r}; use one of {', '.join(SPLITS)}")
    tables = []
    for table in data["tables"]:
        columns = tuple(Column(c["name"], c["type"]) for c in table["columns"])
        for number, row in enumerate(table["rows"], start=1):
            if len(row) != len(columns):
                raise DataError(
                    f"schema {data['name']!r}, table {table['name']!r}, row {number} has {len(row)} values "
                    f"for {len(columns)} columns; correct that row in schemas.json"
                )
        tables.append(Table(table["name"], columns, tuple(tuple(row) for row in table["rows"])))
    joins = tuple((j[0], j[1], j[2], j[3]) for j in data["joins"])
    return Schema(data["name"], data["split"], data["topic"], tuple(tables), joins)


@cache
def load_schemas(folder: Path = DATA_FOLDER) -> dict[str, Schema]:
    """All schemas of the dataset by name, in file order."""
    path = folder / "schemas.json"
    if not path.exists():
        raise DataError(f"{path} is missing; run from a full clone of the course, which carries datasets/sql")
    return {d["name"]: schema_from_dict(d) for d in json.loads(path.read_text(encoding="utf-8"))}


def load_schema(name: str) -> Schema:
    """One schema by name. Raises `KeyError` naming the schemas there are."""
    schemas = load_schemas()
    if name not in schemas:
        raise KeyError(f"no schema is called {name!r}; there are {', '.join(schemas)}")
    return schemas[name]


def connect(schema: Schema) -> sqlite3.Connection:
    """A new in-memory SQLite database holding the schema's tables and rows; the caller closes it."""
    connection = sqlite3.connect(":memory:")
    for table in schema.tables:
        columns = ", ".join(f'"{c.name}" {c.type}' for c in table.columns)
        connection.execute(f'CREATE TABLE "{table.name}" ({columns})')
        marks = ", ".join("?" for _ in table.columns)
        connection.executemany(f'INSERT INTO "{table.name}" VALUES ({marks})', table.rows)
    connection.commit()
    return connection
