"""Holm's correction (Holm 1979): adjusted p-values for several comparisons, never weaker than Bonferroni's.

Worked number: 0.01, 0.04, 0.03 become 0.03, 0.06, 0.06: of three results "below 0.05" one is left.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l18-holm",
    title="Several comparisons: Holm's correction",
    points=2,
    minutes=10,
    difficulty="medium",
    importance="core",
    skills=("statistics", "evaluation"),
    hints=(
        "The smallest p-value faces all m comparisons, the next one m - 1, and so on.",
        "No adjusted value may be smaller than that of a smaller p-value: carry the largest so far along.",
        "At the end put them back into the order in which they came.",
    ),
    forbidden=("statsmodels.stats.multitest.multipletests", "scipy.stats.false_discovery_control"),
    library_note="statsmodels' multipletests(p, method='holm') gives the same; R's p.adjust uses Holm by default. "
    "scipy.stats.false_discovery_control is another promise: it bounds the share of false claims among the claims "
    "made, not the chance of making any.",
    interview="You tried eight prompts and one is significant at 0.03. What do you report?",
)


@exercise.reference
def holm(p_values: list[float]) -> list[float]:
    """Holm-adjusted p-values, in the order given.

    p_values: m numbers from 0 to 1, m at least 1, unsorted; equal ones are allowed.
    The k-th smallest (k from 0) is multiplied by m - k. Then, from the smallest up, one that came out below the
    adjusted value before it takes that value (so equal p-values end up equal), and none may be above 1.
    No alpha enters: whoever then claims all that are at most 0.05 makes a false claim among them with a probability of
    at most 5 %.
    """
    count = len(p_values)
    adjusted = [0.0] * count
    largest = 0.0
    for rank, place in enumerate(sorted(range(count), key=p_values.__getitem__)):
        largest = max(largest, (count - rank) * p_values[place])
        adjusted[place] = min(1.0, largest)
    return adjusted


def ranked(p_values, factor) -> np.ndarray:
    """Each p-value times factor(rank, m), ranks from 0, in the order given."""
    values = np.asarray(p_values, float)
    ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    return values * np.array([factor(rank, len(values)) for rank in ranks.tolist()])


@exercise.alternative
def sorted_arrays(p_values):
    values = np.asarray(p_values, float)
    order = np.argsort(values)
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return np.minimum(steps, 1)[back].tolist()


@exercise.misconception(
    hint="Every value is multiplied by m: that is Bonferroni. It is right but weaker than need be; from the second "
    "smallest on fewer comparisons are left."
)
def bonferroni(p_values):
    return ranked(p_values, lambda rank, count: count).clip(max=1).tolist()


@exercise.misconception(
    hint="A larger p-value got a smaller adjusted one than a smaller p-value. Once one comparison fails, those behind "
    "it cannot pass: carry the running maximum."
)
def no_running_maximum(p_values):
    return ranked(p_values, lambda rank, count: count - rank).clip(max=1).tolist()


@exercise.misconception(
    hint="After the first that fails at 0.05, all others become 1. An adjusted p-value knows no alpha: it says at "
    "which level its comparison would just pass, and each keeps its own."
)
def one_after_the_first_failure(p_values):
    adjusted, failed = holm(p_values), False
    for place in np.argsort(p_values, kind="stable"):
        adjusted[place], failed = 1.0 if failed else adjusted[place], failed or adjusted[place] > 0.05
    return adjusted


@exercise.misconception(
    hint="You carry a running minimum from the largest downwards. That is Hochberg's procedure, which needs "
    "assumptions on how the tests depend on each other; Holm goes up from the smallest."
)
def hochberg(p_values):
    steps = ranked(p_values, lambda rank, count: count - rank)
    return [float(min(min(s for s, q in zip(steps, p_values, strict=True) if q >= p), 1)) for p in p_values]


@exercise.misconception(
    hint="m divided by the rank is Benjamini and Hochberg's: it bounds the share of false claims among all claims, "
    "which is a weaker promise."
)
def benjamini_hochberg(p_values):
    steps = ranked(p_values, lambda rank, count: count / (rank + 1))
    return [float(min(min(s for s, q in zip(steps, p_values, strict=True) if q >= p), 1)) for p in p_values]


@exercise.misconception(
    hint="The adjusted values come back sorted. Whoever reads them then pairs them with the wrong comparisons."
)
def order_lost(p_values):
    return sorted(holm(p_values))


POSITIONS_HINT = (
    "You take what argsort gives for the ranks. It says where the smallest value stands, then where the next one does: "
    "places, not ranks. The two are the same for some orders only, so it looks right on short lists."
)


@exercise.misconception(hint=POSITIONS_HINT)
def fetched_by_places(p_values):
    return [sorted(holm(p_values))[place] for place in np.argsort(p_values, kind="stable")]


@exercise.misconception(hint=POSITIONS_HINT)
def multiplied_by_places(p_values):
    steps = np.asarray(p_values) * (len(p_values) - np.argsort(p_values, kind="stable"))
    return [float(min(1, max(s for s, q in zip(steps, p_values, strict=True) if q <= p))) for p in p_values]


@exercise.misconception(hint="Some adjusted values are above 1. They are still probabilities.")
def above_one(p_values):
    steps = ranked(p_values, lambda rank, count: count - rank)
    return [float(max(s for s, q in zip(steps, p_values, strict=True) if q <= p)) for p in p_values]


@exercise.misconception(
    hint="Your multipliers start one too low: the smallest p-value faces all m comparisons, and the largest is "
    "multiplied by 1, not by 0."
)
def ranks_off_by_one(p_values):
    steps = ranked(p_values, lambda rank, count: count - rank - 1)
    return [float(min(1, max(s for s, q in zip(steps, p_values, strict=True) if q <= p))) for p in p_values]


@exercise.misconception(
    hint="Nothing is adjusted. With m comparisons of equal models, the smallest of m p-values is below 0.05 far more "
    "often than in one case of twenty."
)
def nothing_adjusted(p_values):
    return [float(p) for p in p_values]


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    random = np.random.default_rng([seed, 187])

    def shuffled(values: list[float]) -> dict:
        return {"p_values": [values[place] for place in random.permutation(len(values)).tolist()]}

    yield Case("three", {"p_values": [0.01, 0.04, 0.03]}, "with three comparisons")
    yield Case("smallest last", {"p_values": [0.02, 0.04, 0.3, 0.001]}, "when the smallest stands last")
    yield Case("eight", shuffled([0.001, 0.012, 0.011, 0.2, 0.35, 0.03, 0.74, 0.9]), "with eight comparisons")
    yield Case("one", {"p_values": [0.037]}, "with a single comparison")
    yield Case("ties", shuffled([0.02, 0.02, 0.02, 0.5]), "with equal p-values", visible=False)
    yield Case("large", shuffled([0.6, 0.9, 0.45, 0.99]), "when nothing is small", visible=False)
    drawn = (random.random(int(random.integers(4, 8))) ** 3).round(6).tolist()
    yield Case("drawn", {"p_values": drawn}, "", visible=False)


@exercise.oracle
def oracle(p_values):
    """Holm from its definition, by enumeration: the closed test (Marcus, Peritz and Gabriel 1976).

    A comparison is rejected when every set of comparisons that holds it is, each by Bonferroni.
    """
    count = len(p_values)
    sets = [chosen for size in range(1, count + 1) for chosen in combinations(range(count), size)]
    return [
        max(min(1.0, len(chosen) * min(p_values[i] for i in chosen)) for chosen in sets if place in chosen)
        for place in range(count)
    ]
