"""The outcome digest: one for one wrong idea however it is written, another for another, and nothing for a learner."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_courses import tiny_exercise

from grader import wire
from grader.call import CallError, Outcome
from grader.judge import call_all, judge, prepare
from grader.outcome_digest import outcome_digest
from grader.show import result_card


def digest(value: object, **options: object) -> str:
    return outcome_digest([Outcome(wire.encode(value))], [False], **{"atol": 1e-6, **options})


@pytest.fixture(scope="module")
def scaled_sum(tmp_path_factory):
    return tiny_exercise(tmp_path_factory.mktemp("course"), "scaled_sum")


def judged(exercise, answer, **options):
    questions = prepare(exercise, 0)
    return judge(exercise, questions, call_all(exercise, answer, questions, limit_seconds=1), **options)


def test_one_wrong_idea_has_one_digest_however_it_is_written(scaled_sum):
    ways = [
        lambda base, update, scale: base - scale * update,
        lambda base, update, scale: -(scale * update - base),
        lambda base, update, scale: np.stack([b + u * -scale for b, u in zip(base, update, strict=True)]),
        lambda base, update, scale: (base.astype(np.longdouble) - np.longdouble(scale) * update).astype(float),
    ]
    assert len({judged(scaled_sum, way).outcome for way in ways}) == 1


def test_two_wrong_ideas_have_two(scaled_sum):
    ways = {
        "minus": lambda base, update, scale: base - scale * update,
        "squared": lambda base, update, scale: base + scale**2 * update,
        "twice": lambda base, update, scale: base + 2 * scale * update,
        "right but for one case": lambda base, update, scale: base + (scale if scale > 0 else 0) * update,
        "slightly off": lambda base, update, scale: base + (scale + 0.02) * update,
        "transposed": lambda base, update, scale: (base + scale * update).T,
        "raises": lambda base, update, scale: base @ update,
        "raises otherwise": lambda base, update, scale: base[99],
        "None": lambda base, update, scale: None,
    }
    found = {name: judged(scaled_sum, way).outcome for name, way in ways.items()}
    assert len(set(found.values())) == len(ways), found


def test_only_wrong_answers_have_one(scaled_sum):
    def stub(base, update, scale):
        raise NotImplementedError

    assert judged(scaled_sum, lambda base, update, scale: base + scale * update).outcome == ""
    assert judged(scaled_sum, stub).outcome == ""
    forbidden = judged(scaled_sum, lambda base, update, scale: base + scale * update, violations=["numpy.add"])
    assert len(forbidden.outcome) == 16


def test_it_is_keyed_and_no_card_shows_it(scaled_sum):
    def wrong(base, update, scale):
        return base - scale * update

    one, other = judged(scaled_sum, wrong, digest_key="1"), judged(scaled_sum, wrong, digest_key="2")
    assert one.outcome != other.outcome
    assert one.outcome not in result_card(one).html() + result_card(one).text()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e6))
def test_float_noise_seldom_splits(seed: int, scale: float):
    """Noise of float32 size on 1,000 values: rounding each of them would split nearly always."""
    generator = np.random.default_rng(seed)
    values = (scale * generator.normal(size=1000)).astype(np.float32)
    split = 0
    for _ in range(10):
        noisy = values * (1 + 2e-7 * generator.normal(size=1000)).astype(np.float32)
        split += digest(values, atol=0.0) != digest(noisy, atol=0.0)
    assert split <= 1


def test_noise_around_zero_and_half_precision():
    assert digest(np.zeros(5)) == digest(np.full(5, 3e-9)) != digest(np.full(5, 3e-3))
    assert digest(0.0) == digest(1e-9) == digest(-1e-9)
    import torch

    exact = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    noisy = (exact * 1.0001).bfloat16()
    assert digest(exact.bfloat16()) == digest(noisy)


def test_alike_for_compare_is_alike_here():
    assert digest([1.0, 2.0]) == digest((1, 2)) == digest([np.float64(1), np.array(2.0)])
    assert digest({"a": 1.0, "b": 2.0}) == digest({"b": 2.0, "a": 1.0})
    assert digest(np.zeros(3, np.float32)) != digest(np.zeros(3, np.float64))
    assert digest([12345]) != digest([12346]) != digest([True])
    assert digest(np.arange(9)) != digest(np.arange(9)[::-1].copy())


@pytest.mark.parametrize(
    "value",
    [None, float("nan"), float("inf"), 10**5000, "\ud800", b"\x00", [], {}, np.zeros(0), np.zeros((2, 0, 3)), [[]] * 9],
    ids=lambda value: repr(value)[:20] if not isinstance(value, int) else "long",
)
def test_odd_values_have_one_each(value: object):
    assert len(digest(value)) == 16
    assert digest(value) != digest("something else")


def test_where_an_array_is_not_finite_counts():
    first, second = np.ones(4), np.ones(4)
    first[0], second[1] = np.nan, np.nan
    assert len({digest(first), digest(second), digest(np.ones(4))}) == 3
    huge = np.array([1e300, -1e300])
    assert digest(huge) == digest(huge * (1 + 1e-12))


def test_an_address_in_a_message_does_not_split():
    def raised(message: str, kind: str = "TypeError") -> str:
        return outcome_digest([Outcome(error=CallError(kind, message, line=3))], [False], atol=0.0)

    assert raised("<A object at 0x7f00> is bad") == raised("<A object at 0x7fAB> is bad")
    assert len({raised("a"), raised("b"), raised("a", "ValueError")}) == 3
