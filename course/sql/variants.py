"""Seeded variants of a shipped database: columns left out, shuffled and renamed, tables renamed."""

from __future__ import annotations

import random
from dataclasses import replace

from course.sql.lexicon import Entity, World, make_field, spoken
from course.sql.schemas import SQL_WORDS, Column, Table


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
    if not kept:  # each field is drawn on its own, so that none may be left: draw again
        return _vary_entity(entity, keys, rng)
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
    made = {f.name: spoken(make_field(new_table, new_names[f.name], f.attribute)) for f in fields}
    return replace(
        entity,
        table=new_table,
        many=many,
        fields=tuple(made[n] for n in order if n in made),
        label=made[label.name] if label else None,
    )
