"""NF4 as bitsandbytes stores it: what this lesson's exercises are compared with."""

from __future__ import annotations

import torch
from torch import Tensor


def library_codebook() -> Tensor:
    """bitsandbytes' 16 NF4 values."""
    from bitsandbytes.functional import get_4bit_type

    return get_4bit_type("nf4", device="cpu")


def library_quantise(weight: Tensor, block_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """(packed, absmax, restored) by bitsandbytes, in the shapes of the exercise nf4_quantise."""
    from bitsandbytes.functional import QuantState, dequantize_4bit, quantize_4bit

    packed, state = quantize_4bit(weight.cpu(), blocksize=block_size, quant_type="nf4")
    # Read back as one flat row, not as a matrix: bitsandbytes 0.50.2's AVX-512 code takes the maximum of a wrong block
    # where a row of a matrix begins in the middle of one, as with (8, 96).
    flat = QuantState(
        state.absmax,
        shape=torch.Size((1, 2 * packed.numel())),
        code=state.code,
        blocksize=block_size,
        quant_type="nf4",
        dtype=torch.float32,
    )
    restored = dequantize_4bit(packed, flat).flatten()[: weight.numel()].reshape(weight.shape)
    return packed.flatten(), state.absmax, restored
