"""The placement: right answers recomputed, numbers read as people write them, suggestions that follow their rule."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from course.cli import app
from course.home.choices import read_choices
from course.placement.questions import QUESTIONS, Question
from course.placement.suggestion import (
    BACKGROUNDS,
    Placement,
    PlacementError,
    is_right,
    parse_number,
    route,
    suggest,
)
from course.syllabus import COURSE

BY_ID = {question.id: question for question in QUESTIONS}
TAKEN = "2026-01-05T10:00:00+00:00"


def chosen(name: str) -> str:
    question = BY_ID[name]
    return question.options[int(question.answer)]


def placed(background: str, *right: str) -> Placement:
    return Placement(background, right, TAKEN)


def test_ten_questions_with_ids_of_their_own_each_taught_by_a_shipped_lesson() -> None:
    assert len(QUESTIONS) == len(BY_ID) == 10
    assert {question.lesson for question in QUESTIONS} == {lesson.id for lesson in COURSE.lessons}
    for question in QUESTIONS:
        if question.options:
            assert len(set(question.options)) == 4
            assert question.answer in range(4)


def test_the_right_numbers_are_right() -> None:
    torch = pytest.importorskip("torch")
    x = torch.zeros(3, 1000, dtype=torch.bfloat16)
    assert BY_ID["tensor-bytes"].answer == x.numel() * x.element_size()
    assert BY_ID["grouped-queries"].answer == 8 * 64
    assert BY_ID["answer-labels"].answer == 48 - 11
    weights = torch.tensor([0.5, -2.0, 0.4, 1.1])
    assert BY_ID["absmax"].answer == (weights / weights.abs().max() * 127).round()[2]
    draws = list(itertools.combinations([True, True, False, False, False], 2))
    assert math.isclose(BY_ID["pass-at-k"].answer, sum(map(any, draws)) / len(draws))


def test_the_merges_leave_as_many_tokens_as_the_course_s_own_encoder() -> None:
    tokens = list("abcd")
    for pair in (("b", "c"), ("a", "b"), ("c", "d")):
        place = next((i for i in range(len(tokens) - 1) if (tokens[i], tokens[i + 1]) == pair), None)
        if place is not None:
            tokens[place : place + 2] = ["".join(pair)]
    assert BY_ID["merge-order"].answer == len(tokens) == 3


def test_only_the_gradient_of_a_is_zero_at_first() -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    a, b = torch.randn(2, 5, requires_grad=True), torch.zeros(3, 2, requires_grad=True)
    (torch.randn(4, 5) @ a.T @ b.T - torch.randn(4, 3)).square().mean().backward()
    assert not a.grad.any()
    assert b.grad.all()
    assert chosen("first-gradient") == "A's only"


def test_the_right_choices_are_the_ones_meant() -> None:
    assert chosen("seeds").startswith("Seeding NumPy's generator")
    assert chosen("merge-target").startswith("The NF4 weights decoded to 16 bits")
    assert chosen("paired").startswith("A paired test")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("6000", 6000),
        (" 6,000 ", 6000),
        ("6 000", 6000),
        ("1,048,576", 1048576),
        ("0.7", 0.7),
        ("0,7", 0.7),
        (".7", 0.7),
        ("70 %", 0.7),
        ("7/10", 0.7),
        ("0,700", 0.7),
        ("-1.5", -1.5),
    ],
)
def test_a_number_is_read_as_people_write_it(text: str, number: float) -> None:
    assert math.isclose(parse_number(text), number)


@pytest.mark.parametrize("text", ["six", "1/0", "1e3", "nan", "--1", "1..2", "1/2/3", "9" * 31, "<b>", "%", "/2", "1."])
def test_what_is_no_number_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(PlacementError, match=r"is not a number\. Write it like 1536"):
        parse_number(text)


def test_an_answer_is_right_wrong_not_known_or_unreadable() -> None:
    seeds, size = BY_ID["seeds"], BY_ID["tensor-bytes"]
    assert [is_right(seeds, given) for given in ("1", "0", "")] == [True, False, False]
    assert [is_right(size, given) for given in ("6000", "12000", " ")] == [True, False, False]
    for given in ("4", "-1", "x", "²"):
        with pytest.raises(PlacementError, match="none of the 4 answers"):
            is_right(seeds, given)


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_no_background_meets_a_lesson_before_what_it_builds_on(background: str) -> None:
    order = [lesson.id for lesson in route(COURSE.lessons, BACKGROUNDS[background].first)]
    assert sorted(order) == sorted(lesson.id for lesson in COURSE.lessons)
    for lesson in COURSE.lessons:
        assert all(order.index(needed) < order.index(lesson.id) for needed in lesson.needs)
    assert set(BACKGROUNDS[background].first) <= set(order)


def test_a_lesson_that_is_wanted_early_brings_what_it_builds_on() -> None:
    order = [lesson.id for lesson in route(COURSE.lessons, ("l18_statistics", "l99_gone"))]
    assert order[:4] == ["l00_start", "l07_lora", "l09_qlora", "l18_statistics"]


@pytest.mark.parametrize(
    ("background", "start"),
    [("backend", "l07_lora"), ("data", "l01_tokens"), ("devops", "l08_quantisation"), ("other", "l01_tokens")],
)
def test_the_start_is_the_first_lesson_of_the_background_that_was_not_shown(background: str, start: str) -> None:
    assert suggest(placed(background), COURSE.lessons).start.id == "l00_start"
    suggestion = suggest(placed(background, "tensor-bytes", "seeds"), COURSE.lessons)
    assert suggestion.start.id == start
    assert [lesson.id for lesson, _ in suggestion.skip] == ["l00_start"]
    assert suggestion.to_take[0] == suggestion.start


def test_a_lesson_is_skipped_only_with_all_of_its_questions_and_the_reason_names_each() -> None:
    assert suggest(placed("data", "seeds"), COURSE.lessons).skip == ()
    ((_, reason),) = suggest(placed("data", "tensor-bytes", "seeds"), COURSE.lessons).skip
    assert reason == ("you showed that you know what a tensor costs in bytes and find the generator that nobody seeded")


def test_whoever_knows_all_may_skip_all() -> None:
    suggestion = suggest(placed("devops", *BY_ID), COURSE.lessons)
    assert suggestion.start is None
    assert suggestion.to_take == ()
    assert len(suggestion.skip) == len(COURSE.lessons)


def test_a_question_that_is_gone_and_a_lesson_without_one_do_no_harm() -> None:
    questions = (Question("new", "l99_unknown", "?", 1, "know more"),)
    suggestion = suggest(placed("data", "gone", "new"), COURSE.lessons, questions)
    assert suggestion.skip == ()
    assert suggestion.start.id == "l00_start"


@pytest.mark.parametrize("kept", [None, [], {}, {"background": "chef", "right": [], "taken": ""}, {"background": 1}])
def test_what_is_no_placement_is_refused(kept: object) -> None:
    with pytest.raises(PlacementError, match="is no placement"):
        Placement.from_dict(kept)


def test_in_a_terminal_the_answers_are_kept_and_what_cannot_be_read_is_asked_again(tmp_path: Path) -> None:
    answers = ["7", "1", "six", "6000", "9", "2", "", "", "", "", "", "", "", ""]
    run = CliRunner().invoke(app, ["placement", "--workspace", str(tmp_path)], input="\n".join(answers) + "\n")
    assert run.exit_code == 0, run.output
    assert "Give a number from 1 to 4" in run.output
    assert "'six' is not a number" in run.output
    assert "Start with L07 LoRA from scratch." in run.output
    assert "L00 Doctor and a tour of the grader: you showed that you know what a tensor costs in bytes" in run.output
    kept = read_choices(tmp_path)[0].placement
    assert (kept.background, kept.right) == ("backend", ("tensor-bytes", "seeds"))
    again = CliRunner().invoke(app, ["placement", "--workspace", str(tmp_path), "--show"])
    assert "Start with L07 LoRA from scratch." in again.output


def test_leaving_in_the_middle_keeps_nothing(tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["placement", "--workspace", str(tmp_path)], input="1\n6000\n")
    assert run.exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_without_a_placement_the_command_that_takes_it_is_named(tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["placement", "--workspace", str(tmp_path), "--show"])
    assert run.exit_code == 1
    assert "Take it with: course placement" in run.output
