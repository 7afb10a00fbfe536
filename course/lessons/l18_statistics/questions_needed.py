"""How many questions show a gain: sample size for two shares, with separate questions and with the same ones.

Normal approximations; the paired one counts only questions that change (Connor 1987, without his correction; Miller
2024, section 5, argues the same way). Worked number: from 40 % to 43 % at 80 % power, 4,231 questions a run when each
run has its own; if both runs answer the same ones and disagree on 12 % of them, 1,045.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import NormalDist

import numpy as np

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l18-questions-needed",
    title="How many questions show three points?",
    points=3,
    minutes=20,
    difficulty="hard",
    importance="core",
    skills=("statistics", "evaluation"),
    hints=(
        "Two distances make up the gain: from 0 to the line where a result counts as shown, and from there to the true "
        "gain, so far that 80 % of results lie beyond the line.",
        "Both distances are so many standard errors: z(1 - alpha / 2) and z(power). The standard error of a difference "
        "of shares shrinks with the root of n.",
        "With separate questions the variances of both shares add up. With the same questions a difference is -1, 0 or "
        "1, and `disagree` is how often it is not 0.",
    ),
    library_note="statsmodels.stats.power solves the same equation for several tests. None knows how often your two "
    "runs disagree: measure it on a pilot of 50 to 100 questions. These formulas approximate; the next cells simulate.",
    interview="How large must your test set be to see an improvement of three points?",
    rtol=1e-9,  # the default would let a question in a hundred thousand go
)


@exercise.reference
def questions_needed(
    before: float, after: float, disagree: float, power: float = 0.8, alpha: float = 0.05
) -> dict[str, float]:
    """Questions that a two-sided z-test at `alpha` needs to show a true change from `before` to `after` with `power`.

    before, after: true shares of right answers, between 0 and 1 (both excluded), not equal. disagree: share of
    questions that exactly one of the two runs gets right; at least |after - before|, at most the smaller of
    before + after and 2 - before - after. With d = after - before and z(q) the normal quantile:
    - "unpaired", for each run, when each has questions of its own: (z(1 - alpha/2) + z(power))² times
      (before (1 - before) + after (1 - after)) / d²;
    - "paired", when both answer the same ones:
      (z(1 - alpha/2) · root of disagree + z(power) · root of (disagree - d²))² / d².
    Both rounded up to whole questions. "saved": 1 - paired / unpaired, float, of the rounded numbers; it is negative
    where `disagree` is so large that pairing does not help.

    Both approximate: they are good from some hundred questions on, and where `disagree` is well above |d|.
    """
    gain = after - before
    z_line, z_power = NormalDist().inv_cdf(1 - alpha / 2), NormalDist().inv_cdf(power)
    spread = before * (1 - before) + after * (1 - after)
    unpaired = math.ceil((z_line + z_power) ** 2 * spread / gain**2)
    reach = z_line * math.sqrt(disagree) + z_power * math.sqrt(disagree - gain**2)
    paired = math.ceil(reach**2 / gain**2)
    return {"unpaired": unpaired, "paired": paired, "saved": 1 - paired / unpaired}


def planned(
    before, after, disagree, z_line, z_power, *, spread=None, at_line=None, beyond=None, scale=1.0, rounded=math.ceil
):
    """The plan with its pieces open, for the answers below; at_line, beyond: variances of one paired difference."""
    gain = scale * (after - before)
    if spread is None:
        spread = before * (1 - before) + after * (1 - after)
    at_line = disagree if at_line is None else at_line
    beyond = max(disagree - gain**2, 0.0) if beyond is None else beyond
    unpaired = rounded((z_line + z_power) ** 2 * spread / gain**2)
    paired = rounded((z_line * at_line**0.5 + z_power * beyond**0.5) ** 2 / gain**2)
    return {"unpaired": unpaired, "paired": paired, "saved": 1 - paired / unpaired}


VARIANCES_HINT = (
    "Two standard errors belong to `paired`, and yours has one. The line is drawn as if nothing had changed: a "
    "difference then has the variance `disagree`. Around the true change its mean is d, which takes d² away from it."
)
ROUNDED_HINT = (
    "A part of a question is left off, so the power comes out a little below the wanted one. Round up, always."
)


def quantiles(power: float, alpha: float) -> tuple[float, float]:
    return NormalDist().inv_cdf(1 - alpha / 2), NormalDist().inv_cdf(power)


@exercise.alternative
def search_by_power(before, after, disagree, power=0.8, alpha=0.05):
    """Bisects for the smallest n whose power is enough."""
    normal, gain = NormalDist(), abs(after - before)
    line = -normal.inv_cdf(alpha / 2)

    def least(enough) -> int:
        low, high = 0, 1
        while not enough(high):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if enough(middle) else (middle, high)
        return high

    def separate(n: int) -> bool:
        error = ((before * (1 - before) + after * (1 - after)) / n) ** 0.5
        return normal.cdf(gain / error - line) >= power

    def same(n: int) -> bool:
        return normal.cdf((gain * n**0.5 - line * disagree**0.5) / (disagree - gain**2) ** 0.5) >= power

    found = {"unpaired": least(separate), "paired": least(same)}
    return {**found, "saved": (found["unpaired"] - found["paired"]) / found["unpaired"]}


@exercise.misconception(
    hint="z(1 - alpha) is the line of a one-sided test. A two-sided one leaves alpha / 2 on each side and needs more "
    "questions."
)
def one_sided_line(before, after, disagree, power=0.8, alpha=0.05):
    return planned(before, after, disagree, NormalDist().inv_cdf(1 - alpha), NormalDist().inv_cdf(power))


@exercise.misconception(
    hint="You bring the true gain onto the line and stop there: then half of all evaluations fall short of it. "
    "z(power) puts it beyond."
)
def power_forgotten(before, after, disagree, power=0.8, alpha=0.05):
    return planned(before, after, disagree, NormalDist().inv_cdf(1 - alpha / 2), 0.0)


@exercise.misconception(
    hint="Your quantile for the power is negative: it belongs to the share of evaluations that may miss the change. So "
    "the true gain comes to lie before the line, not beyond it."
)
def quantile_of_the_missed_share(before, after, disagree, power=0.8, alpha=0.05):
    return planned(before, after, disagree, *quantiles(1 - power, alpha))


@exercise.misconception(
    hint="z(power) is one-sided: only results beyond the line in the true direction count. With z((1 + power) / 2) you "
    "ask for more than was wanted."
)
def power_on_both_sides(before, after, disagree, power=0.8, alpha=0.05):
    return planned(before, after, disagree, *quantiles((1 + power) / 2, alpha))


@exercise.misconception(
    hint="Only one of the two shares has a variance in your `unpaired`. Both runs are samples: the variance of a "
    "difference is the sum of both, so yours is about half."
)
def variance_of_one_run(before, after, disagree, power=0.8, alpha=0.05):
    return planned(before, after, disagree, *quantiles(power, alpha), spread=before * (1 - before))


@exercise.misconception(hint=VARIANCES_HINT)
def variance_without_the_gain(before, after, disagree, power=0.8, alpha=0.05):
    return planned(before, after, disagree, *quantiles(power, alpha), beyond=disagree)


@exercise.misconception(hint=VARIANCES_HINT)
def variance_with_the_gain_at_the_line(before, after, disagree, power=0.8, alpha=0.05):
    return planned(before, after, disagree, *quantiles(power, alpha), at_line=disagree - (after - before) ** 2)


@exercise.misconception(
    hint="You take 1.96 and 0.84 whatever is asked. They belong to alpha 0.05 and power 80 %, and are rounded: let "
    "`alpha` and `power` decide."
)
def quantiles_from_memory(before, after, disagree, power=0.8, alpha=0.05):
    return planned(before, after, disagree, 1.96, 0.84)


@exercise.misconception(hint=ROUNDED_HINT)
def rounded_to_nearest(before, after, disagree, power=0.8, alpha=0.05):
    return planned(before, after, disagree, *quantiles(power, alpha), rounded=round)


@exercise.misconception(hint=ROUNDED_HINT)
def rounded_down(before, after, disagree, power=0.8, alpha=0.05):
    return planned(before, after, disagree, *quantiles(power, alpha), rounded=math.floor)


@exercise.misconception(
    hint="`saved` is taken of the numbers before they were rounded. It belongs to the two that you return, so that "
    "whoever reads them can recompute it."
)
def saved_before_rounding(before, after, disagree, power=0.8, alpha=0.05):
    whole, exact = (
        planned(before, after, disagree, *quantiles(power, alpha), rounded=each) for each in (math.ceil, float)
    )
    return whole | {"saved": exact["saved"]}


@exercise.misconception(
    hint="Your `saved` stops at 0. Where the runs have little in common, pairing needs more questions than it saves, "
    "and whoever plans has to see that: let it be negative."
)
def saved_never_negative(before, after, disagree, power=0.8, alpha=0.05):
    found = planned(before, after, disagree, *quantiles(power, alpha))
    return found | {"saved": max(0.0, found["saved"])}


@exercise.misconception(
    hint="The gain is taken in points (3), the shares as fractions (0.03). That makes every sample 10,000 times too "
    "small."
)
def gain_in_points(before, after, disagree, power=0.8, alpha=0.05):
    return planned(before, after, disagree, *quantiles(power, alpha), scale=100)


@exercise.misconception(
    hint="Your `paired` is half of `unpaired`. How much pairing saves is no constant: it depends on how often the runs "
    "disagree, and you are told that."
)
def paired_as_half(before, after, disagree, power=0.8, alpha=0.05):
    unpaired = planned(before, after, disagree, *quantiles(power, alpha))["unpaired"]
    return {"unpaired": unpaired, "paired": math.ceil(unpaired / 2), "saved": 1 - math.ceil(unpaired / 2) / unpaired}


@exercise.misconception(hint="Your `unpaired` counts the questions of both runs together. It is asked for each run.")
def both_runs_together(before, after, disagree, power=0.8, alpha=0.05):
    found = planned(before, after, disagree, *quantiles(power, alpha))
    unpaired = 2 * found["unpaired"]
    return {"unpaired": unpaired, "paired": found["paired"], "saved": 1 - found["paired"] / unpaired}


@exercise.misconception(
    hint="The gain is not squared. Errors shrink with the root of n, so half the gain needs four times the questions."
)
def gain_not_squared(before, after, disagree, power=0.8, alpha=0.05):
    gain, found = abs(after - before), planned(before, after, disagree, *quantiles(power, alpha))
    unpaired, paired = (max(1, math.ceil(found[key] * gain)) for key in ("unpaired", "paired"))
    return {"unpaired": unpaired, "paired": paired, "saved": 1 - paired / unpaired}


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    random = np.random.default_rng([seed, 185])

    def case(name: str, before: float, after: float, disagree: float, about: str, visible=True, **more) -> Case:
        return Case(name, {"before": before, "after": after, "disagree": disagree, **more}, about, visible)

    yield case("three points", 0.40, 0.43, 0.12, "for 40 % to 43 %")
    yield case("seven points", 0.62, 0.69, 0.25, "for 62 % to 69 %")
    yield case("a loss", 0.55, 0.50, 0.18, "when the share falls", visible=False)
    yield case("nothing in common", 0.50, 0.58, 0.52, "when the runs have nothing in common", visible=False)
    yield case("power", 0.30, 0.35, 0.16, "at 90 % power", visible=False, power=0.9)
    yield case("stricter", 0.70, 0.74, 0.2, "at alpha 0.01", visible=False, alpha=0.01)
    before = round(float(random.uniform(0.3, 0.6)), 3)
    gain = round(float(random.uniform(0.02, 0.06)), 3)
    disagree = round(gain + float(random.uniform(0.08, 0.2)), 3)
    yield case("drawn", before, before + gain, disagree, "", visible=False)


@exercise.oracle
def oracle(before, after, disagree, power=0.8, alpha=0.05):
    """scipy's root of "power reached with n questions = power wanted"; the power from scipy's normal distribution."""
    from scipy.optimize import brentq
    from scipy.stats import norm

    gain, line = abs(after - before), norm.isf(alpha / 2)

    def questions(at_line: float, beyond: float) -> float:
        """at_line, beyond: standard deviations of one question's difference, without a change and with the true one."""
        return math.ceil(brentq(lambda n: norm.cdf((gain * n**0.5 - line * at_line) / beyond) - power, 1e-9, 1e9))

    separate = (before * (1 - before) + after * (1 - after)) ** 0.5
    unpaired, paired = questions(separate, separate), questions(disagree**0.5, (disagree - gain**2) ** 0.5)
    # As floats: a whole number is a whole number, whichever type an answer gives it.
    return {"unpaired": float(unpaired), "paired": float(paired), "saved": 1 - paired / unpaired}


