"""Absmax quantisation to 8 bits, one scale a row (Dettmers et al. 2022, LLM.int8(), arXiv:2208.07339, 2.1 and 3.1).

Worked number: in a row whose largest absolute value is 0.5, the weight 0.1 is 0.1 * 127 / 0.5 = 25.4, so code 25; read
back it is 25 * 0.5 / 127 = 0.0984.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from course.lessons.l08_quantisation.clear_cut import clear_of_halves
from course.lessons.l08_quantisation.named_results import named
from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l08-absmax-int8",
    title="Eight bits a weight: absmax, row by row",
    points=2,
    minutes=10,
    difficulty="easy",
    importance="core",
    skills=("quantisation", "pytorch"),
    hints=(
        "Two steps: one number for each row, then every weight measured in that row's own unit.",
        "The largest absolute value of a row must land on 127 or -127 exactly. By what do you multiply the row?",
        "Work in float32 from the first line on, and let a row of zeros not divide by zero.",
    ),
    atol=0.0,  # a maximum is a choice, not a calculation
    forbidden=("bitsandbytes",),
    library_note="bitsandbytes returns a third thing, the columns with outliers: features above a threshold are left "
    "out of the 8 bits and multiplied in 16 (LLM.int8()). On a GPU it takes float16 only; its CPU code, which you "
    "were compared with, takes all three dtypes.",
    interview="Why one scale per row and not one per matrix? Why 127 and not 128?",
)


@exercise.reference
def absmax_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round each row of a matrix to whole numbers from -127 to 127, each row by a scale of its own.

    weight: (rows, columns); float32, float16 or bfloat16; finite. The largest absolute value of a row is 0 or at least
        1e-30, so that 127 / absmax is finite in float32.
    Returns (codes, absmax):
        absmax: (rows,) float32, the largest absolute value of each row;
        codes: (rows, columns) int8: weight * (127 / absmax), rounded to the nearest whole number, and a half to its
            even neighbour, as torch.round does. All arithmetic in float32, whatever dtype weight has. Its last bit
            may go either way (dividing first, say, or 127 / absmax, which torch calculates as 127 times 1 / absmax):
            no weight of a test lies where that decides its code.
    A row of zeros has absmax 0 and codes 0 (0 / 0 is NaN, and what NaN becomes as int8 depends on the machine). A row
    of tiny weights (1e-12, say) has codes up to 127 like any other. weight itself is not changed.

    Whoever reads codes * absmax / 127 gets the weights back, rounded.
    Source: Dettmers et al. 2022, arXiv:2208.07339, section 2.1 (absmax, one for the tensor) and 3.1 (one for each row).
    """
    values = weight.float()
    absmax = values.abs().amax(dim=1)
    per_unit = torch.where(absmax > 0, 127 / absmax, 0)
    return torch.round(values * per_unit.unsqueeze(1)).to(torch.int8), absmax


@exercise.alternative
def row_by_row(weight: Tensor) -> tuple[Tensor, Tensor]:
    codes, maxima = torch.zeros(weight.shape, dtype=torch.int8), torch.zeros(len(weight))
    for number, row in enumerate(weight.to(torch.float32)):
        maxima[number] = largest = max(row.max(), -row.min())
        if largest:
            codes[number] = (row / (largest / 127)).round()
    return codes, maxima


@exercise.alternative
def numpy_rint(weight: Tensor) -> tuple[Tensor, Tensor]:
    values = weight.float().numpy()
    largest = np.linalg.norm(values, ord=np.inf, axis=1)
    unit = np.maximum(largest, np.finfo(np.float32).tiny)[:, None]
    return torch.from_numpy(np.rint(values / unit * np.float32(127)).astype(np.int8)), torch.from_numpy(largest)


def coded(
    weight: Tensor, absmax: Tensor, levels: float = 127, rounding: Callable[[Tensor], Tensor] = torch.round
) -> Tensor:
    """The codes that the wrong answers below give, absmax broadcast against weight."""
    return rounding(torch.where(absmax > 0, weight.float() * (levels / absmax), 0)).to(torch.int32).to(torch.int8)


def row_maxima(weight: Tensor) -> Tensor:
    """Largest absolute value of each row, float32, as a column."""
    return weight.float().abs().amax(dim=1, keepdim=True)


@exercise.misconception(
    hint="You took one maximum for the whole matrix. One large weight anywhere then makes every row coarse: each row "
    "needs a maximum of its own."
)
def one_scale_for_all(weight: Tensor) -> tuple[Tensor, Tensor]:
    largest = weight.float().abs().max()
    return coded(weight, largest), largest


