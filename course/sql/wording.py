"""From a kind of question and its slots to a sentence, in one of the hand-written phrasings."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from course.sql.lexicon import Entity, Field, World
from course.sql.saying import Phrasings
from course.sql.scopes import Scope, ScopeSampler

MOST_GROUPS = 7  # a number column with more distinct values is a measure, not a group

Asked = tuple[str, str] | None  # a question and its SQL, or None when this world cannot be asked it


def tidy(text: str, rng: random.Random) -> str:
    """Repair articles and spaces, then vary capitals and the mark at the end as people do."""
    text = re.sub(r"\b([Aa]) (?=[aeioAEIO])", r"\1n ", text)
    text = re.sub(r"\ban? (number of|hours|grams|minutes|days)\b", r"the \1", text)
    text = re.sub(r"\s+", " ", text).replace("the the ", "the ").replace("all all ", "all ").strip()
    if rng.random() < 0.75:
        text = text[0].upper() + text[1:]
    elif not text[:2].isupper():
        text = text[0].lower() + text[1:]
    draw = rng.random()
    if draw < 0.14:
        text = text.rstrip("?.")
    elif draw < 0.18 and text.endswith("."):
        text = f"{text[:-1]} please."
    return text


class Asker:
    """What every kind of question needs: scopes, words for columns, and phrasings."""

    def __init__(self, world: World, phrasings: Phrasings, rng: random.Random) -> None:
        self.phrasings = phrasings
        self.rng = rng
        self.scopes = ScopeSampler(world, phrasings, rng)
        self.world = world

    def ask(self, kind: str, scope: Scope, more: Sequence[str] = (), **slots: str) -> str:
        """One phrase of `kind`, or of one of the `more` specific kinds, filled in."""
        choices = [kind, *more]
        weights = [len(self.phrasings[k]) if k == kind else len(self.phrasings[k]) + 4 for k in choices]
        phrase = self.rng.choice(self.phrasings[self.rng.choices(choices, weights)[0]])
        if "much {c}" in phrase and slots["c"].startswith("number of"):
            phrase = phrase.replace("much {c}", "many {c}")
            slots["c"] = slots["c"].removeprefix("number of ")
        words = {"N": scope.many, "S": scope.one, "T": scope.plain, "t": scope.entity.one, "p": scope.verb}
        return tidy(phrase.format(**{**words, **slots}), self.rng)

    def say(self, target: Field) -> str:
        """The column in the singular."""
        return self.rng.choice(target.attribute.says)

    def say_many(self, target: Field) -> str:
        """The column in the plural."""
        return self.rng.choice(target.attribute.all_plurals)

    def measure(self, entity: Entity, sums: bool = False, whole: bool = False) -> Field | None:
        """A number column; `sums` wants one that can be added up, `whole` one without NULL."""
        fields = [f for f in entity.fields_with("number") if f.attribute.sums or not sums]
        fields = [f for f in fields if not (whole and f.has_nulls)]
        return self.rng.choice(fields) if fields else None

    def group_field(self, entity: Entity) -> Field | None:
        """A column without NULL whose values repeat."""

        def fits(target: Field) -> bool:
            different = len(set(entity.values(target.name)))
            many = different > MOST_GROUPS and target.attribute.role in ("number", "year")
            return 1 < different <= len(entity.table.rows) * 0.6 and not many

        fields = [f for f in entity.fields_with("category", "label", "number", "year") if not f.has_nulls and fits(f)]
        return self.rng.choice(fields) if fields else None

    def extreme(self, entity: Entity) -> tuple[Field, bool, str] | None:
        """A column to order by, whether its top is wanted, and an adjective for that ("longest") or ""."""
        fields = [f for f in entity.fields_with("number", "year", "date") if not f.has_nulls]
        if not fields:
            return None
        target, high = self.rng.choice(fields), self.rng.random() < 0.6
        words = target.attribute.most if high else target.attribute.least
        timely = target.attribute.role in ("year", "date")
        if timely and not words:
            return None
        return target, high, self.rng.choice(words) if words and (timely or self.rng.random() < 0.55) else ""

    @staticmethod
    def order(column: str, high: bool, limit: int = 0) -> str:
        """An ORDER BY clause, with a LIMIT unless that is 0."""
        return f"ORDER BY {column}{' DESC' if high else ''}" + (f" LIMIT {limit}" if limit else "")
