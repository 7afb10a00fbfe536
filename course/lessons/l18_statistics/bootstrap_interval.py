"""A percentile bootstrap interval of a share, whole questions drawn (Efron 1979; Efron and Tibshirani 1993, ch. 13).

Worked number: 30 of 40 questions right, 2,000 resamples: 75 %, interval about 62.5 % to 87.5 %.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l18-bootstrap-interval",
    title="A bootstrap interval that draws questions",
    points=3,
    minutes=15,
    difficulty="medium",
    importance="core",
    skills=("statistics", "evaluation"),
    hints=(
        "One resample is a list of N question numbers. What a question brings (right and asked) stays together.",
        "Index both arrays with the same table of numbers and add up along its rows: one share for each resample.",
        "The interval leaves half of what is not wanted on each side: at 95 %, 2.5 % below and 2.5 % above.",
    ),
    forbidden=(
        "scipy.stats.bootstrap",
        "scipy.stats._resampling.bootstrap",
        "course.sql.bootstrap_interval",
        "course.sql.score.bootstrap_interval",
    ),
    library_note="scipy.stats.bootstrap draws in the same way and, unless told otherwise, then corrects the interval's "
    'two ends for bias and skewness (method="BCa"). For shares away from 0 and 100 % the two hardly differ. BCa fails '
    "where every answer is alike; the percentile interval then has no width, which is no proof of anything.",
    interview="How do you put a confidence interval on a metric for which you know no formula?",
)


@exercise.reference
def bootstrap_interval(
    right: np.ndarray, asked: np.ndarray, seed: int, resamples: int = 2000, confidence: float = 0.95
) -> tuple[float, float]:
    """The percentile bootstrap interval of the share sum(right) / sum(asked), as (low, high), fractions of 1.

    right, asked: (N,) whole numbers, as int64 or float64, one entry a question: how many of its parts were right, and
      how many it has (at least 1). With one part a question, `asked` is all ones and the share is accuracy. With
      `right` = after - before, entries of -1, 0 and 1, it is the gain of two runs on the same questions, and low and
      high may be negative.
    A resample draws N questions with replacement. Draw all of them at once, one resample a row:
      np.random.default_rng(seed).integers(0, N, size=(resamples, N))
    low and high are those quantiles of the resampled shares that leave (1 - confidence) / 2 on each side, interpolated
      linearly as np.quantile does.
    """
    drawn = np.random.default_rng(seed).integers(0, len(right), size=(resamples, len(right)))
    shares = right[drawn].sum(axis=1) / asked[drawn].sum(axis=1)
    outside = (1 - confidence) / 2
    low, high = np.quantile(shares, [outside, 1 - outside])
    return float(low), float(high)


def draws(count: int, seed: int, resamples: int) -> np.ndarray:
    """Question numbers, one resample a row."""
    return np.random.default_rng(seed).integers(0, count, size=(resamples, count))


def middle(shares: np.ndarray, below: float, above: float) -> tuple[float, float]:
    return float(np.quantile(shares, below)), float(np.quantile(shares, above))


def resampled(right: np.ndarray, asked: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    """The share in each resample, by how often each question was drawn."""
    counts = np.stack([np.bincount(row, minlength=len(right)) for row in draws(len(right), seed, resamples)])
    return (counts @ right) / (counts @ asked)


@exercise.alternative
def by_counting(right, asked, seed, resamples=2000, confidence=0.95):
    tail = 0.5 - confidence / 2
    return middle(resampled(right, asked, seed, resamples), tail, 1 - tail)


@exercise.alternative
def loop_and_sort(right, asked, seed, resamples=2000, confidence=0.95):
    generator, count = np.random.default_rng(seed), len(right)
    shares = []
    for _ in range(resamples):
        questions = generator.integers(0, count, size=count).tolist()
        shares.append(sum(int(right[q]) for q in questions) / sum(int(asked[q]) for q in questions))
    shares.sort()
    ends = []
    for level in ((1 - confidence) / 2, (1 + confidence) / 2):
        place = level * (resamples - 1)
        below = int(place)
        above = min(below + 1, resamples - 1)
        ends.append(shares[below] + (place - below) * (shares[above] - shares[below]))
    return tuple(ends)


@exercise.misconception(
    hint="You draw single parts (tokens, answers) as if they were independent. Parts of one question are right or "
    "wrong together, so this interval is too narrow. The unit to draw is the question."
)
def parts_drawn(right, asked, seed, resamples=2000, confidence=0.95):
    parts = np.concatenate(
        [np.resize([np.sign(r)], abs(r)).tolist() + [0] * (a - abs(r)) for r, a in zip(right, asked, strict=True)]
    )
    shares = parts[draws(len(parts), seed, resamples)].mean(axis=1)
    return middle(shares, (1 - confidence) / 2, (1 + confidence) / 2)


@exercise.misconception(
    hint="You average the questions' own shares. The statistic is a ratio of two sums: a question with many parts "
    "weighs more than one with few."
)
def mean_of_shares(right, asked, seed, resamples=2000, confidence=0.95):
    shares = (right / asked)[draws(len(right), seed, resamples)].mean(axis=1)
    return middle(shares, (1 - confidence) / 2, (1 + confidence) / 2)


@exercise.misconception(
    hint="`right` and `asked` are drawn separately, so a resample mixes the right answers of some questions with the "
    "number of parts of others. One draw of question numbers serves both."
)
def drawn_separately(right, asked, seed, resamples=2000, confidence=0.95):
    generator, count = np.random.default_rng(seed), len(right)
    above = right[generator.integers(0, count, size=(resamples, count))].sum(axis=1)
    below = asked[generator.integers(0, count, size=(resamples, count))].sum(axis=1)
    return middle(above / below, (1 - confidence) / 2, (1 + confidence) / 2)


@exercise.misconception(
    hint="Every resample is divided by the number of parts that the whole test set has. A resample that drew long "
    "questions holds more parts, one that drew short ones fewer: divide by what the same draw asked."
)
def divided_by_the_original_total(right, asked, seed, resamples=2000, confidence=0.95):
    shares = right[draws(len(right), seed, resamples)].sum(axis=1) / asked.sum()
    return middle(shares, (1 - confidence) / 2, (1 + confidence) / 2)


@exercise.misconception(
    hint="Your interval never leaves 0 to 1. That suits a share; `right` may also be a difference of two runs, and the "
    "interval of a gain that is not shown reaches below 0."
)
def kept_within_0_and_1(right, asked, seed, resamples=2000, confidence=0.95):
    low, high = middle(resampled(right, asked, seed, resamples), (1 - confidence) / 2, (1 + confidence) / 2)
    return max(0.0, low), min(1.0, high)


@exercise.misconception(
    hint="Each side leaves out 1 - confidence, so together twice as much as asked for: a 90 % interval called 95 %."
)
def whole_tail_on_each_side(right, asked, seed, resamples=2000, confidence=0.95):
    return middle(resampled(right, asked, seed, resamples), 1 - confidence, confidence)


@exercise.misconception(
    hint="This is the mean of the resamples plus and minus 1.96 of their standard deviations: a normal approximation. "
    "The percentile interval reads its ends off the resamples themselves."
)
def normal_approximation(right, asked, seed, resamples=2000, confidence=0.95):
    from statistics import NormalDist

    shares = resampled(right, asked, seed, resamples)
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * shares.std(ddof=1)
    return float(shares.mean() - reach), float(shares.mean() + reach)


@exercise.misconception(
    hint="Drawn without replacement, every resample is the same N questions in another order, and the interval has no "
    "width. Questions go back before the next one is drawn."
)
def without_replacement(right, asked, seed, resamples=2000, confidence=0.95):
    share = float(right.sum() / asked.sum())
    return share, share


@exercise.misconception(hint="The interval is always the 95 % one. Let `confidence` decide where the ends lie.")
def confidence_ignored(right, asked, seed, resamples=2000, confidence=0.95):
    return middle(resampled(right, asked, seed, resamples), 0.025, 0.975)


@exercise.misconception(hint="Your ends are in percent. The task asks for fractions of 1; percent are for showing.")
def in_percent(right, asked, seed, resamples=2000, confidence=0.95):
    low, high = middle(resampled(right, asked, seed, resamples), (1 - confidence) / 2, (1 + confidence) / 2)
    return 100 * low, 100 * high


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    random = np.random.default_rng([seed, 18])

    def case(name: str, right, asked, about: str, confidence: float, resamples: int, visible: bool = True) -> Case:
        inputs = {"right": np.asarray(right), "asked": np.asarray(asked), "seed": seed % 1000, "resamples": resamples}
        return Case(name, {**inputs, "confidence": confidence}, about, visible)

    def parts(count: int) -> tuple[np.ndarray, np.ndarray]:
        """Questions of 1 to 9 parts whose difficulty is their own."""
        asked = random.integers(1, 10, count)
        return random.binomial(asked, random.beta(0.7, 0.5, count)), asked

    accuracy = random.random(40) < 0.7
    yield case("accuracy", accuracy.astype(int), np.ones(40, int), "with one answer a question", 0.95, 400)
    yield case("parts", *parts(30), "when a question has several parts", 0.95, 300)
    gain = random.choice([-1, 0, 1], size=60, p=[0.1, 0.6, 0.3])
    yield case("gain", gain, np.ones(60, int), "when `right` is a difference", 0.9, 500)
    undecided = random.permutation(np.repeat([1, -1, 0], [7, 6, 37]))
    yield case("undecided", undecided, np.ones(50, int), "when as much may be lost as gained", 0.95, 300)
    yield case("two", [0, 1], [1, 1], "with two questions", 0.5, 51, visible=False)
    yield case("all right", np.ones(12, int), np.ones(12, int), "when all are right", 0.95, 99, visible=False)
    yield case("many parts", *parts(int(random.integers(20, 60))), "when questions are uneven", 0.8, 401, visible=False)


@exercise.oracle
def oracle(right, asked, seed, resamples, confidence):
    from scipy.stats import bootstrap

    found = bootstrap(
        (right, asked),
        lambda some, all_of_them, axis: some.sum(axis=axis) / all_of_them.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