@exercise.misconception(
    hint="All rows have the same scale, that of the whole matrix. One large weight anywhere then makes every row "
    "coarse: each row needs a maximum of its own."
)
def one_scale_repeated(weight: Tensor) -> tuple[Tensor, Tensor]:
    codes, largest = one_scale_for_all(weight)
    return codes, largest.repeat(len(weight))


@exercise.misconception(
    hint="Your maxima are those of the columns. A row of this matrix is one output feature, and each row gets one "
    "number: which dimension has to disappear?"
)
def scale_per_column(weight: Tensor) -> tuple[Tensor, Tensor]:
    largest = weight.float().abs().amax(dim=0)
    return coded(weight, largest), largest


@exercise.misconception(
    hint="You scale to 128. int8 goes from -128 to 127, so the largest weight becomes 128, does not fit and wraps "
    "round to -128: it changes its sign."
)
def scaled_to_128(weight: Tensor) -> tuple[Tensor, Tensor]:
    return coded(weight, row_maxima(weight), levels=128), row_maxima(weight).squeeze(1)


@exercise.misconception(
    hint="You scale to 128 and clamp what does not fit. Then the largest weight, of all weights, is read back too "
    "small, and 0.5 and -0.5 have different steps. The range here is symmetric: what is its largest code?"
)
def scaled_to_128_and_clamped(weight: Tensor) -> tuple[Tensor, Tensor]:
    scaled = coded(weight, row_maxima(weight), levels=128, rounding=lambda x: x.round().clamp(-128, 127))
    return scaled, row_maxima(weight).squeeze(1)


@exercise.misconception(
    hint="Your codes are cut off towards zero: converting to an integer dtype does not round. The error is twice as "
    "large as it need be, and every weight shrinks."
)
def cut_off_instead_of_rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    return coded(weight, row_maxima(weight), rounding=torch.trunc), row_maxima(weight).squeeze(1)


@exercise.misconception(
    hint="Your codes are rounded down, always, so every weight moves a little to the left on average. Take the nearest "
    "whole number."
)
def rounded_down(weight: Tensor) -> tuple[Tensor, Tensor]:
    return coded(weight, row_maxima(weight), rounding=torch.floor), row_maxima(weight).squeeze(1)


@exercise.misconception(
    hint="Adding a half and rounding down sends every half upwards. This task, like IEEE arithmetic, sends halves to "
    "the even neighbour, so that they do not all move the same way."
)
def halves_upwards(weight: Tensor) -> tuple[Tensor, Tensor]:
    return coded(weight, row_maxima(weight), rounding=lambda x: torch.floor(x + 0.5)), row_maxima(weight).squeeze(1)


@exercise.misconception(
    hint="You took the largest value, not the largest absolute value. Where the row's largest weight is negative, the "
    "codes run over the end of the range."
)
def sign_not_dropped(weight: Tensor) -> tuple[Tensor, Tensor]:
    largest = weight.float().amax(dim=1, keepdim=True)
    return coded(weight, largest), largest.squeeze(1)


@exercise.misconception(
    hint="You took the largest value, not the largest absolute value, and clamped what ran over the end of the range. "
    "Then weights below minus the largest value come back too close to 0."
)
def sign_not_dropped_and_clamped(weight: Tensor) -> tuple[Tensor, Tensor]:
    largest = weight.float().amax(dim=1, keepdim=True)
    scaled = weight.float() / torch.where(largest == 0, 1, largest) * 127
    return scaled.round().clamp(-127, 127).to(torch.int8), largest.squeeze(1)


@exercise.misconception(
    hint="You stretched each row from its smallest to its largest value over all 256 codes. That is asymmetric "
    "quantisation, and it needs a zero point beside the scale. Absmax is symmetric: zero keeps the code 0."
)
def asymmetric(weight: Tensor) -> tuple[Tensor, Tensor]:
    low, high = weight.float().amin(dim=1, keepdim=True), weight.float().amax(dim=1, keepdim=True)
    step = ((high - low) / 255).clamp_min(1e-30)
    return (torch.round((weight.float() - low) / step) - 128).to(torch.int8), step.squeeze(1)


@exercise.misconception(
    hint="The codes are right. The second thing you return is the step between two codes; the task wants the largest "
    "absolute value itself."
)
def step_returned(weight: Tensor) -> tuple[Tensor, Tensor]:
    return coded(weight, row_maxima(weight)), row_maxima(weight).squeeze(1) / 127


@exercise.misconception(
    hint="The codes and the maxima are right, but the maxima are still a column, (rows, 1). That shape serves to "
    "divide the rows; what you return is one number a row, (rows,)."
)
def maxima_as_a_column(weight: Tensor) -> tuple[Tensor, Tensor]:
    return coded(weight, row_maxima(weight)), row_maxima(weight)


