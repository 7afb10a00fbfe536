"""An example as chat messages: the schema in one line a table, the question, and bare SQL as the answer.

Tokens are the budget of a run on a CPU, so the prompt is as short as the task allows: column types are left out,
and the system turn is one word (without any, SmolLM2's chat template puts its own of some 20 tokens there). A
model that was not tuned needs to be told what to do, so zero-shot and few-shot prompts carry an instruction.
"""

from __future__ import annotations

from collections.abc import Sequence

from course.sql.examples import SqlExample

TUNED_SYSTEM = "SQLite"
INSTRUCTION = (
    "You write SQLite queries. You are given the tables of a database as table(column, column) and a question. "
    "Answer with one SQL query and nothing else."
)


def question_turn(example: SqlExample) -> str:
    """What the user says: the schema's tables, one a line, then the question."""
    return f"{example.schema_text}\n{example.question}"


def to_messages(
    example: SqlExample,
    with_answer: bool = True,
    shots: Sequence[SqlExample] = (),
    system: str = TUNED_SYSTEM,
) -> list[dict[str, str]]:
    """Chat messages: system, then user and assistant for each shot, then the example, its answer if wanted.

    Train and test the tuned model with the default `system`; prompt an untuned one with `system=INSTRUCTION`.
    """
    messages = [{"role": "system", "content": system}]
    for shot in shots:
        messages.append({"role": "user", "content": question_turn(shot)})
        messages.append({"role": "assistant", "content": shot.sql})
    messages.append({"role": "user", "content": question_turn(example)})
    if with_answer:
        messages.append({"role": "assistant", "content": example.sql})
    return messages
