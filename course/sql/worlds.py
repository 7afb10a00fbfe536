"""Where training databases come from: the shipped ones, seeded variants of them, and wholly made-up ones.

A model that always sees `books(title, pages)` learns those names by heart and writes them for a schema that has
neither. So most training rows show a database the model has never met: tables and columns dropped, shuffled and
renamed, or put together from a pool of nouns and columns. Copying names from the prompt is then the only way.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from course.sql.lexicon import Attribute, Entity, Field, Lexicon, World, make_field
from course.sql.schemas import Column, Schema, Table

ROWS_IN_A_MADE_TABLE = 12
SQL_WORDS = frozenset("group order by from select where index table values limit check default primary to".split())


def vary(world: World, rng: random.Random) -> World:
    """The same database with some columns left out, shuffled and renamed, and tables renamed."""
    entities = list(world.entities)
    joins = list(world.schema.joins)
    if len(entities) > 1 and rng.random() < 0.25:
        entities = [rng.choice(entities)]
        joins = []
    changed = [_vary_entity(e, {j[1] for j in joins if j[0] == e.table.name}, rng) for e in entities]
    names = {old.table.name: new.table.name for old, new in zip(entities, changed, strict=True)}
    renamed_joins = tuple((names[child], column, names[parent], key) for child, column, parent, key in joins)
    schema = replace(world.schema, tables=tuple(e.table for e in changed), joins=renamed_joins)
    return World(schema, tuple(changed))


def _vary_entity(entity: Entity, keys: set[str], rng: random.Random) -> Entity:
    table, label = entity.table, entity.label
    droppable = [f for f in entity.fields if f != label]
    keep = rng.randint(min(2, len(droppable)), len(droppable))
    fields = [f for f in entity.fields if f == label or f in rng.sample(droppable, keep)]
    kept = [c.name for c in table.columns if c.name == "id" or c.name in keys or any(c.name == f.name for f in fields)]
    rest = [name for name in kept if name != "id"]
    if rng.random() < 0.6:
        rng.shuffle(rest)
    order = (["id"] if "id" in kept else []) + rest
    new_names = {name: name for name in order}
    for f in fields:
        choice = rng.choice(f.attribute.columns)
        if rng.random() < 0.45 and choice not in new_names.values() and choice not in SQL_WORDS:
            new_names[f.name] = choice
    positions = [[c.name for c in table.columns].index(name) for name in order]
    columns = tuple(Column(new_names[n], table.columns[p].type) for n, p in zip(order, positions, strict=True))
    rows = tuple(tuple(row[p] for p in positions) for row in table.rows)
    name = table.name
    many = entity.many
    renames = [r for r in entity.renames if r not in SQL_WORDS]
    if renames and rng.random() < 0.5:
        name = rng.choice(renames)
        many = (*many, name.replace("_", " "))
    new_table = Table(name, columns, rows)
    made = {f.name: _spoken(make_field(new_table, new_names[f.name], f.attribute)) for f in fields}
    return replace(
        entity,
        table=new_table,
        many=many,
        fields=tuple(made[n] for n in order if n in made),
        label=made[label.name] if label else None,
    )


def _spoken(target: Field) -> Field:
    """Let the column's own name be one of the ways to say it."""
    plain = target.name.replace("_", " ")
    if plain in target.attribute.says:
        return target
    says = (*target.attribute.says, plain)
    return replace(target, attribute=replace(target.attribute, says=says))


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
    count = ROWS_IN_A_MADE_TABLE
    columns: list[tuple[str, str, Attribute | None, list[Any]]] = []
    if of is None and (joined or rng.random() < 0.4):
        columns.append(("id", "INTEGER", None, list(range(1, count + 1))))
    if of is not None:
        key = of.one.replace(" ", "_") + "_id"
        columns.append((key, "INTEGER", None, [rng.randint(1, count) for _ in range(count)]))
    body: list[tuple[str, str, Attribute | None, list[Any]]] = []
    label_name = ""
    if of is None or rng.random() < 0.4:
        label = _label(noun, rng)
        label_name = label.columns[0]
        body.append((label_name, "TEXT", label, _label_values(noun, lexicon, rng, count, repeats=of is not None)))
    for attribute in _compatible(pool, rng, rng.randint(2, 4) if of is None else rng.randint(2, 3)):
        column = rng.choice(attribute.columns)
        if column in SQL_WORDS or column in {c[0] for c in body}:
            continue
        values = _values(attribute, rng, count)
        if rng.random() < (0.3 if attribute.missing else 0.06):
            values = [None if rng.random() < 0.3 else v for v in values]
        kind = "TEXT" if isinstance(next(v for v in values if v is not None), str) else "INTEGER"
        kind = "REAL" if any(isinstance(v, float) for v in values) else kind
        body.append((column, kind, attribute, values))
    if rng.random() < 0.4:
        rng.shuffle(body)
    columns += body
    rows = tuple(zip(*(c[3] for c in columns), strict=True))
    table_name = noun["table"] if rng.random() < 0.85 else noun["one"].replace(" ", "_")
    if table_name in SQL_WORDS:
        table_name = noun["table"]
    table = Table(table_name, tuple(Column(c[0], c[1]) for c in columns), rows)
    fields = tuple(_spoken(make_field(table, c[0], c[2])) for c in columns if c[2] is not None)
    label_field = next((f for f in fields if f.name == label_name), None)
    return Entity(table, noun["one"], (noun["many"],), fields, label_field, noun.get("person", False), ("of", "for", "with"))


def _label(noun: dict[str, Any], rng: random.Random) -> Attribute:
    one = noun["one"].replace(" ", "_")
    named = ("name", "full_name", one, f"{one}_name") if noun.get("person") else ("name", "title", one, f"{one}_name", "label")
    column = rng.choice(named)
    says = {"full_name": ("name", "full name"), "name": ("name",), "title": ("title", "name"), "label": ("label", "name")}
    return Attribute("made label", "label", (column,), says.get(column, ("name", column.replace("_", " "))))


def _label_values(
    noun: dict[str, Any], lexicon: Lexicon, rng: random.Random, count: int, repeats: bool
) -> list[Any]:
    words = lexicon.words
    if noun.get("person") or repeats and rng.random() < 0.6:
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
        return [f"{rng.randint(int(low), int(high))}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}" for _ in range(count)]
    steps = int(round((high - low) / step))
    picks = rng.sample(range(steps + 1), count) if steps >= 2 * count else [rng.randint(0, steps) for _ in range(count)]
    values = [round(low + p * step, 2) for p in picks]
    return values if isinstance(step, float) else [int(v) for v in values]
