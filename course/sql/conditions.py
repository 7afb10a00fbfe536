"""One WHERE condition and the ways to say it, sampled from a table's real values.

A condition can be said after a noun ("books *with more than 300 pages*"), as a verb ("books *have more than
300 pages*") and sometimes before the noun ("*crime* books"). SQL uses a `{q}` where a table name may go in a join.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from course.sql.lexicon import Entity, Field
from course.sql.saying import MONTHS, Phrasings, negate, said_number, sql_literal, verb_form


@dataclass(frozen=True)
class Condition:
    """`sql` holds `{q}` before each column; `before` is empty when the condition cannot stand before a noun."""

    sql: str
    after: str
    verb: str
    before: str = ""

    @property
    def column(self) -> str:
        """The column it is about."""
        return self.sql.lstrip("(").split()[0]


class ConditionSampler:
    """Draws conditions on one entity."""

    def __init__(self, phrasings: Phrasings, rng: random.Random) -> None:
        self.phrasings = phrasings
        self.rng = rng

    def sample(self, entity: Entity) -> Condition | None:
        """One condition on a field of the entity, or None when it has no field to ask about."""
        makers: dict[str, Callable[[Entity, Field], Condition | None]] = {
            "category": self._category,
            "number": self._number,
            "year": self._time,
            "date": self._time,
            "label": self._label,
        }
        if not entity.fields:
            return None
        incomplete = [f for f in entity.fields if f.has_nulls]
        if incomplete and self.rng.random() < 0.1:
            return self._null(self.rng.choice(incomplete))
        target = self.rng.choice(entity.fields)
        if target.attribute.role == "label" and self.rng.random() < 0.8:
            target = self.rng.choice(entity.fields)
        if target.has_nulls and self.rng.random() < 0.55:
            return self._null(target)
        return makers[target.attribute.role](entity, target)

    def _phrase(self, kind: str, **slots: str) -> tuple[str, str]:
        after, _, verb = self.rng.choice(self.phrasings[kind]).format(**slots).partition("|")
        return after, verb or verb_form(after)

    def _say(self, target: Field) -> str:
        return self.rng.choice(target.attribute.says)

    def _equals(self, target: Field, value: str) -> tuple[str, str]:
        """The column's own way to say `is value`, or a general one."""
        if target.attribute.equals and self.rng.random() < 0.7:
            after, _, verb = self.rng.choice(target.attribute.equals).format(v=value).partition("|")
            return after, verb or verb_form(after)
        return self._phrase("where.eq", c=self._say(target), v=value)

    def _category(self, entity: Entity, target: Field) -> Condition | None:
        values = sorted(set(entity.values(target.name)))
        if not values:
            return None
        name, draw = "{q}" + target.name, self.rng.random()
        value = self.rng.choice(values)
        if draw < 0.12 and len(values) > 2:
            other = self.rng.choice([v for v in values if v != value])
            after, verb = self._equals(target, f"{value} or {other}")
            return Condition(f"({name} = {sql_literal(value)} OR {name} = {sql_literal(other)})", after, verb)
        if draw < 0.27:
            return self._different(target, value)
        if draw < 0.3:
            return self._like(target, values)
        after, verb = self._equals(target, value)
        before = value if target.attribute.adjective and self.rng.random() < 0.5 else ""
        return Condition(f"{name} = {sql_literal(value)}", after, verb, before)

    def _different(self, target: Field, value: str) -> Condition:
        if self.rng.random() < 0.5:
            after, verb = self._phrase("where.ne", c=self._say(target), v=value)
        else:
            verb = negate(self._equals(target, value)[1])
            after = f"that {verb}"
        return Condition(f"{{q}}{target.name} <> {sql_literal(value)}", after, verb)

    def _like(self, target: Field, values: list[str]) -> Condition | None:
        texts = [str(v) for v in values]
        text, draw = self.rng.choice(texts), self.rng.random()
        if draw < 0.5:
            part, kind, pattern = text[0], "where.starts", "{}%"
            if self.rng.random() < 0.3:
                part = text[: self.rng.randint(2, 3)].strip()
        elif draw < 0.65:
            part, kind, pattern = text[-1], "where.ends", "%{}"
        else:
            words = [w for w in text.replace("-", " ").split() if len(w) > 2]
            part = self.rng.choice(words) if len(words) > 1 else text[: max(2, len(text) // 2)]
            kind, pattern = "where.contains", "%{}%"
        if not part or not part.replace(" ", "").isalnum():
            return None
        said = self.rng.choice((part, f"'{part}'", f'"{part}"', part))
        after, verb = self._phrase(kind, c=self._say(target), v=said)
        return Condition(f"{{q}}{target.name} LIKE {sql_literal(pattern.format(part))}", after, verb)

    def _label(self, entity: Entity, target: Field) -> Condition | None:
        values = sorted({str(v) for v in entity.values(target.name)})
        if not all(isinstance(v, str) for v in entity.values(target.name)):
            return None
        if self.rng.random() < 0.7:
            return self._like(target, values)
        value = self.rng.choice(values)
        after, verb = self._phrase("where.eq", c=self._say(target), v=value)
        return Condition(f"{{q}}{target.name} = {sql_literal(value)}", after, verb)

    def _null(self, target: Field) -> Condition:
        attribute = target.attribute
        if self.rng.random() < 0.3:
            after, verb = self._phrase("where.notnull", c=self._say(target))
            return Condition(f"{{q}}{target.name} IS NOT NULL", after, verb)
        if attribute.missing and self.rng.random() < 0.5:
            after = self.rng.choice(attribute.missing)
            verb = f"have no {self._say(target)}"
        else:
            after, verb = self._phrase("where.null", c=self._say(target))
        return Condition(f"{{q}}{target.name} IS NULL", after, verb)

    def _threshold(self, values: list[float]) -> float:
        """A value inside the data's range, often a round one."""
        ordered = sorted(set(values))
        value = self.rng.choice(ordered[1:-1] or ordered)
        if isinstance(value, int) and self.rng.random() < 0.7:
            for unit in (1000, 100, 50, 10, 5):
                if value >= unit * 3 and ordered[0] < round(value / unit) * unit < ordered[-1]:
                    return round(value / unit) * unit
        return value

    def _number(self, entity: Entity, target: Field) -> Condition | None:
        values = entity.values(target.name)
        if len(set(values)) < 3:
            return None
        attribute, name, draw = target.attribute, "{q}" + target.name, self.rng.random()
        unit = ".unit" if attribute.unit and self.rng.random() < 0.5 else ""
        slots = {"c": self._say(target), "u": attribute.unit or ""}
        few = len(set(values)) <= 10
        if draw < 0.2:
            low, high = sorted(self.rng.sample(sorted(set(values)), 2))
            after, verb = self._phrase(
                f"where.between{unit}", a=said_number(low, self.rng), b=said_number(high, self.rng), **slots
            )
            return Condition(f"{name} BETWEEN {sql_literal(low)} AND {sql_literal(high)}", after, verb)
        value = self._threshold(values)
        said = said_number(value, self.rng, words=bool(unit))
        if (few and draw < 0.5) or draw < 0.24:
            value = self.rng.choice(values)
            said = said_number(value, self.rng, words=bool(unit))
            if attribute.equals and self.rng.random() < 0.7:
                after, verb = self._equals(target, said)
            else:
                after, verb = self._phrase(f"where.eq{unit}", v=said, **slots)
            return Condition(f"{name} = {sql_literal(value)}", after, verb)
        sign, kind, own = self.rng.choice(
            ((">", "gt", attribute.more), ("<", "lt", attribute.less), (">", "gt", attribute.more),
             ("<", "lt", attribute.less), (">=", "ge", ()), ("<=", "le", ()))
        )  # fmt: skip
        if own and self.rng.random() < 0.55:
            after, _, verb = self.rng.choice(own).format(v=said).partition("|")
            verb = verb or verb_form(after)
        else:
            after, verb = self._phrase(f"where.{kind}{unit}", v=said, **slots)
        return Condition(f"{name} {sign} {sql_literal(value)}", after, verb)

    def _time(self, entity: Entity, target: Field) -> Condition | None:
        values = sorted(set(entity.values(target.name)))
        if len(values) < 3:
            return None
        attribute, name, draw = target.attribute, "{q}" + target.name, self.rng.random()
        slots = {"c": self._say(target), "verb": self.rng.choice(attribute.verbs)}
        is_date = attribute.role == "date"
        if draw < 0.2:
            low, high = sorted(self.rng.sample(values, 2))
            after, verb = self._phrase("time.between", a=str(low), b=str(high), **slots)
            return Condition(f"{name} BETWEEN {sql_literal(low)} AND {sql_literal(high)}", after, verb)
        value = self.rng.choice(values[1:-1])
        if is_date and draw < 0.5:
            year, month, _ = value.split("-")
            by_month = self.rng.random() < 0.5
            said = f"{MONTHS[int(month) - 1]} {year}" if by_month else year
            after, verb = self._phrase("time.in", v=said, **slots)
            pattern = f"{year}-{month}%" if by_month else f"{year}%"
            return Condition(f"{name} LIKE '{pattern}'", after, verb)
        if draw < (0.55 if is_date else 0.4):
            after, verb = self._phrase(f"time.eq.{attribute.role}", v=str(value), **slots)
            return Condition(f"{name} = {sql_literal(value)}", after, verb)
        sign, kind = self.rng.choice(((">", "gt"), ("<", "lt"), (">", "gt"), ("<", "lt"), (">=", "ge"), ("<=", "le")))
        if not is_date and self.rng.random() < 0.6:
            value = value - value % 5 if values[0] < value - value % 5 else value
        after, verb = self._phrase(f"time.{kind}", v=str(value), **slots)
        return Condition(f"{name} {sign} {sql_literal(value)}", after, verb)
