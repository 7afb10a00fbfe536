"""Exercise: 4-bit NormalFloat back to numbers, Dettmers et al. 2023 (arXiv:2305.14314)."""

from __future__ import annotations

from collections.abc import Iterator

import bitsandbytes as bnb
import torch
from torch import Tensor

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l02-nf4-dequantise",
    title="4-bit weights back to numbers",
    points=2,
    minutes=10,
    difficulty="medium",
    importance="core",
    skills=("adapters",),
    hints=("Two codes share a byte: which half comes first?",),
)


@exercise.reference
def nf4_dequantise(packed: Tensor, absmax: Tensor, block: int) -> Tensor:
    """packed: (N / 2, 1) uint8, two codes a byte, high half first; absmax: (N / block,); returns (N,) float32."""
    codes = torch.stack([packed.flatten() >> 4, packed.flatten() & 15], dim=1).flatten().long()
    levels = bnb.functional.get_4bit_type("nf4", device="cpu")
    return (levels[codes].view(-1, block) * absmax[:, None]).flatten()


@exercise.alternative
def in_one_line(packed: Tensor, absmax: Tensor, block: int) -> Tensor:
    levels = bnb.functional.get_4bit_type("nf4", device="cpu")
    both = torch.cat([levels[(packed >> 4).long()], levels[(packed & 15).long()]], dim=1)
    return both.flatten() * absmax.repeat_interleave(block)


@exercise.misconception(hint="The two codes of each byte come out in the wrong order.")
def low_half_first(packed: Tensor, absmax: Tensor, block: int) -> Tensor:
    codes = torch.stack([packed.flatten() & 15, packed.flatten() >> 4], dim=1).flatten().long()
    levels = bnb.functional.get_4bit_type("nf4", device="cpu")
    return (levels[codes].view(-1, block) * absmax[:, None]).flatten()


@exercise.misconception(hint="Each block has a scale of its own.")
def one_scale(packed: Tensor, absmax: Tensor, block: int) -> Tensor:
    codes = torch.stack([packed.flatten() >> 4, packed.flatten() & 15], dim=1).flatten().long()
    levels = bnb.functional.get_4bit_type("nf4", device="cpu")
    return levels[codes] * absmax.max() * 1.01


@exercise.misconception(hint="These are the levels of fp4.")
def fp4_levels(packed: Tensor, absmax: Tensor, block: int) -> Tensor:
    codes = torch.stack([packed.flatten() >> 4, packed.flatten() & 15], dim=1).flatten().long()
    levels = bnb.functional.get_4bit_type("fp4", device="cpu")
    return (levels[codes].view(-1, block) * absmax[:, None]).flatten()


@exercise.oracle
def oracle(packed: Tensor, absmax: Tensor, block: int) -> Tensor:
    levels = bnb.functional.get_4bit_type("nf4", device="cpu")
    shape = torch.Size([2 * packed.numel()])
    state = bnb.functional.QuantState(absmax, shape, levels, block, "nf4", torch.float32)
    return bnb.functional.dequantize_4bit(packed, state).flatten()


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    random = torch.Generator().manual_seed(seed)

    def inputs(blocks: int, block: int) -> dict:
        values = torch.randn(blocks * block, generator=random)
        packed, state = bnb.functional.quantize_4bit(values, blocksize=block, quant_type="nf4")
        return {"packed": packed, "absmax": state.absmax, "block": block}

    yield Case("two blocks", inputs(2, 64))
    yield Case("one block", inputs(1, 64), about="with one block")
    yield Case("larger blocks", inputs(4, 128), about="with blocks of 128", visible=False)
    yield Case("a layer", inputs(144, 64), visible=False)
