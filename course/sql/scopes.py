"""Which rows a question is about, in words and in SQL.

A scope is a table, with up to two conditions, or a table joined to its parent with a condition on the parent
("loans of crime books"). Each kind of question then asks something about a scope.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from course.sql.conditions import Condition, ConditionSampler
from course.sql.lexicon import Entity, Field, World
from course.sql.saying import Phrasings, sql_literal


@dataclass(frozen=True)
class Scope:
    """Which rows are meant. `many` and `one` are noun phrases; `verb` is the condition said as a verb, if any.

    `prefix` stands before each column of the entity: empty, or `table.` in a join.
    """

    entity: Entity
    source: str
    where: str
    prefix: str
    many: str
    one: str
    plain: str
    verb: str = ""

    def select(self, what: str, tail: str = "") -> str:
        """The whole query."""
        where = f" WHERE {self.where}" if self.where else ""
        return f"SELECT {what} FROM {self.source}{where}{' ' + tail if tail else ''}"


@dataclass(frozen=True)
class Join:
    """A child table joined to its parent; `source` is the FROM clause."""

    child: Entity
    parent: Entity
    source: str

    def parent_column(self, target: Field) -> str:
        """A column of the parent, with its table's name."""
        return f"{self.parent.table.name}.{target.name}"


def bare(where: str) -> str:
    """A lone `(a OR b)` needs no brackets."""
    return where[1:-1] if where.startswith("(") and where.endswith(")") else where


class ScopeSampler:
    """Draws scopes of one world."""

    def __init__(self, world: World, phrasings: Phrasings, rng: random.Random) -> None:
        self.world = world
        self.phrasings = phrasings
        self.rng = rng
        self.conditions = ConditionSampler(phrasings, rng)

    def join(self, chance: float) -> Join | None:
        """A join of the world, by that chance; None when it has none."""
        joins = self.world.schema.joins
        if not joins or self.rng.random() >= chance:
            return None
        child, column, parent, key = self.rng.choice(joins)
        source = f"{child} JOIN {parent} ON {child}.{column} = {parent}.{key}"
        return Join(self.world.entity(child), self.world.entity(parent), source)

    def scope(self, none: float, two: float, join: float) -> Scope | None:
        """A scope with no condition (share `none` of the time), one, two, or one on a joined parent."""
        joined = self.join(join)
        if joined:
            return self._joined(joined)
        entity = self.rng.choice(self.world.entities)
        name, many = entity.table.name, self.rng.choice(entity.many)
        if self.rng.random() < none:
            return Scope(entity, name, "", "", many, entity.one, many)
        first = self.conditions.sample(entity)
        if first is None:
            return None
        if self.rng.random() < two:
            second = self.conditions.sample(entity)
            if second and second.column != first.column:
                return self._with_two(entity, many, first, second)
        before, after = (f"{first.before} ", "") if first.before else ("", f" {first.after}")
        where = bare(first.sql.format(q=""))
        return Scope(
            entity, name, where, "", f"{before}{many}{after}", f"{before}{entity.one}{after}", many, first.verb
        )

    def _with_two(self, entity: Entity, many: str, first: Condition, second: Condition) -> Scope:
        if first.before:
            before, after = f"{first.before} ", second.after
        else:
            before, after = "", self.rng.choice(("{} and {}", "{} and {}", "{} {}")).format(first.after, second.after)
        where = f"{first.sql} AND {second.sql}".format(q="")
        verb = f"{first.verb} and {second.verb}"
        one = f"{before}{entity.one} {after}"
        return Scope(entity, entity.table.name, where, "", f"{before}{many} {after}", one, many, verb)

    def plain_join(self, join: Join) -> Scope:
        """All rows of the child, joined to the parent, without a condition."""
        many = self.rng.choice(join.child.many)
        return Scope(join.child, join.source, "", f"{join.child.table.name}.", many, join.child.one, many)

    def child_condition(self, join: Join) -> Scope | None:
        """Rows of the joined child under a condition of its own."""
        found = self.conditions.sample(join.child)
        if found is None:
            return None
        scope = self.plain_join(join)
        said = f"{found.before} {scope.plain}" if found.before else f"{scope.plain} {found.after}"
        where = bare(found.sql.format(q=scope.prefix))
        return Scope(join.child, join.source, where, scope.prefix, said, said, scope.plain)

    def _joined(self, join: Join) -> Scope | None:
        """Rows of the child chosen by a condition on its parent, now and then with one of their own."""
        scope, parent, label = self.plain_join(join), join.parent, join.parent.label
        link = self.rng.choice(join.child.links)
        if label and self.rng.random() < 0.45:
            value = self.rng.choice(parent.values(label.name))
            where = f"{join.parent_column(label)} = {sql_literal(value)}"
            shape = self.rng.choice(
                ("{t} {link} {v}", "{t} {link} the {p} {v}", "{t} {link} {p} {v}", "{t} whose {p} is {v}", "{v}'s {t}",
                 "{t} that belong to {v}", "{t} {link} '{v}'")
            )  # fmt: skip
            words = {"link": link, "v": value, "p": parent.one}
            many, one = shape.format(t=scope.plain, **words), shape.format(t=join.child.one, **words)
        else:
            condition = self.conditions.sample(parent)
            if condition is None:
                return None
            who = self.rng.choice(parent.many)
            said = f"{condition.before} {who}" if condition.before else f"{who} {condition.after}"
            where = condition.sql.format(q=f"{parent.table.name}.")
            many, one = f"{scope.plain} {link} {said}", f"{join.child.one} {link} {said}"
        own = self.conditions.sample(join.child) if self.rng.random() < 0.15 else None
        if own and own.before:
            many, one = f"{own.before} {many}", f"{own.before} {one}"
        elif own:
            many, one = f"{many} {own.after}", f"{one} {own.after}"
        if own:
            where = f"{own.sql.format(q=scope.prefix)} AND {where}"
        return Scope(join.child, join.source, bare(where) if not own else where, scope.prefix, many, one, scope.plain)
