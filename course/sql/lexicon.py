"""How people speak of tables and columns: the words behind a schema, read from `datasets/sql/lexicon.json`.

An `Attribute` is one kind of column, with the names it may carry in a database, the ways people say it and the
values it takes. An `Entity` is one table seen that way. The generator speaks only of entities.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from course.sql.schemas import DATA_FOLDER, Schema, Table


@dataclass(frozen=True)
class Attribute:
    """One kind of column. `role` is number, year, date, category or label; `{v}` in a phrase is the value.

    `more`, `less` and `equals` hold `after a noun|as a verb` pairs: `older than {v}|are older than {v}`.
    """

    key: str
    role: str
    columns: tuple[str, ...]
    says: tuple[str, ...]
    plurals: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    range: tuple[float, float, float] | None = None
    sums: bool = False
    unit: str | None = None
    adjective: bool = False
    people: bool = False
    heldout: bool = False
    most: tuple[str, ...] = ()
    least: tuple[str, ...] = ()
    more: tuple[str, ...] = ()
    less: tuple[str, ...] = ()
    equals: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ()

    @property
    def all_plurals(self) -> tuple[str, ...]:
        """Ways to say the column in the plural ("genres"); given ones, else each singular with an s."""
        return self.plurals or tuple(s if s.endswith("s") else s + "s" for s in self.says)


@dataclass(frozen=True)
class Field:
    """One column of one table, and the attribute it holds."""

    name: str
    type: str
    attribute: Attribute
    has_nulls: bool = False


@dataclass(frozen=True)
class Entity:
    """One table as people speak of it. Key columns (`id`, `..._id`) are not among its fields."""

    table: Table
    one: str
    many: tuple[str, ...]
    fields: tuple[Field, ...]
    label: Field | None = None
    person: bool = False
    links: tuple[str, ...] = ("of",)
    renames: tuple[str, ...] = ()

    def values(self, name: str) -> list[Any]:
        """The column's values that are not NULL, in row order."""
        index = [c.name for c in self.table.columns].index(name)
        return [row[index] for row in self.table.rows if row[index] is not None]

    def fields_with(self, *roles: str) -> list[Field]:
        """Fields whose attribute has one of these roles."""
        return [f for f in self.fields if f.attribute.role in roles]


@dataclass(frozen=True)
class World:
    """A schema and its entities, in the order of its tables."""

    schema: Schema
    entities: tuple[Entity, ...]

    def entity(self, table: str) -> Entity:
        """The entity of that table."""
        return next(e for e in self.entities if e.table.name == table)


@dataclass(frozen=True)
class Lexicon:
    """All words: attributes by key, what is said of each shipped table, nouns and value words for new schemas."""

    attributes: dict[str, Attribute]
    tables: dict[str, dict[str, Any]]
    nouns: tuple[dict[str, Any], ...]
    words: dict[str, list[str]] = field(default_factory=dict)


def _attribute(key: str, data: dict[str, Any]) -> Attribute:
    frozen: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
    return Attribute(key=key, **frozen)


@cache
def load_lexicon(folder: Path = DATA_FOLDER) -> Lexicon:
    """Read lexicon.json."""
    data = json.loads((folder / "lexicon.json").read_text(encoding="utf-8"))
    attributes = {key: _attribute(key, value) for key, value in data["attributes"].items()}
    return Lexicon(attributes, data["tables"], tuple(data["nouns"]), data["words"])


@cache
def load_phrasings(folder: Path = DATA_FOLDER) -> dict[str, tuple[str, ...]]:
    """Read phrasings.json: the hand-written ways to ask for each kind of query."""
    data = json.loads((folder / "phrasings.json").read_text(encoding="utf-8"))
    return {kind: tuple(phrases) for kind, phrases in data.items()}


def make_field(table: Table, name: str, attribute: Attribute) -> Field:
    """The field for one column of a table, noting whether any row lacks it."""
    index = [c.name for c in table.columns].index(name)
    nulls = any(row[index] is None for row in table.rows)
    return Field(name, table.columns[index].type, attribute, nulls)


def spoken(target: Field) -> Field:
    """Let the column's own name be one of the ways to say it."""
    plain = target.name.replace("_", " ")
    if plain in target.attribute.says:
        return target
    says = (*target.attribute.says, plain)
    return replace(target, attribute=replace(target.attribute, says=says))


def describe(schema: Schema, lexicon: Lexicon) -> World:
    """Give a shipped schema its words."""
    entities = []
    for table in schema.tables:
        words = lexicon.tables[f"{schema.name}.{table.name}"]
        fields = tuple(
            make_field(table, c.name, lexicon.attributes[words["attributes"].get(c.name, c.name)])
            for c in table.columns
            if c.name != "id" and not c.name.endswith("_id")
        )
        label = next((f for f in fields if f.name == words.get("label")), None)
        entities.append(
            Entity(
                table,
                words["one"][0],
                tuple(words["many"]),
                fields,
                label,
                words.get("person", False),
                tuple(words.get("links", ["of"])),
                tuple(words.get("renames", [])),
            )
        )
    return World(schema, tuple(entities))
