"""The chat form of an example, its kinds, and its cost in tokens."""

from __future__ import annotations

import pytest

from course.sql import INSTRUCTION, load_examples, to_messages
from course.sql.kinds import KINDS, kind_of

EXAMPLE, SHOT = load_examples("test", schemas=["gym"])[:2]


def test_tuned_prompt_is_schema_then_question_and_the_answer_is_bare_sql():
    system, user, answer = to_messages(EXAMPLE)
    assert system == {"role": "system", "content": "SQLite"}
    assert user["content"].splitlines()[-1] == EXAMPLE.question
    assert user["content"].startswith("members(name, age, plan, city, monthly_fee, visits, trainer)\n")
    assert answer == {"role": "assistant", "content": EXAMPLE.sql}


def test_prompt_for_generation_has_no_answer():
    assert [m["role"] for m in to_messages(EXAMPLE, with_answer=False)] == ["system", "user"]


def test_few_shot_prompt_shows_solved_examples_first():
    messages = to_messages(EXAMPLE, with_answer=False, shots=[SHOT, SHOT], system=INSTRUCTION)
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert messages[0]["content"] == INSTRUCTION
    assert messages[2]["content"] == SHOT.sql


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ("SELECT COUNT(*) FROM t", "count"),
        ("SELECT a FROM t", "list"),
        ("SELECT a FROM t WHERE b = 'JOIN ORDER BY'", "filter"),
        ("SELECT a FROM t WHERE b > 1 AND c < 2", "two conditions"),
        ("SELECT a FROM t WHERE b BETWEEN 1 AND 2", "between"),
        ("SELECT a FROM t ORDER BY b ASC LIMIT 1", "superlative"),
        ("SELECT t.a, COUNT(*) FROM t JOIN s ON t.i = s.i GROUP BY t.a", "join"),
        ("SELECT a FROM t GROUP BY a HAVING COUNT(*) > 2", "having"),
        ("SELECT a FROM t WHERE b IS NOT NULL", "null"),
    ],
)
def test_kind_is_read_from_the_query(sql, kind):
    assert kind_of(sql) == kind
    assert kind in KINDS


@pytest.mark.slow
def test_a_training_row_costs_at_most_85_tokens_on_average():
    from course.base_model import load_tokenizer

    tokenizer = load_tokenizer()
    rows = load_examples("train")
    tokens = [len(tokenizer.apply_chat_template(to_messages(e), tokenize=True)["input_ids"]) for e in rows]
    assert 50 < sum(tokens) / len(tokens) < 85
    assert sum(tokens) < 300_000
