"""The two block formats of the base model's file: Q4_1 and Q8_0 of llama.cpp's GGUF (ggml-common.h, block_q4_1).

Worked number: 32 weights in Q4_1 are 2 + 2 + 16 = 20 bytes, 5 bits a weight; in Q8_0 they are 2 + 32 = 34 bytes, 8.5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l08-gguf-dequantise",
    title="Read the blocks of a real model file",
    points=4,
    minutes=20,
    difficulty="medium",
    importance="core",
    skills=("quantisation", "pytorch"),
    hints=(
        "Make the bytes a table first: one row a block, 20 or 34 columns. Each part of a block is then a slice.",
        "Two bytes become one float16 without any arithmetic: `view` with a dtype reads the same bytes as other "
        "numbers. It wants them side by side, so clone a slice first. It also turns uint8 into int8.",
        "A 4-bit code is what is left of a byte after shifting it right by four, or after masking all but its low "
        "four bits. Which 16 weights come first?",
    ),
    forbidden=("gguf", "transformers"),
    group_points={"Q4_1": 3, "Q8_0": 1},
    library_note="llama.cpp never writes these weights out: its kernels multiply straight from the blocks. Its newer "
    "K-quants (Q4_K) put 8 blocks of 32 into a super-block of 256 whose scales and minima are themselves 6-bit codes: "
    "double quantisation, which you meet below. There the minimum is subtracted instead of added.",
    interview="What is in a GGUF Q4_1 block, and why is a '4-bit' file 5 bits a weight?",
)


@exercise.reference
def gguf_dequantise(raw: Tensor, kind: str) -> Tensor:
    """The weights of one tensor of a GGUF file, float32.

    raw: uint8, shape (..., bytes of a row): any number of dimensions in front, also none. A row is one block of bytes
        after another; each block holds 32 weights, and a row of the result is the weights of its blocks in order, 32
        for each. Result: (..., weights of a row), the same dimensions in front.
    kind: one of two, "Q4_1" or "Q8_0".
    kind "Q4_1", 20 bytes a block:
        bytes 0-1: scale; bytes 2-3: minimum; both float16, little-endian (as every usual machine has them);
        bytes 4-19: 32 codes of four bits, 0 to 15. The LOW half of byte 4 + i is the code of weight i, its HIGH half
        that of weight i + 16, for i = 0 .. 15. weight = scale * code + minimum.
    kind "Q8_0", 34 bytes a block:
        bytes 0-1: scale, float16, little-endian; bytes 2-33: 32 codes, one signed byte each (int8).
        weight = scale * code.

    Scale and minimum become float32 first; all arithmetic is in float32. raw is not changed.
    Source: ggml-common.h and ggml-quants.c of llama.cpp, dequantize_row_q4_1 and dequantize_row_q8_0.
    """
    blocks = raw.reshape(-1, 20 if kind == "Q4_1" else 34)
    scale = blocks[:, 0:2].clone().view(torch.float16).float()
    if kind == "Q8_0":
        weights = scale * blocks[:, 2:].view(torch.int8).float()
    else:
        minimum = blocks[:, 2:4].clone().view(torch.float16).float()
        payload = blocks[:, 4:]
        codes = torch.cat([payload & 0x0F, payload >> 4], dim=1)
        weights = scale * codes.float() + minimum
    return weights.reshape(*raw.shape[:-1], -1)


@exercise.alternative
def structured_numpy(raw: Tensor, kind: str) -> Tensor:
    fields = [("d", "<f2"), ("m", "<f2"), ("q", "u1", 16)] if kind == "Q4_1" else [("d", "<f2"), ("q", "i1", 32)]
    blocks = np.frombuffer(raw.numpy().tobytes(), dtype=np.dtype(fields))
    step = blocks["d"].astype(np.float32)[:, None]
    if kind == "Q4_1":
        values = np.hstack([blocks["q"] % 16, blocks["q"] // 16]) * step + blocks["m"].astype(np.float32)[:, None]
    else:
        values = blocks["q"] * step
    return torch.from_numpy(values.astype(np.float32)).reshape(*raw.shape[:-1], -1)


@exercise.alternative
def byte_by_byte(raw: Tensor, kind: str) -> Tensor:
    size, head = (20, 4) if kind == "Q4_1" else (34, 2)
    table = raw.reshape(-1, size).cpu().numpy()
    result = np.empty((len(table), 32), dtype=np.float32)
    for block, weights in zip(table, result, strict=True):
        numbers = np.frombuffer(block[:head].tobytes(), dtype="<f2").astype(np.float32)
        for i, byte in enumerate(block[head:].tolist()):
            if kind == "Q8_0":
                weights[i] = numbers[0] * np.float32(byte - 256 if byte > 127 else byte)
            else:
                high, low = divmod(byte, 16)
                weights[i], weights[i + 16] = numbers[0] * np.float32(low), numbers[0] * np.float32(high)
        if kind == "Q4_1":
            weights += numbers[1]
    return torch.from_numpy(result).reshape(*raw.shape[:-1], -1).to(raw.device)


Decoder = Callable[[Tensor, Tensor, Tensor], Tensor]


def q4_1(scale: Tensor, minimum: Tensor, payload: Tensor) -> Tensor:
    """The right weights of Q4_1 blocks, for wrong answers that go astray elsewhere."""
    return scale * low_then_high(payload) + minimum


def low_then_high(payload: Tensor) -> Tensor:
    """The 32 codes of each block, float32."""
    return torch.cat([payload % 16, payload // 16], dim=1).float()


def signed(payload: Tensor) -> Tensor:
    """Bytes as signed numbers, float32."""
    return payload.contiguous().view(torch.int8).float()


def decoded(
    raw: Tensor, kind: str, four: Decoder = q4_1, eight: Decoder = lambda d, _, q: d * signed(q), half=torch.float16
) -> Tensor:
    """Blocks taken apart rightly, and put together by `four` or `eight`."""
    blocks, head = (raw.reshape(-1, 20), 4) if kind == "Q4_1" else (raw.reshape(-1, 34), 2)
    numbers = blocks[:, :head].contiguous().view(half).float()
    put = four if kind == "Q4_1" else eight
    return put(numbers[:, :1], numbers[:, -1:], blocks[:, head:]).float().reshape(*raw.shape[:-1], -1)


@exercise.misconception(
    hint="The two halves of each byte have changed places: weights 0-15 of your Q4_1 blocks are its weights 16-31. "
    "Which half holds the first sixteen?"
)
def high_half_first(raw: Tensor, kind: str) -> Tensor:
    return decoded(raw, kind, lambda d, m, q: d * low_then_high(q).roll(16, dims=1) + m)


@exercise.misconception(
    hint="You put the two codes of a byte side by side. In Q4_1 they are 16 weights apart: all low halves come first, "
    "then all high ones. (bitsandbytes does put neighbours into one byte, and the high half first.)"
)
def neighbours_in_a_byte(raw: Tensor, kind: str) -> Tensor:
    return decoded(raw, kind, lambda d, m, q: d * torch.stack([q % 16, q // 16], dim=2).flatten(1).float() + m)


@exercise.misconception(
    hint="You read the bytes as bitsandbytes packs them: neighbours in one byte, the high half first. In Q4_1 the low "
    "half comes first, and the two codes of a byte are 16 weights apart."
)
def packed_as_in_bitsandbytes(raw: Tensor, kind: str) -> Tensor:
    return decoded(raw, kind, lambda d, m, q: d * torch.stack([q // 16, q % 16], dim=2).flatten(1).float() + m)


@exercise.misconception(hint="The minimum is left out: code 0 gives you 0. In Q4_1 code 0 stands for the minimum.")
def minimum_ignored(raw: Tensor, kind: str) -> Tensor:
    return decoded(raw, kind, lambda d, m, q: d * low_then_high(q))


@exercise.misconception(
    hint="You subtract the minimum. llama.cpp's newer K-quants do that; in Q4_1 it is what code 0 stands for, sign "
    "and all."
)
def minimum_subtracted(raw: Tensor, kind: str) -> Tensor:
    return decoded(raw, kind, lambda d, m, q: d * low_then_high(q) - m)


@exercise.misconception(
    hint="You centre the codes by taking 8 away. That is Q4_0, the symmetric format without a minimum. Q4_1 is "
    "asymmetric: its codes count upwards from the minimum."
)
def centred_as_in_q4_0(raw: Tensor, kind: str) -> Tensor:
    return decoded(raw, kind, lambda d, m, q: d * (low_then_high(q) - 8))


@exercise.misconception(
    hint="You centre the codes by taking 8 away, and add the minimum as well. Either alone places the block; in Q4_1 "
    "it is the minimum."
)
def centred_and_minimum(raw: Tensor, kind: str) -> Tensor:
    return decoded(raw, kind, lambda d, m, q: d * (low_then_high(q) - 8) + m)


@exercise.misconception(hint="You read the 4-bit codes of Q4_1 as signed numbers, -8 to 7. They are unsigned, 0 to 15.")
def four_bits_signed(raw: Tensor, kind: str) -> Tensor:
    return decoded(raw, kind, lambda d, m, q: d * (low_then_high(q) - 16 * (low_then_high(q) > 7)) + m)


@exercise.misconception(hint="Scale and minimum have changed places: in a Q4_1 block the scale comes first.")
def scale_and_minimum_swapped(raw: Tensor, kind: str) -> Tensor:
    return decoded(raw, kind, lambda d, m, q: q4_1(m, d, q))


@exercise.misconception(
    hint="Right, but in half precision: scale and minimum were still float16 when you multiplied and added, and each "
    "weight lost all but three digits. Widen them to float32 before any arithmetic."
)
def arithmetic_in_float16(raw: Tensor, kind: str) -> Tensor:
    return decoded(
        raw,
        kind,
        lambda d, m, q: d.half() * low_then_high(q).half() + m.half(),
        lambda d, _, q: d.half() * signed(q).half(),
    )


@exercise.misconception(
    hint="You read the half-precision numbers as bfloat16. Both have 16 bits, but other widths for exponent and "
    "fraction."
)
def halves_as_bfloat16(raw: Tensor, kind: str) -> Tensor:
    return decoded(raw, kind, half=torch.bfloat16)


@exercise.misconception(
    hint="The two bytes of each half-precision number are the wrong way round: GGUF is little-endian, the low byte "
    "comes first."
)
def big_endian(raw: Tensor, kind: str) -> Tensor:
    blocks = raw.clone().reshape(-1, 20 if kind == "Q4_1" else 34)
    order = [1, 0, 3, 2] if kind == "Q4_1" else [1, 0]
    blocks[:, : len(order)] = blocks[:, order]
    return decoded(blocks.reshape(raw.shape), kind)


@exercise.misconception(
    hint="In Q8_0 you read the codes as 0 to 255, so negative weights come out large and positive. The bytes are "
    "signed."
)
def eight_bits_unsigned(raw: Tensor, kind: str) -> Tensor:
    return decoded(raw, kind, eight=lambda d, _, q: d * q.float())


@exercise.misconception(
    hint="In Q8_0 you take 128 away from bytes of 0 to 255. They are signed in another way (two's complement): 255 "
    "means -1. Read the same bytes as int8."
)
def eight_bits_minus_128(raw: Tensor, kind: str) -> Tensor:
    return decoded(raw, kind, eight=lambda d, _, q: d * (q.float() - 128))


@exercise.misconception(
    hint="In Q8_0 you divide by 127. GGUF stores the step between two codes, not the largest absolute value: the 127 "
    "is already in it."
)
def eight_bits_divided_by_127(raw: Tensor, kind: str) -> Tensor:
    return decoded(raw, kind, eight=lambda d, _, q: d * signed(q) / 127)


@exercise.misconception(
    hint="You add the minimum to the code and then multiply by the scale. The minimum is a weight already: the scale "
    "belongs to the code alone."
)
def minimum_inside(raw: Tensor, kind: str) -> Tensor:
    return decoded(raw, kind, lambda d, m, q: d * (low_then_high(q) + m))


@exercise.misconception(
    hint="Weights 0-15 of each Q4_1 block are much too large: you took whole bytes, 0 to 255, for low halves. The high "
    "half is still in them."
)
def low_half_not_masked(raw: Tensor, kind: str) -> Tensor:
    return decoded(raw, kind, lambda d, m, q: d * torch.cat([q, q // 16], dim=1).float() + m)


@exercise.misconception(
    hint="Weights 16-31 of each Q4_1 block are much too large: their high halves were cut out but not moved down, so "
    "their codes are 16 times too large."
)
def high_half_not_moved_down(raw: Tensor, kind: str) -> Tensor:
    return decoded(raw, kind, lambda d, m, q: d * torch.cat([q % 16, q // 16 * 16], dim=1).float() + m)


@exercise.misconception(
    hint="Your codes of Q4_1 begin two bytes too early: the bytes of the minimum are taken for codes, and the last two "
    "bytes of the block are never read."
)
def codes_begin_at_byte_2(raw: Tensor, kind: str) -> Tensor:
    if kind == "Q8_0":
        return decoded(raw, kind)
    blocks = raw.reshape(-1, 20)
    return decoded(torch.cat([blocks[:, :4], blocks[:, 2:18]], dim=1).reshape(raw.shape), kind)


@exercise.misconception(
    hint="The first block of a row is right, the others are not: you use its scale (and minimum) for the whole row. "
    "Every block carries its own."
)
def first_scale_for_the_row(raw: Tensor, kind: str) -> Tensor:
    size, head = (20, 4) if kind == "Q4_1" else (34, 2)
    blocks = raw.unflatten(-1, (-1, size))
    front = blocks[..., :1, :head].expand(*blocks.shape[:-1], head)
    return decoded(torch.cat([front, blocks[..., head:]], dim=-1).flatten(-2), kind)


@exercise.misconception(
    hint="You put all low halves of the row first, then all high ones. Each block is complete in itself: its 32 "
    "weights stand together."
)
def halves_of_the_whole_row(raw: Tensor, kind: str) -> Tensor:
    weights = decoded(raw, kind).unflatten(-1, (-1, 32))
    if kind == "Q4_1":
        weights = torch.cat([weights[..., :16].flatten(-2), weights[..., 16:].flatten(-2)], dim=-1).unsqueeze(-1)
    return weights.flatten(-2)


@exercise.misconception(
    hint="You turned the two bytes of scale and minimum into a whole number. They are the bits of a float16: the same "
    "bytes have to be read as another type."
)
def bytes_as_a_number(raw: Tensor, kind: str) -> Tensor:
    return decoded(raw, kind, half=torch.uint16)


@exercise.misconception(
    hint="You took all scales from the front of the tensor. Each block carries its own: 20 bytes (or 34) hold one "
    "block completely, and then the next block begins."
)
def scales_all_in_front(raw: Tensor, kind: str) -> Tensor:
    size, head = (20, 4) if kind == "Q4_1" else (34, 2)
    flat, count = raw.flatten(), raw.numel() // size
    front, payload = flat[: head * count], flat[head * count :].reshape(count, -1)
    per_kind = front.reshape(head // 2, count, 2).transpose(0, 1).reshape(count, head)
    return decoded(torch.cat([per_kind, payload], dim=1).reshape(raw.shape), kind)


@exercise.misconception(
    hint="You take raw for a matrix: the first dimension stays, and all others are run together. A tensor may have "
    "more dimensions, or one alone, which is then a single row. Only the last one changes."
)
def leading_dimensions_run_together(raw: Tensor, kind: str) -> Tensor:
    return decoded(raw, kind).reshape(raw.shape[0], -1)


@exercise.misconception(
    hint="You always return a matrix: all dimensions in front of the last are run together into rows, and a single row "
    "gets one that it did not have. All of them stay as they are; only the last one changes."
)
def always_a_matrix(raw: Tensor, kind: str) -> Tensor:
    return decoded(raw, kind).reshape(raw.numel() // raw.shape[-1], -1)


def blocks_of(seed: int, shape: tuple[int, ...], kind: str, shift: float = 0.0, size: float = 0.05) -> Tensor:
    """The bytes that gguf writes for random weights of that shape."""
    from gguf import GGMLQuantizationType, quants

    random = torch.Generator().manual_seed(seed)
    weights = torch.randn(shape, generator=random) * size * (0.2 + torch.rand(*shape[:-1], 1, generator=random)) + shift
    return torch.from_numpy(quants.quantize(weights.numpy(), GGMLQuantizationType[kind]))


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    def case(name: str, about: str, raw: Tensor, kind: str, visible: bool = True) -> Case:
        return Case(name, {"raw": raw, "kind": kind}, about, visible, group=kind)

    rows = 3 + seed % 4
    yield case("one Q4_1 block", "on a single Q4_1 block", blocks_of(seed, (1, 32), "Q4_1"), "Q4_1")
    yield case("Q4_1 matrix", "on a Q4_1 matrix", blocks_of(seed + 1, (rows, 96), "Q4_1"), "Q4_1")
    yield case("Q8_0 matrix", "on a Q8_0 matrix", blocks_of(seed + 2, (rows, 64), "Q8_0"), "Q8_0")
    flat = blocks_of(seed + 3, (1, 128), "Q4_1")[0]
    yield case("Q4_1 vector", "when the tensor has one dimension", flat, "Q4_1", visible=False)
    positive = blocks_of(seed + 4, (4, 32), "Q4_1", shift=1.0)
    yield case("positive", "when all weights of a Q4_1 block are positive", positive, "Q4_1", visible=False)
    stacked = blocks_of(seed + 5, (2, 3, 64), "Q8_0", size=1e-3)
    yield case("Q8_0 stack", "when the tensor has three dimensions", stacked, "Q8_0", visible=False)


@exercise.oracle
def oracle(raw: Tensor, kind: str) -> Tensor:
    from gguf import GGMLQuantizationType, quants

    return torch.from_numpy(quants.dequantize(raw.numpy(), GGMLQuantizationType[kind]))
