"""Questions answered by rows or by one number: count, list, look up, add up, find the most."""

from __future__ import annotations

from course.sql.lexicon import Field
from course.sql.saying import said_number, sql_literal
from course.sql.scopes import Scope
from course.sql.wording import Asked, Asker


class RowQuestions(Asker):
    """One method for each kind; each draws its own scope."""

    def count(self) -> Asked:
        """COUNT(*)."""
        scope = self.scopes.scope(none=0.12, two=0.2, join=0.25)
        if scope is None:
            return None
        return self.ask("count", scope, ["count.predicate"] if scope.verb else []), scope.select("COUNT(*)")

    def names(self) -> Asked:
        """The label column of the rows meant."""
        scope = self.scopes.scope(none=0.06, two=0.25, join=0.15)
        label = scope.entity.label if scope else None
        if scope is None or label is None or f"{scope.prefix}{label.name} = " in scope.where:
            return None
        more = (["list.label.predicate"] if scope.verb else []) + (["list.person"] if scope.entity.person else [])
        question = self.ask("list.label", scope, more)
        if self.rng.random() < 0.14:
            tail = self.rng.choice(self.phrasings["tail.label"])
            mark = "." if tail.startswith("{q} ") and not tail.startswith("{q} (") else ""
            body = question if question.endswith("?") and mark else question.rstrip("?.") + mark
            question = tail.format(q=body, L=self.say_many(label), l=self.say(label))
        return question, scope.select(scope.prefix + label.name)

    def columns(self) -> Asked:
        """One or two named columns of the rows meant."""
        scope = self.scopes.scope(none=0.25, two=0.15, join=0.15)
        if scope is None or not scope.entity.fields:
            return None
        label, fields = scope.entity.label, list(scope.entity.fields)
        others = [f for f in fields if f != label]
        if label and others and self.rng.random() < 0.5:
            shown = [label, self.rng.choice(others)]
        else:
            shown = self.rng.sample(fields, min(self.rng.choice((1, 1, 2)), len(fields)))
        what = ", ".join(scope.prefix + f.name for f in shown)
        if len(shown) == 2 and shown[0] == label and self.rng.random() < 0.4:
            return self.ask("list.with", scope, l=self.say(shown[1]), L=self.say_many(shown[1])), scope.select(what)
        one, many = (" and ".join(map(say, shown)) for say in (self.say, self.say_many))
        return self.ask("list.columns", scope, l=one, L=many), scope.select(what)

    def lookup(self) -> Asked:
        """One column of the row that bears a name."""
        entity = self.rng.choice(self.world.entities)
        label, others = entity.label, [f for f in entity.fields if f != entity.label]
        if label is None or not others:
            return None
        target, value = self.rng.choice(others), self.rng.choice(entity.values(label.name))
        attribute = target.attribute
        scope = Scope(entity, entity.table.name, f"{label.name} = {sql_literal(value)}", "", "", "", "")
        more = ["lookup.unit"] if attribute.unit else ["lookup.who"] if attribute.people else []
        verbs = [v for v in attribute.verbs if " " not in v and not v.endswith("ing")]
        more += ["lookup.when"] if verbs and attribute.role == "year" else []
        verb = self.rng.choice(verbs) if verbs else ""
        question = self.ask("lookup", scope, more, c=self.say(target), x=str(value), u=attribute.unit or "", verb=verb)
        return question, scope.select(target.name)

    def aggregate(self) -> Asked:
        """AVG, SUM, MIN or MAX of one column."""
        scope = self.scopes.scope(none=0.3, two=0.1, join=0.27)
        function = self.rng.choice(("avg", "avg", "sum", "sum", "min", "max"))
        if scope is None:
            return None
        timely = [f for f in scope.entity.fields_with("year", "date") if not f.has_nulls]
        if function in ("min", "max") and timely and self.rng.random() < 0.3:
            target, kind, more = self.rng.choice(timely), f"{function}.time", []
        else:
            found = self.measure(scope.entity, sums=function == "sum")
            if found is None:
                return None
            target, kind, more = found, function, [f"{function}.unit"] if found.attribute.unit else []
        attribute = target.attribute
        words = {"max": attribute.most, "min": attribute.least}.get(function, ())
        if words and kind == function:
            more += [f"{function}.adjective"] + ([f"{function}.adjective.unit"] if attribute.unit else [])
        ranked = self.rng.choice(words) if words else ""
        slots = {"c": self.say(target), "u": attribute.unit or "", "most": ranked, "least": ranked}
        return self.ask(kind, scope, more, **slots), scope.select(f"{function.upper()}({scope.prefix}{target.name})")

    def superlative(self) -> Asked:
        """The row with the most or the least: ORDER BY ... LIMIT 1."""
        scope = self.scopes.scope(none=0.55, two=0.03, join=0.08)
        extreme = self.extreme(scope.entity) if scope else None
        if scope is None or extreme is None:
            return None
        target, high, adjective = extreme
        way = "adjective" if adjective else "high" if high else "low"
        slots = {"c": self.say(target), "u": target.attribute.unit or "", "most": adjective}
        shown = self._shown(scope, target)
        if not shown:
            return None
        tail = self.order(scope.prefix + target.name, high, 1)
        sql = scope.select(", ".join(scope.prefix + f.name for f in shown), tail)
        if shown != [scope.entity.label]:
            said = " and ".join(map(self.say, shown))
            return self.ask(f"super.columns.{way}", scope, l=said, **slots), sql
        more = [f"super.person.{way}"] if scope.entity.person else []
        if target.attribute.unit and not adjective:
            more.append(f"super.{way}.unit")
        return self.ask("super.adjective" if adjective else f"super.{way}", scope, more, **slots), sql

    def _shown(self, scope: Scope, target: Field) -> list[Field]:
        """What a superlative shows: mostly the label, at times other columns."""
        label = scope.entity.label
        others = [f for f in scope.entity.fields if f not in (label, target)]
        if label and (not others or self.rng.random() < 0.78):
            return [label]
        if label and self.rng.random() < 0.4:
            return [label, self.rng.choice([*others, target])]
        return [self.rng.choice(others)] if others else []

    def top(self) -> Asked:
        """The first few rows by a column."""
        scope = self.scopes.scope(none=0.7, two=0, join=0)
        extreme = self.extreme(scope.entity) if scope else None
        if scope is None or extreme is None or scope.entity.label is None:
            return None
        (target, high, adjective), limit = extreme, self.rng.randint(2, 6)
        way = "high" if high else "low"
        more = [f"top.{way}.unit"] if target.attribute.unit and not adjective else []
        slots = {"c": self.say(target), "u": target.attribute.unit or "", "most": adjective}
        slots["k"] = said_number(limit, self.rng, words=True)
        question = self.ask("top.adjective" if adjective else f"top.{way}", scope, more, **slots)
        return question, scope.select(scope.entity.label.name, self.order(target.name, high, limit))

    def sort(self) -> Asked:
        """All rows in an order."""
        scope = self.scopes.scope(none=0.75, two=0, join=0)
        extreme = self.extreme(scope.entity) if scope else None
        if scope is None or extreme is None or scope.entity.label is None:
            return None
        (target, down, _), label = extreme, scope.entity.label
        if self.rng.random() < 0.15 and label.type == "TEXT":
            return self.ask("sort.alphabet", scope, c=self.say(label)), scope.select(
                label.name, self.order(label.name, False)
            )
        most, least = target.attribute.most, target.attribute.least
        if most and least and (target.attribute.role != "number" or self.rng.random() < 0.5):
            first, last = (most, least) if down else (least, most)
            question = self.ask("sort.adjective", scope, most=self.rng.choice(first), least=self.rng.choice(last))
        else:
            question = self.ask("sort.down" if down else "sort.up", scope, c=self.say(target))
        return question, scope.select(label.name, self.order(target.name, down))

    def distinct(self) -> Asked:
        """The different values of a column."""
        return self._different("distinct", "DISTINCT {}")

    def count_distinct(self) -> Asked:
        """How many different values a column has."""
        return self._different("count_distinct", "COUNT(DISTINCT {})")

    def _different(self, kind: str, what: str) -> Asked:
        scope = self.scopes.scope(none=0.75, two=0, join=0.05)
        target = self.group_field(scope.entity) if scope else None
        if scope is None or target is None or target.name in scope.where:
            return None
        more = [f"{kind}.plain"] if not scope.where else []
        question = self.ask(kind, scope, more, g=self.say(target), gs=self.say_many(target))
        return question, scope.select(what.format(scope.prefix + target.name))
