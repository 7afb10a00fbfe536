"""Double quantisation: the block maxima are quantised in turn (Dettmers et al. 2023, arXiv:2305.14314, section 3).

Worked number: a float32 maximum for 64 weights is 32 / 64 = 0.5 bits a weight. In 8 bits, with a float32 scale for 256
maxima, it is 8 / 64 + 32 / (64 * 256) = 0.127: a saving of 0.373 bits a weight, 3 GB for 65 billion weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from course.lessons.l08_quantisation.named_results import named
from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l08-double-quantise",
    title="Double quantisation: the maxima in 8 bits",
    points=3,
    minutes=15,
    difficulty="medium",
    importance="core",
    skills=("quantisation", "memory"),
    hints=(
        "You have done all but one step of this before: blocks, their maxima, the nearest value of a table. What is "
        "new is what happens before.",
        "All block maxima are positive. A table with values on both sides of 0 is used well only once they are "
        "centred.",
        "One mean for all maxima, taken before anything is padded. Then quantise what is left as you did weights, with "
        "a table of 256 and without packing.",
    ),
    atol=0.0,  # where the scale is 0, it is exactly 0
    forbidden=("bitsandbytes",),
    library_note="bitsandbytes keeps the codes as QuantState.absmax, the scales and the table as QuantState.state2, "
    "the mean as QuantState.offset. Its CPU encoder (0.50.2) finds the nearest value by a shortcut and is off by one "
    "code for a few maxima close to a border; the lesson counts them. Whoever decodes gets nearly the same maximum.",
    interview="What is quantised twice in QLoRA, what does it save, and why is the mean taken away first?",
)


@exercise.reference
def double_quantise(absmax: Tensor, codebook: Tensor, block_size: int = 256) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Quantise block maxima to 8 bits, and read them back.

    absmax: (n,) float32, n at least 1, the maxima of n blocks of weights: none is negative.
    codebook: (256,) float32, ascending from about -1 to 1, with a 0 among its values; code i stands for codebook[i].
    Returns (codes, scales, offset, restored):
        offset: (), float32, the mean of all of absmax, summed in float32 or in float64, as you like. It is taken away
            from every maximum first.
        scales: (n / block_size rounded up,) float32: what is left is cut into blocks of block_size consecutive
            maxima, the last of which may be shorter; the scale is the largest absolute value of each block.
        codes: (n,) uint8: for each maximum the code of the codebook value nearest to (maximum - offset) / scale.
        restored: (n,) float32: codebook[code] * scale + offset.
    When all maxima of a block equal the offset exactly (as with n = 1), its scale is 0, and its codes are the i with
        codebook[i] = 0.
    No case has a value on the border between two codes. absmax itself is not changed.
    Source: Dettmers et al. 2023, arXiv:2305.14314, section 3, "Double Quantization"; quantize_4bit of bitsandbytes.
    """
    count, offset = absmax.numel(), absmax.mean()
    blocks = F.pad(absmax - offset, (0, -count % block_size)).reshape(-1, block_size)
    scales = blocks.abs().amax(dim=1)
    borders = (codebook[1:] + codebook[:-1]) / 2
    codes = torch.bucketize(blocks / scales.clamp_min(1e-38).unsqueeze(1), borders).flatten()[:count]
    restored = codebook[codes] * scales.repeat_interleave(block_size)[:count] + offset
    return codes.to(torch.uint8), scales, offset, restored


@exercise.alternative
def block_after_block(absmax: Tensor, codebook: Tensor, block_size: int = 256) -> tuple[Tensor, ...]:
    mean = absmax.sum() / len(absmax)
    codes, scales, restored = [], [], []
    for part in (absmax - mean).split(block_size):
        scale = part.abs().max()
        scaled = torch.where(scale > 0, part / scale, part)
        nearest = (scaled.unsqueeze(-1) - codebook).abs().argmin(-1)
        codes.append(nearest)
        scales.append(scale)
        restored.append(torch.addcmul(mean, codebook[nearest], scale))
    return torch.cat(codes).to(torch.uint8), torch.stack(scales), mean, torch.cat(restored)


