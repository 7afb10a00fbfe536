"""Wholly made-up databases, put together from a pool of nouns and columns.

A model that always sees `books(title, pages)` learns those names by heart and writes them for a schema that has
neither. With a new database in nearly every row, copying names from the prompt is the only way.
"""

from __future__ import annotations

import random
from typing import Any

from course.sql.lexicon import Attribute, Entity, Lexicon, World, make_field, spoken
from course.sql.schemas import SQL_WORDS, Column, Schema, Table

ROWS_IN_A_MADE_TABLE = 12

MadeColumn = tuple[str, str, Attribute | None, list[Any]]  # name, type, attribute (none for keys), values


def make_world(lexicon: Lexicon, rng: random.Random, name: str) -> World:
    """A database of one or two tables put together from the pool of nouns and columns."""
    pool = [a for a in lexicon.attributes.values() if a.role != "label" and not a.heldout]
    nouns = rng.sample(lexicon.nouns, 2)
    joined = rng.random() < 0.45
    parent = _make_entity(nouns[0], pool, lexicon, rng, joined=joined)
    if not joined:
        schema = Schema(name, "seen", "made up", (parent.table,))
        return World(schema, (parent,))
    used = {f.attribute.key for f in parent.fields}
    child = _make_entity(nouns[1], [a for a in pool if a.key not in used], lexicon, rng, of=parent)
    key = next(c.name for c in child.table.columns if c.name.endswith("_id"))
    join = (child.table.name, key, parent.table.name, "id")
    order = (parent, child) if rng.random() < 0.7 else (child, parent)
    schema = Schema(name, "seen", "made up", tuple(e.table for e in order), (join,))
    return World(schema, order)


def _make_entity(
    noun: dict[str, Any],
    pool: list[Attribute],
    lexicon: Lexicon,
    rng: random.Random,
    joined: bool = False,
    of: Entity | None = None,
) -> Entity:
    """One table; `joined` gives it a key, `of` makes it the child of that parent."""
    columns: list[MadeColumn] = []
    if of is not None:
        keys = [rng.randint(1, ROWS_IN_A_MADE_TABLE) for _ in range(ROWS_IN_A_MADE_TABLE)]
        columns.append((f"{of.one.replace(' ', '_')}_id", "INTEGER", None, keys))
    elif joined or rng.random() < 0.4:
        columns.append(("id", "INTEGER", None, list(range(1, ROWS_IN_A_MADE_TABLE + 1))))
    label_name = ""
    body: list[MadeColumn] = []
    if of is None or rng.random() < 0.4:
        label = _label(noun, rng)
        label_name = label.columns[0]
        body.append((label_name, "TEXT", label, _label_values(noun, lexicon, rng, repeats=of is not None)))
    # Two tables cost more tokens than one: give each of them fewer columns.
    amount = rng.randint(1, 3) if joined or of is not None else rng.randint(2, 4)
    for attribute in _compatible(pool, rng, amount):
        made = _made_column(attribute, rng)
        if made[0] not in SQL_WORDS and made[0] not in {c[0] for c in body}:
            body.append(made)
    if rng.random() < 0.4:
        rng.shuffle(body)
    columns += body
    name = noun["table"] if rng.random() < 0.85 else noun["one"].replace(" ", "_")
    rows = tuple(zip(*(c[3] for c in columns), strict=True))
    table = Table(noun["table"] if name in SQL_WORDS else name, tuple(Column(c[0], c[1]) for c in columns), rows)
    fields = tuple(spoken(make_field(table, c[0], c[2])) for c in columns if c[2] is not None)
    label_field = next((f for f in fields if f.name == label_name), None)
    person = noun.get("person", False)
    return Entity(table, noun["one"], (noun["many"],), fields, label_field, person, ("of", "for", "with"))


def _made_column(attribute: Attribute, rng: random.Random) -> MadeColumn:
    """A column of that attribute, at times with some values missing."""
    column, values = rng.choice(attribute.columns), _values(attribute, rng, ROWS_IN_A_MADE_TABLE)
    kind = "TEXT" if isinstance(values[0], str) else "REAL" if isinstance(values[0], float) else "INTEGER"
    if rng.random() < (0.3 if attribute.missing else 0.06):
        values = [None if n and rng.random() < 0.3 else v for n, v in enumerate(values)]
    return column, kind, attribute, values


def _label(noun: dict[str, Any], rng: random.Random) -> Attribute:
    one = noun["one"].replace(" ", "_")
    named = (
        ("name", "full_name", one, f"{one}_name")
        if noun.get("person")
        else ("name", "title", one, f"{one}_name", "label")
    )
    column = rng.choice(named)
    says = {
        "full_name": ("name", "full name"),
        "name": ("name",),
        "title": ("title", "name"),
        "label": ("label", "name"),
    }
    return Attribute("made label", "label", (column,), says.get(column, ("name", column.replace("_", " "))))


def _label_values(noun: dict[str, Any], lexicon: Lexicon, rng: random.Random, repeats: bool) -> list[Any]:
    count = ROWS_IN_A_MADE_TABLE
    words = lexicon.words
    if noun.get("person") or (repeats and rng.random() < 0.6):
        names = rng.sample(words["people"], count)
    else:
        firsts, seconds = rng.sample(words["first"], count), rng.sample(words["second"], count)
        names = [f"{a.title()} {b.title()}" for a, b in zip(firsts, seconds, strict=True)]
    return [rng.choice(names[: count // 3]) for _ in range(count)] if repeats else names


def _compatible(pool: list[Attribute], rng: random.Random, count: int) -> list[Attribute]:
    """Attributes that share no way of being said or ranked, so that no question can mean two columns."""
    chosen: list[Attribute] = []
    taken: set[str] = set()
    numbers = [a for a in pool if a.role == "number"]
    categories = [a for a in pool if a.role == "category"]
    first = [rng.choice(numbers), rng.choice(categories)]
    rng.shuffle(first)
    for attribute in first + rng.sample(pool, 40):
        words = {*attribute.says, *attribute.columns, *attribute.most, *attribute.least}
        if not words & taken and attribute not in chosen:
            chosen.append(attribute)
            taken |= words
        if len(chosen) == count:
            break
    rng.shuffle(chosen)
    return chosen


def _values(attribute: Attribute, rng: random.Random, count: int) -> list[Any]:
    if attribute.role == "category":
        few = rng.sample(attribute.values, min(len(attribute.values), rng.randint(3, 4)))
        return [few[i % len(few)] if i < len(few) else rng.choice(few) for i in range(count)]
    assert attribute.range is not None
    low, high, step = attribute.range
    if attribute.role == "date":
        return [
            f"{rng.randint(int(low), int(high))}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"
            for _ in range(count)
        ]
    steps = round((high - low) / step)
    picks = rng.sample(range(steps + 1), count) if steps >= 2 * count else [rng.randint(0, steps) for _ in range(count)]
    values = [round(low + p * step, 2) for p in picks]
    return values if isinstance(step, float) else [int(v) for v in values]