EVALUATIONS = 20_000
NOTICEABLE = 0.02


def simulated_power(before: float, after: float, disagree: float, alpha: float, questions: int, paired: bool) -> float:
    """The share of simulated evaluations in which a two-sided test at `alpha` shows the change."""
    random = np.random.default_rng(2026)
    line = NormalDist().inv_cdf(1 - alpha / 2)
    if paired:
        gained, lost = (disagree + after - before) / 2, (disagree - after + before) / 2
        counts = random.multinomial(questions, [gained, lost, 1 - gained - lost], size=EVALUATIONS)
        difference = np.abs(counts[:, 0] - counts[:, 1])
        return float((difference > line * np.sqrt(counts[:, 0] + counts[:, 1])).mean())
    shares = [random.binomial(questions, share, EVALUATIONS) / questions for share in (before, after)]
    error = np.sqrt(sum(share * (1 - share) for share in shares) / questions)
    return float((np.abs(shares[1] - shares[0]) > line * error).mean())


@exercise.diagnose
def diagnose(got, want, before, after, disagree, power=0.8, alpha=0.05) -> str | None:
    """What the answer's number of questions would reach, where that is not the power wanted."""
    for name in ("unpaired", "paired"):
        questions = int(got[name])
        reached = simulated_power(before, after, disagree, alpha, questions, name == "paired")
        if abs(reached - power) > NOTICEABLE:
            return (
                f"Of {EVALUATIONS:,} simulated evaluations with {questions:,} questions {100 * reached:.0f} % find the "
                f"change, {100 * power:.0f} % were wanted"
            )
    return None
