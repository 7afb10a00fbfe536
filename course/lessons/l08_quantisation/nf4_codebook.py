"""The NormalFloat codebook: 16 quantiles of the normal distribution (Dettmers et al. 2023, arXiv:2305.14314, sec. 3).

Worked number: the largest quantile is taken at probability 0.9677083, where the normal distribution reaches 1.848; the
next one on the positive side is at 0.9092448, 1.336; divided, 1.336 / 1.848 = 0.723, NF4's second largest value.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import NormalDist

import torch
from torch import Tensor

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l08-nf4-codebook",
    title="The 16 numbers of NF4, from normal quantiles",
    points=3,
    minutes=15,
    difficulty="medium",
    importance="core",
    skills=("quantisation",),
    hints=(
        "Three parts: eight positive values, one zero, seven negative ones. Make each side by itself.",
        "`torch.linspace(offset, 0.5, 9)` is nine probabilities, the last of which is 0.5. What is the quantile at "
        "0.5, and how often may it be in the codebook?",
        "From probability to value leads the quantile function that the docstring names, the inverse of the cumulative "
        "distribution. Take minus for the other side, sort, and divide by the largest.",
    ),
    forbidden=("bitsandbytes",),
    library_note="bitsandbytes builds the table the same way in create_normal_map and keeps its 16 numbers as "
    "constants in every kernel. Yoshida (2023, arXiv:2306.06965) showed that equal use of all codes is not what makes "
    "the error smallest, and that the best codebook depends on the block size; NF4 stayed the usual choice.",
    interview="Why are NF4's values quantiles of a normal distribution, and why is it not symmetric?",
)


@exercise.reference
def nf4_codebook(offset: float = 0.9677083, symmetric: bool = False) -> Tensor:
    """The values of a 4-bit NormalFloat, ascending, float32, from -1 to 1, exactly one of them 0.

    A quantile of probability p is the x below which a standard normal variable falls with probability p:
    scipy.stats.norm.ppf(p), torch.special.ndtri(p) or statistics.NormalDist().inv_cdf(p). Only bitsandbytes is not to
    be called.
    Positive values: the quantiles of 8 probabilities: of 9 points, evenly spaced from offset to 0.5, all but 0.5
        itself. offset is always one of them.
    Negative values: minus the quantiles of 7 probabilities: of 8 points, evenly spaced from offset to 0.5, all but 0.5
        itself.
    Add 0, and divide all by the largest value. That makes 16 values, one for each code of four bits.
    symmetric=True: 7 probabilities on the positive side, too, so 15 values.
    offset: the largest probability, between 0.5 and 1. At 1 the quantile would be infinite.
    Calculating in float32 is precise enough: values are compared to about 1e-5. The result is float32 in any case.

    Source: Dettmers et al. 2023, arXiv:2305.14314, section 3; create_normal_map of bitsandbytes.
    """

    def one_side(count: int) -> Tensor:
        probabilities = torch.linspace(offset, 0.5, count + 1, dtype=torch.float64)[:-1]
        return torch.special.ndtri(probabilities)

    values = torch.cat([-one_side(7), torch.zeros(1, dtype=torch.float64), one_side(7 if symmetric else 8)])
    return (values / values.max()).sort().values.float()


@exercise.alternative
def standard_library(offset: float = 0.9677083, symmetric: bool = False) -> Tensor:
    above = NormalDist()
    values = [0.0]
    for sign, count in ((1, 7 if symmetric else 8), (-1, 7)):
        for i in range(1, count + 1):
            values.append(sign * above.inv_cdf(0.5 + (offset - 0.5) * i / count))
    return torch.tensor([value / max(values) for value in sorted(values)], dtype=torch.float32)


@exercise.alternative
def with_scipy(offset: float = 0.9677083, symmetric: bool = False) -> Tensor:
    import numpy as np
    from scipy.stats import norm

    high = norm.ppf(np.linspace(0.5, offset, 8 if symmetric else 9))
    low = norm.ppf(np.linspace(1 - offset, 0.5, 8))
    return torch.tensor(np.concatenate([low[:-1], [0.0], high[1:]]) / high[-1]).float()


def quantiles(probabilities: Tensor) -> Tensor:
    """Standard normal quantiles, float64."""
    return torch.special.ndtri(probabilities.double())


def joined(negative: Tensor, positive: Tensor, divisor: float | None = None) -> Tensor:
    """Both sides, given without their signs, and a zero; divided by the largest unless told otherwise."""
    values = torch.cat([-negative, torch.zeros(1), positive]).sort().values
    return (values / (values.max() if divisor is None else divisor)).float()


def right_side(offset: float, count: int) -> Tensor:
    """The quantiles of one side, for wrong answers that go astray elsewhere."""
    return quantiles(torch.linspace(offset, 0.5, count + 1)[:-1])


@exercise.misconception(
    hint="Your values are evenly spaced: that is an integer format. NormalFloat spaces its probabilities evenly, so "
    "that the values are dense near 0, where most weights are."
)
def evenly_spaced(offset: float = 0.9677083, symmetric: bool = False) -> Tensor:
    return torch.linspace(-1, 1, 15 if symmetric else 16)


@exercise.misconception(
    hint="Your ends are at probability 1 (or 0), where the normal quantile is infinite. Divided by infinity, "
    "everything else is 0. The outermost probability is `offset`."
)
def ends_at_infinity(offset: float = 0.9677083, symmetric: bool = False) -> Tensor:
    return joined(right_side(1.0, 7), right_side(1.0, 7 if symmetric else 8))


@exercise.misconception(
    hint="One even row of probabilities from end to end has no point at 0.5, so 0 is not among your values. Weights "
    "that are exactly 0 (padding, pruning) would be changed. Make the two sides separately, with a 0 between them."
)
def zero_missing(offset: float = 0.9677083, symmetric: bool = False) -> Tensor:
    values = quantiles(torch.linspace(1 - offset, offset, 15 if symmetric else 16))
    return (values / values.max()).float()


@exercise.misconception(
    hint="You put a 0 into one even row of probabilities from end to end. 0 is there now, but the two sides are to be "
    "made separately, each with its own step from `offset` to 0.5."
)
def zero_added_to_one_row(offset: float = 0.9677083, symmetric: bool = False) -> Tensor:
    values = quantiles(torch.linspace(1 - offset, offset, 14 if symmetric else 15))
    return (torch.cat([values, torch.zeros(1)]).sort().values / values.max()).float()


@exercise.misconception(
    hint="You took the middle of each of 16 equal shares of the distribution. That is the textbook quantile quantiser; "
    "it has no 0, and it ignores `offset`. NF4 makes the two sides separately."
)
def middles_of_equal_shares(offset: float = 0.9677083, symmetric: bool = False) -> Tensor:
    count = 15 if symmetric else 16
    values = quantiles((torch.arange(count) + 0.5) / count)
    return (values / values.max()).float()


@exercise.misconception(
    hint="Your two sides have changed places: the positive side has the eighth value, not the negative one."
)
def eight_negative_values(offset: float = 0.9677083, symmetric: bool = False) -> Tensor:
    return joined(right_side(offset, 7 if symmetric else 8), right_side(offset, 7))


@exercise.misconception(
    hint="0 is among your values twice: both of your sides still hold probability 0.5. A code that stands for a number "
    "that is there already is a code wasted."
)
def zero_twice(offset: float = 0.9677083, symmetric: bool = False) -> Tensor:
    positive = quantiles(torch.linspace(0.5, offset, 7 if symmetric else 8))
    negative = quantiles(torch.linspace(0.5, offset, 8))
    return (torch.cat([-negative, positive]).sort().values / positive.max()).float()


@exercise.misconception(
    hint="0 is there three times: each side of yours still ends at probability 0.5, and you add a 0 besides. Leave 0.5 "
    "out: that takes one more point on each side before it is dropped."
)
def zero_three_times(offset: float = 0.9677083, symmetric: bool = False) -> Tensor:
    negative, positive = (torch.linspace(offset, 0.5, count) for count in (7, 7 if symmetric else 8))
    return joined(quantiles(negative), quantiles(positive))


@exercise.misconception(
    hint="Those are NF4's 16 constants, for every offset. Calculate them from `offset`: other tables are asked for, "
    "too."
)
def constants(offset: float = 0.9677083, symmetric: bool = False) -> Tensor:
    usual = 0.9677083
    return joined(right_side(usual, 7), right_side(usual, 7 if symmetric else 8))


@exercise.misconception(
    hint="You used the cumulative distribution itself: from value to probability. What is wanted is its inverse, from "
    "probability to value."
)
def distribution_not_inverted(offset: float = 0.9677083, symmetric: bool = False) -> Tensor:
    negative, positive = (torch.linspace(offset, 0.5, count)[:-1] for count in (8, 8 if symmetric else 9))
    return joined(torch.special.ndtr(negative), torch.special.ndtr(positive))


@exercise.misconception(
    hint="The shape is right, the size is not: the ends are at about 1.85, not at 1. Blocks are divided by their "
    "largest absolute value before the look-up, so the codebook has to end at -1 and 1."
)
def not_divided(offset: float = 0.9677083, symmetric: bool = False) -> Tensor:
    return joined(right_side(offset, 7), right_side(offset, 7 if symmetric else 8), divisor=1.0)


@exercise.misconception(
    hint="You spaced the quantiles themselves evenly between 0 and the end. Space the probabilities evenly, and let "
    "the quantile function bend them."
)
def even_steps_on_each_side(offset: float = 0.9677083, symmetric: bool = False) -> Tensor:
    return joined(torch.arange(1, 8) / 7, torch.arange(1, 8) / 7 if symmetric else torch.arange(1, 9) / 8)


@exercise.misconception(
    hint="Your negative side is the mirror of the positive one without its smallest value. It has steps of its own: 7 "
    "probabilities, evenly spaced over the same range."
)
def mirrored_without_the_smallest(offset: float = 0.9677083, symmetric: bool = False) -> Tensor:
    positive = right_side(offset, 7 if symmetric else 8)
    return joined(positive[:7], positive)


@exercise.misconception(
    hint="You left out the wrong end: `offset` is no longer among your probabilities, and 0.5 still is. In which "
    "direction do yours run?"
)
def offset_left_out(offset: float = 0.9677083, symmetric: bool = False) -> Tensor:
    positive = quantiles(torch.linspace(0.5, offset, 8 if symmetric else 9)[:-1])
    return joined(quantiles(torch.linspace(0.5, offset, 8)[:-1]), positive)


@exercise.misconception(
    hint="The two sides are right, but 0 is not among your values: it is to be added between them, as a value of its "
    "own."
)
def zero_not_added(offset: float = 0.9677083, symmetric: bool = False) -> Tensor:
    values = joined(right_side(offset, 7), right_side(offset, 7 if symmetric else 8))
    return values[values != 0]


@exercise.misconception(
    hint="Your probabilities go down in steps of a sixteenth (or a fifteenth) from `offset`, whatever `offset` is. The "
    "step follows from the range: from `offset` to 0.5 in equal parts."
)
def steps_of_a_sixteenth(offset: float = 0.9677083, symmetric: bool = False) -> Tensor:
    positive = quantiles(offset - torch.arange(7 if symmetric else 8) / 16)
    return joined(quantiles(offset - torch.arange(7) / 15), positive)


@exercise.misconception(
    hint="Symmetric is not the larger side with its smallest value dropped: with 7 probabilities, the steps are wider. "
    "Both sides are then made alike."
)
def seven_of_eight_steps(offset: float = 0.9677083, symmetric: bool = False) -> Tensor:
    return joined(right_side(offset, 7), right_side(offset, 8)[: 7 if symmetric else 8])


@exercise.misconception(
    hint="`symmetric` changes nothing in your answer: the positive side always has eight values. When it is True, both "
    "sides have seven."
)
def symmetric_ignored(offset: float = 0.9677083, symmetric: bool = False) -> Tensor:
    return joined(right_side(offset, 7), right_side(offset, 8))


@exercise.misconception(
    hint="When `symmetric`, you give both sides eight values. That makes 17 with the 0, more than four bits can name."
)
def symmetric_with_eight(offset: float = 0.9677083, symmetric: bool = False) -> Tensor:
    return joined(right_side(offset, 8 if symmetric else 7), right_side(offset, 8))


@exercise.misconception(
    hint="The values are right, their dtype is not: numpy, scipy and Python calculate in float64, and from_numpy hands "
    "that on. A codebook in float64 would make every weight it decodes twice as wide."
)
def left_in_float64(offset: float = 0.9677083, symmetric: bool = False) -> Tensor:
    return joined(right_side(offset, 7), right_side(offset, 7 if symmetric else 8)).double()


@exercise.misconception(hint="The values are right, their order is not: ascending, so that code 0 stands for -1.")
def descending(offset: float = 0.9677083, symmetric: bool = False) -> Tensor:
    return joined(right_side(offset, 7), right_side(offset, 7 if symmetric else 8)).flip(0)


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    narrow = 0.9 + 0.05 * (seed % 10) / 10
    yield Case("nf4", {"offset": 0.9677083, "symmetric": False}, "for NF4 itself")
    yield Case("other offset", {"offset": narrow, "symmetric": False}, "for another offset")
    yield Case("symmetric", {"offset": 0.9677083, "symmetric": True}, "when symmetric, with 15 values")
    yield Case("long tails", {"offset": 0.995, "symmetric": False}, "for an offset near 1", visible=False)
    yield Case("another", {"offset": narrow + 0.02, "symmetric": True}, "when symmetric, elsewhere", visible=False)


@exercise.oracle
def oracle(offset: float, symmetric: bool) -> Tensor:
    from bitsandbytes.functional import create_normal_map

    table = create_normal_map(offset=offset, use_extra_value=not symmetric)  # 256 long, filled up with zeros
    return table.unique(sorted=True)


@exercise.diagnose
def diagnose(got: Tensor, want: Tensor, **_: float) -> str | None:
    """Says it when only the order is wrong."""
    ascending = got.sort().values
    if not torch.equal(got, ascending) and torch.allclose(ascending.double(), want.double(), atol=1e-5):
        return "The values are right, their order is not: they have to ascend."
    return None
