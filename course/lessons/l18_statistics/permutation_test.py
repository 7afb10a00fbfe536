"""A paired permutation test (Fisher 1935): if neither run is better, each question's two scores may change places.

Worked number: five differences of +1 and none of 0. Of the 32 ways to exchange, 2 give a mean as far from 0: p = 1/16.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from grader.exercise import Case, Exercise

ROUNDING = 1e-9
ROUNDING_HINT = (
    "Rounding decides your ties. Means that are equal on paper come out a last digit apart, because 0.1 has no exact "
    "value in floating point; some are counted and some are not. Leave a little room in the comparison."
)

exercise = Exercise(
    id="l18-permutation-test",
    title="A paired permutation test for any score",
    points=2,
    minutes=12,
    difficulty="medium",
    importance="core",
    skills=("statistics", "evaluation"),
    hints=(
        "Exchanging the two scores of one question turns the sign of its difference, and does nothing else.",
        "Each row of `flips` is one way to exchange: multiply it into the differences and add up.",
        "Count the rows whose total is at least as far from 0 as the one observed, and the observed one itself.",
    ),
    forbidden=("scipy.stats.permutation_test", "scipy.stats._resampling.permutation_test"),
    library_note="scipy.stats.permutation_test(..., permutation_type='samples') tries all ways where there are no more "
    "than n_resamples of them, and then needs no + 1. Drawn ways are a sample, and the observed one is always "
    "possible: without the + 1 a p-value could be 0 (Phipson and Smyth 2010).",
    interview="How do you test a difference in ROUGE between two models, where McNemar does not apply?",
)


@exercise.reference
def permutation_test(before: np.ndarray, after: np.ndarray, flips: np.ndarray) -> float:
    """The two-sided p-value of a paired permutation test on the mean difference.

    before, after: (N,) float64 scores of the same N questions (any number: parts of a point, F1, ROUGE).
    flips: (R, N) of +1.0 and -1.0, R ways, drawn at random, to keep (+1) or exchange (-1) the scores of each question.
    p = (1 + ways whose mean difference is at least as far from 0 as the observed one) / (1 + R). A mean difference that
    falls short by less than 1e-9 counts as equally far: floating point rounds 0.1 and its like, and equal means come
    out unequal.
    """
    differences = after - before
    means = flips @ differences / len(differences)
    as_far = np.abs(means) > abs(differences.mean()) - ROUNDING
    return float((1 + as_far.sum()) / (1 + len(flips)))


def totals(before, after, flips) -> tuple[float, np.ndarray]:
    """The observed sum of differences, and the sum under each way to exchange, without what rounding leaves."""
    differences = after - before
    return round(float(differences.sum()), 9), np.round(flips @ differences, 9)


@exercise.alternative
def exchanging_scores(before, after, flips):
    """Really exchanges the scores, one way after the other."""
    wanted = abs(sum(after.tolist()) - sum(before.tolist()))
    count = 1
    for way in flips:
        first, second = np.where(way > 0, before, after), np.where(way > 0, after, before)
        distance = abs(second.sum() - first.sum())
        count += bool(distance > wanted or math.isclose(distance, wanted, abs_tol=1e-9))
    return count / (len(flips) + 1)


@exercise.misconception(
    hint="The observed arrangement is one of the possible ones, too. Without counting it a p-value can be exactly 0, "
    "which no finite number of draws can show."
)
def observed_left_out(before, after, flips):
    observed, found = totals(before, after, flips)
    return float((abs(found) >= abs(observed)).mean())


@exercise.misconception(
    hint="Only means on the side of the observed one are counted. Before you looked, the difference could have gone "
    "either way."
)
def one_sided_by_accident(before, after, flips):
    observed, found = totals(before, after, flips)
    return float((1 + (found * np.sign(observed or 1) >= abs(observed)).sum()) / (1 + len(flips)))


@exercise.misconception(
    hint="You count positive means only, so a run that got worse can never be significant. Compare distances from 0."
)
def upper_side_only(before, after, flips):
    observed, found = totals(before, after, flips)
    return float((1 + (found >= observed).sum()) / (1 + len(flips)))


@exercise.misconception(
    hint="The observed difference lost its sign and the ways kept theirs, so those as far below 0 are not counted: "
    "about half of all. Both are distances from 0."
)
def ways_keep_their_sign(before, after, flips):
    observed, found = totals(before, after, flips)
    return float((1 + (found >= abs(observed)).sum()) / (1 + len(flips)))


@exercise.misconception(
    hint="The ways lost their sign and the observed difference kept its own. After a loss it is negative, and every "
    "way counts as farther. Both are distances from 0."
)
def observed_keeps_its_sign(before, after, flips):
    observed, found = totals(before, after, flips)
    return float((1 + (abs(found) >= observed).sum()) / (1 + len(flips)))


@exercise.misconception(
    hint="Ties are left out. A way that gives exactly the observed mean is as far from 0 as it, and with scores of 0 "
    "and 1 there are many."
)
def ties_left_out(before, after, flips):
    observed, found = totals(before, after, flips)
    return float((1 + (abs(found) > abs(observed)).sum()) / (1 + len(flips)))


@exercise.misconception(
    hint="This throws all 2N scores into one pot and deals them anew. Then an easy question's score can land beside a "
    "hard one's: the pairs are gone. Exchange only within a question."
)
def pairs_broken(before, after, flips):
    pot = np.concatenate([before, after])
    random = np.random.default_rng(0)
    observed = abs(after.sum() - before.sum()) - ROUNDING
    found = []
    for _ in flips:
        dealt = random.permutation(pot)
        found.append(abs(dealt[: len(before)].sum() - dealt[len(before) :].sum()))
    return float((1 + (np.array(found) >= observed).sum()) / (1 + len(flips)))


@exercise.misconception(
    hint="You turn the signs of the later run's scores. What changes its sign, when two scores change places, is their "
    "difference."
)
def scores_flipped(before, after, flips):
    observed = abs((after - before).sum()) - ROUNDING
    return float((1 + (abs((flips * after - before).sum(axis=1)) >= observed).sum()) / (1 + len(flips)))


@exercise.misconception(
    hint="You average over the ways, and get one number a question. Each way deals out all N questions and has one "
    "mean difference: there are R of them to count."
)
def averaged_over_the_ways(before, after, flips):
    found = (flips * (after - before)).mean(axis=0)
    return float((1 + (abs(found) > abs((after - before).mean()) - ROUNDING).sum()) / (1 + len(flips)))


@exercise.misconception(
    hint="You measure how far a way lies from the observed difference. If neither run is better, the ways scatter "
    "around 0, and the question is how many get as far from 0 as the observed one did."
)
def distance_from_the_observed(before, after, flips):
    observed, found = totals(before, after, flips)
    return float((1 + (abs(found - observed) > abs(observed) - ROUNDING).sum()) / (1 + len(flips)))


@exercise.misconception(hint=ROUNDING_HINT)
def rounding_decides(before, after, flips):
    differences = after - before
    return float((1 + (abs(flips @ differences) >= abs(differences.sum())).sum()) / (1 + len(flips)))


@exercise.misconception(hint=ROUNDING_HINT)
def rounding_decides_row_by_row(before, after, flips):
    differences = after - before
    found = (flips * differences).mean(axis=1)
    return float((1 + (abs(found) >= abs(differences.mean())).sum()) / (1 + len(flips)))


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    random = np.random.default_rng([seed, 184])

    def case(name: str, before, after, rounds: int, about: str, visible: bool = True) -> Case:
        before, after = np.asarray(before, float), np.asarray(after, float)
        flips = random.choice([-1.0, 1.0], size=(rounds, len(before)))
        return Case(name, {"before": before, "after": after, "flips": flips}, about, visible)

    def scores(count: int, shift: float) -> tuple[np.ndarray, np.ndarray]:
        """Quarters of a point, so that every sum is exact."""
        before = random.integers(0, 5, count) / 4
        after = np.clip(before + np.round(4 * random.normal(shift, 0.4, count)) / 4, 0, 1)
        return before, after

    yield case("right or wrong", random.random(24) < 0.4, random.random(24) < 0.65, 300, "with scores of 0 and 1")
    lower, higher = sorted(scores(30, 0.15), key=np.sum)
    yield case("worse", higher, lower, 400, "when the later run is worse")
    # 3 ways as far below 0 as the observed one and 1 as far above: an answer that counts one side shows which.
    few = np.array([[1, 1, 1, 1], [1, -1, 1, 1], [-1, -1, -1, -1], [1, 1, 1, 1], [-1, -1, 1, 1], [1, 1, 1, 1]], float)
    all_lost = {"before": np.ones(4), "after": np.zeros(4), "flips": few}
    yield Case("all lost", all_lost, "when every question is lost, with six ways")
    # About a third of the ways that tie with the observed one fall short of it by rounding.
    old, new = [3, 10, 5, 4, 6, 1, 3, 4, 3, 4], [6, 5, 9, 2, 8, 3, 0, 0, 7, 8]
    yield case(
        "tenths", np.array(old) / 10, np.array(new) / 10, 300, "with scores in tenths, which floating point rounds"
    )
    yield case("better", *scores(26, 0.12), 199, "with parts of a point", visible=False)
    same = random.integers(0, 5, 15) / 4
    yield case("the same", same, same, 50, "when nothing changed", visible=False)
    yield case("clear", np.zeros(40), np.ones(40), 150, "when every question is gained", visible=False)
    yield case("drawn", *scores(int(random.integers(20, 60)), 0.08), 501, "", visible=False)


class Replayed(np.random.Generator):
    """A generator whose `permuted` deals the given ways: scipy draws its exchanges through this one method."""

    def __init__(self, flips: np.ndarray) -> None:
        super().__init__(np.random.PCG64(0))
        self.flips = flips

    def permuted(self, x, *, axis=None, out=None):
        exchanged = self.flips < 0
        return np.stack([exchanged, ~exchanged], axis=-1).astype(int)  # places of (own, other) score


@exercise.oracle
def oracle(before, after, flips):
    from scipy.stats import permutation_test

    found = permutation_test(
        (before, after),
        lambda first, second, axis: np.abs((second - first).mean(axis=axis)),
        permutation_type="samples",
        vectorized=True,
        n_resamples=len(flips),
        alternative="greater",  # of the absolute mean: both sides
        rng=Replayed(flips),
    )
    return float(found.pvalue)
