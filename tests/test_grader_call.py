"""One call: fresh inputs, kept output, errors with the learner's own line, a time limit, and nothing left behind."""

from __future__ import annotations

import random
import sys
import time
import warnings

import numpy as np
import pytest
import torch

from grader import wire
from grader.call import MESSAGE_CHARACTERS, PRINTED_CHARACTERS, call, time_limit


def inputs(**values) -> bytes:
    return wire.dumps(wire.encode(values))


def test_the_value_comes_back_as_wire_data_and_the_time_is_kept():
    outcome = call(lambda x: time.sleep(0.05) or x * 2, inputs(x=torch.ones(2)))
    assert outcome.error is None
    assert torch.equal(wire.decode(outcome.value), torch.full((2,), 2.0))
    assert outcome.seconds >= 0.05


def divides(x):
    half = x / 2

    return half / 0


def test_an_error_names_the_line_in_the_learners_function():
    error = call(divides, inputs(x=1)).error
    assert error is not None
    assert (error.type, error.line, error.code, error.function) == (
        "ZeroDivisionError",
        4,
        "return half / 0",
        "divides",
    )
    assert error.own
    assert error.sentence == "ZeroDivisionError: float division by zero at line 4 of `divides`: `return half / 0`"


class Layer:
    def __init__(self, size):
        self.size = size

    def forward(self, x):
        return np.ones(self.size) @ np.ones(x)


def test_an_error_inside_a_library_names_the_learners_line_that_called_it():
    error = call(Layer, inputs(x=3), probe=lambda answer, x: answer(2).forward(x)).error
    assert error is not None
    assert (error.type, error.line, error.function) == ("ValueError", 2, "Layer.forward")
    assert "np.ones(self.size) @ np.ones(x)" in error.code


def test_an_error_that_a_library_raises_is_not_the_learners_own():
    error = call(lambda x: torch.linalg.inv(x), inputs(x=torch.zeros(2, 2))).error
    assert error is not None
    # Python code of the library between, so that the learner's frame is not the last one.
    nested = call(lambda x: torch.nn.functional.one_hot(x, num_classes="no"), inputs(x=torch.zeros(2).long())).error
    assert nested is not None
    deep = call(lambda x: torch.nn.Module()(x), inputs(x=1)).error
    assert deep is not None
    assert deep.type == "NotImplementedError"
    assert not deep.own


def test_an_error_outside_the_learners_code_has_no_line():
    def probe(answer, x):
        return len(answer(x))

    namespace: dict = {}
    exec(compile("def answer(x): return x", "<cell>", "exec"), namespace)
    error = call(namespace["answer"], inputs(x=1), probe=probe).error
    assert error is not None
    assert (error.type, error.line) == ("TypeError", 0)
    assert error.sentence == "TypeError: object of type 'int' has no len()"


def too_deep(x):
    return too_deep(x + 1)


def exits(x):
    sys.exit(3)


def quits(x):
    raise GeneratorExit


def unreadable(x):
    class UnreadableError(Exception):
        def __str__(self):
            raise ValueError

    raise UnreadableError


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(too_deep, "RecursionError"), (exits, "SystemExit"), (quits, "GeneratorExit"), (unreadable, "UnreadableError")],
)
def test_whatever_is_raised_is_kept_as_an_error(answer, kind):
    error = call(answer, inputs(x=1)).error
    assert error is not None
    assert error.type == kind
    assert error.line > 0


def test_a_missing_argument_is_an_error_of_the_call():
    error = call(lambda y: y, inputs(x=1)).error
    assert error is not None
    assert "unexpected keyword argument 'x'" in error.message


def test_a_huge_message_is_cut():
    def answer(x):
        raise ValueError("x" * 10_000_000)

    error = call(answer, inputs(x=1)).error
    assert error is not None
    assert len(error.message) == MESSAGE_CHARACTERS


def test_a_value_that_cannot_cross_is_the_answers_error():
    error = call(lambda x: object(), inputs(x=1)).error
    assert error is not None
    assert error.type == "WireError"
    assert "cannot be compared" in error.message


def endless(x):
    while True:
        x += 1


def endless_swallowing_exceptions(x):
    while True:
        try:  # noqa: SIM105
            x += 1
        except Exception:
            pass


