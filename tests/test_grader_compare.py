"""compare says the first difference, in a fixed order, in one sentence that names place and values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grader import wire
from grader.compare import compare

NAN, INF = math.nan, math.inf


def difference(got, want, rtol=1e-5, atol=1e-6):
    return compare(wire.encode(got), wire.encode(want), rtol=rtol, atol=atol)


def tensor(*values, dtype=torch.float32):
    return torch.tensor(values, dtype=dtype)


@pytest.mark.parametrize(
    ("got", "want", "kind", "sentence"),
    [
        (None, tensor(1.0), "none", "the result is None, a tensor (1,) was expected: is a `return` missing?"),
        (None, 0, "none", "the result is None, the int 0 was expected: is a `return` missing?"),
        (3, None, "type", "the result is the int 3, None was expected"),
        ([1.0], tensor(1.0), "type", "the result is a list of 1, a tensor (1,) was expected"),
        (np.ones(1, np.float32), tensor(1.0), "type", "the result is a numpy array of shape (1,), a tensor (1,) was"),
        ("1", 1, "type", "the result is the str '1', the int 1 was expected"),
        (True, 1, "type", "the result is the bool True, the int 1 was expected"),
        (1, True, "type", "the result is the int 1, the bool True was expected"),
        (True, 1.0, "type", "the result is the bool True, the float 1.0 was expected"),
        (1.0, 1, "type", "the result is the float 1.0, the int 1 was expected"),
        ([1], {"a": 1}, "type", "the result is a list of 1, a dict with 1 keys was expected"),
        ({"a": 1}, [1], "type", "the result is a dict with 1 keys, a list of 1 was expected"),
        ({"a": 1, "c": 2}, {"a": 9, "b": 2}, "keys", "the result lacks `b` and has `c` too many"),
        ({}, {str(i): 1 for i in range(6)}, "keys", "the result lacks `0`, `1`, `2`, `3` and 2 more"),
        ({"1": 1}, {1: 1}, "keys", "the result lacks `1` and has `1` too many"),
        ({"k" * 240_000: 1}, {}, "keys", f"the result has `{'k' * 120}... (240,000 characters)` too many"),
        ({10**5000: 1}, {}, "keys", "the result has `a whole number of 16,610 bits` too many"),
        ([9, 2], [1, 2, 3], "length", "the result has 2 items, 3 were expected"),
        (tensor(1, 2), tensor(1.0), "shape", "the result has shape (2,), (1,) was expected"),
        (torch.ones(2, 3), torch.ones(3, 2), "shape", "the result has shape (2, 3), (3, 2) was expected"),
        (tensor(9.0, dtype=torch.float64), tensor(1.0), "dtype", "the result has dtype float64, float32 was expected"),
        (tensor(1.0, dtype=torch.bfloat16), tensor(1.0), "dtype", "the result has dtype bfloat16, float32 was"),
        (tensor(1.0, NAN), tensor(9.0, 2.0), "non-finite", "the result is nan at [1], where 2 was expected (1 of 2"),
        (tensor(INF), tensor(-INF), "non-finite", "the result is inf at [0], where -inf was expected"),
        (NAN, 1.0, "non-finite", "the result is nan, 1 was expected"),
        (INF, 1.0, "non-finite", "the result is inf, 1 was expected"),
        (2.5, 1.0, "value", "the result is 2.5, 1 was expected"),
        ("b", "a", "value", "the result is 'b', 'a' was expected"),
        (
            torch.tensor([[1.0, 2.0], [3.5, 0.0]]),
            torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
            "value",
            "the result is 3.5 at [1, 0], 3 was expected; 2 of 4 values differ, the largest difference is 4",
        ),
        (tensor(1, 5, dtype=torch.int64), tensor(1, 2, dtype=torch.int64), "value", "the result is 5 at [1], 2 was"),
        (tensor(True), tensor(False), "value", "the result is 1 at [0], 0 was expected"),
        ({"a": [1.0, {"b": 2.0}]}, {"a": [1.0, {"b": 3.0}]}, "value", "`a[1].b` is 2, 3 was expected"),
        ((1, 2, 4), (1, 2, 3), "value", "`[2]` is 4, 3 was expected"),
    ],
)
def test_the_first_difference_is_told_in_one_sentence(got, want, kind, sentence):
    found = difference(got, want)
    assert found is not None
    assert found.kind == kind
    assert found.sentence.startswith(sentence)
    assert "\n" not in found.sentence


@pytest.mark.parametrize(
    ("first", "second"),
    [("none", "type"), ("keys", "value"), ("length", "value"), ("shape", "dtype"), ("dtype", "value")],
)
def test_the_order_is_fixed(first, second):
    """Two things are wrong at once; the earlier kind is told."""
    both = {
        "none": (None, tensor(1.0)),
        "keys": ({"a": 9}, {"a": 1, "b": 1}),
        "length": ([9], [1, 1]),
        "shape": (torch.zeros(2, dtype=torch.float64), torch.ones(3)),
        "dtype": (torch.zeros(2, dtype=torch.float64), torch.ones(2)),
    }
    found = difference(*both[first])
    assert found is not None
    assert found.kind == first


@pytest.mark.parametrize(
    ("got", "want"),
    [
        ([1, 2], (1, 2)),
        (1, 1.0),
        (1.0, tensor(1.0).squeeze()),
        (tensor(1.0).squeeze(), 1.0),
        (np.float64(1.0), 1.0),
        (tensor(NAN, INF, -INF), tensor(NAN, INF, -INF)),
        (NAN, NAN),
        (tensor(0.0), tensor(-0.0)),
        (tensor(1.0 + 1e-6), tensor(1.0)),
        (torch.ones(0, 3), torch.zeros(0, 3)),
        ({"b": 1, "a": 2}, {"a": 2, "b": 1}),
    ],
)
def test_honest_styles_of_one_answer_pass(got, want):
    assert difference(got, want) is None


@pytest.mark.parametrize("finite", [0.0, 1.0, -3e38])
@pytest.mark.parametrize("wanted", [INF, -INF, NAN])
def test_a_finite_value_never_passes_for_one_that_is_not(finite, wanted):
    """An attention mask of -inf: |0 - (-inf)| <= rtol * inf must not count as near."""
    for got, want in ((finite, wanted), (wanted, finite)):
        assert difference(got, want) is not None
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            assert difference(tensor(got, 1.0, dtype=dtype), tensor(want, 1.0, dtype=dtype)) is not None


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(width=32), min_size=1, max_size=5), st.data(), st.floats(0, 10), st.floats(0, 10))
def test_a_nan_never_passes_unless_it_was_wanted(values, data, rtol, atol):
    place = data.draw(st.integers(0, len(values) - 1))
    spoiled = [*values[:place], NAN, *values[place + 1 :]]
    passes = math.isnan(values[place])
    assert (difference(tensor(*spoiled), tensor(*values), rtol, atol) is None) == passes
    assert (difference(spoiled[place], values[place], rtol, atol) is None) == passes


def test_zeros_do_not_pass_for_tiny_values_above_the_tolerance():
    assert difference(torch.zeros(3), torch.full((3,), 2e-6)) is not None
    assert difference(torch.zeros(3), torch.full((3,), 5e-7)) is None  # Below atol: `grader verify` refuses such cases.
    assert difference(torch.zeros(3), torch.full((3,), 1e-3), atol=1e-2) is None
    assert difference(0.0, 2e-6) is not None


@pytest.mark.parametrize("want", [3, 3.0, tensor(3.0).squeeze(), "3"])
def test_a_huge_whole_number_is_told_not_raised(want):
    for huge in (10**400, -(10**5000)):
        found = difference(huge, want)
        assert found is not None
        assert len(found.sentence) < 300


def test_long_values_are_shortened():
    found = difference("x" * 10_000, "y")
    assert found is not None
    assert len(found.sentence) < 300
    assert "characters" in found.sentence


@pytest.mark.filterwarnings("error")
def test_comparing_odd_values_never_warns():
    """A warning goes to stderr, and nbgrader scores that 0."""
    odd = [NAN, INF, -INF, 0.0, 3e38, -3e38]
    for got in odd:
        for want in odd:
            difference(tensor(got, got), tensor(want, want))
            difference(tensor(got, dtype=torch.float64) * 1e200, tensor(want, dtype=torch.float64) * -1e200)
            difference(got, want)
