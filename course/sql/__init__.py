"""Text-to-SQL: the dataset `sql`, its seeded generator, its prompts and its executed-result scoring."""

from course.sql.examples import SqlExample, load_examples
from course.sql.prompt import INSTRUCTION, TUNED_SYSTEM, to_messages
from course.sql.schemas import Schema, load_schema, load_schemas
from course.sql.score import SqlScore, bootstrap_interval, score, score_all

__all__ = [
    "INSTRUCTION",
    "TUNED_SYSTEM",
    "Schema",
    "SqlExample",
    "SqlScore",
    "bootstrap_interval",
    "load_examples",
    "load_schema",
    "load_schemas",
    "score",
    "score_all",
    "to_messages",
]
