"""The `quiz` dataset as committed: sound, balanced, and each fault of it refused in a clear sentence."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest

from course.quiz import QuizError, QuizItem, load_quiz
from course.quiz.checks import gives, result_of, results_of
from course.quiz.items import DATA_FOLDER, item_from_row, read_items
from course.quiz.validate import (
    check_problems,
    checksum_problems,
    choice_problems,
    count_problems,
    duplicate_problems,
    file_problems,
    id_problems,
    item_problems,
    length_problems,
    length_share,
    main,
    position_problems,
    problems_in,
    wording_problems,
)

SOUND = QuizItem(
    id="quiz-python-001",
    topic="python",
    subtopic="strings",
    difficulty="easy",
    question="What does print('ab' * 3) print?",
    choices=("ab3", "ababab", "aaabbb", "ab ab ab"),
    answer=1,
    why="Multiplying a string by 3 repeats it three times.",
    split="test",
    check="print('ab' * 3)",
)


@pytest.fixture(scope="module")
def items():
    return load_quiz("dev") + load_quiz("test")


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(DATA_FOLDER, tmp_path / "quiz")


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_committed_dataset_is_sound():
    assert problems_in() == []


def test_card_states_the_counts_of_the_files(items):
    card = (DATA_FOLDER / "README.md").read_text(encoding="utf-8")
    checked = Counter(item.topic for item in items if item.check)
    assert f"| Items | {len(items)}: `dev` 40 (few-shot" in card
    assert f"`test` {len(load_quiz('test'))} |" in card
    assert f"{checked.total()} items: {checked['python']} Python, {checked['linux']} Linux" in card
    for topic in ("python", "linux", "general"):
        mine = [item for item in items if item.topic == topic]
        splits, levels = Counter(i.split for i in mine), Counter(i.difficulty for i in mine)
        row = [topic, splits["dev"], splits["test"], levels["easy"], levels["medium"], levels["hard"]]
        line = next(line for line in card.splitlines() if line.startswith(f"| {topic} |"))
        assert line.startswith("| " + " | ".join(map(str, row)) + " |")
        assert all(f"{subtopic} {n}" in line for subtopic, n in Counter(i.subtopic for i in mine).items())
    shares = ", ".join(f"{sum(i.answer == at for i in items) / len(items):.1%}"[:-1] + " %" for at in range(4))
    assert shares in card
    for word, pick in (("longest", max), ("shortest", min)):
        assert f'"Take the {word} choice" is right | {length_share(items, pick) * 100:.1f} %' in card


def test_first_items_of_a_file_are_of_all_topics():
    assert Counter(item.topic for item in load_quiz("test")[:30]) == {"python": 10, "linux": 10, "general": 10}


def test_no_dev_question_is_a_test_question():
    asked = {item.question.lower() for item in load_quiz("dev")}
    assert not [item.id for item in load_quiz("test") if item.question.lower() in asked]


def test_load_quiz_filters_by_split_and_topic(items):
    assert {item.topic for item in load_quiz("dev", topic="linux")} == {"linux"}
    assert len(load_quiz("dev")) == 40
    assert len({item.id for item in items}) == len(items)
    with pytest.raises(ValueError, match="no split 'train'; use dev or test"):
        load_quiz("train")
    with pytest.raises(ValueError, match="no topic 'sport'; use python, linux, general"):
        load_quiz("dev", topic="sport")


def test_an_item_is_frozen_and_knows_right_from_wrong():
    assert SOUND.right == "ababab"
    assert SOUND.wrong == ("ab3", "aaabbb", "ab ab ab")
    with pytest.raises(FrozenInstanceError):
        SOUND.answer = 2


def test_the_sound_item_has_no_problem():
    assert item_problems([SOUND]) == []
    assert check_problems([SOUND]) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"id": "quiz-linux-001"}, "the id does not fit the topic; call it quiz-python-NNN"),
        ({"id": "quiz-python-1"}, "the id does not fit the topic"),
        ({"difficulty": "tough"}, "no difficulty 'tough'; use one of easy, medium, hard"),
        ({"split": "train"}, "no split 'train'; use one of dev, test"),
        ({"topic": "sport", "id": "quiz-sport-001"}, "no topic 'sport'; use one of python, linux, general"),
        ({"question": "Print 'ab' * 3."}, "does not end with a question mark; ask it as a question"),
        ({"question": "What is caf\u00e9?"}, "has characters beyond printable ASCII; write it without them"),
        ({"question": "What is\nab?"}, "has characters beyond printable ASCII"),
        ({"question": " What is ab?"}, "has white space at an end; remove it"),
        ({"question": "W" * 150 + "?"}, "the question has 151 characters; shorten it to 150"),
        ({"why": "It repeats"}, "why is no sentence; end it with a full stop"),
        ({"why": "w" * 130 + "."}, "the why has 131 characters; shorten it to 130"),
    ],
)
def test_bad_wording_is_refused(change, said):
    found = list(wording_problems(replace(SOUND, **change)))
    assert len(found) == 1
    assert said in found[0]
    assert item_problems([replace(SOUND, **change)])[0].startswith(change.get("id", SOUND.id) + ": ")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"choices": ("ab3", "ababab", "ab3", "ab")}, "'ab3' is given 2 times; all four must differ"),
        ({"choices": ("ab3.", "ababab", "aaabbb", "ab")}, "'ab3.' ends with a full stop; remove it"),
        ({"choices": ("ab3", "ababab", "a" * 49, "ab")}, "has 49 characters; shorten it to 48"),
        ({"choices": ("ab3", "ababab", "aaabbb", "none of these")}, "speaks of the others, but each is scored alone"),
        ({"choices": ("ab3", "ababab", "aaabbb", "all of the above")}, "write an answer of its own"),
        ({"choices": ("3", "ababab", "TypeError", "'ab'")}, "only the right choice 'ababab' begins the way it does"),
        ({"question": "What does print('ababab') print?"}, "only the right choice 'ababab' occurs in the question"),
    ],
)
def test_bad_choices_are_refused(change, said):
    found = list(choice_problems(replace(SOUND, **change)))
    assert len(found) == 1
    assert said in found[0]


def test_a_right_choice_may_occur_in_the_question_beside_a_wrong_one():
    item = replace(SOUND, question="What comes first, ababab or aaabbb?")
    assert list(choice_problems(item)) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"check": "print('ab' * 2)"}, "its check gives 'abab', not 'ababab'; correct the choice or the check"),
        ({"answer": 0}, "its check gives 'ababab', a wrong choice; set answer to that one's index"),
        ({"check": "print('ab' *"}, "its check gives 'SyntaxError'"),
        ({"check": "print(*choices)"}, "its check gives 'ab3 ababab aaabbb ab ab ab', not 'ababab'"),
        ({"check": ""}, "code can tell the answer; put that code into the field check"),
    ],
)
def test_an_answer_that_code_contradicts_is_refused(change, said):
    found = check_problems([SOUND, replace(SOUND, id="quiz-python-002", **change)])
    assert len(found) == 1
    assert found[0].startswith("quiz-python-002: " + said)


@pytest.mark.parametrize(
    ("check", "result"),
    [
        ("print('a'); 'b'", "a"),
        ("x = 'b'; x", "'b'"),
        ("[1, 2].sort()", "None"),
        ("def f(): pass\nf()", "None"),
        ("{}['x']", "KeyError"),
        ("print(choices[2])", "c"),
        ("print(*[c for c in choices if gives(c, a=1, b='', c='') == '1'])", "a"),
        ("import sys; sys.exit(0)", "SystemExit"),
    ],
)
def test_what_a_check_gives(check, result):
    assert result_of(check, "abcd") == result


def test_gives_names_the_exception():
    assert gives("a + 1", a="x") == "TypeError"
    assert gives("1 +") == "SyntaxError"


def test_checks_do_not_see_each_other():
    assert results_of([("x = 1", "abcd"), ("x", "abcd"), ("print('x')", "abcd")]) == ["", "NameError", "x"]


def test_a_check_that_does_not_end_is_named():
    endless = replace(SOUND, id="quiz-python-009", check="while True: pass")
    start = time.monotonic()
    found = check_problems([SOUND, endless, SOUND], run=lambda checks: results_of(checks, timeout_seconds=1))
    assert found == ["quiz-python-009: its check has no result: it runs on or ends Python; correct it"]
    assert time.monotonic() - start < 4


def test_a_check_that_ends_the_process_is_named():
    ending = replace(SOUND, id="quiz-python-009", check="import os; os._exit(0)")
    assert check_problems([SOUND, ending])[0].startswith("quiz-python-009: its check has no result")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"why": None}, "quiz-python-001 has no why; every item needs answer, choices, difficulty"),
        ({"question": 7}, "quiz-python-001 has no question"),
        ({"id": ""}, "this row has no id"),
        ({"hint": "x"}, "quiz-python-001 has the unknown field hint; known are answer, check, choices"),
        ({"choices": ["a", "b", "c"]}, "choices must be a list of 4 strings; it is ['a', 'b', 'c']"),
        ({"choices": ["a", "b", "c", 4]}, "choices must be a list of 4 strings"),
        ({"choices": "abcd"}, "choices must be a list of 4 strings"),
        ({"answer": 4}, "answer must be the right choice's index, 0 to 3; it is 4"),
        ({"answer": "ababab"}, "answer must be the right choice's index"),
        ({"answer": True}, "answer must be the right choice's index"),
        ({"check": ["x"]}, "check must be Python code in a string, or left out; it is ['x']"),
    ],
)
def test_a_malformed_row_is_refused(change, said):
    row = rows_of(DATA_FOLDER / "test.jsonl")[0] | {"id": "quiz-python-001"}
    with pytest.raises(QuizError) as error:
        item_from_row(row | change)
    assert said in str(error.value)


def test_a_row_without_choices_and_a_row_that_is_no_object_are_refused():
    row = rows_of(DATA_FOLDER / "test.jsonl")[0]
    del row["choices"]
    with pytest.raises(QuizError, match="has no choices"):
        item_from_row(row)
    with pytest.raises(QuizError, match="line 3 is not a JSON object"):
        item_from_row(["x"], "test.jsonl, line 3")


def test_a_broken_line_and_a_missing_file_are_named(copy):
    lines = (copy / "test.jsonl").read_text().splitlines()
    lines[4] = lines[4][:-9]
    (copy / "test.jsonl").write_text("\n".join(lines))
    assert problems_in(copy)[0].startswith("test.jsonl, line 5 is not JSON")
    (copy / "test.jsonl").unlink()
    assert problems_in(copy) == ["test.jsonl is missing; restore it from git"]
    with pytest.raises(QuizError, match=r"test.jsonl is missing"):
        read_items(copy / "test.jsonl")


def test_an_id_borne_twice_is_found():
    assert id_problems([SOUND, SOUND]) == ["quiz-python-001: 2 items have this id; give each its own"]


def test_an_item_in_the_wrong_file_is_found(copy):
    rows = rows_of(copy / "dev.jsonl")
    rows[3]["split"] = "test"
    write(copy / "dev.jsonl", rows)
    assert file_problems(copy) == [
        f"{rows[3]['id']}: its split is 'test', but it lies in dev.jsonl; move it or correct the split"
    ]
    assert any(said.startswith("there are 39 items in dev; exactly 40 are wanted") for said in problems_in(copy))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda row, rows: {"id": rows[5]["id"]}, "2 items have this id"),
        (lambda row, rows: {"why": "no sentence"}, "why is no sentence"),
        (lambda row, rows: {"split": "dev"}, "it lies in test.jsonl"),
        (lambda row, rows: {"check": "print('something else')"}, "its check gives 'something else'"),
        (lambda row, rows: {"question": rows[5]["question"], "choices": rows[5]["choices"]}, "nearly the same as"),
    ],
)
def test_a_fault_in_a_file_is_among_the_problems(copy, change, said):
    rows = rows_of(copy / "test.jsonl")
    # An item without a check whose answer has the same index, so that the change is all that is wrong.
    at = next(n for n, row in enumerate(rows) if n > 5 and "check" not in row and row["answer"] == rows[5]["answer"])
    rows[at] |= change(rows[at], rows)
    write(copy / "test.jsonl", rows)
    assert any(said in problem for problem in problems_in(copy))


def test_give_aways_in_a_file_are_among_the_problems(copy):
    rows = rows_of(copy / "test.jsonl")
    for row in rows:
        row["choices"].insert(0, row["choices"].pop(row["answer"]) + " and nothing else")
        row["answer"] = 0
    write(copy / "test.jsonl", rows)
    found = problems_in(copy)
    assert any("of split test have the answer 0" in said for said in found)
    assert any("the longest choice is right in" in said for said in found)


def test_too_few_items_and_unbalanced_topics_are_found(items):
    assert count_problems(items) == []
    assert "there are 329 items; at least 330 are wanted" in count_problems(items[:329])
    fewer = [item for item in items if item.topic != "linux" or item.split == "dev"]
    assert any(said.startswith("5% of all items are of topic linux; 30% to 37%") for said in count_problems(fewer))
    easy = [replace(item, difficulty="easy") for item in items]
    assert "100% of all items are easy; 15% to 60% are wanted, write or move some" in count_problems(easy)
    dev = [replace(i, topic="general") if i.split == "dev" and i.topic == "linux" else i for i in items]
    assert any(said.startswith("0% of dev are of topic linux") for said in count_problems(dev))


def test_nearly_equal_items_are_found():
    other = replace(SOUND, id="quiz-python-002", question="What does print('ab' * 3) print in Python?")
    found = duplicate_problems([SOUND, other])
    assert len(found) == 1
    assert found[0].startswith("quiz-python-002: nearly the same as quiz-python-001 (")
    assert found[0].endswith("; replace one of them")
    assert duplicate_problems([SOUND, replace(other, question="Which word is printed by print('a' + 'b')?")]) == []


def moved(item: QuizItem, at: int) -> QuizItem:
    """The item with its right choice at another index."""
    choices = list(item.wrong)
    choices.insert(at, item.right)
    return replace(item, choices=tuple(choices), answer=at)


def test_unbalanced_and_foreseeable_positions_are_found(items):
    assert position_problems(items) == []
    first = [moved(item, 0) for item in items]
    assert "100% of all items have the answer 0; 20% to 30% are wanted, write or move some" in position_problems(first)
    python_first = [moved(item, 0) if item.topic == "python" else item for item in items]
    assert any("of topic python have the answer 0" in said for said in position_problems(python_first))
    dev_first = [moved(item, 0) if item.split == "dev" else item for item in items]
    assert any("of split dev have the answer 0" in said for said in position_problems(dev_first))
    in_turn = [moved(item, n % 4) for n, item in enumerate(items)]
    assert position_problems(in_turn)[-2:] == [
        "100% of answers repeat the one 4 items before; shuffle the choices anew",
        "100% of answers repeat the one 8 items before; shuffle the choices anew",
    ]


def with_right(item: QuizItem, text: str) -> QuizItem:
    choices = list(item.choices)
    choices[item.answer] = text
    return replace(item, choices=tuple(choices))


def test_length_give_aways_are_found(items):
    assert length_problems(items) == []
    longer = [with_right(item, item.right + " and much more than that, to be precise") for item in items]
    assert (
        "the longest choice is right in 100% of all items; 20% to 30% are wanted, lengthen or shorten some choices"
        in length_problems(longer)
    )
    shorter = [with_right(i, "") if i.topic == "general" else i for i in items]
    assert any(
        said.startswith("the shortest choice is right in 100% of topic general") for said in length_problems(shorter)
    )


def test_ties_in_length_count_a_part():
    tie = replace(SOUND, choices=("aa", "bb", "c", "d"), answer=0)
    assert length_share([tie], max) == 0.5
    assert length_share([tie], min) == 0.0


def test_changed_file_is_named_and_its_checksum_written_on_demand(copy, capsys):
    rows = rows_of(copy / "test.jsonl")
    rows[0]["why"] = "It is so for another reason."
    write(copy / "test.jsonl", rows)
    assert "test.jsonl differs from its checksum; if you meant to change it run" in checksum_problems(copy)[0]
    assert main(["--folder", str(copy)]) == 1
    assert "1 problem(s) in" in capsys.readouterr().err
    assert main(["--folder", str(copy), "--write-checksums"]) == 0
    assert "sound: 350 items" in capsys.readouterr().out
    assert checksum_problems(copy) == []
    (copy / "checksums.json").unlink()
    assert checksum_problems(copy)[0].startswith("checksums.json is missing; write it with: python -m course.quiz")


def test_checksums_are_not_written_over_a_fault(copy):
    rows = rows_of(copy / "test.jsonl")
    rows[0]["answer"] = (rows[0]["answer"] + 1) % 4
    rows[0]["why"] = "no sentence"
    write(copy / "test.jsonl", rows)
    before = (copy / "checksums.json").read_text()
    assert main(["--folder", str(copy), "--write-checksums"]) == 1
    assert (copy / "checksums.json").read_text() == before


def test_the_validator_runs_as_a_module():
    run = subprocess.run(
        [sys.executable, "-m", "course.quiz.validate"], cwd=DATA_FOLDER.parents[1], capture_output=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(b"sound: 350 items")
