"""NF4 bytes to weights: nibbles, a codebook, block maxima quantised in turn (Dettmers et al. 2023, section 3).

Worked number: byte 0x7F holds codes 7 and 15, codebook values 0.0 and 1.0; with a block maximum of 0.05 the two
weights are 0.0 and 0.05.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l09-nf4-dequantise",
    title="From NF4 bytes back to weights",
    points=4,
    minutes=20,
    difficulty="medium",
    importance="core",
    skills=("quantisation", "qlora"),
    hints=(
        "Work on the flat row of weights first; give it its shape at the very end.",
        "Three look-ups: byte to two codes, code to codebook value, position to the maximum of its block.",
        "With `nested`, `absmax` is itself a row of 8-bit codes: decode it the same way (look up, scale by block), "
        "then add the offset.",
        "A uint8 tensor between brackets is read as a mask of yes and no, not as positions: turn codes into whole "
        "numbers of 64 bits before you look them up.",
    ),
    forbidden=("bitsandbytes",),
    seconds=20.0,
    seconds_reason="importing bitsandbytes cold takes 4 to 8 seconds",
    library_note="bitsandbytes does exactly this inside one kernel, and on the way into the matrix product: the full "
    "weight never lives longer than one layer's forward pass. Its result is rounded to the compute dtype (bfloat16 "
    "or float16) at the end; yours in float32, rounded the same way, is equal bit for bit.",
    interview="What is stored for one NF4 weight, and what does double quantisation save?",
)


@exercise.reference
def nf4_dequantise(
    packed: Tensor,
    shape: tuple[int, int],
    codebook: Tensor,
    absmax: Tensor,
    nested: dict[str, Tensor] | None = None,
    block_size: int = 64,
    nested_block_size: int = 256,
) -> Tensor:
    """Weights of one NF4-quantised matrix, shape `shape`, float32.

    packed: uint8, ceil(n / 2) bytes in any shape, n = rows * columns. Each byte holds two 4-bit codes, the first
        weight in the HIGH four bits. When n is odd the last low half is padding.
    shape: (rows, columns) of the weight matrix, which was flattened row by row before quantising.
    codebook: (16,) float32, the NF4 values.
    absmax: the largest absolute weight of each block of `block_size` consecutive weights of the FLAT matrix (blocks
        run on over the ends of rows; the last may be short). (blocks,) float32 when `nested` is None.
    nested: with double quantisation, `absmax` is (blocks,) uint8 codes, and `nested` holds what turns them into
        numbers: "codebook" (256,) float32, "absmax" float32, one scale for each `nested_block_size` consecutive
        codes, and "offset" float32 (): block maximum = codebook value * scale + offset.

    weight = codebook[code] * block maximum. Source: Dettmers et al. 2023 (arXiv:2305.14314), section 3.
    """
    count = shape[0] * shape[1]
    if nested is not None:
        scales = nested["absmax"].repeat_interleave(nested_block_size)[: absmax.numel()]
        absmax = nested["codebook"][absmax.long()] * scales + nested["offset"]
    high_and_low = torch.stack([packed.flatten() >> 4, packed.flatten() & 0x0F], dim=1)
    codes = high_and_low.flatten()[:count].long()
    return (codebook[codes] * absmax.repeat_interleave(block_size)[:count]).reshape(shape)


def decode(codes: Tensor, codebook: Tensor, scales: Tensor, block_size: int) -> Tensor:
    """Codes (n,) to float32 (n,): look up, times the scale of the block that each position lies in."""
    return codebook[codes.long()] * scales[torch.arange(codes.numel()) // block_size]


@exercise.alternative
def two_decodes(packed, shape, codebook, absmax, nested=None, block_size=64, nested_block_size=256):
    if nested is not None:
        absmax = decode(absmax, nested["codebook"], nested["absmax"], nested_block_size) + nested["offset"]
    codes = torch.empty(packed.numel() * 2, dtype=torch.uint8)
    codes[0::2], codes[1::2] = packed.flatten() // 16, packed.flatten() % 16
    return decode(codes[: shape[0] * shape[1]], codebook, absmax, block_size).view(*shape)


def variant(packed, shape, codebook, absmax, nested, block_size, nested_block_size, low_first=False, offset=True):
    """The shared skeleton of the wrong answers below."""
    if nested is not None:
        absmax = decode(absmax, nested["codebook"], nested["absmax"], nested_block_size)
        absmax = absmax + nested["offset"] if offset else absmax
    halves = [packed.flatten() >> 4, packed.flatten() & 15]
    codes = torch.stack(halves[::-1] if low_first else halves, dim=1).flatten()[: shape[0] * shape[1]]
    return decode(codes, codebook, absmax, block_size).reshape(shape)


@exercise.misconception(
    hint="The two weights of each byte have changed places. Which half of the byte holds the first weight?"
)
def low_nibble_first(packed, shape, codebook, absmax, nested=None, block_size=64, nested_block_size=256):
    return variant(packed, shape, codebook, absmax, nested, block_size, nested_block_size, low_first=True)


@exercise.misconception(
    hint="Block maxima are too small by the same amount everywhere when double quantisation is on. Their mean was "
    "taken away before they were quantised; it must come back."
)
def offset_forgotten(packed, shape, codebook, absmax, nested=None, block_size=64, nested_block_size=256):
    return variant(packed, shape, codebook, absmax, nested, block_size, nested_block_size, offset=False)


@exercise.misconception(
    hint="You read the 16 codes as evenly spaced numbers. NF4 is not an integer format: its 16 values are unevenly "
    "spaced, and `codebook` lists them."
)
def evenly_spaced_codes(packed, shape, codebook, absmax, nested=None, block_size=64, nested_block_size=256):
    even = torch.linspace(-1, 1, 16)
    return variant(packed, shape, even, absmax, nested, block_size, nested_block_size)


@exercise.misconception(
    hint="With double quantisation you multiplied by the 8-bit codes themselves (0 to 255). They are codes, too: "
    "decode them to numbers first."
)
def absmax_codes_as_numbers(packed, shape, codebook, absmax, nested=None, block_size=64, nested_block_size=256):
    return variant(packed, shape, codebook, absmax.float(), None, block_size, nested_block_size)


@exercise.misconception(
    hint="The block maxima's own scales are spread over blocks of the wrong length: weights come in blocks of "
    "`block_size`, maxima in blocks of `nested_block_size`."
)
def nested_block_too_short(packed, shape, codebook, absmax, nested=None, block_size=64, nested_block_size=256):
    if nested is not None:  # clamped, as somebody would who met the index error
        last = nested["absmax"].numel() - 1
        scales = nested["absmax"][(torch.arange(absmax.numel()) // block_size).clamp_max(last)]
        absmax = nested["codebook"][absmax.long()] * scales + nested["offset"]
    return variant(packed, shape, codebook, absmax, None, block_size, nested_block_size)


@exercise.misconception(
    hint="If the error speaks of a mask: torch reads uint8 indices as yes and no, not as positions. Turn codes into "
    "whole numbers of 64 bits first. If an index is out of bounds: count which block each position lies in once more."
)
def bytes_as_indices(packed, shape, codebook, absmax, nested=None, block_size=64, nested_block_size=256):
    halves = torch.stack([packed.flatten() // 16, packed.flatten() % 16], dim=1)
    return codebook[halves.flatten()[: shape[0] * shape[1]]]


@exercise.misconception(
    hint="All first halves come before all second halves. The two weights of a byte are neighbours: weights 0 and 1 "
    "are in byte 0, weights 2 and 3 in byte 1."
)
def halves_one_after_another(packed, shape, codebook, absmax, nested=None, block_size=64, nested_block_size=256):
    count = shape[0] * shape[1]
    halves = torch.cat([packed.flatten() // 16, packed.flatten() % 16])[:count]
    maxima = block_maxima(absmax, nested, nested_block_size)
    return decode(halves, codebook, maxima, block_size).reshape(shape)


@exercise.misconception(
    hint="Your blocks begin anew with each row. They run on over the ends of rows: count positions in the flat matrix."
)
def blocks_restarted_on_each_row(packed, shape, codebook, absmax, nested=None, block_size=64, nested_block_size=256):
    halves = torch.stack([packed.flatten() // 16, packed.flatten() % 16], dim=1).flatten()[: shape[0] * shape[1]]
    row, column = torch.arange(shape[0]).unsqueeze(1), torch.arange(shape[1])
    block = row * -(-shape[1] // block_size) + column // block_size  # more blocks than there are maxima: clamped
    maxima = block_maxima(absmax, nested, nested_block_size)
    return codebook[halves.long()].reshape(shape) * maxima[block.clamp_max(len(maxima) - 1)]


@exercise.misconception(
    hint="You added the offset before the scale, so it is scaled, too. Scale the codebook value first, then add."
)
def offset_scaled(packed, shape, codebook, absmax, nested=None, block_size=64, nested_block_size=256):
    if nested is not None:
        offset = nested["offset"] * nested["absmax"].repeat_interleave(nested_block_size)[: absmax.numel()]
        absmax = decode(absmax, nested["codebook"], nested["absmax"], nested_block_size) + offset
    return variant(packed, shape, codebook, absmax, None, block_size, nested_block_size)


@exercise.misconception(
    hint="You read the 8-bit codes of the maxima as evenly spaced numbers, code / 255. They are codes into the "
    "nested codebook, which is dense around zero and has both signs."
)
def absmax_codes_over_255(packed, shape, codebook, absmax, nested=None, block_size=64, nested_block_size=256):
    even = torch.arange(256) / 255
    changed = None if nested is None else nested | {"codebook": even}
    return variant(packed, shape, codebook, absmax, changed, block_size, nested_block_size)


def block_maxima(absmax: Tensor, nested: dict | None, nested_block_size: int) -> Tensor:
    """The maxima of the blocks as float32, for wrong answers that go astray elsewhere."""
    if nested is None:
        return absmax
    return decode(absmax, nested["codebook"], nested["absmax"], nested_block_size) + nested["offset"]


def quantised(seed: int, rows: int, columns: int, double: bool, block_size: int = 64) -> dict:
    """A random matrix, quantised by bitsandbytes; the second half of its rows ten times larger than the first."""
    from bitsandbytes.functional import quantize_4bit

    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.02
    weight[rows // 2 :] *= 10
    packed, state = quantize_4bit(weight, blocksize=block_size, compress_statistics=double, quant_type="nf4")
    nested = None
    if double:
        nested = {"codebook": state.state2.code, "absmax": state.state2.absmax, "offset": state.offset}
    return {
        "packed": packed,
        "shape": (rows, columns),
        "codebook": state.code,
        "absmax": state.absmax,
        "nested": nested,
        "block_size": block_size,
        "nested_block_size": 256,
    }


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    random_rows = 20 + seed % 13
    yield Case("one_block", quantised(seed, 2, 32, double=False), "when the matrix is one block of 64")
    yield Case("several_blocks", quantised(seed + 1, 8, 96, double=False), "when blocks run over the ends of rows")
    yield Case("double_quantised", quantised(seed + 2, 12, 64, double=True), "with double quantisation")
    yield Case("odd_size", quantised(seed + 3, 3, 5, double=False), "when the number of weights is odd", visible=False)
    yield Case(
        "many_blocks",
        quantised(seed + 4, 330, 64 + seed % 7, double=True),
        "with double quantisation and more than 256 blocks",
        visible=False,
    )
    yield Case(
        "wide_blocks",
        quantised(seed + 5, random_rows, 77, double=True, block_size=128),
        "with blocks of 128 and a short last block",
        visible=False,
    )


@exercise.oracle
def oracle(packed, shape, codebook, absmax, nested, block_size, nested_block_size):
    from bitsandbytes.functional import QuantState, dequantize_4bit

    inner = None
    if nested is not None:
        inner = QuantState(nested["absmax"], code=nested["codebook"], blocksize=nested_block_size, dtype=torch.float32)
    even_count = 2 * packed.numel()
    state = QuantState(
        absmax,
        shape=torch.Size((1, even_count)),
        code=codebook,
        blocksize=block_size,
        quant_type="nf4",
        dtype=torch.float32,
        offset=None if nested is None else nested["offset"],
        state2=inner,
    )
    # One flat row: bitsandbytes 0.50.2's AVX-512 kernel takes wrong maxima when the columns are a multiple of 16 but
    # not of the block size (seen with (8, 96)), and odd widths make it compile a fallback for seconds.
    return dequantize_4bit(packed, state)[0, : shape[0] * shape[1]].reshape(shape)