def endless_swallowing_everything(x):
    while True:
        try:  # noqa: SIM105
            x += 1
        except:  # noqa: E722
            pass


def endless_after_swallowing_one(x):
    try:
        while True:
            x += 1
    except BaseException:
        while True:
            x += 1


def endless_encoding(x):
    class Slow(list):
        pass

    return Slow([[[0] * 100] * 100] * 100) if time.sleep(9) else None


@pytest.mark.parametrize(
    "answer",
    [
        endless,
        endless_swallowing_exceptions,
        endless_swallowing_everything,
        endless_after_swallowing_one,
        endless_encoding,
    ],
)
def test_an_endless_call_is_stopped(answer):
    outcome = call(answer, inputs(x=1), limit_seconds=0.3)  # would otherwise run into pytest's own limit
    assert outcome.error is not None
    assert outcome.error.type == "OutOfTime"
    time.sleep(0.3)  # A reminder still pending would go off here.


def test_the_limit_leaves_no_alarm_and_puts_back_the_handler():
    import signal

    def mine(*_):
        raise AssertionError("the outer handler was called")

    before = signal.signal(signal.SIGALRM, mine)
    try:
        with time_limit(5):
            pass
        assert signal.getsignal(signal.SIGALRM) is mine
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_printing_without_end_costs_no_memory():
    def answer(x):
        for _ in range(1000):
            print("y" * 10_000)
        print("end", file=sys.stderr)
        return x

    outcome = call(answer, inputs(x=1))
    assert outcome.value == 1
    assert len(outcome.printed) == PRINTED_CHARACTERS


def test_what_is_printed_and_warned_is_kept_and_shown_nowhere(capfd):
    def answer(x):
        print("printed")
        print("to stderr", file=sys.stderr)
        warnings.warn("take care", stacklevel=1)
        return x

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        # pytest records warnings instead of printing them; put the standard way back.
        warnings.showwarning = lambda message, *_: print(message, file=sys.stderr)
        outcome = call(answer, inputs(x=1))
    assert outcome.printed == "printed\nto stderr\ntake care\n"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        (lambda a, b: a.add_(1), ("a",)),
        (lambda a, b: b["list"].append(3), ("b",)),
        (lambda a, b: b["array"].__setitem__(0, 9), ("b",)),
        (lambda a, b: (a.mul_(2), b.clear()), ("a", "b")),
        (lambda a, b: b["list"].append(object()), ("b",)),
        (lambda a, b: b["list"].append({(1, None), (1, 2)}), ("b",)),
        (lambda a, b: a.unsqueeze_(0), ("a",)),
        (lambda a, b: a.add(1), ()),
        (lambda a, b: a.requires_grad_() and None, ()),
    ],
)
def test_arguments_changed_in_place_are_named(change, changed):
    def answer(a, b):
        change(a, b)
        return 1

    given = inputs(a=torch.ones(2), b={"list": [1, 2], "array": np.zeros(2)})
    assert call(answer, given).changed == changed
    seen = call(lambda a, b: [a, b], given)
    assert wire.dumps(seen.value) == wire.dumps(wire.encode([torch.ones(2), {"list": [1, 2], "array": np.zeros(2)}]))


def draw():
    return [random.random(), np.random.random(), torch.rand(1).item()]


def test_global_randomness_is_the_same_in_every_call_and_untouched_afterwards():
    random.seed(7), np.random.seed(7), torch.manual_seed(7)
    expected = draw()
    random.seed(7), np.random.seed(7), torch.manual_seed(7)
    outcomes = [call(lambda x: draw(), inputs(x=1)).value for _ in range(2)]
    assert outcomes[0] == outcomes[1]
    assert draw() == expected

    def fails(x):
        draw()
        raise ValueError

    random.seed(7), np.random.seed(7), torch.manual_seed(7)
    call(fails, inputs(x=1))
    assert draw() == expected


def test_an_interrupt_by_the_learner_reaches_them():
    def answer(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call(answer, inputs(x=1))
    assert sys.stdout is not None
    print("stdout works again")


def test_the_limit_is_no_hindrance_in_a_thread():
    import threading

    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(call(lambda x: x, inputs(x=1), limit_seconds=5)))
    thread.start()
    thread.join()
    assert outcomes[0].value == 1
