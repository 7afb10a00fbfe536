"""judge: five statuses, points by group, the right hint, and nothing told of a hidden case but its category."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny_courses import tiny_exercise

from grader.exercise import Case, Exercise
from grader.judge import ACCEPTED_REPLY_CAP_BYTES, BrokenExerciseError, broken, call_all, describe_call, judge, prepare
from grader.result import LONGEST_MESSAGE_CHARACTERS, Result, message_text, printable
from grader.show import result_card

SUM = "l01_plain/scaled_sum.py"


@pytest.fixture
def scaled_sum(tmp_path):
    return tiny_exercise(tmp_path, "scaled_sum")


def judged(exercise, answer, seed=0, **options):
    questions = prepare(exercise, seed)
    return judge(exercise, questions, call_all(exercise, answer, questions, limit_seconds=1), **options)


def shown(result) -> str:
    card = result_card(result, library_note="note", interview="question")
    return card.text() + card.html()


def test_passed(scaled_sum):
    result = judged(scaled_sum, lambda base, update, scale: base + update * scale)
    assert (result.status, result.points, result.max_points, result.hint) == ("passed", 3, 3, "")
    assert result.passed
    assert all(case.passed for case in result.cases)


def test_todo_is_calm_and_earns_nothing(scaled_sum):
    def stub(base, update, scale):
        raise NotImplementedError

    result = judged(scaled_sum, stub)
    assert (result.status, result.points, result.cases) == ("todo", 0, ())
    assert result.message.startswith("Not started")


def test_not_implemented_raised_by_a_library_is_not_todo(scaled_sum):
    import torch

    result = judged(scaled_sum, lambda base, update, scale: torch.nn.Module()(base))
    assert result.status == "crashed"
    assert "NotImplementedError" in result.message


def test_a_stub_left_in_one_branch_is_crashed_not_todo(scaled_sum):
    def answer(base, update, scale):
        if scale > 1:
            return base + scale * update
        raise NotImplementedError

    result = judged(scaled_sum, answer)
    assert (result.status, result.points) == ("crashed", 0)
    assert "NotImplementedError" in result.message


def test_failed_says_call_got_wanted_and_how_many(scaled_sum):
    result = judged(scaled_sum, lambda base, update, scale: base * 0)
    call_line, difference, count = result.message.splitlines()
    assert call_line.strip("`").startswith("scaled_sum(base=float64 [[")
    assert "scale=2.0" in call_line
    assert difference.startswith("the result is 0 at [0, 0], ")
    assert difference.endswith("6 of 6 values differ, the largest difference is " + difference.rsplit(" ", 1)[1])
    assert count == "5 of 5 cases fail; this is 'small'."
    assert result.status == "failed"


def test_crashed_says_what_was_raised_where(scaled_sum):
    result = judged(scaled_sum, lambda base, update, scale: base[99])
    assert result.status == "crashed"
    assert "your code raised IndexError: index 99 is out of bounds" in result.message
    assert "at line 1 of `" in result.message


def test_out_of_time_is_crashed_and_the_other_cases_are_not_tried(scaled_sum):
    def endless(base, update, scale):
        while True:
            pass

    result = judged(scaled_sum, endless)
    assert result.status == "crashed"
    assert "still running after 1 s" in result.message
    assert [case.seconds > 0.5 for case in result.cases] == [True, False, False, False, False]


def test_broken_is_our_fault(tmp_path):
    exercise = tiny_exercise(tmp_path, "scaled_sum", (SUM, "    contribution = scale * update\n", "    1 / 0\n"))
    with pytest.raises(BrokenExerciseError, match="case 'small': no expected value: ZeroDivisionError") as caught:
        prepare(exercise, 0)
    result = broken(exercise, caught.value)
    assert (result.status, result.points, result.max_points) == ("broken", 0, 3)
    assert result.message.startswith("This is our fault, not yours")


def test_changing_an_argument_fails_even_with_the_right_result(scaled_sum):
    def answer(base, update, scale):
        base += scale * update
        return base

    result = judged(scaled_sum, answer)
    assert result.status == "failed"
    assert "changed its argument `base` in place" in result.message


@pytest.mark.parametrize("name", ["scale_forgotten", "base_scaled", "sign_lost"])
def test_each_misconception_written_otherwise_draws_its_own_hint(scaled_sum, name):
    by_hand = {
        "scale_forgotten": lambda base, update, scale: update + base,
        "base_scaled": lambda base, update, scale: update + base * scale,
        "sign_lost": lambda base, update, scale: base + update * (scale**2) ** 0.5,
    }
    result = judged(scaled_sum, by_hand[name])
    assert (result.misconception, result.certain) == (name, True)
    assert result.hint == scaled_sum.misconceptions[name].hint
    assert f"Hint: {result.hint}" in result_card(result).text()


def test_a_misconception_that_fits_some_failing_cases_is_offered_as_perhaps(scaled_sum):
    def answer(base, update, scale):
        return base + update if len(base) == 1 else base - 17 * update

    result = judged(scaled_sum, answer)
    assert (result.misconception, result.certain) == ("scale_forgotten", False)
    assert f"Perhaps: {result.hint}" in result_card(result).text()


def test_no_hint_when_nothing_fits_or_two_fit_alike(scaled_sum):
    nothing = judged(scaled_sum, lambda base, update, scale: base + 17)
    assert (nothing.misconception, nothing.hint) == ("", "")

    def two(base, update, scale):
        if len(base) == 1:
            return base + update
        return scale * base + update if len(base) == 7 else base + 17

    assert judged(scaled_sum, two).misconception == ""


def raising_exercise() -> Exercise:
    exercise = Exercise("l01-raising", "Raising", 1, 5, "easy", "core", ("arrays",), ("hint",))

    @exercise.reference
    def raising(x):
        """Return x."""
        return x

    @exercise.misconception(hint="You index one too far.")
    def one_too_far(x):
        return x[len(x)]

    @exercise.cases
    def cases(seed):
        yield Case("a", {"x": [1, 2]})
        yield Case("b", {"x": [1, 2, 3]})

    return exercise


def test_another_error_of_the_same_type_is_not_taken_for_certain():
    exercise = raising_exercise()
    assert judged(exercise, lambda x: x[len(x)]).certain
    pop = judged(exercise, lambda x: [].pop())
    assert (pop.misconception, pop.certain) == ("one_too_far", False)  # Also an IndexError, with another message.


def test_points_come_by_group_and_a_lost_group_is_told(scaled_sum):
    result = judged(scaled_sum, lambda base, update, scale: base + abs(scale) * update)
    assert result.groups == (("plain", 1.0, 1.0), ("awkward", 0.0, 2.0))
    assert (result.status, result.points) == ("failed", 1.0)
    text = result_card(result).text()
    assert "(1 of 3 points)" in text
    assert "Points for plain: 1 of 1" in text
    assert "Points for awkward: 0 of 2" in text


def test_without_groups_it_is_all_or_nothing(tmp_path):
    exercise = tiny_exercise(tmp_path, "running_mean")
    right = exercise.alternatives["KeepsAll"]
    assert judged(exercise, right).points == 2
    wrong = judged(exercise, exercise.misconceptions["MedianInstead"].answer)
    assert (wrong.points, wrong.groups) == (0, (("all", 0.0, 2.0),))
    assert 0 < sum(case.passed for case in wrong.cases) < 3


def test_a_forbidden_name_fails_a_right_answer(scaled_sum):
    result = judged(scaled_sum, lambda base, update, scale: base + scale * update, violations=["numpy.add"])
    assert (result.status, result.points) == ("failed", 0)
    assert "your answer uses `numpy.add`" in result.message


SECRET_INPUT = 8_675_309
SECRET_WANT = 271_828_182


def secretive_exercise() -> Exercise:
    """An exercise whose hidden case has tell-tale numbers."""
    exercise = Exercise("l01-secretive", "Secretive", 1, 5, "easy", "core", ("arrays",), ("hint",))

    @exercise.reference
    def secretive(x):
        """Return something."""
        return SECRET_WANT if x == SECRET_INPUT else float(x)

    @exercise.misconception(hint="It is about large numbers.")
    def plus_one(x):
        return x + 1

    @exercise.diagnose
    def diagnose(got, want, x):
        return f"{got} for {want} of {x}"

    @exercise.cases
    def cases(seed):
        yield Case("plain", {"x": 1})
        yield Case("secret name", {"x": SECRET_INPUT}, visible=False, about="when x is large")

    return exercise


def prints(x):
    print("printed", x)
    return x + 3 if x > 5 else float(x)


def raises(x):
    if x > 5:
        raise ValueError(f"cannot take {x}")
    return float(x)


def echoes_in_code(x):
    assert x != 8_675_309, x
    return float(x)


@pytest.mark.parametrize(
    ("answer", "category"),
    [
        (lambda x: x + 1 if x > 5 else float(x), "the result has the wrong type|the values are wrong"),
        (lambda x: None if x > 5 else float(x), "it returns None"),
        (lambda x: [x] if x > 5 else float(x), "the result has the wrong type"),
        (lambda x: np.inf if x > 5 else float(x), "the result has the wrong type|not finite"),
        (prints, "the values are wrong|wrong type"),
        (raises, "it raises an error"),
        (echoes_in_code, "it raises an error"),
    ],
)
def test_a_hidden_failure_tells_its_category_and_nothing_else(answer, category):
    result = judged(secretive_exercise(), answer)
    told = shown(result) + result.message + result.hint
    assert any(part in result.message for part in category.split("|")), result.message
    assert "secretive fails when x is large: " in result.message
    assert "1 of 2 cases fail; this one is hidden." in result.message
    for secret in (SECRET_INPUT, SECRET_WANT, SECRET_INPUT + 1, SECRET_INPUT + 3):
        for form in (str(secret), f"{secret:_}", f"{float(secret):.6g}", f"{secret:,}"):
            assert form not in told, told
    assert "secret name" not in told
    # The judge keeps the details for instructors; so the test above is about showing, not about there being none.
    hidden = result.cases[1]
    assert not hidden.visible
    assert hidden.sentence


def test_a_visible_failure_is_told_first_even_if_a_hidden_one_comes_before(tmp_path):
    exercise = tiny_exercise(
        tmp_path,
        "scaled_sum",
        (SUM, 'yield Case("small", inputs(2, 3, 2.0)', 'yield Case("small", inputs(2, 3, 2.0), visible=False'),
    )
    result = judged(exercise, lambda base, update, scale: base)
    assert result.message.endswith("this is 'wide'.")


def test_what_a_failing_visible_case_printed_is_shown(scaled_sum):
    def answer(base, update, scale):
        print("shape", base.shape)
        return base

    text = result_card(judged(scaled_sum, answer)).text()
    assert "It printed" in text
    assert "| shape (2, 3)" in text
    assert "(7, 3)" not in text


def accepting_exercise() -> Exercise:
    exercise = Exercise("l01-accepting", "Accepting", 1, 5, "easy", "core", ("arrays",), ("hint",))

    @exercise.reference
    def accepting(x):
        """Return a loss below x."""
        return {"loss": x / 2}

    @exercise.misconception(hint="Too high.")
    def too_high(x):
        return {"loss": x * 2}

    @exercise.accept
    def accept(output, x):
        return None if output["loss"] < x else f"the loss {output['loss']} is not below {x}"

    @exercise.cases
    def cases(seed):
        yield Case("only", {"x": 1.5 + seed})

    return exercise


def test_accept_judges_where_no_single_answer_is_right():
    exercise = accepting_exercise()
    assert judged(exercise, lambda x: {"loss": 0.1}).passed
    wrong = judged(exercise, lambda x: {"loss": 3.0})
    assert (wrong.status, wrong.misconception) == ("failed", "too_high")
    assert "the loss 3.0 is not below 1.5" in wrong.message
    lost = judged(exercise, lambda x: 0.1)
    assert lost.status == "failed"
    assert "cannot be judged: TypeError" in lost.message


def test_an_oracle_that_fails_is_broken_never_a_zero():
    exercise = accepting_exercise()
    exercise.accept_function = None
    exercise.oracle_function = lambda x: undefined_name  # noqa: F821
    with pytest.raises(BrokenExerciseError, match="no expected value: NameError"):
        prepare(exercise, 0)


def test_the_call_is_described_shortly_and_without_raw_bytes():
    import torch

    exercise = accepting_exercise()
    exercise.case_function = lambda seed: [
        Case("a", {"x": {"w": [torch.zeros(50, 50), torch.ones(2)], "text": "y" * 1000, "rows": [1, 2]}})
    ]
    described = describe_call(exercise, prepare(exercise, 0)[0])
    assert described == (
        "accepting(x={w: [tensor (50, 50) float32, float32 [1.0, 1.0]], text: "
        + described.split("text: ")[1].split(", rows")[0]
        + ", rows: [1, 2]})"
    )
    assert len(described) < 400


def test_a_huge_result_that_accept_speaks_of_makes_no_huge_message():
    exercise = accepting_exercise()
    (question,) = prepare(exercise, 0)
    assert question.largest_reply_bytes == ACCEPTED_REPLY_CAP_BYTES
    exercise.accept_function = lambda output, x: f"the name {output} is unknown"
    found = judged(exercise, lambda x: "k" * 10**6)
    assert "the name kkk" in found.message and "1,000,029 characters" not in found.message
    assert "(1,000,020 characters)" in found.message and found.message.endswith("1 of 1 cases fail; this is 'only'.")
    assert len(found.message) <= LONGEST_MESSAGE_CHARACTERS
    assert len(found.cases[0].sentence) <= LONGEST_MESSAGE_CHARACTERS


@pytest.mark.parametrize("raised", ["half \ud800", "\x1b[2J\x1b]0;title\x07", "\x00\x7f\x9b\r\u202e", "\x1b" * 10_000])
def test_what_learner_code_says_can_be_written_and_shown_anywhere(scaled_sum, raised):
    def answer(base, update, scale):
        print(raised)
        raise ValueError(raised)

    result = judged(scaled_sum, answer)
    texts = [result.message, *(case.sentence for case in result.cases), *(case.printed for case in result.cases)]
    for text in texts:
        assert text.replace("\n", "").isprintable() and text.encode() and len(text) <= LONGEST_MESSAGE_CHARACTERS
    assert repr(raised)[1:-1][:40] in result.message and repr(raised)[1:-1][:40] in result.cases[0].printed
    stored = result.to_dict() | {"message": raised}
    assert Result.from_dict(stored).message == message_text(raised)
    assert Result.from_dict(result.to_dict()) == result


def test_honest_text_stays_as_it_is():
    for text in ("", "two\n\tlines", "d\u00e9j\u00e0 vu \u2013 \u4f60\u597d \U0001f600 \\x1b"):
        assert printable(text) == message_text(text) == text


def test_a_result_survives_json(scaled_sum):
    result = judged(scaled_sum, lambda base, update, scale: base)
    assert Result.from_dict(json.loads(json.dumps(result.to_dict()))) == result
