"""Questions answered group by group or across two tables: per, most of, having, and joins that show the parent."""

from __future__ import annotations

from dataclasses import dataclass

from course.sql.lexicon import Field
from course.sql.saying import said_number
from course.sql.scopes import Scope
from course.sql.wording import Asked, Asker


@dataclass(frozen=True)
class Grouping:
    """A scope, the column its rows are grouped by, and that column in the singular and the plural."""

    scope: Scope
    column: str
    one: str
    many: str

    def select(self, what: str, tail: str = "") -> str:
        """The grouped query."""
        return self.scope.select(what, f"GROUP BY {self.column}{' ' + tail if tail else ''}")


class GroupQuestions(Asker):
    """One method for each kind; each draws its own scope."""

    def _grouping(self) -> Grouping | None:
        join = self.scopes.join(0.42)
        if join:
            parent = join.parent
            targets = [f for f in (parent.label, self.group_field(parent)) if f]
            if not targets:
                return None
            target = self.rng.choice(targets)
            one, many = self.say(target), self.say_many(target)
            if target == parent.label and self.rng.random() < 0.6:
                one, many = parent.one, self.rng.choice(parent.many)
            elif self.rng.random() < 0.5 and parent.one not in one:
                one, many = f"{parent.one} {one}", f"{parent.one} {many}"
            return Grouping(self.scopes.plain_join(join), join.parent_column(target), one, many)
        scope = self.scopes.scope(none=0.85, two=0, join=0)
        group = self.group_field(scope.entity) if scope else None
        if scope is None or group is None or group.name in scope.where:
            return None
        return Grouping(scope, group.name, self.say(group), self.say_many(group))

    def _measured(self, group: Grouping, functions: tuple[str, ...]) -> tuple[str, Field, str] | None:
        """A function, the column it is of, and the SQL of both."""
        function = self.rng.choice(functions)
        target = self.measure(group.scope.entity, sums=function == "sum", whole=True)
        if target is None or group.scope.prefix + target.name == group.column:
            return None
        return function, target, f"{function.upper()}({group.scope.prefix}{target.name})"

    def group_count(self) -> Asked:
        """How many rows in each group."""
        group = self._grouping()
        if group is None:
            return None
        question = self.ask("group.count", group.scope, g=group.one, gs=group.many)
        return question, group.select(f"{group.column}, COUNT(*)")

    def group_aggregate(self) -> Asked:
        """AVG, SUM, MIN or MAX in each group."""
        group = self._grouping()
        found = self._measured(group, ("avg", "avg", "sum", "sum", "max", "min")) if group else None
        if group is None or found is None:
            return None
        function, target, measure = found
        more = [] if group.scope.where else [f"group.{function}.plain"]
        question = self.ask(f"group.{function}", group.scope, more, g=group.one, gs=group.many, c=self.say(target))
        return question, group.select(f"{group.column}, {measure}")

    def group_top(self) -> Asked:
        """The group with the most rows, or the highest average or total."""
        group = self._grouping()
        if group is None:
            return None
        high = self.rng.random() < 0.65
        way, measure, kind, said = "high" if high else "low", "COUNT(*)", "count", ""
        if self.rng.random() < 0.5:
            found = self._measured(group, ("avg", "sum"))
            if found is None:
                return None
            kind, said, measure = found[0], self.say(found[1]), found[2]
        question = self.ask(f"grouptop.{kind}.{way}", group.scope, g=group.one, gs=group.many, c=said)
        return question, group.select(group.column, self.order(measure, high, 1))

    def having(self) -> Asked:
        """Groups chosen by their number of rows, or by an average or total."""
        group = self._grouping()
        if group is None:
            return None
        words = {"g": group.one, "gs": group.many}
        if self.rng.random() < 0.6:
            kinds = ((">", "more"), (">", "more"), (">=", "atleast"), ("<", "less"), ("=", "exactly"))
            sign, kind = self.rng.choice(kinds)
            limit = self.rng.randint(1, 8) + (kind == "less")
            words["k"] = said_number(limit, self.rng, words=True)
            return self.ask(f"having.{kind}", group.scope, **words), group.select(
                group.column, f"HAVING COUNT(*) {sign} {limit}"
            )
        found = self._measured(group, ("avg", "sum"))
        if found is None:
            return None
        function, target, measure = found
        values = group.scope.entity.values(target.name)
        middle = sum(values) / len(values) * (1 if function == "avg" else max(1, len(values) // 5))
        step = 10 ** max(0, len(str(int(abs(middle)))) - 2)
        limit = int(middle // step * step)
        sign, kind = self.rng.choice(((">", "more"), (">", "more"), ("<", "less")))
        words |= {"c": self.say(target), "v": said_number(limit, self.rng)}
        question = self.ask(f"having.{function}.{kind}", group.scope, **words)
        return question, group.select(group.column, f"HAVING {measure} {sign} {limit}")

    def pairs(self) -> Asked:
        """Each child with its parent."""
        join = self.scopes.join(1.0)
        if join is None or join.parent.label is None or join.child.label is None:
            return None
        scope, own, label = self.scopes.plain_join(join), join.child.label, join.parent.label
        question = self.ask("pairs", scope, l=self.say(own), pt=join.parent.one, pl=self.say(label))
        return question, scope.select(f"{scope.prefix}{own.name}, {join.parent_column(label)}")

    def join_superlative(self) -> Asked:
        """The parent of the child with the most or the least."""
        join = self.scopes.join(1.0)
        extreme = self.extreme(join.child) if join else None
        if join is None or extreme is None or join.parent.label is None:
            return None
        target, high, adjective = extreme
        way = "adjective" if adjective else "high" if high else "low"
        scope = self.scopes.plain_join(join)
        question = self.ask(f"joinsuper.{way}", scope, pt=join.parent.one, c=self.say(target), most=adjective)
        tail = self.order(scope.prefix + target.name, high, 1)
        return question, scope.select(join.parent_column(join.parent.label), tail)

    def join_list(self) -> Asked:
        """Parents that have a child under some condition, each once."""
        join = self.scopes.join(1.0)
        scope = self.scopes.child_condition(join) if join else None
        if join is None or scope is None or join.parent.label is None:
            return None
        question = self.ask("joinlist", scope, pt=join.parent.one, PT=self.rng.choice(join.parent.many))
        return question, scope.select(f"DISTINCT {join.parent_column(join.parent.label)}")
