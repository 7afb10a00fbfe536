"""From a described database to a question and its gold query: one method for each kind of query.

A scope says which rows are meant, in words and in SQL: a table, with up to two conditions, or a table joined to
its parent with a condition on the parent. Each kind then asks something about a scope.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from course.sql.conditions import Condition, ConditionSampler, Phrasings, said_number, sql_literal
from course.sql.lexicon import Entity, Field, World

WEIGHTS = {
    "count": 15, "list": 15, "columns": 9, "lookup": 4, "aggregate": 14, "superlative": 13, "top": 3, "sort": 3,
    "distinct": 5, "count_distinct": 4, "group_count": 8, "group_aggregate": 7, "group_top": 6, "having": 6,
    "pairs": 1.5, "join_superlative": 2, "join_list": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Scope:
    """Which rows are meant. `many` and `one` are noun phrases; `verb` is a condition said as a verb, if any."""

    entity: Entity
    source: str
    where: str
    prefix: str
    many: str
    one: str
    plain: str
    verb: str = ""
    parent: Entity | None = None

    def select(self, what: str, tail: str = "") -> str:
        """The whole query."""
        where = f" WHERE {self.where}" if self.where else ""
        return f"SELECT {what} FROM {self.source}{where}{' ' + tail if tail else ''}"


def tidy(text: str, rng: random.Random) -> str:
    """Repair articles and spaces, then vary capitals and the mark at the end as people do."""
    text = re.sub(r"\b([Aa]) (?=[aeioAEIO])", r"\1n ", text)
    text = re.sub(r"\ba n(?=umber\b)", "the n", text).replace("the the ", "the ")
    text = re.sub(r"\s+", " ", text).strip()
    if rng.random() < 0.8:
        text = text[0].upper() + text[1:]
    else:
        text = text[0].lower() + text[1:] if not text[:2].isupper() else text
    draw = rng.random()
    if draw < 0.14:
        text = text.rstrip("?.")
    elif draw < 0.18 and text.endswith("."):
        text = text[:-1] + " please."
    return text


class QuestionSampler:
    """Draws (question, sql) pairs about one world, all randomness from one `random.Random`."""

    def __init__(self, world: World, phrasings: Phrasings, rng: random.Random) -> None:
        self.world = world
        self.phrasings = phrasings
        self.rng = rng
        self.conditions = ConditionSampler(phrasings, rng)
        self.kinds: dict[str, Callable[[], tuple[str, str] | None]] = {
            name: getattr(self, f"_{name}") for name in WEIGHTS
        }

    def sample(self) -> tuple[str, str] | None:
        """One question and its query; None when the drawn kind cannot be asked of this world."""
        kind = self.rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        return self.kinds[kind]()

    # -- scopes

    def _children(self) -> list[tuple[Entity, Entity, str]]:
        """(child, parent, source SQL) of each join."""
        found = []
        for child, column, parent, key in self.world.schema.joins:
            source = f"{child} JOIN {parent} ON {child}.{column} = {parent}.{key}"
            found.append((self.world.entity(child), self.world.entity(parent), source))
        return found

    def _join(self, chance: float) -> tuple[Entity, Entity, str] | None:
        joins = self._children()
        return self.rng.choice(joins) if joins and self.rng.random() < chance else None

    def _scope(self, none: float = 0.3, two: float = 0.2, join: float = 0.2) -> Scope | None:
        """A scope with no condition (share `none` of the time), one, two, or one on a joined parent."""
        found = self._join(join)
        if found:
            return self._join_scope(*found)
        entity = self.rng.choice(self.world.entities)
        name, many = entity.table.name, self.rng.choice(entity.many)
        if self.rng.random() < none:
            return Scope(entity, name, "", "", many, entity.one, many)
        first = self.conditions.sample(entity)
        if first is None:
            return None
        if self.rng.random() < two:
            second = self.conditions.sample(entity)
            if second and second.sql.split()[0] != first.sql.split()[0]:
                return self._two(entity, many, first, second)
        after, before = ("", first.before + " ") if first.before else (" " + first.after, "")
        where = first.sql.format(q="")
        if where.startswith("("):
            where = where[1:-1]
        return Scope(entity, name, where, "", f"{before}{many}{after}", f"{before}{entity.one}{after}", many, first.verb)

    def _two(self, entity: Entity, many: str, first: Condition, second: Condition) -> Scope:
        before = ""
        if first.before:
            before, after = first.before + " ", second.after
        else:
            after = self.rng.choice(("{} and {}", "{} and {}", "{} {}")).format(first.after, second.after)
        where = f"{first.sql} AND {second.sql}".format(q="")
        verb = f"{first.verb} and {second.verb}"
        return Scope(entity, entity.table.name, where, "", f"{before}{many} {after}", f"{before}{entity.one} {after}", many, verb)

    def _join_scope(self, child: Entity, parent: Entity, source: str) -> Scope | None:
        """Rows of the child chosen by a condition on its parent."""
        link = self.rng.choice(child.links)
        label = parent.label
        if label and self.rng.random() < 0.4:
            value = self.rng.choice(parent.values(label.name))
            said = self.rng.choice((str(value), f"the {parent.one} {value}", f"{parent.one} {value}"))
            where = f"{parent.table.name}.{label.name} = {sql_literal(value)}"
        else:
            condition = self.conditions.sample(parent)
            if condition is None:
                return None
            many = self.rng.choice(parent.many)
            said = f"{condition.before} {many}" if condition.before else f"{many} {condition.after}"
            where = condition.sql.format(q=parent.table.name + ".")
            if where.startswith("("):
                where = where[1:-1]
        many = self.rng.choice(child.many)
        return Scope(child, source, where, child.table.name + ".", f"{many} {link} {said}", f"{child.one} {link} {said}", many, "", parent)

    # -- words

    def _ask(self, kind: str, scope: Scope, *more: str, **slots: str) -> str:
        """One phrase of `kind`, or of one of the `more` specific kinds, filled in."""
        choices = [kind, *(k for k in more if k in self.phrasings)]
        weights = [len(self.phrasings[k]) if k == kind else 1.2 * len(self.phrasings[k]) + 4 for k in choices]
        chosen = self.rng.choices(choices, weights)[0]
        phrase = self.rng.choice(self.phrasings[chosen])
        if "much {c}" in phrase and slots.get("c", "").startswith("number of"):
            slots["c"] = slots["c"].removeprefix("number of ")
            phrase = phrase.replace("much", "many")
        words = {"N": scope.many, "S": scope.one, "T": scope.plain, "t": scope.entity.one, "p": scope.verb}
        return tidy(phrase.format(**{**words, **slots}), self.rng)

    def _say(self, target: Field) -> str:
        return self.rng.choice(target.attribute.says)

    def _say_many(self, target: Field) -> str:
        return self.rng.choice(target.attribute.all_plurals)

    def _measure(self, entity: Entity, sums: bool = False, whole: bool = False) -> Field | None:
        """A number field; `sums` wants one that can be added up, `whole` one without NULL."""
        fields = [f for f in entity.fields_with("number") if not sums or f.attribute.sums]
        fields = [f for f in fields if not (whole and f.has_nulls)]
        return self.rng.choice(fields) if fields else None

    def _group_field(self, entity: Entity) -> Field | None:
        """A field without NULL whose values repeat."""
        fields = [f for f in entity.fields_with("category", "label", "number", "year") if not f.has_nulls]
        rows = len(entity.table.rows)
        fields = [f for f in fields if 1 < len(set(entity.values(f.name))) <= rows * 0.6]
        fields = [f for f in fields if f.attribute.role in ("category", "label") or len(set(entity.values(f.name))) <= 7]
        return self.rng.choice(fields) if fields else None

    def _extreme(self, entity: Entity) -> tuple[Field, bool] | None:
        """A field to order by, and whether the top (True) or the bottom is wanted."""
        fields = [f for f in entity.fields_with("number", "year", "date") if not f.has_nulls]
        return (self.rng.choice(fields), self.rng.random() < 0.6) if fields else None

    def _by_adjective(self, target: Field, high: bool) -> str:
        words = target.attribute.most if high else target.attribute.least
        timely = target.attribute.role in ("year", "date")
        return self.rng.choice(words) if words and (timely or self.rng.random() < 0.55) else ""

    # -- kinds

    def _count(self) -> tuple[str, str] | None:
        scope = self._scope(none=0.12, join=0.22)
        if scope is None:
            return None
        predicate = ("count.predicate",) if scope.verb else ()
        return self._ask("count", scope, *predicate), scope.select("COUNT(*)")

    def _list(self) -> tuple[str, str] | None:
        scope = self._scope(none=0.06, two=0.25, join=0.12)
        if scope is None or scope.entity.label is None:
            return None
        more = (["list.label.predicate"] if scope.verb else []) + (["list.person"] if scope.entity.person else [])
        return self._ask("list.label", scope, *more), scope.select(scope.prefix + scope.entity.label.name)

    def _columns(self) -> tuple[str, str] | None:
        scope = self._scope(none=0.3, join=0.15)
        if scope is None or not scope.entity.fields:
            return None
        amount = min(self.rng.choice((1, 2, 2)), len(scope.entity.fields))
        fields = self.rng.sample(scope.entity.fields, amount)
        if scope.entity.label and amount == 2 and scope.entity.label not in fields:
            fields[0] = scope.entity.label
        one = " and ".join(self._say(f) for f in fields)
        many = " and ".join(self._say_many(f) for f in fields)
        return self._ask("list.columns", scope, l=one, L=many), scope.select(
            ", ".join(scope.prefix + f.name for f in fields)
        )

    def _lookup(self) -> tuple[str, str] | None:
        entity = self.rng.choice(self.world.entities)
        others = [f for f in entity.fields if f != entity.label]
        if entity.label is None or not others:
            return None
        target, value = self.rng.choice(others), self.rng.choice(entity.values(entity.label.name))
        scope = Scope(entity, entity.table.name, f"{entity.label.name} = {sql_literal(value)}", "", "", "", "")
        unit = ("lookup.unit",) if target.attribute.unit else ()
        question = self._ask("lookup", scope, *unit, c=self._say(target), x=str(value), u=target.attribute.unit or "")
        return question, scope.select(target.name)

    def _aggregate(self) -> tuple[str, str] | None:
        scope = self._scope(none=0.35, two=0.1, join=0.22)
        function = self.rng.choice(("avg", "avg", "sum", "sum", "min", "max"))
        if scope is None:
            return None
        timely = [f for f in scope.entity.fields_with("year", "date") if not f.has_nulls]
        if function in ("min", "max") and timely and self.rng.random() < 0.4:
            target = self.rng.choice(timely)
            kind, more = f"{function}.time", ()
        else:
            found = self._measure(scope.entity, sums=function == "sum")
            if found is None:
                return None
            target, kind = found, function
            more = (f"{function}.unit",) if found.attribute.unit else ()
        question = self._ask(kind, scope, *more, c=self._say(target), u=target.attribute.unit or "")
        return question, scope.select(f"{function.upper()}({scope.prefix}{target.name})")

    def _superlative(self) -> tuple[str, str] | None:
        scope = self._scope(none=0.55, two=0.03, join=0.06)
        extreme = self._extreme(scope.entity) if scope else None
        if scope is None or extreme is None:
            return None
        target, high = extreme
        adjective = self._by_adjective(target, high)
        if target.attribute.role != "number" and not adjective:
            return None
        way = "adjective" if adjective else "high" if high else "low"
        slots = {"c": self._say(target), "u": target.attribute.unit or "", "most": adjective}
        label = scope.entity.label
        if label is None or self.rng.random() < 0.22:
            others = [f for f in scope.entity.fields if f not in (label, target)]
            if not others:
                return None
            shown = [self.rng.choice(others)]
            if label and self.rng.random() < 0.4:
                shown = [label, self.rng.choice([shown[0], target])]
            question = self._ask(f"super.columns.{way}", scope, l=" and ".join(map(self._say, shown)), **slots)
        else:
            shown = [label]
            more = [f"super.person.{way}"] if scope.entity.person else []
            if target.attribute.unit and not adjective:
                more.append(f"super.{way}.unit")
            question = self._ask("super.adjective" if adjective else f"super.{way}", scope, *more, **slots)
        return question, scope.select(", ".join(scope.prefix + f.name for f in shown), self._order(scope, target, high, 1))

    def _order(self, scope: Scope, target: Field, high: bool, limit: int = 0) -> str:
        return f"ORDER BY {scope.prefix}{target.name}{' DESC' if high else ''}" + (f" LIMIT {limit}" if limit else "")

    def _top(self) -> tuple[str, str] | None:
        scope = self._scope(none=0.7, two=0, join=0)
        extreme = self._extreme(scope.entity) if scope else None
        if scope is None or extreme is None or scope.entity.label is None:
            return None
        target, high = extreme
        adjective, limit = self._by_adjective(target, high), self.rng.randint(2, 6)
        if target.attribute.role != "number" and not adjective:
            return None
        way = "high" if high else "low"
        more = (f"top.{way}.unit",) if target.attribute.unit and not adjective else ()
        question = self._ask("top.adjective" if adjective else f"top.{way}", scope, *more, c=self._say(target), most=adjective,
                             k=said_number(limit, self.rng, words=True), u=target.attribute.unit or "")  # fmt: skip
        return question, scope.select(scope.entity.label.name, self._order(scope, target, high, limit))

    def _sort(self) -> tuple[str, str] | None:
        scope = self._scope(none=0.75, two=0, join=0)
        extreme = self._extreme(scope.entity) if scope else None
        if scope is None or extreme is None or scope.entity.label is None:
            return None
        target, down = extreme
        attribute = target.attribute
        if self.rng.random() < 0.15 and target.type != "TEXT":
            label = scope.entity.label
            question = self._ask("sort.alphabet", scope, c=self._say(label))
            return question, scope.select(label.name, self._order(scope, label, False))
        if attribute.most and attribute.least and self.rng.random() < 0.5:
            first, last = (attribute.most, attribute.least) if down else (attribute.least, attribute.most)
            question = self._ask("sort.adjective", scope, most=self.rng.choice(first), least=self.rng.choice(last))
        elif attribute.role == "number":
            question = self._ask("sort.down" if down else "sort.up", scope, c=self._say(target))
        else:
            return None
        return question, scope.select(scope.entity.label.name, self._order(scope, target, down))

    def _distinct(self) -> tuple[str, str] | None:
        return self._different("distinct", "DISTINCT {}")

    def _count_distinct(self) -> tuple[str, str] | None:
        return self._different("count_distinct", "COUNT(DISTINCT {})")

    def _different(self, kind: str, what: str) -> tuple[str, str] | None:
        scope = self._scope(none=0.75, two=0, join=0.05)
        target = self._group_field(scope.entity) if scope else None
        if scope is None or target is None:
            return None
        plain = (f"{kind}.plain",) if not scope.where else ()
        question = self._ask(kind, scope, *plain, g=self._say(target), gs=self._say_many(target))
        return question, scope.select(what.format(scope.prefix + target.name))

    def _grouping(self) -> tuple[Scope, str, str, str] | None:
        """A scope, the column to group by, and that column said in the singular and in the plural."""
        found = self._join(0.35)
        if found:
            child, parent, source = found
            targets = [f for f in (parent.label, self._group_field(parent)) if f]
            if not targets:
                return None
            target, many = self.rng.choice(targets), self.rng.choice(child.many)
            if target == parent.label:
                one, plural = parent.one, self.rng.choice(parent.many)
            else:
                one, plural = self._say(target), self._say_many(target)
                if self.rng.random() < 0.5:
                    one, plural = f"{parent.one} {one}", f"{parent.one} {plural}"
            scope = Scope(child, source, "", child.table.name + ".", many, child.one, many, "", parent)
            return scope, f"{parent.table.name}.{target.name}", one, plural
        scope_or_none = self._scope(none=0.85, two=0, join=0)
        group = self._group_field(scope_or_none.entity) if scope_or_none else None
        if scope_or_none is None or group is None:
            return None
        return scope_or_none, group.name, self._say(group), self._say_many(group)

    def _group_count(self) -> tuple[str, str] | None:
        found = self._grouping()
        if found is None:
            return None
        scope, column, one, many = found
        return self._ask("group.count", scope, g=one, gs=many), scope.select(f"{column}, COUNT(*)", f"GROUP BY {column}")

    def _grouped_measure(self, column: str, scope: Scope, functions: tuple[str, ...]) -> tuple[str, Field] | None:
        function = self.rng.choice(functions)
        target = self._measure(scope.entity, sums=function == "sum", whole=True)
        return None if target is None or scope.prefix + target.name == column else (function, target)

    def _group_aggregate(self) -> tuple[str, str] | None:
        found = self._grouping()
        chosen = self._grouped_measure(found[1], found[0], ("avg", "avg", "sum", "sum", "max", "min")) if found else None
        if found is None or chosen is None:
            return None
        (scope, column, one, many), (function, target) = found, chosen
        plain = () if scope.where else (f"group.{function}.plain",)
        question = self._ask(f"group.{function}", scope, *plain, g=one, gs=many, c=self._say(target))
        return question, scope.select(f"{column}, {function.upper()}({scope.prefix}{target.name})", f"GROUP BY {column}")

    def _group_top(self) -> tuple[str, str] | None:
        found = self._grouping()
        if found is None:
            return None
        scope, column, one, many = found
        high = self.rng.random() < 0.65
        way, measure, kind, said = "high" if high else "low", "COUNT(*)", "count", ""
        if self.rng.random() < 0.45:
            chosen = self._grouped_measure(column, scope, ("avg", "sum"))
            if chosen is None:
                return None
            kind, said = chosen[0], self._say(chosen[1])
            measure = f"{kind.upper()}({scope.prefix}{chosen[1].name})"
        question = self._ask(f"grouptop.{kind}.{way}", scope, g=one, gs=many, c=said)
        order = f"ORDER BY {measure}{' DESC' if high else ''} LIMIT 1"
        return question, scope.select(column, f"GROUP BY {column} {order}")

    def _having(self) -> tuple[str, str] | None:
        found = self._grouping()
        if found is None:
            return None
        scope, column, one, many = found
        if self.rng.random() < 0.65:
            sign, kind = self.rng.choice(((">", "more"), (">", "more"), (">=", "atleast"), ("<", "less")))
            limit = self.rng.randint(1, 8) + (kind == "less")
            question = self._ask(f"having.{kind}", scope, g=one, gs=many, k=said_number(limit, self.rng, words=True))
            return question, scope.select(column, f"GROUP BY {column} HAVING COUNT(*) {sign} {limit}")
        chosen = self._grouped_measure(column, scope, ("avg", "sum"))
        if chosen is None:
            return None
        function, target = chosen
        values = scope.entity.values(target.name)
        middle = sum(values) / len(values) * (1 if function == "avg" else max(1, len(values) // 5))
        step = 10 ** max(0, len(str(int(abs(middle)))) - 2)
        limit = int(middle // step * step)
        sign, kind = self.rng.choice(((">", "more"), (">", "more"), ("<", "less")))
        question = self._ask(f"having.{function}.{kind}", scope, g=one, gs=many, c=self._say(target), v=said_number(limit, self.rng))
        measure = f"{function.upper()}({scope.prefix}{target.name})"
        return question, scope.select(column, f"GROUP BY {column} HAVING {measure} {sign} {limit}")

    def _plain_join(self) -> tuple[Scope, Entity, Field] | None:
        found = self._join(1.0)
        if found is None or found[1].label is None:
            return None
        child, parent, source = found
        many = self.rng.choice(child.many)
        return Scope(child, source, "", child.table.name + ".", many, child.one, many, "", parent), parent, found[1].label

    def _pairs(self) -> tuple[str, str] | None:
        found = self._plain_join()
        if found is None or found[0].entity.label is None:
            return None
        scope, parent, label = found
        own = scope.entity.label
        assert own is not None
        question = self._ask("pairs", scope, l=self._say(own), pt=parent.one, pl=self._say(label))
        return question, scope.select(f"{scope.prefix}{own.name}, {parent.table.name}.{label.name}")

    def _join_superlative(self) -> tuple[str, str] | None:
        found = self._plain_join()
        extreme = self._extreme(found[0].entity) if found else None
        if found is None or extreme is None:
            return None
        (scope, parent, label), (target, high) = found, extreme
        adjective = self._by_adjective(target, high)
        if target.attribute.role != "number" and not adjective:
            return None
        way = "adjective" if adjective else "high" if high else "low"
        question = self._ask(f"joinsuper.{way}", scope, pt=parent.one, c=self._say(target), most=adjective)
        return question, scope.select(f"{parent.table.name}.{label.name}", self._order(scope, target, high, 1))

    def _join_list(self) -> tuple[str, str] | None:
        found = self._plain_join()
        condition = self.conditions.sample(found[0].entity) if found else None
        if found is None or condition is None:
            return None
        scope, parent, label = found
        said = f"{condition.before} {scope.plain}" if condition.before else f"{scope.plain} {condition.after}"
        where = condition.sql.format(q=scope.prefix)
        asked = Scope(scope.entity, scope.source, where.strip("()") if where[0] == "(" else where, scope.prefix, said, said, said)
        question = self._ask("joinlist", asked, pt=parent.one, PT=self.rng.choice(parent.many))
        return question, asked.select(f"DISTINCT {parent.table.name}.{label.name}")