@exercise.alternative
def by_insertion(absmax: Tensor, codebook: Tensor, block_size: int = 256) -> tuple[Tensor, ...]:
    offset = torch.tensor(absmax.double().mean().item())
    block = torch.arange(absmax.numel()).div(block_size, rounding_mode="floor")
    left = absmax - offset
    scales = torch.zeros(int(block.max()) + 1).index_reduce(0, block, left.abs(), "amax")
    scaled = (left / scales[block]).nan_to_num(0.0)
    above = torch.searchsorted(codebook, scaled).clamp(1, 255)
    lower_is_nearer = scaled - codebook[above - 1] <= codebook[above] - scaled
    codes = above - lower_is_nearer.long()
    return codes.byte(), scales, offset, codebook[codes].mul(scales[block]).add(offset)


def quantised(
    absmax: Tensor,
    codebook: Tensor,
    block_size: int,
    offset: Tensor | None = None,
    nearest: Callable[[Tensor], Tensor] | None = None,
    largest: Callable[[Tensor], Tensor] = lambda part: part.abs().max(),
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The right way, with another offset, look-up or scale."""
    offset = absmax.mean() if offset is None else offset
    left = absmax - offset
    scales = torch.stack([largest(part) for part in left.split(block_size)])
    scale = scales.repeat_interleave(block_size)[: left.numel()]
    find = nearest or (lambda x: (x.unsqueeze(1) - codebook).abs().argmin(1))
    codes = find(left / torch.where(scale == 0, torch.ones(()), scale))
    return codes.to(torch.uint8), scales, offset, codebook[codes.long().clamp(0, 255)] * scale + offset


@exercise.misconception(
    hint="You did not take the mean away first. All maxima are positive, so half of the 256 codes are never used, and "
    "the steps are coarse just where the maxima are."
)
def mean_not_taken_away(absmax: Tensor, codebook: Tensor, block_size: int = 256) -> tuple[Tensor, ...]:
    return quantised(absmax, codebook, block_size, offset=torch.zeros(()))


@exercise.misconception(
    hint="The codes are right. What you read back lacks the mean that was taken away: all maxima come out too small by "
    "the same amount."
)
def mean_not_put_back(absmax: Tensor, codebook: Tensor, block_size: int = 256) -> tuple[Tensor, ...]:
    codes, scales, offset, _ = quantised(absmax, codebook, block_size)
    return codes, scales, offset, codebook[codes.long()] * scales.repeat_interleave(block_size)[: len(codes)]


@exercise.misconception(
    hint="The codes are right. In what you read back the mean is added before the scale is multiplied, so it is "
    "scaled, too. It was taken away first; put it back last."
)
def mean_put_back_too_early(absmax: Tensor, codebook: Tensor, block_size: int = 256) -> tuple[Tensor, ...]:
    codes, scales, offset, _ = quantised(absmax, codebook, block_size)
    restored = (codebook[codes.long()] + offset) * scales.repeat_interleave(block_size)[: len(codes)]
    return codes, scales, offset, restored


@exercise.misconception(
    hint="You return the right mean and add it in the end, but it was never taken away from the maxima: scales and "
    "codes are those of the maxima as they came."
)
def mean_returned_only(absmax: Tensor, codebook: Tensor, block_size: int = 256) -> tuple[Tensor, ...]:
    codes, scales, _, restored = quantised(absmax, codebook, block_size, offset=torch.zeros(()))
    return codes, scales, absmax.mean(), restored + absmax.mean()


@exercise.misconception(
    hint="The mean is right, the scales are not: they are the largest maxima of each block as they came. The scale is "
    "to be that of what is left once the mean is gone."
)
def scale_of_what_came(absmax: Tensor, codebook: Tensor, block_size: int = 256) -> tuple[Tensor, ...]:
    scales = iter([part.max() for part in absmax.split(block_size)])
    return quantised(absmax, codebook, block_size, largest=lambda part: next(scales))


@exercise.misconception(
    hint="You took the median away. Both sit in the middle, but the one asked for, and stored by the library, is the "
    "mean."
)
def median_taken_away(absmax: Tensor, codebook: Tensor, block_size: int = 256) -> tuple[Tensor, ...]:
    return quantised(absmax, codebook, block_size, offset=absmax.median())


@exercise.misconception(
    hint="You took the smallest maximum away, not the mean. Then everything is on one side of 0, and half of the table "
    "is never used."
)
def smallest_taken_away(absmax: Tensor, codebook: Tensor, block_size: int = 256) -> tuple[Tensor, ...]:
    return quantised(absmax, codebook, block_size, offset=absmax.min())


@exercise.misconception(
    hint="You took a mean for each block of maxima. There is one offset for the whole tensor; only the scales go by "
    "block."
)
def mean_of_each_block(absmax: Tensor, codebook: Tensor, block_size: int = 256) -> tuple[Tensor, ...]:
    means = torch.stack([part.mean() for part in absmax.split(block_size)])
    codes, scales, _, restored = quantised(
        absmax, codebook, block_size, offset=means.repeat_interleave(block_size)[: len(absmax)]
    )
    return codes, scales, means if len(means) > 1 else means[0], restored


@exercise.misconception(
    hint="You return one mean for all, but from each block you took a mean of its own away. Only the scales go by "
    "block."
)
def mean_of_each_block_within(absmax: Tensor, codebook: Tensor, block_size: int = 256) -> tuple[Tensor, ...]:
    codes, scales, _, restored = mean_of_each_block(absmax, codebook, block_size)
    return codes, scales, absmax.mean(), restored


@exercise.misconception(
    hint="Your mean counts the zeros that fill up the last block, so it comes out too small. Take it before you pad."
)
def mean_with_padding(absmax: Tensor, codebook: Tensor, block_size: int = 256) -> tuple[Tensor, ...]:
    padded = F.pad(absmax, (0, -absmax.numel() % block_size))
    return quantised(absmax, codebook, block_size, offset=padded.mean())


@exercise.misconception(
    hint="The last block's scale is too large: you padded with zeros first and took the mean away from the padding, "
    "too. Take the mean away, then pad."
)
def padded_before_the_mean_went(absmax: Tensor, codebook: Tensor, block_size: int = 256) -> tuple[Tensor, ...]:
    count = absmax.numel()
    padded = F.pad(absmax, (0, -count % block_size))
    codes, scales, offset, restored = quantised(padded, codebook, block_size, offset=absmax.mean())
    return codes[:count], scales, offset, restored[:count]


@exercise.misconception(
    hint="Your blocks have 64 maxima. 64 is the number of weights that share a maximum; here block_size maxima share a "
    "scale."
)
def blocks_of_64(absmax: Tensor, codebook: Tensor, block_size: int = 256) -> tuple[Tensor, ...]:
    return quantised(absmax, codebook, 64)


@exercise.misconception(
    hint="Your blocks always have 256 maxima. That is only the default: the argument block_size says how many share a "
    "scale."
)
def blocks_of_256(absmax: Tensor, codebook: Tensor, block_size: int = 256) -> tuple[Tensor, ...]:
    return quantised(absmax, codebook, 256)


@exercise.misconception(
    hint="You rounded to evenly spaced positions of the table, as if its values were evenly spaced. They lie densely "
    "around 0: the code is the position of the nearest value."
)
def evenly_spaced_positions(absmax: Tensor, codebook: Tensor, block_size: int = 256) -> tuple[Tensor, ...]:
    return quantised(absmax, codebook, block_size, nearest=lambda x: (x * 127).round().long() + 127)


@exercise.misconception(
    hint="Your codes are evenly spaced whole numbers, as in absmax_int8. The codes asked for are positions in "
    "`codebook`, whose values lie densely around 0."
)
def evenly_spaced_codes(absmax: Tensor, codebook: Tensor, block_size: int = 256) -> tuple[Tensor, ...]:
    codes, scales, offset, _ = quantised(absmax, codebook, block_size, nearest=lambda x: (x * 127 + 128).round())
    scale = scales.repeat_interleave(block_size)[: len(codes)]
    return codes, scales, offset, (codes.float() - 128) / 127 * scale + offset


@exercise.misconception(
    hint="You take the table value at or above, not the nearest one. The border between two codes lies halfway between "
    "their values."
)
def rounded_up(absmax: Tensor, codebook: Tensor, block_size: int = 256) -> tuple[Tensor, ...]:
    return quantised(absmax, codebook, block_size, nearest=lambda x: torch.bucketize(x, codebook).clamp_max(255))


@exercise.misconception(
    hint="You take the table value at or below, not the nearest one. The border between two codes lies halfway between "
    "their values."
)
def rounded_down(absmax: Tensor, codebook: Tensor, block_size: int = 256) -> tuple[Tensor, ...]:
    down = lambda x: (torch.searchsorted(codebook, x, right=True) - 1).clamp(0, 255)  # noqa: E731
    return quantised(absmax, codebook, block_size, nearest=down)


@exercise.misconception(
    hint="The scale is the largest value that is left, not the largest absolute value. Once the mean is gone, the "
    "values have both signs."
)
def sign_not_dropped(absmax: Tensor, codebook: Tensor, block_size: int = 256) -> tuple[Tensor, ...]:
    return quantised(absmax, codebook, block_size, largest=lambda part: part.max())


@exercise.misconception(
    hint="One scale for all maxima. They come in blocks of block_size, and each block has a scale of its own."
)
def one_scale(absmax: Tensor, codebook: Tensor, block_size: int = 256) -> tuple[Tensor, ...]:
    return quantised(absmax, codebook, absmax.numel())


@exercise.misconception(
    hint="All your blocks have the same scale, that of all maxima. Each block of block_size has a scale of its own."
)
def one_scale_repeated(absmax: Tensor, codebook: Tensor, block_size: int = 256) -> tuple[Tensor, ...]:
    codes, scale, offset, restored = one_scale(absmax, codebook)
    return codes, scale.repeat(-(-len(absmax) // block_size)), offset, restored


@exercise.misconception(
    hint="When all maxima are equal you divide 0 by 0. The position of the smallest of many NaNs is 0, so they get "
    "code 0, which stands for about -1. The code has to be that of 0."
)
def zeros_get_the_first_code(absmax: Tensor, codebook: Tensor, block_size: int = 256) -> tuple[Tensor, ...]:
    codes, scales, offset, restored = quantised(absmax, codebook, block_size)
    return codes.where(scales.repeat_interleave(block_size)[: len(codes)] > 0, 0), scales, offset, restored


@exercise.misconception(
    hint="You wrote down the code of 0 as 127. It is 127 in bitsandbytes' dynamic table; another table may have its 0 "
    "elsewhere. Look it up."
)
def code_of_zero_written_down(absmax: Tensor, codebook: Tensor, block_size: int = 256) -> tuple[Tensor, ...]:
    codes, scales, offset, restored = quantised(absmax, codebook, block_size)
    return codes.where(scales.repeat_interleave(block_size)[: len(codes)] > 0, 127), scales, offset, restored


@exercise.misconception(
    hint="When all maxima are equal you divide 0 by 0, and NaN gets an arbitrary code. The code has to be that of 0."
)
def zeros_divided_by_zero(absmax: Tensor, codebook: Tensor, block_size: int = 256) -> tuple[Tensor, ...]:
    codes, scales, offset, restored = quantised(absmax, codebook, block_size)
    return codes.where(scales.repeat_interleave(block_size)[: len(codes)] > 0, 255), scales, offset, restored


def dynamic_codebook() -> Tensor:
    """The 256 values of bitsandbytes' 8-bit dynamic format."""
    from bitsandbytes.functional import create_dynamic_map

    return create_dynamic_map()


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    table = dynamic_codebook()

    def case(name: str, about: str, count: int, block_size: int = 256, visible: bool = True, **rest: float) -> Case:
        random = torch.Generator().manual_seed(seed + count)
        maxima = 0.05 + 0.02 * torch.randn(count, generator=random).abs()
        maxima[count // 3 :] *= rest.get("growth", 1.0)
        maxima = clear_maxima(maxima, table, block_size)
        return Case(name, {"absmax": maxima, "codebook": table, "block_size": block_size}, about, visible)

    yield case("one short block", "on one block that is not full", 40)
    yield case("two blocks", "on more maxima than one block holds", 300 + seed % 50, growth=3.0)
    equal = {"absmax": torch.full((4,), 0.0625), "codebook": table, "block_size": 256}
    yield Case("all equal", equal, "when all maxima are equal")
    shifted = torch.cat([torch.linspace(-1, 0, 101), torch.linspace(0, 1, 156)[1:]])
    elsewhere = {"absmax": torch.full((5,), 0.125), "codebook": shifted, "block_size": 256}
    yield Case("another table", elsewhere, "when all maxima are equal and the table's 0 is code 100", visible=False)
    yield case("full blocks", "when the last block is full", 512, visible=False, growth=0.5)
    yield case("small blocks", "with blocks of 64", 150 + seed % 11, 64, visible=False, growth=2.0)


def clear_maxima(maxima: Tensor, table: Tensor, block_size: int) -> Tensor:
    """`maxima`, those near the border of two codes moved on to the value of a code, until none is near.

    Near is a tenth of the gap between the two values, or within 0.002 of 0, where the gaps are as small as rounding.
    """
    block = torch.arange(len(maxima)) // block_size
    borders, gaps = (table[1:].double() + table[:-1]) / 2, table.double().diff()
    for _ in range(100):
        left = maxima.double() - maxima.double().mean()
        scale = torch.stack([part.abs().max() for part in left.split(block_size)])[block]
        distance, border = (left.unsqueeze(1) / scale.unsqueeze(1) - borders).abs().min(dim=1)
        near, tiny = distance < 0.1 * gaps[border], left.abs() < 0.002 * scale
        if not (near | tiny).any():
            return maxima
        moved = torch.where(tiny, maxima + 0.02 * scale, maxima + (0.3 * gaps[border]) * scale)
        maxima = torch.where(near | tiny, moved, maxima).float()
    raise RuntimeError("no maxima without a coin toss were found for this seed")


NAMES = ("codes", "scales", "offset", "restored")


@exercise.probe
def probe(answer: Callable[..., tuple], absmax: Tensor, codebook: Tensor, block_size: int) -> dict[str, Tensor]:
    """Names what comes back."""
    return named(answer(absmax, codebook, block_size), *NAMES)


@exercise.oracle
def oracle(absmax: Tensor, codebook: Tensor, block_size: int) -> dict[str, Tensor]:
    from bitsandbytes.functional import quantize_blockwise

    offset = absmax.mean()  # these two lines are those of bitsandbytes' quantize_4bit with compress_statistics
    codes, state = quantize_blockwise(absmax - offset, code=codebook, blocksize=block_size)
    scale = state.absmax.repeat_interleave(block_size)[: len(codes)]
    # Where the scale is 0 every code decodes to the offset; bitsandbytes happens to store 0 there.
    codes = codes.where(scale > 0, int(codebook.abs().argmin()))
    restored = state.code[codes.long()] * scale + offset
    # In the order in which mistakes arise.
    return {"offset": offset, "scales": state.absmax, "codes": codes, "restored": restored}
