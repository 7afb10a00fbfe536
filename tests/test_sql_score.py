"""Executed-result scoring: what counts as right, what each wrong answer is called, and what cannot be done to us."""

from __future__ import annotations

import pytest

from course.sql import bootstrap_interval, load_examples, load_schema, score, score_all
from course.sql.results import is_ordered, same_result
from course.sql.score import first_statement

GYM = load_schema("gym")
COUNT = "SELECT COUNT(*) FROM members WHERE age > 40"


def judge(text: str, gold: str = COUNT):
    return score(text, gold, GYM)


@pytest.mark.parametrize(
    "text",
    [
        COUNT,
        "select count(name) from members where not age <= 40",
        f"```sql\n{COUNT};\n```\nThis counts the members.",
        f"SQL: {COUNT}; DROP TABLE members",
        f"Here is the query:\n{COUNT}\n\nIt counts.",
        f"{COUNT}<|im_end|>",
        "WITH old AS (SELECT * FROM members WHERE age > 40) SELECT COUNT(*) FROM old",
    ],
)
def test_same_result_is_right_however_it_is_written(text):
    assert judge(text).outcome == "correct", judge(text)


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("SELECT COUNT(*) FROM members", "wrong result"),
        ("SELECT years FROM members", "unknown column or table"),
        ("SELECT COUNT(*) FROM people", "unknown column or table"),
        ("SELECT COUNT( FROM members", "does not parse"),
        ("DELETE FROM members", "not a SELECT"),
        ("There are some members over forty.", "not a SELECT"),
        ("", "empty"),
        ("```sql\n```", "empty"),
        ("SELECT load_extension('x')", "refused"),
        ("SELECT * FROM pragma_database_list", "refused"),
        ("SELECT zeroblob(900000000)", "refused"),
        (f"SELECT {', '.join(['zeroblob(9000)'] * 40)} FROM members", "refused"),
        (f"SELECT '{'x' * 20_000}'", "refused"),
        ("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n", "timed out"),
        ("SELECT a.age FROM members a, members b, members c", "wrong result"),
        ("SELECT 'a\x00b'", "does not parse"),
        ("SELECT '\ud800'", "does not parse"),
    ],
)
def test_each_wrong_answer_has_its_name(text, outcome):
    found = judge(text)
    assert (found.outcome, found.correct) == (outcome, False), found
    assert found.message


def test_writes_do_not_reach_the_next_answer():
    for text in (
        "WITH x AS (SELECT 1) DELETE FROM members",
        "WITH x AS (SELECT 1) INSERT INTO members SELECT * FROM members",
    ):
        assert judge(text).outcome == "refused"
    assert judge(COUNT).correct


def test_attach_cannot_make_a_file(tmp_path):
    target = tmp_path / "made.db"
    assert not judge(f"ATTACH '{target}' AS other").correct
    assert not target.exists()


def test_order_matters_only_when_gold_asks_for_it():
    ascending, descending = ("SELECT name FROM members ORDER BY age", "SELECT name FROM members ORDER BY age DESC")
    assert judge(descending, "SELECT name FROM members").correct
    assert judge(descending, ascending).outcome == "wrong result"


def test_columns_count_in_the_order_selected():
    assert not judge("SELECT age, name FROM members", "SELECT name, age FROM members").correct


def test_rows_count_as_often_as_they_come():
    assert not judge("SELECT DISTINCT plan FROM members", "SELECT plan FROM members").correct


def test_numbers_compare_with_tolerance_and_text_exactly():
    assert judge("SELECT SUM(age) * 1.0 / COUNT(*) FROM members", "SELECT AVG(age) FROM members").correct
    assert same_result([(1, "a"), (None, 2.0)], [(None, 2), (1.0, "a")], ordered=False)
    assert not same_result([("1",)], [(1,)], ordered=False)
    assert not same_result([(1.0,)], [(1.001,)], ordered=False)


def test_order_by_inside_quotes_or_brackets_is_no_order():
    assert is_ordered("SELECT a FROM t order  by a")
    assert not is_ordered("SELECT a FROM t WHERE a = 'order by'")
    assert not is_ordered("SELECT COUNT(*) FROM (SELECT a FROM t ORDER BY a)")


def test_semicolon_inside_quotes_does_not_end_the_statement():
    assert first_statement("SELECT 'a;b' FROM t; SELECT 2") == "SELECT 'a;b' FROM t"


def test_gold_query_that_does_not_run_is_our_fault_and_said_so():
    with pytest.raises(ValueError, match="gold query does not run on 'gym'"):
        score(COUNT, "SELECT x FROM members", GYM)


def test_all_gold_answers_score_right_and_lengths_must_agree():
    examples = load_examples("test")
    assert all(s.correct for s in score_all([e.sql for e in examples], examples))
    with pytest.raises(ValueError, match="1 predictions for"):
        score_all(["SELECT 1"], examples)


def test_bootstrap_interval_covers_the_share_and_narrows_with_more():
    few, many = [True, False] * 20, [True, False] * 400
    low, high = bootstrap_interval(few, seed=1)
    assert low < 0.5 < high
    assert bootstrap_interval(few, seed=1) == (low, high)
    narrow = bootstrap_interval(many, seed=1)
    assert narrow[1] - narrow[0] < (high - low) / 3


def test_paired_interval_is_tighter_than_two_apart():
    before = [True] * 40 + [False] * 60
    after = [True] * 50 + [False] * 50
    low, high = bootstrap_interval(after, seed=0, before=before)
    assert 0 < low < 0.1 < high < 0.2
    with pytest.raises(ValueError, match="same questions: 2 after, 3 before"):
        bootstrap_interval([True, False], seed=0, before=[True, True, False])
    with pytest.raises(ValueError, match="at least 2"):
        bootstrap_interval([True], seed=0)


def test_score_is_plain_data():
    assert set(judge(COUNT).to_dict()) == {"correct", "outcome", "predicted", "message"}
