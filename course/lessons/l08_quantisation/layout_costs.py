"""Error against bits: block sizes, and outliers kept apart (as SpQR, Dettmers et al. 2023, arXiv:2306.03078, does).

Worked number: blocks of 64 cost 4 + 32 / 64 = 4.5 bits a weight. Keeping 1 weight in 200 apart, 16 bits for its value
and 32 for its position, adds 48 / 200 = 0.24.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from course.lessons.l08_quantisation.bitsandbytes_nf4 import library_quantise
from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l08-layout-costs",
    title="What outliers and block size cost",
    points=3,
    minutes=20,
    difficulty="hard",
    importance="extension",
    skills=("quantisation", "memory"),
    hints=(
        "For each layout: set aside, quantise what is left, put back, measure. None of it needs to know how round_trip "
        "works.",
        "The point of setting a weight aside is that its block's maximum no longer sees it. What has to stand in its "
        "place while the rest is quantised?",
        "`torch.topk` on absolute values of the flat matrix gives positions. Work on a copy.",
    ),
    library_note="Production uses the same two levers. GPTQ and AWQ take groups of 128 weights, GGUF 32; LLM.int8() "
    "keeps whole columns of outliers in 16 bits, SpQR and SqueezeLLM single weights in a sparse matrix. Single weights "
    "are the cheapest in bits and the slowest to multiply.",
    interview="You have half a bit a weight to spend on quality. Smaller blocks, or outliers kept apart?",
)


@exercise.reference
def layout_costs(
    weight: Tensor, layouts: Sequence[tuple[int, int]], round_trip: Callable[[Tensor, int], Tensor]
) -> list[tuple[float, float]]:
    """Error and bits of several ways to store one matrix in four bits.

    weight: (rows, columns) float32, n weights, not all of them 0, none beyond 65,504, the largest float16.
    layouts: pairs (block_size, kept), `kept` being how many weights of the whole matrix are kept apart, from 0 to n.
    round_trip: round_trip(matrix, block_size) quantises a matrix and reads it back as a new tensor: the same shape,
        float32, and a weight that is 0 comes back as 0. The matrix is not changed.
    For each layout, in order, a pair (error, bits) of Python floats:
        The `kept` weights of largest absolute value, wherever they are, are kept apart in float16. With 0 in their
        places the matrix, in its own shape, goes through round_trip. Then they are put back, as float16 holds them.
        Each layout starts from weight, which itself is not changed.
        error: relative root-mean-square error over ALL n weights, sqrt(sum (result - weight)^2 / sum weight^2).
        bits: bits stored for each weight on average: 4 for every one of the n codes (the packed line has no gaps), 32
            for each block (n / block_size, rounded up), and for each weight kept apart 16 for its value and 32 for its
            position.
    No two weights of a test have the same absolute value at the border of what is kept.
    """
    costs = []
    total = weight.numel()
    for block_size, kept in layouts:
        largest = weight.flatten().abs().topk(kept).indices
        rest = weight.flatten().clone()
        rest[largest] = 0
        result = round_trip(rest.reshape(weight.shape), block_size).flatten().clone()
        result[largest] = weight.flatten()[largest].half().float()
        error = (result - weight.flatten()).norm() / weight.norm()
        bits = 4 + (32 * math.ceil(total / block_size) + 48 * kept) / total
        costs.append((error.item(), bits))
    return costs


@exercise.alternative
def with_a_mask(
    weight: Tensor, layouts: Sequence[tuple[int, int]], round_trip: Callable[[Tensor, int], Tensor]
) -> list[tuple[float, float]]:
    from_large_to_small = np.sort(np.abs(weight.cpu().numpy()), axis=None)[::-1]

    def cost(block_size: int, kept: int) -> tuple[float, float]:
        apart = weight.abs() >= float(from_large_to_small[kept - 1]) if kept else torch.zeros_like(weight).bool()
        restored = round_trip(torch.where(apart, 0, weight), block_size)
        difference = torch.where(apart, weight.half().float(), restored) - weight
        codes, scales = 4 * weight.numel(), 32 * -(-weight.numel() // block_size)
        outliers = int(apart.sum()) * (16 + 32)
        share = difference.double().square().mean() / weight.double().square().mean()
        return float(share.sqrt()), (codes + scales + outliers) / weight.numel()

    return [cost(*layout) for layout in layouts]


def costs_with(
    weight: Tensor, layouts: Sequence[tuple[int, int]], round_trip: Callable[[Tensor, int], Tensor], *faults: str
) -> list[tuple[float, float]]:
    """The right way, with its faults switched one by one."""
    costs, rest = [], weight.flatten().clone()
    for block_size, kept in layouts:
        score = weight.flatten() if "signed" in faults else weight.flatten().abs()
        chosen = torch.topk(score, kept, largest="smallest" not in faults).indices
        chosen = chosen[:-1] if "one too few" in faults else chosen
        if "all for none" in faults and kept == 0:
            chosen = torch.arange(len(score))
        if {"each row", "each row, down", "kept a row"} & set(faults):
            share = -(-kept // weight.shape[0]) if "each row" in faults else kept // weight.shape[0]
            share = min(kept, weight.shape[1]) if "kept a row" in faults else share
            columns = weight.abs().topk(share, dim=1).indices
            chosen = (columns + torch.arange(len(weight)).unsqueeze(1) * weight.shape[1]).flatten()
        rest = rest if "piled up" in faults else weight.flatten().clone()
        rest = rest.half().float() if "all float16" in faults else rest
        if "left in" not in faults:
            rest[chosen] = 0
        result = round_trip(rest.reshape(weight.shape), block_size).flatten().clone()
        if "not put back" not in faults:
            apart = torch.float32 if "float32" in faults else torch.bfloat16 if "bfloat16" in faults else torch.float16
            result[chosen] = weight.flatten()[chosen].to(apart).float()
        gap, size = result - weight.flatten(), weight.flatten()
        if "rest only" in faults:
            gap, size = (part[rest != 0] for part in (gap, size))
        error = gap.norm() / (math.sqrt(len(gap)) if "absolute" in faults else size.norm())
        error = error**2 if "squared" in faults else error
        if "mean" in faults:
            error = gap.abs().mean() / size.abs().mean()
        each = 16 if "no position" in faults else 44 if "no code" in faults else 80 if "wide" in faults else 48
        each = 64 if "32-bit value" in faults else each
        blocks = (weight.numel() - ("fewer blocks" in faults) * kept) / block_size
        blocks = math.floor(blocks) if "down" in faults else blocks
        if "blocks a row" in faults:
            blocks = weight.shape[0] * math.ceil(weight.shape[1] / block_size)
        scale_bits = 16 if "half scales" in faults else 0 if "no scales" in faults else 32
        bits = (
            4 + (scale_bits * (blocks if "part blocks" in faults else math.ceil(blocks)) + each * kept) / weight.numel()
        )
        costs.append((error.item(), bits / 8 if "bytes" in faults else bits))
    return costs


@exercise.misconception(
    hint="You put the large weights back, but they were still there while the rest was quantised, so their blocks "
    "stayed as coarse as before. Quantise with 0 in their places."
)
def outliers_left_in(weight, layouts, round_trip):
    return costs_with(weight, layouts, round_trip, "left in")


@exercise.misconception(
    hint="The large weights were taken out and never put back, so the largest weights of all are 0 in your result."
)
def outliers_lost(weight, layouts, round_trip):
    return costs_with(weight, layouts, round_trip, "not put back")


@exercise.misconception(
    hint="You kept the largest weights, not those of largest absolute value. A weight of -1 stretches its block as "
    "much as one of 1."
)
def sign_not_dropped(weight, layouts, round_trip):
    return costs_with(weight, layouts, round_trip, "signed")


@exercise.misconception(hint="You kept the smallest weights apart. It is the largest ones that make a block coarse.")
def smallest_kept(weight, layouts, round_trip):
    return costs_with(weight, layouts, round_trip, "smallest")


@exercise.misconception(
    hint="You kept the same number of weights in each row. Outliers are not spread like that: `kept` counts over the "
    "whole matrix."
)
def kept_in_each_row(weight, layouts, round_trip):
    return costs_with(weight, layouts, round_trip, "each row")


@exercise.misconception(
    hint="You kept a share of `kept` in each row, rounded down. Outliers are not spread like that: `kept` counts over "
    "the whole matrix."
)
def share_in_each_row(weight, layouts, round_trip):
    return costs_with(weight, layouts, round_trip, "each row, down")


@exercise.misconception(
    hint="You kept `kept` weights in every row: a matrix's last dimension is what topk looks at. `kept` counts over "
    "the whole matrix."
)
def kept_of_every_row(weight, layouts, round_trip):
    return costs_with(weight, layouts, round_trip, "kept a row")


@exercise.misconception(
    hint="Where `kept` is 0 you keep every weight apart. The last 0 items of a list, as a slice from -0 on, are all of "
    "it."
)
def all_kept_where_none(weight, layouts, round_trip):
    return costs_with(weight, layouts, round_trip, "all for none")


@exercise.misconception(
    hint="You kept one weight too few: the border is the smallest weight that IS kept, so it must count as large "
    "enough, too."
)
def one_too_few(weight, layouts, round_trip):
    return costs_with(weight, layouts, round_trip, "one too few")


@exercise.misconception(
    hint="The zeros of one layout are still there in the next: you work on one copy for all of them. Each layout "
    "begins with the weights as they are."
)
def zeros_piled_up(weight, layouts, round_trip):
    return costs_with(weight, layouts, round_trip, "piled up")


@exercise.misconception(
    hint="You put the kept weights back in float32. They are stored in 16 bits, so they come back as float16 holds "
    "them."
)
def kept_in_float32(weight, layouts, round_trip):
    return costs_with(weight, layouts, round_trip, "float32")


@exercise.misconception(
    hint="You read the whole matrix as float16. Only the weights kept apart are stored that way; the others are "
    "quantised as they are."
)
def all_in_float16(weight, layouts, round_trip):
    return costs_with(weight, layouts, round_trip, "all float16")


@exercise.misconception(hint="Each pair has its two numbers in the wrong order: the error comes first, then the bits.")
def pair_swapped(weight, layouts, round_trip):
    return [(bits, error) for error, bits in costs_with(weight, layouts, round_trip)]


@exercise.misconception(hint="You put the kept weights back as bfloat16 holds them. Here it is float16, the finer one.")
def kept_in_bfloat16(weight, layouts, round_trip):
    return costs_with(weight, layouts, round_trip, "bfloat16")


@exercise.misconception(
    hint="You round the number of blocks down, so a short last block costs nothing. It has a whole maximum, too."
)
def short_block_for_nothing(weight, layouts, round_trip):
    return costs_with(weight, layouts, round_trip, "down")


@exercise.misconception(
    hint="You count the blocks of each row. Blocks run on over the ends of rows: the matrix is one line of n weights."
)
def blocks_of_each_row(weight, layouts, round_trip):
    return costs_with(weight, layouts, round_trip, "blocks a row")


@exercise.misconception(
    hint="You count the blocks without the weights kept apart. A 0 stands in their places, so the line is as long as "
    "before."
)
def blocks_of_the_rest(weight, layouts, round_trip):
    return costs_with(weight, layouts, round_trip, "fewer blocks")


@exercise.misconception(hint="You count 32 bits for the value of a weight kept apart. It is a float16, and has 16.")
def values_in_32_bits(weight, layouts, round_trip):
    return costs_with(weight, layouts, round_trip, "32-bit value")


@exercise.misconception(
    hint="Your error leaves the weights out that were kept apart, above and below the line. It is over all weights."
)
def error_of_the_rest_only(weight, layouts, round_trip):
    return costs_with(weight, layouts, round_trip, "rest only")


@exercise.misconception(
    hint="Your error is in the weights' own unit. Divided by the size of the weights it can be compared between layers."
)
def error_not_relative(weight, layouts, round_trip):
    return costs_with(weight, layouts, round_trip, "absolute")


@exercise.misconception(
    hint="You took the mean of absolute errors. Root mean square squares first, so that large errors count for more."
)
def mean_of_absolute_errors(weight, layouts, round_trip):
    return costs_with(weight, layouts, round_trip, "mean")


@exercise.misconception(hint="Your error is the square of the one asked for: the root is missing in root mean square.")
def root_forgotten(weight, layouts, round_trip):
    return costs_with(weight, layouts, round_trip, "squared")


@exercise.misconception(
    hint="You count parts of blocks. The last, short block has a whole maximum, too: round their number up."
)
def parts_of_blocks(weight, layouts, round_trip):
    return costs_with(weight, layouts, round_trip, "part blocks")


@exercise.misconception(hint="You count 64 bits for a position, as torch stores them. Here a position takes 32.")
def positions_in_64_bits(weight, layouts, round_trip):
    return costs_with(weight, layouts, round_trip, "wide")


@exercise.misconception(
    hint="A weight kept apart costs more than its 16 bits: without its position nobody knows where it belongs."
)
def positions_forgotten(weight, layouts, round_trip):
    return costs_with(weight, layouts, round_trip, "no position")


@exercise.misconception(
    hint="You save the four bits of a weight that is kept apart. Its code is still stored: the packed line has no gaps."
)
def code_saved(weight, layouts, round_trip):
    return costs_with(weight, layouts, round_trip, "no code")


@exercise.misconception(
    hint="The block maxima are not in your bits: 32 for each block. Without them blocks of 32 would look free."
)
def maxima_forgotten(weight, layouts, round_trip):
    return costs_with(weight, layouts, round_trip, "no scales")


@exercise.misconception(hint="You count 16 bits for a block's maximum. Here it is a float32.")
def maxima_in_16_bits(weight, layouts, round_trip):
    return costs_with(weight, layouts, round_trip, "half scales")


@exercise.misconception(hint="Those are bytes for each weight. The task asks for bits.")
def bytes_not_bits(weight, layouts, round_trip):
    return costs_with(weight, layouts, round_trip, "bytes")


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    random = torch.Generator().manual_seed(seed)

    def case(name: str, about: str, shape: tuple[int, int], layouts: list, visible: bool = True) -> Case:
        weight = torch.randn(shape, generator=random) * 0.03
        large = torch.randperm(weight.numel(), generator=random)[: weight.numel() // 100]
        weight.view(-1)[large] *= 15
        return Case(name, {"weight": weight, "layouts": layouts}, about, visible)

    yield case("block sizes", "for three block sizes", (16, 96), [(32, 0), (64, 0), (256, 0)])
    yield case("outliers", "when outliers are kept apart", (12, 128), [(64, 0), (64, 4), (64, 15), (256, 15)])
    descending = [(64, 15), (64, 4), (64, 0)]
    yield case("fewer after more", "when a layout keeps fewer weights than the one before", (10, 64), descending)
    yield case(
        "all apart", "when every weight is kept apart, and only float16's rounding is left", (4, 32), [(64, 128)]
    )
    odd = [(64, 3), (128, 3), (32, 0)]
    yield case("short block", "when the last block is short", (7, 45 + seed % 9), odd, visible=False)
    yield case("many", "with many outliers", (20, 100), [(64, 100), (512, 20)], visible=False)


@exercise.probe
def probe(answer: Callable[..., list], weight: Tensor, layouts: list) -> list[dict[str, float]]:
    """Calls the answer with bitsandbytes' NF4 as round_trip."""

    def round_trip(matrix: Tensor, block_size: int) -> Tensor:
        if matrix.shape != weight.shape:
            wanted, given = tuple(weight.shape), tuple(matrix.shape)
            raise ValueError(f"round_trip takes the matrix in its own shape, {wanted}; it was given {given}")
        return library_quantise(matrix, block_size)[2]

    pairs = answer(weight, [tuple(layout) for layout in layouts], round_trip)
    return [{"error": float(error), "bits": float(bits)} for error, bits in pairs]


@exercise.oracle
def oracle(weight: Tensor, layouts: list) -> list[dict[str, float]]:
    """bitsandbytes quantises; the rest is counted here in float64, one outlier after another."""
    answers = []
    for block_size, kept in layouts:
        order = np.argsort(-np.abs(weight.numpy()), axis=None)[:kept]
        rest = weight.numpy().copy()
        rest.flat[order] = 0
        _, absmax, restored = library_quantise(torch.from_numpy(rest), block_size)
        result = restored.numpy().astype(np.float64)
        result.flat[order] = weight.numpy().flat[order].astype(np.float16)
        gap = np.square(result - weight.numpy()).sum() / np.square(weight.numpy(), dtype=np.float64).sum()
        stored = 4 * weight.numel() + 32 * len(absmax) + 48 * kept
        answers.append({"error": float(np.sqrt(gap)), "bits": stored / weight.numel()})
    return answers
