"""What is cut from an exercise file: the stub, the view without answers, the solution, the lines that tell."""

from __future__ import annotations

import ast
import linecache
import textwrap

import pytest
from tiny_courses import tiny_exercise

from grader import source

HEAD = '''"""Exercise."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from grader.exercise import Case, Exercise

exercise = Exercise("l01-scaled-sum", "T", 1, 5, "easy", "core", ("arrays",), ("h",))
LIMIT: int = 3


'''


def exercise_from(tmp_path, body: str):
    return tiny_exercise(tmp_path, "scaled_sum", ("l01_plain/scaled_sum.py", "", HEAD + textwrap.dedent(body)))


def test_a_functions_stub_is_its_signature_docstring_and_nothing_of_its_body(tmp_path):
    stub = source.stub(tiny_exercise(tmp_path, "scaled_sum"))
    assert stub == (
        "def scaled_sum(base: np.ndarray, update: np.ndarray, scale: float) -> np.ndarray:\n"
        '    """Add the update, scaled, to the base.\n\n'
        "    base, update: (N, D) float64. scale: any number. Returns (N, D): base + scale * update.\n"
        '    """\n'
        "    raise NotImplementedError"
    )


def test_a_classs_stub_keeps_public_methods_and_drops_private_ones_and_attributes(tmp_path):
    exercise = exercise_from(
        tmp_path,
        '''
        @exercise.reference
        class ScaledSum(dict):
            """Doc."""

            secret = 3

            def __init__(self, size: int) -> None:
                """size: how many."""
                super().__init__()
                self.size = size

            @property
            def double(self) -> int:
                """Twice."""
                return 2 * self.size

            @staticmethod
            def without(x: int) -> int:
                # A comment that tells the answer.
                return x + 1

            def _private(self):
                return 1

            def short(self): return 99

            def multi(
                self,
                a: dict[str, int],  # a comment that belongs to the signature
                b=lambda x: {1: x},
            ) -> dict[str, int]:
                # tells
                @functools.cache
                def inner():
                    return 1
                return inner
        ''',
    )
    stub = source.stub(exercise)
    ast.parse(stub)
    assert stub == textwrap.dedent(
        '''\
        class ScaledSum(dict):
            """Doc."""

            def __init__(self, size: int) -> None:
                """size: how many."""
                raise NotImplementedError

            @property
            def double(self) -> int:
                """Twice."""
                raise NotImplementedError

            @staticmethod
            def without(x: int) -> int:
                raise NotImplementedError

            def short(self):
                raise NotImplementedError

            def multi(
                self,
                a: dict[str, int],  # a comment that belongs to the signature
                b=lambda x: {1: x},
            ) -> dict[str, int]:
                raise NotImplementedError'''
    )


VIEWED = '''
    @dataclass
    class Shape:
        """What the probe needs."""

        rows: int


    @functools.cache
    def helper(rows):
        return Shape(rows + LIMIT)


    def secret_helper(x):
        return math.isqrt(x) + 123456789


    @exercise.reference
    @functools.lru_cache(maxsize=None)
    def scaled_sum(x):
        """Doc."""
        return secret_helper(x) * 987654321


    @exercise.alternative
    def other(x):
        return 123454321 * secret_helper(x)


    @exercise.misconception(hint="no")
    def wrong(x):
        return 55555


    @exercise.probe
    def probe(answer, x):
        return answer(helper(x).rows)


    @exercise.cases
    def cases(seed):
        yield Case("hidden case", {"x": 4242 + seed}, visible=False)
    '''


def test_the_public_view_runs_and_holds_probe_helpers_with_their_decorators_but_no_answer_or_case(tmp_path):
    view = source.public_view(exercise_from(tmp_path, VIEWED))
    for secret in ("123456789", "987654321", "123454321", "55555", "4242", "hidden case", "secret_helper", "@exercise"):
        assert secret not in view
    namespace: dict = {"__name__": __name__}
    exec(compile(view, "<view>", "exec", dont_inherit=True), namespace)
    assert namespace["probe"](lambda rows: rows, 4) == 7
    assert hasattr(namespace["helper"], "cache_info")
    with pytest.raises(NotImplementedError):
        namespace["scaled_sum"](1)


def test_the_public_view_refuses_a_probe_that_reaches_an_answer_through_a_helper(tmp_path):
    body = VIEWED.replace("return Shape(rows + LIMIT)", "return Shape(other(rows))")
    with pytest.raises(ValueError, match="its probe uses other, which is an answer"):
        source.public_view(exercise_from(tmp_path, body))


def test_the_solution_runs_alone_with_the_imports_helpers_and_decorators_it_needs(tmp_path):
    text = source.answer_source(exercise_from(tmp_path, VIEWED))
    namespace: dict = {"__name__": __name__}
    exec(compile(text, "<solution>", "exec", dont_inherit=True), namespace)
    assert namespace["scaled_sum"](4) == (2 + 123456789) * 987654321
    assert hasattr(namespace["scaled_sum"], "cache_info")
    assert "@exercise" not in text
    assert "import numpy" not in text
    assert "probe" not in text


def test_answer_lines_are_those_that_only_right_answers_hold(tmp_path):
    exercise = exercise_from(
        tmp_path,
        '''
        @exercise.reference
        def scaled_sum(x, some_long_argument_name=1):
            """A docstring line that is public, in the stub."""
            # a long comment that gives nothing away
            value = np.exp(x) + some_long_argument_name
            shared_with_wrong = value * 2 + 1 - 5
            y = 1
            return np.where(value > 0, value, y)

        @exercise.alternative
        def other(x):
            return np.maximum(np.exp(x) + 1, 0) + 0

        @exercise.misconception(hint="no")
        def wrong(x):
            value = 1
            shared_with_wrong = value * 2 + 1 - 5
            return value
        ''',
    )
    assert source.answer_lines(exercise) == {
        "value=np.exp(x)+some_long_argument_name",
        "returnnp.where(value>0,value,y)",
        "returnnp.maximum(np.exp(x)+1,0)+0",
    }
    assert "y=1" in source.answer_lines(exercise, shortest=3)


def test_a_form_feed_does_not_shift_the_lines(tmp_path):
    exercise = exercise_from(tmp_path, "\x0c\n@exercise.reference\ndef scaled_sum(x):\n    '''Doc.'''\n    return x\n")
    assert source.stub(exercise).startswith("def scaled_sum(x):\n    '''Doc.'''")


def cell(text: str, name: str):
    file = f"<cell {name} {hash(text)}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    namespace: dict = {"__name__": "__main__"}
    exec(compile(text, file, "exec", dont_inherit=True), namespace)
    return namespace[name]


def test_the_source_of_a_function_or_class_in_a_cell_is_found():
    text = "X = 1\nclass A:\n    def f(self):\n        return 1\n\ndef g(x):\n    return x\n"
    assert source.source_of(cell(text, "A")) == "class A:\n    def f(self):\n        return 1"
    assert source.source_of(cell(text, "g")) == "def g(x):\n    return x\n"
    assert source.source_of(eval("lambda: 1")) == ""
    assert source.source_of(type("Empty", (), {})) == ""
    assert source.source_of(3) == ""