@exercise.misconception(
    hint="With a 16-bit weight you calculated in 16 bits. bfloat16 knows no 100.3: near 100 it counts in halves, so "
    "the product is rounded once before you round it. Change to float32 first."
)
def calculated_in_16_bits(weight: Tensor) -> tuple[Tensor, Tensor]:
    largest = weight.abs().amax(dim=1, keepdim=True)
    scaled = torch.where(largest > 0, weight * (127 / largest), 0)
    return torch.round(scaled).to(torch.int8), largest.float().squeeze(1)


@exercise.misconception(
    hint="You do not let a maximum fall below some small number. Then a row whose weights are all smaller than that "
    "loses its codes. Only a maximum of exactly 0 needs help."
)
def floor_under_the_maxima(weight: Tensor) -> tuple[Tensor, Tensor]:
    return coded(weight, row_maxima(weight).clamp_min(1e-6)), row_maxima(weight).squeeze(1)


@exercise.misconception(
    hint="You do not let a maximum fall below some small number, and you return that number as the maximum. Only a "
    "maximum of exactly 0 needs help, and only where you divide by it."
)
def floor_returned(weight: Tensor) -> tuple[Tensor, Tensor]:
    largest = row_maxima(weight).clamp_min(1e-6)
    return coded(weight, largest), largest.squeeze(1)


@exercise.misconception(hint="Both results are right, but they have changed places: the codes come first.")
def results_swapped(weight: Tensor) -> tuple[Tensor, Tensor]:
    return row_maxima(weight).squeeze(1), coded(weight, row_maxima(weight))


def normal(seed: int, rows: int, columns: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random weights whose rows have sizes between 0.01 and 1; no weight lies on a half."""
    random = torch.Generator().manual_seed(seed)
    sizes = 10 ** (-2 * torch.rand(rows, 1, generator=random))
    return clear_of_halves((torch.randn(rows, columns, generator=random) * sizes).to(dtype))


def halves() -> Tensor:
    """One row with maximum 127, so that the codes are the weights, of which many are halves.

    Kept are those halves that come out the same in every usual order of multiplying and dividing.
    """
    values = torch.arange(0.5, 126)
    same = (values / 127 * 127 == values) & (values * (1 / torch.tensor(127.0)) * 127 == values)
    return torch.cat([torch.tensor([-127.0]), values[same], -values[same]]).unsqueeze(0)


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    square = normal(seed, 8, 8)
    square[3] = -square[3].abs()  # a row whose largest absolute value is certainly negative
    yield Case("square", {"weight": square}, "on a square matrix with rows of different size")
    yield Case("halves", {"weight": halves()}, "when a weight lies halfway between two codes")
    yield Case("bfloat16", {"weight": normal(seed + 1, 6, 40, torch.bfloat16)}, "when the weights are bfloat16")
    wide = normal(seed + 2, 5, 30 + seed % 7)
    wide[2] = 0
    yield Case("a row of zeros", {"weight": wide}, "when a row holds only zeros")
    tiny = normal(seed + 5, 3, 16)
    tiny[1] *= 1e-12
    yield Case("tiny weights", {"weight": clear_of_halves(tiny)}, "when the weights of a row are tiny (about 1e-12)")
    yield Case("one row", {"weight": normal(seed + 3, 1, 17)}, "when there is only one row", visible=False)
    half = normal(seed + 4, 7, 24, torch.float16)
    yield Case("float16", {"weight": half}, "when the weights are float16", visible=False)


@exercise.probe
def probe(answer: Callable[[Tensor], tuple[Tensor, Tensor]], weight: Tensor) -> dict[str, Tensor]:
    """Names what comes back."""
    return named(answer(weight), "codes", "absmax")


@exercise.oracle
def oracle(weight: Tensor) -> dict[str, Tensor]:
    from bitsandbytes.functional import int8_vectorwise_quant

    codes, absmax, _ = int8_vectorwise_quant(weight)
    # bitsandbytes multiplies a row of zeros by 127 / 0; what int8 makes of that depends on the processor.
    codes = codes.masked_fill(absmax.unsqueeze(1) == 0, 0)
    return {"absmax": absmax, "codes": codes}  # in the order in which mistakes arise


@exercise.diagnose
def diagnose(got: dict[str, Tensor], want: dict[str, Tensor], **_: Tensor) -> str | None:
    """Says it when the same small number was added to every maximum."""
    if got["absmax"].shape != want["absmax"].shape or len(want["absmax"]) < 3:
        return None
    added = got["absmax"].double() - want["absmax"].double()
    if added.min() > 0 and added.max() < 1e-2 and added.max() - added.min() < 1e-2 * added.max() + 1e-7:
        return "All your maxima are too large by about the same: was something added against dividing by zero?"
    return None
