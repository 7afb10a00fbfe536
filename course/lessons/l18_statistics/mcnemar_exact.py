"""McNemar's exact test (McNemar 1947): two runs on the same questions, and only those they disagree on count.

Worked number: run B gains 12 questions and loses 4. Of 16 flips of a fair coin, 4 or fewer heads or 12 or more come
with probability 0.077, however many questions both got right.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import comb

import numpy as np

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l18-mcnemar-exact",
    title="McNemar's exact test",
    points=2,
    minutes=12,
    difficulty="medium",
    importance="core",
    skills=("statistics", "evaluation"),
    hints=(
        "A question that both runs get right, or both wrong, says nothing about which run is better.",
        "If neither is better, each question they disagree on is a fair coin. How surprising is this many heads?",
        "math.comb(n, k) / 2**n is the probability of k heads in n flips; count both tails, and at most 1 in all.",
    ),
    forbidden=("scipy.stats.binomtest", "scipy.stats._binomtest.binomtest", "statsmodels.stats.contingency_tables"),
    library_note="scipy.stats.binomtest(gained, gained + lost).pvalue is the same number; statsmodels has it as "
    "mcnemar(table, exact=True). Its chi-squared version, which many scripts use, is an approximation and too bold "
    "when few questions change.",
    interview="Two models answered the same 500 questions. Which test, and what does it look at?",
)


@exercise.reference
def mcnemar_exact(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """Compare two runs on the same questions: {"gained": int, "lost": int, "p": float}.

    before, after: (N,) bool, whether each run answered question i right; the same order.
    gained: questions only `after` has right; lost: those only `before` has right.
    p: two-sided probability, when each of the n = gained + lost changed questions is a fair coin, of a split at least
    as uneven as this one; 1.0 when nothing changed.
    """
    gained = int((after & ~before).sum())
    lost = int((before & ~after).sum())
    changed = gained + lost
    tail = sum(comb(changed, heads) for heads in range(min(gained, lost) + 1)) / 2**changed
    return {"gained": gained, "lost": lost, "p": min(1.0, 2 * tail)}


def changes(before, after) -> tuple[int, int]:
    pairs = list(zip(before.tolist(), after.tolist(), strict=True))
    return pairs.count((False, True)), pairs.count((True, False))


def two_tails(fewer: int, flips: int) -> float:
    """Twice the lower tail of a fair coin, unlimited."""
    return 2 * sum(comb(flips, heads) for heads in range(fewer + 1)) / 2**flips


@exercise.alternative
def every_split_as_rare(before, after):
    """Adds up all splits that are no more probable than the one seen."""
    gained, lost = changes(before, after)
    row = [1]
    for _ in range(gained + lost):
        row = [left + right for left, right in zip([0, *row], [*row, 0], strict=True)]
    return {"gained": gained, "lost": lost, "p": sum(ways for ways in row if ways <= row[gained]) / sum(row)}


ALL_FLIP_HINT = (
    "Your coin is flipped once for every question. Questions that both runs answer alike cannot tell the runs "
    "apart; only the changed ones are flips."
)
ONE_SPLIT_HINT = (
    "This is the probability of exactly the split you saw. With many flips every single split is rare, even the "
    "most even one. Ask for a split at least as uneven: add up that one and all beyond it, on both sides."
)


def result(before, after, p: float) -> dict[str, float]:
    gained, lost = changes(before, after)
    return {"gained": gained, "lost": lost, "p": p}


@exercise.misconception(
    hint="Only one tail is counted. You did not know beforehand which run would win, so a split as uneven the other "
    "way counts as well."
)
def one_sided(before, after):
    gained, lost = changes(before, after)
    return result(before, after, min(1.0, two_tails(min(gained, lost), gained + lost) / 2))


@exercise.misconception(hint=ALL_FLIP_HINT)
def agreements_flip_too(before, after):
    gained, _ = changes(before, after)
    return result(before, after, min(1.0, two_tails(min(gained, len(before) - gained), len(before))))


@exercise.misconception(hint=ALL_FLIP_HINT)
def fewer_changes_of_all_questions(before, after):
    fewer, more = sorted(changes(before, after))
    return result(before, after, min(1.0, two_tails(fewer, len(before))) if more else 1.0)


@exercise.misconception(
    hint="You compare the questions both get right with those both get wrong. That says whether the questions are "
    "easy, not which run is better. Look at the other two fields of the table."
)
def concordant_pairs(before, after):
    both, neither = int((before & after).sum()), int((~before & ~after).sum())
    return result(before, after, min(1.0, two_tails(min(both, neither), both + neither)))


@exercise.misconception(
    hint="This is a test for two separate sets of questions (Fisher's). The runs answered the same ones: throwing the "
    "pairs away throws away most of what you know."
)
def unpaired(before, after):
    from scipy.stats import fisher_exact

    table = [[int(before.sum()), int((~before).sum())], [int(after.sum()), int((~after).sum())]]
    return result(before, after, float(fisher_exact(table).pvalue))


@exercise.misconception(
    hint="This is the chi-squared approximation. With few changed questions it is too bold; the exact sum is a few "
    "lines."
)
def chi_squared(before, after):
    from scipy.stats import chi2

    gained, lost = changes(before, after)
    changed = max(1, gained + lost)
    return result(before, after, float(chi2.sf((gained - lost) ** 2 / changed, 1)))


@exercise.misconception(
    hint="This is the chi-squared approximation with its continuity correction: nearer to the exact value than the "
    "plain one, and still a guess with few changed questions. Add up the coin's probabilities."
)
def chi_squared_with_correction(before, after):
    from scipy.stats import chi2

    gained, lost = changes(before, after)
    distance = max(0, abs(gained - lost) - 1)
    return result(before, after, float(chi2.sf(distance**2 / max(1, gained + lost), 1)))


@exercise.misconception(hint=ONE_SPLIT_HINT)
def this_split_alone(before, after):
    gained, lost = changes(before, after)
    return result(before, after, comb(gained + lost, gained) / 2 ** (gained + lost))


@exercise.misconception(hint=ONE_SPLIT_HINT)
def this_split_on_both_sides(before, after):
    gained, lost = changes(before, after)
    return result(before, after, min(1.0, 2 * comb(gained + lost, gained) / 2 ** (gained + lost)))


@exercise.misconception(
    hint="Only splits more uneven than the one seen are counted. The p-value includes the one you saw."
)
def own_split_left_out(before, after):
    gained, lost = changes(before, after)
    return result(before, after, two_tails(min(gained, lost) - 1, gained + lost))


@exercise.misconception(hint="`gained` and `lost` are exchanged: gained are those that only the later run has right.")
def directions_exchanged(before, after):
    gained, lost = changes(before, after)
    return {"gained": lost, "lost": gained, "p": min(1.0, two_tails(min(gained, lost), gained + lost))}


@exercise.misconception(
    hint="A p-value came out above 1: when as many are gained as lost, both tails hold the middle, and doubling counts "
    "it twice. Nothing is more probable than 1."
)
def above_one(before, after):
    gained, lost = changes(before, after)
    return result(before, after, two_tails(min(gained, lost), gained + lost) if gained + lost else 1.0)


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    random = np.random.default_rng([seed, 183])

    def runs(both: int, gained: int, lost: int, neither: int) -> dict:
        before = np.repeat([True, False, True, False], [both, gained, lost, neither])
        after = np.repeat([True, True, False, False], [both, gained, lost, neither])
        order = random.permutation(len(before))
        return {"before": before[order], "after": after[order]}

    yield Case("gain", runs(20, 12, 4, 9), "with 12 gained and 4 lost")
    yield Case("tie", runs(7, 5, 5, 3), "when as many are gained as lost")
    yield Case("worse", runs(30, 3, int(random.integers(7, 12)), 11), "when the later run is worse", visible=False)
    yield Case("nothing changed", runs(8, 0, 0, 5), "when no answer changed", visible=False)
    yield Case("only gains", runs(1, 5, 0, 2), "when nothing was lost", visible=False)
    drawn = random.integers(8, 40, 4)
    yield Case("drawn", runs(*(int(each) for each in drawn)), "", visible=False)


@exercise.oracle
def oracle(before, after):
    from scipy.stats import binomtest

    gained, lost = int((~before & after).sum()), int((before & ~after).sum())
    p = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    return {"gained": gained, "lost": lost, "p": float(p)}
