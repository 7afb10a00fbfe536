"""A matrix product in 8-bit whole numbers, with three faults that raise no error and no answer for a row of zeros.

Worked number: two codes multiply to at most 127 * 127 = 16,129, and 576 of them add up to at most 9,290,304: far over
the 127 that int8 holds, far below the 2,147,483,647 of int32.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from course.lessons.l08_quantisation.clear_cut import clear_of_halves
from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l08-repair-int8-linear",
    title="Repair a matrix product in 8 bits",
    points=3,
    minutes=15,
    difficulty="medium",
    importance="core",
    skills=("quantisation", "pytorch"),
    hints=(
        "One fault is loud, two are quiet. Mend the loud one first: print the largest whole-number product.",
        "Then print the codes of a single token beside the scaled numbers they were made from.",
        "Last, look at which numbers share one scale: print the largest absolute code of each token.",
    ),
    rtol=5e-5,
    atol=1e-5,
    tolerance_reason="bitsandbytes 0.50.2 writes 1/127**2 as 6.200124e-05 in its CPU code, 1.8e-5 too large (its GPU "
    "code says 6.200012e-05); sums of a few hundred float32 products, in whatever order, differ by about 1e-6",
    forbidden=("bitsandbytes",),
    library_note="bitsandbytes' Linear8bitLt does this with an int8 kernel that adds in int32, and takes features "
    "of x above a threshold out of it: those columns are multiplied in 16 bits.",
    interview="In an int8 matrix product, what is the accumulator's type, and why can't scales vary along the summed "
    "dimension?",
)


@exercise.reference
def repair_int8_linear(x: Tensor, weight: Tensor) -> Tensor:
    """x times weight transposed, with both rounded to 8 bits: y of shape (tokens, out), float32.

    x: (tokens, in) float32, one row a token. weight: (out, in) float32. Both finite; their device is the same. The
        largest absolute value of a row is 0 or at least 1e-30, as in absmax_int8.
    1. x and weight become int8 codes as in absmax_int8: every ROW of x has its own maximum, and so has every row of
       weight. code = value * (127 / maximum), rounded to the nearest. A row of zeros has codes 0 (0 / 0 is NaN, and
       what NaN becomes as int8 depends on the machine).
    2. product: (tokens, out), the sums over `in` of code * code, without overflow.
    3. y = product * maximum of the token * maximum of the weight's row / 127**2.

    All but the codes is float32. Whether the sums are taken in whole numbers or in float32 is up to you: float32 holds
    every whole number up to 2**24 = 16,777,216, and no sum of a test, nor of the layers here, passes that (it could
    from 1,041 features on, if all codes were 127). Reading both matrices back first and multiplying them in float32 is
    the same product, too. x and weight themselves are not changed.
    Source: Dettmers et al. 2022, arXiv:2208.07339, section 3.1, "vector-wise quantization".
    """
    x_maxima, weight_maxima = (matrix.abs().amax(dim=1).clamp_min(1e-30) for matrix in (x, weight))
    x_codes = torch.round(x * (127 / x_maxima).unsqueeze(1)).double()
    weight_codes = torch.round(weight * (127 / weight_maxima).unsqueeze(1)).double()
    product = x_codes @ weight_codes.T  # exact: float64 counts to 2**53
    return (product * torch.outer(x_maxima, weight_maxima) / 127**2).float()


@exercise.alternative
def whole_numbers(x: Tensor, weight: Tensor) -> Tensor:
    def codes_and_maxima(matrix: Tensor) -> tuple[Tensor, Tensor]:
        largest = matrix.abs().max(dim=1, keepdim=True).values
        return (matrix / largest * 127).nan_to_num().round().to(torch.int8), largest

    (left, left_maxima), (right, right_maxima) = codes_and_maxima(x), codes_and_maxima(weight)
    total = torch.zeros(len(x), len(weight), dtype=torch.int32, device=x.device)
    for feature in range(x.shape[1]):
        total += left[:, feature, None].int() * right[None, :, feature].int()
    return total * (left_maxima / 127) * (right_maxima / 127).squeeze(1)


@exercise.alternative
def read_back_first(x: Tensor, weight: Tensor) -> Tensor:
    def rounded(matrix: Tensor) -> Tensor:
        step = matrix.abs().amax(1, keepdim=True) / 127
        return torch.where(step > 0, (matrix / step).round() * step, matrix)

    return torch.einsum("ti,oi->to", rounded(x), rounded(weight))


def run(x: Tensor, weight: Tensor, *faults: str) -> Tensor:
    """The broken product of the lesson, with its faults, and some others, switched one by one."""

    def codes(scaled: Tensor, name: str) -> Tensor:
        if f"{name} exact" in faults:
            return scaled.double()
        if "levels 128" in faults:
            return (scaled * (128 / 127)).round().clamp(-128, 127).double()
        return (scaled.trunc() if {"cut off", f"cut {name}"} & set(faults) else scaled.round()).double()

    x_maxima, weight_maxima = x.abs().amax(1, keepdim=True), weight.abs().amax(1, keepdim=True)
    if "one scale" in faults:
        x_maxima = x.abs().max().expand_as(x_maxima)
    if "weight as a whole" in faults:
        weight_maxima = weight.abs().max().expand_as(weight_maxima)
    safe = x_maxima if "zeros" in faults else x_maxima.clamp_min(1e-30)
    product = codes(x * (127 / safe), "x") @ codes(weight * (127 / weight_maxima), "weight").T
    for name, bits in (("int8", 8), ("int16", 16)):
        if name in faults:  # what a sum kept in so few bits wraps round to
            product = (product + 2 ** (bits - 1)).remainder(2**bits) - 2 ** (bits - 1)
    if "bfloat16" in faults:
        product = product.bfloat16().double()
    divisor = 127 if "once" in faults else 127**3 if "thrice" in faults else 127**2
    divisor = 128**2 if {"128", "levels 128"} & set(faults) else divisor
    x_maxima = torch.ones_like(x_maxima) if "no token maximum" in faults else x_maxima
    weight_maxima = torch.ones_like(weight_maxima) if "no row maximum" in faults else weight_maxima
    return (product * (x_maxima @ weight_maxima.T) / divisor).float()


def read_back(matrix: Tensor, axis: int) -> Tensor:
    """A matrix rounded to 8 bits and read back, with one scale for all that lies along `axis`."""
    largest = matrix.abs().amax(axis, keepdim=True)
    return torch.round(matrix / largest.clamp_min(1e-30) * 127) * largest / 127


@exercise.misconception(
    hint="All three faults are still there. Begin with the loud one: how large can a sum of products of codes become, "
    "and what does the dtype of your product hold?"
)
def nothing_repaired(x: Tensor, weight: Tensor) -> Tensor:
    return run(x, weight, "int8", "cut off", "one scale")


@exercise.misconception(
    hint="The loud fault is repaired; two quiet ones are left. Look at how scaled numbers become codes, and at which "
    "tokens share a scale."
)
def both_quiet_faults_left(x: Tensor, weight: Tensor) -> Tensor:
    return run(x, weight, "cut off", "one scale")


@exercise.misconception(
    hint="Each token has its own scale now. Two faults are left: how scaled numbers become codes, and the dtype in "
    "which the products are added up."
)
def rounding_and_sum_left(x: Tensor, weight: Tensor) -> Tensor:
    return run(x, weight, "int8", "cut off")


@exercise.misconception(
    hint="The rounding is right now. Two faults are left: the dtype in which the products are added up, and which "
    "tokens share a scale."
)
def scale_and_sum_left(x: Tensor, weight: Tensor) -> Tensor:
    return run(x, weight, "int8", "one scale")


@exercise.misconception(
    hint="One fault is left, and it is the loud one: the products are added up in int8, which wraps round at 127. "
    "Change the dtype before you multiply."
)
def added_up_in_int8(x: Tensor, weight: Tensor) -> Tensor:
    return run(x, weight, "int8")


@exercise.misconception(
    hint="The products are added up in int16. It holds 32,767; three products of 127 * 127 are already more."
)
def added_up_in_int16(x: Tensor, weight: Tensor) -> Tensor:
    return run(x, weight, "int16")


@exercise.misconception(
    hint="One quiet fault is left: converting to int8 cuts off towards zero. Round before you convert, x and weight "
    "alike."
)
def cut_off_left(x: Tensor, weight: Tensor) -> Tensor:
    return run(x, weight, "cut off")


@exercise.misconception(
    hint="One quiet fault is left: all tokens share one scale, so a single large token makes all the others coarse. "
    "Take a maximum for each token."
)
def one_scale_left(x: Tensor, weight: Tensor) -> Tensor:
    return run(x, weight, "one scale")


@exercise.misconception(
    hint="Now the weight has one scale for the whole matrix. Each of its rows is one output feature and keeps its own."
)
def weight_scaled_as_a_whole(x: Tensor, weight: Tensor) -> Tensor:
    return run(x, weight, "weight as a whole")


@exercise.misconception(
    hint="Now the weight has one scale for each column, that is for each feature of x, and the sum runs over these: "
    "such scales cannot be taken out of a sum of codes. Each of the weight's rows has one."
)
def weight_scaled_by_column(x: Tensor, weight: Tensor) -> Tensor:
    return read_back(x, 1) @ read_back(weight, 0).T


@exercise.misconception(
    hint="Now x has one scale for each column, that is for each of its features, and the sum runs over these: such "
    "scales cannot be taken out of a sum of codes. A row of x is a token, and each token has one."
)
def x_scaled_by_column(x: Tensor, weight: Tensor) -> Tensor:
    return read_back(x, 0) @ read_back(weight, 1).T


@exercise.misconception(
    hint="One quiet fault is half mended: the codes of x are still cut off towards zero, those of the weight are "
    "rounded."
)
def x_still_cut_off(x: Tensor, weight: Tensor) -> Tensor:
    return run(x, weight, "cut x")


@exercise.misconception(
    hint="One quiet fault is half mended: the codes of the weight are still cut off towards zero, those of x are "
    "rounded."
)
def weight_still_cut_off(x: Tensor, weight: Tensor) -> Tensor:
    return run(x, weight, "cut weight")


@exercise.misconception(
    hint="Your result is 1.6 % too small: codes go up to 127, so two of them are undone by 127 * 127, not 128 * 128."
)
def divided_by_128(x: Tensor, weight: Tensor) -> Tensor:
    return run(x, weight, "128")


@exercise.misconception(
    hint="You scale to 128 and clamp what does not fit, so the largest number of each row comes out too small. The "
    "codes asked for go from -127 to 127."
)
def scaled_to_128(x: Tensor, weight: Tensor) -> Tensor:
    return run(x, weight, "levels 128")


@exercise.misconception(
    hint="That is the exact product: nothing was rounded to 8 bits. The task is the product of the rounded numbers, "
    "with the error that rounding makes."
)
def nothing_rounded(x: Tensor, weight: Tensor) -> Tensor:
    return x @ weight.T


@exercise.misconception(
    hint="Only the weight went through 8 bits; x was multiplied as it is. That is weight-only quantisation, and its "
    "product is no longer one of whole numbers. Here both are rounded."
)
def only_the_weight_rounded(x: Tensor, weight: Tensor) -> Tensor:
    return run(x, weight, "x exact")


@exercise.misconception(hint="Only x went through 8 bits; the weight was multiplied as it is. Here both are rounded.")
def only_x_rounded(x: Tensor, weight: Tensor) -> Tensor:
    return run(x, weight, "weight exact")


@exercise.misconception(
    hint="Each token's outputs are off by a factor of that token: its maximum was divided out to make the codes, and "
    "never multiplied back in."
)
def token_maximum_forgotten(x: Tensor, weight: Tensor) -> Tensor:
    return run(x, weight, "no token maximum")


@exercise.misconception(
    hint="Each output is off by a factor of its own: the maximum of the weight's row was divided out to make the "
    "codes, and never multiplied back in."
)
def row_maximum_forgotten(x: Tensor, weight: Tensor) -> Tensor:
    return run(x, weight, "no row maximum")


@exercise.misconception(
    hint="The products are added up in bfloat16. It has 8 significant bits, so a sum in the thousands is off by whole "
    "numbers. Which dtypes hold these sums exactly?"
)
def added_up_in_bfloat16(x: Tensor, weight: Tensor) -> Tensor:
    return run(x, weight, "bfloat16")


@exercise.misconception(
    hint="Your result is 127 times too small. Two codes were multiplied, so 127 has to be taken out twice, no more."
)
def divided_three_times(x: Tensor, weight: Tensor) -> Tensor:
    return run(x, weight, "thrice")


@exercise.misconception(
    hint="The products are added up in float16. It has 11 significant bits, so sums above 2,048 lose whole numbers, "
    "and above 65,504 there is only infinity."
)
def added_up_in_float16(x: Tensor, weight: Tensor) -> Tensor:
    left, right = (matrix / matrix.abs().amax(1, keepdim=True).clamp_min(1e-30) * 127 for matrix in (x, weight))
    product = (left.round() @ right.round().T).half().float()  # rounded once, at the end: on average kinder than that
    return product * torch.outer(x.abs().amax(1), weight.abs().amax(1)) / 127**2


@exercise.misconception(
    hint="Your result is 127 times too large. Two codes were multiplied, and each of them was 127 / maximum too large."
)
def divided_once(x: Tensor, weight: Tensor) -> Tensor:
    return run(x, weight, "once")


@exercise.misconception(
    hint="A token of zeros gives NaN: its maximum is 0, and you divide by it. Padding makes such tokens; the result "
    "has to be 0 there."
)
def zero_token_divided(x: Tensor, weight: Tensor) -> Tensor:
    return run(x, weight, "zeros")


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    random = torch.Generator().manual_seed(seed)

    def case(name: str, about: str, tokens: int, inside: int, outside: int, visible: bool = True) -> Case:
        x = torch.randn(tokens, inside, generator=random)
        x[0] *= 20  # as in a real model, one token is much larger than the others
        if name == "a token of zeros":
            x[-1] = 0
        weight = torch.randn(outside, inside, generator=random) * 10 ** -(1 + torch.rand(outside, 1, generator=random))
        if name == "long sums":
            x[-1] = weight[
                0
            ]  # all its products are positive: their sum is far more than int16 holds, whatever the seed
        return Case(name, {"x": clear_of_halves(x), "weight": clear_of_halves(weight)}, about, visible)

    yield case("large token", "when one token is 20 times as large as the others", 4, 64, 12)
    yield case("a token of zeros", "when a token holds only zeros, as padding does", 3, 48, 8)
    yield case("long sums", "when many products are added up", 2, 600 + seed % 50, 5)
    yield case("one token", "with a single token", 1, 33, 7, visible=False)
    yield case("another shape", "on another shape", 5 + seed % 3, 96, 9, visible=False)


@exercise.oracle
def oracle(x: Tensor, weight: Tensor) -> Tensor:
    from bitsandbytes.functional import int8_vectorwise_quant

    (x_codes, x_maxima, _), (weight_codes, weight_maxima, _) = int8_vectorwise_quant(x), int8_vectorwise_quant(weight)
    # The whole-number product itself in float64, exact: on some processors torch._int_mm, which bitsandbytes calls,
    # needs instructions that are switched off, or overflows (pytorch pull request 136942).
    product = (x_codes.double() @ weight_codes.double().T).to(torch.int32)
    return torch.ops.bitsandbytes.int8_mm_dequant.default(product, x_maxima, weight_maxima, dtype=torch.float32)
