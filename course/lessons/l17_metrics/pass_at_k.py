"""pass@k without bias (Chen et al. 2021, "Evaluating Large Language Models Trained on Code", section 2.1, equation 1).

Worked number: 1 of 4 samples is right. Two samples drawn from them hold it with probability 1/2; the plug-in
1 - (3/4)^2 = 0.4375 is too low.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l17-pass-at-k",
    title="pass@k, unbiased",
    points=2,
    minutes=10,
    difficulty="easy",
    importance="extension",
    skills=("metrics",),
    hints=(
        "Turn it round: with what probability are all k drawn samples wrong?",
        "How many ways are there to draw k of n samples, and how many of them touch only wrong ones?",
        "`math.comb` counts ways, and is 0 where there are not enough to draw from.",
    ),
    rtol=1e-9,
    atol=1e-12,
    library_note="The paper's code multiplies 1 - k / i for i from n - c + 1 to n, because the factorials in the "
    "binomial coefficients of 200 samples overflow a float; Python's whole numbers do not. Hugging Face's code_eval "
    "does the same. Sampling needs a temperature, and the best one grows with k: say which you used.",
    interview="You drew 20 samples for each problem. How do you report pass@10, and why not 1 - (1 - pass@1)^10?",
)


@exercise.reference
def pass_at_k(counts: list[tuple[int, int]], k: int) -> float:
    """The chance that at least one of k samples solves a problem, averaged over problems.

    counts: for each problem, of which there is at least one, (n, c): n samples were drawn from the model, c of them
        were right; 0 <= c <= n, 1 <= k <= n.
    For one problem: draw k different ones of its n samples, all draws equally likely; the chance that at least one of
        them is right. pass@k itself is the chance that k fresh samples of the model hold a right one; this estimates it
        without bias.
    Returns the mean over problems, from 0 to 1. n and k may be some hundreds: products of that many numbers overflow a
        float.
    """
    chances = [1 - math.comb(n - c, k) / math.comb(n, k) for n, c in counts]
    return sum(chances) / len(chances)


@exercise.alternative
def as_a_product(counts, k):
    total = 0.0
    for n, c in counts:
        all_wrong = 1.0
        for drawn in range(k):
            all_wrong *= max(0, n - c - drawn) / (n - drawn)
        total += 1 - all_wrong
    return total / len(counts)


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


@exercise.misconception(
    hint="You raise the share of wrong samples to the power of k, which draws with replacement. That estimate is "
    "biased and too low: k different samples are drawn."
)
def with_replacement(counts, k):
    return mean([1 - (1 - c / n) ** k for n, c in counts])


@exercise.misconception(
    hint="A problem counts in full as soon as any of its n samples is right. That is pass@n: with k smaller than n the "
    "right one may not be among the k."
)
def any_of_all_samples(counts, k):
    return mean([float(c > 0) for n, c in counts])


@exercise.misconception(hint="That is pass@1, the share of right samples. With k > 1 there are k chances.")
def share_of_right_samples(counts, k):
    return mean([c / n for n, c in counts])


@exercise.misconception(
    hint="You multiply the share by k. Chances of several draws do not add up: two right ones among the k count once."
)
def share_times_k(counts, k):
    return mean([min(1.0, k * c / n) for n, c in counts])


@exercise.misconception(
    hint="You pool the samples of all problems. pass@k belongs to a problem: compute it for each, then average."
)
def problems_pooled(counts, k):
    n, c = sum(n for n, _ in counts), sum(c for _, c in counts)
    return 1 - math.comb(n - c, k) / math.comb(n, k)


@exercise.misconception(
    hint="You compute the chance that all k are right. At least one is enough: turn round the chance that all are "
    "wrong."
)
def all_k_right(counts, k):
    return mean([math.comb(c, k) / math.comb(n, k) for n, c in counts])


@exercise.misconception(
    hint="You compute the chance of exactly one right sample among the k. Two or more solve the problem as well: turn "
    "round the chance that all are wrong."
)
def exactly_one_right(counts, k):
    return mean([c * math.comb(n - c, k - 1) / math.comb(n, k) for n, c in counts])


OFF_BY_ONE_HINT = (
    "Your product of 1 - k / i is off by one. It has a factor for each right sample, and the last of them belongs to "
    "all n samples: a range in Python stops before its end."
)


def as_product(counts, k, factors) -> float:
    """One minus the product of 1 - k / i over the i that factors(n, c) gives; 1 where every draw holds a right one."""
    return mean([1 - math.prod(1 - k / i for i in factors(n, c)) if n - c >= k else 1.0 for n, c in counts])


@exercise.misconception(hint=OFF_BY_ONE_HINT)
def last_factor_missing(counts, k):
    return as_product(counts, k, lambda n, c: range(n - c + 1, n))


@exercise.misconception(hint=OFF_BY_ONE_HINT)
def factors_one_too_low(counts, k):
    return as_product(counts, k, lambda n, c: range(n - c, n))


@exercise.misconception(
    hint="With fewer than k wrong samples you give 0. Then every draw of k must hold a right one: the chance is 1."
)
def few_wrong_samples_give_zero(counts, k):
    return mean([0.0 if n - c < k else 1 - math.comb(n - c, k) / math.comb(n, k) for n, c in counts])


@exercise.misconception(
    hint="With hundreds of samples your products or factorials become larger than a float can be: infinity by infinity "
    "is not a number. Divide factor by factor, or stay with whole numbers."
)
def products_overflow(counts, k):
    def falling(most):
        return math.prod(float(most - drawn) for drawn in range(k))

    return mean([1 - falling(n - c) / falling(n) if n - c >= k else 1.0 for n, c in counts])


@exercise.misconception(hint="Your value is the chance that all k samples fail. One minus that is asked for.")
def chance_of_failure(counts, k):
    return mean([math.comb(n - c, k) / math.comb(n, k) for n, c in counts])


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    draw = random.Random(seed)

    def some(problems: int, most: int, k: int) -> list[tuple[int, int]]:
        sizes = [draw.randint(max(k, 4), most) for _ in range(problems)]
        return [(n, draw.randint(1, n - 2)) for n in sizes]

    yield Case("one in four", {"counts": [(4, 1)], "k": 2}, "when one of four samples is right")
    yield Case("several problems", {"counts": some(4, 9, 3), "k": 3}, "on several problems")
    yield Case("extremes", {"counts": [(6, 0), (6, 6), (6, 5), (7, 2)], "k": 4}, "when all or none are right")
    yield Case("k is one", {"counts": [*some(2, 9, 1), (8, 3)], "k": 1}, "with k = 1", visible=False)
    yield Case("k is n", {"counts": [(5, 1), (5, 0), (5, 3)], "k": 5}, "when k is n", visible=False)
    yield Case("more problems", {"counts": some(9, 12, 4), "k": 4}, "on more problems", visible=False)
    yield Case(
        "half of many", {"counts": [(400, 1 + seed % 3), (360, 2)], "k": 200}, "when hundreds are drawn of hundreds"
    )
    yield Case(
        "many samples", {"counts": [(400, 1 + seed % 3), (300, 2)], "k": 2}, "with hundreds of samples", visible=False
    )


@exercise.oracle
def oracle(counts: list[tuple[int, int]], k: int) -> float:
    """The right ones among k samples follow a hypergeometric distribution; sf(0) is its chance of more than none."""
    from scipy.stats import hypergeom

    return mean([float(hypergeom(n, c, k).sf(0)) for n, c in counts])
