"""Make question-and-query rows from the seeded grammar: the training set, or a fresh hidden test set.

    python -m course.sql.generate --seed 7 --rows 3600 --out train.jsonl
    python -m course.sql.generate --seed <secret> --rows 300 --out hidden.jsonl --split hidden

The same seed gives the same bytes. An instructor's secret seed draws phrasings, schemas and constants that no
learner has seen. Every query is run when it is made; one that fails or returns nothing is drawn again.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from course.sql.examples import handwritten_rows, load_examples, normal_question
from course.sql.lexicon import World, describe, load_lexicon, load_phrasings
from course.sql.made_worlds import make_world
from course.sql.questions import QuestionSampler
from course.sql.schemas import Schema, connect, load_schemas
from course.sql.stability import result_problem
from course.sql.variants import vary

SHARE_SHIPPED = 0.50
SHARE_VARIED = 0.20
# Training rows come in runs that ask about one schema: a batch that holds a run computes the schema's tokens once.
ROWS_PER_SCHEMA = 4
TRIES_PER_SCHEMA = 40
TRIES_PER_ROW = 200


class Generator:
    """Draws rows; row `i` depends on the seed, on `i` and on the rows before it (no question is asked twice).

    ROWS_PER_SCHEMA rows in a row share their schema, unless it has no new question left.
    """

    def __init__(self, seed: int, split: str) -> None:
        self.seed = seed
        self.split = split
        self.lexicon = load_lexicon()
        self.phrasings = load_phrasings()
        shipped = load_schemas().values()
        self.seen = [describe(s, self.lexicon) for s in shipped if s.split == "seen"]
        self.heldout = [describe(s, self.lexicon) for s in shipped if s.split == "heldout"]

    def _world(self, index: int, attempt: int) -> World:
        block = (index - 1) // ROWS_PER_SCHEMA + 1 if self.split == "train" else index
        rng = random.Random(f"{self.split}/{self.seed}/schema/{block}/{attempt // TRIES_PER_SCHEMA}")
        draw = rng.random()
        if self.split == "hidden":
            return rng.choice(self.heldout if draw < 0.4 else self.seen)
        if draw < SHARE_SHIPPED:
            return rng.choice(self.seen)
        if draw < SHARE_SHIPPED + SHARE_VARIED:
            varied = vary(rng.choice(self.seen), rng)
            return World(replace(varied.schema, name=f"varied-{block:04d}"), varied.entities)
        return make_world(self.lexicon, rng, f"made-{block:04d}")

    def rows(self, count: int) -> Iterator[tuple[dict[str, Any], Schema]]:
        """`count` rows, each with the database its query was run on."""
        taken = {normal_question(row["question"]) for row in handwritten_rows()}
        if self.split == "hidden":
            taken |= {normal_question(e.question) for e in load_examples("train")}
        for index in range(1, count + 1):
            row, schema = self._row(index, taken)
            taken.add(normal_question(row["question"]))
            yield row, schema

    def _row(self, index: int, taken: set[str]) -> tuple[dict[str, Any], Schema]:
        rng = random.Random(f"{self.split}/{self.seed}/{index}")
        for attempt in range(TRIES_PER_ROW):
            world = self._world(index, attempt)
            drawn = QuestionSampler(world, self.phrasings, rng).sample()
            if drawn is None or normal_question(drawn[0]) in taken:
                continue
            if self._bad(world.schema, drawn[1]):
                continue
            question, sql = drawn
            row: dict[str, Any] = {"id": f"sql-{self.split}-{index:04d}", "schema": world.schema.name}
            if self.split == "train":
                row["schema_text"] = world.schema.text
            return {**row, "question": question, "sql": sql, "split": self._split_of(world.schema)}, world.schema
        raise RuntimeError(
            f"row {index}: no new question in {TRIES_PER_ROW} tries; ask for fewer rows, or add phrases to "
            "datasets/sql/phrasings.json"
        )

    def _split_of(self, schema: Schema) -> str:
        return "train" if self.split == "train" else schema.split

    def _bad(self, schema: Schema, sql: str) -> bool:
        connection = connect(schema)
        try:
            rows = connection.execute(sql).fetchall()
        except sqlite3.Error as error:
            raise RuntimeError(f"the grammar wrote a query that SQLite refuses ({error}): {sql}") from error
        finally:
            connection.close()
        if not rows or rows == [(None,)]:
            return True
        return self.split == "hidden" and result_problem(schema, sql) is not None


def as_lines(rows: Iterable[dict[str, Any]]) -> bytes:
    """JSONL: one row a line, UTF-8, a newline at the end of each."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8")


def write_rows(rows: Iterable[dict[str, Any]], path: Path) -> None:
    """Write JSONL."""
    path.write_bytes(as_lines(rows))


def generate(seed: int, count: int, split: str = "train") -> list[dict[str, Any]]:
    """The rows of one seed. Split is `train` or `hidden`."""
    return [row for row, _ in Generator(seed, split).rows(count)]


def main(arguments: list[str] | None = None) -> None:
    """Command line entrance."""
    parser = argparse.ArgumentParser(prog="python -m course.sql.generate", description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--split", choices=("train", "hidden"), default="train")
    chosen = parser.parse_args(arguments)
    if chosen.rows < 1:
        parser.error(f"--rows must be at least 1; got {chosen.rows}")
    write_rows(generate(chosen.seed, chosen.rows, chosen.split), chosen.out)
    print(f"wrote {chosen.rows} {chosen.split} rows of seed {chosen.seed} to {chosen.out}")


if __name__ == "__main__":
    main()
